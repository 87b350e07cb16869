"""Packed tokens, and their mean and spread by segment.

The valid tokens of a batch are packed row after row. A segment is the tokens of one response in one bucket; as buckets
follow each other along a response, the B x K segments are consecutive runs of packed tokens. Statistics over scattered
sets (all rows of a group) come from pooling those of their segments. Nothing here uses atomic additions, so the results
are the same on every run, on CUDA too.

Work goes block by block: runs of rows whose tokens fit a CPU's cache, or all rows at once on CUDA.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Positions (valid or not) in a block on the CPU: some MB for the handful of tensors in use at a time.
_CPU_BLOCK = 1 << 18


@dataclass(frozen=True)
class Groups:
    """Which rows belong together."""

    of_row: Tensor  # [B] int64, the group of each row, 0 .. G - 1
    members: Tensor  # [B] int64, the rows sorted by group, in their own order within a group
    sizes: Tensor  # [G] int64, responses in each group; may be 0

    @classmethod
    def from_ids(cls, ids: Sequence[Any] | Tensor, device: torch.device) -> Groups:
        """From one id for each row: numbers, strings or any other hashable values (list, numpy array or tensor).

        Groups are numbered in the order of their first row.
        """
        ids = ids.tolist() if hasattr(ids, "tolist") else list(ids)
        numbers = {name: number for number, name in enumerate(dict.fromkeys(ids))}
        of_row = torch.tensor([numbers[name] for name in ids], dtype=torch.int64, device=device)
        return cls.from_numbers(of_row, len(numbers))

    @classmethod
    def from_numbers(cls, of_row: Tensor, count: int) -> Groups:
        """Groups 0 .. count - 1 from the number of each row's group [B] int64."""
        return cls(of_row, of_row.argsort(stable=True), torch.bincount(of_row, minlength=count))

    def means(self, values: Tensor) -> Tensor:
        """[G] float64: the mean of `values` [B] over the rows of each group; NaN for a group without rows."""
        return _segment_sums(values.double()[self.members], self.sizes) / self.sizes

    def row_means(self, values: Tensor) -> Tensor:
        """[B] float64: for each row, the mean of `values` [B] over the rows of its group."""
        return self.means(values)[self.of_row]


@dataclass(frozen=True)
class Block:
    """A run of b rows: where their n valid tokens are, and how they fall into b x K segments."""

    rows: slice
    columns: int  # T
    flat: Tensor  # [n] int64, place of each token in the [b, T] slice
    lengths: Tensor  # [b] int64, T_i: valid tokens of each row
    bucket_lengths: Tensor  # [b, K] int64, tokens of each segment

    def take(self, batch: Tensor) -> Tensor:
        """[n]: the valid tokens of these rows, out of [B, T]."""
        return batch[self.rows].reshape(-1).index_select(0, self.flat)

    def put(self, tokens: Tensor, batch: Tensor) -> None:
        """Writes the tokens [n] to their places in a contiguous `batch` [B, T] of zeros, in its dtype."""
        batch[self.rows].view(-1).scatter_(0, self.flat, tokens.to(batch.dtype))

    def spread(self, values: Tensor) -> Tensor:
        """[n]: each token's value, out of one for each row [B] or for each row and bucket [B, K]."""
        lengths = self.lengths if values.ndim == 1 else self.bucket_lengths
        return _repeat(values[self.rows].reshape(-1), lengths.reshape(-1), len(self.flat))

    @property
    def row(self) -> Tensor:
        """[n] int64, each token's row in the batch."""
        return self.flat // max(self.columns, 1) + self.rows.start

    @property
    def column(self) -> Tensor:
        """[n] int64, each token's column in the batch."""
        return self.flat % max(self.columns, 1)

    @property
    def position(self) -> Tensor:
        """[n] int64, t: number of valid tokens before this one in its response."""
        starts = self.lengths.cumsum(0) - self.lengths
        return torch.arange(len(self.flat), device=self.flat.device) - torch.repeat_interleave(starts, self.lengths)

    @property
    def bucket(self) -> Tensor:
        """[n] int64, k in 0 .. K - 1."""
        rows, buckets = self.bucket_lengths.shape
        numbers = torch.arange(buckets, device=self.flat.device).repeat(rows)
        return torch.repeat_interleave(numbers, self.bucket_lengths.reshape(-1))


def pack(response_mask: Tensor) -> list[Block]:
    """Packs the valid tokens of `response_mask` [B, T]; each response is one segment (K = 1) until `cut`."""
    count, columns = response_mask.shape
    at_once = max(1, count if response_mask.is_cuda else _CPU_BLOCK // max(columns, 1))
    blocks = []
    for start in range(0, count, at_once):
        rows = slice(start, min(start + at_once, count))
        valid = response_mask[rows].bool()
        flat = _nonzero(valid.reshape(-1))
        row_starts = torch.arange(len(valid) + 1, device=flat.device) * columns
        lengths = torch.searchsorted(flat, row_starts).diff()
        blocks.append(Block(rows, columns, flat, lengths, lengths[:, None]))
    return blocks


def cut(
    blocks: Sequence[Block], buckets: int, entropy: Sequence[Tensor] | None = None, session: Tensor | None = None
) -> list[Block]:
    """Cuts each response into `buckets` K by position, k = floor(K t / T_i).

    With `entropy` ([n] of each block) the cut is by cumulative entropy instead: k = min(floor(K S_t / S_T), K - 1), where S_t
    is the sum of the response's entropies up to and including t. A response whose entropies are all 0 is cut by position.

    With `session` [B] int64, rows of the same number are one response whose parts follow each other in the order of the rows.
    """
    lengths = torch.cat([block.lengths for block in blocks])
    start, total = (torch.zeros_like(lengths), lengths) if session is None else _spans(lengths, session)
    spent_before = spent_in_all = None
    if entropy is not None and session is not None:
        spent = [x.double().clamp_(min=0) for x in entropy]
        spent = torch.cat([_segment_sums(x, block.lengths) for x, block in zip(spent, blocks, strict=True)])
        spent_before, spent_in_all = _spans(spent, session)
    found = []
    for i, block in enumerate(blocks):
        # The first t with floor(K t / T_i) >= k is ceil(k T_i / K): integers, so no rounding can move a token.
        steps = torch.arange(buckets + 1, device=lengths.device)
        edges = (steps * total[block.rows, None] + buckets - 1) // buckets - start[block.rows, None]
        edges = edges.clamp(min=0).minimum(block.lengths[:, None])
        if entropy is not None:
            before = None if spent_before is None else (spent_before[block.rows], spent_in_all[block.rows])
            edges = _entropy_edges(entropy[i], block.lengths, edges, before)
        found.append(replace(block, bucket_lengths=edges.diff(dim=1)))
    return found


def _spans(values: Tensor, session: Tensor) -> tuple[Tensor, Tensor]:
    """For each row [B] the sum of `values` over the earlier rows of its session, and over all of them."""
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


def _entropy_edges(
    tokens: Tensor, lengths: Tensor, edges: Tensor, session: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """[b, K + 1]: the first t in each bucket of cumulative entropy; `edges` (by position) where there is no entropy.

    `tokens` [n] are the entropies of b responses, one after the other. Each response is summed by itself, so that no
    other one can move a token that lies on an edge. `session`: what was spent before each row [b], and is spent in all.
    """
    rows, buckets = len(lengths), edges.shape[1] - 1
    width = max(1, int(lengths.max()))
    shifts = torch.arange(rows, device=lengths.device) * width - (lengths.cumsum(0) - lengths)
    places = torch.arange(len(tokens), device=lengths.device) + _repeat(shifts, lengths, len(tokens))
    # An entropy may come out of a softmax as -1e-8; the running sum must not fall.
    spent = tokens.new_zeros(rows * width, dtype=torch.float64)
    spent = spent.scatter_(0, places, tokens.double().clamp_(min=0)).view(rows, width).cumsum(dim=1)
    if session is None:
        total = spent[:, -1:].clone()
    else:
        spent, total = spent.add_(session[0][:, None]), session[1][:, None]
    # The first t with K S_t >= k S_T; what is left, S_T included, is in the last bucket.
    inner = torch.searchsorted(spent.mul_(buckets), total * torch.arange(1, buckets, device=lengths.device))
    inner = inner.minimum(lengths[:, None])
    return torch.where(total > 0, torch.cat([edges[:, :1], inner, edges[:, -1:]], dim=1), edges)


@dataclass(frozen=True)
class Moments:
    """Number of tokens, their mean, and their sum of squared deviations; float64, all of one shape. Empty sets: 0."""

    count: Tensor
    mean: Tensor
    deviation: Tensor

    @property
    def std(self) -> Tensor:
        """Population standard deviation (correction 0); 0 for an empty set."""
        return (self.deviation / self.count.clamp(min=1)).sqrt()

    def pool_last(self) -> Moments:
        """Moments over the union of the sets along the last dimension."""
        count = self.count.sum(dim=-1)
        mean = (self.count * self.mean).sum(dim=-1) / count.clamp(min=1)
        between = self.count * (self.mean - mean.unsqueeze(-1)).square()
        return Moments(count, mean, (self.deviation + between).sum(dim=-1))


def row_moments(blocks: Sequence[Block], tokens: Iterable[Tensor]) -> Moments:
    """Moments [B] of each response's tokens; `tokens` [n] are those of each block."""
    return _moments([block.lengths for block in blocks], tokens)


def segment_moments(blocks: Sequence[Block], tokens: Iterable[Tensor]) -> Moments:
    """Moments [B, K] of each response's tokens in each bucket; `tokens` [n] are those of each block."""
    return _moments([block.bucket_lengths for block in blocks], tokens)


def _moments(lengths: Sequence[Tensor], tokens: Iterable[Tensor]) -> Moments:
    """Moments from sums of x and x^2 in float64: half the work of two passes.

    With m the mean in units of the spread, that costs the spread a relative error of some 1e-16 m^2; the rounding of
    float32 tokens themselves costs it 6e-8 m, which is more wherever a float32 spread means anything (m < 1e8).
    """
    sums, squares = [], []
    for sizes, values in zip(lengths, tokens, strict=True):
        values = values.to(torch.float64, copy=True)
        sums.append(_segment_sums(values, sizes.reshape(-1)).view(sizes.shape))
        squares.append(_segment_sums(values.square_(), sizes.reshape(-1)).view(sizes.shape))
    count, total, square = torch.cat(list(lengths)).double(), torch.cat(sums), torch.cat(squares)
    mean = total / count.clamp(min=1)
    return Moments(count, mean, (square - total * mean).clamp_(min=0))


def pool(moments: Moments, groups: Groups) -> Moments:
    """Moments [G, ...] over the rows of each group, from those [B, ...] of each row.

    The spread between the rows' means is added to that within the rows, again in two passes.
    """
    count, mean, deviation = (x[groups.members] for x in (moments.count, moments.mean, moments.deviation))
    total = _segment_sums(count, groups.sizes)
    pooled_mean = _segment_sums(count * mean, groups.sizes) / total.clamp(min=1)
    between = count * (mean - pooled_mean[groups.of_row[groups.members]]).square()
    return Moments(total, pooled_mean, _segment_sums(deviation + between, groups.sizes))


def even_sample(tokens: Sequence[Tensor], blocks: Sequence[Block], size: int = 1 << 12) -> tuple[Tensor, Tensor]:
    """Every m-th packed token, so that there are at most about `size`: the tokens and their rows. Not random."""
    stride = max(1, -(-sum(len(x) for x in tokens) // size))
    rows = [block.flat[::stride] // max(block.columns, 1) + block.rows.start for block in blocks]
    return torch.cat([values[::stride] for values in tokens]), torch.cat(rows)


def check_finite(inputs: Mapping[str, Tensor], packed: Sequence[Tensor], blocks: Sequence[Block]) -> None:
    """ValueError that names the input [B, T], the row and the token if a valid token's value is NaN or inf.

    `packed`: all that was made of the inputs. A NaN or inf in an input is one there too, and makes the sum so.
    """
    # Finite values may overflow a sum: then the look at each token finds nothing.
    if not packed or torch.stack([tokens.sum() for tokens in packed]).isfinite().all():
        return
    for name, tensor in inputs.items():
        for block in blocks:
            tokens = block.take(tensor)
            bad = (~tokens.isfinite()).nonzero().squeeze(1).tolist()
            if bad:
                row, column, position = (int(x[bad[0]]) for x in (block.row, block.column, block.position))
                raise ValueError(
                    f"{name} is {tokens[bad[0]].item()} at row {row}, column {column} "
                    f"(valid token {position} of the response)"
                )


# Three primitives. On the CPU they are numpy's, which do the same two to four times as fast as torch's.


def zeros_like(tensor: Tensor) -> Tensor:
    """Contiguous zeros of the same shape and type; on the CPU numpy's, which the system hands out as they are touched."""
    if tensor.is_cuda or tensor.dtype == torch.bfloat16:
        return torch.zeros(tensor.shape, dtype=tensor.dtype, device=tensor.device)
    return torch.from_numpy(np.zeros(tuple(tensor.shape), dtype=torch.empty(0, dtype=tensor.dtype).numpy().dtype))


def _segment_sums(values: Tensor, lengths: Tensor) -> Tensor:
    """[S, ...]: sum of each run of `lengths` [S] consecutive entries of `values` [N, ...]; 0 for an empty run."""
    if values.is_cuda:
        return torch.segment_reduce(values, "sum", lengths=lengths, axis=0, unsafe=True)
    sizes = lengths.numpy()
    used = sizes > 0
    sums = values.new_zeros((len(sizes), *values.shape[1:]))
    if used.any():
        # reduceat sums from each start to the next one, so an empty run must not be among the starts.
        starts = np.cumsum(sizes) - sizes
        sums.numpy()[used] = np.add.reduceat(values.numpy(), starts[used], axis=0)
    return sums


def _repeat(values: Tensor, lengths: Tensor, size: int) -> Tensor:
    """[size]: each of `values` [S] repeated `lengths` [S] times."""
    if values.is_cuda:
        return torch.repeat_interleave(values, lengths, output_size=size)
    return torch.from_numpy(np.repeat(values.numpy(), lengths.numpy()))


def _nonzero(mask: Tensor) -> Tensor:
    """Indices [n] int64 of the true entries of a bool vector."""
    return mask.nonzero().squeeze(1) if mask.is_cuda else torch.from_numpy(np.flatnonzero(mask.numpy()))
