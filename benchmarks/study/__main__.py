"""``bash scripts/study.sh``: the study's runs, those that are not kept yet, one process each.

    bash scripts/study.sh --pilot --jobs 2                  every arm at every rate, then more seeds at each arm's best rate
    bash scripts/study.sh --confirm --jobs 2                the chosen arms on ten seeds
    bash scripts/study.sh --plateau --jobs 2                GRPO and ERPO at all five learning rates
    bash scripts/study.sh --small --jobs 2                  one bed, two arms, three seeds: under half an hour on two cores
    bash scripts/study.sh --pilot --only bad_habits/erpo    a bed, /ARM, or BED/ARM; several are allowed
    bash scripts/study.sh --run arithmetic erpo 3e-4 0 --keep DIR --dump DIR/erpo    one run with rollouts, for benchmarks.study.mechanism
    bash scripts/study.sh --tables                          tables of what is kept, and the verdict of each claim
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.study import claims, tables
from benchmarks.study.one import EVALUATION, execute
from benchmarks.study.protocol import ROOT, Protocol, Run, StudyError, arm_overrides, load

KEEP = ROOT / "docs" / "study"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/study.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    stage = parser.add_mutually_exclusive_group(required=True)
    for name in ("pilot", "confirm", "plateau", "small", "tables"):
        stage.add_argument(f"--{name}", action="store_true")
    stage.add_argument("--run", nargs=4, metavar=("BED", "ARM", "RATE", "SEED"), help="one run in this process")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one core each (1)")
    parser.add_argument("--only", nargs="+", default=[], metavar="BED/ARM", help="only these: BED, /ARM or BED/ARM")
    parser.add_argument("--work", type=Path, default=ROOT / "outputs" / "study", help="data, start policies, runs (outputs/study)")
    parser.add_argument("--keep", type=Path, help="where finished runs are kept (docs/study; --small: in --work)")
    parser.add_argument("--dump", type=Path, metavar="DIR", help="with --run: every tenth step's rollouts, for benchmarks.study.mechanism")
    parser.add_argument("--list", action="store_true", help="list the runs and which of them are kept")
    args = parser.parse_args(argv)
    work = args.work.absolute()
    keep = (args.keep or (work / "small" if args.small else KEEP)).absolute()
    try:
        protocol = load()
        if args.run:
            bed, arm, rate, seed = args.run
            if bed not in protocol.beds:
                raise StudyError(f"no bed {bed!r}; the beds: {', '.join(protocol.beds)}")
            print(execute(Run(bed, arm, float(rate), int(seed)), protocol, work, keep, args.dump))
            return 0
        if args.dump:
            raise StudyError("--dump goes with --run")
        if args.tables:
            print(_report(protocol, keep))
            return 0
        code = 0
        for runs in _stages(args, protocol, keep):
            code = max(code, _do(_wanted(runs, args.only), args, work, keep))
        if not args.list:
            print(_report(protocol, keep))
        return code
    except StudyError as error:
        print(f"scripts/study.sh: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nscripts/study.sh: stopped; the same command goes on from here", file=sys.stderr)
        return 130


def _report(protocol: Protocol, keep: Path) -> str:
    """Tables of what is kept, and once there is a confirmation the verdict of each claim."""
    kept = tables.read(keep)
    told = tables.markdown(protocol, kept)
    if any(k.run.bed in protocol.chosen and k.run.seed in protocol.confirm["seeds"] for k in kept):
        found = claims.claims(protocol, kept, keep / claims.PIVOTS)
        told = "\n".join(["### The claims", "", *claims.markdown(found), "", told])
    return told


def _stages(args: argparse.Namespace, protocol: Protocol, keep: Path) -> Iterable[list[Run]]:
    """The runs, in stages of which a later one may depend on what an earlier one has kept."""
    if args.small:
        yield list(protocol.few())
    elif args.confirm:
        yield list(protocol.confirmation())
    elif args.plateau:
        yield list(protocol.wide())
    else:
        yield list(protocol.grid())
        yield list(protocol.edges(tables.best_rates(protocol, tables.read(keep))))
        yield list(protocol.more(tables.best_rates(protocol, tables.read(keep))))


def _wanted(runs: Iterable[Run], only: Sequence[str]) -> list[Run]:
    """Those that --only names and whose arm this version has, each once."""
    found, without = {}, {}
    for run in runs:
        if only and not {run.bed, f"/{run.arm}", f"{run.bed}/{run.arm}"} & set(only):
            continue
        (found if arm_overrides(run.arm) is not None else without)[run] = None
    if without:
        arms = ", ".join(sorted({run.arm for run in without}))
        print(f"left out, as neither scripts/ablations.txt nor benchmarks/study/peers.txt has such an arm: {arms}", file=sys.stderr)
    return list(found)


def _do(runs: list[Run], args: argparse.Namespace, work: Path, keep: Path) -> int:
    """Run them, ``args.jobs`` at a time; returns 1 if one failed."""
    left = [run for run in runs if not (keep / run.bed / run.name / EVALUATION).is_file()]
    print(f"{len(runs)} runs, {len(runs) - len(left)} of them kept", flush=True)
    if args.list:
        for run in runs:
            print(f"{'  ' if run in left else 'x '}{run.bed}/{run.name}")
        return 0
    running: dict[subprocess.Popen, tuple[Run, float]] = {}
    failed = done = 0
    try:
        while left or running:
            while left and len(running) < args.jobs:
                run = left.pop(0)
                running[_start(run, work, keep)] = (run, time.monotonic())
            time.sleep(0.5)
            for process in [p for p in running if p.poll() is not None]:
                run, began = running.pop(process)
                done += 1
                minutes = (time.monotonic() - began) / 60
                told = tables.one_line(keep / run.bed / run.name) if process.returncode == 0 else f"FAILED, {_log(run, work)}"
                failed += process.returncode != 0
                print(f"{run.bed}/{run.name}: {told}  ({minutes:.1f} min, {len(left) + len(running)} to go)", flush=True)
    finally:
        for process in running:  # each saves the step in hand and ends
            process.send_signal(signal.SIGINT)
        for process in running:
            process.wait()
    return int(failed > 0)


def _log(run: Run, work: Path) -> Path:
    return work / run.bed / "logs" / f"{run.name}.log"


def _start(run: Run, work: Path, keep: Path) -> subprocess.Popen:
    log = _log(run, work)
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "benchmarks.study", "--run", run.bed, run.arm, str(run.rate), str(run.seed)]
    with open(log, "a") as file:
        return subprocess.Popen(
            [*command, "--work", str(work), "--keep", str(keep)], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True,
        )  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
