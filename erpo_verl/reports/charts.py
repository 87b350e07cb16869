"""The charts, drawn once with matplotlib: as files (PNG and SVG, an overview and one a section) and inside the page.

The same input gives the same bytes. In the page a chart takes its colours from the page's own variables, light and dark.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from erpo_verl.reports.curves import FrontPoint, Line, front, panels
from erpo_verl.reports.document import text
from erpo_verl.reports.metrics import TOKENS, Panel
from erpo_verl.reports.runs import held_out
from erpo_verl.reports.words import Report
from erpo_verl.runs.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Told apart by colour-blind readers too, on white and on black; the first arm, which the others are compared with, is grey.
COLOURS = ("#6b6b6b", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8c6d1f", "#56b4e9", "#7a4fa3")
MARKERS, MARKS = ("o", "s", "^", "D"), "●■▲◆"
OVERVIEW = ("reward", "length", "length-right-wrong", "entropy", "pivot-entropy", "pivot-share")
# Colours that stand for the page's variables; in the files they are what they say.
_INK, _GRID, _AXIS, _FRONT = "#5c6166", "#eeeeea", "#dcdcd6", "#999999"
_VARIABLES = {_INK: "--soft", _FRONT: "--soft", _GRID: "--faint", _AXIS: "--line", **{colour: f"--arm-{i}" for i, colour in enumerate(COLOURS)}}
_SETTINGS = {"svg.hashsalt": "erpo", "axes.spines.top": False, "axes.spines.right": False}

# A chart of the page, in points, and its drawing area.
WIDTH, HEIGHT = 380, 240
FRAME = {"width": WIDTH, "left": 50, "right": WIDTH - 12, "top": 12, "bottom": HEIGHT - 38}

Drawing = Callable[["Axes"], None]


@dataclass(frozen=True)
class Inline:
    """A chart of the page: its SVG, and where a value of x lies in it."""

    svg: str
    place: Callable[[float], float]


def number(value: float) -> str:
    """A number as short as it can be read: 0.034, 12k, 3M."""
    size = abs(value)
    for limit, sign in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit:
            factor = 1e3 if sign == "k" else limit
            return f"{value / factor:.3g}{sign}"
    return f"{value:.4g}" if size >= 1e-3 or size == 0 else f"{value:.1e}"


def write_figures(report: Report, out: Path) -> list[Path]:
    """Write ``comparison.{png,svg}`` and ``figures/*.{png,svg}`` into ``out``; returns their paths."""
    found = panels(report.runs)
    accuracy = [(panel, of) for panel, of in found if panel.section == "Accuracy"]
    overview = [*accuracy[:2], *((panel, of) for panel, of in found if panel.key in OVERVIEW)]
    paths = _write([_titled(panel, of) for panel, of in overview], report, out / "comparison") if overview else []
    sections: dict[str, list[Drawing]] = {}
    for panel, of in found:
        sections.setdefault(panel.section, []).append(_titled(panel, of))
    fronts = []
    for source in held_out(report.runs):
        length, points = front(report.runs, report.comparison, source)
        if points:
            fronts.append(_titled_front(source.source, source.title, length, points))
    if fronts:
        sections["Accuracy against length"] = fronts
    for section, drawings in sections.items():
        paths += _write(drawings, report, out / "figures" / section.lower().replace(" ", "-"))
    return paths


def line_chart(panel: Panel, lines: Sequence[Line]) -> Inline:
    """A panel's chart for the page."""
    return _inline(_curves(panel, lines), panel.key, f"{panel.title} against {TOKENS if panel.over_tokens else 'steps'}")


def front_chart(key: str, title: str, length: str, points: Sequence[FrontPoint]) -> Inline:
    """Accuracy against length, for the page."""
    return _inline(_front(length, points), key, title)


def _write(drawings: Sequence[Drawing], report: Report, stem: Path) -> list[Path]:
    import matplotlib
    from matplotlib.figure import Figure

    columns = min(3, len(drawings))
    rows = math.ceil(len(drawings) / columns)
    paths = []
    with matplotlib.rc_context({**_SETTINGS, "svg.fonttype": "path", "font.size": 9}):
        figure = Figure(figsize=(4.3 * columns, 3.1 * rows + 0.4), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
        for axis in axes.flat[len(drawings) :]:
            axis.set_visible(False)
        for axis, draw in zip(axes.flat, drawings, strict=False):
            draw(axis)
        handles = [
            matplotlib.lines.Line2D([], [], color=COLOURS[i % 8], marker=MARKERS[i % 4], lw=1.8, ms=4, label=_text(arm))
            for i, arm in enumerate(report.arms)
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 6), frameon=False)
        figure.draw_without_rendering()  # the layout is found once, not again for each file
        figure.set_layout_engine("none")
        for suffix in (".png", ".svg"):
            paths.append(write_whole(stem.with_suffix(suffix), _saved(figure, suffix[1:])))
    return paths


def _saved(figure: Figure, kind: str, **options: object) -> bytes:
    metadata = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
    content = io.BytesIO()
    figure.savefig(content, format=kind, metadata=metadata, **{"dpi": 130, "facecolor": "white", **options})
    return content.getvalue()


def _inline(draw: Drawing, key: str, title: str) -> Inline:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**_SETTINGS, "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72), dpi=72)
        left, right = FRAME["left"] / WIDTH, FRAME["right"] / WIDTH
        axis = figure.add_axes((left, 1 - FRAME["bottom"] / HEIGHT, right - left, (FRAME["bottom"] - FRAME["top"]) / HEIGHT))
        axis.patch.set_visible(False)
        draw(axis)
        svg = _themed(_saved(figure, "svg", dpi=72, facecolor="none").decode(), key, title)
        to_points = axis.transData.frozen()
    return Inline(svg, lambda x: float(to_points.transform((x, 0.0))[0]))


def _themed(svg: str, key: str, title: str) -> str:
    """matplotlib's SVG for the page: variables for colours, its own ids alone, no style that reaches outside, short numbers."""
    svg = svg[svg.index("<svg ") :]
    svg = re.sub(r"<svg [^>]*>", f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(title)}">', svg, count=1)
    svg = re.sub(r"\s*<metadata>.*?</metadata>|\s*<defs>\s*<style[^>]*>.*?</style>\s*</defs>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (d|x|y)="[^"]*"', lambda found: re.sub(r"([.][0-9][0-9])[0-9]+", r"\1", found[0]), svg)
    svg = re.sub(r"font-family: [^;]*; ", "", svg)
    svg = re.sub(r' id="arm-([0-9]+)"', r' data-arm="\1"', svg)
    used = set(re.findall(r'href="#([^"]+)"', svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: f' id="{key}-{found[1]}"' if found[1] in used else "", svg)
    svg = svg.replace('xlink:href="#', f'href="#{key}-')
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg


def _frame(axis: Axes, x_label: str) -> None:
    from matplotlib.ticker import MaxNLocator

    for which in (axis.xaxis, axis.yaxis):
        which.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        which.set_major_formatter(lambda value, _: number(value))
    axis.grid(axis="y", color=_GRID, lw=0.8, clip_on=False)
    axis.set_axisbelow(True)
    axis.spines["left"].set_visible(False)
    axis.spines["bottom"].set_color(_AXIS)
    axis.tick_params(axis="x", color=_AXIS, labelcolor=_INK)
    axis.tick_params(axis="y", length=0, labelcolor=_INK)
    axis.set_xlabel(x_label, color=_INK)


def _curves(panel: Panel, lines: Sequence[Line]) -> Drawing:
    def draw(axis: Axes) -> None:
        _frame(axis, TOKENS if panel.over_tokens else "step")
        for line in lines:
            look = {"color": COLOURS[line.number % 8], "ls": "--" if line.second else "-", "clip_on": False, "gid": f"arm-{line.number}"}
            if len(line.runs) > 1 or not line.mean:
                for points in line.runs.values():
                    axis.plot(*zip(*points, strict=True), lw=0.7, alpha=0.4, **look)
            if line.mean:
                every = max(1, math.ceil(len(line.mean) / 9))
                axis.plot(*zip(*line.drawn, strict=True), lw=1.8, **look)
                axis.plot(*zip(*line.mean, strict=True), **{**look, "ls": ""}, marker=MARKERS[line.number % 4], ms=5, markevery=every)

    return draw


def _titled(panel: Panel, lines: Sequence[Line]) -> Drawing:
    def draw(axis: Axes) -> None:
        _curves(panel, lines)(axis)
        axis.set_title(_text(panel.title), fontsize=10, loc="left")
        if panel.unit:
            axis.set_ylabel(panel.unit)
        labels = dict.fromkeys((line.label, line.second) for line in lines if line.label)
        axis.set_title("   ".join(f"{dash(second)} {label}" for label, second in labels), fontsize=8, loc="right")

    return draw


def dash(second: bool) -> str:
    """How a panel's first and second metric are drawn, as text."""
    return "- -" if second else "––"


def _front(length: str, points: Sequence[FrontPoint]) -> Drawing:
    def draw(axis: Axes) -> None:
        _frame(axis, "mean length of " + ("validation" if length.startswith("val-") else "training") + " responses (tokens)")
        axis.margins(0.08)
        best = sorted((p.length, p.accuracy) for p in points if p.on_front)
        if len(best) > 1:
            axis.plot(*zip(*best, strict=True), color=_FRONT, lw=1, ls=":", clip_on=False)
        for p in points:
            look = {"color": COLOURS[p.number % 8], "marker": MARKERS[p.number % 4], "clip_on": False, "gid": f"arm-{p.number}"}
            if len(p.runs) > 1:
                axis.plot(*zip(*p.runs.values(), strict=True), ms=3, ls="", alpha=0.5, **look)
            for xs, ys in (_bar(p.length, p.length_half, p.accuracy), _bar(p.accuracy, p.accuracy_half, p.length)[::-1]):
                axis.plot(xs, ys, lw=1.2, **{**look, "marker": ""})
            axis.plot([p.length], [p.accuracy], ms=7, **look)

    return draw


def _bar(value: float, half: float | None, other: float) -> tuple[list[float], list[float]]:
    return ([], []) if half is None else ([value - half, value + half], [other, other])


def _titled_front(source: str, what: str, length: str, points: Sequence[FrontPoint]) -> Drawing:
    def draw(axis: Axes) -> None:
        _front(length, points)(axis)
        axis.set_title(_text(source), fontsize=10, loc="left")
        axis.set_ylabel(what)

    return draw


def _text(label: str) -> str:
    return "".join(c if c.isprintable() else " " for c in label).replace("$", r"\$")
