"""``metrics.jsonl``: a line is a step, ``{"step": 3, "data": {"critic/score/mean": 0.4, ...}}``, as verl's file logger writes it.

Of either engine it is read here and nowhere else. A number that JSON has not (NaN, inf) is null in what we write; verl writes
``NaN``, which is read as such.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

METRICS = "metrics.jsonl"

Entry = tuple[int, dict[str, Any]]
"""(step, metrics)."""


class MetricsError(ValueError):
    """A line is not as expected; the message names the file and the line."""


def read_metrics(path: Path) -> list[Entry]:
    """All steps, in the order of the file; a last line that was cut off when the run was stopped is left out.

    Raises:
        MetricsError: another line is not as above.
        OSError: the file cannot be read.
    """
    return read_more(path, 0)[0]


def read_more(path: Path, position: int) -> tuple[list[Entry], int]:
    """The steps from byte ``position`` on, and the byte behind the last whole line: where to go on in a file that grows.

    Raises:
        MetricsError, OSError: as `read_metrics`.
    """
    with open(path, "rb") as file:
        before = file.read(position).count(b"\n")
        data = file.read()
    entries = []
    lines = data.split(b"\n")
    for number, line in enumerate(lines, before + 1):
        ended = number < before + len(lines)
        if line.strip():
            try:
                entry = json.loads(line)
                entries.append((int(entry["step"]), dict(entry["data"])))
            except (ValueError, KeyError, TypeError) as error:
                if not ended:
                    break
                raise MetricsError(f'{path}, line {number}: not {{"step": ..., "data": {{...}}}}: {error}') from None
        position += len(line) + ended
    return entries, position


def metrics_line(step: int, metrics: Mapping[str, Any]) -> str:
    """The line of a step, its newline included."""
    return json.dumps({"step": step, "data": {name: _plain(value) for name, value in metrics.items()}}, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """Numbers of numpy and torch as Python's; NaN and inf as null; what is no number stays (a line of verl's may hold text)."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    value = float(value)
    return value if math.isfinite(value) else None
