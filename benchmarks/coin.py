"""A reward that costs nothing and leaves a stated share of groups uniform, for benchmarks with random models.

Half of the prompts (by their gold) are right or wrong whatever the response, so that their groups carry no gradient; in the other half a
response is right or wrong by its own text. Deterministic, and the same for every engine.
"""

from __future__ import annotations

import zlib

UNIFORM_SHARE = 0.5


def _coin(text: str) -> bool:
    return zlib.crc32(text.encode()) & 64 > 0


def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: object = None, **_: object) -> float:
    return float(_coin("the same " + ground_truth)) if _coin(ground_truth) else float(_coin(solution_str))
