"""Named values with their intervals, as an SVG that stands alone and fits into a page."""

from __future__ import annotations

import math
from collections.abc import Sequence

from erpo_verl.reports.document import text

WIDTH, ROW, LEFT, RIGHT, TOP, BOTTOM = 620, 26, 190, 24, 10, 44
_STYLE = (
    "svg.intervals{color:#1b1f24;max-width:100%;height:auto}"
    "svg.intervals text{font:12px system-ui,sans-serif;fill:currentColor}"
    "svg.intervals line{stroke:currentColor}"
    "svg.intervals .grid{opacity:.15}svg.intervals .mark{opacity:.55;stroke-dasharray:3 3}svg.intervals .bar{stroke:#0072b2;stroke-width:2}"
    "svg.intervals circle{fill:#0072b2}"
    "@media (prefers-color-scheme:dark){svg.intervals{color:#e6e6e6}svg.intervals .bar{stroke:#56b4e9}svg.intervals circle{fill:#56b4e9}}"
)


def intervals(rows: Sequence[tuple[str, float, float, float]], label: str, *, zero: bool = False, line: float | None = None) -> str:
    """One line a row: a dot at its value, a bar over its interval; an interval without an end is drawn to the edge.

    Args:
        rows: (name, value, low, high).
        label: of the axis.
        zero: the axis holds 0.
        line: where a dashed line stands.
    """
    if not rows:
        return '<svg xmlns="http://www.w3.org/2000/svg" class="intervals" width="1" height="1" role="img" aria-label="nothing to draw"></svg>'
    values = [row[1] for row in rows]
    # Wide intervals may not squeeze the values together.
    limit = 3 * max(abs(v) for v in values) or 1.0
    ends = [end for _, _, low, high in rows for end in (low, high) if math.isfinite(end) and abs(end) <= limit]
    known = [*values, *ends, *([0.0] if zero else []), *([line] if line is not None else [])]
    x0, x1 = min(known), max(known)
    pad = (x1 - x0) * 0.05 or 1.0
    x0, x1 = (x0 if zero and x0 == 0 else x0 - pad), x1 + pad
    height = TOP + ROW * len(rows) + BOTTOM
    base = TOP + ROW * len(rows)

    def x(value: float) -> float:
        return LEFT + (min(max(value, x0), x1) - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)

    spoken = "; ".join(f"{name} {value:.4g}" for name, value, _, _ in rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="intervals" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" '
        f'aria-label="{text(label)}: {text(spoken)}">',
        f"<style>{_STYLE}</style>",
    ]
    for value in _ticks(x0, x1):
        parts.append(f'<line class="grid" x1="{x(value):.1f}" x2="{x(value):.1f}" y1="{TOP}" y2="{base}"/>')
        parts.append(f'<text x="{x(value):.1f}" y="{base + 16}" text-anchor="middle">{value:.4g}</text>')
    if line is not None:
        parts.append(f'<line class="mark" x1="{x(line):.1f}" x2="{x(line):.1f}" y1="{TOP}" y2="{base}"/>')
    for i, (name, value, low, high) in enumerate(rows):
        y = TOP + ROW * (i + 0.5)
        parts.append(f'<text x="{LEFT - 10}" y="{y + 4:.1f}" text-anchor="end">{text(name)}</text>')
        parts.append(f'<line class="bar" x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<circle cx="{x(value):.1f}" cy="{y:.1f}" r="4"/>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{height - 8}" text-anchor="middle">{text(label)}</text></svg>')
    return "".join(parts)


def _ticks(low: float, high: float, count: int = 6) -> list[float]:
    """About ``count`` round numbers within [low, high]."""
    step = 10 ** math.floor(math.log10((high - low) / count))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (step * m) <= count)
    return [round(i * step, 12) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
