"""The clipped surrogate and the aggregation of token losses."""

import math

import pytest
import torch
from core_batches import examples
from hypothesis import given
from hypothesis import strategies as st

from erpo_verl import aggregate_loss, erpo_policy_loss
from erpo_verl.policy_loss import AGGREGATION_MODES


def tensors(seed, rows=4, width=7):
    g = torch.Generator().manual_seed(seed)
    old = -3 * torch.rand(rows, width, generator=g, dtype=torch.float64)
    return {
        "old_log_prob": old,
        "log_prob": old + torch.randn(rows, width, generator=g, dtype=torch.float64),
        "advantages": torch.randn(rows, width, generator=g, dtype=torch.float64),
        "response_mask": torch.rand(rows, width, generator=g) < 0.7,
    }


def loss_by_hand(old, new, advantage, low, high, bound):
    ratio = math.exp(min(max(new - old, -20), 20))
    clipped = min(max(ratio, 1 - low), 1 + high)
    loss = -min(advantage * ratio, advantage * clipped)
    return min(loss, -advantage * bound) if advantage < 0 else loss


@examples(50)
@given(
    st.integers(0, 2**31), st.sampled_from([0.1, 0.2, 1.0]), st.sampled_from([0.0, 0.28]), st.sampled_from([1.5, 3.0])
)
def test_each_token_loss_by_hand(seed, low, high, bound):
    x = tensors(seed)
    result = erpo_policy_loss(**x, clip_ratio_low=low, clip_ratio_high=high, clip_ratio_c=bound)
    flat = [y.reshape(-1).tolist() for y in (*x.values(), result.losses)]
    for old, new, advantage, valid, loss in zip(*flat, strict=True):
        expected = loss_by_hand(old, new, advantage, low, high, bound) if valid else 0.0
        assert loss == pytest.approx(expected, rel=1e-12)


def test_masked_tokens_have_no_loss_and_no_gradient_whatever_they_hold():
    x = tensors(0)
    x["rollout_is_weights"] = torch.rand(4, 7, dtype=torch.float64)
    masked = ~x["response_mask"]
    expected = erpo_policy_loss(**x)
    for junk in (math.nan, math.inf, -math.inf):
        spoilt = {n: t if n == "response_mask" else t.masked_fill(masked, junk) for n, t in x.items()}
        log_prob = spoilt["log_prob"].requires_grad_()
        result = erpo_policy_loss(**spoilt)
        assert torch.equal(result.losses, expected.losses) and result.metrics == expected.metrics
        assert not result.losses[masked].any()
        for mode in AGGREGATION_MODES:
            (gradient,) = torch.autograd.grad(
                aggregate_loss(result.losses, x["response_mask"], mode), log_prob, retain_graph=True
            )
            assert gradient.isfinite().all() and not gradient[masked].any()
            assert gradient[~masked].any()


def test_metrics_by_hand():
    # A = 1, ratios e^1, e^0, e^-1: clipped, not, not. A = -1, ratios e^0, e^2: not, beyond the dual clip.
    result = erpo_policy_loss(
        old_log_prob=torch.zeros(1, 6),
        log_prob=torch.tensor([[1.0, 0.0, -1.0, 0.0, 2.0, 9.0]]),
        advantages=torch.tensor([[1.0, 1.0, 1.0, -1.0, -1.0, 1.0]]),
        response_mask=torch.tensor([[1, 1, 1, 1, 1, 0]]),
    )
    assert result.metrics == pytest.approx(
        {"actor/pg_clipfrac": 1 / 5, "actor/ppo_kl": -2 / 5, "actor/pg_clipfrac_lower": 1 / 5}
    )


def test_the_log_ratio_is_cut_off_at_20():
    x = {"old_log_prob": torch.zeros(1, 2), "advantages": torch.ones(1, 2), "response_mask": torch.ones(1, 2)}
    result = erpo_policy_loss(**x, log_prob=torch.tensor([[1000.0, -1000.0]]), clip_ratio_high=math.inf)
    assert result.losses.tolist() == [[pytest.approx(-math.exp(20)), pytest.approx(-math.exp(-20))]]
    assert result.metrics["actor/ppo_kl"] == 0


def test_rollout_weights_multiply_the_token_losses():
    x = tensors(5)
    weights = torch.rand(4, 7, dtype=torch.float64)
    plain, weighted = erpo_policy_loss(**x), erpo_policy_loss(**x, rollout_is_weights=weights)
    assert torch.equal(weighted.losses, plain.losses * weights)
    assert weighted.metrics == plain.metrics


def test_no_valid_token_gives_zeros():
    x = tensors(0) | {"response_mask": torch.zeros(4, 7)}
    x["log_prob"].requires_grad_()
    result = erpo_policy_loss(**x)
    assert set(result.metrics.values()) == {0.0}
    for mode in AGGREGATION_MODES:
        loss = aggregate_loss(result.losses, x["response_mask"], mode)
        assert loss == 0
        (gradient,) = torch.autograd.grad(loss, x["log_prob"], retain_graph=True)
        assert not gradient.any()


@pytest.mark.parametrize("mode", AGGREGATION_MODES)
@pytest.mark.parametrize("cuts", [(4,), (1, 3), (2, 2), (1, 1, 1, 1)])
@pytest.mark.parametrize("ranks", [1, 2])
def test_the_gradient_does_not_depend_on_how_the_batch_is_cut(mode, cuts, ranks):
    x = tensors(3)
    x["response_mask"][1] = False

    def gradient(sizes, ranks, **normalisers):
        log_prob = x["log_prob"].clone().requires_grad_()
        parts = {**x, "log_prob": log_prob}
        for part in zip(*(t.split(sizes) for t in parts.values()), strict=True):
            named = dict(zip(parts, part, strict=True))
            losses = erpo_policy_loss(**named).losses
            # Averaged over ranks, as DDP and FSDP do.
            (aggregate_loss(losses, named["response_mask"], mode, dp_size=ranks, **normalisers) / ranks).backward()
        return log_prob.grad

    counts = {
        "batch_num_tokens": int(x["response_mask"].sum()),
        "global_batch_size": int(x["response_mask"].any(-1).sum()),
    }
    torch.testing.assert_close(gradient(cuts, ranks, **counts), gradient((4,), 1))


def test_aggregation_by_hand():
    losses = torch.tensor([[1.0, 2.0, 3.0], [4.0, 9.0, 9.0], [9.0, 9.0, 9.0]])
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0]])
    expected = {
        "token-mean": 10 / 4,
        "token-sum": 10,
        "seq-mean-token-sum": (6 + 4) / 2,
        "seq-mean-token-sum-norm": (6 + 4) / 2 / 3,
        "seq-mean-token-mean": (2 + 4) / 2,
    }
    for mode, value in expected.items():
        assert aggregate_loss(losses, mask, mode).item() == pytest.approx(value)
    assert aggregate_loss(losses, mask, "seq-mean-token-sum-norm", loss_scale_factor=10).item() == pytest.approx(0.5)
    assert aggregate_loss(losses, mask, "token-mean", batch_num_tokens=20).item() == pytest.approx(0.5)
    assert aggregate_loss(losses, mask, "seq-mean-token-mean", global_batch_size=12).item() == pytest.approx(0.5)


def test_errors():
    x = tensors(0)
    for name, value in (
        ("clip_ratio_c", 1.0),
        ("clip_ratio_low", -0.1),
        ("clip_ratio_low", 1.1),
        ("clip_ratio_high", math.nan),
    ):
        with pytest.raises(ValueError, match=name):
            erpo_policy_loss(**x, **{name: value})
    with pytest.raises(ValueError, match="advantages has shape"):
        erpo_policy_loss(**{**x, "advantages": x["advantages"][:, :3]})
    with pytest.raises(ValueError, match="must be one of token-mean"):
        aggregate_loss(x["advantages"], x["response_mask"], "mean")
    with pytest.raises(ValueError, match="losses has shape"):
        aggregate_loss(x["advantages"][:2], x["response_mask"])
    with pytest.raises(ValueError, match="batch_num_tokens"):
        aggregate_loss(x["advantages"], x["response_mask"], "token-mean", dp_size=2)
    with pytest.raises(ValueError, match="global_batch_size"):
        aggregate_loss(x["advantages"], x["response_mask"], "seq-mean-token-sum", dp_size=2)
