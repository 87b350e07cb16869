"""The reward of countdown: 1 where the boxed expression uses each given number exactly once and has the wanted value, else 0.

    reward.custom_reward_function.path=examples/countdown/reward.py

The ground truth is the problem itself, ``3,5,7:38``. Expressions are read by the parser below, with + - * /, brackets and exact fractions;
nothing of a response is ever executed.
"""

from __future__ import annotations

import re
from fractions import Fraction

LONGEST = 200  # characters of an expression that are looked at
DEEPEST = 20  # brackets within brackets
_TOKEN = re.compile(r"\s*(?:([0-9]{1,6})|([-+*/()]))")
_PROBLEM = re.compile(r"[0-9]+(,[0-9]+)+:[0-9]+")


class NoValue(ValueError):
    """A text is no expression, or has no value."""


def value_of(expression: str) -> tuple[Fraction, list[int]]:
    """Value of an expression, and the numbers in it from left to right.

    Numbers are whole and have no sign; * and / go before + and -, each from left to right.

    Raises:
        NoValue: not an expression, longer or deeper than allowed, or a division by zero.
    """
    if len(expression) > LONGEST:
        raise NoValue(f"longer than {LONGEST} characters")
    tokens: list[str] = []
    place, text = 0, expression.rstrip()
    while place < len(text):
        match = _TOKEN.match(text, place)
        if not match:
            raise NoValue(f"{text[place]!r} at character {place}")
        tokens.append(match[1] or match[2])
        place = match.end()
    numbers: list[int] = []
    value, end = _sum(tokens, 0, 0, numbers)
    if end != len(tokens):
        raise NoValue(f"{tokens[end]!r} where the expression should end")
    return value, numbers


def _sum(tokens: list[str], at: int, depth: int, numbers: list[int]) -> tuple[Fraction, int]:
    value, at = _product(tokens, at, depth, numbers)
    while at < len(tokens) and tokens[at] in "+-":
        sign = tokens[at]
        other, at = _product(tokens, at + 1, depth, numbers)
        value = value + other if sign == "+" else value - other
    return value, at


def _product(tokens: list[str], at: int, depth: int, numbers: list[int]) -> tuple[Fraction, int]:
    value, at = _atom(tokens, at, depth, numbers)
    while at < len(tokens) and tokens[at] in "*/":
        sign = tokens[at]
        other, at = _atom(tokens, at + 1, depth, numbers)
        if sign == "/" and other == 0:
            raise NoValue("a division by zero")
        value = value * other if sign == "*" else value / other
    return value, at


def _atom(tokens: list[str], at: int, depth: int, numbers: list[int]) -> tuple[Fraction, int]:
    if at >= len(tokens):
        raise NoValue("it ends where a number should be")
    if tokens[at] == "(":
        if depth == DEEPEST:
            raise NoValue(f"more than {DEEPEST} brackets within brackets")
        value, at = _sum(tokens, at + 1, depth + 1, numbers)
        if at >= len(tokens) or tokens[at] != ")":
            raise NoValue("a bracket is not closed")
        return value, at + 1
    if not tokens[at].isdigit():
        raise NoValue(f"{tokens[at]!r} where a number should be")
    numbers.append(int(tokens[at]))
    return Fraction(int(tokens[at])), at + 1


def read_problem(text: str) -> tuple[list[int], int]:
    """Numbers and target of ``3,5,7:38``.

    Raises:
        ValueError: not a problem.
    """
    if not isinstance(text, str) or not _PROBLEM.fullmatch(text):
        raise ValueError(f"not a countdown problem: {text!r}; expected numbers and a target, such as '3,5,7:38'")
    numbers, _, target = text.partition(":")
    return [int(number) for number in numbers.split(",")], int(target)


def boxed(response: str) -> str | None:
    """What stands in the last \\boxed{}; None where there is none or it is not closed."""
    start = response.rfind("\\boxed{")
    end = response.find("}", start) if start >= 0 else -1
    return response[start + len("\\boxed{") : end] if end >= 0 else None


def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: dict | None = None) -> dict:
    """score and acc (1.0 or 0.0), pred (the expression, "" where there is none).

    Raises:
        ValueError: the ground truth is not a problem.
    """
    numbers, target = read_problem(ground_truth)
    expression = boxed(solution_str)
    try:
        value, used = value_of(expression or "")
        right = float(value == target and sorted(used) == sorted(numbers))
    except NoValue:
        right = 0.0
    return {"score": right, "acc": right, "pred": expression or "", "ungradeable": 0.0}
