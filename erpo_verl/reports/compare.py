"""``erpo compare RUN... --out DIR``: a figure (PNG, SVG) and a table (Markdown) of several runs.

Runs of one arm (``erpo-s1``, ``erpo-s2``) are averaged; differences between arms are paired by seed.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import numpy as np

from erpo_verl.reports.runs import Run, read_run

# (title, metric names in the order of preference); ERPO's own are drawn only where a run has them.
PANELS = [
    ("held-out accuracy (sampled)", None),
    ("training reward", ("critic/score/mean",)),
    ("response length (tokens)", ("response_length/mean",)),
    ("policy entropy (nats)", ("actor/entropy",)),
    ("ERPO: entropy of pivots, other tokens", ("erpo/cdp_entropy/mean", "erpo/non_cdp_entropy/mean")),
    ("ERPO: share of |advantage| on pivots", ("erpo/cdp_advantage_share/mean",)),
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``erpo compare``."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder with metrics.jsonl, named ARM or ARM-sSEED")
    parser.add_argument("--out", type=Path, default=Path("comparison"), help="folder of the report (comparison)")


def run(args: argparse.Namespace) -> int:
    """Write the report and print the table; returns the exit code."""
    try:
        runs = [read_run(folder) for folder in args.runs]
        text = table(runs)
    except ValueError as error:
        print(f"erpo compare: {error}", file=sys.stderr)
        return 1
    args.out.mkdir(parents=True, exist_ok=True)
    figures = draw(runs, args.out)
    (args.out / "comparison.md").write_text(text)
    print(text)
    for path in [*figures, args.out / "comparison.md"]:
        print(path)
    return 0


def by_arm(runs: list[Run]) -> dict[str, list[Run]]:
    """Runs by arm, in the order in which the arms came; seeds sorted.

    Raises:
        ValueError: two runs have the same arm and seed.
    """
    arms: dict[str, list[Run]] = {}
    for one in runs:
        arms.setdefault(one.arm, []).append(one)
    for arm, members in arms.items():
        if len({m.seed for m in members}) < len(members):
            raise ValueError(f"two runs of arm {arm!r} have the same seed: name their folders {arm}-s1, {arm}-s2, ...")
        members.sort(key=lambda m: int(m.seed))
    return arms


def paired_difference(a: dict[str, float], b: dict[str, float]) -> tuple[float, float | None, int]:
    """Mean of b - a over the seeds that both have, half the width of its 95% interval (t), and the number of seeds.

    The half-width is None with fewer than two common seeds: one pair says nothing of the noise.
    """
    from scipy.stats import t

    seeds = sorted(set(a) & set(b))
    differences = np.array([b[s] - a[s] for s in seeds])
    n = len(differences)
    if n < 2:
        return (float(differences.mean()) if n else math.nan), None, n
    half = float(t.ppf(0.975, n - 1) * differences.std(ddof=1) / math.sqrt(n))
    return float(differences.mean()), half, n


def _last(run: Run, name: str) -> float:
    return run.series[name][-1][1] if name in run.series else math.nan


def _tail_mean(run: Run, name: str, steps: int = 5) -> float:
    """Mean over the last steps: one training batch alone is noisy."""
    values = [value for _, value in run.series.get(name, [])][-steps:]
    return float(np.mean(values)) if values else math.nan


def _tokens(run: Run) -> float:
    return sum(value for _, value in run.series.get("perf/total_num_tokens", [])) / 1e6


COLUMNS = [
    ("held-out start", lambda r: r.series[r.held_out][0][1], ".3f"),
    ("held-out end", lambda r: _last(r, r.held_out), ".3f"),
    ("gain", lambda r: _last(r, r.held_out) - r.series[r.held_out][0][1], "+.3f"),
    ("train reward", lambda r: _tail_mean(r, "critic/score/mean"), ".3f"),
    ("length", lambda r: _tail_mean(r, "response_length/mean"), ".1f"),
    ("entropy", lambda r: _tail_mean(r, "actor/entropy"), ".3f"),
    ("M tokens", _tokens, ".2f"),
]


def table(runs: list[Run]) -> str:
    """Markdown: one line an arm, then the paired differences to the first arm with their intervals."""
    arms = by_arm(runs)
    steps = sorted({r.series[r.held_out][-1][0] for r in runs})
    lines = [
        "| arm | seeds | " + " | ".join(name for name, _, _ in COLUMNS) + " |",
        "|---|---|" + "---|" * len(COLUMNS),
    ]
    for arm, members in arms.items():
        cells = [_mean_and_spread([column(r) for r in members], form) for _, column, form in COLUMNS]
        lines.append(f"| {arm} | {len(members)} | " + " | ".join(cells) + " |")
    lines.append("")
    lines.append(
        "Held-out accuracy is of samples at the training temperature; train reward, length and entropy are means over the"
        f" last 5 steps. Last step: {', '.join(map(str, steps))}."
    )
    if len(steps) > 1:
        lines.append("The runs are of different length: not comparable as they are.")
    base, *others = arms
    for other in others:
        lines.append("")
        for name, column, form in COLUMNS[1:2] + COLUMNS[4:6]:
            difference, half, n = paired_difference(
                {r.seed: column(r) for r in arms[base]}, {r.seed: column(r) for r in arms[other]}
            )
            lines.append(f"- {other} against {base}, {name}: {_verdict(difference, half, n, form)}")
    return "\n".join(lines) + "\n"


def _mean_and_spread(values: list[float], form: str) -> str:
    mean = format(float(np.mean(values)), form)
    return mean if len(values) < 2 else f"{mean} ± {format(float(np.std(values, ddof=1)), form.replace('+', ''))}"


def _verdict(difference: float, half: float | None, n: int, form: str) -> str:
    form = "+" + form.replace("+", "")
    if n == 0:
        return "no seed in common, not compared"
    if half is None:
        return f"{format(difference, form)} (one seed: no interval, so this can be noise)"
    low, high = format(difference - half, form), format(difference + half, form)
    noise = "" if abs(difference) > half else "; not distinguishable from noise"
    return f"{format(difference, form)}, 95% interval [{low}, {high}], {n} paired seeds{noise}"


def draw(runs: list[Run], out: Path) -> list[Path]:
    """Write ``comparison.png`` and ``comparison.svg``; returns their paths. A thin line a run, a thick one an arm's mean."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    arms = by_arm(runs)
    colours = dict(zip(arms, ("#555555", "#d1495b", "#00798c", "#edae49", "#6a4c93", "#3d8b37"), strict=False))
    panels = []
    for title, names in PANELS:
        chosen = {r.path: [r.held_out] if names is None else [n for n in names if n in r.series] for r in runs}
        if any(chosen.values()):
            panels.append((title, chosen))
    rows = math.ceil(len(panels) / 3)
    figure, axes = plt.subplots(rows, 3, figsize=(12.5, 3.3 * rows), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (title, chosen) in zip(axes.flat, panels, strict=False):
        for arm, members in arms.items():
            colour = colours.get(arm)
            for position in range(max(len(chosen[r.path]) for r in members)):
                curves = [dict(r.series[chosen[r.path][position]]) for r in members if position < len(chosen[r.path])]
                style = "-" if position == 0 else "--"
                if len(curves) > 1:
                    for curve in curves:
                        axis.plot(*zip(*sorted(curve.items()), strict=True), color=colour, lw=0.7, alpha=0.35, ls=style)
                steps = sorted(set.intersection(*(set(c) for c in curves)))
                mean = [float(np.mean([c[s] for c in curves])) for s in steps]
                marker = "o" if len(steps) < 12 else None
                axis.plot(steps, mean, color=colour, lw=1.9, ls=style, marker=marker, ms=4, label=arm if not position else None)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step", fontsize=9)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25)
        axis.set_ylim(bottom=0)
    axes.flat[0].legend(frameon=False, fontsize=9)
    figure.tight_layout()
    paths = [out / "comparison.png", out / "comparison.svg"]
    for path in paths:
        figure.savefig(path, dpi=130)
    plt.close(figure)
    return paths
