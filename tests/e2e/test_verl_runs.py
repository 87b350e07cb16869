"""`main_ppo` with ERPO, for real: Ray, FSDP2 and vLLM on the CPU, in each of verl's modes."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_erpo_metrics, read

from erpo_verl.reports.wandb_files import find_files, read_offline_run
from erpo_verl.runs.record import read_record
from erpo_verl.verl_cpu.launch import RunFailed, launch

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "examples"))
from test_own_method import install_own_method  # noqa: E402

# verl's own sampler: the quickly polling one is for the synchronous trainer.
OWN_SAMPLER = ["trainer.v1.sampler.custom_sampler.path=null", "trainer.v1.sampler.custom_sampler.name=null"]


def test_erpo_learns(overrides, tmp_path):
    """The paper's settings on the embedded task: the reward rises, and the reward's own counters are logged with it."""
    run = launch(overrides("erpo", steps=20, prompts=16), tmp_path / "erpo", "erpo")
    steps = read(run)
    assert len(steps) == 20
    assert_erpo_metrics(steps)
    reward = [data["critic/score/mean"] for data in steps]
    assert np.mean(reward[-4:]) - np.mean(reward[:4]) > 0.08, reward
    record = read_record(run)
    assert (record["engine"], record["versions"]["verl"]) == ("verl", metadata.version("verl"))
    assert all(entry["sha256"] for entry in record["data"]) and record["model"]["sha256"]
    for data in steps:
        assert data["reward/acc/mean"] == pytest.approx(data["critic/score/mean"])
        assert data["reward/fast_path/mean"] > 0.9
        assert data["reward/timed_out/mean"] == data["reward/killed/mean"] == 0


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


def test_two_ranks_every_logger_and_hostile_answers(overrides, tmp_path):
    """Two FSDP ranks with two rollout servers; console, file, W&B (offline) and TensorBoard get ERPO's metrics.

    Every fourth answer hangs or bloats math-verify: it is stopped, the others are judged, and nothing stays behind.
    """
    run = launch(
        [
            *overrides("erpo", steps=4),
            "trainer.n_gpus_per_node=2",
            "ray_kwargs.ray_init.num_gpus=2",
            "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=8",
            "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=16",
            "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=16",
            'trainer.logger=["console","file","wandb","tensorboard"]',
            f"reward.custom_reward_function.path={HERE / 'hostile_reward.py'}",
        ],
        tmp_path / "ranks",
        "two ranks",
        environment={"WANDB_MODE": "offline", "TENSORBOARD_DIR": str(tmp_path / "tensorboard")},
    )
    steps = read(run)
    assert len(steps) == 4
    assert_erpo_metrics(steps)
    assert "erpo/gate/mean:" in (run / "verl.log").read_text()
    gate = [data["erpo/gate/mean"] for data in steps]
    logged = read_offline_run(find_files(run)).history
    assert [data["erpo/gate/mean"] for _, data in logged if "erpo/gate/mean" in data] == pytest.approx(gate)
    assert tensorboard_history(tmp_path / "tensorboard", "erpo/gate/mean") == pytest.approx(gate, rel=1e-6)
    # 64 responses a step, of which 16 are hostile: all 60 of them are met, and none is right.
    assert (
        sum(data["reward/timed_out/mean"] + data["reward/killed/mean"] + data["reward/refused/mean"] for data in steps)
        > 0.1
    )
    assert all(0.05 < data["critic/score/mean"] < 0.75 for data in steps)
    assert reward_workers(tmp_path) == set()


def tensorboard_history(folder: Path, name: str) -> list[float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [event.value for event in events.Scalars(name)]


def test_legacy_trainer(overrides, tmp_path):
    run = launch([*overrides("erpo", steps=3), "trainer.use_v1=false"], tmp_path / "legacy", "legacy trainer")
    steps = read(run)
    assert len(steps) == 3
    assert_erpo_metrics(steps)


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


def test_colocate_async(overrides, tmp_path):
    run = launch(
        [*overrides("ep_grpo", steps=3), "trainer.v1.trainer_mode=colocate_async", *OWN_SAMPLER],
        tmp_path / "colocate",
        "colocate_async",
    )
    steps = read(run)
    assert len(steps) == 3
    assert_erpo_metrics(steps)


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
