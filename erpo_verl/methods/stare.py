"""STARE: a little more weight on surprising tokens of good responses, only while the policy is too certain.

    w_{i,t} = weight    if A_i > 0 and -log pi_old(o_t) is among the largest tenth of those tokens, and mean H < 0.3
              1         else
    A_{i,t} = w_{i,t} A_i

Source: hp-luo/STARE, known here from its description alone: the rule and its numbers are second-hand; that the tenth is taken over the
whole batch is this project's reading. A_i is GRPO's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from erpo_verl.methods.batch import Packed
from erpo_verl.methods.contract import Method, Metric, Quantity, Writer
from erpo_verl.methods.grpo import outcome_advantage
from erpo_verl.methods.strength import StrengthSettings, emphasise, largest
from erpo_verl.settings import Settings, section, setting

PREFIX = "algorithm.stare."


@dataclass(frozen=True)
class StareSettings(Settings, prefix=PREFIX):
    """Settings of STARE."""

    share: float = setting(0.1, float, "Share of the tokens with A_i > 0, those of the highest surprisal, that get the weight.", "STARE", above=0, at_most=1)
    weight: float = setting(1.1, float, "Their weight.", "STARE", at_least=0)
    below_entropy: float | None = setting(
        0.3, float, "Acts only while the batch's mean entropy is below this, in nats; null: always.", "STARE", above=0, nullable=True
    )
    normalize: str = setting(
        "none", str, "mean_one divides the weights by their mean over the batch, so that they do not change the step size.", "[here]",
        choices=("none", "mean_one"),
    )  # fmt: skip
    strength: StrengthSettings = section(StrengthSettings)


def needs(settings: StareSettings, step: int | None = None) -> set[str]:
    """Inputs of STARE: the sampled tokens' log-probs, and entropies for its switch."""
    if settings.strength.faded(step) == 0:
        return set()
    switch = settings.below_entropy is not None or settings.strength.needs_entropy
    return {"old_log_probs", "entropy"} if switch else {"old_log_probs"}


def compute(batch: Packed, settings: StareSettings, out: Writer) -> None:
    """Writes w A_i."""
    strength = settings.strength.at(batch)
    if strength > 0 and settings.below_entropy is not None and not batch.mean_entropy < settings.below_entropy:
        strength = 0.0
    positive = outcome_advantage(batch) > 0
    good = [block.spread(positive) for block in batch.blocks]
    if strength > 0:
        surprisal = [-x for x in batch.old_log_probs]
        threshold = largest([x[keep] for x, keep in zip(surprisal, good, strict=True)], settings.share)
        chosen = [keep & (x >= threshold) for x, keep in zip(surprisal, good, strict=True)]
    else:
        chosen = [torch.zeros_like(keep) for keep in good]
    mean_one = settings.normalize == "mean_one"
    emphasise(batch, out, chosen, weight=settings.weight, rest=1.0, strength=strength, mean_one=mean_one)
    out.metrics = {"stare/chosen_share/mean": out.pooled.mean("chosen"), "stare/strength/mean": strength}


METHOD = Method(
    "stare",
    "STARE: a little more weight on the most surprising tokens of good responses, only while the mean entropy is below a target",
    compute,
    settings=StareSettings,
    needs=needs,
    without={"entropy": f"set {PREFIX}below_entropy=null and {PREFIX}strength.entropy_target=null"},
    metrics=(
        Metric("stare/chosen_share/mean", "share of the batch's tokens that get the weight", "0 to 1", "STARE", "STARE: tokens with more weight"),
        Metric("stare/strength/mean", "strength at this step: 0 where the mean entropy is not below `below_entropy`", "0 to 1", "STARE, [here]"),
    ),
    tokens=(Quantity("weight", "weight", "What the outcome's advantage is multiplied by.", "", "STARE"),),
)
