"""Countdown problems, and the chains of search that the warm start imitates.

A problem gives three or four numbers of 1 to 12 and a target of 1 to 60, to be reached with + - * and each number used once:

    3,5,7:38   ->   3+5=8*7=56;5*7=35+3=38;\\boxed{(5*7)+3}

The writer tries: he takes the numbers in some order with some operations, from left to right, writing each intermediate value down; where the
end is not the target he begins another try after `;`. A try that he ends with the target is his answer; after some tries he gives up and boxes
the last one. He has a nose (a share of his tries are solutions, which no look at the problem can give away entirely) and he errs.
The *forks* are the tokens at which a try's numbers and operations are chosen. All randomness comes from seeds.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from examples.countdown.reward import read_problem

OPERATORS = "+-*"
NUMBERS = range(1, 13)
LARGEST = 60  # of any value on the way; none is below 0
LEVELS = (3, 4)  # how many numbers

# A problem belongs to exactly one split, decided by a hash of its numbers, whatever their order, and its target.
SPLITS = (("warm", 0.5), ("train", 0.3), ("validation", 0.1), ("test", 0.1))

Try = tuple[tuple[int, ...], tuple[str, ...]]  # numbers in an order, and the operations between them


@dataclass(frozen=True)
class Problem:
    """`text` is what the model reads, such as `3,5,7:38`."""

    text: str

    def __post_init__(self) -> None:
        read_problem(self.text)

    @property
    def numbers(self) -> list[int]:
        return read_problem(self.text)[0]

    @property
    def target(self) -> int:
        return read_problem(self.text)[1]

    @property
    def level(self) -> int:
        """How many numbers."""
        return len(self.numbers)


@dataclass(frozen=True)
class Habits:
    """The writer whom the warm start imitates; all are probabilities."""

    nose: float = 0.25  # a try is a solution, drawn from all of them
    go_on: float = 0.80  # after a try that failed
    error: float = 0.02  # a written value is wrong

    def __post_init__(self) -> None:
        for name in ("nose", "go_on", "error"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")


def apply(value: int, operator: str, operand: int) -> int | None:
    """One operation; None where the result is below 0 or above `LARGEST`."""
    result = {"+": value + operand, "-": value - operand, "*": value * operand}[operator]
    return result if 0 <= result <= LARGEST else None


def outcome(numbers: Sequence[int], operators: Sequence[str]) -> int | None:
    """Value of a try, from left to right; None where a value on the way leaves its range."""
    value: int | None = numbers[0]
    for operator, operand in zip(operators, numbers[1:], strict=True):
        value = apply(value, operator, operand)
        if value is None:
            return None
    return value


@lru_cache(maxsize=4096)
def solutions(numbers: tuple[int, ...], target: int) -> tuple[Try, ...]:
    """All tries that reach the target, in a fixed order."""
    tries = itertools.product(sorted(set(itertools.permutations(numbers))), itertools.product(OPERATORS, repeat=len(numbers) - 1))
    return tuple((order, operators) for order, operators in tries if outcome(order, operators) == target)


def expression(numbers: Sequence[int], operators: Sequence[str]) -> str:
    """A try as an ordinary expression: ((5*7)+3)-2."""
    text = str(numbers[0])
    for i, (operator, operand) in enumerate(zip(operators, numbers[1:], strict=True)):
        text = f"({text})" if i else text
        text += f"{operator}{operand}"
    return text


def chain(problem: Problem, habits: Habits, rng: random.Random, max_tries: int = 4) -> str:
    """Write one chain of tries with its `\\boxed{}` answer."""
    known = solutions(tuple(problem.numbers), problem.target)
    parts: list[str] = []
    while True:
        if known and rng.random() < habits.nose:
            numbers, operators = rng.choice(known)
        else:
            numbers, operators = _random_try(problem.numbers, rng)
        text, value = str(numbers[0]), numbers[0]
        for operator, operand in zip(operators, numbers[1:], strict=True):
            after = apply(value, operator, operand)
            if after is None:  # after an error of his own a value may leave the range
                after = value
            if rng.random() < habits.error:
                after = rng.randrange(LARGEST + 1)
            text += f"{operator}{operand}={after}"
            value = after
        parts.append(f"{text};")
        if value == problem.target or len(parts) >= max_tries or rng.random() >= habits.go_on:
            return "".join(parts) + f"\\boxed{{{expression(numbers, operators)}}}"


def _random_try(numbers: Sequence[int], rng: random.Random) -> Try:
    """An order and operations whose values all stay in range."""
    while True:
        order = rng.sample(numbers, len(numbers))
        operators = [rng.choice(OPERATORS) for _ in order[1:]]
        if outcome(order, operators) is not None:
            return tuple(order), tuple(operators)


def split_of(problem: Problem) -> str:
    """The one split that a problem belongs to, whatever the seed and the order of its numbers."""
    key = f"{','.join(map(str, sorted(problem.numbers)))}:{problem.target}"
    point = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") / 2**64
    for name, share in SPLITS:
        if point < share:
            return name
        point -= share
    return SPLITS[-1][0]


def draw(rng: random.Random, level: int) -> Problem:
    """A random problem that has a solution: the target is where a random try ends, 1 or more."""
    while True:
        numbers = [rng.choice(NUMBERS) for _ in range(level)]
        target = outcome(*_random_try(numbers, rng))
        if target:
            return Problem(f"{','.join(map(str, numbers))}:{target}")


def problems(split: str, count: int, levels: Sequence[int] = LEVELS, seed: int = 0) -> list[Problem]:
    """`count` problems of one split, the levels in turn; no two have the same numbers and target.

    Raises:
        ValueError: an unknown split, a level below 2, or a split with fewer problems.
    """
    if split not in dict(SPLITS):
        raise ValueError(f"unknown split {split!r}; expected one of {[name for name, _ in SPLITS]}")
    if not levels or min(levels) < 2:
        raise ValueError(f"levels must be at least 2, got {tuple(levels)}")
    rng = random.Random(f"countdown:{seed}:{split}")
    seen: set[tuple[tuple[int, ...], int]] = set()
    found: list[Problem] = []
    while len(found) < count:
        level = levels[len(found) % len(levels)]
        for _ in range(10_000):
            problem = draw(rng, level)
            key = (tuple(sorted(problem.numbers)), problem.target)
            if key not in seen and split_of(problem) == split:
                break
        else:
            raise ValueError(f"split {split!r} has too few problems of level {level}: {len(found)} of {count} found")
        seen.add(key)
        found.append(problem)
    return found
