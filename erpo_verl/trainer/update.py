"""The update: mini-batches of prompts, micro-batches of rows, the clipped loss on token advantages, KL and entropy terms.

The loss of a mini-batch is normalised by the counts of the whole mini-batch (over all processes), so its gradient depends
neither on micro-batches nor on the number of processes. Same road as verl's ``ppo_loss``, which a test compares it with.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

import torch
from omegaconf import DictConfig
from torch import Tensor

from erpo_verl.policy_loss import METRICS, aggregate_loss, erpo_policy_loss, kl_estimate
from erpo_verl.trainer.batch import Batch
from erpo_verl.trainer.metrics import add_mismatch
from erpo_verl.trainer.policy import Policy
from erpo_verl.trainer.processes import Tally


@dataclass(frozen=True)
class Normalisers:
    """Counts of one mini-batch over all processes, for ``aggregate_loss``."""

    processes: int
    tokens: float  # valid tokens
    responses: float

    def aggregate(self, values: Tensor, mask: Tensor, mode: str, scale: float) -> Tensor:
        """A micro-batch's share of the mini-batch's loss, times the number of processes (which average gradients)."""
        return aggregate_loss(
            values,
            mask,
            mode,
            dp_size=self.processes,
            batch_num_tokens=self.tokens,
            global_batch_size=self.responses,
            loss_scale_factor=scale,
        )


@dataclass(frozen=True)
class MicroBatchLoss:
    """The loss of a micro-batch, ready for ``backward``, and its metrics."""

    loss: Tensor  # scalar
    shares: dict[str, float]  # verl's metrics, as shares that add up over the mini-batch to the number of processes times its value
    tokens: int  # valid tokens
    token_sums: dict[str, float]  # sums over them: of the log-ratio old to new, of the estimate of KL(policy || reference)


def micro_batch_loss(log_prob: Tensor, entropy: Tensor | None, batch: Batch, settings: DictConfig, counts: Normalisers) -> MicroBatchLoss:
    """
    Args:
        log_prob: [b, T] float32, nats, under the policy being updated, with gradient.
        entropy: [b, T], nats, with gradient; None unless ``entropy_coeff`` is set.
        batch: the rows; ``old_log_probs``, ``advantages`` and, with a KL loss, ``ref_log_prob`` are used.
        settings: of the whole run.
        counts: of the mini-batch that the rows belong to.
    """
    actor = settings.actor_rollout_ref.actor
    device = log_prob.device
    mask = batch.response_mask.to(device)
    tokens = int(mask.sum())
    mode, scale = actor.loss_agg_mode, actor.loss_scale_factor or settings.data.max_response_length
    surrogate = erpo_policy_loss(
        old_log_prob=batch.old_log_probs.to(device),
        log_prob=log_prob,
        advantages=batch.advantages.to(device),
        response_mask=mask,
        rollout_is_weights=None if batch.rollout_is_weights is None else batch.rollout_is_weights.to(device),
        clip_ratio_low=actor.clip_ratio if actor.clip_ratio_low is None else actor.clip_ratio_low,
        clip_ratio_high=actor.clip_ratio if actor.clip_ratio_high is None else actor.clip_ratio_high,
        clip_ratio_c=actor.clip_ratio_c,
    )
    loss = policy_loss = counts.aggregate(surrogate.losses, mask, mode, scale)
    shares = {"actor/pg_loss": policy_loss.item()}
    share = tokens / counts.tokens * counts.processes  # of a mean over tokens
    shares.update({name: value * share for name, value in surrogate.metrics.items()})
    token_sums = {"ppo_kl": surrogate.metrics["actor/ppo_kl"] * tokens}
    if entropy is not None:
        entropy_term = counts.aggregate(entropy, mask, mode, scale)
        loss = loss - actor.entropy_coeff * entropy_term
        shares["actor/entropy_loss"] = entropy_term.item()
    if actor.use_kl_loss and batch.ref_log_prob is not None:
        kl = torch.where(mask, kl_estimate(log_prob, batch.ref_log_prob.to(device), actor.kl_loss_type), 0.0)
        kl_term = counts.aggregate(kl, mask, mode, scale)
        if actor.kl_loss_coef:  # a reference that is only there for ERPO costs no backward pass
            loss = loss + actor.kl_loss_coef * kl_term
        shares["actor/kl_loss"] = kl_term.item()
        token_sums["kl_loss"] = kl.sum().item()
    return MicroBatchLoss(loss, shares, tokens, token_sums)


def may_leave_rows_out(settings: DictConfig) -> bool:
    """Whether a row's gradient is its advantages' alone: no term of the loss acts on every row."""
    actor = settings.actor_rollout_ref.actor
    return actor.entropy_coeff == 0 and not (actor.use_kl_loss and actor.kl_loss_coef)


def rows_with_gradient(batch: Batch, settings: DictConfig) -> list[bool]:
    """For each row, whether it can have a gradient: not where all of its weighted advantages are exactly 0 and nothing else acts on it.

    Such a row (of a group whose responses are all right or all wrong) still counts in what losses are divided by.
    """
    if not may_leave_rows_out(settings):
        return [True] * len(batch)
    acting = batch.advantages != 0
    if batch.rollout_is_weights is not None:
        acting &= batch.rollout_is_weights != 0
    return acting.any(dim=1).tolist()


def mini_batches(batch: Batch, settings: DictConfig, processes: int, epoch: int, step: int) -> list[list[int]]:
    """Row numbers of each mini-batch: this process's share of ``ppo_mini_batch_size`` prompts, whole groups."""
    actor = settings.actor_rollout_ref.actor
    groups: dict[str, list[int]] = defaultdict(list)
    for row, uid in enumerate(batch.uid):
        groups[uid].append(row)
    members = list(groups.values())
    if actor.shuffle:
        generator = torch.Generator().manual_seed(actor.data_loader_seed * 1_000_003 + step * 1009 + epoch)
        members = [members[i] for i in torch.randperm(len(members), generator=generator).tolist()]
    size = actor.ppo_mini_batch_size // processes
    return [[row for group in members[i : i + size] for row in group] for i in range(0, len(members), size)]


def update(policy: Policy, batch: Batch, settings: DictConfig, step: int, *, measure_mismatch: bool = False) -> dict[str, float]:
    """All updates of a training step; returns verl's ``actor/...`` metrics, means over the updates.

    Rows that cannot have a gradient are not run. Of ``actor/ppo_kl`` and ``actor/kl_loss``, which are over all rows, the means over
    the tokens of the rows that were run are then given as ``actor/ppo_kl_live/mean`` and ``actor/kl_loss_live/mean``; verl's names
    are there where all rows were run. ``actor/rows_run/mean`` is the share of them.

    Args:
        policy: is changed; its learning rate moves on by one step at the end, as in verl.
        batch: this process's rows.
        settings: of the whole run.
        step: number of the training step, for shuffling.
        measure_mismatch: whether to measure how far the rollout's probabilities are from this policy's, on the first mini-batch,
            before which nothing has changed.
    """
    actor, processes = settings.actor_rollout_ref.actor, policy.processes
    policy.module.train()
    live = rows_with_gradient(batch, settings)
    partly = may_leave_rows_out(settings)
    tally = Tally()
    tally.ratio("actor/rows_run/mean", sum(live), len(live))
    terms = {"actor/entropy_loss": actor.entropy_coeff != 0, "actor/kl_loss": actor.use_kl_loss and batch.ref_log_prob is not None}
    names = ["actor/pg_loss", *METRICS, *(name for name, there in terms.items() if there)]
    over_live = [name for name in ("actor/ppo_kl", "actor/kl_loss") if name in names and partly]
    size = {"rows_at_once": actor.ppo_micro_batch_size_per_gpu}
    if actor.use_dynamic_bsz:
        size = {"tokens_at_once": actor.ppo_max_token_len_per_gpu}
    norms: list[float] = []
    for epoch in range(actor.ppo_epochs):
        for number, rows in enumerate(mini_batches(batch, settings, processes.count, epoch, step)):
            part = batch.rows(rows)
            tokens, responses = processes.sum([float(part.response_mask.sum()), float(len(part))])
            counts = Normalisers(processes.count, max(tokens, 1.0), responses)
            cuts, fillers = policy.cut(part, [live[row] for row in rows], **size)
            measured = measure_mismatch and epoch == number == 0
            for name in names:  # every process's share counts, also where it ran nothing
                tally.ratio(name, 0.0, 1.0)
            for name in over_live:
                tally.ratio(f"{name}_live/mean", 0.0, 0.0)
            if measured:
                add_mismatch(tally, *torch.empty(2, 0, 0), torch.empty(0, 0, dtype=torch.bool))
            for i, chosen in enumerate([*cuts, *fillers]):
                micro = part.rows(chosen).trim()
                with policy.accumulate(last=i + 1 == len(cuts) + len(fillers)):
                    log_prob, entropy = policy(micro, with_entropy=actor.entropy_coeff != 0, entropy_gradient=True)
                    found = micro_batch_loss(log_prob, entropy, micro, settings, counts)
                    found.loss.backward()
                if i >= len(cuts):
                    continue
                for name, value in found.shares.items():
                    tally.ratio(name, value, 0.0)
                for name in over_live:
                    tally.ratio(f"{name}_live/mean", found.token_sums[name.removeprefix("actor/")], found.tokens)
                if measured:
                    add_mismatch(tally, log_prob.detach().cpu(), micro.rollout_log_probs, micro.response_mask)
            if not cuts and not fillers:  # in any process: the optimizer still goes on, with a gradient of 0
                policy.zero_gradients()
            norms.append(policy.apply_gradients(actor.grad_clip))
    lr = policy.lr
    policy.scheduler.step()
    metrics = tally.result(processes)
    if metrics["actor/rows_run/mean"] < 1.0:
        for name in over_live:
            del metrics[name]
    finite = [norm for norm in norms if math.isfinite(norm)]
    return {
        **metrics,
        "actor/grad_norm": sum(finite) / len(finite) if finite else math.nan,
        "actor/lr": lr,
        "actor/skipped_updates/sum": float(len(norms) - len(finite)),
    }
