"""The page and the tables of ``erpo inspect --methods``: each response once for each method, in one scale of colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from erpo_verl import methods
from erpo_verl.methods.declarations import COMMON
from erpo_verl.reports.credit import WINDOWS, Figures, MethodCredit, Spec, correlations, credits, figures, read_all
from erpo_verl.reports.document import data, document, template, text
from erpo_verl.reports.inspection import group_head, modes_of, numbers_of, response_tokens
from erpo_verl.reports.pieces import is_byte_level
from erpo_verl.reports.selection import Selection, is_right

_SHARED = ("advantage", "entropy", "z", "old_log_prob")  # beside these each method shows its own quantities
_COLUMNS = (
    ("mean |A|", "mean size of a token's advantage; a larger one is a larger step"),
    ("|A| on pivots", "share of the advantages' size on tokens with z > 0"),
    ("on surprising", "the same on the tenth of tokens with the largest -log pi_old"),
    ("sign differs", "share of tokens whose advantage has not the sign of their response's outcome"),
    ("entropy change", "-cov(log pi_old, A) over tokens, the first-order change of entropy by a unit step (nats): below 0 the policy sharpens"),
)


def compute(path: Path, specs: Sequence[Spec]) -> tuple[list[dict[str, Any]], list[MethodCredit], list[Figures]]:
    """Rows of the file, each method's credit, and its figures.

    Raises:
        RolloutsError: see `credit.credits`.
    """
    rows = read_all(path)
    found = credits(path, rows, [*specs, Spec("grpo", "grpo", {})])
    *asked, outcome = found
    return rows, asked, [figures(rows, one, outcome) for one in asked]


def summary(found: Sequence[MethodCredit], numbers: Sequence[Figures]) -> str:
    """The tables as text, for the terminal."""
    width = max(12, *(len(one.spec.label) for one in found))
    lines = ["  ".join([" " * width, *(f"{name:>14}" for name, _ in _COLUMNS)])]
    lines += ["  ".join([f"{one.spec.label:<{width}}", *(f"{cell:>14}" for cell in _cells(f))]) for one, f in zip(found, numbers, strict=True)]
    return "\n".join(lines)


def _cells(f: Figures) -> list[str]:
    return [_number(f.size), _share(f.on_pivots), _share(f.on_surprising), _share(f.sign_differs), f"{f.entropy_change:+.4f}"]


def _share(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1%}"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4g}"


def page(name: str, selection: Selection, rows: Sequence[dict[str, Any]], found: Sequence[MethodCredit], numbers: Sequence[Figures]) -> str:
    """The page as HTML: tables over the whole file, then the chosen responses, method beside method."""
    place = {(row["step"], row["uid"], row["sample"]): number for number, row in enumerate(rows)}
    byte_level = is_byte_level(token for group in selection.groups for row in group.rows for token in row["tokens"])
    shown: list[dict[str, Any]] = []
    body = []
    for group in selection.groups:
        body.append(group_head(group))
        for row in sorted(group.rows, key=is_right, reverse=True):
            number = place[row["step"], row["uid"], row["sample"]]
            kind = "right" if is_right(row) else "wrong"
            body.append(f'<h3 class="{kind}">{"✓ Right" if kind == "right" else "✗ Wrong"}, sample {row["sample"]}</h3><div class="sides methods">')
            for one in found:
                own = {name: values[number] for name, values in one.quantities.items()}
                shown.append(numbers_of({**row, **own, "advantage": one.advantages[number]}, [*_SHARED, *own]))
                body.append(f'<div class="side"><p class="facts"><b>{text(one.spec.label)}</b></p>{response_tokens(row, selection.top_z.get(group.step), byte_level)}</div>')
            body.append("</div>")
        body.append("</section>")
    declared = {item.name: item for one in found for item in methods.get(one.spec.name).tokens}
    declared = {**{item.name: item for item in COMMON if item.name in _SHARED}, **declared}
    modes = modes_of(shown, declared.values())
    buttons = "".join(f'<button type="button" data-mode="{mode}" aria-pressed="false">{text(declared[mode].label)}</button>' for mode in modes)
    steps = ", ".join(map(str, sorted({row["step"] for row in rows})))
    head = [
        f'<header class="top"><h1>What each method would have said</h1><p class="soft">{text(name)}, step {steps}: {len(rows)} responses</p></header>',
        f"<main><p>The same responses, without training: advantages that each method gives their tokens.</p>{_tables(found, numbers)}",
        f'<div class="bar"><div class="modes" role="group" aria-label="Colour by">{buttons}<button type="button" data-mode="none" aria-pressed="false">plain</button></div>'
        '<div class="modes"><button type="button" id="marks" aria-pressed="true">mark pivots</button></div><div class="ramp" aria-hidden="true"></div>'
        '<p class="about"></p></div>',
    ]
    script = {"responses": shown, "columns": [[name, item.label] for name, item in declared.items()], "modes": modes}
    end = "</main>\n<footer>Made by erpo inspect --methods. One scale of colours for all methods; move over a token for its numbers.</footer>"
    html = document(
        f"Methods: {name}", [template("base.css"), template("inspect.css")],
        "\n".join([*head, *body, end, f'<script type="application/json" id="numbers">{data(script)}</script>']), [template("inspect.js")],
    )  # fmt: skip
    return html.replace("<body>", '<body class="pivots">', 1)


def _tables(found: Sequence[MethodCredit], numbers: Sequence[Figures]) -> str:
    labels = [text(one.spec.label) for one in found]
    head = "".join(f'<th title="{text(meaning)}">{text(name)}</th>' for name, meaning in _COLUMNS)
    body = "".join(f"<tr><th>{label}</th>{''.join(f'<td>{cell}</td>' for cell in _cells(f))}</tr>" for label, f in zip(labels, numbers, strict=True))
    meanings = "".join(f"<li><b>{text(name)}</b>: {text(meaning)}</li>" for name, meaning in _COLUMNS)
    windows = "".join(f"<th>{k / WINDOWS:.1f}–{(k + 1) / WINDOWS:.1f}</th>" for k in range(WINDOWS))
    by_window = "".join(
        f"<tr><th>{label}</th>{''.join(f'<td>{_share(value)}</td>' for value in f.by_window)}</tr>" for label, f in zip(labels, numbers, strict=True)
    )
    matrix = correlations(found)
    related = "".join(
        f"<tr><th>{label}</th>{''.join(f'<td>{value:.3f}</td>' if not math.isnan(value) else '<td>–</td>' for value in line)}</tr>"
        for label, line in zip(labels, matrix, strict=True)
    )
    return (
        f'<h2>Credit in numbers</h2><div class="scroll"><table><tr><th></th>{head}</tr>{body}</table></div><ul class="small soft">{meanings}</ul>'
        f'<h2>Share of |A| by window of progress t / T</h2><div class="scroll"><table><tr><th></th>{windows}</tr>{by_window}</table></div>'
        f'<h2>Correlation of token advantages</h2><div class="scroll"><table><tr><th></th>{"".join(f"<th>{label}</th>" for label in labels)}</tr>{related}</table></div>'
    )
