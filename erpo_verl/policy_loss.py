"""The clipped surrogate on token advantages, and how token losses become one number.

ERPO's objective is PPO's clipped surrogate with one advantage per token ([E], certainty medium; ``docs/method.md``).
Clipping, dual clip and the aggregation modes follow verl 0.9.1, so that a run differs from GRPO in its advantages only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# |log ratio| beyond this is cut off before exp(), as verl does: exp(20) = 5e8 is far outside any clip range already.
LOG_RATIO_LIMIT = 20.0

METRICS = ("actor/pg_clipfrac", "actor/ppo_kl", "actor/pg_clipfrac_lower")  # of a policy loss: shares of tokens, and nats

AGGREGATION_MODES = ("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-sum-norm", "seq-mean-token-mean")


@dataclass(frozen=True)
class PolicyLoss:
    """``losses`` [B, T]: loss of each token, exactly 0 at masked ones, with gradient to ``log_prob``; ``metrics``."""

    losses: Tensor
    metrics: dict[str, float]


def erpo_policy_loss(
    *,
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    clip_ratio_low: float = 0.2,
    clip_ratio_high: float = 0.2,
    clip_ratio_c: float = 3.0,
    rollout_is_weights: Tensor | None = None,
) -> PolicyLoss:
    """Per-token clipped surrogate: ``max(-A r, -A clip(r))``, and for A < 0 at most ``-A clip_ratio_c`` (dual clip).

    Args:
        old_log_prob: [B, T] float, log-probabilities (nats) under the policy before the update.
        log_prob: [B, T] float, log-probabilities (nats) under the policy being updated; the loss has its gradient.
        advantages: [B, T] float, one advantage per token.
        response_mask: [B, T] bool, int or float; non-zero marks a valid token. What the other tensors hold at masked
            tokens (NaN and inf included) does not matter, neither to the loss nor to the gradient.
        clip_ratio_low, clip_ratio_high: the ratio r is clipped to [1 - low, 1 + high]; low in [0, 1], high >= 0.
        clip_ratio_c: bound on the ratio for negative advantages, > 1.
        rollout_is_weights: [B, T] float, factors on the token losses (rollout correction), or None.

    Returns:
        PolicyLoss. Its metrics are means over the valid tokens of this call (0 if there are none), named as in verl's
        own loss: ``actor/pg_clipfrac`` (share of tokens where the clipped term decides), ``actor/ppo_kl`` (mean of
        log pi_old - log pi, nats) and ``actor/pg_clipfrac_lower`` (share where the dual clip decides).

    Raises:
        ValueError: a clip ratio out of range, or tensors of different shapes.
    """
    if not clip_ratio_c > 1.0:
        raise ValueError(f"clip_ratio_c = {clip_ratio_c}: must be > 1 (bound on the ratio where A < 0)")
    if not 0.0 <= clip_ratio_low <= 1.0:
        raise ValueError(f"clip_ratio_low = {clip_ratio_low}: must be in [0, 1]")
    if not clip_ratio_high >= 0.0:
        raise ValueError(f"clip_ratio_high = {clip_ratio_high}: must be >= 0")
    given = {
        "old_log_prob": old_log_prob,
        "log_prob": log_prob,
        "advantages": advantages,
        "rollout_is_weights": rollout_is_weights,
    }
    for name, tensor in given.items():
        if tensor is not None and tensor.shape != response_mask.shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, response_mask {tuple(response_mask.shape)}: must be equal"
            )

    valid = response_mask.bool()
    # where(), not a product: NaN * 0 is NaN, and so would be its gradient. An advantage of 0 makes a loss of 0.
    log_ratio = torch.where(valid, log_prob, 0.0) - torch.where(valid, old_log_prob, 0.0)
    log_ratio = log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    advantages = torch.where(valid, advantages, 0.0)

    ratio = log_ratio.exp()
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip_ratio_low, 1 + clip_ratio_high)
    surrogate = torch.maximum(plain, clipped)
    bound = -advantages * clip_ratio_c
    losses = torch.where(advantages < 0, torch.minimum(surrogate, bound), surrogate)
    if rollout_is_weights is not None:
        losses = losses * torch.where(valid, rollout_is_weights, 0.0)

    with torch.no_grad():
        tokens = valid.sum().clamp(min=1)
        values = torch.stack(
            [
                (clipped > plain).sum() / tokens,
                -log_ratio.sum() / tokens,
                ((surrogate > bound) & (advantages < 0)).sum() / tokens,
            ]
        ).tolist()
    return PolicyLoss(losses, dict(zip(METRICS, values, strict=True)))


def kl_estimate(log_prob: Tensor, ref_log_prob: Tensor, kind: str) -> Tensor:
    """Estimate of KL(policy || reference) at each token, nats, from the two log-probs of the sampled token.

    ``kl``/``k1``: the log ratio; ``abs``: its size; ``mse``/``k2``: half its square; ``low_var_kl``/``k3``: r - 1 - log r with
    r = pi_ref / pi, never negative (J. Schulman, "Approximating KL divergence"), cut off at 10 as in verl.
    """
    if kind in ("kl", "k1"):
        return log_prob - ref_log_prob
    if kind == "abs":
        return (log_prob - ref_log_prob).abs()
    if kind in ("mse", "k2"):
        return 0.5 * (log_prob - ref_log_prob).square()
    if kind in ("low_var_kl", "k3"):
        log_ratio = (ref_log_prob - log_prob).clamp(-20, 20)
        return (log_ratio.exp() - log_ratio - 1).clamp(-10, 10)
    raise ValueError(f"KL estimator {kind!r}: must be one of kl, k1, abs, mse, k2, low_var_kl, k3")


def aggregate_loss(
    losses: Tensor,
    response_mask: Tensor,
    mode: str = "token-mean",
    *,
    dp_size: int = 1,
    batch_num_tokens: float | None = None,
    global_batch_size: float | None = None,
    loss_scale_factor: float | None = None,
) -> Tensor:
    """One number from token losses, so that its gradient does not depend on how the batch is cut.

    Give the normaliser of the whole (global) batch, and the sum over micro-batches, averaged over ``dp_size`` ranks (as
    DDP and FSDP average gradients), is the loss of the whole batch. Without it, this call's own count is used.

    Args:
        losses: [B, T] float, token losses; values at masked tokens do not matter.
        response_mask: [B, T], non-zero marks a valid token.
        mode: ``token-mean`` (sum over tokens / ``batch_num_tokens``), ``token-sum``, ``seq-mean-token-sum`` (each
            response's sum, over ``global_batch_size``), ``seq-mean-token-sum-norm`` (the same over
            ``loss_scale_factor``, by default T) or ``seq-mean-token-mean`` (each response's mean over its valid tokens,
            over ``global_batch_size``). A response with no valid token counts neither above nor below the line.
        dp_size: number of data-parallel ranks, >= 1.
        batch_num_tokens: valid tokens in the global batch (> 0); needed by ``token-mean`` where dp_size > 1.
        global_batch_size: responses in the global batch (> 0); needed by the ``seq-mean`` modes where dp_size > 1.
        loss_scale_factor: constant of ``seq-mean-token-sum-norm``; None for T.

    Returns:
        Scalar tensor; 0, with a gradient of 0, if no token is valid.

    Raises:
        ValueError: unknown mode, different shapes, or a missing global normaliser.
    """
    if mode not in AGGREGATION_MODES:
        raise ValueError(f"loss aggregation mode {mode!r}: must be one of {', '.join(AGGREGATION_MODES)}")
    if losses.shape != response_mask.shape:
        raise ValueError(f"losses has shape {tuple(losses.shape)}, response_mask {tuple(response_mask.shape)}")
    valid = response_mask.bool()
    losses = torch.where(valid, losses, 0.0)
    if mode == "token-sum":
        return losses.sum() * dp_size
    if mode == "token-mean":
        tokens = _normaliser(batch_num_tokens, valid.sum(), "batch_num_tokens", mode, dp_size)
        return losses.sum() / tokens * dp_size

    lengths = valid.sum(dim=-1)
    per_response = losses.sum(dim=-1)
    if mode == "seq-mean-token-mean":
        per_response = per_response / lengths.clamp(min=1)
    responses = _normaliser(global_batch_size, (lengths > 0).sum(), "global_batch_size", mode, dp_size)
    loss = per_response.sum() / responses * dp_size
    if mode == "seq-mean-token-sum-norm":
        loss = loss / (losses.shape[-1] if loss_scale_factor is None else loss_scale_factor)
    return loss


def _normaliser(given: float | None, own_count: Tensor, name: str, mode: str, dp_size: int) -> float | Tensor:
    """The global count if it is given, else this call's own (at least 1, so that an empty batch gives 0 and not NaN)."""
    if given is not None:
        return given
    if dp_size > 1:
        raise ValueError(f"{name} (of the global batch) is needed by {mode} where dp_size > 1")
    return own_count.clamp(min=1)
