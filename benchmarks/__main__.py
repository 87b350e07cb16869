"""All figures of speed, by one command.

    python -m benchmarks                     # every benchmark, about an hour on two idle cores
    python -m benchmarks advantage growth    # some of them
    python -m benchmarks --quick advantage   # small sizes: does it work? Writes nothing
    python -m benchmarks --list

Each compares side by side, in turns. A finished one is written at once into `docs/performance.json` (with machine, versions
and date) and `docs/performance.md` is made anew from it; the others keep the figures of their last run. One that lacks its peer is said and
passed over.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from pathlib import Path

from benchmarks.result import NotHere, page, record, surroundings

ROOT = Path(__file__).resolve().parents[1]
QUESTIONS = {  # name -> module with measure(quick) -> Result; the page has this order
    "advantage": "benchmarks.advantage",
    "growth": "benchmarks.growth",
    "verl_step": "benchmarks.verl_step",
    "engine": "benchmarks.engine_vs_trl",
    "log_probs": "benchmarks.log_probs",
    "rollout": "benchmarks.rollout",
    "reward": "benchmarks.reward",
    "projection": "benchmarks.projection",
}
HEAD = """# Speed

Every table is made by `python -m benchmarks` and names its machine, versions and date. Machines are noisy: what counts are the
ratios, measured side by side in turns. A cell `1.06 [1.04, 1.09]` is a median with its quartiles. Figures of accuracy are in
[results.md](results.md) and [study.md](study.md).
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of " + ", ".join(QUESTIONS) + " (default: all)")
    parser.add_argument("--quick", action="store_true", help="small sizes, nothing is written")
    parser.add_argument("--list", action="store_true", help="the benchmarks and what each asks")
    parser.add_argument("--page", action="store_true", help="only make docs/performance.md anew from docs/performance.json")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "performance.json", help="where the figures are kept")
    args = parser.parse_args(argv)
    unknown = [name for name in args.names if name not in QUESTIONS]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(QUESTIONS)}")
    if args.list:
        for name, module in QUESTIONS.items():
            print(f"{name:<12} {(importlib.import_module(module).__doc__ or '').splitlines()[0]}")
        return 0
    if args.page:
        write_page(args.out)
        return 0
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    failed = []
    for name in args.names or QUESTIONS:
        module = importlib.import_module(QUESTIONS[name])
        print(f"== {name}: {(module.__doc__ or '').splitlines()[0]}", flush=True)
        began = time.perf_counter()
        try:
            where = surroundings(module.PACKAGES, threads=1)
            result = module.measure(quick=args.quick)
        except NotHere as reason:
            print(f"   not measured: {reason}", flush=True)
            continue
        except Exception as error:  # the others still run; the exit code tells
            import traceback

            traceback.print_exc()
            failed.append(f"{name} ({type(error).__name__}: {error})")
            continue
        entry = record(name, result, where, time.perf_counter() - began)
        print("\n".join("   " + line for line in page([entry], "").splitlines() if line), flush=True)
        if not args.quick:
            keep(args.out, name, entry)
            write_page(args.out)
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    return 1 if failed else 0


def keep(path: Path, name: str, entry: dict) -> None:
    """One benchmark's figures into the file; the file appears whole or stays as it was."""
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    found[name] = entry
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    new.replace(path)


def write_page(path: Path) -> None:
    found = json.loads(path.read_text(encoding="utf-8"))
    records = [found[name] for name in QUESTIONS if name in found]
    path.with_suffix(".md").write_text(page(records, HEAD), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
