"""The lines of a panel: each run's curve and each arm's mean, against steps or against generated tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from erpo_verl.reports.metrics import PANELS, Panel, accuracy_panels
from erpo_verl.reports.runs import Run, by_arm
from erpo_verl.reports.statistics import Comparison, interval, pareto

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """One metric of one arm. ``runs``: points (x, y) by run; ``mean``: over its runs, at the steps that all of them have.

    ``steps`` are those of the mean's points; ``second`` marks the panel's second metric, drawn with dashes.
    """

    arm: str
    number: int
    label: str
    second: bool
    runs: dict[str, list[Point]]
    steps: list[int]
    mean: list[Point]


def panels(runs: Sequence[Run]) -> list[tuple[Panel, list[Line]]]:
    """Every panel for which some run has numbers, with its lines."""
    sources = dict.fromkeys(name for run in runs for name in run.accuracies)
    found = [(panel, lines(panel, runs)) for panel in [*accuracy_panels(sources), *PANELS]]
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
            steps = sorted(set.intersection(*(set(points) for points in at.values())))
            mean = [tuple(float(v) for v in np.mean([points[step] for points in at.values()], axis=0)) for step in steps]
            found.append(Line(arm, number, curve.label, i > 0, {label: list(p.values()) for label, p in at.items()}, steps, mean))
    return found


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


def front(runs: Sequence[Run], comparison: Comparison, accuracy: str) -> tuple[str, list[FrontPoint]]:
    """Length against accuracy at the comparison's step: (name of the length's metric, a point for each arm that has both).

    The length is that of the validation responses where every run has it, else of the training responses.
    """
    source = accuracy.rsplit("/acc/", 1)[0].split("/", 1)[1]
    validation = f"val-aux/{source}/response_length/mean"
    if all(comparison.step in run.series.get(validation, {}) for run in runs):
        name, lengths = validation, {run.label: run.series[validation][comparison.step] for run in runs}
    else:
        name, lengths = "response_length/mean", comparison.values.get("response_length/mean", {})
    accuracies = comparison.values.get(accuracy, {})
    points: dict[str, tuple[int, dict[str, Point]]] = {}
    for number, (arm, members) in enumerate(by_arm(list(runs)).items()):
        having = {run.label: (lengths[run.label], accuracies[run.label]) for run in members if run.label in lengths and run.label in accuracies}
        if having:
            points[arm] = (number, having)
    means = {arm: tuple(float(v) for v in np.mean(list(having.values()), axis=0)) for arm, (_, having) in points.items()}
    best = pareto(means)
    result = []
    for arm, (number, having) in points.items():
        x, y = zip(*having.values(), strict=True)
        result.append(FrontPoint(arm, number, *means[arm], interval(x)[1], interval(y)[1], having, arm in best))
    return name, result
