"""Two evaluations of the same problems side by side: paired differences, with intervals and sign-flip tests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from erpo_verl.evaluation import store
from erpo_verl.evaluation.intervals import compare_paired
from erpo_verl.evaluation.problems import EvaluationError
from erpo_verl.evaluation.report import REPORT, Answered, by_condition, markdown_table
from erpo_verl.evaluation.sampling import Condition
from erpo_verl.evaluation.statistics import ProblemSamples, powers_of_two, problem_values
from erpo_verl.runs.files import write_whole

# Must be the same, or the figures are of different things.
SAME = ("k", "top_p", "top_k", "max_tokens", "judge")


def load(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(settings, lines) of a finished evaluation.

    Raises:
        EvaluationError: there is none, or it is not finished.
    """
    settings = store.read_settings(folder)
    if not (folder / REPORT).is_file():
        raise EvaluationError(f"{folder}: its evaluation is not finished (no {REPORT}); run its command again")
    return settings, store.read_samples(folder)


def compare(other: Path, this: Path, *, seed: int = 0) -> dict[str, Any]:
    """How ``this`` differs from ``other``: differences are this - other, over the problems that both have.

    Raises:
        EvaluationError: one is not finished, settings differ that must not, a problem has another gold answer, or
        nothing is common.
    """
    (settings_a, lines_a), (settings_b, lines_b) = load(other), load(this)
    differing = [
        f"{name} is {settings_a[name]} and {settings_b[name]}" for name in SAME if settings_a[name] != settings_b[name]
    ]
    if differing:
        raise EvaluationError(f"{other} and {this} cannot be compared: {'; '.join(differing)}")
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
    return {
        "other": {"folder": str(other), "model": settings_a["model"]},
        "this": {"folder": str(this), "model": settings_b["model"]},
        "remarks": _remarks(settings_a, settings_b, a, b, common),
        "conditions": [{**asdict(condition), "rows": _rows(a[condition], b[condition], seed)} for condition in common],
    }


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
    """A row for each metric and group of problems: all, each data set, each level of it."""
    ids = [i for i in a if i in b]
    sources = sorted({a[i].source for i in ids})
    groups = [("all problems", "", ids)] if len(sources) > 1 else []
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
            rows.append(
                {
                    "source": source,
                    "level": level,
                    "metric": metric,
                    "other": float(np.mean(before)),
                    "this": float(np.mean(after)),
                    **asdict(compare_paired(before, after, seed=seed)),
                }
            )
    return rows


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
    text = [
        f"# {comparison['this']['model']} against {comparison['other']['model']}\n",
        f"this: {comparison['this']['folder']}; other: {comparison['other']['folder']}. "
        "Differences are this - other over the same problems, "
        "with 95% BCa bootstrap intervals over problems; p of a two-sided sign-flip test over problems.\n",
    ]
    text += [f"- {remark}" for remark in comparison["remarks"]] + ([""] if comparison["remarks"] else [])
    tests = sum(len(condition["rows"]) for condition in comparison["conditions"])
    for condition in comparison["conditions"]:
        label = Condition(condition["temperature"], condition["rewording"]).label
        text.append(f"## {label[0].upper()}{label[1:]}\n")
        rows = []
        for r in condition["rows"]:
            form = ".1f" if r["metric"] == "length" else ".3f"
            rows.append(
                [r["source"], r["level"], r["metric"], str(r["problems"]),
                 f"{r['other']:{form}}", f"{r['this']:{form}}",
                 f"{r['difference']:+{form}} [{r['low']:+{form}}, {r['high']:+{form}}]", f"{r['p_value']:.3g}",
                 f"{r['b_better']} / {r['a_better']}"]
            )  # fmt: skip
        text.append(
            markdown_table(
                [
                    "data set",
                    "level",
                    "metric",
                    "problems",
                    "other",
                    "this",
                    "difference",
                    "p",
                    "higher in this / other",
                ],
                rows,
            )
        )
    text.append(
        f"Each p stands alone. {tests} tests are shown: with so many, one below {0.05 / tests:.2g} means what one "
        "below 0.05 means alone.\n"
    )
    return "\n".join(text)


def write(folder: Path, comparison: Mapping[str, Any]) -> list[Path]:
    """``comparison.md`` and ``comparison.json``, each whole or not at all."""
    paths = [folder / "comparison.md", folder / "comparison.json"]
    write_whole(paths[0], markdown(comparison))
    write_whole(paths[1], json.dumps(comparison, indent=1, allow_nan=False) + "\n")
    return paths
