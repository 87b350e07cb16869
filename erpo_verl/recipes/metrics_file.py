"""Keep a run's ``metrics.jsonl`` whole when the run is stopped and goes on from a checkpoint.

    python -m erpo_verl.recipes.metrics_file keep RUN/metrics.jsonl     before a start
    python -m erpo_verl.recipes.metrics_file join RUN/metrics.jsonl     after it

verl's file logger opens its file anew at each start, so the steps before the checkpoint would be lost. ``keep`` moves
what is there to ``metrics.before.jsonl``; ``join`` puts it before what the new start wrote. Steps that were done
again, because they came after the checkpoint, are taken from the new start, and so is all that followed them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from erpo_verl.runs.files import write_whole
from erpo_verl.runs.metrics import Entry, metrics_line, read_metrics


def _read(path: Path) -> list[Entry]:
    return read_metrics(path) if path.is_file() else []


def _is_training(data: dict) -> bool:
    return any(name.startswith(("actor/", "critic/", "training/")) for name in data)


def joined(before: list[Entry], after: list[Entry]) -> list[Entry]:
    """The steps of two starts in one, one entry a step.

    ``after`` begins with the validation at the checkpoint's step, or with the step after the checkpoint: what
    ``before`` has from the first step that was trained again on is dropped.
    """
    if after:
        trained = [step for step, data in after if _is_training(data)]
        # A start that only validated has the checkpoint's step in its first entry.
        again = trained[0] if trained else after[0][0] + 1
        before = [(step, data) for step, data in before if step < again]
    steps: dict[int, dict] = {}
    for step, data in [*before, *after]:
        steps.setdefault(step, {}).update(data)
    return sorted(steps.items())


def _write(path: Path, entries: list[Entry]) -> None:
    write_whole(path, "".join(metrics_line(step, data) for step, data in entries))


def keep(path: Path) -> None:
    """Move what ``path`` holds out of the way of a new start, behind what was kept at earlier ones."""
    kept = path.with_name("metrics.before.jsonl")
    if path.is_file():
        _write(kept, joined(_read(kept), _read(path)))
        path.unlink()


def join(path: Path) -> None:
    """Put what was kept before what ``path`` holds."""
    kept = path.with_name("metrics.before.jsonl")
    if kept.is_file():
        _write(path, joined(_read(kept), _read(path)))
        kept.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("keep", "join"))
    parser.add_argument("path", type=Path)
    args = parser.parse_args()
    {"keep": keep, "join": join}[args.what](args.path)


if __name__ == "__main__":
    main()
