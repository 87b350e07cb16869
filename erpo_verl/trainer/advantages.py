"""Token rewards and advantages of a step: the one place where the engine meets the method (``erpo_verl.methods``).

Each process has whole groups, so it computes the advantages of its own rows. What goes between processes is sums for metrics, and the token
numbers of all rows only for a method whose groups depend on each other (``Method.across_groups``) or that has a memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from erpo_verl import methods
from erpo_verl.methods import Credit, TokenBatch
from erpo_verl.policy_loss import kl_estimate
from erpo_verl.trainer.batch import Batch
from erpo_verl.trainer.processes import ALONE, Processes


def token_level_rewards(batch: Batch, settings: DictConfig, processes: Processes = ALONE) -> tuple[Tensor, dict[str, float]]:
    """The score at each response's last token, less a KL penalty where ``algorithm.use_kl_in_reward`` is set.

    Returns:
        [B, T] float32 of this process's rows, and verl's metrics of the penalty: its mean over all responses, of each one's mean over
        its tokens.
    """
    rewards = torch.zeros(batch.response_mask.shape)
    rewards[torch.arange(len(batch)), batch.lengths - 1] = batch.scores
    if not settings.algorithm.use_kl_in_reward:
        return rewards, {}
    kl = kl_estimate(batch.old_log_probs, batch.ref_log_prob, settings.algorithm.kl_penalty)
    kl = torch.where(batch.response_mask, kl, 0.0)
    weight = settings.algorithm.kl_ctrl.kl_coef
    total, count = processes.sum([(kl.sum(dim=1) / batch.lengths).sum().item(), float(len(batch))])
    return rewards - weight * kl, {"actor/reward_kl_penalty": total / count, "actor/reward_kl_penalty_coeff": weight}


def method_of(settings: DictConfig) -> methods.Method:
    """The method that ``algorithm.adv_estimator`` names."""
    return methods.get(settings.algorithm.adv_estimator)


def advantages(
    batch: Batch, settings: DictConfig, step: int, state: Any = None, keep_tokens: bool = False, processes: Processes = ALONE
) -> Credit:
    """Credit of this process's rows by the method in use, with the metrics of all processes' rows (a collective call).

    Args:
        state: the method's memory, as the step before left it in ``Credit.state``.

    Raises:
        ValueError: a log-prob, entropy or reward that is not finite (names tensor, row and token).
    """
    method, given = method_of(settings), token_batch(batch, settings, step)
    chosen = method.configure(settings.algorithm[method.name])
    if processes.count == 1:
        return method.credit(given, chosen, state=state, keep_tokens=keep_tokens)
    if method.across_groups(chosen) or method.first_state is not None:
        parts = processes.gather(given)
        credit = method.credit(_joined(parts), chosen, state=state, keep_tokens=keep_tokens)
        return _own(credit, first=sum(len(part.index) for part in parts[: processes.rank]), given=given)
    given = replace(given, mean_entropy=_mean_entropy(given, processes))
    credit = method.credit(given, chosen, keep_tokens=keep_tokens, together=Between(processes))
    return replace(credit, metrics=_of_all(credit.metrics, processes))


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
        without_reference=batch.without_reference,
        step=step,
        norm_adv_by_std_in_grpo=settings.algorithm.norm_adv_by_std_in_grpo,
        left_out=None if marks is None else torch.tensor([bool(mark) for mark in marks]),
    )


@dataclass(frozen=True)
class Between:
    """Metrics of the rows of all processes (``erpo_verl.methods.batch.Together``)."""

    processes: Processes

    def pool(self, found: Mapping[str, float]) -> dict[str, float]:
        """Sums and extremes over the processes that have rows."""
        pooled: dict[str, list[float]] = {}
        for part in self.processes.gather(dict(found)):
            for name, value in part.items():
                pooled.setdefault(name, []).append(value)
        return {name: {"max": max, "min": min}.get(name.rpartition(" ")[2], sum)(values) for name, values in pooled.items()}

    def cat(self, values: Tensor) -> Tensor:
        """Values of all processes, by rank."""
        return torch.cat([part.to(values.device) for part in self.processes.gather(values.cpu())])


def _mean_entropy(given: TokenBatch, processes: Processes) -> float | None:
    """Over the valid tokens of all rows that are not left out; None without entropies."""
    if given.entropy is None:
        return None
    kept = given.kept_rows()
    entropy, mask = (x if kept is None else x[kept] for x in (given.entropy, given.response_mask))
    total, count = processes.sum([entropy[mask].double().sum().item(), float(mask.sum())])
    return total / count if count else math.nan


def _of_all(metrics: dict[str, float], processes: Processes) -> dict[str, float]:
    """Metrics that a method made of this process's rows alone, over all processes; those that are of all rows stay as they are."""
    merged: dict[str, float] = {}
    parts = processes.gather(metrics)
    for name in dict.fromkeys(name for part in parts for name in part):
        values = [part[name] for part in parts if part.get(name, math.nan) == part.get(name, math.nan) and name in part]
        reduction = {"max": max, "min": min}.get(name.rpartition("/")[2], lambda some: sum(some) / len(some))
        merged[name] = math.nan if not values else values[0] if len(set(values)) == 1 else reduction(values)
    return merged


def _joined(parts: Sequence[TokenBatch]) -> TokenBatch:
    """All rows, those of shorter responses padded."""
    width = max(part.response_mask.shape[1] for part in parts)
    changes: dict[str, Any] = {"index": [uid for part in parts for uid in part.index]}
    for name in ("token_level_rewards", "response_mask", "entropy", "old_log_probs", "ref_log_prob"):
        tensors = [getattr(part, name) for part in parts]
        if tensors[0] is not None:
            changes[name] = torch.cat([torch.nn.functional.pad(x, (0, width - x.shape[1])) for x in tensors])
    for name in ("left_out", "without_reference"):
        marks = [getattr(part, name) for part in parts]
        if any(mark is not None for mark in marks):
            sizes = [len(part.index) for part in parts]
            changes[name] = torch.cat([torch.zeros(n, dtype=torch.bool) if m is None else m for m, n in zip(marks, sizes, strict=True)])
    return replace(parts[0], **changes)


def _own(credit: Credit, first: int, given: TokenBatch) -> Credit:
    """This process's rows of a credit of all, which begin at row ``first``."""
    rows = slice(first, first + len(given.index))
    tokens = credit.tokens
    if tokens is not None:
        mine = (tokens.row >= rows.start) & (tokens.row < rows.stop)
        quantities = {name: None if x is None else x[mine] for name, x in tokens.quantities.items()}
        picked = {name: getattr(tokens, name)[mine] for name in ("column", "position", "outcome", "advantages")}
        tokens = replace(tokens, row=tokens.row[mine] - first, quantities=quantities, **picked)
    return replace(credit, advantages=credit.advantages[rows, : given.response_mask.shape[1]], outcome=credit.outcome[rows], tokens=tokens)
