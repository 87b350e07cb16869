"""The figures as files, PNG and SVG: an overview, and one for each section of the page. The same input gives the same bytes."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from erpo_verl.reports.curves import FrontPoint, Line, front, panels
from erpo_verl.reports.metrics import TOKENS, Panel
from erpo_verl.reports.svg import number
from erpo_verl.reports.words import Report
from erpo_verl.runs.files import write_whole

# Told apart by colour-blind readers too, on white and on black; the first arm, which the others are compared with, is grey.
COLOURS = ("#6b6b6b", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8c6d1f", "#56b4e9", "#7a4fa3")
MARKERS = ("o", "s", "^", "D")
OVERVIEW = ("reward", "length", "length-right-wrong", "entropy", "pivot-entropy", "pivot-share")

Drawing = Callable[["object"], None]


def write_figures(report: Report, out: Path) -> list[Path]:
    """Write ``comparison.{png,svg}`` and ``figures/*.{png,svg}`` into ``out``; returns their paths."""
    found = panels(report.runs)
    accuracy = [(panel, of) for panel, of in found if panel.section == "Accuracy"]
    overview = [*accuracy[:2], *((panel, of) for panel, of in found if panel.key in OVERVIEW)]
    paths = _write([_curves(panel, of) for panel, of in overview], report, out / "comparison") if overview else []
    sections: dict[str, list[Drawing]] = {}
    for panel, of in found:
        sections.setdefault(panel.section, []).append(_curves(panel, of))
    fronts = []
    for name in dict.fromkeys(name for run in report.runs for name in run.accuracies):
        length, points = front(report.runs, report.comparison, name)
        if points:
            fronts.append(_front(name, length, points))
    if fronts:
        sections["Accuracy against length"] = fronts
    for section, drawings in sections.items():
        paths += _write(drawings, report, out / "figures" / section.lower().replace(" ", "-"))
    return paths


def _write(drawings: Sequence[Drawing], report: Report, stem: Path) -> list[Path]:
    import matplotlib
    from matplotlib.figure import Figure

    columns = min(3, len(drawings))
    rows = math.ceil(len(drawings) / columns)
    settings = {"svg.hashsalt": "erpo", "svg.fonttype": "path", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    paths = []
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(4.3 * columns, 3.1 * rows + 0.4), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
        for axis in axes.flat[len(drawings) :]:
            axis.set_visible(False)
        for axis, draw in zip(axes.flat, drawings, strict=False):
            draw(axis)
            axis.grid(axis="y", alpha=0.25, lw=0.6)
        handles = [
            matplotlib.lines.Line2D([], [], color=COLOURS[i % 8], marker=MARKERS[i % 4], lw=1.8, ms=4, label=_text(arm))
            for i, arm in enumerate(report.arms)
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 6), frameon=False)
        figure.draw_without_rendering()  # the layout is found once, not again for each file
        figure.set_layout_engine("none")
        for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None, "Creator": None})):
            content = io.BytesIO()
            figure.savefig(content, format=suffix[1:], dpi=130, metadata=metadata, facecolor="white")
            paths.append(write_whole(stem.with_suffix(suffix), content.getvalue()))
    return paths


def _curves(panel: Panel, lines: Sequence[Line]) -> Drawing:
    from matplotlib.ticker import MaxNLocator

    def draw(axis) -> None:
        for line in lines:
            colour, style = COLOURS[line.number % 8], "--" if line.second else "-"
            if len(line.runs) > 1:
                for points in line.runs.values():
                    axis.plot(*zip(*points, strict=True), color=colour, lw=0.6, alpha=0.4, ls=style)
            if line.mean:
                every = max(1, len(line.mean) // 9)
                axis.plot(*zip(*line.mean, strict=True), color=colour, lw=1.7, ls=style, marker=MARKERS[line.number % 4], ms=3.5, markevery=every)
        axis.set_title(_text(panel.title), fontsize=10, loc="left")
        axis.set_xlabel(TOKENS if panel.over_tokens else "step")
        if panel.unit:
            axis.set_ylabel(panel.unit)
        if panel.over_tokens:
            axis.xaxis.set_major_locator(MaxNLocator(5))
            axis.xaxis.set_major_formatter(lambda value, _: number(value))
        labels = dict.fromkeys((line.label, line.second) for line in lines if line.label)
        axis.set_title("   ".join(f"{'- -' if second else '––'} {label}" for label, second in labels), fontsize=8, loc="right")

    return draw


def _front(accuracy: str, length: str, points: Sequence[FrontPoint]) -> Drawing:
    def draw(axis) -> None:
        best = sorted((p.length, p.accuracy) for p in points if p.on_front)
        if len(best) > 1:
            axis.plot(*zip(*best, strict=True), color="#999999", lw=1, ls=":")
        for p in points:
            colour, marker = COLOURS[p.number % 8], MARKERS[p.number % 4]
            if len(p.runs) > 1:
                axis.plot(*zip(*p.runs.values(), strict=True), color=colour, marker=marker, ms=3, ls="", alpha=0.5)
            axis.errorbar(p.length, p.accuracy, yerr=p.accuracy_half, xerr=p.length_half, color=colour, marker=marker, ms=7, lw=1)
        axis.set_title(_text(accuracy.split("/acc/")[0].split("/", 1)[1]), fontsize=10, loc="left")
        axis.set_xlabel("mean length of " + ("validation" if length.startswith("val-") else "training") + " responses (tokens)")
        axis.set_ylabel("held-out accuracy")

    return draw


def _text(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text).replace("$", r"\$")
