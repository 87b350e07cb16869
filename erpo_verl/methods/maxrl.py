"""MaxRL: the outcome's advantage by the group's mean, so that hard prompts count more. Source: arXiv 2602.02710.

    A_i = (R_i - mean_g R) / mean_g R    where mean_g R > 0
          0                              else

Meant for outcomes of 0 and 1 (or any that are not negative): one right answer among n then has A_i = n - 1. The step is larger than
GRPO's where prompts are hard; ``normalize`` grpo_size is the twin of GRPO's step size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from erpo_verl.methods.batch import Packed
from erpo_verl.methods.contract import Method, Writer
from erpo_verl.methods.grpo import outcome_advantage
from erpo_verl.segments import Groups
from erpo_verl.settings import Settings, setting


@dataclass(frozen=True)
class MaxRLSettings(Settings, prefix="algorithm.maxrl."):
    """Settings of MaxRL."""

    normalize: str = setting(
        "none", str, "grpo_size multiplies all advantages by one number, so that the mean of |A_i| over the batch is GRPO's.", "[here]",
        choices=("none", "grpo_size"),
    )  # fmt: skip


def by_the_mean(R: Tensor, groups: Groups) -> Tensor:
    """(R - mean_g R) / mean_g R, [D] in the dtype of R; 0 where the mean is not above 0."""
    mean = groups.row_means(R)
    return torch.where(mean > 0, (R - mean) / torch.where(mean > 0, mean, 1), 0).to(R.dtype)


def compute(batch: Packed, settings: MaxRLSettings, out: Writer) -> None:
    """Writes A_i on every token."""
    A = batch.by_outcome(by_the_mean)
    factor = 1.0
    if settings.normalize == "grpo_size":
        ours, theirs = (x.abs().double().mean().item() for x in (A, outcome_advantage(batch)))
        factor = theirs / ours if ours else 1.0
    out.outcome = A * factor
    for number, block in enumerate(batch.blocks):
        out.put(number, block.spread(out.outcome.to(batch.dtype)))


METHOD = Method(
    "maxrl",
    "MaxRL (arXiv 2602.02710): the outcome less the group's mean, divided by that mean, so that hard prompts count more",
    compute,
    settings=MaxRLSettings,
)
