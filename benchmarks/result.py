"""What a benchmark finds, where it ran, and how it becomes a table of `docs/performance.md`."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any


class NotHere(RuntimeError):
    """This machine or environment lacks what the benchmark compares with; the message says what to install."""


@dataclass(frozen=True)
class Result:
    """One table. Cells are text; `figures` keeps the numbers behind them."""

    title: str
    how: str  # what is measured, of whom, in which turns: a reader must be able to doubt it
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    bound: str  # what bounds the figure, and what the limit would be
    packages: Sequence[str]  # whose versions matter
    figures: Mapping[str, Any] = field(default_factory=dict)


def in_turns(
    runs: Mapping[str, Callable[[], Any]], repeats: int, clock: Callable[[], float] = time.process_time, warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds of each repeat of each run. They alternate, and the order turns round from repeat to repeat, so that whatever else
    the machine does falls on all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(warm_up + repeats):
        for name in list(runs) if repeat % 2 == 0 else reversed(list(runs)):
            began = clock()
            runs[name]()
            if repeat >= warm_up:
                seconds[name].append(clock() - began)
    return seconds


def quartiles(values: Sequence[float], digits: int = 2) -> str:
    """``median [lower quartile, upper quartile]``."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def ratios(of: Sequence[float], to: Sequence[float]) -> list[float]:
    """Repeat by repeat."""
    return [a / b for a, b in zip(of, to, strict=True)]


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def matrix_throughput(threads: int, size: int = 1024, seconds: float = 1.0) -> float:
    """GFLOP/s of float32 matrix products of [size, size] on this machine now: what compute-bound work can reach at most."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    a, b = torch.randn(size, size), torch.randn(size, size)
    torch.mm(a, b)
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        torch.mm(a, b)
        count += 1
    rate = 2 * size**3 * count / (time.perf_counter() - began) / 1e9
    torch.set_num_threads(before)
    return rate


def surroundings(packages: Sequence[str], threads: int) -> dict[str, Any]:
    """Machine, versions, date and load, as they are now."""
    versions = {"Python": platform.python_version()}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "absent"
    return {
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load": round(os.getloadavg()[0], 2),
        "gflops": round(matrix_throughput(threads), 1),
        "versions": versions,
    }


def record(name: str, result: Result, where: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """What `docs/performance.json` keeps of one benchmark."""
    return {**asdict(result), "name": name, "where": dict(where), "seconds": round(seconds)}


def page(records: Sequence[Mapping[str, Any]], head: str) -> str:
    """`docs/performance.md`."""
    parts = [head.strip(), ""]
    for entry in records:
        where = entry["where"]
        versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
        parts += [
            f"## {entry['title']}",
            "",
            entry["how"],
            "",
            "| " + " | ".join(entry["columns"]) + " |",
            "|---" * len(entry["columns"]) + "|",
            *("| " + " | ".join(row) + " |" for row in entry["rows"]),
            "",
            f"What bounds it: {entry['bound']}",
            "",
            f"`python -m benchmarks {entry['name']}`, {where['date']}: {where['processor']}, {where['cores']} cores, {where['threads']} "
            f"thread(s), load {where['load']} before, {where['gflops']:g} GFLOP/s in float32 matrix products; {versions}.",
            "",
        ]
    return "\n".join(parts)
