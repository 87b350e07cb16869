"""verl's advantage estimator ``erpo`` (``algorithm.adv_estimator=erpo``): a thin road from verl's batch to the core."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from erpo_verl.methods.erpo import ErpoConfig, erpo_advantages
from erpo_verl.verl_plugin import context


def compute_erpo_advantage(
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: Sequence[Any] | None = None,
    config: Any = None,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """ERPO's token advantages for one batch of verl's.

    Args:
        token_level_rewards: [B, T] float.
        response_mask: [B, T]; non-zero where a token counts.
        index: B group ids (verl's ``uid``).
        config: verl's ``algorithm`` settings; ERPO's stand under ``erpo``.

    Returns:
        advantages and returns, the same tensor [B, T] (as verl's GRPO does).

    Raises:
        RuntimeError: called by a trainer that does not announce its batch, so that entropies are missing.
        ValueError: a tensor holds a number that is not finite, or shapes differ (from the core).
    """
    batch = context.current()
    if batch is None or batch.old_log_probs is None:
        raise RuntimeError(
            "the advantage estimator 'erpo' needs token entropies and old log-probs, which verl's PPOTrainer (v1) and"
            " RayPPOTrainer provide. This trainer did not announce its batch: it is not supported. `erpo doctor` shows"
            " whether the plug-in fits the installed verl."
        )
    # Rows that verl made up to fill the batch have no token and a group of their own; they must not enter the diagnostics.
    padding = batch.is_padding or [False] * len(response_mask)
    rows = torch.tensor([not made_up for made_up in padding])
    keys = None if batch.keys is None else [key for key, made_up in zip(batch.keys, padding, strict=True) if not made_up]
    device = token_level_rewards.device

    def real(tensor: torch.Tensor | None) -> torch.Tensor | None:
        return None if tensor is None else tensor.to(device)[rows]

    result = erpo_advantages(
        token_level_rewards=real(token_level_rewards),
        response_mask=real(response_mask),
        index=np.asarray(index, dtype=object)[rows.numpy()],
        entropy=real(batch.entropy()),
        old_log_probs=real(batch.old_log_probs),
        ref_log_prob=real(batch.ref_log_prob),
        config=ErpoConfig.from_mapping(config.get("erpo", None)),
        step=batch.step,
        norm_adv_by_std_in_grpo=config.get("norm_adv_by_std_in_grpo", True),
        deciding=deciding_rows(keys),
    )
    # An empty set has no mean: a gap, as verl's file logger would write a NaN that is no JSON.
    batch.metrics.update({name: value for name, value in result.metrics.items() if not math.isnan(value)})
    advantages = torch.zeros_like(token_level_rewards)
    advantages[rows.to(device)] = result.advantages
    return advantages, advantages


def deciding_rows(keys: list[str] | None) -> torch.Tensor | None:
    """For each row the row that decides its session, [B] int64; None if every session has one row.

    An agent loop may return several outputs a session, under keys ``{uid}_{session}_{output}``; verl's GRPO lets the last
    of them decide.
    """
    if keys is None or all(key.endswith("_0") for key in keys):
        return None
    last: dict[str, tuple[int, int]] = {}
    sessions = []
    for row, key in enumerate(keys):
        session, output = key.rsplit("_", 1)
        sessions.append(session)
        last[session] = max(last.get(session, (-1, -1)), (int(output), row))
    return torch.tensor([last[session][1] for session in sessions])
