"""Every setting of the maths reward: its default, its unit, its check.

Flat and of scalars only, so that the same names serve as verl overrides (``reward.custom_reward_function.reward_kwargs.<name>=...``),
as keyword arguments of `score`, and as flags of ``erpo score``. docs/reward.md explains every policy case by case.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from erpo_verl.settings import Settings, SettingsError, setting


class RewardConfigError(SettingsError):
    """A setting is unknown, of the wrong type, or out of range."""


def _choice(default: str, *others: str, help: str) -> Any:
    return setting(default, str, help, choices=(default, *others))


def _number(default: float, low: float, high: float, help: str) -> Any:
    return setting(default, type(default), help, at_least=low, at_most=high, whole_floats=True)


@dataclass(frozen=True)
class RewardConfig(Settings, error=RewardConfigError):
    """Settings of the judge. Defaults are the documented policy; every field is checked at construction.

    Raises:
        RewardConfigError: a value has the wrong type or lies out of its range.
    """

    # -- which part of the response is the answer
    answer_forms: str = _choice(
        "boxed", "marked", "any", help="boxed: \\boxed{} alone; marked: only 'Answer: 7' and the like; any: a box, else what is marked"
    )
    several_boxes: str = _choice("auto", "last", help="auto: the last; of boxes side by side all, which is right where the gold is a list")
    unclosed_think: str = _choice("zero", "ignore", help="a <think> that is never closed: score 0, or read on")
    require_think: bool = setting(False, bool, "a response without </think> scores 0 (the template opened <think>)")

    # -- how strictly an answer is compared
    tasks: str = _choice("refuse", "compute", help="an integral, sum, limit or derivative left standing where the gold has none")
    chains: str = _choice("all_sides", "refuse", help="'a = b = c': right only if every value is right, or never")
    units: str = _choice("optional", "required", "ignore", help="a unit that the gold has and the answer lacks")
    counted_nouns: str = _choice("known", "any", help="what may be counted behind a number: listed nouns, or any one word")
    percent: str = _choice("lenient", "strict", help="lenient: 50%, 50 and 0.5 all meet a gold of 50%")
    bases: str = _choice("lenient", "strict", help="lenient: a base that the gold has may be left out")
    lists: str = _choice("unordered", "ordered", help="whether the order of a bare list such as 1, 2 matters")
    tuple_brackets: str = _choice("optional", "required", help="whether 1, 2 meets a gold of (1, 2)")
    relations: str = _choice("as_sets", "same_form", help="as_sets: 1 < x < 2 also meets a gold of (1, 2)")
    approximations: str = _choice("rational", "any", help="which golds a decimal may approximate: fractions, or roots and pi too")
    rel_tol: float = _number(1e-6, 0.0, 0.1, "relative tolerance where a decimal is involved; integers are exact")

    # -- what a verdict is worth
    score_right: float = _number(1.0, -1e6, 1e6, "score of a right answer")
    score_wrong: float = _number(0.0, -1e6, 1e6, "score of any other answer")
    format_bonus: float = _number(0.0, -1e6, 1e6, "added where the response is well formed (closed think, closed box)")
    overlong_limit: int = _number(0, 0, 10**9, "longest response without penalty is limit - buffer; 0 turns it off")
    overlong_buffer: int = _number(0, 0, 10**9, "length over which the penalty grows from 0 to overlong_penalty")
    overlong_penalty: float = _number(1.0, 0.0, 1e6, "what is taken off at overlong_limit and beyond")
    overlong_unit: str = _choice("chars", "tokens", help="'tokens' reads extra_info['response_length']")

    # -- bounds that are checked before anything is parsed
    max_scan_chars: int = _number(200_000, 100, 10**8, "only this many last characters are searched for boxes")
    max_answer_chars: int = _number(1000, 1, 100_000, "longest answer that is looked at, in characters")
    max_gold_chars: int = _number(4000, 1, 100_000, "longest reference answer, in characters")
    max_nesting: int = _number(20, 1, 200, "deepest nesting of brackets and braces in an answer")
    max_digits: int = _number(200, 1, 4000, "longest run of digits in an answer that is computed with")
    max_exponent: int = _number(10_000, 1, 10**9, "largest number right after ^ or before ! that is computed with")

    # -- the worker processes
    workers: int = _number(2, 1, 256, "worker processes of this process; as many more help out behind slow answers")
    time_limit_s: float = _number(3.0, 0.05, 600.0, "seconds one answer may take in a worker, from its dispatch on")
    overload_factor: float = _number(4.0, 1.0, 100.0, "on a machine so busy that a worker gets no processor: longest wait, in time limits")
    memory_limit_mb: int = _number(1024, 256, 1 << 20, "address space of one worker in MiB")
    recycle_after: int = _number(1000, 1, 10**9, "answers after which a worker is replaced by a fresh one")
    recycle_rss_mb: int = _number(300, 64, 1 << 20, "resident MiB above which a worker is replaced by a fresh one")
    prestart: bool = setting(True, bool, "load math-verify with the first response, and not with the first hard answer")
    start_limit_s: float = _number(120.0, 1.0, 3600.0, "seconds that loading math-verify may take")
    crash_retries: int = _number(1, 0, 5, "how often an answer is tried again after its worker died (not: timed out)")
    cache_size: int = _number(16_384, 0, 10**8, "verdicts that are remembered; 0 turns the cache off")

    def together(self) -> Iterator[str]:
        """Settings that are right one by one and do not fit together."""
        if self.overlong_buffer > self.overlong_limit:
            yield "overlong_buffer must not exceed overlong_limit"

    def policy(self) -> dict[str, Any]:
        """What the workers need of it: the settings that decide what is right."""
        return {name: getattr(self, name) for name in _POLICY_FIELDS}


_POLICY_FIELDS = (
    "tasks", "chains", "units", "counted_nouns", "percent", "bases", "lists", "tuple_brackets", "relations", "approximations", "rel_tol",
    "max_digits", "max_exponent",
)  # fmt: skip
