"""The contract of a method of token-level credit: what it may see, what it says of itself, what it returns.

A method is one `Method`, made at the end of its module; `docs/method.md` shows one of twenty lines, ``examples/own_method`` is a
package of its own. It is pure: tensors in, tensors out, no file, no global, no gradient. ``compute`` gets a `Packed` batch and its
checked settings, and hands the token advantages of each block of responses to a `Writer`:

    def compute(batch: Packed, settings: MySettings, out: Writer) -> None:
        out.outcome = outcome_advantage(batch)                       # [B]
        for number, block in enumerate(batch.blocks):
            surprising = batch.entropy[number] > settings.threshold  # [n]
            weight = torch.where(surprising, settings.strength, 1.0)
            out.put(number, weight * block.spread(out.outcome), weight=weight)
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from erpo_verl.methods.batch import INPUTS, Alone, Packed, Together, TokenBatch
from erpo_verl.methods.credit import Credit, Tokens, Writer
from erpo_verl.methods.declarations import COMMON, Metric, Quantity
from erpo_verl.methods.diagnostics import PREFIX
from erpo_verl.settings import Settings, SettingsError

__all__ = ["Credit", "Method", "MethodError", "Metric", "Packed", "Quantity", "Settings", "SettingsError", "TokenBatch", "Tokens", "Writer"]


class MethodError(TypeError):
    """A method is not as the contract says; the message names the method and what to mend."""


@dataclass(frozen=True)
class NoSettings(Settings):
    """Of a method that has none."""


@dataclass(frozen=True)
class Method:
    """One method of token-level credit.

    Raises:
        MethodError: a declaration is not as the contract says.
    """

    name: str
    """``algorithm.adv_estimator`` in both engines; its settings are ``algorithm.<name>.*``."""
    about: str
    """One line: what it does to a token's credit."""
    compute: Callable[[Packed, Any, Writer], None]
    settings: type[Settings] = NoSettings
    """Its settings, a frozen dataclass with ``prefix="algorithm.<name>."``."""
    needs: Callable[[Any, int | None], Collection[str]] = lambda settings, step: ()
    """Which of ``entropy``, ``old_log_probs``, ``ref_log_prob`` it needs under given settings at a step; step None: at any step."""
    across_groups: Callable[[Any], bool] = lambda settings: True
    """Whether under given settings a group's advantages depend on other groups, otherwise than by `Packed.mean_entropy`. If not, an engine
    may give each process its own groups alone; metrics that come from ``out.pooled`` are then still those of all rows."""
    ignores_reference: Callable[[Any], bool] = lambda settings: False
    """Whether under given settings ``ref_log_prob`` does nothing in a group whose outcomes are all equal, so that an engine need not
    compute it there (`TokenBatch.without_reference`)."""
    without: Mapping[str, str] = field(default_factory=dict)
    """For an input, what to set in order to do without it."""
    metrics: tuple[Metric, ...] = ()
    """Its own metrics, beside `diagnostics.METRICS` which every method has."""
    tokens: tuple[Quantity, ...] = ()
    """Its own per-token quantities, beside `declarations.COMMON`."""
    right_above: Callable[[Any], float] = lambda settings: 0.5
    """A response whose outcome R_i is above this counts as right in metrics."""
    first_state: Callable[[Any], Any] | None = None
    """For a method with a memory between steps: its state before the first step, of what ``torch.save`` writes and
    ``torch.load(weights_only=True)`` reads. It finds the last one in ``out.state`` and leaves the next one there; engines keep it over a
    resume. Prefer a law without memory."""

    def __post_init__(self) -> None:
        if not self.name.isidentifier() or self.name != self.name.lower():
            raise MethodError(f"method {self.name!r}: its name must be one word of small letters, digits and _")
        problems = [metric.problem() for metric in self.metrics if metric.problem()]
        own = PREFIX if self.name == "erpo" else f"{self.name}/"
        problems += [f"metric {m.name!r}: must begin with {own!r}" for m in self.metrics if not m.name.startswith(own)]
        taken = {quantity.name for quantity in COMMON} | {"row", "column", "position", "outcome", "advantages", "sums", "number"}
        names = [quantity.name for quantity in self.tokens]
        problems += [f"quantity {name!r}: this name is taken" for name in names if name in taken or names.count(name) > 1]
        wanted = f"algorithm.{self.name}."
        if self.settings is not NoSettings and self.settings.prefix != wanted:
            problems.append(f"settings {self.settings.__name__}: declare the class with prefix={wanted!r}")
        if problems:
            raise MethodError(f"method {self.name!r}: " + "; ".join(problems))

    def configure(self, settings: Any = None) -> Any:
        """Its checked settings, from a mapping, an object of its own settings or None (all defaults).

        Raises:
            SettingsError: see `Settings.from_mapping`.
        """
        if self.settings is NoSettings and not isinstance(settings, NoSettings):
            if settings:
                raise SettingsError(f"algorithm.{self.name}.{key}: unknown key; {self.name} has no settings" for key in dict(settings))
            return NoSettings()
        return self.settings.from_mapping(settings)

    def inputs(self, settings: Any, step: int | None = None) -> set[str]:
        """Which inputs it needs under its checked ``settings`` at ``step``; None: at any step.

        Raises:
            MethodError: the method names an input that there is not.
        """
        needed = set(self.needs(settings, step))
        if unknown := needed - set(INPUTS):
            raise MethodError(f"method {self.name!r} needs {sorted(unknown)[0]!r}; a batch has {', '.join(INPUTS)}")
        return needed

    @torch.no_grad()
    def credit(
        self, batch: TokenBatch, settings: Any = None, *, state: Any = None, keep_tokens: bool = False, together: Together | None = None
    ) -> Credit:
        """Token advantages for one batch. No input is changed; no gradient flows.

        Args:
            batch: what the engine has; inputs that the method does not need may be None.
            settings: as for `configure`.
            state: what the last step's Credit held, for a method with a memory; None before the first step.
            keep_tokens: whether to return the quantities of each token, at the cost of their memory.
            together: where the batch is a part of the step's rows: how its metrics become those of all.

        Returns:
            Credit. The same metric names come back for the same settings and the same choice of None inputs (but for a batch in
            which every group is left out: that has no other metric).

        Raises:
            ValueError: shapes that differ, a missing input or step, NaN or inf at a valid token (names tensor, row, token).
            SettingsError: (a ValueError) from the settings.
            MethodError: the method wrote a metric or a quantity that it does not declare.
        """
        settings = self.configure(settings)
        batch.check(self.inputs(settings, batch.step), dict(self.without))
        if state is None and self.first_state is not None:
            state = self.first_state(settings)
        kept, together = batch.kept_rows(), together or Alone()
        if kept is None:
            found = self._work(batch, settings, state, keep_tokens, together)
        elif not len(kept):
            Writer.of_nothing(together, batch.entropy is not None)
            found = Credit(torch.empty(0), {}, None, torch.empty(0), state)
        else:
            found = self._work(batch.rows(kept), settings, state, keep_tokens, together)
        if kept is not None:
            found = _among_all(found, kept, batch)
        left_out = 0 if kept is None else len(batch.index) - len(kept)
        counts = together.pool({"left out": float(left_out), "responses": float(len(batch.index))})
        return replace(found, metrics={**found.metrics, f"{PREFIX}left_out_responses/mean": counts["left out"] / counts["responses"]})

    def _work(self, batch: TokenBatch, settings: Any, state: Any, keep_tokens: bool, together: Together) -> Credit:
        out = Writer(Packed(batch, together), keep_tokens, state=state)
        self.compute(out.batch, settings, out)
        found = out.result(self.right_above(settings))
        own = {metric.name for metric in self.metrics}
        if unknown := set(out.metrics) - own:
            raise MethodError(f"method {self.name!r} wrote the metric {sorted(unknown)[0]!r}, which it does not declare")
        if found.tokens is not None:
            declared = {quantity.name for quantity in (*COMMON, *self.tokens)}
            if unknown := set(found.tokens.quantities) - declared:
                raise MethodError(f"method {self.name!r} put the quantity {sorted(unknown)[0]!r}, which it does not declare")
        return found


@torch.no_grad()
def diagnosed(batch: TokenBatch, advantages: torch.Tensor, *, keep_tokens: bool = False) -> Credit:
    """The credit of advantages [B, T] that were made elsewhere: the metrics and quantities that every method has."""
    batch.check((), {})
    kept = batch.kept_rows()
    if kept is not None and not len(kept):
        return Credit(advantages, {f"{PREFIX}left_out_responses/mean": 1.0})
    share, part, given = 0.0, advantages, batch
    if kept is not None:
        share = (len(batch.index) - len(kept)) / len(batch.index)
        part, given = advantages[kept.to(advantages.device)], batch.rows(kept)
    out = Writer(Packed(given), keep_tokens)
    out.alive = (part != 0).any(dim=-1)
    for number, block in enumerate(out.batch.blocks):
        out.put(number, block.take(part.contiguous()).to(out.batch.dtype))
    found = out.result(0.5)
    tokens = found.tokens if kept is None or found.tokens is None else replace(found.tokens, row=kept.to(found.tokens.row.device)[found.tokens.row])
    return Credit(advantages, {**found.metrics, f"{PREFIX}left_out_responses/mean": share}, tokens)


def _among_all(found: Credit, kept: torch.Tensor, batch: TokenBatch) -> Credit:
    """The credit of the kept rows [n] as one of all rows: exact zeros for the others."""
    rewards = batch.token_level_rewards
    advantages, outcome = torch.zeros_like(rewards), rewards.new_zeros(len(rewards))
    if len(kept):
        rows = kept.to(rewards.device)
        advantages[rows], outcome[rows] = found.advantages, found.outcome.to(outcome.dtype)
    tokens = found.tokens and replace(found.tokens, row=kept.to(found.tokens.row.device)[found.tokens.row])
    return replace(found, advantages=advantages, outcome=outcome, tokens=tokens)
