"""80/20: the gradient on the fifth of tokens with the highest entropy alone. Source: arXiv 2506.01939.

    A_{i,t} = A_i    if H_{i,t} is among the largest fifth of the batch's
              0      else

The fifth is taken over the whole batch (the paper's own granularity could not be read here). A_i is GRPO's. Losses are still divided by
all tokens: the step is about as much smaller as the share says. ``normalize`` mean_one is the twin of GRPO's step size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from erpo_verl.methods.batch import Packed
from erpo_verl.methods.contract import Method, Metric, Quantity, Writer
from erpo_verl.methods.strength import StrengthSettings, emphasise, largest
from erpo_verl.settings import Settings, section, setting

PREFIX = "algorithm.high_entropy."


@dataclass(frozen=True)
class HighEntropySettings(Settings, prefix=PREFIX):
    """Settings of 80/20."""

    share: float = setting(0.2, float, "Share of the batch's tokens, those of the highest entropy, that carry the gradient.", "arXiv 2506.01939", above=0, at_most=1)
    normalize: str = setting(
        "none", str, "mean_one divides the weights (1 and 0) by their mean over the batch, so that the step is not smaller.", "[here]",
        choices=("none", "mean_one"),
    )  # fmt: skip
    strength: StrengthSettings = section(StrengthSettings)


def needs(settings: HighEntropySettings, step: int | None = None) -> set[str]:
    """Entropies, while the emphasis acts."""
    return {"entropy"} if settings.strength.faded(step) > 0 else set()


def compute(batch: Packed, settings: HighEntropySettings, out: Writer) -> None:
    """Writes A_i on the chosen tokens."""
    strength = settings.strength.at(batch)
    if strength > 0:
        threshold = largest(batch.entropy, settings.share)
        chosen = [threshold <= H for H in batch.entropy]
    else:
        threshold = batch.R.new_full((), float("nan"))
        chosen = [torch.ones(block.size, dtype=torch.bool, device=block.lengths.device) for block in batch.blocks]
    emphasise(batch, out, chosen, weight=1.0, rest=0.0, strength=strength, mean_one=settings.normalize == "mean_one")
    out.metrics = {
        "high_entropy/chosen_share/mean": out.pooled.mean("chosen"),
        "high_entropy/threshold/mean": float(threshold),
        "high_entropy/strength/mean": strength,
    }


METHOD = Method(
    "high_entropy",
    "80/20 (arXiv 2506.01939): the gradient on the fifth of tokens with the highest entropy alone",
    compute,
    settings=HighEntropySettings,
    needs=needs,
    metrics=(
        Metric("high_entropy/chosen_share/mean", "share of the batch's tokens that carry the gradient; 1 where the strength is 0", "0 to 1", "arXiv 2506.01939"),
        Metric("high_entropy/threshold/mean", "entropy from which on a token carries it", "nats", "arXiv 2506.01939", "80/20: entropy threshold"),
        Metric("high_entropy/strength/mean", "strength at this step", "0 to 1", "[here]"),
    ),
    tokens=(Quantity("weight", "weight", "What the outcome's advantage is multiplied by.", "", "arXiv 2506.01939"),),
)
