"""What the tests of the recipes share: the scripts, their commands, small files for them."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"
MODELS = sorted(path.stem for path in (SCRIPTS / "recipes").glob("*.sh") if path.stem != "defaults")

ARMS = [
    line.split("|")[0].strip()
    for line in (SCRIPTS / "ablations.txt").read_text().splitlines()
    if "|" in line and line[0] != "#"
]


def clean_environment(**variables: str) -> dict[str, str]:
    """An environment without what a developer's shell might set for the recipes."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")
    return {**{name: os.environ[name] for name in kept if name in os.environ}, "PYTHON": sys.executable, **variables}


def command(script: str, *arguments: str, **variables: str) -> list[str]:
    """The overrides that a script hands to ``main_ppo``."""
    done = subprocess.run(
        ["bash", str(SCRIPTS / script), *arguments],
        env=clean_environment(DRY_RUN="print", **variables),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    words = shlex.split(done.stdout.replace("\\\n", ""))
    assert words[:3] == [sys.executable, "-m", "verl.trainer.main_ppo"]
    return words[3:]


def write_problems(path: Path, rows: int) -> Path:
    """A parquet file in verl's schema."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = [{"role": "user", "content": "1 + 1 = ?"}]
    row = {
        "data_source": "sum",
        "prompt": content,
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "2"},
    }
    pq.write_table(pa.Table.from_pylist([row] * rows), path)
    return path
