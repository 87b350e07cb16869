"""From samples to figures: ``report.json``, ``report.md`` and ``samples.parquet`` of one evaluation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from erpo_verl.evaluation.rewording import ORIGINAL
from erpo_verl.evaluation.sampling import Condition, Plan
from erpo_verl.evaluation.statistics import ProblemSamples, problem_values, summarize
from erpo_verl.runs.files import whole, write_whole
from erpo_verl.statistics import PRIMARY, SECONDARY, bootstrap_all, judge, paired_sign_flip
from erpo_verl.tables import markdown_table, number, p_value, with_interval

REPORT = "report.json"
Answered = dict[Condition, dict[str, ProblemSamples]]  # condition -> problem's id -> its samples


def by_condition(lines: Sequence[Mapping[str, Any]]) -> Answered:
    """The lines of ``samples.jsonl`` by condition and problem, in their order; without the samples that could not be judged."""
    answered: Answered = {}
    for line in lines:
        # What nobody could judge is neither right nor wrong.
        kept = [i for i, missed in enumerate(line.get("ungradeable", [0] * len(line["acc"]))) if not missed]
        if not kept:
            continue
        # Votes by the judge's own equality; by spelling where an earlier version has sampled.
        said = ["" if vote < 0 else str(vote) for vote in line["vote"]] if "vote" in line else line["pred"]
        acc, predictions, lengths, finished = ([column[i] for i in kept] for column in (line["acc"], said, line["length"], line["finished"]))
        samples = ProblemSamples(
            id=line["id"],
            source=line["source"],
            level=line["level"],
            acc=acc,
            predictions=predictions,
            lengths=lengths,
            finished=finished,
        )
        answered.setdefault(Condition(line["temperature"], line["rewording"]), {})[line["id"]] = samples
    return answered


def figures(problems: Sequence[ProblemSamples], *, seed: int = 0) -> dict[str, Any]:
    """`summarize` of some problems, with {value, low, high} (95%, over problems) in place of numbers."""
    plain = summarize(problems, seed=seed)
    ks = list(plain["pass"])
    tokens = np.array([float(np.sum(p.lengths)) for p in problems])
    right = np.array([float(p.right.sum()) for p in problems])
    n = np.array([float(p.n) for p in problems])
    tokens_right = np.array([float(np.sum(np.asarray(p.lengths)[p.right])) for p in problems])
    cut = np.array([p.n - float(np.sum(p.finished)) for p in problems])
    columns = {name: (values, None) for name, values in problem_values(problems, ks, seed=seed).items()}
    columns |= {"length": (tokens, n), "cut_off": (cut, n)}
    if right.any():
        columns |= {"right": (tokens_right, right), "tokens_per_solved": (tokens, right)}
    if (right < n).any():
        columns["wrong"] = (tokens - tokens_right, n - right)
    within = [_wrong_minus_right(p) for p in problems if 0 < p.right.sum() < p.n]
    found = {name: asdict(interval) for name, interval in bootstrap_all(columns, seed=seed).items()}
    return {
        **plain,
        "avg": found["avg"],
        "pass": {str(k): found[f"pass@{k}"] for k in ks},
        "maj": {str(k): found[f"maj@{k}"] for k in ks},
        "length": {
            **plain["length"],
            "mean": found["length"],
            "cut_off": found["cut_off"],
            "right": found.get("right"),
            "wrong": found.get("wrong"),
        },
        "length_within": {
            **plain["length_within"],
            "wrong_minus_right": asdict(bootstrap_all({"d": (within, None)}, seed=seed)["d"]) if within else None,
        },
        "tokens_per_solved": found.get("tokens_per_solved"),
    }


def _wrong_minus_right(problem: ProblemSamples) -> float:
    lengths = np.asarray(problem.lengths, dtype=float)
    return float(lengths[~problem.right].mean() - lengths[problem.right].mean())


def by_source_and_level(problems: Sequence[ProblemSamples], *, seed: int = 0) -> dict[str, Any]:
    """Figures of all problems, of each data set, and of each level within it."""
    sources = {}
    for source in dict.fromkeys(p.source for p in sorted(problems, key=lambda p: p.source)):
        mine = [p for p in problems if p.source == source]
        levels = sorted({p.level for p in mine if p.level is not None}, key=_level_key)
        sources[source] = {
            **figures(mine, seed=seed),
            "levels": {level: figures([p for p in mine if p.level == level], seed=seed) for level in levels},
        }
    return {
        "all": figures(problems, seed=seed),
        "mean_over_sources": float(np.mean([s["avg"]["value"] for s in sources.values()])),
        "sources": sources,
    }


def _level_key(level: str) -> tuple[int, float, str]:
    """Numbers by size, before words."""
    try:
        return 0, float(level), level
    except ValueError:
        return 1, 0.0, level


ALL_REWORDINGS = "all rewordings"


def robustness(answered: Answered, base: Condition, *, seed: int = 0) -> list[dict[str, Any]]:
    """Accuracy of each condition beside that of ``base`` on the same problems, paired and judged by `erpo_verl.statistics`.

    The last entry takes all rewordings together, clustered by problem; it is there from two rewordings on, and is then the
    primary endpoint; else the first condition is. The others are the secondary family.
    """
    found, pooled = [], ([], [], [])
    reference = answered[base]
    for condition, mine in answered.items():
        ids = [i for i in reference if i in mine]
        if condition == base or not ids:
            continue
        before, after = ([float(np.mean(side[i].acc)) for i in ids] for side in (reference, mine))
        if condition.rewording != ORIGINAL:
            for pool, values in zip(pooled, (before, after, ids), strict=True):
                pool.extend(values)
        found.append((asdict(condition), before, after, paired_sign_flip(before, after, seed=seed)))
    if sum(condition["rewording"] != ORIGINAL for condition, *_ in found) > 1:
        before, after, ids = pooled
        together = {"temperature": base.temperature, "rewording": ALL_REWORDINGS}
        found.append((together, before, after, paired_sign_flip(before, after, clusters=ids, seed=seed)))
    if not found:
        return []
    first = len(found) - 1 if found[-1][0]["rewording"] == ALL_REWORDINGS else 0
    judged = judge([paired for *_, paired in found], [PRIMARY if i == first else SECONDARY for i in range(len(found))])
    return [
        {**condition, "base": float(np.mean(before)), "avg": float(np.mean(after)), **asdict(paired), "verdict": paired.verdict}
        for (condition, before, after, _), paired in zip(found, judged, strict=True)
    ]


def build(
    lines: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], left_out: Mapping[str, Any], repeated: int
) -> dict[str, Any]:
    """The whole report as plain data."""
    answered, seed = by_condition(lines), settings["seed"]
    base = next(iter(answered))
    return {
        "settings": dict(settings),
        "left_out": {
            name: {reason: ids for reason, ids in reasons.items() if ids} for name, reasons in left_out.items()
        },
        "repeated_rows": repeated,
        "conditions": [
            {**asdict(condition), **by_source_and_level(list(mine.values()), seed=seed)}
            for condition, mine in answered.items()
        ],
        "robustness": robustness(answered, base, seed=seed),
    }


# ---------------------------------------------------------------- Markdown


def interval(figure: Mapping[str, Any] | None, form: str = ".3f") -> str:
    """``0.412 [0.380, 0.445]``."""
    return with_interval(None, None, None) if figure is None else with_interval(figure["value"], figure["low"], figure["high"], form)


PAIRED = ("difference", "pairs", "p", "p (Holm)", "verdict")


def paired_cells(row: Mapping[str, Any], form: str = ".3f") -> list[str]:
    """The cells of a paired difference, under `PAIRED`; of one that is described alone, the first two."""
    cells = [with_interval(row["difference"], row["low"], row["high"], form, sign=True), str(row["pairs"])]
    return cells + ([p_value(row["p_value"]), p_value(row["adjusted"]), row["verdict"]] if row["verdict"] else [])


def markdown(report: Mapping[str, Any]) -> str:
    """The report as tables."""
    settings = report["settings"]
    text = [
        f"# Evaluation of {settings['model']}\n",
        f"{settings['k']} samples a problem, top_p {settings['top_p']}, up to {settings['max_tokens']} tokens, engine "
        f"{settings['engine']} ({settings['dtype']} on {settings['device']}), seed {settings['seed']}. In brackets: "
        "95% bootstrap intervals over problems. pass@k is unbiased; maj@k is the majority of k of the samples, ties "
        "split.\n",
    ]
    for condition in report["conditions"]:
        if condition["rewording"] != ORIGINAL:
            continue  # in the table of robustness, and in report.json
        label = Condition(condition["temperature"], condition["rewording"]).label
        text.append(f"## {label[0].upper()}{label[1:]}\n")
        text.append(_condition_tables(condition))
    if report["robustness"]:
        base = report["conditions"][0]
        text.append("## Robustness\n")
        text.append(
            f"Accuracy beside that at temperature {base['temperature']:g} in the original wording, paired on the same problems: "
            "difference with its 95% bootstrap interval, p of a sign-flip test, corrected by Holm. The primary endpoint is "
            f"{_wording(next(r for r in report['robustness'] if r['role'] == PRIMARY))}; the others are the secondary family.\n"
        )
        rows = [
            [f"{r['temperature']:g}", r["rewording"], f"{r['base']:.3f}", f"{r['avg']:.3f}", *paired_cells(r)] for r in report["robustness"]
        ]
        text.append(markdown_table(["temperature", "wording", "base", "here", *PAIRED], rows))
    text.append("## Left out\n")
    rows = [
        [name, reason.replace("_", " "), str(len(ids))]
        for name, reasons in report["left_out"].items()
        for reason, ids in reasons.items()
    ]
    if report["repeated_rows"]:
        rows.append(["all", "row repeats another", str(report["repeated_rows"])])
    text.append(markdown_table(["wording", "reason", "problems"], rows) if rows else "Nothing: every row was asked.\n")
    return "\n".join(text)


def _wording(row: Mapping[str, Any]) -> str:
    return row["rewording"] if row["rewording"] == ALL_REWORDINGS else Condition(row["temperature"], row["rewording"]).label


def _condition_tables(condition: Mapping[str, Any]) -> str:
    sources = condition["sources"]
    named = [(name, figure) for name, figure in sources.items()]
    if len(named) > 1:
        named.append(("all problems", condition["all"]))
    ks = [k for k in condition["all"]["pass"] if k != "1"]
    n = condition["all"]["n"]
    accuracy = [
        [
            name,
            str(f["problems"]),
            interval(f["avg"]),
            *(interval(f["pass"].get(k)) for k in ks),
            *([interval(f["maj"].get(str(n)))] if n > 1 else []),
        ]
        for name, f in named
    ]
    header = ["data set", "problems", f"avg@{n}", *(f"pass@{k}" for k in ks), *([f"maj@{n}"] if n > 1 else [])]
    if len(sources) > 1:
        accuracy.append(
            ["mean of data sets", str(len(sources)), f"{condition['mean_over_sources']:.3f}", *[""] * (len(header) - 3)]
        )
    text = [
        markdown_table(header, accuracy),
        markdown_table(_LENGTH_HEADER, [[name, *_length_row(f)] for name, f in named]),
    ]
    levels = [
        [name, level, str(f["problems"]), interval(f["avg"]), number(f["pass"][str(n)]["value"], ".3f"),
         number(f["maj"][str(n)]["value"], ".3f"), number(f["length"]["mean"]["value"]),
         number(_value(f["length"]["right"])), number(_value(f["length"]["wrong"])),
         number(_value(f["tokens_per_solved"]))]
        for name, source in sources.items()
        for level, f in source["levels"].items()
    ]  # fmt: skip
    if levels:
        header = [
            "data set",
            "level",
            "problems",
            f"avg@{n}",
            f"pass@{n}",
            f"maj@{n}",
            "length",
            "right",
            "wrong",
            "tokens per solved",
        ]
        text.append(markdown_table(header, levels))
    return "\n".join(text)


_LENGTH_HEADER = [
    "data set",
    "length: mean",
    "median",
    "cut off",
    "of right",
    "of wrong",
    "wrong - right, same problem",
    "tokens per solved",
]


def _length_row(f: Mapping[str, Any]) -> list[str]:
    length, within = f["length"], f["length_within"]
    return [
        interval(length["mean"], ".1f"), number(length["median"]), interval(length["cut_off"]),
        interval(length["right"], ".1f"), interval(length["wrong"], ".1f"),
        interval(within["wrong_minus_right"], "+.1f"), interval(f["tokens_per_solved"], ".1f"),
    ]  # fmt: skip


def _value(figure: Mapping[str, float] | None) -> float | None:
    return None if figure is None else figure["value"]


# ---------------------------------------------------------------- files


def write(folder: Path, report: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], plan: Plan) -> list[Path]:
    """Write the three files, each whole or not at all; returns their paths."""
    paths = [folder / "report.md", folder / "samples.parquet", folder / REPORT]
    write_whole(paths[0], markdown(report))
    write_parquet(paths[1], lines, plan)
    write_whole(paths[2], json.dumps(report, indent=1, allow_nan=False) + "\n")  # last: it says that all is there
    return paths


def write_parquet(path: Path, lines: Sequence[Mapping[str, Any]], plan: Plan) -> None:
    """One row a sample."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("id", pa.string()), ("data_source", pa.string()), ("level", pa.string()), ("rewording", pa.string()),
            ("temperature", pa.float64()), ("sample", pa.int32()), ("prompt", pa.string()), ("response", pa.string()),
            ("pred", pa.string()), ("gold", pa.string()), ("acc", pa.float64()), ("reason", pa.int32()),
            ("length", pa.int32()), ("finished", pa.bool_()),
        ]
    )  # fmt: skip
    with whole(path) as partial, pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        for start in range(0, len(lines), 256):
            rows = [row for line in lines[start : start + 256] for row in _rows(line, plan)]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def _rows(line: Mapping[str, Any], plan: Plan) -> list[dict[str, Any]]:
    shared = {name: line[name] for name in ("id", "level", "rewording", "temperature", "gold")}
    shared |= {"data_source": line["source"], "prompt": plan.prompts[line["rewording"], line["id"]].text}
    return [
        {
            **shared,
            "sample": i,
            **{name: line[name][i] for name in ("response", "pred", "acc", "reason", "length", "finished")},
        }
        for i in range(len(line["acc"]))
    ]
