"""verl's policy loss `erpo`: vanilla's value and gradient, and the same gradient however a batch is cut."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("verl")

from verl.trainer.ppo.core_algos import get_policy_loss_fn
from verl.workers.config import FSDPActorConfig

B, T = 12, 17


def actor_config(**settings):
    return FSDPActorConfig(
        strategy="fsdp2", rollout_n=4, ppo_micro_batch_size_per_gpu=1, optim=None, **settings
    )


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)

    def normal(scale):
        return scale * torch.randn(B, T, generator=generator, dtype=torch.float64)

    lengths = torch.randint(1, T + 1, (B,), generator=generator)
    mask = torch.arange(T)[None] < lengths[:, None]
    old = -normal(1.0).abs()
    return {
        "old_log_prob": old,
        "log_prob": old + normal(0.4),
        "advantages": normal(1.0) * mask,
        "response_mask": mask,
        "rollout_is_weights": normal(0.3).exp(),
    }


def gradient(name, batch, mode, config, cuts, ranks=1):
    """Gradient of the mean over ranks of the sum over micro-batches, as FSDP forms it, and the summed loss."""
    log_prob = batch["log_prob"].clone().requires_grad_()
    total = 0.0
    config.global_batch_info.update(
        dp_size=ranks,
        batch_num_tokens=int(batch["response_mask"].sum()),
        global_batch_size=B,
        loss_scale_factor=config.loss_scale_factor,
    )
    for rows in cuts:
        # verl pads a micro-batch to its own longest response.
        width = int(batch["response_mask"][rows].sum(-1).max())
        part = {k: (log_prob if k == "log_prob" else v)[rows, :width] for k, v in batch.items()}
        loss, metrics = get_policy_loss_fn(name)(**part, loss_agg_mode=mode, config=config)
        (loss / ranks).backward()
        total += loss.item() / ranks
    return log_prob.grad, total, metrics


WHOLE = [slice(0, B)]
MODES = ["token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm", "token-sum"]


@pytest.mark.parametrize("mode", MODES)
def test_equals_vanilla(batch, mode):
    config = actor_config(clip_ratio=0.2, clip_ratio_low=0.15, clip_ratio_high=0.3, clip_ratio_c=2.0, loss_scale_factor=100)
    ours, our_loss, our_metrics = gradient("erpo", batch, mode, config, WHOLE)
    theirs, their_loss, their_metrics = gradient("vanilla", batch, mode, config, WHOLE)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-15)
    assert our_loss == pytest.approx(their_loss, rel=1e-12)
    for name, value in their_metrics.items():
        assert our_metrics[name] == pytest.approx(value, abs=1e-6), name
    assert our_metrics["actor/pg_clipfrac"] > 0.05 and our_metrics["actor/pg_clipfrac_lower"] > 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("cuts", "ranks"),
    [
        ([slice(i, i + 1) for i in range(B)], 1),
        ([slice(0, 5), slice(5, 6), slice(6, 12)], 1),
        ([slice(0, 6), slice(6, 12)], 2),
        ([slice(0, 2), slice(2, 6), slice(6, 9), slice(9, 12)], 2),
    ],
)
def test_gradient_does_not_depend_on_how_the_batch_is_cut(batch, mode, cuts, ranks):
    config = actor_config(loss_scale_factor=100)
    whole, loss, _ = gradient("erpo", batch, mode, config, WHOLE)
    cut, cut_loss, _ = gradient("erpo", batch, mode, config, cuts, ranks)
    torch.testing.assert_close(cut, whole, rtol=1e-10, atol=1e-14)
    assert cut_loss == pytest.approx(loss, rel=1e-10)


def test_what_is_masked_cannot_spoil_the_gradient(batch):
    broken = {k: v.clone() for k, v in batch.items()}
    for name in ("old_log_prob", "log_prob", "advantages"):
        broken[name][~batch["response_mask"]] = float("nan")
    config = actor_config()
    good, _, _ = gradient("erpo", batch, "token-mean", config, WHOLE)
    bad, _, _ = gradient("erpo", broken, "token-mean", config, WHOLE)
    torch.testing.assert_close(bad, good, rtol=0, atol=0)
