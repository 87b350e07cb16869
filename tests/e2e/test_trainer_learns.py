"""The Accelerate engine on the embedded task: it learns with the maths reward, with both rollout engines."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import ROOT, assert_erpo_metrics, read

from erpo_verl.trainer.run import train


def run(out, start, data, *overrides):
    arguments = [
        str(ROOT / "examples/arithmetic/erpo.yaml"), f"data.train_files={data / 'train.parquet'}", "data.val_files=null",
        f"actor_rollout_ref.model.path={start}", f"trainer.default_local_dir={out}", "trainer.test_freq=-1", "trainer.save_freq=-1",
        "trainer.device=cpu", *overrides,
    ]  # fmt: skip
    assert train(arguments) == 0
    return read(out)


@pytest.mark.parametrize("algorithm", ["erpo", "grpo"])
def test_the_reward_rises(start, data, tmp_path, algorithm):
    steps = run(tmp_path / "run", start, data, "trainer.total_training_steps=14", f"algorithm.adv_estimator={algorithm}")
    reward = [step["critic/score/mean"] for step in steps]
    assert np.mean(reward[-4:]) - np.mean(reward[:4]) > 0.08, reward
    assert all(step["reward/timed_out/mean"] == step["reward/killed/mean"] == 0 for step in steps)
    if algorithm == "erpo":
        assert_erpo_metrics(steps)


def test_vllm_samples_from_the_trained_weights(start, data, tmp_path):
    """Rollouts by vLLM in the same process: after each update its log-probs are those of training."""
    steps = run(tmp_path / "run", start, data, "trainer.total_training_steps=3", "actor_rollout_ref.rollout.name=vllm", "actor_rollout_ref.rollout.enforce_eager=true")
    assert len(steps) == 3
    for step in steps:
        assert step["training/rollout_probs_diff_max"] < 1e-3 and step["training/rollout_probs_diff_mean"] < 1e-5
    assert steps[-1]["erpo/progress_std/mean"] > 1e-4
