"""Read a run's ``metrics.jsonl``: one line a step, ``{"step": 3, "data": {"critic/score/mean": 0.4, ...}}`` (verl's file logger)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

HELD_OUT = re.compile(r"^val-(core|aux)/(?P<source>.+)/acc/mean@\d+$")


@dataclass(frozen=True)
class Run:
    """One run: ``series[name]`` is a list of (step, value), in the order of the steps."""

    path: Path
    arm: str
    seed: str
    series: dict[str, list[tuple[int, float]]]

    @property
    def held_out(self) -> str:
        """Name of the held-out accuracy's metric; of several data sources the first by name."""
        names = sorted(name for name in self.series if HELD_OUT.match(name))
        if not names:
            raise ValueError(f"{self.path}: no held-out accuracy (val-*/<data source>/acc/mean@k) in its metrics")
        return names[0]


def read_run(folder: Path) -> Run:
    """Read one run's folder. ``erpo-s3`` is arm ``erpo``, seed ``3``; a name without ``-s<number>`` is an arm of its own.

    Raises:
        ValueError: the file is missing, empty, or a line of it is not as expected (named with its number).
    """
    path = Path(folder) / "metrics.jsonl"
    if not path.is_file():
        raise ValueError(f"{path} is missing: is {folder} the folder of a finished run?")
    series: dict[str, list[tuple[int, float]]] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            entry = json.loads(line)
            step, data = int(entry["step"]), dict(entry["data"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f'{path}, line {number}: not {{"step": ..., "data": {{...}}}}: {error}') from None
        for name, value in data.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                series.setdefault(name, []).append((step, float(value)))
    if not series:
        raise ValueError(f"{path} holds no metrics")
    match = re.match(r"^(?P<arm>.+)-s(?P<seed>\d+)$", Path(folder).resolve().name)
    arm, seed = (match["arm"], match["seed"]) if match else (Path(folder).resolve().name, "0")
    return Run(Path(folder), arm, seed, series)
