"""Metrics of a training batch, under the names that verl 0.9.1 gives them, so that runs of both engines share a chart."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from erpo_verl.reward import batch_metrics
from erpo_verl.trainer.batch import Batch
from erpo_verl.trainer.processes import Tally


def data_metrics(batch: Batch, max_prompt_length: int) -> dict[str, float]:
    """Scores, rewards, advantages, lengths, entropy and reward counters of a whole batch (all processes' rows); NaN over nothing.

    As in verl but for ``response_length/clip_ratio``: the share of responses that did not end by themselves (verl counts every
    one of the full length, also one that ends there).
    """
    mask = batch.response_mask
    prompt_lengths = torch.tensor([float(len(prompt.tokens)) for prompt in batch.prompts])
    metrics = {
        **_spread("critic/score", batch.scores),
        **_spread("critic/rewards", batch.token_level_rewards.sum(dim=1)),
        **_spread("critic/advantages", batch.advantages[mask]),
        **_spread("critic/returns", batch.advantages[mask]),
        **_spread("response_length", batch.lengths.float()),
        "response_length/clip_ratio": 1.0 - sum(batch.finished) / len(batch),
        **_spread("prompt_length", prompt_lengths),
        "prompt_length/clip_ratio": (prompt_lengths >= max_prompt_length).float().mean().item(),
        **batch_metrics(batch.reward_info),
    }
    if batch.entropy is not None:
        metrics["actor/entropy"] = batch.entropy[mask].mean().item()
    if batch.ref_log_prob is not None:
        metrics["actor/ref_log_ratio/mean"] = (batch.old_log_probs - batch.ref_log_prob)[mask].mean().item()
    return metrics


def add_mismatch(tally: Tally, log_probs: Tensor, rollout_log_probs: Tensor, mask: Tensor) -> None:
    """How far the rollout engine's probabilities of the sampled tokens are from those of a pass of training (verl's names).

    All [B, T]; log-probs in nats.
    """
    log_probs, rollout_log_probs = log_probs[mask], rollout_log_probs[mask]
    difference = (log_probs.exp() - rollout_log_probs.exp()).abs()
    tally.mean("training/rollout_probs_diff_mean", difference, std="training/rollout_probs_diff_std")
    tally.max("training/rollout_probs_diff_max", difference)
    tally.max("training/rollout_log_ratio_abs/max", (log_probs - rollout_log_probs).abs())


def timing_metrics(seconds: Mapping[str, float], tokens: int, processes: int) -> dict[str, float]:
    """``timing_s/...`` of each stage, ``perf/...`` of the step; ``tokens`` counts prompts and responses, as in verl."""
    step = seconds["step"]
    return {
        **{f"timing_s/{name}": value for name, value in seconds.items()},
        "perf/total_num_tokens": float(tokens),
        "perf/time_per_step": step,
        "perf/throughput": tokens / (step * processes) if step > 0 else math.nan,
    }


def _spread(name: str, values: Tensor) -> dict[str, float]:
    if not values.numel():
        return {f"{name}/{kind}": math.nan for kind in ("mean", "max", "min")}
    return {f"{name}/mean": values.mean().item(), f"{name}/max": values.max().item(), f"{name}/min": values.min().item()}
