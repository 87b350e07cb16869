"""A comparison in words: the Markdown report, and the sentences that it shares with the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from erpo_verl.reports.comparable import NOT_COMPARABLE, Issue
from erpo_verl.reports.endpoints import Comparison, Difference, Measure
from erpo_verl.reports.metrics import TAIL
from erpo_verl.reports.runs import Run, by_arm
from erpo_verl.statistics import ALPHA, DESCRIPTIVE, MIN_PAIRS, PRIMARY, SECONDARY
from erpo_verl.tables import DASH, interval, markdown_table, p_value, plain, signed

COMPARABLE = "By their records the runs differ in the algorithm's settings and the seed alone, and nothing is missing."
DIFFERENCES = ("arm", "measure", "difference", "95% interval", "pairs", "p", "p (Holm)", "verdict")
"""Columns of the tables of differences; those that describe alone end at the pairs."""
FAMILIES = ((PRIMARY, "Primary endpoint"), (SECONDARY, "Secondary endpoints"), (DESCRIPTIVE, "Descriptive"))


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


def cell(values: Sequence[float], form: str) -> str:
    """Mean and standard deviation over seeds, or the one value."""
    if not values:
        return DASH
    mean = format(float(np.mean(values)), form)
    return mean if len(values) < 2 else f"{mean} ± {format(float(np.std(values, ddof=1)), form)}"


def arm_values(report: Report, arm: str, measure: Measure) -> list[float]:
    """An arm's numbers in a measure, by seed; runs without it are left out."""
    values = report.comparison.values[measure.name]
    return [values[run.label] for run in report.arms[arm] if run.label in values]


def title_of(report: Report, measure: Measure) -> str:
    """A measure's title, marked where it is the primary endpoint."""
    return measure.title + (" (primary)" if report.comparison.roles[measure.name] == PRIMARY else "")


def difference_cells(difference: Difference) -> list[str]:
    """The cells of a difference's row, under `DIFFERENCES`."""
    paired, form = difference.paired, difference.measure.form
    cells = [
        difference.other, difference.measure.title, signed(paired.difference, form),
        interval(paired.low, paired.high, form, sign=True), str(paired.pairs),
    ]  # fmt: skip
    return cells if paired.role == DESCRIPTIVE else [*cells, p_value(paired.p_value), p_value(paired.adjusted), paired.verdict]


def about_values(report: Report) -> str:
    """What the numbers of the table of arms are."""
    comparison = report.comparison
    text = f"A number at step {comparison.step} is of that step's validation; training reward, lengths and entropy are means over the {TAIL} steps up to it. "
    if comparison.tokens is not None:
        text += (
            f"A number at equal tokens is that at {comparison.tokens:,.0f} generated tokens, interpolated between the validations before and "
            "after that many: what the run that had generated the fewest had spent by its last validation. "
        )
    return text + "± is the standard deviation over seeds."


def about_tests(report: Report) -> str:
    """What the differences are, and how they are judged."""
    comparison = report.comparison
    base, *others = report.arms
    if not others:
        return "There is nothing to compare with: give the runs of a second arm."
    text = f"Each arm minus {base}, paired by seed; intervals are 95% t intervals over the pairs, each for itself. "
    if comparison.primary is None:
        return text + "No run has a held-out number, so there is no primary endpoint."
    text += f"The primary endpoint is the {comparison.primary.title}"
    if comparison.primary.how != "tokens" and comparison.fallback:
        text += f", as {comparison.fallback}"
    several = f", corrected by Holm for the {len(others)} arms" if len(others) > 1 else ""
    return (
        f"{text}{several}. The p values of the {len(comparison.family(SECONDARY))} secondary differences are corrected by Holm. A difference is "
        f"distinguishable from noise where its corrected p is below {ALPHA}; fewer than {MIN_PAIRS} pairs, or pairs that differ by the same, give "
        "no p. The rest is described, not tested."
    )


def headline(report: Report) -> list[str]:
    """The primary endpoint in one sentence for each arm, and one that warns where runs are not comparable."""
    sentences = []
    grave = [issue for issue in report.issues if issue.level == NOT_COMPARABLE]
    if grave:
        sentences.append(f"These runs differ in more than the algorithm ({', '.join(dict.fromkeys(issue.what for issue in grave))}): see below.")
    for difference in report.comparison.family(PRIMARY):
        paired, form = difference.paired, difference.measure.form
        start = f"{difference.other} against {difference.base}, {difference.measure.title}: "
        if not paired.pairs:
            sentences.append(start + "no seed in common, not compared.")
            continue
        pairs = f"{paired.pairs} pair{'' if paired.pairs == 1 else 's'}"
        between = f"95% interval {interval(paired.low, paired.high, form, sign=True)} over {pairs}" if paired.low is not None else f"{pairs}, no interval"
        sentences.append(f"{start}{signed(paired.difference, form)}, {between}; {paired.verdict}.")
    if report.comparison.primary is None and len(report.arms) > 1:
        sentences.append("No run has a held-out number: there is no primary endpoint.")
    return sentences


def markdown(report: Report) -> str:
    """The report as Markdown: arms, differences, what speaks against the comparison."""
    comparison = report.comparison
    out = ["# Comparison of runs", "", *(f"- {plain(sentence)}" for sentence in headline(report)), ""]
    rows = [
        [arm, str(len(members)), *(cell(arm_values(report, arm, measure), measure.form) for measure in comparison.measures)]
        for arm, members in report.arms.items()
    ]
    out += [markdown_table(["arm", "seeds", *(title_of(report, m) for m in comparison.measures)], rows), about_values(report), ""]
    out += ["## Differences", "", plain(about_tests(report)), ""]
    for role, title in FAMILIES:
        if found := [difference_cells(difference) for difference in comparison.family(role)]:
            out += [f"### {title}", "", markdown_table(DIFFERENCES[: len(found[0])], found)]
    out += ["## May they be compared?", ""]
    out += [f"- **{issue.level}**, {plain(issue.what)}: {plain(issue.text)}" for issue in report.issues] or [f"- {COMPARABLE}"]
    return "\n".join(out) + "\n"
