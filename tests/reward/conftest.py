"""Shared fixtures: a judge whose clock is short, and the folder of real problem sets where there is one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from erpo_verl.reward import MathJudge, RewardConfig

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def judge() -> Iterator[MathJudge]:
    """A judge with the default policy whose workers are warm."""
    shared = MathJudge(RewardConfig())
    assert shared.judge(r"\log_2 3", r"\frac{\ln 3}{\ln 2}").right
    yield shared


@pytest.fixture(scope="session")
def impatient() -> Iterator[MathJudge]:
    """A judge that gives a worker one second and remembers nothing."""
    shared = MathJudge(RewardConfig(time_limit_s=1.0, cache_size=0))
    assert shared.judge(r"\log_2 3", r"\frac{\ln 3}{\ln 2}").right
    yield shared


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real problem sets; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("ERPO_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data: set ERPO_TEST_DATA (looked in {folder})")
    return folder


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    except OSError:
        return False
