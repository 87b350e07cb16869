"""``erpo prepare SET --source hub|PATH --out DIR``: a problem set as parquet in verl's schema.

Each row has a stable id, the problem as a chat prompt, the answer, level and type. Beside ``DIR/SPLIT.parquet`` stands
``DIR/SPLIT.json``: the source with its hash, rows in and out, and every rule that mended or dropped a row, with the rows.
The same input gives the same bytes. docs/data.md lists the sets and the rules.

    erpo prepare math --source math_train.parquet --levels 3-5 --against math500.jsonl --out data/math
    erpo prepare custom --source mine.jsonl --columns problem=question,answer=gold --out data/mine
    erpo prepare --check data/math data/math500          # do two prepared folders share problems?
    erpo prepare --list
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from erpo_verl.data.check import check_files, read_others, report_for
from erpo_verl.data.convert import Conversion, Counted, check_answers, convert, in_order, sample
from erpo_verl.data.output import check_target, verl_rows, write
from erpo_verl.data.rules import DROPS, MENDS
from erpo_verl.data.sets import CUSTOM, SETS, ProblemSet, find_set
from erpo_verl.data.source import PrepareError, Row, file_rows, file_sha256, hub_rows
from erpo_verl.data.templates import DEFAULT_TEMPLATE, INSTRUCTION, TEMPLATES
from erpo_verl.rows import ANSWER_FORMS

__all__ = ["INSTRUCTION", "PrepareError", "add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``erpo prepare``."""
    parser.add_argument("set", nargs="?", help="which problem set (see --list), or custom")
    parser.add_argument("--source", default="hub", help="hub; hub:OWNER/NAME[:CONFIG]; or a .parquet or .jsonl file (hub)")
    parser.add_argument("--revision", help="of the hub repository: a branch, tag or commit")
    parser.add_argument("--split", choices=("train", "test"), help="which split (the set's first)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the parquet file and its record")
    parser.add_argument("--name", help="file name without ending (the split's name)")
    parser.add_argument("--template", default=DEFAULT_TEMPLATE, help=f"prompt: {', '.join(TEMPLATES)} ({DEFAULT_TEMPLATE})")
    parser.add_argument(
        "--answer-forms", choices=ANSWER_FORMS, help="how a final answer may be given, which the data tell the reward (what the template asks for)"
    )
    parser.add_argument("--levels", help="keep only these, such as 3-5 or 1,2")
    parser.add_argument("--types", help="keep only these, parted by commas, such as Algebra,Geometry")
    parser.add_argument("--sample", type=int, metavar="N", help="draw N of the problems")
    parser.add_argument("--seed", type=int, default=0, help="of --sample (0)")
    parser.add_argument("--columns", help="of custom: problem=COLUMN,answer=COLUMN[,level=,type=,unit=,id=]; dots go into structs")
    parser.add_argument("--data-source", help="of custom: the name for data_source and ids (custom)")
    parser.add_argument("--against", nargs="+", default=[], metavar="OTHER", help="sets that no problem may stand in: files, folders, or set names")
    parser.add_argument(
        "--on-overlap", default="drop", choices=("drop", "drop-near", "report"),
        help="drop: the same problems are dropped, rewordings reported; drop-near: both dropped; report: neither (drop)",
    )  # fmt: skip
    parser.add_argument(
        "--unreadable", default="drop", choices=("drop", "refuse", "keep", "skip"),
        help="answers that the reward cannot read: drop, refuse to write, keep and list, or skip the check (drop)",
    )  # fmt: skip
    parser.add_argument("--duplicates", default="drop", choices=("drop", "keep"), help="repeated problems (drop)")
    parser.add_argument("--show", type=int, default=0, metavar="N", help="print the first N rows; without --out nothing is written")
    parser.add_argument("--list", action="store_true", help="print the sets and the templates")
    parser.add_argument("--check", nargs="+", metavar="FILE", help="does the first file (or folder) share problems with the others?")


def run(args: argparse.Namespace) -> int:
    """Convert, and print what came out; returns the exit code (of --check: 1 where problems are shared, 2 on errors)."""
    previous = None
    if threading.current_thread() is threading.main_thread():
        previous = signal.signal(signal.SIGTERM, _stop)  # so that a kill takes the partial files along
    try:
        if args.list:
            return _list()
        if args.check:
            if len(args.check) < 2:
                raise PrepareError("--check needs the file that is looked through and at least one other")
            return 1 if check_files(args.check[0], args.check[1:], args.show or 3) else 0
        return _prepare(args)
    except PrepareError as error:
        print(f"erpo prepare: {error}", file=sys.stderr)
        return 2 if args.check else 1
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print("erpo prepare: stopped; nothing was written", file=sys.stderr)
        return 130
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


def _stop(_signal: int, _frame: object) -> None:
    raise SystemExit(143)


def _prepare(args: argparse.Namespace) -> int:
    if not args.set:
        raise PrepareError("which set? `erpo prepare --list` prints all")
    known = find_set(args.set, args.columns)
    if args.data_source:
        if known.name != CUSTOM or not args.data_source.strip() or args.data_source in SETS:
            raise PrepareError("--data-source is for the set 'custom', and must be no other set's name")
        known = dataclasses.replace(known, name=args.data_source.strip())
    template = TEMPLATES.get(args.template)
    if template is None:
        raise PrepareError(f"no template {args.template!r}: one of {', '.join(TEMPLATES)}")
    if args.out is None and not args.show:
        raise PrepareError("where to? --out DIR (or --show N to look only)")
    if args.sample is not None and args.sample < 1:
        raise PrepareError(f"--sample {args.sample}: at least 1")
    split = args.split or next(iter(known.splits))
    name = args.name or split
    if args.out is not None:
        check_target(args.out, name, known.name)
    levels, types = _levels(args.levels, known), _types(args.types, known)

    rows, source, digest = _open(args, known, split)
    progress = _progress()
    result = convert(rows, known, levels, types, args.duplicates, progress)
    if progress:
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    source["sha256"] = digest()
    if not result.problems:
        first = next(iter(in_order(result.dropped).items()), None)
        why = f": {DROPS[first[0]]} (row {first[1].places[0][0]}: {first[1].places[0][1]})" if first else ""
        raise PrepareError(f"{source['name']}: none of its {result.rows_in} rows is usable{why}")
    against = _overlap(result, args.against, args.on_overlap)
    unreadable = check_answers(result, args.unreadable)
    sample(result, args.sample, args.seed, known.name)
    if not result.problems:
        raise PrepareError(f"{source['name']}: none of its {result.rows_in} rows is left: {', '.join(in_order(result.dropped))}")

    out_rows = list(verl_rows(result.problems, known.name, split, template, args.answer_forms))
    for row in out_rows[: args.show]:
        print(json.dumps(row, ensure_ascii=False, indent=1))
    if args.out is None:
        _summary(f"{known.name} {split} (nothing written)", result, against, unreadable)
        return 0
    record = {
        "set": known.name,
        "split": split,
        "source": source,
        "template": args.template,
        "answer_forms": args.answer_forms or template.answer_forms,
        "levels": levels,
        "types": types,
        "sample": args.sample,
        "seed": args.seed if args.sample else None,
        "duplicates": args.duplicates,
        "on_overlap": args.on_overlap,
        "unreadable": args.unreadable,
        "rows_in": result.rows_in,
        "rows_out": len(out_rows),
        "rows_published": known.rows.get(split),
        "mended": _counts(result.mended(), MENDS),
        "dropped": _counts(in_order(result.dropped), DROPS),
        "unreadable_golds": [{"row": row, "gold": gold[:200], "why": why} for row, gold, why in unreadable],
        "against": [report.as_dict() for report in against],
    }
    target, _record = write(args.out, name, out_rows, record)
    _summary(str(target), result, against, unreadable)
    return 0


def _open(args: argparse.Namespace, known: ProblemSet, split: str) -> tuple[Iterator[Row], dict[str, Any], Any]:
    """(rows, what the record says of the source, a function that gives its hash once the rows are read)."""
    columns = sorted(known.columns)
    kind, _, rest = args.source.partition(":")
    if kind == "hub" and (rest or args.source == "hub"):
        repository, _, config = rest.partition(":")
        if not (repository or known.hub):
            raise PrepareError(f"the set {known.name!r} has no place on the hub: pass --source PATH or hub:OWNER/NAME")
        if not repository and split not in known.splits:
            raise PrepareError(f"{known.hub} has no {split} split: {', '.join(known.splits)}")
        repository, config = (repository, config or None) if repository else (known.hub, known.config)
        theirs = known.splits.get(split, split)
        rows = hub_rows(repository, config, theirs, args.revision, columns)
        running = hashlib.sha256()
        source = {"name": repository, "config": config, "split": theirs, "revision": args.revision}
        return _hashed(rows, running), source, running.hexdigest
    path = Path(args.source)
    rows = file_rows(path, columns)
    return rows, {"name": path.name}, lambda: file_sha256(path)


def _hashed(rows: Iterator[Row], running: Any) -> Iterator[Row]:
    for row in rows:
        running.update(json.dumps(row, sort_keys=True, default=str).encode() + b"\n")
        yield row


def _levels(text: str | None, known: ProblemSet) -> list[str] | None:
    """`3-5,7` as ["3", "4", "5", "7"]."""
    if text is None:
        return None
    if not known.level:
        raise PrepareError(f"--levels: the set {known.name!r} has no levels")
    levels: list[str] = []
    for part in text.split(","):
        low, dash, high = (piece.strip() for piece in part.partition("-"))
        if dash and low.isdigit() and high.isdigit() and int(low) <= int(high) < int(low) + 1000:
            levels += [str(level) for level in range(int(low), int(high) + 1)]
        elif part.strip() and not dash:
            levels.append(part.strip())
        else:
            raise PrepareError(f"--levels {text!r}: expected levels such as 5, 1,2 or 3-5")
    return levels


def _types(text: str | None, known: ProblemSet) -> list[str] | None:
    if text is None:
        return None
    if not known.type:
        raise PrepareError(f"--types: the set {known.name!r} has no types")
    return [part.strip() for part in text.split(",") if part.strip()]


def _overlap(result: Conversion, sources: list[str], action: str) -> list[Any]:
    """Look for the problems in `sources`, drop what `action` says; returns a report for each source."""
    if not sources:
        return []
    index, reports = read_others(sources)
    remarks: dict[str, dict[int, str]] = {"same": {}, "near": {}}
    for problem in result.problems:
        match = index.find(problem.text)
        if match:
            report = report_for(reports, match)
            report.add(problem.row, match)
            remarks[match.kind][problem.row] = f"{match.kind} as row {match.row} of {report.name} (share {match.share})"
    if action != "report":
        result.drop_where("overlap", remarks["same"])
    if action == "drop-near":
        result.drop_where("near_overlap", remarks["near"])
    return reports


def _counts(found: dict[str, Counted], meanings: dict[str, str]) -> dict[str, Any]:
    """For the record: of each rule the number of rows, its meaning, the rows (the first 1000), and remarks on them."""
    record: dict[str, Any] = {}
    for rule, counted in found.items():
        record[rule] = {"rows": counted.count, "meaning": meanings[rule], "at": [row for row, _remark in counted.places]}
        remarks = {str(row): remark for row, remark in counted.places if remark}
        if remarks:
            record[rule]["remarks"] = remarks
    return record


def _progress() -> Any:
    """A line on a terminal's stderr that counts rows; None where stderr is a file."""
    if not sys.stderr.isatty():
        return None

    def show(read: int, kept: int) -> None:
        if read % 20_000 == 0:
            print(f"\r{read:,} rows read, {kept:,} problems", end="", file=sys.stderr, flush=True)

    return show


def _summary(target: str, result: Conversion, against: list[Any], unreadable: list[Any]) -> None:
    print(f"{target}: {len(result.problems)} of {result.rows_in} rows")
    for verb, found in (("mended", result.mended()), ("dropped", in_order(result.dropped))):
        for rule, counted in found.items():
            rows = ", ".join(str(row) for row, _remark in counted.places[:8])
            more = ", ..." if counted.count > 8 else ""
            print(f"  {verb} {counted.count}: {rule} (row {rows}{more})")
    for report in against:
        print(f"  against {report.name}: {len(report.matches['same'])} the same, {len(report.matches['near'])} near")
    if unreadable:
        print(f"  answers that the reward cannot read: {len(unreadable)}; the first, row {unreadable[0][0]}: {unreadable[0][1][:80]!r}")


def _list() -> int:
    for known in SETS.values():
        splits = ", ".join(f"{split} {known.rows[split]}" for split in known.splits)
        config = f" ({known.config})" if known.config else ""
        print(f"{known.name:<15}{known.title}\n{'':<15}{known.hub}{config}: {splits}")
    print(f"{'custom':<15}any .jsonl or .parquet file: --columns problem=COLUMN,answer=COLUMN")
    print(f"{'arithmetic':<15}the embedded task; in a checkout: python -m examples.arithmetic.prepare --out DIR")
    print("\ntemplates")
    for name, template in TEMPLATES.items():
        print(f"{name:<15}{template.source}")
    return 0
