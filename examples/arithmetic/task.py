"""The arithmetic task: problems, and the chains of thought that the warm start imitates.

A problem of level n joins n single digits by + - * and is read strictly from left to right, modulo 10:

    3+4*5-2   ->   3+4=7, 7*5=5, 5-2=3   ->   \\boxed{3}

A chain may take each step in one of three ways, which differ in length and in reliability, and may check a step:

    restated   3+4=7;      6 characters an operation: all of it, rarely wrong
    concise    +47;        4 characters: operator, operand, result
    jump       +4*55;      6 characters for two operations: quick and often wrong
    re-check   ?3+4=7;     7 more characters after a step; the chain goes on with the value found here

The choice falls at the very first character and at the first one after each `;`: these are the chain's *forks*
(between concise and jump it falls after the operand).
All randomness comes from seeds, so the same seed gives the same problems and chains on every machine.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

OPERATORS = "+-*"
MODULUS = 10
STEP_END = ";"
LEVELS = (3, 4, 5, 6, 7, 8)

# A problem belongs to exactly one split, decided by a hash of its text: (split, its share of all problems).
# The warm start has problems of its own, so the start policy has not seen those it is then trained on.
SPLITS = (("warm", 0.5), ("train", 0.3), ("validation", 0.1), ("test", 0.1))

_PROBLEM = re.compile(r"\d([+\-*]\d)+")


@dataclass(frozen=True)
class Problem:
    """`text` is what the model reads, such as `3+4*5-2`."""

    text: str

    def __post_init__(self) -> None:
        if not _PROBLEM.fullmatch(self.text):
            raise ValueError(f"not a problem: {self.text!r}; expected single digits joined by + - *, such as '3+4*5'")

    @property
    def level(self) -> int:
        """Number of operands."""
        return (len(self.text) + 1) // 2

    @property
    def operations(self) -> list[tuple[str, int]]:
        """(operator, right operand) of each operation, in the order in which they are applied."""
        return [(self.text[i], int(self.text[i + 1])) for i in range(1, len(self.text), 2)]

    @property
    def answer(self) -> int:
        value = int(self.text[0])
        for operator, operand in self.operations:
            value = apply(value, operator, operand)
        return value


def apply(value: int, operator: str, operand: int) -> int:
    """One operation modulo 10; the result is a digit 0..9."""
    if operator == "+":
        return (value + operand) % MODULUS
    if operator == "-":
        return (value - operand) % MODULUS
    if operator == "*":
        return (value * operand) % MODULUS
    raise ValueError(f"unknown operator {operator!r}; expected one of {OPERATORS}")


@dataclass(frozen=True)
class Fork:
    """How often a way of taking a step is chosen (share in 0..1) and how often its result is wrong (0..1)."""

    share: float
    error: float


@dataclass(frozen=True)
class Habits:
    """The habits of the writer whom the warm start imitates. The shares of the three ways of stepping add up to 1."""

    restated: Fork = field(default_factory=lambda: Fork(0.35, 0.05))
    concise: Fork = field(default_factory=lambda: Fork(0.40, 0.12))
    jump: Fork = field(default_factory=lambda: Fork(0.25, 0.30))
    recheck: Fork = field(default_factory=lambda: Fork(0.10, 0.03))  # share: of steps that are checked

    def __post_init__(self) -> None:
        for name in ("restated", "concise", "jump", "recheck"):
            fork = getattr(self, name)
            if not (0 <= fork.share <= 1 and 0 <= fork.error <= 1):
                raise ValueError(f"{name}: share and error must be between 0 and 1, got {fork}")
        total = self.restated.share + self.concise.share + self.jump.share
        if abs(total - 1) > 1e-9:
            raise ValueError(f"the shares of restated, concise and jump must add up to 1, got {total}")

    @classmethod
    def from_mapping(cls, given: Any) -> Habits:
        """Habits from {"restated": {"share": ..., "error": ...}, ...}; ways that are not named keep their defaults.

        Raises:
            ValueError: an unknown name, a missing one of share and error, or a value that is no number of 0..1.
        """
        ways = ("restated", "concise", "jump", "recheck")
        if not isinstance(given, Mapping) or set(given) - set(ways):
            raise ValueError(f"habits must be a mapping of {', '.join(ways)} to {{share, error}}, got {given!r}")
        for name, fork in given.items():
            if not isinstance(fork, Mapping) or set(fork) != {"share", "error"}:
                raise ValueError(f"{name} must be {{share: ..., error: ...}}, got {fork!r}")
            if not all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in fork.values()):
                raise ValueError(f"{name}: share and error must be numbers, got {dict(fork)!r}")
        return cls(**{name: Fork(float(fork["share"]), float(fork["error"])) for name, fork in given.items()})

    def without_errors(self) -> Habits:
        """The same choices, never a wrong result."""
        return Habits(*(Fork(f.share, 0.0) for f in (self.restated, self.concise, self.jump, self.recheck)))


def chain(problem: Problem, habits: Habits, rng: random.Random, max_chars: int = 76) -> str:
    """Write one chain of thought with its `\\boxed{}` answer, at most `max_chars` long (by checking fewer steps)."""

    def result(true_value: int, error: float) -> int:
        return (true_value + rng.randrange(1, MODULUS)) % MODULUS if rng.random() < error else true_value

    value, operations, parts = int(problem.text[0]), problem.operations, []
    # What the rest may still need at most: six characters an operation and the answer.
    room = max_chars - 6 * len(operations) - len("\\boxed{0}")
    i = 0
    while i < len(operations):
        before, (operator, operand) = value, operations[i]
        way = rng.choices(
            ("restated", "concise", "jump"), (habits.restated.share, habits.concise.share, habits.jump.share)
        )[0]
        if way == "jump" and i + 1 < len(operations):
            after = apply(apply(before, operator, operand), *operations[i + 1])
            value = result(after, habits.jump.error)
            parts.append("".join(f"{o}{x}" for o, x in operations[i : i + 2]) + f"{value};")
            i += 2
            continue
        if way == "restated":
            value = result(apply(before, operator, operand), habits.restated.error)
            parts.append(f"{before}{operator}{operand}={value};")
        else:  # concise, also where only one operation is left to jump over
            value = result(apply(before, operator, operand), habits.concise.error)
            parts.append(f"{operator}{operand}{value};")
        if rng.random() < habits.recheck.share and room >= 7:
            room -= 7
            value = result(apply(before, operator, operand), habits.recheck.error)
            parts.append(f"?{before}{operator}{operand}={value};")
        i += 1
    return "".join(parts) + f"\\boxed{{{value}}}"


def split_of(problem: Problem) -> str:
    """The one split that a problem belongs to, whatever the seed: no seed's test set meets another's training."""
    digest = hashlib.blake2b(problem.text.encode(), digest_size=8).digest()
    point = int.from_bytes(digest, "big") / 2**64
    for name, share in SPLITS:
        if point < share:
            return name
        point -= share
    return SPLITS[-1][0]


def draw(rng: random.Random, level: int) -> Problem:
    """A random problem with `level` operands."""
    text = str(rng.randrange(MODULUS))
    for _ in range(level - 1):
        text += rng.choice(OPERATORS) + str(rng.randrange(MODULUS))
    return Problem(text)


def problems(split: str, count: int, levels: Sequence[int] = LEVELS, seed: int = 0) -> list[Problem]:
    """`count` different problems of one split, the levels in turn, so that any stretch is balanced over levels."""
    if split not in dict(SPLITS):
        raise ValueError(f"unknown split {split!r}; expected one of {[name for name, _ in SPLITS]}")
    if not levels or min(levels) < 2:
        raise ValueError(f"levels must be at least 2, got {tuple(levels)}")
    rng = random.Random(f"arithmetic:{seed}:{split}")
    seen: set[str] = set()
    found: list[Problem] = []
    while len(found) < count:
        level = levels[len(found) % len(levels)]
        for _ in range(10_000):
            problem = draw(rng, level)
            if problem.text not in seen and split_of(problem) == split:
                break
        else:
            raise ValueError(f"split {split!r} has too few problems of level {level}: {len(found)} of {count} found")
        seen.add(problem.text)
        found.append(problem)
    return found
