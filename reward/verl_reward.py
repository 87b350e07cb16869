"""The reward function as verl calls it, and the same as a plain function.

verl loads it by package (`pkg://erpo_verl.reward`) or by this file's path; by path there is no parent package, so that
the imports here are absolute.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from erpo_verl.reward.config import RewardConfig
from erpo_verl.reward.judge import MathJudge, shared_judge

# What verl itself passes to every reward function under some configurations; the judge has no use for it.
_VERLS_OWN = frozenset(
    {"reward_router_address", "reward_model_tokenizer", "sandbox_fusion_url", "concurrent_semaphore"}
)


async def compute_score(
    data_source: Any,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping | None = None,
    **settings: Any,
) -> dict[str, float | str]:
    """The result of one response; every call returns the same keys (`erpo_verl.reward.KEYS`).

    Args:
        data_source: name of the data set; not used, since one judge serves all.
        solution_str: the response.
        ground_truth: the reference answer; see `MathJudge.score`.
        extra_info: verl's; see `MathJudge.score`. Its `answer_forms`, where a row has it, is the setting of that name unless that is given.
        settings: fields of `RewardConfig` (in verl: `reward.custom_reward_function.reward_kwargs.<field>`).

    Raises:
        RewardConfigError: an unknown or wrong setting.
        RewardSetupError: the workers cannot be started. Nothing that a model can write raises.
    """
    return await _judge(settings, extra_info).ascore(solution_str, ground_truth, extra_info)


def score(solution: str, gold: Any, extra_info: Mapping | None = None, **settings: Any) -> dict[str, float | str]:
    """`compute_score` for code without an event loop; blocks until the verdict is there."""
    return _judge(settings, extra_info).score(solution, gold, extra_info)


def _judge(settings: Mapping[str, Any], extra_info: Mapping | None) -> MathJudge:
    own = {key: value for key, value in settings.items() if key not in _VERLS_OWN}
    forms = extra_info.get("answer_forms") if isinstance(extra_info, Mapping) else None
    if forms is not None:
        own.setdefault("answer_forms", forms)
    return shared_judge(_config(tuple(sorted(own.items()))))


@lru_cache(maxsize=64)
def _config(settings: tuple[tuple[str, Any], ...]) -> RewardConfig:
    return RewardConfig.from_mapping(dict(settings))
