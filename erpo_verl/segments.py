"""Which rows belong together, and mean and spread of tokens by segment.

A segment is a run of consecutive packed tokens (`packing.py`): those of one response, or of one response in one bucket. Statistics over
scattered sets (all rows of a group) come from pooling those of their segments. Nothing here uses atomic additions, so the results are the
same on every run, on CUDA too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Groups:
    """Which rows belong together."""

    of_row: Tensor  # [B] int64, the group of each row, 0 .. G - 1
    members: Tensor  # [B] int64, the rows sorted by group, in their own order within a group
    sizes: Tensor  # [G] int64, responses in each group; may be 0

    @classmethod
    def from_ids(cls, ids: Sequence[Any] | Tensor) -> Groups:
        """From one id for each row: numbers, strings or any other hashable values (list, numpy array or tensor).

        Groups are numbered in the order of their first row.
        """
        ids = ids.tolist() if hasattr(ids, "tolist") else list(ids)
        numbers = {name: number for number, name in enumerate(dict.fromkeys(ids))}
        return cls.from_numbers(torch.tensor([numbers[name] for name in ids], dtype=torch.int64), len(numbers))

    @classmethod
    def from_numbers(cls, of_row: Tensor, count: int) -> Groups:
        """Groups 0 .. count - 1 from the number of each row's group [B] int64."""
        return cls(of_row, of_row.argsort(stable=True), torch.bincount(of_row, minlength=count))

    def means(self, values: Tensor) -> Tensor:
        """[G] float64: the mean of `values` [B] over the rows of each group; NaN for a group without rows."""
        return segment_sums(values.double()[self.members], self.sizes) / self.sizes

    def row_means(self, values: Tensor) -> Tensor:
        """[B] float64: for each row, the mean of `values` [B] over the rows of its group."""
        return self.means(values)[self.of_row]


@dataclass(frozen=True)
class Moments:
    """Number of tokens, and the sums of x and of x^2; float64, all of one shape. Empty sets: 0.

    Sums take half the work of two passes. With m the mean in units of the spread, they cost the spread a relative error of some
    1e-16 m^2; the rounding of float32 tokens themselves costs it 6e-8 m, which is more wherever a float32 spread means anything
    (m < 1e8).
    """

    count: Tensor
    total: Tensor
    square: Tensor

    @cached_property
    def mean(self) -> Tensor:
        """0 for an empty set."""
        return self.total / self.count.clamp(min=1)

    @cached_property
    def deviation(self) -> Tensor:
        """Sum of squared deviations from the mean."""
        return (self.square - self.total * self.mean).clamp_(min=0)

    @cached_property
    def std(self) -> Tensor:
        """Population standard deviation (correction 0); 0 for an empty set."""
        return (self.deviation / self.count.clamp(min=1)).sqrt_()

    def only(self, keep: Tensor) -> Moments:
        """Those of the sets for which ``keep`` (bool, to be broadcast) is true; empty sets for the others."""
        return Moments(self.count * keep, self.total * keep, self.square * keep)

    def take(self, order: Tensor) -> Moments:
        """Those of the given sets along the first dimension."""
        return Moments(self.count[order], self.total[order], self.square[order])

    def pool_last(self) -> Moments:
        """Moments over the union of the sets along the last dimension."""
        return Moments(self.count.sum(dim=-1), self.total.sum(dim=-1), self.square.sum(dim=-1))


def joined(parts: Sequence[Moments]) -> Moments:
    """Moments of all sets of ``parts``, along the first dimension."""
    return Moments(*(torch.cat([getattr(part, name) for part in parts]) for name in ("count", "total", "square")))


def moments_of(tokens: Tensor, lengths: Tensor) -> Moments:
    """Moments of each run of ``lengths`` (of any shape) consecutive ``tokens`` [n]."""
    runs, values = Runs(lengths.reshape(-1)), tokens.to(torch.float64, copy=True)
    total = runs.sums(values).view(lengths.shape)
    return Moments(lengths.double(), total, runs.sums(values.square_()).view(lengths.shape))


def pool(moments: Moments, sizes: Tensor) -> Moments:
    """Moments [G, ...] of each run of ``sizes`` [G] consecutive rows, from those [B, ...] of each row."""
    rows = torch.stack([moments.count, moments.total, moments.square], dim=1)
    return Moments(*segment_sums(rows, sizes).unbind(1))


# Three primitives. On the CPU they are numpy's, which do the same two to four times as fast as torch's.


def zeros_like(tensor: Tensor) -> Tensor:
    """Contiguous zeros of the same shape and type; on the CPU numpy's, which the system hands out in large pages as they are touched."""
    if tensor.is_cuda or tensor.dtype == torch.bfloat16:
        return torch.zeros(tensor.shape, dtype=tensor.dtype, device=tensor.device)
    return torch.from_numpy(np.zeros(tuple(tensor.shape), dtype=torch.empty(0, dtype=tensor.dtype).numpy().dtype))


class Runs:
    """Runs of `lengths` [S] consecutive entries, to be summed."""

    def __init__(self, lengths: Tensor):
        self.lengths = lengths
        if not lengths.is_cuda:
            sizes = lengths.numpy()
            # reduceat sums from each start to the next one, so an empty run must not be among the starts.
            self._starts, self._used = sizes.cumsum() - sizes, None
            if not sizes.all() or not len(sizes):
                self._used = sizes > 0
                self._starts = self._starts[self._used]

    def sums(self, values: Tensor) -> Tensor:
        """[S, ...]: sum of each run of `values` [N, ...]; 0 for an empty one."""
        if values.is_cuda:
            return torch.segment_reduce(values, "sum", lengths=self.lengths, axis=0, unsafe=True)
        if self._used is None:
            return torch.from_numpy(np.add.reduceat(values.numpy(), self._starts, axis=0))
        sums = np.zeros((len(self._used), *values.shape[1:]), dtype=values.numpy().dtype)
        if len(self._starts):
            sums[self._used] = np.add.reduceat(values.numpy(), self._starts, axis=0)
        return torch.from_numpy(sums)


def segment_sums(values: Tensor, lengths: Tensor) -> Tensor:
    """[S, ...]: sum of each run of `lengths` [S] consecutive entries of `values` [N, ...]; 0 for an empty run."""
    return Runs(lengths).sums(values)


def repeat(values: Tensor, lengths: Tensor, size: int) -> Tensor:
    """[size]: each of `values`, repeated as often as `lengths` of the same shape says."""
    if values.is_cuda:
        return torch.repeat_interleave(values.reshape(-1), lengths.reshape(-1), output_size=size)
    return torch.from_numpy(values.numpy().ravel().repeat(lengths.numpy().ravel()))
