"""A comparison in words: the Markdown report, and the sentences that it shares with the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from erpo_verl.reports.comparable import NOT_COMPARABLE, Issue
from erpo_verl.reports.metrics import TAIL, Measure
from erpo_verl.reports.runs import Run, by_arm
from erpo_verl.reports.statistics import Comparison, Difference


@dataclass(frozen=True)
class Report:
    """Everything that figures, page and Markdown are made from."""

    runs: list[Run]
    comparison: Comparison
    issues: list[Issue]

    @property
    def arms(self) -> dict[str, list[Run]]:
        """Runs by arm."""
        return by_arm(self.runs)


def signed(value: float, form: str) -> str:
    """With its sign, in a measure's format; none where it is rounded to zero."""
    shown = format(value, "+" + form)
    return shown if any(digit in shown for digit in "123456789") else shown[1:]


def cell(values: Sequence[float], form: str) -> str:
    """Mean and standard deviation over seeds, or the one value."""
    if not values:
        return "–"
    mean = format(float(np.mean(values)), form)
    return mean if len(values) < 2 else f"{mean} ± {format(float(np.std(values, ddof=1)), form)}"


def arm_values(report: Report, arm: str, measure: Measure) -> list[float]:
    """An arm's numbers in a measure, by seed; runs without it are left out."""
    values = report.comparison.values[measure.name]
    return [values[run.label] for run in report.arms[arm] if run.label in values]


def range_of(difference: Difference) -> str:
    """The interval, or why there is none."""
    if not difference.seeds:
        return "no seed in common"
    if difference.half is None:
        return "one seed: no interval"
    form = difference.measure.form
    return f"[{signed(difference.mean - difference.half, form)}, {signed(difference.mean + difference.half, form)}]"


def verdict(difference: Difference) -> str:
    """What may be said of a difference."""
    if not difference.seeds:
        return "not compared"
    if difference.half is None:
        return "can be noise"
    if difference.told_apart:
        return "distinguishable from noise"
    if difference.p is not None and difference.p < 0.05:
        return "not distinguishable after Holm's correction"
    return "not distinguishable from noise"


def p_value(value: float | None) -> str:
    """A p value for a table."""
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def difference_text(difference: Difference) -> str:
    """The difference, signed; a dash where no seed is in common."""
    return "–" if math.isnan(difference.mean) else signed(difference.mean, difference.measure.form)


def about_values(report: Report) -> str:
    """What the numbers of the table of arms are."""
    return (
        f"Numbers at step {report.comparison.step}: accuracy is of that step's validation; training reward, length and entropy are means "
        f"over the last {TAIL} steps; ± is the standard deviation over seeds."
    )


def about_tests(report: Report) -> str:
    """What the differences are, and how many there are."""
    comparison = report.comparison
    base = next(iter(report.arms))
    if not comparison.differences:
        return "There is nothing to compare with: give the runs of a second arm."
    text = f"Each arm minus {base}, paired by seed. "
    if not comparison.tests:
        return text + "No arm has two seeds in common with it, so there are no intervals, and no difference is distinguishable from noise."
    return text + (
        f"Intervals are 95% t intervals over the paired seeds, each for itself. There are {comparison.tests} of them: with no difference "
        f"anywhere one expects {comparison.tests * 0.05:.1f} to miss zero. The last p is Holm's, corrected for all {comparison.tests}; a "
        "difference counts as distinguishable from noise where it is below 0.05."
    )


def headline(report: Report) -> list[str]:
    """One sentence for each arm and validation source, and one that warns where runs are not comparable."""
    sentences = []
    grave = [issue for issue in report.issues if issue.level == NOT_COMPARABLE]
    if grave:
        sentences.append(f"These runs differ in more than the algorithm ({', '.join(dict.fromkeys(issue.what for issue in grave))}): see below.")
    for difference in report.comparison.differences:
        if not difference.measure.title.startswith("accuracy"):
            continue
        start = f"{difference.other} against {difference.base}, {difference.measure.title}: "
        if not difference.seeds:
            sentences.append(start + "no seed in common, not compared.")
            continue
        text = f"{start}{difference_text(difference)}"
        if difference.half is None:
            sentences.append(text + " (one seed: no interval, so this can be noise).")
            continue
        sentences.append(f"{text}, 95% interval {range_of(difference)}, {len(difference.seeds)} paired seeds; {verdict(difference)}.")
    return sentences


def markdown(report: Report) -> str:
    """The report as Markdown: arms, differences, what speaks against the comparison, runs."""
    comparison = report.comparison
    out = ["# Comparison of runs", ""]
    out += [f"- {_plain(sentence)}" for sentence in headline(report)] + [""]
    out += ["| arm | seeds | " + " | ".join(_plain(m.title) for m in comparison.measures) + " |", "|---|---|" + "---|" * len(comparison.measures)]
    for arm, members in report.arms.items():
        cells = [cell(arm_values(report, arm, measure), measure.form) for measure in comparison.measures]
        out.append(f"| {_plain(arm)} | {len(members)} | " + " | ".join(cells) + " |")
    out += ["", about_values(report), "", "## Differences", "", about_tests(report), ""]
    if comparison.differences:
        out += ["| arm | measure | difference | 95% interval | pairs | p | p (Holm) | verdict |", "|---|---|---|---|---|---|---|---|"]
        for d in comparison.differences:
            cells = [_plain(d.other), _plain(d.measure.title), difference_text(d), range_of(d), str(len(d.seeds)), p_value(d.p), p_value(d.holm), verdict(d)]
            out.append("| " + " | ".join(cells) + " |")
        out.append("")
    out += ["## May they be compared?", ""]
    out += [f"- **{issue.level}**, {_plain(issue.what)}: {_plain(issue.text)}" for issue in report.issues]
    if not report.issues:
        out.append("- By their records the runs differ in the algorithm's settings and the seed alone, and nothing is missing.")
    return "\n".join(out) + "\n"


def _plain(text: str) -> str:
    """Text that cannot break a table or become markup."""
    text = "".join(character if character.isprintable() else " " for character in text)
    for sign in ("\\", "|", "<", "`", "*"):
        text = text.replace(sign, "\\" + sign)
    return text.replace("](", "]\\(")
