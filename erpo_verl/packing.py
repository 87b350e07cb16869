"""Valid tokens of a padded batch, packed.

The batch is worked on in blocks: rows of whole groups whose tokens fit a CPU's cache, or all rows at once on CUDA. A block's n valid
tokens are packed one response after the other, so that a response's tokens, and those of each of its buckets, are a run. Nothing
of the size of the batch is made but its result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from erpo_verl.segments import Groups, repeat, segment_sums

# Tokens of a block on the CPU, at about which number the handful of vectors in use leaves the cache, and fewer are mostly overhead.
_CPU_BLOCK = 1 << 18
# Positions of the mask that are looked at in one go.
_CPU_SCAN = 1 << 18
# Runs of valid tokens that are longer than this on average are copied run by run, shorter ones index by index.
_LONG_RUN = 256
# Entropies are summed in this many units a nat.
_ENTROPY_UNITS = 2.0**32


@dataclass(frozen=True)
class Block:
    """b rows, the g whole groups one after the other: where their n valid tokens are, and how they fall into b x K segments."""

    rows: Tensor  # [b] int64 on the CPU, numbers of the rows in the batch
    columns: int  # T
    size: int  # n
    longest: int  # tokens of the longest response
    group_sizes: Tensor  # [g] int64, rows of each group
    group_of_row: Tensor  # [b] int64, 0 .. g - 1
    group_lengths: Tensor  # [g] int64, tokens of each group
    lengths: Tensor  # [b] int64, T_i: valid tokens of each row
    bucket_lengths: Tensor  # [b, K] int64, tokens of each segment; K = 1 until they are `cut`
    _flat: Callable[[], Tensor] = field(repr=False)  # makes `flat`
    _runs: Sequence[tuple[int, int]] | None = field(default=None, repr=False)  # in place of it, if they are long: first position and the end
    _last: dict[str, Any] = field(default_factory=dict, repr=False)  # shared by all blocks: the flat that was made last, and for which

    @property
    def flat(self) -> Tensor:
        """[n] int64, place of each token in the flattened [B, T]. Made anew when another block's was asked for in between."""
        if self._last.get("make") is not self._flat:
            self._last.update(make=self._flat, flat=self._flat())
        return self._last["flat"]

    def take(self, batch: Tensor) -> Tensor:
        """[n]: the valid tokens of these rows, out of a contiguous `batch` [B, T]."""
        source = batch.detach().reshape(-1)
        if self._runs is None or source.dtype == torch.bfloat16:
            return source.index_select(0, self.flat)
        array = source.numpy()
        return torch.from_numpy(np.concatenate([array[start:end] for start, end in self._runs]))

    def put(self, tokens: Tensor, batch: Tensor) -> None:
        """Writes the tokens [n] to their places in a contiguous `batch` [B, T] of zeros, in its dtype."""
        target, tokens = batch.view(-1), tokens.to(batch.dtype)
        if self._runs is None or tokens.dtype == torch.bfloat16:
            target.scatter_(0, self.flat, tokens)
            return
        array, values, at = target.numpy(), tokens.numpy(), 0
        for start, end in self._runs:
            array[start:end] = values[at : at + end - start]
            at += end - start

    def spread(self, values: Tensor) -> Tensor:
        """[n]: each token's value, out of one for each row of the batch [B] or for each row and bucket [B, K]."""
        values = values[self.rows if values.is_cpu else self.rows.to(values.device)]
        return self.repeat(values.to(self.lengths.device), self.lengths if values.ndim == 1 else self.bucket_lengths)

    def repeat(self, values: Tensor, lengths: Tensor) -> Tensor:
        """[n]: each token's value, out of one for each run of ``lengths``: those of the block's rows, groups or buckets."""
        return repeat(values, lengths, self.size)

    def cut_by_entropy(self, entropy: Tensor, session: Tensor | None = None) -> Block:
        """Cut by cumulative `entropy` [n] into as many buckets: k = min(floor(K S_t / S_T), K - 1), where S_t is the sum of the
        response's entropies up to and including t. A response whose entropies are all 0 stays cut by position."""
        if not self.size:
            return self
        return replace(self, bucket_lengths=_entropy_edges(entropy, self, session).diff(dim=1))

    @property
    def row(self) -> Tensor:
        """[n] int64, each token's row in the batch."""
        return self.flat // max(self.columns, 1)

    @property
    def column(self) -> Tensor:
        """[n] int64, each token's column in the batch."""
        return self.flat % max(self.columns, 1)

    @property
    def position(self) -> Tensor:
        """[n] int64, t: number of valid tokens before this one in its response."""
        starts = self.lengths.cumsum(0) - self.lengths
        return torch.arange(self.size, device=self.lengths.device) - self.repeat(starts, self.lengths)

    @property
    def bucket(self) -> Tensor:
        """[n] int64, k in 0 .. K - 1."""
        return self.repeat(torch.arange(self.bucket_lengths.shape[1], device=self.lengths.device).expand(self.bucket_lengths.shape), self.bucket_lengths)


def pack(response_mask: Tensor, groups: Groups, lengths: Tensor | None = None) -> list[Block]:
    """Packs the valid tokens of `response_mask` [B, T].

    Args:
        groups: of the B rows.
        lengths: [B] int64 on the CPU, valid tokens of each row. On CUDA it must be given: it says how much room the tokens take.
    """
    if response_mask.is_cuda:
        return [_whole(response_mask, groups, lengths)]
    starts, sizes, first = _runs_of(response_mask)
    members, group_sizes = groups.members.numpy(), groups.sizes.numpy()
    # Everything in the order of the groups; a block is a stretch of that.
    of_row = np.concatenate([[0], np.cumsum(sizes)])[first]
    of_row = np.diff(of_row)[members]
    row_ends = np.cumsum(group_sizes)
    of_group = np.add.reduceat(of_row, row_ends - group_sizes)
    if not np.array_equal(members, np.arange(len(members))):
        chosen = _ranges(first[members], first[members + 1])
        starts, sizes = starts[chosen], sizes[chosen]
        first = np.concatenate([[0], np.cumsum(np.diff(first)[members])])
    # The group in which a block's share of the tokens is reached is its last.
    done = np.cumsum(of_group)
    count = max(1, -(-int(done[-1]) // _CPU_BLOCK))
    bounds = np.unique([0, *(np.searchsorted(done, np.arange(1, count) * (done[-1] / count)) + 1), len(done)])
    last: dict[str, Any] = {}
    blocks = []
    for low, high in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        rows = slice(int(row_ends[low] - group_sizes[low]), int(row_ends[high - 1]))
        runs = slice(int(first[rows.start]), int(first[rows.stop]))
        begin, size, total = starts[runs], sizes[runs], int(of_group[low:high].sum())
        end = begin + size
        within, lengths = torch.from_numpy(group_sizes[low:high]), torch.from_numpy(of_row[rows])
        blocks.append(
            Block(
                groups.members[rows], response_mask.shape[1], total, int(of_row[rows].max()), within, torch.from_numpy(np.repeat(np.arange(high - low), group_sizes[low:high])),
                torch.from_numpy(of_group[low:high]), lengths, lengths[:, None], lambda begin=begin, end=end: torch.from_numpy(_ranges(begin, end)),
                list(zip(begin.tolist(), end.tolist(), strict=True)) if total > _LONG_RUN * len(size) else None, last,
            )
        )  # fmt: skip
    return blocks


def cut(blocks: Sequence[Block], buckets: int, session: Tensor | None = None) -> list[Block]:
    """Cuts each response into `buckets` K by position, k = floor(K t / T_i).

    With `session` [B] int64, rows of the same number are one response whose parts follow each other in the order of the rows.
    """
    lengths = torch.cat([block.lengths for block in blocks])
    start, total = torch.zeros_like(lengths), lengths
    if session is not None:
        start, total = _spans(lengths, session[torch.cat([block.rows for block in blocks])].to(lengths.device))
    # The first t with floor(K t / T_i) >= k is ceil(k T_i / K): integers, so no rounding can move a token.
    steps = torch.arange(buckets + 1, device=lengths.device)
    edges = (steps * total[:, None] + buckets - 1) // buckets - start[:, None]
    parts = edges.clamp_(min=0).minimum(lengths[:, None]).diff(dim=1).split([len(block.lengths) for block in blocks])
    return [replace(block, bucket_lengths=part) for block, part in zip(blocks, parts, strict=True)]


def _whole(response_mask: Tensor, groups: Groups, lengths: Tensor) -> Block:
    """All rows in one block, without waiting for the device."""
    device, size = response_mask.device, int(lengths.sum())
    own, before = lengths[groups.members], (lengths.cumsum(0) - lengths)[groups.members]
    of_group = segment_sums(own, groups.sizes)

    def flat() -> Tensor:
        valid = response_mask.bool().reshape(-1).cumsum(0, dtype=torch.int32)
        tokens = repeat((before - (own.cumsum(0) - own)).to(device), own.to(device), size) + torch.arange(size, device=device)
        return torch.searchsorted(valid, tokens.add_(1).to(torch.int32))

    own_there = own.to(device)
    return Block(
        groups.members, response_mask.shape[1], size, int(lengths.max()), groups.sizes.to(device), groups.of_row[groups.members].to(device),
        of_group.to(device), own_there, own_there[:, None], flat,
    )  # fmt: skip


def _runs_of(mask: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Runs of valid positions in a mask [B, T]: where each begins in the flattened mask, its length [r], and each row's first run [B + 1]."""
    count, columns = mask.shape
    wide, at_once = columns + 1, max(1, _CPU_SCAN // max(columns, 1))
    # A false position before and after every row, so that no run goes on into the next one.
    buffer = torch.zeros(min(at_once, count) * wide + 1, dtype=torch.bool)
    changes = np.zeros(-(-len(buffer) // 8) * 8, dtype=bool)
    found = []
    for start in range(0, count, at_once):
        rows = min(at_once, count - start)
        buffer[1 : rows * wide + 1].view(rows, wide)[:, :columns].copy_(mask[start : start + rows])
        valid = buffer[: rows * wide + 1].numpy()
        np.not_equal(valid[1:], valid[:-1], out=changes[: rows * wide])
        changes[rows * wide :] = False
        # Few positions are at an edge: looked for in words of eight positions, then in those.
        words = np.flatnonzero(changes[: -(-rows * wide // 8) * 8].view(np.uint64))
        word, place = np.nonzero(changes.reshape(-1, 8)[words])
        found.append(words[word] * 8 + place + start * wide)
    edges = np.concatenate(found)
    starts, ends = edges[::2], edges[1::2]
    rows = starts // wide
    return starts - rows, ends - starts, np.searchsorted(rows, np.arange(count + 1))


def _ranges(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """start, start + 1, .. end - 1 of each pair, one after the other."""
    sizes = ends - starts
    return np.repeat(starts - (np.cumsum(sizes) - sizes), sizes) + np.arange(int(sizes.sum()))


def _spans(values: Tensor, session: Tensor) -> tuple[Tensor, Tensor]:
    """For each row [b] the sum of `values` over the earlier rows of its session, and over all of them."""
    order = session.argsort(stable=True)
    sizes = session[order].unique_consecutive(return_counts=True)[1]
    place = torch.repeat_interleave(torch.arange(len(sizes), device=session.device), sizes)
    rank = torch.arange(len(order), device=session.device) - (sizes.cumsum(0) - sizes)[place]
    parts = values.new_zeros(len(sizes), int(sizes.max()))
    parts[place, rank] = values[order]
    running = parts.cumsum(dim=1)
    start, total = torch.empty_like(values), torch.empty_like(values)
    start[order] = (running - parts)[place, rank]
    total[order] = running[:, -1][place]
    return start, total


def _entropy_edges(entropy: Tensor, block: Block, session: Tensor | None) -> Tensor:
    """[b, K + 1]: the first t in each bucket of cumulative entropy; as the block is cut where there is no entropy.

    Sums are of integers, in units of 2^-32 nats (what a float32 entropy above 0.004 nats is a multiple of): no rounding, so that no
    other response and no order of summing can move a token that lies on an edge.
    """
    lengths, buckets, device = block.lengths, block.bucket_lengths.shape[1], entropy.device
    # An entropy may come out of a softmax as -1e-8; the running sum must not fall.
    running = entropy.clamp(min=0).mul_(_ENTROPY_UNITS).to(torch.int64).cumsum(0)
    ends = lengths.cumsum(0)
    spent = torch.where(ends > 0, running[(ends - 1).clamp_(min=0)], 0)  # [b], up to the end of each row
    total = spent.diff(prepend=spent.new_zeros(1))
    before, in_all = (torch.zeros_like(total), total) if session is None else _spans(total, session[block.rows].to(device))
    # The first t with K S_t >= k S_T; what is left, S_T included, is in the last bucket.
    levels = (in_all[:, None] * torch.arange(1, buckets, device=device) + buckets - 1) // buckets - before[:, None]
    inner = torch.searchsorted(running, levels + (spent - total)[:, None]) - (ends - lengths)[:, None]
    inner = inner.clamp_(min=0).minimum(lengths[:, None])
    edges = torch.cat([torch.zeros_like(lengths)[:, None], inner, lengths[:, None]], dim=1)
    by_position = torch.nn.functional.pad(block.bucket_lengths.cumsum(dim=1), (1, 0))
    return torch.where(in_all[:, None] > 0, edges, by_position)
