"""What the judge says about one answer: a reason code and the flat dict that verl, the trainer and files carry."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Reason(IntEnum):
    """Why an answer got its verdict. The numbers are part of the interface (they travel as floats); never renumber."""

    RIGHT = 0  # meets the gold
    WRONG = 1  # readable, and does not meet the gold
    NO_BOX = 2  # no closed \boxed{} (nor a marker, where markers are allowed)
    UNCLOSED_THINK = 3  # a <think> was never closed, or </think> is required and absent
    TRUNCATED = 4  # the only box was opened and never closed
    EMPTY = 5  # the box holds nothing
    TOO_LONG = 6  # the answer has more characters than max_answer_chars
    TOO_DEEP = 7  # brackets nested deeper than max_nesting
    TOO_MANY_DIGITS = 8  # a run of digits longer than max_digits
    TOO_LARGE_POWER = 9  # an exponent or factorial beyond max_exponent, or a tower of powers
    PROSE = 10  # words that are no unit, or a hedge
    CHAIN = 11  # an equation chain whose sides are not all right
    SEVERAL_BOXES = 12  # boxes that differ stand on one line, and are no list
    UNITS_DIFFER = 13  # another unit, base or (where required) no unit
    UNREADABLE = 14  # math-verify cannot parse the answer
    GOLD_UNREADABLE = 15  # the reference answer is empty or cannot be parsed
    TIMEOUT = 16  # took longer than time_limit_s
    MEMORY = 17  # needed more than memory_limit_mb
    CRASHED = 18  # the worker died (and so did its retries)
    FAILED = 19  # the comparison raised an error
    BAD_INPUT = 20  # the response is not a string, or the row cannot be read
    UNSOLVED = 21  # the box holds the task: an integral, a sum, a limit that is left to be done


REFUSALS = frozenset(
    {
        Reason.TOO_LONG, Reason.TOO_DEEP, Reason.TOO_MANY_DIGITS, Reason.TOO_LARGE_POWER,
        Reason.PROSE, Reason.CHAIN, Reason.SEVERAL_BOXES, Reason.UNSOLVED,
    }
)  # fmt: skip
# Neither right nor wrong: the data's or the judge's fault. Such a response's group is to be left out of the advantages.
UNGRADEABLE = frozenset({Reason.GOLD_UNREADABLE, Reason.FAILED, Reason.CRASHED})
KILLED = frozenset({Reason.TIMEOUT, Reason.MEMORY, Reason.CRASHED})
# These depend on the machine's mood and not on the answer alone: they are never remembered.
NOT_CACHED = frozenset({Reason.TIMEOUT, Reason.MEMORY, Reason.CRASHED, Reason.FAILED})


@dataclass(frozen=True)
class Verdict:
    """The judge's word on one (gold, answer) pair.

    Attributes:
        reason: why; `Reason.RIGHT` is the only right verdict.
        pred: the answer in canonical form (equal answers give equal strings as far as that is cheap), for majority votes.
        fast: decided without a worker.
        cached: taken from the verdict cache.
    """

    reason: Reason
    pred: str = ""
    fast: bool = True
    cached: bool = False

    @property
    def right(self) -> bool:
        return self.reason is Reason.RIGHT


# The keys of every result, in order. All values are floats but `pred`, which is a string of at most PRED_CHARS.
KEYS = (
    "score", "acc", "pred", "reason", "fast_path", "cached", "timed_out", "killed", "no_box", "truncated", "refused",
    "gold_unreadable", "ungradeable", "format_ok", "overlong_penalty", "latency_s",
)  # fmt: skip
PRED_CHARS = 200


def as_dict(
    verdict: Verdict, *, score: float, truncated: bool, format_ok: bool, overlong_penalty: float, latency_s: float
) -> dict[str, float | str]:
    """The flat result of one response, with exactly the keys `KEYS`."""
    reason = verdict.reason
    return {
        "score": float(score),
        "acc": float(verdict.right),
        "pred": verdict.pred[:PRED_CHARS],
        "reason": float(reason),
        "fast_path": float(verdict.fast),
        "cached": float(verdict.cached),
        "timed_out": float(reason is Reason.TIMEOUT),
        "killed": float(reason in KILLED),
        "no_box": float(reason is Reason.NO_BOX),
        "truncated": float(truncated),
        "refused": float(reason in REFUSALS),
        "gold_unreadable": float(reason is Reason.GOLD_UNREADABLE),
        "ungradeable": float(reason in UNGRADEABLE),
        "format_ok": float(format_ok),
        "overlong_penalty": float(overlong_penalty),
        "latency_s": float(latency_s),
    }

POLICY_VERSION = 3
"""Counts the judge's policies: raised with every change after which a verdict may come out otherwise under the same settings."""
