"""Where metrics go: ``metrics.jsonl`` always, a progress bar, and the trackers that ``trainer.logger`` names (through Accelerate)."""

from __future__ import annotations

import errno
import json
import os
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from erpo_verl.runs.files import write_whole
from erpo_verl.runs.metrics import METRICS, metrics_line, read_metrics

_OWN = ("console", "file")  # the progress bar's lines, and metrics.jsonl, which is written anyway

# What stands behind the progress bar: label, metric, format.
_SHOWN = (
    ("reward", "critic/score/mean", ".3f"),
    ("length", "response_length/mean", ".0f"),
    ("entropy", "actor/entropy", ".3f"),
    ("clip", "actor/pg_clipfrac", ".3f"),
    ("tok/s", "perf/throughput", ".0f"),
)


class TrackingError(ValueError):
    """``trainer.logger`` names a tracker that is unknown or not installed."""


def tracker_names(loggers: Sequence[str]) -> list[str]:
    """The trackers of Accelerate's among ``trainer.logger``.

    Raises:
        TrackingError: an unknown name, or one whose package is not installed.
    """
    known = {str(name) for name in LOGGER_TYPE_TO_CLASS}
    available = {str(name) for name in get_available_trackers()}
    chosen = [name for name in loggers if name not in _OWN]
    for name in chosen:
        if name not in known:
            raise TrackingError(f"trainer.logger: {name!r} is unknown; known are {', '.join(sorted([*_OWN, *known]))}")
        if name not in available:
            raise TrackingError(f"trainer.logger: {name!r} needs its package: pip install {name}")
    return chosen


class MetricsFile:
    """``metrics.jsonl``: one line a step, ``{"step": 3, "data": {...}}``, as verl's file logger writes it."""

    def __init__(self, path: Path, last_step: int):
        """Keeps the lines up to ``last_step`` (a resumed run repeats what came after) and drops a torn last one.

        Raises:
            MetricsError: another line is damaged; the file is as it was.
            OSError: it cannot be written (the message names it).
        """
        self.path = path
        kept = read_metrics(path) if path.is_file() and last_step >= 0 else []
        try:
            write_whole(path, "".join(metrics_line(step, data) for step, data in kept if step <= last_step))
        except OSError as error:
            raise OSError(error.errno, f"cannot write {path}: {error.strerror}") from error

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append a line, whole or not at all.

        Raises:
            OSError: the disk is full (the message names the file); the file is as it was.
        """
        append_line(self.path, metrics_line(step, metrics), f"the metrics of step {step}")


def append_line(path: Path, line: str, what: str) -> None:
    """Append a line to a file, whole or not at all.

    Raises:
        OSError: the disk is full (the message names ``what`` and the file); the file is as it was.
    """
    data = line.encode()
    with open(path, "ab", buffering=0) as file:
        length = file.tell()
        try:
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            file.truncate(length)
            raise OSError(error.errno, f"cannot write {what} to {path}: {error.strerror}") from error


class Tracking:
    """Logs one run. Only the main process writes; the others may call everything."""

    def __init__(self, run: Path, settings: DictConfig, accelerator: Accelerator, *, start: int, total: int, ids: Mapping[str, str]):
        """
        Args:
            run: its folder.
            start: last finished step (0: a new run).
            total: last step of the run, for the progress bar.
            ids: run ids of trackers, from the checkpoint; new ones are made where there are none.
        """
        self.accelerator, self.loggers = accelerator, list(settings.trainer.logger)
        self.ids = dict(ids)
        self.file = self.bar = None
        names = tracker_names(self.loggers)
        if accelerator.is_main_process:
            self.file = MetricsFile(run / METRICS, start if start else -1)
            self.bar = tqdm(
                total=total, initial=start, desc=settings.trainer.experiment_name, unit="step", dynamic_ncols=True, disable=not sys.stderr.isatty()
            )
        if names:
            options: dict[str, dict[str, Any]] = {}
            if "wandb" in names:
                self.ids.setdefault("wandb", uuid.uuid4().hex[:8])
                options["wandb"] = {
                    "name": settings.trainer.experiment_name, "id": self.ids["wandb"], "resume": "allow", "dir": str(run),
                }  # fmt: skip
            if "tensorboard" in names:
                options["tensorboard"] = {"purge_step": start + 1}
            accelerator.init_trackers(settings.trainer.project_name, config=_flat(settings), init_kwargs=options)
        self.trackers = bool(names)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics of a step everywhere."""
        if self.file is None:
            return
        self.file.write(step, metrics)
        if self.trackers:
            self.accelerator.log({name: float(value) for name, value in metrics.items()}, step=step)
        self._show(step, metrics)

    def say(self, text: str) -> None:
        """A line on the terminal, above the progress bar."""
        if self.bar is not None:
            tqdm.write(text, file=sys.stderr)

    def _show(self, step: int, metrics: Mapping[str, float]) -> None:
        held_out = [(n, v) for n, v in metrics.items() if n.startswith("val-core/") and "/mean@" in n]
        for name, value in held_out:
            self.say(f"step {step}: {name} {value:.3f}")
        if "critic/score/mean" not in metrics:
            return
        shown = {label: format(metrics[name], form) for label, name, form in _SHOWN if name in metrics}
        if not self.bar.disable:
            self.bar.set_postfix(shown, refresh=False)
            self.bar.update(1)
        elif "console" in self.loggers:
            print(f"step {step}/{self.bar.total}  " + "  ".join(f"{k} {v}" for k, v in shown.items()), flush=True)

    def close(self) -> None:
        """Finish the trackers' runs."""
        if self.trackers:
            self.accelerator.end_training()
        if self.bar is not None:
            self.bar.close()


def _flat(settings: DictConfig) -> dict[str, Any]:
    """Dotted keys with values that every tracker can store."""
    flat: dict[str, Any] = {}

    def walk(tree: Mapping[str, Any], prefix: str) -> None:
        for name, value in tree.items():
            if isinstance(value, Mapping):
                walk(value, f"{prefix}{name}.")
            else:
                flat[f"{prefix}{name}"] = value if isinstance(value, (int, float, str, bool)) else json.dumps(value)

    walk(OmegaConf.to_container(settings), "")
    return flat
