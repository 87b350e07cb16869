"""What ERPO says of which tokens on the arithmetic beds, from rollouts that a run has dumped.

    bash scripts/study.sh --run arithmetic erpo 3e-4 0 --keep outputs/mechanism --dump DIR
    python -m benchmarks.study.mechanism DIR [DIR ...]

A folder is one run. The tables show, for each: by class of token its share, entropy, gate, the outcome's advantage A and the final one, and how
often the sign of A is turned; the covariance of log pi with both advantages, which is what first-order changes of entropy follow; and how often each way
of taking a step was chosen, early and late.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from erpo_verl.runs.rollouts import RolloutsError, read_head, read_rows
from erpo_verl.tables import markdown_table, number
from examples.arithmetic.tokenizer import BOXED

_STEP = re.compile(
    r"(?P<recheck>\?\d[+\-*]\d=\d;)|(?P<restated>\d[+\-*]\d=\d;)|(?P<jump>[+\-*]\d[+\-*]\d\d;)|(?P<concise>[+\-*]\d\d;)|(?P<answer>\[\d\})"
)
WAYS = ("restated", "concise", "jump", "recheck")
FORK, RESULT, ANSWER, COPY = "fork: the way of a step", "result of a step", "answer", "the rest"
CLASSES = (FORK, RESULT, ANSWER, COPY)


def classes(response: str) -> list[str]:
    """The class of each token of a response: of this task that is a character, or `\\boxed{` as one."""
    text = response.replace(BOXED, "[")
    found = [COPY] * len(text)
    for step in _STEP.finditer(text):
        if step.lastgroup == "answer":
            found[step.end() - 2] = ANSWER
        else:
            found[step.start()], found[step.end() - 2] = FORK, RESULT
    return found


def ways(response: str) -> Counter[str]:
    """How often each way of taking a step was chosen."""
    return Counter(step.lastgroup for step in _STEP.finditer(response) if step.lastgroup != "answer")


def read(folder: Path) -> list[dict[str, Any]]:
    """All rows of a run's dumps, in the order of their steps.

    Raises:
        RolloutsError: there is none, or one that cannot be read.
    """
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise RolloutsError(f"{folder}: no parquet file of rollouts")
    return [row for file in files for row in read_rows(file, range(len(read_head(file))))]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Means over all tokens of a class, in responses whose outcome advantage is not zero."""
    columns: dict[str, list[float]] = {name: [] for name in ("entropy", "gate", "outcome", "advantage", "old_log_prob")}
    kinds: list[str] = []
    for row in rows:
        if not row["outcome_advantage"]:
            continue
        found = classes(row["response"])[: row["length"]]
        kinds += found
        count = len(found)  # a finished response has its end token besides
        for name, column in columns.items():
            values = [row["outcome_advantage"]] * count if name == "outcome" else row.get(name)  # a method may have no gate
            column += [float("nan")] * count if values is None else values[:count]
    kind, numbers = np.array(kinds), {name: np.array(column, dtype=float) for name, column in columns.items()}
    turned = (np.sign(numbers["advantage"]) * np.sign(numbers["outcome"])) < 0
    lines = []
    for wanted, right in ((wanted, right) for wanted in CLASSES for right in (True, False)):
        here = (kind == wanted) & ((numbers["outcome"] > 0) == right)
        if here.any():
            means = [number(float(numbers[name][here].mean()), ".3f") for name in ("entropy", "gate", "outcome", "advantage")]
            side = "A > 0" if right else "A < 0"
            lines.append([wanted, side, f"{here.mean():.3f}", *means, f"{turned[here].mean():.3f}"])
    return markdown_table(["token", "response", "share", "entropy", "gate W", "A", "final advantage", "sign turned"], lines) + (
        f"\ncov(log pi, A) {covariance(numbers['old_log_prob'], numbers['outcome']):+.4f}, "
        f"cov(log pi, final advantage) {covariance(numbers['old_log_prob'], numbers['advantage']):+.4f}\n"
    )


def covariance(a: np.ndarray, b: np.ndarray) -> float:
    """Over tokens."""
    return float(np.cov(a, b)[0, 1])


def chosen(rows: Sequence[dict[str, Any]], parts: int = 3) -> str:
    """Shares of the ways of taking a step, in the first, middle and last part of the dumped steps."""
    steps = sorted({row["step"] for row in rows})
    lines = []
    for part in np.array_split(steps, min(parts, len(steps))):
        found = sum((ways(row["response"]) for row in rows if row["step"] in set(part.tolist())), Counter())
        total = sum(found.values())
        lines.append([f"{part[0]} to {part[-1]}", *(f"{found[way] / max(total, 1):.3f}" for way in WAYS)])
    return markdown_table(["steps", *WAYS], lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study.mechanism", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="trainer.rollout_data_dir of a run")
    for folder in parser.parse_args(argv).folders:
        try:
            rows = read(folder)
        except RolloutsError as error:
            parser.error(str(error))
        print(f"### {folder.name}: {len(rows)} responses of {len({row['step'] for row in rows})} steps\n\n{table(rows)}\n{chosen(rows)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
