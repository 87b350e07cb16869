"""Arms against each other: each run's number, differences paired by seed, t intervals, Holm's correction."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from erpo_verl.reports.metrics import MEASURES, TAIL, Measure, accuracy_measures
from erpo_verl.reports.runs import Run, by_arm

LEVEL = 0.95


@dataclass(frozen=True)
class Difference:
    """Arm ``other`` minus arm ``base`` in one measure, over the seeds that both have.

    ``half``: half the width of the 95% t interval; ``p``: of the two-sided paired t test; ``holm``: the same after Holm's
    correction over all comparisons of the report. All three are None with fewer than two pairs: one pair says nothing of noise.
    """

    measure: Measure
    base: str
    other: str
    seeds: tuple[int | None, ...]
    mean: float
    half: float | None
    p: float | None
    holm: float | None = None

    @property
    def told_apart(self) -> bool:
        """Whether the difference can be told from noise at 5%, after the correction."""
        return self.holm is not None and self.holm < 1 - LEVEL


@dataclass(frozen=True)
class Comparison:
    """All numbers of a report. ``values[measure name][run label]``: a run's number; ``step``: where they are taken."""

    step: int
    measures: list[Measure]
    values: dict[str, dict[str, float]]
    differences: list[Difference]

    @property
    def tests(self) -> int:
        """How many differences were tested."""
        return sum(difference.p is not None for difference in self.differences)


def paired(a: Mapping[int | None, float], b: Mapping[int | None, float]) -> tuple[float, float | None, float | None, tuple[int | None, ...]]:
    """Mean of b - a over common seeds, half of its 95% t interval, p of the paired t test, and the seeds.

    Interval and p are None with fewer than two common seeds; the mean is NaN without one.
    """
    seeds = tuple(sorted(set(a) & set(b), key=lambda seed: -1 if seed is None else seed))
    differences = np.array([b[seed] - a[seed] for seed in seeds])
    n = len(differences)
    mean = float(differences.mean()) if n else math.nan
    if n < 2:
        return mean, None, None, seeds
    error = float(differences.std(ddof=1)) / math.sqrt(n)
    half = t_quantile(n - 1) * error
    if error == 0:
        return mean, half, 1.0 if mean == 0 else 0.0, seeds
    from scipy.stats import t

    return mean, half, float(2 * t.sf(abs(mean) / error, n - 1)), seeds


def t_quantile(degrees: int) -> float:
    """The t distribution's quantile for a two-sided interval of 95%."""
    from scipy.stats import t

    return float(t.ppf(0.5 + LEVEL / 2, degrees))


def interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and half of its 95% t interval over runs; None for one run."""
    array = np.asarray(values, dtype=float)
    if len(array) < 2:
        return float(array.mean()), None
    return float(array.mean()), t_quantile(len(array) - 1) * float(array.std(ddof=1)) / math.sqrt(len(array))


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values, in the order given (Holm 1979)."""
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    adjusted, running = [0.0] * len(ps), 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = running
    return adjusted


def value_at(run: Run, measure: Measure, step: int) -> float | None:
    """A run's number: of a training metric the mean over the last `TAIL` steps up to ``step``, else the value at ``step``."""
    series = run.values(measure.name)
    if not measure.tail:
        return series.get(step)
    values = [value for at, value in series.items() if at <= step][-TAIL:]
    return float(np.mean(values)) if values else None


def common_step(runs: Sequence[Run]) -> int:
    """The last step up to which all runs can be compared: with a validation in each that has any, else that all reached."""
    last = min(run.last_step for run in runs)
    validated = [set.intersection(*(set(run.series[name]) for name in run.accuracies)) for run in runs if run.accuracies]
    if validated and (shared := {step for step in set.intersection(*validated) if step <= last}):
        return max(shared)
    return last


def compare(runs: Sequence[Run]) -> Comparison:
    """Every measure of every run, and each arm against the first one."""
    step = common_step(runs)
    sources = dict.fromkeys(name for run in runs for name in run.accuracies)
    measures, values = [], {}
    for measure in [*accuracy_measures(sources), *MEASURES]:
        found = {run.label: value_at(run, measure, step) for run in runs}
        found = {label: value for label, value in found.items() if value is not None}
        if found:
            measures.append(measure)
            values[measure.name] = found
    arms = by_arm(list(runs))
    base, *others = arms
    differences = []
    for other in others:
        for measure in measures:
            of = [{run.seed: values[measure.name][run.label] for run in arms[arm] if run.label in values[measure.name]} for arm in (base, other)]
            if of[0] and of[1]:
                mean, half, p, seeds = paired(*of)
                differences.append(Difference(measure, base, other, seeds, mean, half, p))
    tested = [i for i, difference in enumerate(differences) if difference.p is not None]
    for i, p in zip(tested, holm([differences[i].p for i in tested]), strict=True):
        differences[i] = Difference(**{**vars(differences[i]), "holm": p})
    return Comparison(step, measures, values, differences)


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


