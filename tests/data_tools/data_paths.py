"""Where the real problem sets lie: ERPO_TEST_DATA, or `shared/data` beside the repository. Tests skip where they are absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("ERPO_TEST_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


def real(name: str) -> Path:
    """The path of a real file; skips the test where it is absent."""
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"no {path}: set ERPO_TEST_DATA to a folder with it")
    return path
