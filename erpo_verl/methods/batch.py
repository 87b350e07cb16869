"""What a method may see: a batch as the engines give it (`TokenBatch`), and packed for the method's work (`Packed`)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from erpo_verl.segments import Block, Groups, Moments, check_finite, pack, pool, row_moments

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
        groups = Groups.from_ids(self.index, deciding.device).of_row
        if not ((deciding[deciding] == deciding) & (groups[deciding] == groups)).all():
            raise ValueError("deciding: a row that decides must decide for itself, and for rows of its own group")

    def kept_rows(self) -> Tensor | None:
        """[n] int64, the rows of the groups in which no row is left out; None: all."""
        if self.left_out is None or not self.left_out.any():
            return None
        ids = self.index.tolist() if hasattr(self.index, "tolist") else list(self.index)
        gone = {ids[i] for i in self.left_out.nonzero().squeeze(1).tolist()}
        return torch.tensor([i for i, name in enumerate(ids) if name not in gone], dtype=torch.int64)


class Packed:
    """A batch for a method's work: valid tokens packed into blocks of rows, statistics by response and group at hand.

    Lists have one entry a block: the block's n valid tokens, one response after the other, [n] in ``dtype``. They are None where
    the input is not given. Every number in them is finite: that is checked before the method sees them.
    """

    def __init__(self, given: TokenBatch, together: Together | None = None):
        self.given = given
        self.together = together or Alone()
        self.step = given.step
        self.dtype = torch.float32  # of the arithmetic on tokens; their sums are taken in float64
        inputs = {name: tensor for name in INPUTS if (tensor := getattr(given, name)) is not None}
        for tensor in (given.token_level_rewards, *inputs.values()):
            self.dtype = torch.promote_types(self.dtype, tensor.dtype)
        self.blocks: list[Block] = pack(given.response_mask)
        self.entropy: list[Tensor] | None = self._take("entropy")
        log_probs = [name for name in INPUTS[1:] if name in inputs]
        checked = self.log_ratio if len(log_probs) == 2 else [tokens for name in log_probs for tokens in self._take(name)]
        check_finite(inputs, [*(self.entropy or []), *(checked or [])], self.blocks)
        self.groups = Groups.from_ids(given.index, given.token_level_rewards.device)
        self._prepare_outcomes()

    def _take(self, name: str) -> list[Tensor] | None:
        tensor = getattr(self.given, name)
        return None if tensor is None else [block.take(tensor).to(self.dtype) for block in self.blocks]

    @cached_property
    def log_ratio(self) -> list[Tensor] | None:
        """log pi_old - log pi_ref of the sampled tokens, nats; 0 in rows ``without_reference``. The method may overwrite it."""
        old, ref = self.given.old_log_probs, self.given.ref_log_prob
        if old is None or ref is None:
            return None
        if self.given.without_reference is not None:
            ref = torch.where(self.given.without_reference[:, None], old, ref)
        pairs = ((block.take(old), block.take(ref)) for block in self.blocks)
        return [old.to(self.dtype) - ref.to(self.dtype) for old, ref in pairs]

    @cached_property
    def old_log_probs(self) -> list[Tensor] | None:
        """log pi_old of the sampled tokens, nats."""
        return self._take("old_log_probs")

    @cached_property
    def lengths(self) -> Tensor:
        """[B] int64, T_i: valid tokens of each row."""
        return torch.cat([block.lengths for block in self.blocks])

    # --- outcomes

    def _prepare_outcomes(self) -> None:
        R = response_rewards(self.given.token_level_rewards, self.given.response_mask)
        deciding = self.given.deciding
        self._share = None
        self._deciders, self._decided = R, self.groups
        if deciding is not None:
            rows, self._share = deciding.to(R.device).unique(return_inverse=True)
            self._deciders, self._decided = R[rows], Groups.from_ids(self.groups.of_row[rows], R.device)
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
    def _row_entropy(self) -> Moments:
        return row_moments(self.blocks, self.entropy)

    @cached_property
    def mean_entropy(self) -> float:
        """Mean entropy of the step's valid tokens, nats: their sum over their count. NaN without a token."""
        if self.given.mean_entropy is not None:
            return self.given.mean_entropy
        moments = self._row_entropy
        return ((moments.mean * moments.count).sum() / moments.count.sum()).item()

    @cached_property
    def group_entropy(self) -> tuple[Tensor, Tensor]:
        """For each row, mean and population standard deviation of the entropies of its group's valid tokens, [B] each."""
        return by_group(pool(self._row_entropy, self.groups), self.groups, self.dtype)

    def z(self, number: int) -> Tensor:
        """[n] of block ``number``: z = (H - mu) / (sigma + eps), the entropy in standard deviations from its group's mean."""
        return standardised(self.entropy[number], self.blocks[number], *self.group_entropy)


def by_group(moments: Moments, groups: Groups, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each row's group, [B, ...], from moments [G, ...]."""
    return tuple(x.to(dtype)[groups.of_row] for x in (moments.mean, moments.std))


def standardised(values: Tensor, block: Block, mu: Tensor, sigma: Tensor) -> Tensor:
    """(values - mu) / (sigma + eps), [n] of a block; ``mu`` and ``sigma`` [B] or [B, K]."""
    return (values - block.spread(mu)).div_(block.spread(sigma + EPS))


def response_rewards(token_level_rewards: Tensor, response_mask: Tensor) -> Tensor:
    """R_i [B]: the sum of each row, masked tokens included, as verl sums it. NaN and inf at masked tokens count as 0."""
    R = token_level_rewards.sum(dim=-1)
    broken = (~R.isfinite()).nonzero().squeeze(1)
    if len(broken):
        rows = token_level_rewards[broken]
        rows = torch.where(response_mask[broken].bool() | rows.isfinite(), rows, 0)
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


def equal_outcomes(R: Tensor, groups: Groups) -> Tensor:
    """[D] bool, whether all outcomes of a row's group, of two or more, are equal.

    Decided on R, as an advantage may hold a rounding residue there: the mean of equal floats is not always that float.
    """
    low, high = (R.new_zeros(len(groups.sizes)).scatter_reduce_(0, groups.of_row, R, kind, include_self=False) for kind in ("amin", "amax"))
    return ((groups.sizes > 1) & (low == high))[groups.of_row]
