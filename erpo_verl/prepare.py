"""``erpo prepare SET --source hub|PATH --out DIR``: a problem set as parquet in verl's schema.

Each row has a stable id, the problem as a chat prompt, the gold answer, and its origin. Beside the parquet stands
``SET.json``: source, hash, rows in and out, and every dropped row with its reason. The same input gives the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INSTRUCTION = "Let's think step by step and put the final answer within \\boxed{}."

# The split that a set's hub repository calls its own -> file name here.
SETS = {"gsm8k": {"hub": "openai/gsm8k", "name": "main", "splits": ("train", "test")}}
PROBLEM_COLUMNS = ("question", "problem")


class PrepareError(ValueError):
    """The source cannot be read, or no row of it is usable."""


@dataclass(frozen=True)
class Dropped:
    """A row that was left out: its number in the source (from 0) and why."""

    row: int
    reason: str


def gsm8k_gold(answer: str) -> str | None:
    """The number after ``####``, or the whole answer where it is a bare number; without thousands separators."""
    text = answer.rpartition("####")[2].strip()
    return text.replace(",", "") if re.fullmatch(r"-?(\d[\d,]*(\.\d+)?|\.\d+)", text) else None


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a ``.parquet`` or ``.jsonl`` file.

    Raises:
        PrepareError: the file is missing, has another ending, or a line of it is no JSON object (named with its number).
    """
    if not path.is_file():
        raise PrepareError(f"{path}: no such file")
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        try:
            return pq.read_table(path).to_pylist()
        except Exception as error:  # pyarrow's errors have no common base
            raise PrepareError(f"{path}: not readable as parquet: {error}") from None
    if path.suffix not in (".jsonl", ".json"):
        raise PrepareError(f"{path}: expected a .parquet or .jsonl file")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise PrepareError(f"{path}, line {number}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise PrepareError(f"{path}, line {number}: expected an object, found {type(row).__name__}")
        rows.append(row)
    return rows


def convert_gsm8k(rows: Iterable[dict[str, Any]], split: str) -> tuple[list[dict[str, Any]], list[Dropped]]:
    """GSM8K's rows (``question`` or ``problem``, and ``answer``) in verl's schema, and those that were dropped."""
    out, dropped, seen = [], [], {}
    for number, row in enumerate(rows):
        problem = next((row[name] for name in PROBLEM_COLUMNS if row.get(name)), None)
        gold = gsm8k_gold(str(row.get("answer") or ""))
        if not problem:
            dropped.append(Dropped(number, f"no problem in column {' or '.join(PROBLEM_COLUMNS)}"))
        elif gold is None:
            dropped.append(Dropped(number, "the answer is no number, and has none after ####"))
        elif problem.strip() in seen:
            dropped.append(Dropped(number, f"the same problem as row {seen[problem.strip()]}"))
        else:
            seen[problem.strip()] = number
            digest = hashlib.sha256(problem.strip().encode()).hexdigest()[:12]
            out.append(
                {
                    "data_source": "gsm8k",
                    "prompt": [{"role": "user", "content": f"{problem.strip()} {INSTRUCTION}"}],
                    "ability": "math",
                    "reward_model": {"style": "rule", "ground_truth": gold},
                    "extra_info": {"id": f"gsm8k/{digest}", "index": len(out), "split": split, "row": number},
                }
            )
    return out, dropped


def write(rows: list[dict[str, Any]], dropped: list[Dropped], record: dict[str, Any], out: Path, name: str) -> Path:
    """Write ``name.parquet`` and ``name.json``, each whole or not at all; returns the parquet's path.

    Raises:
        PrepareError: no row is left.
    """
    if not rows:
        raise PrepareError(f"{record['source']}: none of its {len(dropped)} rows is usable: {dropped[0].reason if dropped else 'empty'}")
    import pyarrow as pa
    import pyarrow.parquet as pq

    out.mkdir(parents=True, exist_ok=True)
    record = {
        **record,
        "rows_in": len(rows) + len(dropped),
        "rows_out": len(rows),
        "dropped": [{"row": d.row, "reason": d.reason} for d in dropped],
    }
    target, partial = out / f"{name}.parquet", out / f".{name}.{os.getpid()}"
    try:
        pq.write_table(pa.Table.from_pylist(rows), partial)
        os.replace(partial, target)
        partial.write_text(json.dumps(record, indent=1) + "\n")
        os.replace(partial, out / f"{name}.json")
    finally:
        partial.unlink(missing_ok=True)
    return target


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``erpo prepare``."""
    parser.add_argument("set", choices=sorted(SETS), help="which problem set")
    parser.add_argument("--source", default="hub", help="hub, or a .parquet or .jsonl file on disk (hub)")
    parser.add_argument("--split", default="train", choices=("train", "test"), help="which split (train)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the parquet file")


def run(args: argparse.Namespace) -> int:
    """Convert, and print what came out; returns the exit code."""
    try:
        if args.source == "hub":
            from datasets import load_dataset

            known = SETS[args.set]
            rows = load_dataset(known["hub"], known["name"], split=args.split).to_list()
            digest = hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
        else:
            path = Path(args.source)
            rows = read_rows(path)
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        converted, dropped = convert_gsm8k(rows, args.split)
        record = {"set": args.set, "split": args.split, "source": args.source, "sha256": digest}
        target = write(converted, dropped, record, args.out, args.split)
    except PrepareError as error:
        print(f"erpo prepare: {error}", file=sys.stderr)
        return 1
    print(f"{target}: {len(converted)} of {len(rows)} rows")
    for reason in sorted({d.reason.split(" row ")[0] for d in dropped}):
        print(f"  dropped {sum(d.reason.startswith(reason) for d in dropped)}: {reason}")
    return 0
