"""What a measurement leaves to be read: ``figures.json``, ``report.md``, ``branches.parquet``, two charts, ``page.html``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from erpo_verl.pivots import chart, page
from erpo_verl.pivots.branches import OTHER, SECOND
from erpo_verl.pivots.positions import KINDS, LOW, PARTNER, PIVOT, SURPRISING
from erpo_verl.pivots.sensitivity import MEASURES, figures, site_rows
from erpo_verl.runs.files import whole, write_whole
from erpo_verl.tables import with_interval

FIGURES = "figures.json"


def write(folder: Path, lines: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> tuple[list[Path], str]:
    """Write everything, each file whole or not at all; returns the paths and the report's text."""
    rows = site_rows(lines)
    found = {"settings": dict(settings), "problems": len(lines), **figures(rows, seed=settings["seed"])}
    told = markdown(found)
    charts = {"sensitivity.svg": by_kind(found), "windows.svg": by_window(found)}
    paths = [folder / name for name in ("report.md", "branches.parquet", *charts, "page.html", FIGURES)]
    write_whole(paths[0], told)
    write_parquet(paths[1], rows)
    for path, name in zip(paths[2:4], charts, strict=True):
        write_whole(path, charts[name])
    write_whole(paths[4], page.build(lines, rows, found, list(charts.values())))
    write_whole(paths[5], json.dumps(found, indent=1, allow_nan=False) + "\n")
    return paths, told


def write_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One row a site and replacement."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with whole(path) as partial:
        pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), partial, compression="zstd")


# ---------------------------------------------------------------- words


def headline(found: Mapping[str, Any]) -> list[str]:
    """What was found, in a few sentences."""
    ratio = found[OTHER]["ratios"][f"{PIVOT} / {PARTNER[PIVOT]}"]["right"]
    marks = found["marks"]
    told = []
    if ratio:
        told.append(
            f"Another draw at a pivot changes the chance of a right answer {_factor(ratio)} as strongly (squared change) as at a token of the same "
            f"place, over {ratio['problems']} problems: {_verdict(ratio)}."
        )
    beside = found[OTHER]["ratios"][f"{PIVOT} / {SURPRISING}"]["right"]
    if beside:
        told.append(f"Pivots by entropy against tokens of high surprisal: {_factor(beside)}: {_verdict(beside, 'entropy', 'surprisal')}.")
    if marks:
        told.append(
            f"Pivots are {_share(marks['pivots']['value'])} of the tokens and hold {_on(marks['on_pivots'])} of the outcome's variance; surprising tokens are "
            f"{_share(marks['surprising']['value'])} and hold {_on(marks['on_surprising'])}."
        )
        told.append(
            f"The gate's mean is {marks['mean_gate']['value']:.3f}. Weighted by it, a token's part in that variance is {_factor(marks['gate_lift'])} what even "
            f"weights give. From token to token the gate explains {_share(marks['r2_gate'])} of it, entropy {_share(marks['r2_entropy'])}, surprisal "
            f"{_share(marks['r2_surprisal'])}."
        )
    return told


def _verdict(ratio: Mapping[str, Any], first: str = "pivots", second: str = "the others") -> str:
    if ratio["value"] is None or ratio["low"] is None:
        return "the tokens compared with decide nothing that could be measured"
    if ratio["low"] > 1:
        return f"{first} decide more"
    if ratio["high"] is not None and ratio["high"] < 1:
        return f"{second} decide more"
    return "not told apart"


def _factor(ratio: Mapping[str, Any] | None) -> str:
    if not ratio or ratio["value"] is None:
        return "–"
    low, high = ("∞" if ratio[end] is None else f"{ratio[end]:.2f}" for end in ("low", "high"))
    return f"{ratio['value']:.2f} [{low}, {high}] times"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}%"


def _cell(figure: Mapping[str, float] | None, form: str = ".3f", sign: bool = False) -> str:
    return "" if figure is None else with_interval(figure["value"], figure["low"], figure["high"], form, sign)


def markdown(found: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    s = found["settings"]
    out = [
        "# Pivots, measured",
        "",
        f"{found['problems']} problems, {s['responses']} responses each, {s['sites']} sites of each kind a problem, {s['n']} continuations of each branch, "
        f"temperature {s['temperature']:g}. Model {s['model']} ({s['model_fingerprint']}). Intervals are 95%, bootstrap over problems.",
        "",
        *(f"- {sentence}" for sentence in headline(found)),
        "",
    ]
    for branch, name in ((OTHER, "Another draw in the token's place"), (SECOND, "The second choice in the token's place")):
        out += [f"## {name}", ""]
        out += [
            "| tokens | sites | entropy | surprisal | chance of a right answer | its squared change | root | fall, in right responses | answers' distance "
            "| length: squared change | longer by |",
            "|---" * 11 + "|",
        ]
        for kind, f in found[branch]["kinds"].items():
            if f["sites"]:
                root = f.get("right_root")
                out.append(
                    f"| {kind} | {f['sites']} | {_cell(f['entropy'])} | {_cell(f['surprisal'])} | {_cell(f['chance'])} | {_cell(f['right'], '.4f')} | "
                    f"{'' if root is None else format(root, '.3f')} | {_cell(f['drop'])} | {_cell(f['answer'], '.4f')} | {_cell(f['length'], '.1f')} | "
                    f"{_cell(f['longer'], '.2f', sign=True)} |"
                )
        out += ["", "| ratio of means | " + " | ".join(MEASURES.values()) + " |", "|---" * (len(MEASURES) + 1) + "|"]
        for pair, ratios in found[branch]["ratios"].items():
            out.append(f"| {pair} | " + " | ".join(_factor(ratios[m]).removesuffix(" times") for m in MEASURES) + " |")
        out += ["", "| window of progress | pairs | pivot / token beside it |", "|---|---|---|"]
        for w in found[branch]["windows"]:
            out.append(f"| {w['window']} | {w['pairs']} | {_factor(w['ratio']).removesuffix(' times')} |")
        out.append("")
    out += ["## Kinds of tokens", "", *(f"- {kind}: {about}" for kind, about in KINDS.items()), ""]
    return "\n".join(out)


def _on(part: Mapping[str, Any] | None) -> str:
    if not part or part["value"] is None:
        return "an unmeasurable share"
    low, high = ("∞" if part[end] is None else _share(part[end]) for end in ("low", "high"))
    return f"{_share(part['value'])} [{low}, {high}]"


# ---------------------------------------------------------------- charts


def by_kind(found: Mapping[str, Any]) -> str:
    """Squared change by kind of token, another draw."""
    kinds = (PIVOT, PARTNER[PIVOT], SURPRISING, PARTNER[SURPRISING], LOW, "random")
    rows = [(kind, found[OTHER]["kinds"][kind]["right"]) for kind in kinds]
    told = [(k, f["value"], *((f["value"],) * 2 if f["low"] is None else (f["low"], f["high"]))) for k, f in rows if f]
    return chart.intervals(told, "squared change of the chance of a right answer", zero=True)


def by_window(found: Mapping[str, Any]) -> str:
    """Ratio of pivots to the tokens beside them, by window."""
    rows = [(f"window {w['window']}", w["ratio"]) for w in found[OTHER]["windows"] if w["ratio"] and w["ratio"]["value"] is not None]
    told = [(name, r["value"], r["low"] if r["low"] is not None else 0.0, r["high"] if r["high"] is not None else math.inf) for name, r in rows]
    return chart.intervals(told, "squared change at pivots / at tokens of the same place", zero=True, line=1.0)


