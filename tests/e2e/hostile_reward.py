"""A reward for verl whose policy has gone mad: every fourth response is swapped for a hostile one before it is judged."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "reward"))

from erpo_verl.reward import compute_score as judge
from reward_hostile import BOMBS

_turn = itertools.cycle(range(4))
_bombs = itertools.cycle(BOMBS.values())


async def compute_score(data_source, solution_str, ground_truth, extra_info=None, **settings):
    if next(_turn) == 0:
        return await judge(data_source, rf"\boxed{{{next(_bombs)}}}", "42", extra_info, time_limit_s=1.0)
    return await judge(data_source, solution_str, ground_truth, extra_info, time_limit_s=1.0)
