"""Reward of the arithmetic task, in verl's signature: is the last `\\boxed{}` the right answer?

Give it to verl with `reward.custom_reward_function.path=examples/arithmetic/reward_fn.py`.
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import Any

from math_verify import parse, verify

_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_LONGEST = 16  # characters; answers are digits, and sympy can take for ever on a wild `9**9**9`


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any] | None = None, **kwargs: Any
) -> dict[str, Any]:
    """`score` and `acc` are 1.0 or 0.0; `pred` is the text in the last box, "" if there is none."""
    found = _BOXED.findall(solution_str)
    pred = found[-1].strip() if found else ""
    right = float(_equal(pred, str(ground_truth)))
    return {"score": right, "acc": right, "pred": pred}


# math-verify warns that its timeouts are off; see _equal.
for _name in ("math_verify.parser", "math_verify.grader"):
    logging.getLogger(_name).setLevel(logging.ERROR)


@lru_cache(maxsize=4096)
def _equal(pred: str, truth: str) -> bool:
    if not pred or len(pred) > _LONGEST or "**" in pred:
        return False
    # No timeouts: math-verify's use signals, which work in the main thread alone, and verl calls from other threads.
    gold, answer = (parse(f"\\boxed{{{text}}}", parsing_timeout=None) for text in (truth, pred))
    return bool(verify(gold, answer, timeout_seconds=None))
