"""Checkpoints and the metrics file: whole or not there, found again, damage named."""

import errno
import json
import os
import random
import resource
import subprocess
import sys

import numpy as np
import pytest
import torch

from erpo_verl.runs.metrics import MetricsError
from erpo_verl.trainer import checkpoint
from erpo_verl.trainer.checkpoint import CheckpointError
from erpo_verl.trainer.tracking import MetricsFile

PARTS = {"model": {"w": torch.arange(6.0)}, "extra": {"step": 3, "names": ["a"]}}


def test_saved_and_loaded_and_the_last_kept(tmp_path):
    for step in (1, 2, 10):
        folder = checkpoint.save(tmp_path, step, PARTS, keep=2)
    assert checkpoint.steps(tmp_path) == [2, 10] and folder.name == "global_step_10"
    assert (tmp_path / checkpoint.LATEST).read_text() == "10\n"
    parts = checkpoint.load(checkpoint.find(tmp_path, "auto", None), ["model", "extra"])
    assert torch.equal(parts["model"]["w"], PARTS["model"]["w"]) and parts["extra"] == PARTS["extra"]
    assert not [f for f in tmp_path.iterdir() if f.name.startswith(".")]


def test_extra_files_and_overwriting(tmp_path):
    checkpoint.save(tmp_path, 1, PARTS, keep=None)
    folder = checkpoint.save(tmp_path, 1, PARTS, keep=None, extra_files=lambda f: (f / "note.txt").write_text("x"))
    assert (folder / "note.txt").read_text() == "x" and "note.txt" in json.loads((folder / checkpoint.MANIFEST).read_text())["files"]


def test_finding(tmp_path):
    assert checkpoint.find(tmp_path / "nowhere", "auto", None) is None
    folder = checkpoint.save(tmp_path, 4, PARTS, keep=None)
    assert checkpoint.find(tmp_path, "disable", None) is None
    assert checkpoint.find(tmp_path / "other", "resume_path", str(folder)) == folder
    with pytest.raises(CheckpointError, match="no checkpoint"):
        checkpoint.find(tmp_path, "resume_path", str(tmp_path))


def test_damage_is_named(tmp_path):
    folder = checkpoint.save(tmp_path, 4, PARTS, keep=None)
    data = (folder / "model.pt").read_bytes()
    (folder / "model.pt").write_bytes(data[:-7])
    with pytest.raises(CheckpointError, match=r"model\.pt is damaged .*resume_path"):
        checkpoint.load(folder, ["model"])
    (folder / "model.pt").write_bytes(bytes(len(data)))
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.load(folder, ["model"])
    (folder / checkpoint.MANIFEST).unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.load(folder, ["model"])


def test_killed_in_the_middle_of_writing_leaves_the_older_one(tmp_path):
    """SIGKILL while a part is being written: the folder of that step is not there, the older one is, the rest is cleaned."""
    checkpoint.save(tmp_path, 1, PARTS, keep=None)
    code = f"""
import os, signal, torch
from pathlib import Path
from erpo_verl.runs.metrics import MetricsError
from erpo_verl.trainer import checkpoint
whole = torch.save
def half(part, path):
    whole(part, path)
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[: len(data) // 2])
    os.kill(os.getpid(), signal.SIGKILL)
torch.save = half
checkpoint.save(Path({str(tmp_path)!r}), 2, {{"model": {{"w": torch.zeros(1000)}}}}, keep=1)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert checkpoint.steps(tmp_path) == [1]
    assert any(f.name.startswith(".global_step_2") for f in tmp_path.iterdir())
    checkpoint.clean(tmp_path)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["global_step_1", checkpoint.LATEST]
    assert checkpoint.load(checkpoint.find(tmp_path, "auto", None), ["extra"])["extra"]["step"] == 3


@pytest.fixture
def short_files():
    """Files may have 2,000 bytes and no more: as on a full disk, a write ends early (SIGXFSZ is ignored by Python)."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, old[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_a_full_disk_is_a_clear_error_and_leaves_nothing(tmp_path, short_files):
    with pytest.raises(CheckpointError, match=r"cannot write the checkpoint .*global_step_7.*there is no complete one yet"):
        checkpoint.save(tmp_path, 7, {"model": torch.zeros(100_000)}, keep=None)
    assert checkpoint.steps(tmp_path) == [] and not list(tmp_path.iterdir())


def test_a_model_folder_that_does_not_fit_is_a_clear_error_and_the_older_one_stays(tmp_path, short_files):
    """safetensors has an error of its own for a full disk."""
    from trainer_runs import TOKENIZER, settings_for, tiny_model

    from erpo_verl.trainer import export

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    arguments = (tiny_model(), TOKENIZER, settings_for(), 3, {})
    with pytest.raises(CheckpointError, match=r"cannot write the model .*/model: "):
        export.replace_model(tmp_path / "model", *arguments)
    assert [f.name for f in tmp_path.iterdir()] == ["model"] and (tmp_path / "model" / "config.json").read_text() == "{}"
    with pytest.raises(CheckpointError, match=r"cannot write the checkpoint .*global_step_3"):
        checkpoint.save(tmp_path, 3, {"extra": {}}, keep=None, extra_files=lambda folder: export.write_model(folder / "huggingface", *arguments))
    assert [f.name for f in tmp_path.iterdir()] == ["model"]


def test_the_metrics_file_has_whole_lines_only(tmp_path, short_files):
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path, -1)
    file.write(1, {"a": 1.5, "n": float("nan")})
    file.write(2, {"a": 2})
    before = path.read_bytes()
    with pytest.raises(OSError) as error:
        file.write(3, {f"name {i}": 1.0 for i in range(200)})
    assert error.value.errno in (errno.ENOSPC, errno.EFBIG) and f"cannot write the metrics of step 3 to {path}" in str(error.value)
    assert path.read_bytes() == before
    assert [json.loads(line) for line in before.splitlines()] == [
        {"step": 1, "data": {"a": 1.5, "n": None}}, {"step": 2, "data": {"a": 2}},
    ]  # fmt: skip


def test_a_resumed_run_repeats_no_step_and_drops_a_torn_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0, "data": {}}\n{"step": 1, "data": {}}\n{"step": 2, "data": {}}\n{"step": 3, "da')
    MetricsFile(path, 1).write(2, {"x": 1})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0, 1, 2]


def test_a_damaged_line_in_the_middle_is_named_and_nothing_is_lost(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(content := '{"step": 0, "data": {}}\n{"st\n{"step": 1, "data": {}}\n')
    with pytest.raises(MetricsError, match=r"metrics\.jsonl, line 2"):
        MetricsFile(path, 1)
    assert path.read_text() == content


def test_random_states_come_back(tmp_path):
    checkpoint.save(tmp_path, 1, {"extra": {"random": [checkpoint.random_state()]}}, keep=None)
    drawn = (torch.rand(3).tolist(), random.random(), np.random.rand(3).tolist())
    os.urandom(1)
    state = checkpoint.load(tmp_path / "global_step_1", ["extra"])["extra"]["random"][0]
    checkpoint.set_random_state(state)
    assert (torch.rand(3).tolist(), random.random(), np.random.rand(3).tolist()) == drawn
