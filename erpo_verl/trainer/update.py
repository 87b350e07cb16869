"""The update: mini-batches of prompts, micro-batches of rows, the clipped loss on token advantages, KL and entropy terms.

The loss of a mini-batch is normalised by the counts of the whole mini-batch (over all processes), so its gradient depends
neither on micro-batches nor on the number of processes. Same road as verl's ``ppo_loss``, which a test compares it with.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from omegaconf import DictConfig
from torch import Tensor

from erpo_verl.policy_loss import aggregate_loss, erpo_policy_loss
from erpo_verl.trainer.batch import Batch
from erpo_verl.trainer.policy import Policy, micro_batches


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


def micro_batch_loss(
    log_prob: Tensor, entropy: Tensor | None, batch: Batch, settings: DictConfig, counts: Normalisers
) -> tuple[Tensor, dict[str, float]]:
    """Loss of a micro-batch, and its metrics as sums over it that are ready to be added up over the mini-batch.

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
    mode, scale = actor.loss_agg_mode, actor.loss_scale_factor or settings.data.max_response_length
    surrogate = erpo_policy_loss(
        old_log_prob=batch.old_log_probs.to(device),
        log_prob=log_prob,
        advantages=batch.advantages.to(device),
        response_mask=mask,
        clip_ratio_low=actor.clip_ratio if actor.clip_ratio_low is None else actor.clip_ratio_low,
        clip_ratio_high=actor.clip_ratio if actor.clip_ratio_high is None else actor.clip_ratio_high,
        clip_ratio_c=actor.clip_ratio_c,
    )
    loss = policy_loss = counts.aggregate(surrogate.losses, mask, mode, scale)
    metrics = {"actor/pg_loss": policy_loss.item()}
    share = mask.sum().item() / counts.tokens * counts.processes  # of a mean over tokens
    metrics.update({name: value * share for name, value in surrogate.metrics.items()})
    if entropy is not None:
        entropy_term = counts.aggregate(entropy, mask, mode, scale)
        loss = loss - actor.entropy_coeff * entropy_term
        metrics["actor/entropy_loss"] = entropy_term.item()
    if actor.use_kl_loss:
        kl = kl_estimate(log_prob, batch.ref_log_prob.to(device), actor.kl_loss_type)
        kl_term = counts.aggregate(torch.where(mask, kl, 0.0), mask, mode, scale)
        if actor.kl_loss_coef:  # a reference that is only there for ERPO costs no backward pass
            loss = loss + actor.kl_loss_coef * kl_term
        metrics["actor/kl_loss"] = kl_term.item()
    return loss, metrics


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


def update(policy: Policy, batch: Batch, settings: DictConfig, step: int) -> dict[str, float]:
    """All updates of a training step; returns verl's ``actor/...`` metrics (means over the updates).

    Args:
        policy: is changed; its learning rate moves on by one step at the end, as in verl.
        batch: this process's rows.
        settings: of the whole run.
        step: number of the training step, for shuffling.
    """
    actor, processes = settings.actor_rollout_ref.actor, policy.accelerator.num_processes
    policy.module.train()
    sums: dict[str, float] = defaultdict(float)
    norms: list[float] = []
    for epoch in range(actor.ppo_epochs):
        for rows in mini_batches(batch, settings, processes, epoch, step):
            part = batch.rows(rows)
            tokens, responses = global_sum(policy, [float(part.response_mask.sum()), float(len(part))])
            counts = Normalisers(processes, max(tokens, 1.0), responses)
            cuts = _cut(policy, part, actor)
            for i, chosen in enumerate(cuts):
                micro = part.rows(chosen).trim()
                with policy.accumulate(last=i == len(cuts) - 1):
                    log_prob, entropy = policy(micro, with_entropy=actor.entropy_coeff != 0, entropy_gradient=True)
                    loss, metrics = micro_batch_loss(log_prob, entropy, micro, settings, counts)
                    loss.backward()
                for name, value in metrics.items():
                    sums[name] += value
            norms.append(policy.apply_gradients(actor.grad_clip))
    lr = policy.lr
    policy.scheduler.step()
    names = sorted(sums)
    updates = len(norms)
    # Each process's sums are of its own share, times the number of processes: their mean is the mini-batch's.
    means = [value / processes / updates for value in global_sum(policy, [sums[name] for name in names])]
    finite = [norm for norm in norms if math.isfinite(norm)]
    return {
        **dict(zip(names, means, strict=True)),
        "actor/grad_norm": sum(finite) / len(finite) if finite else math.nan,
        "actor/lr": lr,
        "actor/skipped_updates/sum": float(updates - len(finite)),
    }


def _cut(policy: Policy, part: Batch, actor: DictConfig) -> list[list[int]]:
    lengths, prompts = part.lengths.tolist(), [len(prompt.tokens) for prompt in part.prompts]
    if not actor.use_dynamic_bsz:
        return micro_batches(lengths, rows_at_once=actor.ppo_micro_batch_size_per_gpu, prompts=prompts)
    cuts = micro_batches(lengths, tokens_at_once=actor.ppo_max_token_len_per_gpu, prompts=prompts)
    if policy.sharded:  # every forward pass gathers weights: all processes must make equally many
        most = int(global_max(policy, float(len(cuts))))
        cuts = micro_batches(lengths, tokens_at_once=actor.ppo_max_token_len_per_gpu, prompts=prompts, at_least=most)
    return cuts


def global_sum(policy: Policy, values: Sequence[float]) -> list[float]:
    """Sums over all processes."""
    return _reduce(policy, values, torch.distributed.ReduceOp.SUM)


def global_max(policy: Policy, value: float) -> float:
    """Largest value over all processes."""
    return _reduce(policy, [value], torch.distributed.ReduceOp.MAX)[0]


def _reduce(policy: Policy, values: Sequence[float], operation: torch.distributed.ReduceOp.RedOpType) -> list[float]:
    if policy.accelerator.num_processes == 1 or not values:
        return list(values)
    tensor = torch.tensor(values, dtype=torch.float64, device=policy.device)
    torch.distributed.all_reduce(tensor, operation)
    return tensor.tolist()
