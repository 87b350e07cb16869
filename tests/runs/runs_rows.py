"""Rows of a dump of rollouts, for the tests of `runs` and of `reports`."""

from __future__ import annotations


def row(uid: str = "u", sample: int = 0, right: bool = True, tokens=("a", "b"), **values) -> dict:
    """A response of the rollouts file, with numbers for each token."""
    n = len(tokens)
    numbers = {
        "entropy": [0.5 * i for i in range(n)], "z": [float(i) - 0.5 for i in range(n)], "gate": [0.25] * n, "progress": [0.0] * n,
        "progress_normalised": [-1.0] * n, "advantage": [0.5 if right else -0.5] * n, "old_log_prob": [-1.0] * n,
        "ref_log_prob": [-1.25] * n,
    }  # fmt: skip
    return {
        "step": 3, "uid": uid, "sample": sample, "data_source": "arithmetic", "prompt": "1+1=", "response": "".join(tokens), "gold": "2",
        "score": float(right), "acc": float(right), "reason": "", "pred": "2" if right else "3", "length": n, "finished": True,
        "outcome_advantage": 1.0 if right else -1.0, "token_ids": list(range(n)), "tokens": list(tokens), "bucket": [0] * n,
        **numbers, **values,
    }  # fmt: skip
