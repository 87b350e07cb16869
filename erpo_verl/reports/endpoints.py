"""What arms are compared in: one primary endpoint, a declared secondary family, the rest described; and each run's number in them.

A held-out number can be taken at the last step at which every run was validated, or at equal generated tokens: at the budget B
of the run that had generated the fewest by its last validation, interpolated linearly between a run's validations before and
after B on its cumulative number of generated tokens. The second is the default, as arms that answer longer spend more on a step.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from erpo_verl.reports.metrics import MEASURES, TAIL, TOKENS, HeldOut
from erpo_verl.reports.runs import Run, by_arm, held_out
from erpo_verl.statistics import DESCRIPTIVE, PRIMARY, SECONDARY, Paired, judge, paired_t

AT_TOKENS = "tokens:"
"""Before a held-out metric's name: its number at equal generated tokens."""
HELD_OUT = "held-out"
"""The held-out accuracy (or reward): the mean over the validation sources, each with the same weight."""
NONE = "none"
_SECONDARY_TRAINING = ("response_length/mean",)


class EndpointError(ValueError):
    """--primary or --secondary names an endpoint that no run has; the message names the nearest that there is."""


@dataclass(frozen=True)
class Measure:
    """A number a run. ``metrics``: their mean is taken; ``how``: "tokens" (at equal tokens), "step", or "tail" (mean over the last steps)."""

    name: str
    title: str
    form: str
    metrics: tuple[str, ...]
    how: str


@dataclass(frozen=True)
class Difference:
    """Arm ``other`` minus arm ``base`` in one measure, over the ``seeds`` that both have."""

    measure: Measure
    base: str
    other: str
    seeds: tuple[int | None, ...]
    paired: Paired


@dataclass(frozen=True)
class Comparison:
    """All numbers of a report. ``values[measure name][run label]``: a run's number; ``roles[measure name]``; ``step``: where they
    are taken; ``tokens``: the budget B, None where runs cannot be compared at equal tokens, for the reason ``fallback``."""

    step: int
    tokens: float | None
    fallback: str
    measures: list[Measure]
    roles: dict[str, str]
    values: dict[str, dict[str, float]]
    differences: list[Difference]

    @property
    def primary(self) -> Measure | None:
        """The primary endpoint, if there is one."""
        return next((measure for measure in self.measures if self.roles[measure.name] == PRIMARY), None)

    def family(self, role: str) -> list[Difference]:
        """The differences of a role."""
        return [difference for difference in self.differences if difference.paired.role == role]


def compare(runs: Sequence[Run], primary: str | None = None, secondary: Sequence[str] | None = None) -> Comparison:
    """Every measure of every run, and each arm against the first one.

    Args:
        primary: name of the primary endpoint: a metric, `HELD_OUT`, or one of these after `AT_TOKENS`. None: `HELD_OUT` at equal
            tokens, or at the last common step where tokens are not recorded.
        secondary: names of the secondary family; None: the held-out numbers of each source at equal tokens (from two sources on),
            `HELD_OUT` at the last common step, and the response length.

    Raises:
        EndpointError: no run has such an endpoint.
    """
    step, sources = common_step(runs), held_out(runs)
    tokens, fallback = common_tokens(runs, sources)
    declared = [HELD_OUT, *_SECONDARY_TRAINING]
    if tokens is not None:
        declared = [AT_TOKENS + HELD_OUT, *(AT_TOKENS + source.name for source in sources if len(sources) > 1), *declared]
    if not sources:
        declared = list(_SECONDARY_TRAINING)
    first = primary or (declared[0] if sources else None)
    family = [name for name in declared if name != first] if secondary is None else [name for name in secondary if name != NONE]
    rest = [*(source.name for source in sources if len(sources) > 1), *(name for name, _, _ in MEASURES)]
    roles = {**dict.fromkeys(rest, DESCRIPTIVE), **dict.fromkeys(family, SECONDARY), **({first: PRIMARY} if first else {})}
    order = dict.fromkeys([*([first] if first else []), *family, *rest])
    asked = {name for name in (primary, *(secondary or ())) if name not in (None, NONE)}
    measures, values = [], {}
    for name in order:
        measure = _measure(name, runs, sources, step, tokens, fallback, name in asked)
        found = {run.label: number for run in runs if measure and (number := value_of(run, measure, step, tokens)) is not None}
        if found:
            measures.append(measure)
            values[measure.name] = found
        elif name in asked:
            raise EndpointError(f"{name!r}: no run has a number for it at step {step}")
    return Comparison(step, tokens, fallback, measures, roles, values, _differences(runs, measures, roles, values))


def _measure(
    name: str, runs: Sequence[Run], sources: Sequence[HeldOut], step: int, tokens: float | None, fallback: str, asked: bool
) -> Measure | None:
    plain = name.removeprefix(AT_TOKENS)
    at_tokens = plain != name
    known = {source.name: source for source in sources}
    if at_tokens and tokens is None:
        raise EndpointError(f"{name!r}: runs cannot be compared at equal generated tokens: {fallback}")
    where, how = ("at equal tokens", "tokens") if at_tokens else (f"at step {step}", "step")
    if plain == HELD_OUT and sources:
        kinds = {source.title for source in sources}
        what = sources[0].full_title if len(sources) == 1 else f"mean {kinds.pop() if len(kinds) == 1 else 'score'} on {len(sources)} sources"
        return Measure(name, f"{what} {where}", ".3f", tuple(known), how)
    if plain in known:
        return Measure(name, f"{known[plain].full_title} {where}", ".3f", (plain,), how)
    if at_tokens and plain != HELD_OUT:
        raise EndpointError(f"{name!r}: only a held-out number is taken at equal tokens: {AT_TOKENS}{HELD_OUT}" + "".join(f", {AT_TOKENS}{n}" for n in known))
    for metric, title, form in MEASURES:
        if plain == metric:
            return Measure(name, title, form, (metric,), "step" if metric == TOKENS else "tail")
    if any(plain in run.series for run in runs):
        return Measure(name, plain, ".4g", (plain,), "step" if plain.startswith("val-") else "tail")
    if not asked:
        return None
    names = [*([HELD_OUT] if sources else []), TOKENS, *known, *dict.fromkeys(metric for run in runs for metric in run.series)]
    near = difflib.get_close_matches(plain, names, n=3, cutoff=0.3)
    raise EndpointError(f"{name!r}: no run has it" + (f"; near are {', '.join(near)}" if near else ""))


def common_step(runs: Sequence[Run]) -> int:
    """The last step up to which all runs can be compared: with a validation in each that has any, else that all reached."""
    last = min(run.last_step for run in runs)
    names = [source.name for source in held_out(runs)]
    validated = [set.intersection(*found) for run in runs if (found := [set(run.series[name]) for name in names if name in run.series])]
    if validated and (shared := {step for step in set.intersection(*validated) if step <= last}):
        return max(shared)
    return last


def common_tokens(runs: Sequence[Run], sources: Sequence[HeldOut]) -> tuple[float | None, str]:
    """(the budget B, ""), or (None, why there is none)."""
    if not sources:
        return None, "there is no held-out validation"
    names = [source.name for source in sources]
    validated = [run for run in runs if any(name in run.series for name in names)]
    if untold := [run.label for run in validated if not run.tokens]:
        return None, f"generated tokens are not recorded in {', '.join(untold)}"
    spans = {}
    for run in validated:
        at = [run.tokens[step] for name in names for step in run.series.get(name, {}) if step in run.tokens]
        spans[run.label] = (min(at, default=math.inf), max(at, default=0.0))
    budget = min(last for _, last in spans.values())
    late = [label for label, (first, _) in spans.items() if first > budget]
    if late or budget <= 0:
        return None, f"no two validations of {', '.join(late or spans)} lie around a number of tokens that all runs have generated"
    return budget, ""


def value_of(run: Run, measure: Measure, step: int, tokens: float | None) -> float | None:
    """A run's number: at ``step``, over the last `TAIL` steps up to it, or at ``tokens`` generated tokens; None where it has none."""
    found = [_value(run, name, measure.how, step, tokens) for name in measure.metrics]
    return None if None in found else float(np.mean(found))


def _value(run: Run, metric: str, how: str, step: int, tokens: float | None) -> float | None:
    series = run.values(metric)
    if how == "step":
        return series.get(step)
    if how == "tail":
        values = [value for at, value in series.items() if at <= step][-TAIL:]
        return float(np.mean(values)) if values else None
    points = sorted((run.tokens[at], value) for at, value in series.items() if at in run.tokens)
    if not points or not points[0][0] <= tokens <= points[-1][0]:
        return None
    return float(np.interp(tokens, *zip(*points, strict=True)))


def _differences(
    runs: Sequence[Run], measures: Sequence[Measure], roles: Mapping[str, str], values: Mapping[str, Mapping[str, float]]
) -> list[Difference]:
    arms = by_arm(list(runs))
    base, *others = arms
    found = []
    for other in others:
        for measure in measures:
            a, b = ({run.seed: values[measure.name][run.label] for run in arms[arm] if run.label in values[measure.name]} for arm in (base, other))
            if (a and b) or roles[measure.name] == PRIMARY:  # whose verdict is never left out without a word
                seeds = tuple(sorted(set(a) & set(b), key=lambda seed: -1 if seed is None else seed))
                found.append(Difference(measure, base, other, seeds, paired_t([a[seed] for seed in seeds], [b[seed] for seed in seeds])))
    judged = judge([difference.paired for difference in found], [roles[difference.measure.name] for difference in found])
    return [Difference(d.measure, d.base, d.other, d.seeds, paired) for d, paired in zip(found, judged, strict=True)]


def pareto(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Arms that no other beats: points are (length, accuracy); shorter and more accurate is better. In order of length."""
    best = [
        arm
        for arm, (length, accuracy) in points.items()
        if not any(
            x <= length and y >= accuracy and (x, y) != (length, accuracy) for other, (x, y) in points.items() if other != arm
        )
    ]
    return sorted(best, key=lambda arm: points[arm])
