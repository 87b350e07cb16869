"""What a method may see: a batch as the engines give it (`TokenBatch`), and packed for the method's work (`Packed`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from erpo_verl.packing import Block, pack
from erpo_verl.segments import Groups, Moments, joined, moments_of, repeat

INPUTS = ("entropy", "old_log_probs", "ref_log_prob")
"""Fields of a `TokenBatch` that a method may do without."""

EPS = 1e-6


class Together(Protocol):
    """Metrics of all of a step's rows where an engine's processes each hold some groups: every process calls the same, in one order."""

    def pool(self, found: Mapping[str, float]) -> dict[str, float]:
        """Each name over all processes: those that end in " max" or " min" are extremes, all others sums."""
        ...

    def cat(self, values: Tensor) -> Tensor:
        """[n] of every process, one after the other."""
        ...


class Alone:
    """All rows are here."""

    def pool(self, found: Mapping[str, float]) -> dict[str, float]:
        """As it is."""
        return dict(found)

    def cat(self, values: Tensor) -> Tensor:
        """As they are."""
        return values


@dataclass(frozen=True)
class TokenBatch:
    """One batch: B responses of up to T tokens, all detached, all of the policy before the update. Names are verl's."""

    token_level_rewards: Tensor
    """[B, T] float. R_i is the sum over the whole row, as in verl (which may put the reward of a multi-turn response on a
    masked token)."""
    response_mask: Tensor
    """[B, T] bool, int or float; non-zero marks a valid token. Holes are fine: t and T_i count valid tokens."""
    index: Sequence[Any] | Tensor
    """B hashable group ids (verl's ``uid``), in any order."""
    entropy: Tensor | None = None
    """[B, T] float, >= 0, nats, of the full next-token distribution at sampling temperature."""
    old_log_probs: Tensor | None = None
    """[B, T] float, nats, of the sampled tokens under the policy before the update."""
    ref_log_prob: Tensor | None = None
    """[B, T] float, nats, of the sampled tokens under the reference."""
    step: int | None = None
    """Training step, counted from 1; None where the engine has none."""
    norm_adv_by_std_in_grpo: bool = True
    """Whether an outcome advantage is divided by the group's standard deviation (verl's setting of that name)."""
    deciding: Tensor | None = None
    """[B] int64, for each row the row whose outcome counts for it; None: each row its own. An agent loop may cut one session
    into several rows, of which the last decides (as in verl): the session then counts once in its group's mean and standard
    deviation, and its rows, in their order, are one response to buckets."""
    left_out: Tensor | None = None
    """[B] bool, responses that nobody could judge: their whole group gets advantages of exactly 0 and enters no statistic."""
    without_reference: Tensor | None = None
    """[B] bool, responses of groups of equal outcomes for which no ``ref_log_prob`` was computed (what stands there does not matter): they
    enter no statistic of it. For methods that say that they ignore it there."""
    mean_entropy: float | None = None
    """Mean of `entropy` over all valid tokens of the step, nats. For an engine that gives a method a part of the step's rows;
    None: these are all."""

    def rows(self, rows: Tensor) -> TokenBatch:
        """The batch of the given rows ([n] int64); a row's decider must be among them."""
        changes: dict[str, Any] = {}
        for name in ("token_level_rewards", "response_mask", *INPUTS, "left_out", "without_reference"):
            tensor = getattr(self, name)
            changes[name] = tensor if tensor is None else tensor[rows.to(tensor.device)]
        changes["index"] = [self.index[i] for i in rows.tolist()]
        if self.deciding is not None:
            place = torch.full((len(self.index),), -1, dtype=torch.int64)
            place[rows.cpu()] = torch.arange(len(rows))
            changes["deciding"] = place[self.deciding.cpu()[rows.cpu()]]
        return replace(self, **changes)

    def check(self, needed: Collection[str], without: dict[str, str]) -> None:
        """ValueError if an input that is ``needed`` is missing, or if shapes differ; ``without``: how to do without it."""
        for name in INPUTS:
            if name in needed and getattr(self, name) is None:
                raise ValueError(f"{name} is None, and the method uses it: pass it, or {without.get(name, 'choose another method')}")
        shape = tuple(self.token_level_rewards.shape)
        if len(shape) != 2 or shape[0] == 0:
            raise ValueError(
                f"token_level_rewards has shape {shape}: must be [responses, tokens], with one response or more"
            )
        for name in ("response_mask", *INPUTS):
            tensor = getattr(self, name)
            if tensor is not None and tuple(tensor.shape) != shape:
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}, token_level_rewards {shape}: must be equal")
        if len(self.index) != shape[0]:
            raise ValueError(f"index has {len(self.index)} group ids for {shape[0]} responses: must be equal")
        if self.left_out is not None and tuple(self.left_out.shape) != shape[:1]:
            raise ValueError(f"left_out has shape {tuple(self.left_out.shape)}: must be ({shape[0]},)")
        if self.deciding is not None:
            self._check_deciding(shape[0])

    def _check_deciding(self, rows: int) -> None:
        deciding = self.deciding.cpu()
        if deciding.shape != (rows,) or not ((deciding >= 0) & (deciding < rows)).all():
            raise ValueError(f"deciding must hold, for each of the {rows} rows, the number of a row")
        groups = Groups.from_ids(self.index).of_row
        if not ((deciding[deciding] == deciding) & (groups[deciding] == groups)).all():
            raise ValueError("deciding: a row that decides must decide for itself, and for rows of its own group")

    def kept_rows(self) -> Tensor | None:
        """[n] int64, the rows of the groups in which no row is left out; None: all."""
        if self.left_out is None or not self.left_out.any():
            return None
        ids = self.index.tolist() if hasattr(self.index, "tolist") else list(self.index)
        gone = {ids[i] for i in self.left_out.nonzero().squeeze(1).tolist()}
        return torch.tensor([i for i, name in enumerate(ids) if name not in gone], dtype=torch.int64)


_WINDOW = 8  # blocks

T = TypeVar("T")


class PerBlock(Sequence[T]):
    """Something of each block, made when it is asked for and kept while the work is in the same window of blocks."""

    def __init__(self, count: int, make: Callable[[int], T]):
        self._count, self._make = count, make
        self._window, self._kept = 0, dict[int, T]()
        self.unread = set(range(count))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> T:
        if (found := self._kept.get(number)) is not None:
            return found
        if not 0 <= number < self._count:
            raise IndexError(number)
        if number // _WINDOW != self._window:
            self._window = number // _WINDOW
            self._kept.clear()
        self.unread.discard(number)
        self._kept[number] = self._make(number)
        return self._kept[number]


class Tables:
    """What must be known of a block's groups before its tokens are looked at one by one: small tables, worked out for a window of blocks at
    once, as their many small steps would take as long as a block's tokens do.

    Args:
        of_block: sums of a block, along the first dimension.
        finish: from the sums of several blocks to tables that have the same first dimension.
    """

    def __init__(self, count: int, of_block: Callable[[int], Moments], finish: Callable[[Moments, range], tuple[Tensor, ...]]):
        self._count, self._of_block, self._finish = count, of_block, finish
        self._window, self._tables = -1, list[tuple[Tensor, ...]]()

    def __getitem__(self, number: int) -> tuple[Tensor, ...]:
        """The part of the block's own in each table."""
        if number // _WINDOW != self._window:
            self._window = number // _WINDOW
            numbers = range(self._window * _WINDOW, min((self._window + 1) * _WINDOW, self._count))
            found = [self._of_block(i) for i in numbers]
            sizes = [len(moments.count) for moments in found]
            self._tables = list(zip(*(table.split(sizes) for table in self._finish(joined(found), numbers)), strict=True))
        return self._tables[number % _WINDOW]


class Packed:
    """A batch for a method's work: valid tokens packed into blocks of rows, statistics by group at hand.

    A block holds whole groups. What is `PerBlock` has one entry a block: the block's n valid tokens, one response after the other, [n] in
    ``dtype``, on the device of the batch. Go through them block by block: they are not kept. They are None where the input is not given. Every number in them is finite: that is checked before the method sees it. What is one number a row, [B], is on the CPU.
    """

    def __init__(self, given: TokenBatch, together: Together | None = None):
        self.given = given
        self.together = together or Alone()
        self.step = given.step
        self._inputs = {name: tensor.contiguous() for name in INPUTS if (tensor := getattr(given, name)) is not None}
        self.dtype = torch.float32  # of the arithmetic on tokens; their sums are taken in float64
        for tensor in (given.token_level_rewards, *self._inputs.values()):
            self.dtype = torch.promote_types(self.dtype, tensor.dtype)
        self.groups = Groups.from_ids(given.index)
        # R_i: masked tokens included, as verl sums it.
        rewards, mask, lengths = given.token_level_rewards.sum(dim=-1), given.response_mask, None
        if mask.is_cuda:
            rewards, lengths = self._fetched(rewards, mask)
        self.blocks: list[Block] = pack(mask, self.groups, lengths)
        self.tokens = sum(block.size for block in self.blocks)
        """Number of valid tokens."""
        if lengths is None:
            rows = torch.cat([block.rows for block in self.blocks])
            lengths = torch.empty_like(rows).index_copy_(0, rows, torch.cat([block.lengths for block in self.blocks]))
        self.lengths = lengths
        """[B] int64, T_i: valid tokens of each row."""
        self._prepare_outcomes(checked_rewards(rewards, given))
        self._columns = {name: PerBlock(len(self.blocks), self._taker(name)) for name in self._inputs}

    def _fetched(self, rewards: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of the rewards and numbers of tokens [B] of a device on the CPU, and all inputs checked: one wait for the device."""
        valid = mask.bool()
        finite = [torch.where(valid, tensor, 0).sum().isfinite().double()[None] for tensor in self._inputs.values()]
        found = torch.cat([rewards.double(), valid.sum(dim=1).double(), *finite]).cpu()
        sums, lengths, finite = found.split([len(rewards), len(rewards), len(finite)])
        if not finite.all():
            check_finite(self._inputs, pack(mask, self.groups, lengths.long()))
        return sums.to(rewards.dtype), lengths.long()

    def _taker(self, name: str) -> Callable[[int], Tensor]:
        return lambda i: self._checked(self.blocks[i].take(self._inputs[name]).to(self.dtype), self.blocks[i])

    def _checked(self, tokens: Tensor, block: Block) -> Tensor:
        """The tokens; on the CPU after a look for NaN and inf, which make the sum so."""
        if not tokens.is_cuda and not math.isfinite(tokens.sum().item()):
            check_finite(self._inputs, [block])
        return tokens

    def check_unread(self) -> None:
        """Raises as `check_finite` for blocks of inputs that the method did not look at."""
        looked_at = () if self.log_ratio is None else INPUTS[1:]
        for name, column in self._columns.items():
            other = self.log_ratio.unread if name in looked_at else column.unread
            for number in sorted(column.unread & other):
                column[number]

    @property
    def entropy(self) -> PerBlock[Tensor] | None:
        """H, nats."""
        return self._columns.get("entropy")

    @property
    def old_log_probs(self) -> PerBlock[Tensor] | None:
        """log pi_old of the sampled tokens, nats."""
        return self._columns.get("old_log_probs")

    @cached_property
    def log_ratio(self) -> PerBlock[Tensor] | None:
        """log pi_old - log pi_ref of the sampled tokens, nats; 0 in rows ``without_reference``. The method may overwrite it."""
        if not {"old_log_probs", "ref_log_prob"} <= self._inputs.keys():
            return None
        return PerBlock(len(self.blocks), self._log_ratio)

    def _log_ratio(self, number: int) -> Tensor:
        block = self.blocks[number]
        old, ref = (block.take(self._inputs[name]).to(self.dtype) for name in INPUTS[1:])
        if self.given.without_reference is not None:
            ref = torch.where(block.spread(self.given.without_reference), old, ref)
        return self._checked(old.sub_(ref), block)

    # --- outcomes

    def _prepare_outcomes(self, R: Tensor) -> None:
        deciding = self.given.deciding
        self._share = None
        self._deciders, self._decided = R, self.groups
        if deciding is not None:
            rows, self._share = deciding.cpu().unique(return_inverse=True)
            self._deciders, self._decided = R[rows], Groups.from_ids(self.groups.of_row[rows])
        self.R = self.by_outcome(lambda R, groups: R)
        """[B], outcome of each row's session, in the dtype of the rewards."""
        self.zero_variance = self.by_outcome(equal_outcomes)
        """[B] bool, whether all outcomes of the row's group (of two or more) are equal."""

    def by_outcome(self, rule: Any) -> Tensor:
        """[B]: for each row what ``rule(R, groups)`` says of its session; sessions count once in their group.

        Args:
            rule: takes R [D], the outcome of each session, and their Groups; returns [D].
        """
        values = rule(self._deciders, self._decided)
        return values if self._share is None else values[self._share]

    @property
    def session(self) -> Tensor | None:
        """[B] int64, rows of the same number are parts of one response; None: each row is a response."""
        return self._share

    # --- entropy

    @cached_property
    def mean_entropy(self) -> float:
        """Mean entropy of the step's valid tokens, nats: their sum over their count. NaN without a token."""
        if self.given.mean_entropy is not None:
            return self.given.mean_entropy
        total = torch.stack([H.sum(dtype=torch.float64) for H in self.entropy]).sum().item()
        return total / self.tokens if self.tokens else math.nan

    @cached_property
    def _group_entropy(self) -> Tables:
        """mu and 1 / (sigma + eps) of each group's entropies."""
        return Tables(
            len(self.blocks),
            lambda i: moments_of(self.entropy[i], self.blocks[i].group_lengths),
            lambda moments, numbers: mean_and_scale(moments, self.dtype),
        )

    def z(self, number: int) -> Tensor:
        """[n] of block ``number``: z = (H - mu) / (sigma + eps), the entropy in standard deviations from its group's mean."""
        mu, scale = self._group_entropy[number]
        return standardised(self.entropy[number], mu, scale, self.blocks[number].group_lengths)


def mean_and_scale(moments: Moments, dtype: torch.dtype, least: float = 0.0) -> tuple[Tensor, Tensor]:
    """mu and 1 / (max(sigma, least) + eps)."""
    return moments.mean.to(dtype), moments.std.clamp(min=least).add_(EPS).reciprocal_().to(dtype)


def standardised(values: Tensor, mu: Tensor, scale: Tensor, lengths: Tensor) -> Tensor:
    """(values - mu) / (sigma + eps), [n], by what `mean_and_scale` says of each run of ``lengths`` consecutive values."""
    size = values.shape[0]
    mu = repeat(mu, lengths, size)
    return torch.sub(values, mu, out=mu).mul_(repeat(scale, lengths, size))


def checked_rewards(R: Tensor, given: TokenBatch) -> Tensor:
    """R [B] on the CPU; NaN and inf at masked tokens count as 0. ValueError, which names row and column, for one at a valid token."""
    broken = (~R.isfinite()).nonzero().squeeze(1)
    if len(broken):
        rows, valid = (x[broken.to(x.device)].cpu() for x in (given.token_level_rewards, given.response_mask))
        rows = torch.where(valid.bool() | rows.isfinite(), rows, 0)
        R[broken] = rows.sum(dim=-1)
        bad = (~rows.isfinite()).nonzero().tolist()
        if bad:
            row, column = bad[0]
            raise ValueError(
                f"token_level_rewards is {rows[row, column].item()} at row {int(broken[row])}, column {column}"
            )
        if not R.isfinite().all():
            raise ValueError(f"the sum of token_level_rewards is too large for {R.dtype} in row {int(broken[0])}")
    return R


def check_finite(inputs: Mapping[str, Tensor], blocks: Sequence[Block]) -> None:
    """ValueError that names the input [B, T], the row and the token if a valid token's value is NaN or inf.

    To be called when a sum is not finite; finite values may overflow one, then nothing is wrong.
    """
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


def equal_outcomes(R: Tensor, groups: Groups) -> Tensor:
    """[D] bool, whether all outcomes of a row's group, of two or more, are equal.

    Decided on R, as an advantage may hold a rounding residue there: the mean of equal floats is not always that float.
    """
    low, high = (R.new_zeros(len(groups.sizes)).scatter_reduce_(0, groups.of_row, R, kind, include_self=False) for kind in ("amin", "amax"))
    return ((groups.sizes > 1) & (low == high))[groups.of_row]
