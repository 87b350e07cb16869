"""The page and the tables of ``erpo inspect --methods``: each response once for each method, in one scale of colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from erpo_verl.reports.credit import WINDOWS, Figures, MethodCredit, Spec, correlations, credits, figures, read_all
from erpo_verl.reports.document import data, document, template, text
from erpo_verl.reports.inspection import group_head, response_tokens
from erpo_verl.reports.pieces import is_byte_level
from erpo_verl.reports.selection import Selection, is_right

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
                shown.append({"token_ids": row["token_ids"], **_columns(row, one, number)})
                body.append(f'<div class="side"><p class="facts"><b>{text(one.spec.label)}</b></p>{response_tokens(row, selection.top_z.get(group.step), byte_level)}</div>')
            body.append("</div>")
        body.append("</section>")
    modes = _modes(shown)
    buttons = "".join(f'<button type="button" data-mode="{mode}" aria-pressed="false">{mode}</button>' for mode in modes)
    steps = ", ".join(map(str, sorted({row["step"] for row in rows})))
    columns = list(dict.fromkeys(key for entry in shown for key in entry if key != "token_ids"))
    head = [
        f'<header class="top"><h1>What each method would have said</h1><p class="soft">{text(name)}, step {steps}: {len(rows)} responses</p></header>',
        f"<main><p>The same responses, without training: advantages that each method gives their tokens.</p>{_tables(found, numbers)}",
        f'<div class="bar"><div class="modes" role="group" aria-label="Colour by">{buttons}<button type="button" data-mode="none" aria-pressed="false">plain</button></div>'
        '<div class="modes"><button type="button" id="marks" aria-pressed="true">mark pivots</button></div><div class="ramp" aria-hidden="true"></div>'
        '<p class="about"></p></div>',
    ]
    script = {"responses": shown, "columns": [[c, c.replace("_", " ")] for c in columns], "modes": modes}
    end = "</main>\n<footer>Made by erpo inspect --methods. One scale of colours for all methods; move over a token for its numbers.</footer>"
    html = document(
        f"Methods: {name}", [template("base.css"), template("inspect.css")],
        "\n".join([*head, *body, end, f'<script type="application/json" id="numbers">{data(script)}</script>']), [template("inspect.js")],
    )  # fmt: skip
    return html.replace("<body>", '<body class="pivots">', 1)


def _columns(row: dict[str, Any], one: MethodCredit, number: int) -> dict[str, list[float | None]]:
    """A response's numbers for one method, to six digits."""
    values: dict[str, Any] = {"advantage": one.advantages[number]}
    values |= {name: row[name] for name in ("entropy", "z", "old_log_prob") if row[name] is not None}
    values |= {name: of_row[number] for name, of_row in one.quantities.items() if of_row[number] is not None}
    return {name: [float(f"{v:.6g}") if v is not None and math.isfinite(v) else None for v in numbers] for name, numbers in values.items()}


def _modes(shown: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What can be coloured, in one scale for all methods: up to the 99th percentile of the size of what is shown."""
    about = {
        "advantage": "Token advantage, in one scale for all methods: blue makes the token more likely, orange less.",
        "entropy": "Entropy of the policy's distribution before the token, in nats.",
    }
    found = {}
    for mode, meaning in about.items():
        values = np.array([v for entry in shown for v in entry.get(mode, ()) if v is not None])
        if len(values):
            high = float(np.quantile(np.abs(values), 0.99)) or float(np.abs(values).max())
            found[mode] = {"signed": mode == "advantage", "low": 0.0, "high": float(f"{high:.4g}") or 1.0, "about": meaning}
    return found


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
