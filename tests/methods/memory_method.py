"""A method with a memory, for tests of what engines do with it: the advantage falls by the number of batches seen."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from erpo_verl.methods.contract import Method, Metric, Packed, Quantity, Settings, Writer
from erpo_verl.methods.grpo import outcome_advantage
from erpo_verl.settings import setting


@dataclass(frozen=True)
class MemorySettings(Settings, prefix="algorithm.memory_method."):
    rate: float = setting(0.5, float, "How fast the running mean of the rewards follows.", "[test]", above=0, at_most=1)


def compute(batch: Packed, settings: MemorySettings, out: Writer) -> None:
    mean = out.state["mean"] + settings.rate * (batch.R.double().mean() - out.state["mean"])
    out.state = {"mean": mean, "batches": out.state["batches"] + 1}
    out.outcome = outcome_advantage(batch)
    A = (out.outcome + mean).to(batch.dtype)
    for number, block in enumerate(batch.blocks):
        out.put(number, block.spread(A), shifted=block.spread(A) - 1)
    out.metrics = {"memory_method/baseline/mean": float(mean)}


METHOD = Method(
    "memory_method",
    "adds a running mean of the rewards",
    compute,
    settings=MemorySettings,
    metrics=(Metric("memory_method/baseline/mean", "running mean of the rewards", "any", "[test]"),),
    tokens=(Quantity("shifted", "shifted", "The advantage less one.", "", signed=True),),
    first_state=lambda settings: {"mean": torch.zeros((), dtype=torch.float64), "batches": 0},
)
