"""The page of ``erpo compare``: findings, what speaks against the comparison, tables, figures as inline SVG."""

from __future__ import annotations

import json
from collections.abc import Sequence

from erpo_verl.reports.charts import FRAME, MARKS, dash, front_chart, line_chart, number
from erpo_verl.reports.comparable import MISSING, NOT_COMPARABLE
from erpo_verl.reports.curves import Line, front, panels
from erpo_verl.reports.document import data, document, template, text
from erpo_verl.reports.metrics import TOKENS, HeldOut, Panel
from erpo_verl.reports.runs import held_out
from erpo_verl.reports.words import (
    COMPARABLE,
    DIFFERENCES,
    FAMILIES,
    Report,
    about_tests,
    about_values,
    arm_values,
    cell,
    difference_cells,
    headline,
    title_of,
)

_ROWS = 60  # of a figure's table; all numbers are in the runs' own files


def page(report: Report) -> str:
    """The page of a comparison."""
    arms = report.arms
    counts = ", ".join(f"{text(arm)} ({len(members)} {'run' if len(members) == 1 else 'runs'})" for arm, members in arms.items())
    parts = [
        f'<header class="top"><h1>Comparison of runs</h1><p class="soft">{counts}; numbers at step {report.comparison.step}</p>',
        '<ul class="lead">' + "".join(f"<li>{text(sentence)}</li>" for sentence in headline(report)) + "</ul></header>\n<main>",
        _issues(report),
        _arms(report),
        _differences(report),
        _legend(report),
    ]
    sections: dict[str, list[str]] = {}
    for panel, lines in panels(report.runs):
        sections.setdefault(panel.section, []).append(_figure(panel, lines))
    for source in held_out(report.runs):
        sections.setdefault("Accuracy", []).extend(_front(report, source))
    for section, figures in sections.items():
        parts.append(f'<section><h2>{text(section)}</h2><div class="figures">{"".join(figures)}</div></section>')
    parts.append(_runs(report))
    parts.append("</main>\n<footer>Made by erpo compare. Thin lines are runs, thick ones an arm's mean over its seeds. The axes do not begin at zero.</footer>")
    parts.append(f'<script type="application/json" id="frame">{data(FRAME)}</script>')
    title = "Comparison: " + ", ".join(arms)
    return document(title, [template("base.css"), template("compare.css")], "\n".join(parts), [template("compare.js")])


def _issues(report: Report) -> str:
    kinds = {NOT_COMPARABLE: "bad", MISSING: "warn"}
    items = [
        f'<li><span class="badge {kinds.get(issue.level, "note")}">{text(issue.level)}</span><span>{text(issue.text)}</span></li>'
        for issue in report.issues
    ] or [f'<li><span class="badge good">comparable</span><span>{text(COMPARABLE)}</span></li>']
    return f'<section><h2>May they be compared?</h2><ul class="issues">{"".join(items)}</ul></section>'


def _table(head: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]]) -> str:
    """``head``: (class, HTML) of each column; ``rows``: HTML of the cells."""
    top = "".join(f'<th scope="col" class="{kind}">{name}</th>' for kind, name in head)
    body = "".join("<tr>" + "".join(f'<td class="{kind}">{c}</td>' for (kind, _), c in zip(head, row, strict=True)) + "</tr>" for row in rows)
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _arms(report: Report) -> str:
    measures = report.comparison.measures
    head = [("text", "arm"), ("", "seeds"), *(("", f'<span title="{text(m.name)}">{text(title_of(report, m))}</span>') for m in measures)]
    rows = [
        [_arm(i, arm), str(len(members)), *(text(cell(arm_values(report, arm, m), m.form)) for m in measures)]
        for i, (arm, members) in enumerate(report.arms.items())
    ]
    return f'<section><h2>Arms</h2>{_table(head, rows)}<p class="small soft">{text(about_values(report))}</p></section>'


def _arm(number: int, name: str) -> str:
    return f'<span class="arm arm-{number % 8}">{text(name)}</span>'


def _differences(report: Report) -> str:
    numbers = {arm: i for i, arm in enumerate(report.arms)}
    kinds = dict.fromkeys(DIFFERENCES, "") | {"arm": "text", "measure": "text", "verdict": "text wrap"}
    parts = []
    for role, title in FAMILIES:
        rows = []
        for difference in report.comparison.family(role):
            arm, *cells = difference_cells(difference)
            cells = [_arm(numbers[arm], arm), *map(text, cells)]
            if difference.paired.verdict:
                kind = "badge good" if difference.paired.told_apart else "soft"
                cells[-1] = f'<span class="{kind}">{cells[-1]}</span>'
            rows.append(cells)
        if rows:
            head = [(kinds[name], text(name)) for name in DIFFERENCES[: len(rows[0])]]
            parts.append(f"<h3>{title}</h3>{_table(head, rows)}")
    return f"<section><h2>Differences</h2><p>{text(about_tests(report))}</p>{''.join(parts)}</section>"


def _legend(report: Report) -> str:
    items = [
        f'<label><input type="checkbox" checked value="{i}"><span class="arm-{i % 8}" aria-hidden="true">{MARKS[i % 4]}</span><span>{text(arm)}</span></label>'
        for i, arm in enumerate(report.arms)
    ]
    return f'<div class="legend" role="group" aria-label="Arms shown in the figures">{"".join(items)}</div>'


def _figure(panel: Panel, lines: Sequence[Line]) -> str:
    chart = line_chart(panel, lines)
    tips = [
        {
            "arm": line.number,
            "name": f"{line.arm} {line.label}".strip(),
            "steps": line.steps,
            "x": [round(chart.place(x), 1) for x, _ in line.mean],
            "values": [number(y) + (f" at {number(x)} tokens" if panel.over_tokens else "") for x, y in line.mean],
        }
        for line in lines
    ]
    unit = f' <span class="unit">({text(panel.unit)})</span>' if panel.unit else ""
    labels = dict.fromkeys((line.label, line.second) for line in lines if line.label)
    keys = "".join(f"<span>{dash(second)} {text(label)}</span>" for label, second in labels)
    title = f"{panel.title} against {TOKENS if panel.over_tokens else 'steps'}"
    return (
        f'<figure id="{text(panel.key)}"><figcaption><h3>{text(panel.title)}{unit}</h3><p>{text(panel.meaning)}</p></figcaption>'
        + f'<div class="keys">{keys}</div>'
        + f'<div class="plot" tabindex="0" role="group" aria-label="{text(title)}; arrow keys go through the steps" data-lines="{text(json.dumps(tips))}">{chart.svg}</div>'
        + _numbers(panel, lines)
        + "</figure>"
    )


def _numbers(panel: Panel, lines: Sequence[Line]) -> str:
    steps = sorted({step for line in lines for step in line.steps})
    every = -(-len(steps) // _ROWS)
    at = [dict(zip(line.steps, line.mean, strict=True)) for line in lines]
    head = [("", "step")]
    for line in lines:
        name = text(f"{line.arm} {line.label}".strip())
        head += [("", f"{name}: tokens"), ("", name)] if panel.over_tokens else [("", name)]
    rows = []
    for step in steps[::-1][::every][::-1]:
        row = [str(step)]
        for points in at:
            x, y = points.get(step, (None, None))
            row += (["–" if x is None else f"{x:,.0f}"] if panel.over_tokens else []) + ["–" if y is None else f"{y:.5g}"]
        rows.append(row)
    more = "" if every == 1 else f'<p class="soft">Every {every}th step.</p>'
    return f"<details><summary>Numbers (means over seeds)</summary>{more}{_table(head, rows)}</details>"


def _front(report: Report, of: HeldOut) -> list[str]:
    length, points = front(report.runs, report.comparison, of)
    if not points:
        return []
    best = [p.arm for p in points if p.on_front]
    runs = sorted({len(p.runs) for p in points})
    told = f"Bars are 95% t intervals over {' or '.join(map(str, runs))} runs." if any(p.accuracy_half is not None for p in points) else "No intervals."
    meaning = f"Up and to the left is better. {told} By the means, no arm beats {' or '.join(best)} in both (the Pareto front)."
    head = [("text", "arm"), ("", "length"), ("", of.title)]

    def with_half(value: float, half: float | None, form: str) -> str:
        return format(value, form) + ("" if half is None else f" ± {format(half, form)}")

    rows = [[_arm(p.number, p.arm), with_half(p.length, p.length_half, ".1f"), with_half(p.accuracy, p.accuracy_half, ".3f")] for p in points]
    title = f"{of.source}: {of.title} against length"
    chart = front_chart(f"front-{held_out(report.runs).index(of)}", title, length, points)
    return [
        f"<figure><figcaption><h3>{text(title)}</h3><p>{text(meaning)}</p></figcaption>"
        f'<div class="keys"></div><div class="plot">{chart.svg}</div>'
        f"<details><summary>Numbers (mean ± half of the interval)</summary>{_table(head, rows)}</details></figure>"
    ]


def _runs(report: Report) -> str:
    numbers = {arm: i for i, arm in enumerate(report.arms)}
    head = [("text", "arm"), ("", "seed"), ("text", "folder"), ("text", "engine"), ("", "last step"), ("text", "started"), ("text wrap", "versions")]
    rows = []
    for run in report.runs:
        versions = ", ".join(f"{name} {version}" for name, version in run.record.get("versions", {}).items() if version)
        seed = "–" if run.seed is None else str(run.seed)
        rows.append([_arm(numbers[run.arm], run.arm), seed, text(run.path), text(run.record.get("engine", "–")), str(run.last_step), text(run.record.get("started", "–")), text(versions or "–")])  # fmt: skip
    return f"<section><h2>Runs</h2>{_table(head, rows)}</section>"
