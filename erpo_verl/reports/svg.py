"""Small charts as inline SVG for the page: no script needed to read them, coloured by the page's own variables."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from erpo_verl.reports.curves import FrontPoint, Line, Point
from erpo_verl.reports.document import text

WIDTH, HEIGHT = 380, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 12, 12, 38
SHAPES = 4


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers within [low, high]."""
    span = high - low
    if span <= 0:
        return [low]
    step = 10 ** math.floor(math.log10(span / count))
    step *= next((m for m in (1, 2, 5, 10) if span / (step * m) <= count), 10)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """A number as short as it can be read: 0.034, 1.2k, 3M."""
    size = abs(value)
    for limit, sign in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit:
            factor = 1e3 if sign == "k" else limit
            return f"{value / factor:.3g}{sign}"
    return f"{value:.4g}" if size >= 1e-3 or size == 0 else f"{value:.1e}"


class Plane:
    """From data to the chart's coordinates."""

    def __init__(self, points: Sequence[Point]):
        xs, ys = [x for x, _ in points], [y for _, y in points]
        self.x0, self.x1 = _widened(min(xs), max(xs), 0.0 if len(set(xs)) > 1 else 1.0)
        self.y0, self.y1 = _widened(min(ys), max(ys), 0.06)

    def x(self, value: float) -> float:
        return _LEFT + (value - self.x0) / (self.x1 - self.x0) * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - _BOTTOM - (value - self.y0) / (self.y1 - self.y0) * (HEIGHT - _TOP - _BOTTOM)

    def path(self, points: Sequence[Point]) -> str:
        return "M" + "L".join(f"{self.x(x):.1f} {self.y(y):.1f}" for x, y in points)

    def axes(self, x_label: str) -> list[str]:
        parts = []
        for value in ticks(self.y0, self.y1):
            y = self.y(value)
            parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{number(value)}</text>')
        base = HEIGHT - _BOTTOM
        parts.append(f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{base}" y2="{base}"/>')
        for value in ticks(self.x0, self.x1):
            x = self.x(value)
            parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{base}" y2="{base + 4}"/>')
            parts.append(f'<text class="tick" x="{x:.1f}" y="{base + 16}" text-anchor="middle">{number(value)}</text>')
        parts.append(f'<text class="name" x="{(WIDTH + _LEFT - _RIGHT) / 2:.0f}" y="{HEIGHT - 5}" text-anchor="middle">{text(x_label)}</text>')
        return parts


def _widened(low: float, high: float, share: float) -> tuple[float, float]:
    if high == low:
        pad = abs(low) * 0.05 or 0.5
        return low - pad, high + pad
    pad = (high - low) * share
    return low - pad, high + pad


def marker(shape: int, x: float, y: float, size: float, attributes: str) -> str:
    """A circle, square, triangle or diamond: arms are told apart without colour too."""
    if shape % SHAPES == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}" {attributes}/>'
    corners = {
        1: [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        2: [(0, -1.15), (1.1, 0.85), (-1.1, 0.85)],
        3: [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)],
    }[shape % SHAPES]
    points = " ".join(f"{x + dx * size:.1f},{y + dy * size:.1f}" for dx, dy in corners)
    return f'<polygon points="{points}" {attributes}/>'


def line_chart(lines: Sequence[Line], x_label: str, title: str) -> str:
    """Thin lines for runs, a thick one with markers for each arm's mean; the second metric of a panel is dashed."""
    plane = Plane([point for line in lines for points in line.runs.values() for point in points])
    parts = plane.axes(x_label)
    for line in lines:
        kind = f"arm-{line.number % 8}" + (" second" if line.second else "")
        inside = []
        if len(line.runs) > 1 or not line.mean:
            inside += [f'<path class="run" d="{plane.path(points)}"/>' for points in line.runs.values() if len(points) > 1]
        if len(line.mean) > 1:
            inside.append(f'<path class="mean" d="{plane.path(line.mean)}"/>')
        every = max(1, math.ceil(len(line.mean) / 9))
        for i, (x, y) in enumerate(line.mean):
            if i % every == 0 or i == len(line.mean) - 1:
                inside.append(marker(line.number, plane.x(x), plane.y(y), 3.0, 'class="dot"'))
        parts.append(f'<g class="{kind}" data-arm="{line.number}">{"".join(inside)}</g>')
    return _svg(parts, title)


def front_chart(points: Sequence[FrontPoint], x_label: str, title: str) -> str:
    """Accuracy against length: small marks for runs, large ones for arms with 95% intervals, and the front through the best."""
    runs = [point for arm in points for point in arm.runs.values()]
    corners = [
        (arm.length + sx * (arm.length_half or 0), arm.accuracy + sy * (arm.accuracy_half or 0)) for arm in points for sx in (-1, 1) for sy in (-1, 1)
    ]
    plane = Plane(_padded([*runs, *corners]))
    parts = plane.axes(x_label)
    best = sorted((arm for arm in points if arm.on_front), key=lambda arm: arm.length)
    if len(best) > 1:
        parts.append(f'<path class="front" d="{plane.path([(arm.length, arm.accuracy) for arm in best])}"/>')
    for arm in points:
        x, y = plane.x(arm.length), plane.y(arm.accuracy)
        inside = [marker(arm.number, plane.x(a), plane.y(b), 2.2, 'class="one"') for a, b in arm.runs.values() if len(arm.runs) > 1]
        if arm.length_half is not None:
            left, right = plane.x(arm.length - arm.length_half), plane.x(arm.length + arm.length_half)
            inside.append(f'<path class="bar" d="M{left:.1f} {y:.1f}H{right:.1f}"/>')
        if arm.accuracy_half is not None:
            low, high = plane.y(arm.accuracy - arm.accuracy_half), plane.y(arm.accuracy + arm.accuracy_half)
            inside.append(f'<path class="bar" d="M{x:.1f} {low:.1f}V{high:.1f}"/>')
        told = f"{arm.arm}: length {number(arm.length)}, accuracy {arm.accuracy:.3f}"
        dot = marker(arm.number, x, y, 5.0, 'class="dot"')
        inside.append(f"<g><title>{text(told)}</title>{dot}</g>")
        parts.append(f'<g class="arm-{arm.number % 8}" data-arm="{arm.number}">{"".join(inside)}</g>')
    return _svg(parts, title)


def _padded(points: list[Point]) -> list[Point]:
    xs = [x for x, _ in points]
    pad = (max(xs) - min(xs)) * 0.06 or abs(xs[0]) * 0.05 or 0.5
    return [*points, (min(xs) - pad, points[0][1]), (max(xs) + pad, points[0][1])]


def frame() -> dict[str, float]:
    """Where the drawing area lies, for the page's script."""
    return {"width": WIDTH, "left": _LEFT, "right": WIDTH - _RIGHT, "top": _TOP, "bottom": HEIGHT - _BOTTOM}


def scale(lines: Sequence[Line]) -> Callable[[float], float]:
    """The x scale of `line_chart` for these lines."""
    return Plane([point for line in lines for points in line.runs.values() for point in points]).x


def _svg(parts: list[str], title: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(title)}">'
        + "".join(parts)
        + "</svg>"
    )
