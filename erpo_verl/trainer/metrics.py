"""Metrics of a training batch, under the names that verl 0.9.1 gives them, so that runs of both engines share a chart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from erpo_verl.reward import batch_metrics
from erpo_verl.trainer.batch import Batch
from erpo_verl.trainer.processes import ALONE, Processes, Tally


def data_metrics(batch: Batch, max_prompt_length: int, processes: Processes = ALONE) -> dict[str, float]:
    """Scores, rewards, advantages, lengths, entropy and reward counters of the rows of all processes (a collective call); NaN over nothing.

    As in verl but for ``response_length/clip_ratio``: the share of responses that did not end by themselves (verl counts every
    one of the full length, also one that ends there).
    """
    mask, tally = batch.response_mask, Tally()
    prompt_lengths = torch.tensor([float(len(prompt.tokens)) for prompt in batch.prompts])
    tally.all("critic/score", batch.scores)
    tally.all("critic/rewards", batch.token_level_rewards.sum(dim=1))
    tally.all("critic/advantages", batch.advantages[mask])
    tally.all("critic/returns", batch.advantages[mask])
    tally.all("response_length", batch.lengths.float())
    tally.ratio("response_length/clip_ratio", len(batch) - sum(batch.finished), len(batch))
    tally.all("prompt_length", prompt_lengths)
    tally.mean("prompt_length/clip_ratio", (prompt_lengths >= max_prompt_length).float())
    if batch.entropy is not None:
        tally.mean("actor/entropy", batch.entropy[mask])
    if batch.ref_log_prob is not None:
        known = mask if batch.without_reference is None else mask & ~batch.without_reference[:, None]
        tally.mean("actor/ref_log_ratio/mean", (batch.old_log_probs - batch.ref_log_prob)[known])
    columns: dict[str, list[Any]] = {}
    for part in processes.gather(batch.reward_info):
        for key, values in part.items():
            columns.setdefault(key, []).extend(values)
    return {**tally.result(processes), **batch_metrics(columns)}


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
