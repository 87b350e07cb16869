"""What a method returns (`Credit`), and how it writes that down block by block (`Writer`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from erpo_verl.methods.batch import Packed, Together, TokenBatch
from erpo_verl.methods.diagnostics import Diagnostics, Pooled, Tally
from erpo_verl.segments import zeros_like


@dataclass(frozen=True)
class Tokens:
    """What went into the advantages of N packed tokens, for dumps and figures.

    Quantities of `declarations.COMMON` and of the method are attributes too (``tokens.gate``), [N]; None where a part is off or
    its input is not given.
    """

    row: Tensor  # [N] int64
    column: Tensor  # [N] int64
    position: Tensor  # [N] int64, t
    outcome: Tensor  # [N] the method's outcome advantage of the response
    advantages: Tensor  # [N] token advantages
    quantities: dict[str, Tensor | None]  # name -> [N]

    def __getattr__(self, name: str) -> Tensor | None:
        try:
            return self.__dict__["quantities"][name]
        except KeyError:
            raise AttributeError(f"there is no quantity {name!r}; there are {', '.join(self.__dict__.get('quantities', ()))}") from None


    def by_row(self, name: str, rows: int) -> list[list[float] | None] | None:
        """A quantity row by row of ``rows`` rows, in the order of the tokens; None for a row without tokens, None altogether where it is off."""
        values = self.quantities.get(name)
        if values is None:
            return None
        order = self.row.argsort(stable=True)
        counts = self.row.bincount(minlength=rows).tolist()
        return [part.tolist() if len(part) else None for part in values[order].split(counts)]


@dataclass(frozen=True)
class Credit:
    """What a method makes of a batch."""

    advantages: Tensor  # [B, T], 0 at masked tokens and in groups left out, in the dtype of token_level_rewards
    metrics: dict[str, float]
    tokens: Tokens | None = None  # if asked for; none of groups left out
    outcome: Tensor | None = None  # [B] one advantage a response, before it is spread over tokens
    state: Any = None  # what the method wants to be given at the next step


def by_response(credit: Credit, batch: TokenBatch, names: Iterable[str]) -> list[dict[str, Any]]:
    """Per-token quantities of each of the B responses, for dumps: name -> a list over its valid tokens, or None; and ``outcome_advantage``.

    Args:
        credit: of the batch, computed with ``keep_tokens``.
        names: of `declarations.COMMON` or of the method.

    A group that was left out has advantages of 0 and none of the method's quantities.
    """
    mask = batch.response_mask.bool()
    lengths = mask.sum(dim=1).tolist()
    given = {
        "advantage": credit.advantages, "entropy": batch.entropy, "old_log_prob": batch.old_log_probs, "ref_log_prob": batch.ref_log_prob,
    }  # fmt: skip
    columns: dict[str, list[Any]] = {}
    for name in names:
        if name in given:
            tensor = given[name]
            parts = None if tensor is None else [part.tolist() for part in tensor[mask.to(tensor.device)].split(lengths)]
        else:
            parts = None if credit.tokens is None else credit.tokens.by_row(name, len(lengths))
        columns[name] = [None] * len(lengths) if parts is None else parts
    outcome = [None] * len(lengths) if credit.outcome is None else credit.outcome.tolist()
    return [{**{name: column[i] for name, column in columns.items()}, "outcome_advantage": outcome[i]} for i in range(len(lengths))]


@dataclass
class Writer:
    """Takes a method's work. ``put`` each block once; set the other fields where the method has something to say."""

    batch: Packed
    keep_tokens: bool = False
    outcome: Tensor | None = None
    """[B], the outcome advantage A_i of each response; set it before the first ``put``."""
    alive: Tensor | None = None
    """[B] bool, responses that carry a gradient; None: those whose outcome advantage is not 0."""
    metrics: dict[str, float] = field(default_factory=dict)
    """The method's own metrics, under their whole names."""
    state: Any = None

    def __post_init__(self) -> None:
        rewards = self.batch.given.token_level_rewards
        self.advantages = zeros_like(rewards)
        self._diagnostics = Diagnostics(self.batch)
        self._tally = Tally()
        self._of_batch: dict[str, Tensor] = {}
        self._pooled: Pooled | None = None
        self._sample: Tensor | None = None
        self._kept: list[dict[str, Tensor | None]] = []

    def put(
        self, number: int, advantages: Tensor, *, sums: Mapping[str, Tensor] | None = None, **quantities: Tensor | None
    ) -> None:
        """Takes the token advantages [n] of block ``number``.

        Args:
            sums: numbers over the block's tokens for the method's own metrics, to be read from ``pooled``.
            quantities: the method's per-token quantities [n], as it declares them; ``z`` where it has it at hand.
        """
        batch, block = self.batch, self.batch.blocks[number]
        block.put(advantages, self.advantages)
        H = None if batch.entropy is None else batch.entropy[number]
        z = quantities.pop("z", None)
        z = batch.z(number) if z is None and H is not None else z
        if block.size:
            self._tally.add({**self._diagnostics.sums(number, advantages, H, z), **(sums or {})})
        if self.keep_tokens:
            self._kept.append({"advantages": advantages, "entropy": H, "z": z, **quantities})

    def picked(self, number: int) -> Tensor | slice:
        """Which tokens of block ``number`` are in an even sample of the batch's, for metrics of single tokens that would be dear over all."""
        return self._diagnostics.picked(number)

    def add(self, **sums: Tensor) -> None:
        """Takes sums over the batch that belong to no block, to be read from ``pooled``; before that is read."""
        self._of_batch |= sums

    @property
    def pooled(self) -> Pooled:
        """The ``sums`` of all blocks and of the batch, and ``tokens``, their number; after the last ``put``."""
        if self._pooled is None:
            found, self._sample = self._tally.pooled(self._of_batch, self._diagnostics.sample())
            self._pooled = Pooled(self.batch.together.pool(found | {"tokens": float(self.batch.tokens)}))
        return self._pooled

    @staticmethod
    def of_nothing(together: Together, with_entropy: bool) -> None:
        """Takes part in the calls of processes that have rows, as one that has none."""
        together.pool({})
        if with_entropy:
            together.cat(torch.empty(0, 3, dtype=torch.float64))
        together.pool({})

    def result(self, right_above: float) -> Credit:
        """Everything, after the method has ended."""
        self.batch.check_unread()
        outcome = self.batch.R.new_zeros(len(self.batch.R)) if self.outcome is None else self.outcome
        alive = outcome != 0 if self.alive is None else self.alive
        pooled = self.pooled
        metrics = self._diagnostics.result(pooled, self._sample, alive, right_above) | self.metrics
        tokens = self._tokens(outcome) if self.keep_tokens else None
        return Credit(self.advantages, metrics, tokens, outcome.to(self.advantages.device), self.state)

    def _tokens(self, outcome: Tensor) -> Tokens:
        """Of all blocks, in the order of the rows."""
        blocks = self.batch.blocks
        parts = [
            {
                "row": block.row, "column": block.column, "position": block.position, "outcome": block.spread(outcome.to(self.batch.dtype)), **kept,
            }
            for block, kept in zip(blocks, self._kept, strict=True)
        ]  # fmt: skip
        joined = {name: None if x is None else torch.cat([part[name] for part in parts]) for name, x in parts[0].items()}
        order = joined["row"].argsort(stable=True)
        joined = {name: None if x is None else x[order] for name, x in joined.items()}
        return Tokens(**{name: joined.pop(name) for name in ("row", "column", "position", "outcome", "advantages")}, quantities=joined)
