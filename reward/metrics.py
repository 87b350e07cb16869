"""Counters of a judge, and metrics of a batch of results. Names end in /mean or /max, which verl reduces by."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from .verdict import Reason

_RATES = (
    "acc", "fast_path", "cached", "timed_out", "killed", "no_box", "truncated", "refused", "gold_unreadable", "ungradeable",
    "format_ok",
)  # fmt: skip


class Counters:
    """Counts the results of one judge in this process. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums: Counter[str] = Counter()
        self._latency_max = 0.0

    def add(self, result: Mapping[str, Any]) -> None:
        """Takes one result of the judge into account."""
        with self._lock:
            self._sums["results"] += 1
            self._sums["reason:" + Reason(int(result["reason"])).name.lower()] += 1
            for key in (*_RATES, "score", "latency_s", "overlong_penalty"):
                self._sums[key] += result[key]
            self._latency_max = max(self._latency_max, result["latency_s"])

    def snapshot(self, reset: bool = False) -> dict[str, float]:
        """Metrics since the start or the last reset: rates in [0, 1] as `reward/<key>/mean`, latency in seconds."""
        with self._lock:
            sums, latency_max = Counter(self._sums), self._latency_max
            if reset:
                self._sums.clear()
                self._latency_max = 0.0
        count = sums["results"]
        if not count:
            return {}
        metrics = {
            f"reward/{key}/mean": sums[key] / count for key in (*_RATES, "score", "latency_s", "overlong_penalty")
        }
        metrics["reward/latency_s/max"] = latency_max
        for reason in Reason:
            name = reason.name.lower()
            metrics[f"reward/reason_{name}/mean"] = sums["reason:" + name] / count
        return metrics

    def reinit_lock(self) -> None:
        """After a fork: the lock may have been held by a thread that does not exist here."""
        self._lock = threading.Lock()


def batch_metrics(columns: Mapping[str, Sequence[Any]]) -> dict[str, float]:
    """The same metrics from the columns of a batch (verl's reward_extra_info, as lists or arrays).

    Columns that are absent, and entries that are None, are left out.
    """
    metrics: dict[str, float] = {}
    for key in (*_RATES, "latency_s", "overlong_penalty"):
        values = [float(value) for value in columns.get(key, ()) if value is not None]
        if values:
            metrics[f"reward/{key}/mean"] = sum(values) / len(values)
            if key == "latency_s":
                metrics["reward/latency_s/max"] = max(values)
    reasons = [int(value) for value in columns.get("reason", ()) if value is not None]
    if reasons:
        counts = Counter(reasons)
        for reason in Reason:
            metrics[f"reward/reason_{reason.name.lower()}/mean"] = counts[int(reason)] / len(reasons)
    return metrics
