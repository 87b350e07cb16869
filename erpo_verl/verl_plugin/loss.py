"""verl's policy loss ``erpo`` (``actor_rollout_ref.actor.policy_loss.loss_mode=erpo``)."""

from __future__ import annotations

from typing import Any

import torch

from erpo_verl.policy_loss import erpo_policy_loss


def compute_policy_loss_erpo(
    old_log_prob: torch.Tensor,
    log_prob: torch.Tensor,
    advantages: torch.Tensor,
    response_mask: torch.Tensor,
    loss_agg_mode: str = "token-mean",
    config: Any = None,
    rollout_is_weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """The clipped surrogate on token advantages, aggregated by verl over the global batch.

    Args:
        old_log_prob, log_prob, advantages: [B, T] float.
        response_mask: [B, T] bool or number; True where a token counts.
        loss_agg_mode: one of verl's modes.
        config: verl's ``ActorConfig``; its ``clip_ratio*`` settings and ``global_batch_info`` are used.
        rollout_is_weights: [B, T] importance weights of verl's rollout correction, or None.

    Returns:
        The scalar loss, and verl's metric names for a policy loss.

    Dividing by the global batch's counts (``global_batch_info``) rather than the micro-batch's is what keeps the gradient
    independent of micro-batches and ranks.
    """
    from verl.trainer.ppo.core_algos import agg_loss

    clip = config.clip_ratio
    token_loss = erpo_policy_loss(
        old_log_prob=old_log_prob,
        log_prob=log_prob,
        advantages=advantages,
        response_mask=response_mask,
        clip_ratio_low=clip if config.clip_ratio_low is None else config.clip_ratio_low,
        clip_ratio_high=clip if config.clip_ratio_high is None else config.clip_ratio_high,
        clip_ratio_c=config.get("clip_ratio_c", 3.0),
        rollout_is_weights=rollout_is_weights,
    )
    loss = agg_loss(
        loss_mat=token_loss.losses,
        loss_mask=response_mask,
        loss_agg_mode=loss_agg_mode,
        **config.global_batch_info,
    )
    return loss, token_loss.metrics
