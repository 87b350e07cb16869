"""`erpo score IN.jsonl OUT.jsonl`: judges a file of responses."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any, TextIO

from erpo_verl.runs.files import whole

from .config import RewardConfig, RewardConfigError
from .judge import MathJudge
from .pool import RewardSetupError
from .verdict import Reason, Verdict, as_dict

HELP = "judge the responses of a JSON-lines file with the maths reward"
_CHUNK = 256  # rows that are judged side by side
_UNREADABLE = as_dict(Verdict(Reason.BAD_INPUT), score=0.0, truncated=False, format_ok=False, overlong_penalty=0.0, latency_s=0.0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments; every field of `RewardConfig` is a flag."""
    parser.add_argument("input", metavar="IN.jsonl", help="rows with the response and the reference answer")
    parser.add_argument("output", metavar="OUT.jsonl", help="the same rows in the same order, with the verdict added")
    parser.add_argument("--response-key", default="solution_str", help="where a row holds its response")
    parser.add_argument("--gold-key", default="ground_truth", help="where a row holds its reference answer")
    parser.add_argument("--prefix", default="", help="put before the added keys, where a row has keys of these names")
    parser.add_argument("--quiet", action="store_true", help="no progress bar and no summary")
    group = parser.add_argument_group("settings of the judge (docs/reward.md)")
    for item in RewardConfig.settings():
        group.add_argument(
            "--" + item.name.replace("_", "-"),
            dest="setting_" + item.name,
            type=_boolean if item.kind is bool else item.kind,
            choices=item.choices,
            help=f"{item.help} (default {item.default})".replace("%", "%%"),
        )


def run(args: argparse.Namespace) -> int:
    """Scores the file. Returns 0, or 1 where rows could not be read (they score 0), or 2 where nothing was scored."""
    settings = {
        item.name: value
        for item in RewardConfig.settings()
        if (value := getattr(args, "setting_" + item.name, None)) is not None
    }
    try:
        judge = MathJudge(RewardConfig.from_mapping(settings))
        if os.path.exists(args.output) and os.path.samefile(args.input, args.output):
            raise OSError("the output would overwrite the input")
        size = os.path.getsize(args.input)
        with (
            open(args.input, encoding="utf-8", errors="replace") as source,
            whole(args.output) as partial,
            open(partial, "w", encoding="utf-8") as out,
        ):
            bad = _score_file(judge, source, out, args, size)
    except (OSError, RewardConfigError, RewardSetupError) as error:
        print(f"erpo score: {error}", file=sys.stderr)
        return 2
    return 1 if bad else 0


def _score_file(judge: MathJudge, source: TextIO, out: TextIO, args: argparse.Namespace, size: int) -> int:
    """Scores all rows; returns how many could not be read."""
    bad = done = read = 0
    started = time.monotonic()
    for chunk in _chunks(source):
        rows: list[tuple[dict[str, Any], bool]] = []
        for number, line in chunk:
            read += len(line)
            row, why = _row(line, args)
            rows.append((row, not why))
            if why:
                bad += 1
                print(f"erpo score: {args.input}:{number}: {why}; scored 0", file=sys.stderr)
        results = iter(judge.score_many([(row[args.response_key], row[args.gold_key]) for row, readable in rows if readable]))
        for row, readable in rows:
            result = next(results) if readable else _UNREADABLE
            out.write(json.dumps({**row, **{args.prefix + key: value for key, value in result.items()}}) + "\n")
        done += len(chunk)
        if not args.quiet and sys.stderr.isatty():
            rate = done / max(1e-9, time.monotonic() - started)
            print(f"\r{min(1.0, read / max(1, size)):4.0%}  {done} rows  {rate:.0f}/s", end="", file=sys.stderr, flush=True)
    if not args.quiet:
        counts = judge.counters.snapshot()
        shown = ", ".join(
            f"{name} {counts.get(f'reward/{name}/mean', 0.0):.4f}" for name in ("acc", "fast_path", "no_box", "refused")
        )
        print(f"\n{done} rows in {time.monotonic() - started:.1f} s, {bad} unreadable; {shown}", file=sys.stderr)
    return bad


def _chunks(source: TextIO) -> Iterator[list[tuple[int, str]]]:
    """Blocks of (line number, line), without empty lines."""
    lines = ((number, line) for number, line in enumerate(source, 1) if line.strip())
    return iter(lambda: list(itertools.islice(lines, _CHUNK)), [])


def _row(line: str, args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """(row, '') or (what of it goes to the output, what is wrong with it)."""
    lost = {"unreadable_line": line.rstrip("\n")[:1000]}
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return lost, f"no JSON ({str(error)[:80]})"
    if not isinstance(row, dict):
        return lost, "no JSON object"
    for key in (args.response_key, args.gold_key):
        if key not in row:
            return row, f"no {key!r}"
    if not isinstance(row[args.response_key], str):
        return row, f"{args.response_key!r} is no string"
    return row, ""


def _boolean(text: str) -> bool:
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off"):
        return False
    raise argparse.ArgumentTypeError(f"expected true or false, not {text!r}")
