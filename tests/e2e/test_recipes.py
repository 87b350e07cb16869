"""Shell recipes for real, with a tiny model on the CPU: only paths and sizes come from the environment, and the CPU's
overrides from the command line. A pair of recipes; and a sweep that is stopped in the middle of a run and goes on from
that run's checkpoint.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import pytest
from conftest import ROOT, assert_erpo_metrics, read

from erpo_verl.verl_cpu import SWITCH
from erpo_verl.verl_cpu.launch import MARK, marked_processes
from erpo_verl.verl_cpu.overrides import as_arguments

pytestmark = pytest.mark.timeout(1800)
OVERRIDES = [*as_arguments(), "reward.num_workers=1"]


@pytest.fixture
def variables(start, data):
    """The environment of a recipe; whatever was started with it is gone afterwards."""
    scratch = tempfile.mkdtemp(prefix="erpo-", dir="/tmp")  # a socket's path has 107 characters
    mark = uuid.uuid4().hex
    yield {
        **os.environ,
        SWITCH: "1",
        MARK: mark,
        "PYTHON": sys.executable,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "HYDRA_FULL_ERROR": "1",
        "TMPDIR": scratch,
        "RAY_TMPDIR": scratch,
        "VLLM_RPC_BASE_PATH": scratch,
        # Paths.
        "MODEL_PATH": str(start),
        "TRAIN_FILES": str(data / "train.parquet"),
        "VAL_FILES": str(data / "validation.parquet"),
        "LOGGER": '["console","file"]',
        # Sizes.
        "GPUS": "1",
        "TRAIN_BATCH_SIZE": "8",
        "MINI_BATCH_SIZE": "4",
        "MAX_PROMPT_LENGTH": "32",
        "MAX_RESPONSE_LENGTH": "80",
        "UPDATE_TOKENS_PER_GPU": "2048",
        "LOG_PROB_TOKENS_PER_GPU": "4096",
        "LR": "3e-4",
        "VAL_N": "1",
        "SAVE_FREQ": "1",
    }
    end(mark)
    shutil.rmtree(scratch, ignore_errors=True)


def end(mark: str, seconds: float = 20) -> None:
    """Ray's daemons end after their driver; what is left after a while is killed."""
    deadline = time.monotonic() + seconds
    while marked_processes(mark) and time.monotonic() < deadline:
        time.sleep(0.5)
    for pid in marked_processes(mark):
        os.kill(pid, signal.SIGKILL)


def entries(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_pair_of_recipes(variables, tmp_path):
    for name in ("grpo", "erpo"):
        done = subprocess.run(
            ["bash", str(ROOT / "scripts" / f"run_{name}_qwen7b.sh"), *OVERRIDES],
            env={**variables, "RUN_DIR": str(tmp_path / name), "TOTAL_STEPS": "2", "TEST_FREQ": "2"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert "memory is not estimated: trainer.device=cpu" in done.stdout
        assert "Nothing stands against a start." in done.stdout
        assert [entry["step"] for entry in entries(tmp_path / name)] == [0, 1, 2]  # 0: the validation before training
        assert json.loads((tmp_path / name / "run.json").read_text())["arm"] == f"{name}_qwen7b"
        assert (tmp_path / name / "checkpoints" / "latest_checkpointed_iteration.txt").read_text() == "2"
    assert len(read(tmp_path / "grpo")) == len(read(tmp_path / "erpo")) == 2
    assert not any(key.startswith("erpo/") for step in read(tmp_path / "grpo") for key in step)
    assert_erpo_metrics(read(tmp_path / "erpo"))
    assert all(math.isfinite(step["actor/grad_norm"]) for name in ("grpo", "erpo") for step in read(tmp_path / name))


def test_the_lora_recipe(variables, tmp_path):
    """Adapters are trained, the rollouts have them, and the reference is the model without them."""
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / "run.sh"), "erpo", "qwen1.5b_lora", *OVERRIDES],
        env={**variables, "RUN_DIR": str(tmp_path / "run"), "TOTAL_STEPS": "3", "SAVE_FREQ": "-1", "LR": "3e-3"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    steps = read(tmp_path / "run")
    assert len(steps) == 3
    assert_erpo_metrics(steps)
    assert all(step["training/rollout_probs_diff_max"] < 1e-4 for step in steps)


def test_a_sweep_is_stopped_in_the_middle_and_goes_on(variables, tmp_path):
    environment = {
        **variables,
        "ARMS": "anchor_centered",
        "SEEDS": "1",
        "MODEL": "qwen7b",
        "OUT": str(tmp_path),
        "TOTAL_STEPS": "4",
        "TEST_FREQ": "4",
    }
    command = ["bash", str(ROOT / "scripts" / "sweep.sh"), *OVERRIDES]
    run = tmp_path / "anchor_centered-s1"
    saved = run / "checkpoints" / "latest_checkpointed_iteration.txt"
    sweep = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 400
        while not saved.is_file() or len(entries(run)) < 2:
            assert sweep.poll() is None and time.monotonic() < deadline, (run / "run.log").read_text()[-3000:]
            time.sleep(0.1)
        os.killpg(sweep.pid, signal.SIGINT)
        _, errors = sweep.communicate(timeout=120)
    finally:
        sweep.kill()
    assert sweep.returncode == 130 and "goes on from here" in errors
    assert not (run / "done").exists()
    first, reached = entries(run), int(saved.read_text())
    end(variables[MARK])

    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr + (run / "run.log").read_text()[-3000:]
    assert (run / "done").is_file()
    assert [entry["step"] for entry in entries(run)] == [0, 1, 2, 3, 4]
    assert_erpo_metrics(read(run))
    assert f"global_step_{reached}" in (run / "run.log").read_text()
    # What was done before the checkpoint was not done again: its figures are the first start's, to the digit.
    now = {entry["step"]: entry["data"] for entry in entries(run)}
    for entry in first[1:]:
        if entry["step"] <= reached:
            assert now[entry["step"]].items() >= entry["data"].items()
    assert any((tmp_path / "comparison").iterdir())


def test_the_same_sweep_drives_the_accelerate_engine(variables, start, data, tmp_path):
    config = tmp_path / "task.yaml"
    role = "actor_rollout_ref"
    settings = {
        "data.train_files": str(data / "train.parquet"),
        "data.val_files": str(data / "validation.parquet"),
        "data.train_batch_size": 4,
        "data.max_prompt_length": 32,
        "data.max_response_length": 80,
        f"{role}.model.path": str(start),
        f"{role}.actor.ppo_mini_batch_size": 2,
        f"{role}.actor.use_kl_loss": True,
        f"{role}.actor.kl_loss_coef": 0,
        f"{role}.actor.optim.lr": 3e-4,
        f"{role}.rollout.n": 4,
        "reward.num_workers": 1,
        "trainer.total_training_steps": 2,
        "trainer.test_freq": 2,
        "trainer.device": "cpu",
    }
    config.write_text(json.dumps(settings))  # JSON is YAML
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / "sweep.sh")],
        env={
            **variables,
            "ENGINE": "accelerate",
            "CONFIG": str(config),
            "ARMS": "grpo anchor_centered",
            "SEEDS": "3",
            "OUT": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    grpo, erpo = read(tmp_path / "grpo-s3"), read(tmp_path / "anchor_centered-s3")
    assert len(grpo) == len(erpo) == 2
    assert not any(key.startswith(("erpo/gate", "erpo/progress")) for step in grpo for key in step)
    assert_erpo_metrics(erpo)
    assert "anchor_centered" in (tmp_path / "comparison" / "comparison.md").read_text()
