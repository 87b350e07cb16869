"""The page of a measurement: charts, and responses coloured by what replacing each token changed, beside entropy, gate and advantage."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from erpo_verl.pivots.branches import OTHER, SECOND
from erpo_verl.pivots.positions import PIVOT, SHOWN
from erpo_verl.reports.document import data, document, template, text
from erpo_verl.reports.pieces import is_byte_level, readable

# column -> (button, words under the pointer, whether it has a sign, meaning)
MODES = {
    "part": ("decides", "part in the outcome's variance", False,
             "The token's part in the variance of right and wrong: squared change by another draw times (1 - p) / 2, p the token's probability. The "
             "parts of a response add up, in the mean, to that variance."),
    OTHER: ("change, another draw", "change, another draw", False,
            "How much another draw in this token's place changes the chance of a right answer (root of the unbiased squared change; 0 where "
            "it cannot be told from none)."),
    SECOND: ("change, second choice", "change, second choice", False, "The same with the likeliest other token in its place."),
    "chance": ("chance", "chance of a right answer", False, "Share of right answers where the model goes on after this token."),
    "entropy": ("entropy", "entropy (nats)", False, "Entropy of the policy's distribution before the token, in nats."),
    "surprisal": ("surprisal", "surprisal (nats)", False, "-log p of the token that was drawn, in nats."),
    "gate": ("gate", "gate W", False, "ERPO's entropy-aware gate W, by which the outcome's advantage is multiplied."),
    "advantage": ("advantage", "advantage", True, "Token advantage, gate times outcome (no progress term): blue makes the token more likely, orange less."),
}  # fmt: skip


def build(lines: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], found: Mapping[str, Any], charts: Sequence[str]) -> str:
    """The page as HTML."""
    from erpo_verl.pivots.report import headline

    measured: dict[tuple, dict[str, Any]] = {}
    for row in rows:
        if row["site"] == SHOWN:
            place = measured.setdefault((row["problem"], row["response"], row["position"]), {})
            place[row["branch"]] = math.sqrt(max(0.0, row["right"]))
            place["chance"] = row["chance"]
            if row["part"] is not None:
                place["part"] = max(0.0, row["part"])
    shown = [(line, i) for line in lines for i in line["shown"]]
    numbers = [_numbers(line, i, measured) for line, i in shown]
    modes = {name: _mode(name, numbers) for name in MODES}
    byte_level = is_byte_level(piece for line, i in shown for piece in line["responses"][i]["pieces"])
    buttons = "".join(f'<button type="button" data-mode="{text(m)}" aria-pressed="false">{text(MODES[m][0])}</button>' for m in modes)
    s = found["settings"]
    body = [
        f'<header class="top"><h1>Pivots, measured</h1><p class="soft">{text(s["model"])}, {found["problems"]} problems, {s["responses"]} responses each, '
        f'{s["n"]} continuations of each branch</p>',
        '<ul class="lead">' + "".join(f"<li>{text(sentence)}</li>" for sentence in headline(found)) + "</ul></header>\n<main>",
        '<section class="charts">' + "".join(f"<figure>{svg}</figure>" for svg in charts) + "</section>",
    ]
    if shown:
        body.append(
            f'<div class="bar"><div class="modes" role="group" aria-label="Colour by">{buttons}'
            '<button type="button" data-mode="none" aria-pressed="false">plain</button></div>'
            '<div class="modes"><button type="button" id="marks" aria-pressed="true">mark pivots</button></div><div class="ramp" aria-hidden="true"></div>'
            '<p class="about"></p><p class="about-pivots small soft">Dotted line: pivot (z &gt; 0 and in the highest tenth of entropies of the '
            "prompt's responses).</p></div>"
        )
    for line in lines:
        if line["shown"]:
            body.append(_problem(line, byte_level))
    body.append("</main>\n<footer>Made by erpo pivots. Move over a token, or focus a response and use the arrow keys, for its numbers.</footer>")
    told = {"responses": numbers, "columns": [(name, MODES[name][1]) for name in MODES], "modes": modes}
    body.append(f'<script type="application/json" id="numbers">{data(told)}</script>')
    scripts = [template("inspect.js")] if shown else []
    style = ".charts { display: flex; flex-wrap: wrap; gap: 1rem 2rem; } .charts figure { margin: 1rem 0; max-width: 100%; overflow-x: auto; }\n"
    html = document("Pivots, measured", [template("base.css"), template("inspect.css"), style], "\n".join(body), scripts)
    return html.replace("<body>", '<body class="pivots">', 1)


def _numbers(line: Mapping[str, Any], i: int, measured: Mapping[tuple, Mapping[str, float]]) -> dict[str, Any]:
    response = line["responses"][i]
    places = [measured.get((line["id"], i, t), {}) for t in range(len(response["tokens"]))]
    found: dict[str, Any] = {"token_ids": response["tokens"], "surprisal": [-x for x in response["log_prob"]]}
    for name in ("part", OTHER, SECOND, "chance"):
        found[name] = [None if name not in place else round(place[name], 4) for place in places]
    for name in ("entropy", "gate", "advantage"):
        found[name] = response[name]
    return found


def _mode(name: str, numbers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The range of a mode's colours: changes and chances from 0 to 1, others up to the largest."""
    signed = MODES[name][2]
    values = [abs(v) for row in numbers for v in row[name] if v is not None]
    high = 1.0 if name in (OTHER, SECOND, "chance", "gate") else float(f"{max(values, default=1.0):.4g}") or 1.0
    return {"signed": signed, "low": 0.0, "high": high, "about": MODES[name][3]}


def _problem(line: Mapping[str, Any], byte_level: bool) -> str:
    level = "" if line["level"] is None else f", level {text(line['level'])}"
    parts = [
        f'<section class="group"><h2>{text(line["id"])}</h2><p class="small soft">{text(line["source"])}{level}; right answer: <b>{text(line["gold"])}</b>; '
        f'{sum(r["right"] for r in line["responses"])} of {len(line["responses"])} responses right</p>',
        f'<div class="prompt" tabindex="0">{_words(line["prompt"])}</div>',
        f'<div class="sides{"" if len(line["shown"]) > 1 else " single"}">',
    ]
    for i in line["shown"]:
        response = line["responses"][i]
        kind = "right" if response["right"] else "wrong"
        words = readable(response["pieces"], byte_level)
        spans = "".join(
            f'<span data-i="{t}"{_pivot(response[PIVOT][t])}>{_words(word, sign=True) or "∅"}</span>' for t, word in enumerate(words)
        )
        facts = [f"response {i}", f"{len(words)} tokens", f"read as <b>{text(response['answer'] or 'no answer')}</b>"]
        parts.append(
            f'<div class="side"><h3 class="{kind}">{"✓ Right" if response["right"] else "✗ Wrong"}</h3><div class="response"><p class="facts">{" · ".join(facts)}</p>'
            f'<div class="tokens" tabindex="0" role="group" aria-label="{kind.capitalize()} response {i}; arrow keys go through its tokens">{spans}</div></div></div>'
        )
    return "".join(parts) + "</div></section>"


def _pivot(pivot: bool) -> str:
    return ' data-kind="pivot" class="pivot"' if pivot else ""


def _words(value: str, sign: bool = False) -> str:
    return ("⏎\n" if sign else "\n").join(text(part) for part in value.replace("\r\n", "\n").split("\n"))
