"""examples/own_method, installed as a package of its own: it trains, is listed, is shown, and a wrong value is refused early."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STEPS = """
import sys
from pathlib import Path
from erpo_verl.cli import main
from trainer_runs import command, save_tiny, write_task

out = Path(sys.argv[1])
data, model = write_task(out / "data"), save_tiny(out / "model")
own = ["algorithm.adv_estimator=first_tokens", "+algorithm.first_tokens.strength=1.5"]
print("KEYS", main(["train", "--keys"]))
print("WRONG", main(["train", *command(out / "wrong", Path("/no/such/model"), data, own[0], "+algorithm.first_tokens.strength=-1")]))
print("TRAIN", main(["train", *command(out / "run", model, data, *own, f"trainer.rollout_data_dir={out / 'rollouts'}", "trainer.total_training_steps=2")]))
print("INSPECT", main(["inspect", str(out / "rollouts" / "step_000002.parquet")]))
print("METHODS", main(["inspect", str(out / "rollouts" / "step_000002.parquet"), "--methods", "grpo", "first_tokens:strength=3"]))
"""


def install_own_method(folder: Path) -> Path:
    """The package under ``folder``, as pip installs it."""
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    source = folder / "source"
    source.mkdir(parents=True)
    for file in (ROOT / "examples" / "own_method").iterdir():  # a build leaves things beside the sources
        if file.is_file():
            (source / file.name).write_text(file.read_text())
    subprocess.run([*pip, "--target", str(folder / "site"), str(source)], check=True, capture_output=True, text=True)
    return folder / "site"


@pytest.fixture(scope="module")
def used(tmp_path_factory):
    """What a user sees who installs the package and uses it, and the folder."""
    folder = tmp_path_factory.mktemp("own")
    site = install_own_method(folder)
    paths = os.pathsep.join([str(site), str(ROOT), str(ROOT / "tests" / "trainer")])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", STEPS, str(folder)],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True, text=True, timeout=600, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done, folder


def test_it_is_two_files():
    assert sorted(file.name for file in (ROOT / "examples" / "own_method").iterdir() if file.is_file()) == ["first_tokens.py", "pyproject.toml"]


def test_its_setting_is_listed_and_a_wrong_value_refused_before_a_model_is_loaded(used):
    done, folder = used
    assert "KEYS 0" in done.stdout and "  algorithm.first_tokens.strength = 1.2\n" in done.stdout
    assert "WRONG 1" in done.stdout and "no/such/model" not in done.stderr
    assert "algorithm.first_tokens.strength = -1: must be a finite number >= 0" in done.stderr
    assert not (folder / "wrong").exists()


def test_it_trains_and_its_metric_is_logged(used):
    done, folder = used
    assert "TRAIN 0" in done.stdout
    lines = [json.loads(line)["data"] for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(0 < line["first_tokens/early_share/mean"] < 1 and "erpo/cdp_share/mean" in line for line in lines[-2:])


def test_its_numbers_are_dumped_and_shown(used):
    import pyarrow.parquet as pq

    done, folder = used
    assert "INSPECT 0" in done.stdout and "METHODS 0" in done.stdout
    for row in pq.read_table(folder / "rollouts" / "step_000002.parquet").to_pylist():
        early = [t < 0.25 * row["length"] for t in range(row["length"])]
        assert row["weight"] == [1.5 if first else 1.0 for first in early]
        assert row["advantage"] == pytest.approx([w * row["outcome_advantage"] for w in row["weight"]], abs=1e-6)
    page = (folder / "rollouts" / "step_000002.html").read_text()
    assert 'data-mode="weight"' in page and "What the outcome&#x27;s advantage is multiplied by." in page.replace("'", "&#x27;")
    assert "first_tokens:strength=3" in (folder / "rollouts" / "step_000002.methods.html").read_text()
