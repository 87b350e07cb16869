"""The lines of a panel: each run's curve and each arm's mean, against steps or against generated tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from erpo_verl.reports.endpoints import Comparison, pareto
from erpo_verl.reports.metrics import PANELS, HeldOut, Panel, held_out_panels, method_panels
from erpo_verl.reports.runs import Run, by_arm, held_out
from erpo_verl.statistics import t_interval

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """One metric of one arm. ``runs``: points (x, y) by run; ``mean``: over its runs, at the steps that all of them have.

    ``steps`` are those of the mean's points; ``drawn`` is the mean as a line. Where a step should have a number and has none, a line
    is broken: by a point whose y is NaN. ``second`` marks the panel's second metric, drawn with dashes.
    """

    arm: str
    number: int
    label: str
    second: bool
    runs: dict[str, list[Point]]
    steps: list[int]
    mean: list[Point]
    drawn: list[Point]


def panels(runs: Sequence[Run]) -> list[tuple[Panel, list[Line]]]:
    """Every panel for which some run has numbers, with its lines."""
    found = [(panel, lines(panel, runs)) for panel in [*held_out_panels(held_out(runs)), *PANELS, *method_panels()]]
    return [(panel, of) for panel, of in found if of]


def lines(panel: Panel, runs: Sequence[Run]) -> list[Line]:
    """A panel's lines. Against tokens, an arm's mean stands at its runs' mean number of tokens at that step."""
    found = []
    for number, (arm, members) in enumerate(by_arm(list(runs)).items()):
        for i, curve in enumerate(panel.curves):
            having = [run for run in members if run.values(curve.name) and (run.tokens or not panel.over_tokens)]
            if not having:
                continue
            at = {
                run.label: {
                    step: (run.tokens[step] if panel.over_tokens else float(step), value)
                    for step, value in run.values(curve.name).items()
                    if not panel.over_tokens or step in run.tokens
                }
                for run in having
            }
            gaps = {run.label: run.gaps(curve.name) for run in having}
            steps = sorted(set.intersection(*(set(points) for points in at.values())))
            mean = {step: tuple(float(v) for v in np.mean([points[step] for points in at.values()], axis=0)) for step in steps}
            found.append(
                Line(
                    arm, number, curve.label, i > 0, {label: _broken(points, gaps[label]) for label, points in at.items()}, steps,
                    list(mean.values()), _broken(mean, set().union(*gaps.values())),
                )
            )  # fmt: skip
    return found


def _broken(points: dict[int, Point], gaps: set[int]) -> list[Point]:
    drawn: list[Point] = []
    before = None
    for step, point in points.items():
        if before is not None and any(before < gap < step for gap in gaps):
            drawn.append((point[0], math.nan))
        drawn.append(point)
        before = step
    return drawn


@dataclass(frozen=True)
class FrontPoint:
    """One arm on the plane of length and accuracy: means, halves of their 95% intervals (None: one run), and its runs."""

    arm: str
    number: int
    length: float
    accuracy: float
    length_half: float | None
    accuracy_half: float | None
    runs: dict[str, Point]
    on_front: bool


def front(runs: Sequence[Run], comparison: Comparison, source: HeldOut) -> tuple[str, list[FrontPoint]]:
    """Length against a source's accuracy at the comparison's step: (name of the length's metric, a point for each arm that has both).

    The length is that of the validation responses where every run has it, else of the training responses.
    """
    at = {run.label: run.series.get(source.name, {}).get(comparison.step) for run in runs}
    validation = f"val-aux/{source.source}/response_length/mean"
    if all(comparison.step in run.series.get(validation, {}) for run in runs):
        name, lengths = validation, {run.label: run.series[validation][comparison.step] for run in runs}
    else:
        name, lengths = "response_length/mean", comparison.values.get("response_length/mean", {})
    points: dict[str, tuple[int, dict[str, Point]]] = {}
    for number, (arm, members) in enumerate(by_arm(list(runs)).items()):
        having = {run.label: (lengths[run.label], at[run.label]) for run in members if run.label in lengths and at[run.label] is not None}
        if having:
            points[arm] = (number, having)
    intervals = {arm: [t_interval(values) for values in zip(*having.values(), strict=True)] for arm, (_, having) in points.items()}
    best = pareto({arm: (x.value, y.value) for arm, (x, y) in intervals.items()})
    return name, [
        FrontPoint(arm, number, x.value, y.value, x.half, y.half, having, arm in best)
        for arm, (number, having) in points.items()
        for x, y in [intervals[arm]]
    ]
