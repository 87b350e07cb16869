"""``erpo inspect ROLLOUTS.parquet``: responses token by token, coloured by what ERPO computed for each token.

A self-contained page: right and wrong responses to the same prompt side by side, coloured by advantage, entropy, gate or progress;
pivots are underlined, and the numbers of a token stand under the pointer.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from erpo_verl.methods.declarations import Quantity
from erpo_verl.reports.document import data, document, template, text
from erpo_verl.reports.pieces import is_byte_level, readable
from erpo_verl.reports.selection import Group, Selection, is_right, parse_rows, select
from erpo_verl.runs.files import write_whole
from erpo_verl.runs.rollouts import RolloutsError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``erpo inspect``."""
    parser.add_argument("rollouts", type=Path, metavar="ROLLOUTS.parquet", help="responses that a training run wrote down")
    parser.add_argument("--out", type=Path, metavar="FILE.html", help="the page (the file's name with .html)")
    parser.add_argument("--uid", action="append", default=[], help="show the responses to this prompt; may be repeated")
    parser.add_argument("--rows", help="show these rows, counted from 0: 0-3,8")
    parser.add_argument("--groups", type=int, default=4, help="prompts with right and wrong responses to show (4)")
    parser.add_argument("--each", type=int, default=3, help="right and wrong responses of each (3)")
    parser.add_argument(
        "--methods", nargs="+", metavar="METHOD[:key=value,...]", help="what these methods would have said of the same responses, side by side"
    )


def run(args: argparse.Namespace) -> int:
    """Write the page; returns the exit code."""
    out = args.out or args.rollouts.with_suffix(".methods.html" if args.methods else ".html")
    tables = ""
    try:
        if args.rows and args.uid:
            raise RolloutsError("--rows and --uid exclude each other")
        if args.groups < 1 or args.each < 1:
            raise RolloutsError("--groups and --each are at least 1")
        rows = parse_rows(args.rows) if args.rows else None
        selection = select(args.rollouts, rows=rows, uids=args.uid, groups=args.groups, each=args.each)
        if args.methods:
            from erpo_verl.reports import credit, credit_page  # they need torch

            specs = credit.parse_specs(args.methods)
            rows_of_file, found, numbers = credit_page.compute(args.rollouts, specs)
            tables = credit_page.summary(found, numbers)
            write_whole(out, credit_page.page(args.rollouts.name, selection, rows_of_file, found, numbers))
        else:
            write_whole(out, page(args.rollouts.name, selection))
    except (RolloutsError, OSError) as error:
        print(f"erpo inspect: {error}", file=sys.stderr)
        return 1
    except ImportError as error:
        print(f'erpo inspect: {error}; pip install "erpo-verl[reports]"', file=sys.stderr)
        return 1
    print("\n".join([*selection.notes, *filter(None, [tables])]))
    print(out)
    return 0


def page(name: str, selection: Selection) -> str:
    """The page as HTML."""
    shown = [row for group in selection.groups for row in _sides(group)[0] + _sides(group)[1]]
    byte_level = is_byte_level(token for row in shown for token in row["tokens"])
    quantities = {quantity.name: quantity for quantity in selection.quantities}
    terms = [(name, f"{item.label} ({item.unit})" if item.unit else item.label) for name, item in quantities.items()]
    numbers = {"responses": [numbers_of(row, quantities) for row in shown], "columns": terms, "modes": modes_of(shown, quantities.values())}
    steps = sorted({group.step for group in selection.groups})
    buttons = "".join(
        f'<button type="button" data-mode="{mode}" aria-pressed="false">{text(quantities[mode].label)}</button>' for mode in numbers["modes"]
    ) + '<button type="button" data-mode="none" aria-pressed="false">plain</button>'
    pivots = ""
    if selection.top_z:
        top = "; ".join(f"{value:.3g}" + (f" at step {step}" if len(steps) > 1 else "") for step, value in selection.top_z.items())
        pivots = '<div class="modes"><button type="button" id="marks" aria-pressed="true">mark pivots</button></div>'
        legend = f"Dotted line: pivot (z &gt; 0). Thick line: top fifth of the step's tokens in this file (z &gt; {text(top)})."
    else:
        legend = "No pivots are marked: the file holds no z."
    body = [
        f'<header class="top"><h1>Responses, token by token</h1><p class="soft">{text(name)}, step {", ".join(map(str, steps))}</p>',
        "".join(f'<p class="small soft">{text(note)}</p>' for note in selection.notes),
        "</header>\n<main>",
        f'<div class="bar"><div class="modes" role="group" aria-label="Colour by">{buttons}</div>{pivots}<div class="ramp" aria-hidden="true"></div>',
        f'<p class="about"></p><p class="about-pivots small soft">{legend}</p></div>',
    ]
    body += [_group(group, selection.top_z.get(group.step), byte_level) for group in selection.groups]
    body.append("</main>\n<footer>Made by erpo inspect. Move over a token, or focus a response and use the arrow keys, for its numbers.</footer>")
    body.append(f'<script type="application/json" id="numbers">{data(numbers)}</script>')
    html = document(f"Responses: {name}", [template("base.css"), template("inspect.css")], "\n".join(body), [template("inspect.js")])
    return html.replace("<body>", '<body class="pivots">', 1)


def _sides(group: Group) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    return [row for row in group.rows if is_right(row)], [row for row in group.rows if not is_right(row)]


def numbers_of(row: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """A response's numbers for the script, to six digits; null where there is none."""
    found: dict[str, Any] = {"token_ids": row["token_ids"]}
    for name in names:
        if row[name] is not None:
            found[name] = [None if value is None or not math.isfinite(value) else float(f"{value:.6g}") for value in row[name]]
    return found


def modes_of(rows: Sequence[Mapping[str, Any]], quantities: Iterable[Quantity]) -> dict[str, dict[str, Any]]:
    """What can be coloured, and the range of its colours: up to the 99th percentile of what is shown, so that one token
    does not pale all others."""
    found = {}
    for item in quantities:
        values = np.array([v for row in rows for v in row.get(item.name) or () if v is not None and math.isfinite(v)])
        if not item.colour or not len(values):
            continue
        high = float(np.quantile(np.abs(values) if item.signed else values, 0.99)) or float(np.abs(values).max())
        found[item.name] = {"signed": item.signed, "low": 0.0, "high": float(f"{high:.4g}") or 1.0, "about": item.meaning}
    return found


def group_head(group: Group) -> str:
    """The beginning of a group's section, which the caller ends."""
    first = group.rows[0]
    left = f", {group.left_out} more left out" if group.left_out else ""
    source = f"{first['data_source']}, " if first["data_source"] else ""
    return (
        f'<section class="group"><h2>Prompt {text(group.uid)}</h2>'
        f'<p class="small soft">{text(source)}step {group.step}, {len(group.rows)} responses shown{left}; right answer: <b>{text(first["gold"] or "not given")}</b></p>'
        f'<div class="prompt" tabindex="0">{_lines(first["prompt"])}</div>'
    )


def _group(group: Group, top_z: float | None, byte_level: bool) -> str:
    parts = [group_head(group)]
    right, wrong = _sides(group)
    parts.append(f'<div class="sides{"" if right and wrong else " single"}">')
    for kind, rows in (("right", right), ("wrong", wrong)):
        if rows:
            parts.append(f'<div class="side"><h3 class="{kind}">{"✓ Right" if kind == "right" else "✗ Wrong"}</h3>')
            parts += [_response(row, top_z, byte_level) for row in rows]
            parts.append("</div>")
    return "".join(parts) + "</div></section>"


def _response(row: dict[str, Any], top_z: float | None, byte_level: bool) -> str:
    facts = [f"sample {row['sample']}", f"{row['length']} tokens"]
    for name, label in (("score", "score"), ("outcome_advantage", "outcome advantage")):
        if row[name] is not None:
            facts.append(f"{label} <b>{row[name]:.4g}</b>")
    if row["pred"]:
        facts.append(f"read as <b>{text(row['pred'])}</b>")
    if row["reason"]:
        facts.append(f"reason {text(row['reason'])}")
    if row["finished"] is False:
        facts.append("cut off at the length limit")
    return f'<div class="response"><p class="facts">{" · ".join(facts)}</p>{response_tokens(row, top_z, byte_level)}</div>'


def response_tokens(row: dict[str, Any], top_z: float | None, byte_level: bool) -> str:
    """A response's tokens, to be coloured by the page's script."""
    z = row["z"] or [None] * row["length"]
    spans = "".join(_token(i, word, z[i], top_z) for i, word in enumerate(readable(row["tokens"], byte_level)))
    label = f"{'Right' if is_right(row) else 'Wrong'} response, sample {row['sample']}; arrow keys go through its tokens"
    return f'<div class="tokens" tabindex="0" role="group" aria-label="{label}">{spans}</div>'


def _token(i: int, word: str, z: float | None, top_z: float | None) -> str:
    kind = ""
    if z is not None and z > 0:
        kind = "pivot top" if top_z is not None and z > top_z else "pivot"
    attributes = f' data-kind="{kind}" class="{kind}"' if kind else ""
    return f'<span data-i="{i}"{attributes}>{_lines(word, sign=True) or "∅"}</span>'


def _lines(value: str, sign: bool = False) -> str:
    """Text whose line breaks are kept, and with ``sign`` shown; everything else as `text` does."""
    return ("⏎\n" if sign else "\n").join(text(part) for part in value.replace("\r\n", "\n").split("\n"))
