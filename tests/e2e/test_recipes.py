"""Shell recipes for real, with a tiny model on the CPU: only paths and sizes come from the environment, and the CPU's
overrides from the command line. A sweep over a pair that is stopped in the middle of a run and goes on from that run's checkpoint, and
the LoRA recipe.
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
HERE = Path(__file__).parent
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


def reward_workers(folder: Path) -> set[int]:
    """Reward processes of the runs in `folder`: other work on the machine may have its own."""
    found, wanted = set(), f"VERL_FILE_LOGGER_PATH={folder}".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if b"reward/worker.py" in (entry / "cmdline").read_bytes() and wanted in (entry / "environ").read_bytes():
                    found.add(int(entry.name))
            except OSError:
                continue
    return found


def test_the_lora_recipe_on_two_ranks_with_hostile_answers(variables, tmp_path):
    """Adapters are trained, the rollouts have them, and the reference is the model without them; two FSDP ranks with two rollout servers.

    Every fourth answer hangs or bloats math-verify: it is stopped, the others are judged, and nothing stays behind.
    """
    two = ["ray_kwargs.ray_init.num_gpus=2", "trainer.n_gpus_per_node=2"]
    reward = f"reward.custom_reward_function.path={HERE / 'hostile_reward.py'}"
    sizes = {"GPUS": "2", "TOTAL_STEPS": "4", "SAVE_FREQ": "-1", "TEST_FREQ": "-1", "LR": "3e-3"}
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / "run.sh"), "erpo", "qwen1.5b_lora", *OVERRIDES, *two, reward, "trainer.val_before_train=false"],
        env={**variables, "RUN_DIR": str(tmp_path / "run"), **sizes},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    steps = read(tmp_path / "run")
    assert len(steps) == 4
    assert_erpo_metrics(steps)
    assert all(step["training/rollout_probs_diff_max"] < 1e-4 for step in steps)
    # 64 responses a step, of which 16 are hostile: all 60 of them are met, and none is right.
    assert sum(step["reward/timed_out/mean"] + step["reward/killed/mean"] + step["reward/refused/mean"] for step in steps) > 0.1
    assert all(0.05 < step["critic/score/mean"] < 0.75 for step in steps)
    assert reward_workers(tmp_path) == set()


def test_a_sweep_is_stopped_in_the_middle_and_goes_on(variables, tmp_path):
    """A pair of recipes: an arm of ERPO's, which is stopped and goes on from its checkpoint, and GRPO."""
    environment = {
        **variables,
        "ARMS": "anchor_centered grpo",
        "SEEDS": "1",
        "MODEL": "qwen7b",
        "OUT": str(tmp_path),
        "TOTAL_STEPS": "4",
        "TEST_FREQ": "4",
    }
    command = ["bash", str(ROOT / "scripts" / "sweep.sh"), *OVERRIDES]
    run, grpo = tmp_path / "anchor_centered-s1", tmp_path / "grpo-s1"
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
    assert not (run / "done").exists() and not grpo.exists()
    first, reached = entries(run), int(saved.read_text())
    end(variables[MARK])

    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr + (run / "run.log").read_text()[-3000:]
    assert f"global_step_{reached}" in (run / "run.log").read_text()
    # What was done before the checkpoint was not done again: its figures are the first start's, to the digit.
    now = {entry["step"]: entry["data"] for entry in entries(run)}
    for entry in first[1:]:
        if entry["step"] <= reached:
            assert now[entry["step"]].items() >= entry["data"].items()
    for folder in (run, grpo):
        log = (folder / "run.log").read_text()
        assert "memory is not estimated: trainer.device=cpu" in log and "Nothing stands against a start." in log
        assert (folder / "done").is_file()
        assert [entry["step"] for entry in entries(folder)] == [0, 1, 2, 3, 4]  # 0: the validation before training
        assert f"{json.loads((folder / 'run.json').read_text())['arm']}-s1" == folder.name
        assert (folder / "checkpoints" / "latest_checkpointed_iteration.txt").read_text() == "4"
        assert all(math.isfinite(step["actor/grad_norm"]) for step in read(folder))
    assert len(read(run)) == len(read(grpo)) == 4
    assert not any(key.startswith("erpo/") for step in read(grpo) for key in step)
    assert_erpo_metrics(read(run))
    assert {"anchor_centered", "grpo"} <= set((tmp_path / "comparison" / "comparison.md").read_text().replace("|", " ").split())


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
