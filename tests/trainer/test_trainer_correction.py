"""Importance weights and mismatch metrics beside verl's own functions, and their way into the loss."""

from dataclasses import replace

import pytest
import torch
from trainer_runs import gradients, random_batch, settings_for, tiny_policy

from erpo_verl.trainer.correction import importance_weights
from erpo_verl.trainer.processes import Processes
from erpo_verl.trainer.update import rows_with_gradient

KEYS = "algorithm.rollout_correction"


def mismatched(seed: int = 0, spread: float = 0.6, **kwargs):
    """Old log-probs and those of a rollout that are apart by ``spread`` nats a token."""
    batch = random_batch(seed=seed, **kwargs)
    g = torch.Generator().manual_seed(seed)
    old = -3 * torch.rand(batch.response_mask.shape, generator=g)
    rollout = old + spread * torch.randn(old.shape, generator=g)
    return replace(batch, old_log_probs=torch.where(batch.response_mask, old, 0.0), rollout_log_probs=torch.where(batch.response_mask, rollout, 0.0))


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("level", [None, "token", "sequence"])
@pytest.mark.parametrize("threshold", [2.0, 1.2])
def test_weights_and_metrics_are_verls(level, threshold, normalise):
    helper = pytest.importorskip("verl.trainer.ppo.rollout_corr_helper")
    config = settings_for(
        f"{KEYS}.rollout_is={level or 'null'}", f"{KEYS}.rollout_is_threshold={threshold}", f"{KEYS}.rollout_is_batch_normalize={normalise}"
    )
    batch = mismatched()
    weights, metrics = importance_weights(batch, config, Processes())
    theirs, _, wanted = helper.compute_rollout_correction_and_rejection_mask(
        batch.old_log_probs, batch.rollout_log_probs, batch.response_mask.float(), rollout_is=level, rollout_is_threshold=threshold,
        rollout_is_batch_normalize=normalise,
    )  # fmt: skip
    if level is None:
        assert weights is None and theirs is None
    else:
        torch.testing.assert_close(weights, theirs.batch["rollout_is_weights"], rtol=1e-6, atol=1e-7)
    assert {name for name in wanted if "is_seq_" not in name} == metrics.keys()
    for name, value in metrics.items():
        assert value == pytest.approx(wanted[name], rel=1e-4, abs=1e-6), name


def test_the_weights_multiply_the_losses():
    """A weight of 0.5 for every token halves the gradient; one of 0 takes the row out of it, and it is not run."""
    config = settings_for("algorithm.adv_estimator=grpo", f"{KEYS}.rollout_is=token", "actor_rollout_ref.actor.ppo_mini_batch_size=4")
    policy = tiny_policy(config)
    batch = random_batch()
    batch = replace(batch, old_log_probs=policy.log_probs(batch, 4)[0], advantages=torch.where(batch.response_mask, 1.0, 0.0))
    [plain] = gradients(policy, batch, config)
    [halved] = gradients(policy, replace(batch, rollout_is_weights=torch.full(batch.response_mask.shape, 0.5)), config)
    for a, b in zip(plain, halved, strict=True):
        torch.testing.assert_close(0.5 * a, b)
    weights = torch.ones(batch.response_mask.shape)
    weights[3:] = 0.0
    assert rows_with_gradient(replace(batch, rollout_is_weights=weights), config) == [row < 3 for row in range(16)]
