"""What must be the same as in verl: the outcome part bit for bit, the clipped surrogate, the aggregation."""

import pytest
import torch
from core_batches import Batch, examples, random_batch
from hypothesis import given
from hypothesis import strategies as st

from erpo_verl import aggregate_loss, erpo_policy_loss
from erpo_verl.policy_loss import AGGREGATION_MODES

pytest.importorskip("verl")

import numpy as np
from verl.trainer.ppo.core_algos import agg_loss, compute_grpo_outcome_advantage, get_policy_loss_fn
from verl.workers.config import ActorConfig

NEUTRAL = {"gate.enable": False, "progress.enable": False}


def verl_grpo(batch, std, mask_dtype):
    return compute_grpo_outcome_advantage(
        batch.token_level_rewards.clone(),
        batch.response_mask.to(mask_dtype),
        np.array(batch.index, dtype=object),
        norm_adv_by_std_in_grpo=std,
    )[0]


@examples(150)
@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 40),
    groups=st.integers(1, 8),
    rewards=st.sampled_from(["binary", "ones", "tenths", "real", "few"]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    mask_dtype=st.sampled_from([torch.int64, torch.bool]),
    std=st.booleans(),
)
def test_gate_off_and_eta_0_is_verls_grpo_bit_for_bit(seed, rows, groups, rewards, dtype, mask_dtype, std):
    batch = random_batch(seed, rows, 6, groups, rewards, dtype)
    expected = verl_grpo(batch, std, mask_dtype)
    for options in (NEUTRAL, {"gate.enable": False, "progress.eta": 0.0}):
        result = batch.advantages(options, norm_adv_by_std_in_grpo=std).advantages
        assert result.dtype == expected.dtype
        assert torch.equal(result, expected)


def test_groups_of_many_sizes_and_dense_rewards_bit_for_bit():
    g = torch.Generator().manual_seed(0)
    sizes = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 100, 257]
    index = [f"g{k}" for k, size in enumerate(sizes) for _ in range(size)]
    index = [index[i] for i in torch.randperm(len(index), generator=g).tolist()]
    rewards = torch.randn(len(index), 12, generator=g)
    zeros = torch.zeros(len(index), 12)
    batch = Batch(rewards, torch.rand(len(index), 12, generator=g) < 0.5, index, zeros, zeros, zeros)
    assert torch.equal(batch.advantages(NEUTRAL).advantages, verl_grpo(batch, True, torch.int64))


def actor_config(**settings):
    defaults = {"strategy": "fsdp", "rollout_n": 2, "ppo_micro_batch_size_per_gpu": 1}
    return ActorConfig(**{**defaults, **settings})


@examples(60)
@given(
    seed=st.integers(0, 2**31),
    low=st.sampled_from([0.1, 0.2]),
    high=st.sampled_from([0.2, 0.28]),
    bound=st.sampled_from([1.5, 3.0]),
    spread=st.sampled_from([0.0, 0.3, 30.0]),
    weighted=st.booleans(),
    mode=st.sampled_from(AGGREGATION_MODES),
)
def test_the_loss_is_verls_vanilla_loss_in_value_and_gradient(seed, low, high, bound, spread, weighted, mode):
    g = torch.Generator().manual_seed(seed)
    old = -3 * torch.rand(5, 9, generator=g)
    x = {
        "old_log_prob": old,
        "log_prob": (old + spread * torch.randn(5, 9, generator=g)).requires_grad_(),
        "advantages": torch.randn(5, 9, generator=g),
        "response_mask": torch.rand(5, 9, generator=g) < 0.7,
        "rollout_is_weights": torch.rand(5, 9, generator=g) if weighted else None,
    }
    x["response_mask"][0] = False
    x["response_mask"][1, 0] = True
    config = actor_config(clip_ratio_low=low, clip_ratio_high=high, clip_ratio_c=bound)
    expected, metrics = get_policy_loss_fn("vanilla")(**x, loss_agg_mode=mode, config=config)
    ours = erpo_policy_loss(**x, clip_ratio_low=low, clip_ratio_high=high, clip_ratio_c=bound)
    loss = aggregate_loss(ours.losses, x["response_mask"], mode)
    torch.testing.assert_close(loss, expected)
    assert ours.metrics == pytest.approx(metrics, rel=1e-5, abs=1e-7)
    ours_grad, verl_grad = (torch.autograd.grad(y, x["log_prob"], retain_graph=True)[0] for y in (loss, expected))
    torch.testing.assert_close(ours_grad, verl_grad)


@pytest.mark.parametrize("mode", AGGREGATION_MODES)
@pytest.mark.parametrize("mask_dtype", [torch.bool, torch.float32])
def test_the_aggregation_is_verls_with_global_normalisers(mode, mask_dtype):
    g = torch.Generator().manual_seed(0)
    losses, mask = torch.randn(6, 8, generator=g), (torch.rand(6, 8, generator=g) < 0.6).to(mask_dtype)
    mask[2] = 0
    for given_values in (
        {},
        {"dp_size": 4, "batch_num_tokens": 321, "global_batch_size": 64},
        {"batch_num_tokens": 321, "global_batch_size": 64, "loss_scale_factor": 1000},
    ):
        torch.testing.assert_close(
            aggregate_loss(losses, mask, mode, **given_values), agg_loss(losses, mask, mode, **given_values)
        )
