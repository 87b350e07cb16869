"""Counters and batch metrics: names that verl can reduce, values that add up."""

from __future__ import annotations

import threading

import pytest
from erpo_verl.reward import MathJudge, Reason, batch_metrics

RESPONSES = [
    (r"\boxed{1}", "1"),
    (r"\boxed{2}", "1"),
    ("1", "1"),
    (r"\boxed{1", "1"),
    (r"\boxed{maybe 1}", "1"),
    (r"\boxed{1}", ""),
]


def test_counters_add_up():
    judge = MathJudge()
    results = [judge.score(*pair) for pair in RESPONSES]
    metrics = judge.counters.snapshot()
    assert all(name.startswith("reward/") and name.endswith(("/mean", "/max")) for name in metrics)
    assert metrics["reward/acc/mean"] == pytest.approx(1 / 6)
    assert metrics["reward/no_box/mean"] == pytest.approx(1 / 6)
    assert metrics["reward/gold_unreadable/mean"] == pytest.approx(1 / 6)
    assert metrics["reward/refused/mean"] == pytest.approx(1 / 6)
    assert sum(metrics[f"reward/reason_{reason.name.lower()}/mean"] for reason in Reason) == pytest.approx(1.0)
    columns = {key: [result[key] for result in results] for key in results[0]}
    for name, value in batch_metrics(columns).items():
        assert metrics[name] == pytest.approx(value), name
    assert judge.counters.snapshot(reset=True) == metrics
    assert judge.counters.snapshot() == {}


def test_batches_with_gaps():
    assert batch_metrics({}) == {}
    assert batch_metrics({"acc": [1.0, None, 0.0], "uid": ["a", "b", "c"]}) == {"reward/acc/mean": 0.5}


def test_counting_from_many_threads():
    judge = MathJudge()
    threads = [threading.Thread(target=lambda: [judge.score(r"\boxed{1}", "1") for _ in range(200)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert judge.counters._counts["acc"] == 1600
    assert judge.counters.snapshot()["reward/acc/mean"] == 1.0
