"""On one batch with one set of weights, advantages, loss and gradient are those of verl's own road (`ppo_loss`)."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from trainer_runs import random_batch, settings_for, tiny_policy

from erpo_verl.policy_loss import kl_estimate
from erpo_verl.trainer.advantages import advantages, token_level_rewards
from erpo_verl.trainer.policy import lr_factor, micro_batches
from erpo_verl.trainer.update import Normalisers, micro_batch_loss

pytest.importorskip("verl")

from tensordict import TensorDict
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage, kl_penalty_forward
from verl.utils.torch_functional import entropy_from_logits, logprobs_from_logits
from verl.workers.config import ActorConfig
from verl.workers.utils.losses import ppo_loss
from verl.workers.utils.padding import left_right_2_no_padding

MODES = ("token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm")
OURS = ("erpo", "grpo")


def filled(settings, policy, seed=0):
    """A batch on its way to the update: log-probs of a policy that has moved a little from the reference, and advantages."""
    batch = random_batch(seed=seed)
    reference, _ = policy.log_probs(batch, 5)
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in policy.parameters:
            p.add_(0.01 * torch.randn(p.shape, generator=g))
    old, entropy = policy.log_probs(batch, 5, with_entropy=True)
    with torch.no_grad():
        for p in policy.parameters:
            p.add_(0.01 * torch.randn(p.shape, generator=g))
    batch = replace(batch, old_log_probs=old, entropy=entropy, ref_log_prob=reference)
    batch = replace(batch, token_level_rewards=token_level_rewards(batch, settings)[0])
    return replace(batch, advantages=advantages(batch, settings, 1).advantages)


def verl_loss(policy, batch, settings):
    """verl's road over the whole mini-batch: logits, its log-probs and entropies, its jagged batch, its ppo_loss."""
    actor = settings.actor_rollout_ref.actor
    position_ids = (batch.attention_mask.cumsum(1) - 1).clamp(min=0)
    logits = policy.module.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=position_ids).logits
    logits = logits / policy.temperature
    labels = torch.roll(batch.input_ids, -1, 1)
    valid = batch.attention_mask.bool()
    log_probs, entropy = logprobs_from_logits(logits, labels)[valid], entropy_from_logits(logits)[valid]
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), batch.attention_mask.sum(1).cumsum(0)])
    T = batch.response_length
    mask = batch.response_mask.long()
    data = TensorDict(
        {
            "prompts": batch.input_ids[:, :-T], "responses": batch.responses, "input_ids": batch.input_ids.clone(),
            "attention_mask": batch.attention_mask, "position_ids": position_ids, "response_mask": mask,
            "old_log_probs": batch.old_log_probs, "advantages": batch.advantages, "ref_log_prob": batch.ref_log_prob,
        },
        batch_size=len(batch),
    )  # fmt: skip
    data = left_right_2_no_padding(data)
    lengths = mask.sum(1)

    def jagged(x):
        return torch.nested.as_nested_tensor([x[i, : lengths[i]] for i in range(len(x))], layout=torch.jagged)

    for name in ("response_mask", "old_log_probs", "advantages", "ref_log_prob"):
        data[name] = jagged({"response_mask": mask, **{n: getattr(batch, n) for n in ("old_log_probs", "advantages", "ref_log_prob")}}[name])
    from verl.utils import tensordict_utils as tu

    for name, value in (("dp_size", 1), ("batch_num_tokens", int(lengths.sum())), ("global_batch_size", len(batch))):
        tu.assign_non_tensor_data(data, name, value)
    config = ActorConfig(
        strategy="fsdp", rollout_n=4, ppo_micro_batch_size_per_gpu=1, clip_ratio_low=actor.clip_ratio_low, clip_ratio_high=actor.clip_ratio_high,
        clip_ratio_c=actor.clip_ratio_c, loss_agg_mode=actor.loss_agg_mode, loss_scale_factor=settings.data.max_response_length,
        entropy_coeff=actor.entropy_coeff, use_kl_loss=actor.use_kl_loss, kl_loss_coef=actor.kl_loss_coef, kl_loss_type=actor.kl_loss_type,
    )  # fmt: skip
    output = {
        "log_probs": torch.nested.nested_tensor_from_jagged(log_probs, offsets=offsets),
        "entropy": torch.nested.nested_tensor_from_jagged(entropy, offsets=offsets),
    }
    return ppo_loss(config, output, data)


def gradients(policy):
    found = [p.grad.clone() for p in policy.parameters]
    policy.optimizer.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("estimator", OURS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("extra", ["plain", "kl and entropy"])
def test_loss_and_gradient_are_verls(estimator, mode, extra):
    terms = [] if extra == "plain" else [
        "actor_rollout_ref.actor.kl_loss_coef=0.1", "actor_rollout_ref.actor.entropy_coeff=0.05", "actor_rollout_ref.rollout.temperature=0.7",
    ]  # fmt: skip
    settings = settings_for(
        f"algorithm.adv_estimator={estimator}", f"actor_rollout_ref.actor.loss_agg_mode={mode}", "actor_rollout_ref.actor.clip_ratio_high=0.28",
        *terms,
    )  # fmt: skip
    policy = tiny_policy(settings)
    batch = filled(settings, policy)
    expected, _ = verl_loss(policy, batch, settings)
    expected.backward()
    verls = gradients(policy)

    counts = Normalisers(1, float(batch.response_mask.sum()), float(len(batch)))
    total = 0.0
    for rows in micro_batches(batch.lengths.tolist(), rows_at_once=3):
        micro = batch.rows(rows).trim()
        log_prob, entropy = policy(micro, with_entropy=extra != "plain", entropy_gradient=True)
        loss = micro_batch_loss(log_prob, entropy, micro, settings, counts).loss
        loss.backward()
        total += loss.item()
    assert total == pytest.approx(expected.item(), rel=1e-5, abs=1e-7)
    largest = max(g.abs().max() for g in verls)
    for ours, theirs in zip(gradients(policy), verls, strict=True):
        assert (ours - theirs).abs().max() <= 1e-6 * max(1.0, largest) and largest > 1e-4


def test_grpos_advantages_are_verls_bit_for_bit():
    settings = settings_for("algorithm.adv_estimator=grpo")
    batch = filled(settings, tiny_policy(settings))
    expected = compute_grpo_outcome_advantage(
        batch.token_level_rewards, batch.response_mask.long(), np.array(batch.uid, dtype=object)
    )[0]
    assert torch.equal(batch.advantages, expected)


def test_erpos_advantages_are_what_verls_estimator_returns():
    """The plug-in's estimator, called as verl calls it, on the same tensors."""
    from erpo_verl.verl_plugin import context
    from erpo_verl.verl_plugin.estimator import estimator_of

    settings = settings_for("algorithm.erpo.gate.normalize=mean_one")
    batch = filled(settings, tiny_policy(settings))
    announced = context.BatchContext(
        entropy=lambda: batch.entropy, step=1, old_log_probs=batch.old_log_probs, ref_log_prob=batch.ref_log_prob
    )
    with context.working_on(announced):
        expected, _ = estimator_of("erpo")(
            batch.token_level_rewards, batch.response_mask.long(), np.array(batch.uid, dtype=object), {"erpo": {"gate": {"normalize": "mean_one"}}}
        )
    assert torch.equal(batch.advantages, expected)


@pytest.mark.parametrize("kind", ["kl", "k1", "abs", "mse", "k2", "low_var_kl", "k3"])
def test_kl_estimators_are_verls(kind):
    g = torch.Generator().manual_seed(0)
    a = (-30 * torch.rand(4, 5, generator=g)).requires_grad_()
    b = -30 * torch.rand(4, 5, generator=g)
    ours, theirs = kl_estimate(a, b, kind), kl_penalty_forward(a, b, kind)
    assert torch.equal(ours, theirs)
    assert torch.equal(*(torch.autograd.grad(x.sum(), a, retain_graph=True)[0] for x in (ours, theirs)))


@pytest.mark.parametrize("kind", ["constant", "cosine"])
def test_the_schedule_is_verls(kind):
    from verl.utils.torch_functional import get_constant_schedule_with_warmup, get_cosine_schedule_with_warmup

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    if kind == "constant":
        schedule = get_constant_schedule_with_warmup(optimizer, 3)
    else:
        schedule = get_cosine_schedule_with_warmup(optimizer, 3, 12, min_lr_ratio=0.1)
    for step in range(15):
        ours = lr_factor(step, warmup=3, total=12, kind=kind, min_ratio=0.1 if kind == "cosine" else 0.0, cycles=0.5)
        assert ours == pytest.approx(schedule.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        schedule.step()


def test_rewards_with_a_kl_penalty():
    settings = settings_for("algorithm.use_kl_in_reward=true", "algorithm.kl_ctrl.kl_coef=0.5")
    batch = filled(settings, tiny_policy(settings))
    last = batch.lengths - 1
    expected = -0.5 * (batch.old_log_probs - batch.ref_log_prob) * batch.response_mask
    expected[torch.arange(len(batch)), last] += batch.scores
    torch.testing.assert_close(batch.token_level_rewards, expected)
    mean = sum((old - ref)[:n].double().mean().item() for old, ref, n in zip(batch.old_log_probs, batch.ref_log_prob, batch.lengths, strict=True))
    assert token_level_rewards(batch, settings)[1] == {
        "actor/reward_kl_penalty": pytest.approx(mean / len(batch), rel=1e-4), "actor/reward_kl_penalty_coeff": 0.5,
    }  # fmt: skip
    without = settings_for()
    assert token_level_rewards(batch, without)[1] == {} and token_level_rewards(batch, without)[0].sum(dim=1).tolist() == batch.scores.tolist()
