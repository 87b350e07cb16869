"""What the processes of a run tell each other: small numbers and objects, never a batch. And statistics over all their rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor


@dataclass(frozen=True)
class Processes:
    """One of ``count`` processes. With several, every method is a collective call: all processes make it, in the same order."""

    rank: int = 0
    count: int = 1
    device: torch.device | str = "cpu"

    @classmethod
    def of(cls, accelerator: Accelerator) -> Processes:
        """Those that Accelerate knows of."""
        return cls(accelerator.process_index, accelerator.num_processes, accelerator.device)

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums over the processes, of as many values in each, in float64."""
        return self._reduce(values, torch.distributed.ReduceOp.SUM)

    def max(self, values: Sequence[float]) -> list[float]:
        """Largest of each value over the processes."""
        return self._reduce(values, torch.distributed.ReduceOp.MAX)

    def gather(self, item: Any) -> list[Any]:
        """Everybody's object, by rank; pickled, so for small ones."""
        if self.count == 1:
            return [item]
        items: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(items, item)
        return items

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """One process after the other goes through what is inside (which must not hold a collective call)."""
        for _ in range(self.rank if self.count > 1 else 0):
            torch.distributed.barrier()
        try:
            yield
        finally:
            for _ in range(self.count - self.rank if self.count > 1 else 0):
                torch.distributed.barrier()

    def _reduce(self, values: Sequence[float], operation: Any) -> list[float]:
        if self.count == 1 or not values:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(tensor, operation)
        return tensor.tolist()


ALONE = Processes()


class Tally:
    """Means, spreads and extremes over the values of all processes. Of no values at all they are NaN.

    Each process adds its own values, then asks for the ``result``; all add the same names in the same order, be it with no values.
    """

    def __init__(self) -> None:
        self._sums: dict[str, list[float]] = {}  # count, sum, sum of squares
        self._spreads: dict[str, str] = {}  # name of a standard deviation -> name of its sums
        self._largest: dict[str, float] = {}
        self._sign: dict[str, float] = {}  # -1 for the smallest, which is the largest of the negated

    def mean(self, name: str, values: Tensor, std: str | None = None) -> None:
        """The mean of all values as ``name``, and their standard deviation (population) as ``std``."""
        values = values.detach().double()
        self.ratio(name, values.sum().item(), values.numel(), values.square().sum().item() if std else 0.0)
        if std:
            self._spreads[std] = name

    def ratio(self, name: str, total: float, count: float, squares: float = 0.0) -> None:
        """All totals over all counts as ``name``."""
        sums = self._sums.setdefault(name, [0.0, 0.0, 0.0])
        for i, value in enumerate((count, total, squares)):
            sums[i] += value

    def max(self, name: str, values: Tensor) -> None:
        """The largest value as ``name``."""
        self._extreme(name, values.detach(), 1.0)

    def min(self, name: str, values: Tensor) -> None:
        """The smallest value as ``name``."""
        self._extreme(name, values.detach(), -1.0)

    def all(self, name: str, values: Tensor) -> None:
        """``name/mean``, ``name/max`` and ``name/min``."""
        self.mean(f"{name}/mean", values)
        self.max(f"{name}/max", values)
        self.min(f"{name}/min", values)

    def _extreme(self, name: str, values: Tensor, sign: float) -> None:
        found = (sign * values).max().item() if values.numel() else -math.inf
        self._largest[name] = max(self._largest.get(name, -math.inf), found)
        self._sign[name] = sign

    def result(self, processes: Processes) -> dict[str, float]:
        """All of it, over all processes (a collective call)."""
        names = list(self._sums)
        flat = iter(processes.sum([value for name in names for value in self._sums[name]]))
        sums = {name: (next(flat), next(flat), next(flat)) for name in names}
        found = {name: total / count if count else math.nan for name, (count, total, _) in sums.items()}
        for std, name in self._spreads.items():
            count, _, squares = sums[name]
            found[std] = max(0.0, squares / count - found[name] ** 2) ** 0.5 if count else math.nan
        largest = processes.max(list(self._largest.values()))
        for name, value in zip(self._largest, largest, strict=True):
            found[name] = math.nan if value == -math.inf else self._sign[name] * value
        return found
