"""metrics.jsonl stays whole over stops and starts, whatever verl's file logger overwrites."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from erpo_verl.recipes.metrics_file import join, joined, keep


def train(step: int, value: float) -> tuple[int, dict]:
    return step, {"critic/score/mean": value}


def validate(step: int, value: float) -> tuple[int, dict]:
    return step, {"val-core/math/acc/mean@4": value}


def write(path: Path, entries, tail: str = "") -> None:
    path.write_text("".join(json.dumps({"step": s, "data": d}) + "\n" for s, d in entries) + tail)


def read(path: Path):
    return [(e["step"], e["data"]) for e in map(json.loads, path.read_text().splitlines())]


def test_a_run_that_was_killed_behind_its_checkpoint_and_went_on(tmp_path):
    """Saved at step 2, killed in step 4; goes on from 2, with the validation before training, to 5."""
    path = tmp_path / "metrics.jsonl"
    keep(path)  # nothing there yet
    write(path, [validate(0, 0.1), train(1, 1.0), train(2, 2.0), train(3, 3.0)], tail='{"step": 4, "da')
    keep(path)
    assert not path.exists()
    write(path, [validate(2, 0.2), train(3, 30.0), train(4, 40.0), train(5, 50.0)])
    join(path)
    assert read(path) == [
        validate(0, 0.1), train(1, 1.0), (2, {"critic/score/mean": 2.0, "val-core/math/acc/mean@4": 0.2}),
        train(3, 30.0), train(4, 40.0), train(5, 50.0),
    ]  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_what_an_earlier_start_did_further_on_is_dropped():
    """The first start reached 5; the second, from a checkpoint at 2, only 3: the weights are the second's."""
    assert [step for step, _ in joined([train(s, 1.0) for s in range(1, 6)], [train(3, 2.0)])] == [1, 2, 3]


def test_several_stops_and_a_kill_before_the_join(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for step in range(1, 5):  # each start does one step and is killed
        keep(path)
        write(path, [train(step, float(step))])
    keep(path)
    join(path)  # a start that wrote nothing
    assert read(path) == [train(s, float(s)) for s in range(1, 5)]
    join(path)
    assert len(read(path)) == 4


def test_a_finished_run_that_is_started_again_only_validates():
    before = [validate(0, 0.1), train(1, 1.0), train(2, 2.0)]
    assert joined(before, [validate(2, 0.3)]) == [
        validate(0, 0.1), train(1, 1.0), (2, {"critic/score/mean": 2.0, "val-core/math/acc/mean@4": 0.3})
    ]  # fmt: skip


def test_a_start_from_scratch_replaces_all():
    assert joined([validate(0, 0.1), train(1, 1.0), train(2, 1.0)], [validate(0, 0.2), train(1, 5.0)]) == [
        validate(0, 0.2), train(1, 5.0)
    ]  # fmt: skip


def test_damage_in_the_middle_is_an_error_and_nothing_is_lost(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "data": {}}\nnonsense\n{"step": 2, "data": {}}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2"):
        keep(path)
    assert path.read_text().count("\n") == 3


def test_the_command(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, [train(1, 1.0)])
    module = [sys.executable, "-m", "erpo_verl.recipes.metrics_file"]
    subprocess.run([*module, "keep", str(path)], check=True, timeout=60)
    assert not path.exists()
    subprocess.run([*module, "join", str(path)], check=True, timeout=60)
    assert read(path) == [train(1, 1.0)]
