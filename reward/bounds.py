"""Bounds on an answer, checked in linear time before anything parses or computes it."""

from __future__ import annotations

import re

from .config import RewardConfig
from .verdict import Reason

_DIGITS = re.compile(r"\d+")
_POWER = re.compile(r"\^\{?-?(\d+)")
_FACTORIAL = re.compile(r"(\d+)\}?\)?!")
_MAX_FACTORIAL = 1000
_MAX_POWERS = 40  # carets in one answer
_MAX_COMMANDS = 12  # sums, products, integrals, binomials and factorials


def answer_problem(answer: str, config: RewardConfig) -> Reason | None:
    """Why a raw answer is not even looked at: too long, or nested too deeply."""
    if len(answer) > config.max_answer_chars:
        return Reason.TOO_LONG
    depth = deepest = 0
    for char in answer:
        if char in "{([":
            depth += 1
            deepest = max(deepest, depth)
        elif char in "})]":
            depth = max(0, depth - 1)
    return Reason.TOO_DEEP if deepest > config.max_nesting else None


def computing_problem(body: str, config: RewardConfig) -> Reason | None:
    """Why a cleaned answer is not computed with: digits without end, huge powers, towers of powers, factorials."""
    if any(len(run) > config.max_digits for run in _DIGITS.findall(body)):
        return Reason.TOO_MANY_DIGITS
    if any(len(run) > 18 or int(run) > config.max_exponent for run in _POWER.findall(body)):
        return Reason.TOO_LARGE_POWER
    if any(len(run) > 6 or int(run) > min(_MAX_FACTORIAL, config.max_exponent) for run in _FACTORIAL.findall(body)):
        return Reason.TOO_LARGE_POWER
    if body.count("^") > _MAX_POWERS or "!!" in body or _tower(body) > 2:
        return Reason.TOO_LARGE_POWER
    if sum(body.count(name) for name in (r"\sum", r"\prod", r"\int", r"\binom", "!")) > _MAX_COMMANDS:
        return Reason.TOO_LARGE_POWER
    return None


def _tower(body: str) -> int:
    """The deepest nesting of exponents in exponents; a caret right behind an exponent counts as one level more."""
    stack: list[bool] = []
    level = deepest = 0
    chained = 0
    for place, char in enumerate(body):
        if char == "^":
            chained += 1
            deepest = max(deepest, level + chained)
        elif char == "{":
            is_power = place > 0 and body[place - 1] == "^"
            stack.append(is_power)
            level += is_power
            if is_power:
                chained = 0
        elif char == "}" and stack:
            was_power = stack.pop()
            level -= was_power
            chained = 1 if was_power else chained
        elif char in "+-,;=&()":
            chained = 0
    return deepest
