"""A reward that costs nothing and leaves a stated share of groups uniform, for benchmarks with random models.

Half of the reference answers (by a hash) are met or missed by every response, so that their groups carry no gradient; of the others
every second response in a row is right, whatever it says: a random model may well write the same text eight times. So a group of two or more
that is scored in one process is mixed, and half right where it has an even number, and the same for every engine.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter

UNIFORM_SHARE = 0.5  # of many different reference answers; a benchmark with few prompts tells the share that it had
_TURNS: Counter[str] = Counter()
_LOCK = threading.Lock()  # the trainer's judge calls from several threads


def _coin(text: str) -> bool:
    return hashlib.sha256(("answer " + text).encode()).digest()[0] % 2 == 0  # the prefix leaves five of the ten digits uniform


def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: object = None, **_: object) -> float:
    if _coin(ground_truth):
        return float(_coin("the same " + ground_truth))
    with _LOCK:
        _TURNS[ground_truth] += 1
        return float(_TURNS[ground_truth] % 2)
