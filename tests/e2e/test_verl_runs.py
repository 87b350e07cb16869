"""`main_ppo` with ERPO, for real: Ray, FSDP2 and vLLM on the CPU, in each of verl's modes (colocate_async: test_gsm8k.py).

A start takes a minute and a half, a step seconds: one start serves many checks.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from conftest import OWN_SAMPLER, assert_erpo_metrics, read

from erpo_verl.reports.wandb_files import find_files, read_offline_run
from erpo_verl.runs.record import read_record
from erpo_verl.verl_cpu.launch import MARK, RunFailed, launch

pytestmark = pytest.mark.timeout(1800)
HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "examples"))
from test_own_method import install_own_method  # noqa: E402


@pytest.fixture(scope="module")
def learned(overrides, tmp_path_factory) -> Path:
    """One run for many checks: the paper's settings on the embedded task, every logger, and each batch set beside verl's own GRPO."""
    folder = tmp_path_factory.mktemp("learned")
    return launch(
        [
            *overrides("erpo", steps=20, prompts=16),
            "actor_rollout_ref.actor.policy_loss.loss_mode=erpo",
            'trainer.logger=["console","file","wandb","tensorboard"]',
        ],
        folder / "erpo",
        "erpo",
        environment={
            "WANDB_MODE": "offline",
            "TENSORBOARD_DIR": str(folder / "tensorboard"),
            "VERL_USE_EXTERNAL_MODULES": "capture",
            "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
            "ERPO_CAPTURE": str(folder / "capture.jsonl"),
        },
    )


def test_erpo_learns(learned):
    """The reward rises, and the reward's own counters are logged with it."""
    steps = read(learned)
    assert len(steps) == 20
    assert_erpo_metrics(steps)
    reward = [data["critic/score/mean"] for data in steps]
    assert np.mean(reward[-4:]) - np.mean(reward[:4]) > 0.08, reward
    record = read_record(learned)
    assert (record["engine"], record["versions"]["verl"]) == ("verl", metadata.version("verl"))
    assert all(entry["sha256"] for entry in record["data"]) and record["model"]["sha256"]
    for data in steps:
        assert data["reward/acc/mean"] == pytest.approx(data["critic/score/mean"])
        assert data["reward/fast_path/mean"] > 0.9
        assert data["reward/timed_out/mean"] == data["reward/killed/mean"] == 0


def test_every_logger_has_erpos_metrics(learned):
    """Console, file, W&B (offline) and TensorBoard."""
    assert "erpo/gate/mean:" in (learned / "verl.log").read_text()
    gate = [data["erpo/gate/mean"] for data in read(learned)]
    logged = read_offline_run(find_files(learned)).history
    assert [data["erpo/gate/mean"] for _, data in logged if "erpo/gate/mean" in data] == pytest.approx(gate)
    assert tensorboard_history(learned.parent / "tensorboard", "erpo/gate/mean") == pytest.approx(gate, rel=1e-6)


def test_neutral_settings_are_grpo_on_a_live_run(learned):
    """On the very tensors of each step, ERPO with gate off and eta 0 gave verl's GRPO, bit for bit; with the run's settings it did not."""
    batches = [json.loads(line) for line in (learned.parent / "capture.jsonl").read_text().splitlines()]
    assert len(batches) == 20
    assert all(batch["estimator"] == "erpo" and batch["neutral_is_grpo"] and not batch["equal"] for batch in batches)
    assert sum(batch["non_zero"] for batch in batches) > 100


def tensorboard_history(folder: Path, name: str) -> list[float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [event.value for event in events.Scalars(name)]


MAIN = """
import sys
from pathlib import Path
from erpo_verl.verl_cpu.launch import launch
try:
    launch(sys.argv[2:], Path(sys.argv[1]), "run")
except KeyboardInterrupt:
    sys.exit(130)
"""


def of_this_run(folder) -> dict[int, str]:
    """Processes that a run in `folder` started, with their names: by their environment, which children inherit."""
    wanted = f"VERL_FILE_LOGGER_PATH={folder}".encode()
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/environ", "rb") as environ, open(f"/proc/{name}/cmdline", "rb") as cmdline:
                variables = environ.read().split(b"\0")
                if any(v.startswith(wanted) for v in variables) and any(v.startswith(MARK.encode()) for v in variables):
                    found[int(name)] = cmdline.read().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
    return found


def variable(pid: int, name: str) -> Path:
    variables = dict(v.split(b"=", 1) for v in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") if b"=" in v)
    return Path(variables[name.encode()].decode())


def test_legacy_trainer_and_ctrl_c(overrides, tmp_path):
    """verl's older trainer; then Ctrl-C in the middle of training leaves nothing running, Ray's daemons included, and nothing half-written."""
    folder = tmp_path / "runs"
    command = [sys.executable, "-c", MAIN, str(folder / "run"), *overrides("erpo", steps=1000), "trainer.use_v1=false"]
    runner = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 600
        metrics = folder / "run.partial" / "metrics.jsonl"
        while not metrics.is_file() or metrics.read_text().count("\n") < 3:
            assert runner.poll() is None and time.monotonic() < deadline
            time.sleep(0.5)
        lines = metrics.read_text().split("\n")[:3]  # complete ones of a growing file
        running = of_this_run(folder)
        assert any("raylet" in name for name in running.values()) and len(running) > 5, running
        scratch = variable(next(iter(running)), "TMPDIR")
        assert scratch.name.startswith("erpo-") and scratch.is_dir()
        runner.send_signal(signal.SIGINT)
        assert runner.wait(60) == 130
    finally:
        if runner.poll() is None:  # an assertion above failed: the run must not go on behind the other tests
            runner.send_signal(signal.SIGTERM)
            runner.wait(60)
    assert of_this_run(folder) == {}
    assert list(folder.iterdir()) == []
    assert not scratch.exists()
    assert_erpo_metrics([json.loads(line)["data"] for line in lines])


def test_a_method_of_another_package(overrides, tmp_path):
    """examples/own_method, installed beside ours: verl takes it by its name, with its setting."""
    site = install_own_method(tmp_path)
    own = ["algorithm.adv_estimator=first_tokens", "+algorithm.first_tokens.strength=1.5"]
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    run = launch([*overrides("grpo", steps=2), *own], tmp_path / "own", "a method of another package", environment={"PYTHONPATH": path})
    steps = read(run)
    assert len(steps) == 2
    for data in steps:
        assert 0.2 < data["first_tokens/early_share/mean"] < 0.6
        assert 0 < data["erpo/cdp_share/mean"] < 1 and data["erpo/left_out_responses/mean"] == 0
        assert data["critic/advantages/max"] <= 1.5 * 4 and np.isfinite(data["actor/grad_norm"])


def test_separate_async(overrides, tmp_path):
    """Trainer and rollout server apart, two updates between two weight transfers: metrics of both are aggregated."""
    run = launch(
        [
            *overrides("erpo", steps=3),
            *OWN_SAMPLER,
            "trainer.v1.trainer_mode=separate_async",
            "trainer.v1.separate_async.parameter_sync_step=2",
            # Each of the two updates sees half of the batch.
            "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=32",
            "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=32",
            "ray_kwargs.ray_init.num_gpus=2",
            "actor_rollout_ref.rollout.nnodes=1",
            "actor_rollout_ref.rollout.n_gpus_per_node=1",
            "actor_rollout_ref.rollout.checkpoint_engine.backend=store",
            "actor_rollout_ref.rollout.checkpoint_engine.custom_backend_module=erpo_verl.verl_cpu.checkpoint_engine",
        ],
        tmp_path / "separate",
        "separate_async",
    )
    steps = read(run)
    assert len(steps) == 3
    assert all(np.isfinite(list(v for k, v in data.items() if k.startswith("erpo/"))).all() for data in steps)
    assert all(0 <= data["erpo/gate/min"] <= data["erpo/gate/mean"] <= data["erpo/gate/max"] <= 1 for data in steps)


def test_wrong_setting_ends_in_seconds_and_keeps_the_log(overrides, tmp_path):
    with pytest.raises(RunFailed, match=r"algorithm\.erpo\.gate\.gama") as error:
        launch([*overrides("erpo", steps=3), "+algorithm.erpo.gate.gama=3"], tmp_path / "wrong", "wrong", quiet=True)
    assert "algorithm.erpo.gate.gamma" in str(error.value)
    assert not (tmp_path / "wrong").exists() and (tmp_path / "wrong.partial" / "verl.log").is_file()
