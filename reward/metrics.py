"""Counters of a judge, and metrics of a batch of results. Names end in /mean or /max, which verl reduces by."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from .verdict import Reason

_MEANS = (
    "acc", "fast_path", "cached", "timed_out", "killed", "no_box", "truncated", "refused", "gold_unreadable", "ungradeable",
    "format_ok", "score", "latency_s", "overlong_penalty",
)  # fmt: skip


class Counters:
    """Counts the results of one judge in this process. Thread-safe."""

    def __init__(self) -> None:
        self._sums: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self._latency_max = 0.0
        self.after_fork()

    def after_fork(self) -> None:
        """The lock may have been held by a thread that does not exist here."""
        self._lock = threading.Lock()

    def add(self, result: Mapping[str, Any]) -> None:
        """Takes one result of the judge, or what there is of one, into account."""
        with self._lock:
            for key in _MEANS:
                if (value := result.get(key)) is not None:
                    self._counts[key] += 1
                    self._sums[key] += value
            if (reason := result.get("reason")) is not None:
                self._counts["reason"] += 1
                self._sums[f"reason_{Reason(int(reason)).name.lower()}"] += 1
            self._latency_max = max(self._latency_max, result.get("latency_s") or 0.0)

    def snapshot(self, reset: bool = False) -> dict[str, float]:
        """Metrics since the start or the last reset: rates in [0, 1] as `reward/<key>/mean`, latency in seconds."""
        with self._lock:
            sums, counts, latency_max = Counter(self._sums), Counter(self._counts), self._latency_max
            if reset:
                self._sums.clear()
                self._counts.clear()
                self._latency_max = 0.0
        metrics = {f"reward/{key}/mean": sums[key] / counts[key] for key in _MEANS if counts[key]}
        if counts["latency_s"]:
            metrics["reward/latency_s/max"] = latency_max
        if counts["reason"]:
            names = [f"reason_{reason.name.lower()}" for reason in Reason]
            metrics |= {f"reward/{name}/mean": sums[name] / counts["reason"] for name in names}
        return metrics


def batch_metrics(columns: Mapping[str, Sequence[Any]]) -> dict[str, float]:
    """The same metrics, but for the score, from the columns of a batch (verl's reward_extra_info, as lists or arrays).

    Columns that are absent, and entries that are None, are left out.
    """
    counters = Counters()
    names = [key for key in columns if key != "score"]
    for values in itertools.zip_longest(*(columns[key] for key in names)):
        counters.add(dict(zip(names, values, strict=True)))
    return counters.snapshot()
