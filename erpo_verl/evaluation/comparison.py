"""Two evaluations of the same problems side by side: paired differences with intervals, one primary endpoint, a secondary family."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from erpo_verl.evaluation import store
from erpo_verl.evaluation.problems import EvaluationError
from erpo_verl.evaluation.report import PAIRED, REPORT, Answered, by_condition, paired_cells
from erpo_verl.evaluation.sampling import Condition
from erpo_verl.evaluation.statistics import ProblemSamples, powers_of_two, problem_values
from erpo_verl.reward import Reason
from erpo_verl.runs.files import write_whole
from erpo_verl.statistics import ALPHA, DESCRIPTIVE, MIN_PAIRS, PRIMARY, SECONDARY, judge, paired_sign_flip
from erpo_verl.tables import markdown_table

# Must be the same, or the figures are of different things.
SAME = ("k", "top_p", "top_k", "max_tokens")
# Settings of the judge that decide what a right answer is worth in training, or how it is computed: no verdict hangs on them.
FREE_OF_JUDGE = frozenset(
    {
        "score_right", "score_wrong", "format_bonus", "overlong_limit", "overlong_buffer", "overlong_penalty", "overlong_unit",
        "workers", "recycle_after", "recycle_rss_mb", "prestart", "start_limit_s", "cache_size",
    }
)  # fmt: skip
# Limits that change a verdict only where they were reached: by the reason that a response then has.
LIMITS_OF_JUDGE = {
    "time_limit_s": Reason.TIMEOUT, "overload_factor": Reason.TIMEOUT, "memory_limit_mb": Reason.MEMORY, "crash_retries": Reason.CRASHED,
}  # fmt: skip
ALL = "all problems"
NONE = "none"


def load(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(settings, lines) of a finished evaluation.

    Raises:
        EvaluationError: there is none, or it is not finished.
    """
    settings = store.read_settings(folder)
    if not (folder / REPORT).is_file():
        raise EvaluationError(f"{folder}: its evaluation is not finished (no {REPORT}); run its command again")
    return settings, store.read_samples(folder)


def compare(other: Path, this: Path, *, primary: str | None = None, secondary: Sequence[str] | None = None, seed: int = 0) -> dict[str, Any]:
    """How ``this`` differs from ``other``: differences are this - other, over the problems that both have.

    Args:
        primary: the primary endpoint, a metric at the first condition that both have: over all problems, ``avg@16``, or of one data
            set, ``math500:avg@16``. None: avg@n over all problems.
        secondary: the secondary family, named in the same way; ``none`` for none. None: avg@n of each data set (of two or more), and
            pass@n, maj@n and length over all problems.

    Raises:
        EvaluationError: one is not finished, settings differ that must not, a problem has another gold answer, nothing is common, or an
            endpoint is unknown.
    """
    (settings_a, lines_a), (settings_b, lines_b) = load(other), load(this)
    differing = [f"{name} is {settings_a[name]} and {settings_b[name]}" for name in SAME if settings_a[name] != settings_b[name]]
    judges, remarks = _judges(settings_a, settings_b, lines_a, lines_b)
    if differing or judges:
        raise EvaluationError(f"{other} and {this} cannot be compared: {'; '.join([*differing, *judges])}")
    golds = {line["id"]: line["gold"] for line in lines_a}
    for line in lines_b:
        if golds.get(line["id"], line["gold"]) != line["gold"]:
            raise EvaluationError(
                f"problem {line['id']}: its gold answer is {golds[line['id']]!r} in {other}, {line['gold']!r} in {this}"
            )
    a, b = by_condition(lines_a), by_condition(lines_b)
    common = [condition for condition in b if condition in a and set(a[condition]) & set(b[condition])]
    if not common:
        raise EvaluationError(
            f"{other} and {this} have no temperature, wording and problem in common: {_labels(a)} and {_labels(b)}"
        )
    conditions = [{**asdict(condition), "rows": _rows(a[condition], b[condition], seed)} for condition in common]
    _judge(conditions, primary, secondary)
    return {
        "other": {"folder": str(other), "model": settings_a["model"]},
        "this": {"folder": str(this), "model": settings_b["model"]},
        "remarks": [*remarks, *_remarks(settings_a, settings_b, a, b, common)],
        "conditions": conditions,
    }


def _judges(settings_a: Mapping, settings_b: Mapping, lines_a: Sequence[Mapping], lines_b: Sequence[Mapping]) -> tuple[list[str], list[str]]:
    """(what makes the two judges' verdicts incomparable, what differs between them and does not)."""
    a, b = settings_a["judge"], settings_b["judge"]
    grave, remarks = [], []
    reached = {Reason(int(reason)) for lines in (lines_a, lines_b) for line in lines for reason in line["reason"]}
    for name in {**a, **b}:
        if a.get(name) == b.get(name) or name in FREE_OF_JUDGE:
            continue
        text = f"judge's {name} is {a.get(name, 'not recorded')} and {b.get(name, 'not recorded')}"
        limit = LIMITS_OF_JUDGE.get(name)
        if limit is None or limit in reached:
            grave.append(text + ("" if limit is None else f", and responses reached it ({limit.name.lower()})"))
        else:
            remarks.append(f"{text}: no response reached it")
    for name in sorted({*settings_a.get("judge_versions", {}), *settings_b.get("judge_versions", {})}):
        one, two = (settings.get("judge_versions", {}).get(name) for settings in (settings_a, settings_b))
        if one != two:
            grave.append(f"the judge's {name} is {one or 'not recorded'} and {two or 'not recorded'}")
    return grave, remarks


def _labels(answered: Answered) -> str:
    return "; ".join(condition.label for condition in answered)


def _remarks(
    settings_a: Mapping, settings_b: Mapping, a: Answered, b: Answered, common: Sequence[Condition]
) -> list[str]:
    remarks = []
    for name in ("engine", "dtype", "device", "seed", "template", "versions"):
        if settings_a[name] != settings_b[name]:
            remarks.append(f"{name} differs: {settings_a[name]} and {settings_b[name]}")
    if settings_a["model_fingerprint"] == settings_b["model_fingerprint"]:
        remarks.append("both evaluations are of the same weights")
    for condition in common:
        only_a, only_b = len(a[condition].keys() - b[condition].keys()), len(b[condition].keys() - a[condition].keys())
        if only_a or only_b:
            both = len(a[condition].keys() & b[condition].keys())
            left_out = f"left out: {only_a} only in the other, {only_b} only in this"
            remarks.append(f"{condition.label}: {both} problems in both; {left_out}")
    missing = [condition.label for condition in {**a, **b} if condition not in common]
    if missing:
        remarks.append(f"in one of them only, left out: {'; '.join(missing)}")
    return remarks


def _rows(a: Mapping[str, ProblemSamples], b: Mapping[str, ProblemSamples], seed: int) -> list[dict[str, Any]]:
    """A row for each metric and group of problems: all, each data set, each level of it. ``name``: how an endpoint is called."""
    ids = [i for i in a if i in b]
    sources = sorted({a[i].source for i in ids})
    groups = [(ALL, "", ids)] if len(sources) > 1 else []
    for source in sources:
        mine = [i for i in ids if a[i].source == source]
        groups.append((source, "", mine))
        groups += [
            (source, level, [i for i in mine if a[i].level == level])
            for level in sorted({a[i].level for i in mine} - {None})
        ]
    rows = []
    for source, level, members in groups:
        values_a, values_b = (_values([side[i] for i in members], whole=not level) for side in (a, b))
        for metric in values_a:
            before, after = values_a[metric], values_b[metric]
            name = "" if level else metric if len(sources) == 1 or source == ALL else f"{source}:{metric}"
            means = {"other": float(np.mean(before)), "this": float(np.mean(after))}
            found = paired_sign_flip(before, after, seed=seed)
            rows.append({"name": name, "source": source, "level": level, "metric": metric, **means, "paired": found})
    return rows


def _judge(conditions: Sequence[dict[str, Any]], primary: str | None, secondary: Sequence[str] | None) -> None:
    """Give every row its role, corrected p value and verdict. Endpoints are of the first condition."""
    first = [row["name"] for row in conditions[0]["rows"] if row["name"]]
    sources = {row["source"] for row in conditions[0]["rows"]}
    if len(sources) == 1:  # math500:avg@16 where math500 is all there is
        (alone,) = sources
        primary, *others = (name and name.removeprefix(f"{alone}:") for name in (primary, *(secondary or ())))
        secondary = secondary and others
    for name in (primary, *(secondary or ())):
        if name is not None and name not in first and (name != NONE or name == primary):
            near = difflib.get_close_matches(name, first, n=3, cutoff=0.3) or first[:3]
            raise EvaluationError(f"endpoint {name!r}: not in this comparison; near are {', '.join(near)}")
    n = next(name for name in first if name.startswith("avg@"))
    declared = [n, *(name for name in first if name.endswith(f":{n}")), n.replace("avg", "pass"), n.replace("avg", "maj"), "length"]
    chosen = primary or n
    family = set(declared if secondary is None else secondary) - {chosen}
    rows = [(condition is conditions[0], row) for condition in conditions for row in condition["rows"]]
    roles = [
        DESCRIPTIVE if not here or not row["name"] else PRIMARY if row["name"] == chosen else SECONDARY if row["name"] in family else DESCRIPTIVE
        for here, row in rows
    ]
    for (_, row), paired in zip(rows, judge([row.pop("paired") for _, row in rows], roles), strict=True):
        row |= {**asdict(paired), "verdict": paired.verdict}


def _values(problems: Sequence[ProblemSamples], whole: bool) -> dict[str, np.ndarray]:
    n = min(p.n for p in problems)
    values = problem_values(problems, [k for k in powers_of_two(n) if k > 1] if whole else [])
    named = {f"avg@{n}": values.pop("avg")} | {
        name: v for name, v in values.items() if not name.startswith("maj") or name == f"maj@{n}"
    }
    named["length"] = np.array([float(np.mean(p.lengths)) for p in problems])
    if whole:
        named["cut off"] = np.array([1 - float(np.mean(p.finished)) for p in problems])
    return named


def markdown(comparison: Mapping[str, Any]) -> str:
    """The comparison as tables."""
    conditions = [(Condition(c["temperature"], c["rewording"]).label, c["rows"]) for c in comparison["conditions"]]
    label, first = conditions[0]
    endpoint = next(row for row in first if row["role"] == PRIMARY)
    text = [
        f"# {comparison['this']['model']} against {comparison['other']['model']}\n",
        f"this: {comparison['this']['folder']}; other: {comparison['other']['folder']}. Differences are this - other over the same problems, "
        "with 95% BCa bootstrap intervals over problems; p of a two-sided sign-flip test over problems.\n",
        f"The primary endpoint is {endpoint['metric']} of {endpoint['source']} at {label}. The p values of the secondary endpoints are corrected "
        f"by Holm; a difference is distinguishable from noise where its corrected p is below {ALPHA}. Fewer than {MIN_PAIRS} problems, or problems "
        "that all differ by the same, give no p. The rest is described, not tested.\n",
    ]
    text += [f"- {remark}" for remark in comparison["remarks"]] + ([""] if comparison["remarks"] else [])
    for role, title in ((PRIMARY, "Primary endpoint"), (SECONDARY, "Secondary endpoints")):
        if found := [row for row in first if row["role"] == role]:
            text += [f"## {title}\n", _table(found)]
    for label, rows in conditions:
        if found := [row for row in rows if row["role"] == DESCRIPTIVE]:
            text += [f"## {label[0].upper()}{label[1:]}\n", _table(found)]
    return "\n".join(text)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    cells = []
    for row in rows:
        form = ".1f" if row["metric"] == "length" else ".3f"
        means = [format(row["other"], form), format(row["this"], form)]
        cells.append([row["source"], row["level"], row["metric"], *means, f"{row['b_better']} / {row['a_better']}", *paired_cells(row, form)])
    header = ["data set", "level", "metric", "other", "this", "higher in this / other", *PAIRED]
    return markdown_table(header[: len(cells[0])], cells)


def write(folder: Path, comparison: Mapping[str, Any]) -> list[Path]:
    """``comparison.md`` and ``comparison.json``, each whole or not at all."""
    paths = [folder / "comparison.md", folder / "comparison.json"]
    write_whole(paths[0], markdown(comparison))
    write_whole(paths[1], json.dumps(comparison, indent=1, allow_nan=False) + "\n")
    return paths
