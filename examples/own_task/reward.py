"""A task of one's own, part 2: the reward. Both engines call it by `reward.custom_reward_function.path` and `.name`.

It may be a plain function or an `async def`. It returns a number, or a mapping with `score` and whatever else should be logged: the
same keys every time. `acc` (0 or 1) is what validation counts, `pred` what majority votes are taken on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: Mapping[str, Any] | None = None, *, partial: float = 0.5
) -> dict[str, float | str]:
    """1 for the right order; for the right words in another order `partial` times the share of words in their place.

    `partial` comes from `reward.custom_reward_function.reward_kwargs.partial`.
    """
    answer, right = solution_str.lower().replace(",", " ").split(), ground_truth.split()
    in_place = sum(a == b for a, b in zip(answer, right, strict=False)) / len(right)
    if answer == right:
        score = 1.0
    elif sorted(answer) == sorted(right):
        score = partial * in_place
    else:
        score = 0.0
    return {"score": score, "acc": float(answer == right), "pred": " ".join(answer)}
