"""Token rewards and advantages of a batch: the one place where the engine meets the method (``erpo_verl.methods``)."""

from __future__ import annotations

from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from erpo_verl import methods
from erpo_verl.methods import Credit, TokenBatch
from erpo_verl.policy_loss import kl_estimate
from erpo_verl.trainer.batch import Batch


def token_level_rewards(batch: Batch, settings: DictConfig) -> tuple[Tensor, dict[str, float]]:
    """The score at each response's last token, less a KL penalty where ``algorithm.use_kl_in_reward`` is set.

    Returns:
        [B, T] float32, and verl's metrics of the penalty: its mean over the responses, of each one's mean over its tokens.
    """
    rewards = torch.zeros(batch.response_mask.shape)
    rewards[torch.arange(len(batch)), batch.lengths - 1] = batch.scores
    if not settings.algorithm.use_kl_in_reward:
        return rewards, {}
    kl = kl_estimate(batch.old_log_probs, batch.ref_log_prob, settings.algorithm.kl_penalty)
    kl = torch.where(batch.response_mask, kl, 0.0)
    weight = settings.algorithm.kl_ctrl.kl_coef
    mean = (kl.sum(dim=1) / batch.lengths).mean().item()
    return rewards - weight * kl, {"actor/reward_kl_penalty": mean, "actor/reward_kl_penalty_coeff": weight}


def method_of(settings: DictConfig) -> methods.Method:
    """The method that ``algorithm.adv_estimator`` names."""
    return methods.get(settings.algorithm.adv_estimator)


def advantages(batch: Batch, settings: DictConfig, step: int, state: Any = None, keep_tokens: bool = False) -> Credit:
    """Credit of a whole batch (all processes' rows) by the method in use.

    Args:
        state: the method's memory, as the step before left it in ``Credit.state``.

    Raises:
        ValueError: a log-prob, entropy or reward that is not finite (names tensor, row and token).
    """
    method = method_of(settings)
    return method.credit(token_batch(batch, settings, step), settings.algorithm[method.name], state=state, keep_tokens=keep_tokens)


def token_batch(batch: Batch, settings: DictConfig, step: int) -> TokenBatch:
    """The batch as a method sees it. A reward's ``ungradeable`` marks responses that nobody could judge."""
    marks = batch.reward_info.get("ungradeable")
    return TokenBatch(
        token_level_rewards=batch.token_level_rewards,
        response_mask=batch.response_mask,
        index=batch.uid,
        entropy=batch.entropy,
        old_log_probs=batch.old_log_probs,
        ref_log_prob=batch.ref_log_prob,
        step=step,
        norm_adv_by_std_in_grpo=settings.algorithm.norm_adv_by_std_in_grpo,
        left_out=None if marks is None else torch.tensor([bool(mark) for mark in marks]),
    )
