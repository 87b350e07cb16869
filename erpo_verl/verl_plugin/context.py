"""What an estimator needs and verl does not hand to it: a batch's entropies, the step, where metrics and a method's memory go.

verl 0.9.1 calls a registered estimator with ``token_level_rewards``, ``response_mask``, ``index`` and ``config`` alone. The trainers
have the rest at hand (entropies come with the old log-probs at no extra forward pass), so ``hooks`` puts it here, around the
trainer's own call. Held in a ``ContextVar``: two trainers in one process do not see each other's batch.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from erpo_verl.methods import Credit, TokenBatch


@dataclass
class BatchContext:
    """One batch on its way to the estimator. B rows, T response positions (right-padded)."""

    entropy: Callable[[], torch.Tensor | None]
    """Gives the per-token entropy of pi_old in nats, [B, T] float, or None where the trainer has none; called once."""
    step: int
    """verl's ``global_steps``: 1 for the first update."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """The method's metrics are added here; the trainer (or a hook) logs them."""
    keys: list[str] | None = None
    """Keys ``{uid}_{session}_{output}`` of the rows, where the trainer has them (v1)."""
    is_padding: list[bool] | None = None
    """True for rows that verl made up to fill a batch (v1)."""
    old_log_probs: torch.Tensor | None = None
    """log pi_old of the sampled tokens, [B, T]."""
    ref_log_prob: torch.Tensor | None = None
    """log pi_ref of the sampled tokens, [B, T]; None without a reference policy."""
    ungradeable: Callable[[], list[bool] | None] = lambda: None
    """Gives for each row whether nobody could judge its answer; None where the reward does not say."""
    state: Any = None
    """A method's memory, as the step before left it."""
    keep: Callable[[Any], None] = lambda state: None
    """Takes the method's memory for the next step."""
    diagnose: bool = False
    """Whether an estimator of verl's own gets this package's diagnostics (``algorithm.diagnostics``)."""
    keep_tokens: bool = False
    """Whether what the method made of each token is kept in ``seen``, for a dump of rollouts."""
    seen: tuple[TokenBatch, torch.Tensor, Credit] | None = None
    """With ``keep_tokens``: what the method saw, which of verl's rows these are ([n] int64), and what it made of them."""
    spent: bool = False
    """Whether an estimator has seen it already."""

    def log(self, metrics: Mapping[str, float]) -> None:
        """Adds metrics. An empty set has no mean: a gap, as verl's file logger would write a NaN that is no JSON."""
        self.metrics.update({name: value for name, value in metrics.items() if not math.isnan(value)})

    def is_of(self, old_log_probs: torch.Tensor | None) -> bool:
        """Whether this is the context of the batch with these old log-probs, and no estimator has seen it."""
        mine = self.old_log_probs
        return not self.spent and mine is not None and old_log_probs is not None and torch.equal(mine, old_log_probs)


_current: ContextVar[BatchContext | None] = ContextVar("erpo_batch", default=None)


def current() -> BatchContext | None:
    """The batch that the trainer is working on, if a hook has announced one."""
    return _current.get()


def announce(batch: BatchContext | None) -> None:
    """Make ``batch`` the current one until the next is announced (legacy trainer, whose steps have no common caller)."""
    _current.set(batch)


@contextlib.contextmanager
def working_on(batch: BatchContext) -> Iterator[BatchContext]:
    """Make ``batch`` the current one inside a ``with`` block."""
    token = _current.set(batch)
    try:
        yield batch
    finally:
        _current.reset(token)
