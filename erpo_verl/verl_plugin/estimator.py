"""verl's advantage estimators of this package, one a method (``algorithm.adv_estimator=<name>``): a thin road from verl's batch
to ``erpo_verl.methods`` and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from erpo_verl import methods
from erpo_verl.verl_plugin import context


def is_ours(name: Any) -> bool:
    """Whether ``algorithm.adv_estimator=name`` means a method of this package; a name that verl has itself is verl's."""
    from verl.trainer.ppo.core_algos import AdvantageEstimator

    return name in methods.registered() and name not in {estimator.value for estimator in AdvantageEstimator}


def estimator_of(name: str) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """The function that verl calls for the method ``name``."""

    def estimate(
        token_level_rewards: torch.Tensor,
        response_mask: torch.Tensor,
        index: Sequence[Any] | None = None,
        config: Any = None,
        **_: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The method's token advantages for one batch of verl's.

        Args:
            token_level_rewards: [B, T] float.
            response_mask: [B, T]; non-zero where a token counts.
            index: B group ids (verl's ``uid``).
            config: verl's ``algorithm`` settings; the method's stand under its name.

        Returns:
            advantages and returns, the same tensor [B, T] (as verl's GRPO does).

        Raises:
            RuntimeError: called by a trainer that does not announce its batch, so that something the method needs is missing.
            ValueError: a tensor holds a number that is not finite, or shapes differ (from the method).
        """
        method = methods.get(name)
        settings = method.configure(config.get(name, None))
        batch = context.current()
        if method.inputs(settings) and (batch is None or batch.old_log_probs is None):
            raise RuntimeError(
                f"the advantage estimator {name!r} needs token entropies or old log-probs, which verl's PPOTrainer (v1) and"
                " RayPPOTrainer provide. This trainer did not announce its batch: it is not supported. `erpo doctor` shows"
                " whether the plug-in fits the installed verl."
            )
        batch = batch or context.BatchContext(entropy=lambda: None, step=None)
        given, rows = token_batch(batch, token_level_rewards, response_mask, index, config)
        result = method.credit(given, settings, state=batch.state, keep_tokens=batch.keep_tokens)
        if batch.keep_tokens:
            batch.seen = given, rows, result
        batch.keep(result.state)
        batch.log(result.metrics)
        advantages = result.advantages
        if not _all_in_order(rows, len(token_level_rewards)):
            advantages = torch.zeros_like(token_level_rewards)
            advantages[rows.to(advantages.device)] = result.advantages
        return advantages, advantages

    estimate.__name__ = f"compute_{name}_advantage"
    return estimate


def diagnose(batch: context.BatchContext, data: Any, config: Any) -> None:
    """Adds the diagnostics of an estimator of verl's own to the batch's metrics.

    Args:
        data: verl's DataProto, with ``advantages``.
        config: verl's ``algorithm`` settings.
    """
    from erpo_verl.methods.contract import diagnosed

    rewards = data.batch["token_level_rewards"]
    given, rows = token_batch(batch, rewards, data.batch["response_mask"], data.non_tensor_batch["uid"], config)
    found = diagnosed(given, data.batch["advantages"].to(rewards.device)[rows.to(rewards.device)], keep_tokens=batch.keep_tokens)
    batch.log(found.metrics)
    if batch.keep_tokens:
        batch.seen = given, rows, found


def token_batch(
    batch: context.BatchContext, token_level_rewards: torch.Tensor, response_mask: torch.Tensor, index: Sequence[Any], config: Any
) -> tuple[methods.TokenBatch, torch.Tensor]:
    """verl's batch as a method sees it, and which of verl's rows these are ([n] int64).

    Rows that verl made up to fill the batch have no token and a group of their own: they are left away. The outputs of a session
    follow each other.
    """
    padding = batch.is_padding or [False] * len(response_mask)
    kept = [row for row, made_up in enumerate(padding) if not made_up]
    deciding = None
    if batch.keys is not None and any(not batch.keys[row].endswith("_0") for row in kept):
        kept = in_sessions([batch.keys[row] for row in kept], kept)
        deciding = deciding_rows([batch.keys[row] for row in kept])
    rows, device = torch.tensor(kept, dtype=torch.int64), token_level_rewards.device
    marks, whole = batch.ungradeable(), _all_in_order(rows, len(response_mask))  # then nothing is copied

    def real(tensor: torch.Tensor | None) -> torch.Tensor | None:
        if tensor is None:
            return None
        tensor = tensor.to(device)
        return tensor if whole else tensor[rows.to(device)]

    given = methods.TokenBatch(
        token_level_rewards=real(token_level_rewards),
        response_mask=real(response_mask),
        index=np.asarray(index, dtype=object)[rows.numpy()],
        entropy=real(batch.entropy()),
        old_log_probs=real(batch.old_log_probs),
        ref_log_prob=real(batch.ref_log_prob),
        step=batch.step,
        norm_adv_by_std_in_grpo=config.get("norm_adv_by_std_in_grpo", True),
        deciding=deciding,
        left_out=None if marks is None else torch.tensor(marks)[rows],
    )
    return given, rows


def _all_in_order(rows: torch.Tensor, count: int) -> bool:
    return len(rows) == count and bool((rows == torch.arange(count)).all())


def in_sessions(keys: list[str], rows: list[int]) -> list[int]:
    """The rows in the order of their sessions' first rows, and within a session of their outputs. One key a row."""
    first: dict[str, int] = {}
    parts = [key.rsplit("_", 1) for key in keys]
    for place, (session, _) in enumerate(parts):
        first.setdefault(session, place)
    order = sorted(range(len(rows)), key=lambda place: (first[parts[place][0]], int(parts[place][1])))
    return [rows[place] for place in order]


def deciding_rows(keys: list[str]) -> torch.Tensor:
    """For each row the row that decides its session, [B] int64.

    An agent loop may return several outputs a session, under keys ``{uid}_{session}_{output}``; verl's GRPO lets the last
    of them decide.
    """
    last: dict[str, tuple[int, int]] = {}
    sessions = []
    for row, key in enumerate(keys):
        session, output = key.rsplit("_", 1)
        sessions.append(session)
        last[session] = max(last.get(session, (-1, -1)), (int(output), row))
    return torch.tensor([last[session][1] for session in sessions])
