"""One-step word problems, with one worked example before the question: what a model of 135 million parameters solves sometimes.

A problem's level is the number of its steps: 1 in training, 2 in the set beyond. Each belongs to one split by a hash of its text.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

NAMES = ("Anna", "Ben", "Carla", "Daniel", "Emma", "Felix", "Grace", "Henry", "Ida", "Jack", "Kate", "Leo", "Maya", "Noah", "Olga", "Paul")
THINGS = ("apples", "books", "coins", "eggs", "marbles", "pencils", "shells", "stamps", "stickers", "toys")
BOXES = ("bags", "boxes", "baskets", "jars")

SPLITS = (("train", 0.7), ("validation", 0.1), ("test", 0.2))

EXAMPLE = [
    {"role": "user", "content": "Tom has 5 pens. He buys 3 more. How many pens does he have now? Give the answer in \\boxed{}."},
    {"role": "assistant", "content": "Tom has 5 + 3 = 8 pens. The answer is \\boxed{8}."},
]


@dataclass(frozen=True)
class Problem:
    """`text` is the question; `answer` a number >= 0."""

    text: str
    answer: int
    level: int

    @property
    def messages(self) -> list[dict[str, str]]:
        """The worked example, then the question."""
        return [*EXAMPLE, {"role": "user", "content": f"{self.text} Give the answer in \\boxed{{}}."}]


def draw(rng: random.Random, level: int = 1) -> Problem:
    """A random problem of one or two steps.

    Raises:
        ValueError: another level.
    """
    if level not in (1, 2):
        raise ValueError(f"level {level}: problems have 1 or 2 steps")
    name, thing, box = rng.choice(NAMES), rng.choice(THINGS), rng.choice(BOXES)
    a, b = rng.randrange(3, 40), rng.randrange(2, 20)
    kind = rng.randrange(3)
    if kind == 0:
        text, value = f"{name} has {a} {thing} and gets {b} more.", a + b
    elif kind == 1:
        a = max(a, b + 1)
        text, value = f"{name} has {a} {thing} and gives away {b} of them.", a - b
    else:
        a, b = rng.randrange(2, 10), rng.randrange(2, 10)
        text, value = f"{name} has {a} {box} with {b} {thing} in each.", a * b
    if level == 2:
        more = rng.randrange(2, 10)
        if rng.random() < 0.5 and value > more:
            text, value = f"{text} Then {name} loses {more} {thing}.", value - more
        else:
            text, value = f"{text} Then {name} finds {more} {thing}.", value + more
    return Problem(f"{text} How many {thing} does {name} have now?", value, level)


def split_of(problem: Problem) -> str:
    """The one split that a problem belongs to."""
    point = int.from_bytes(hashlib.blake2b(problem.text.encode(), digest_size=8).digest(), "big") / 2**64
    for name, share in SPLITS:
        if point < share:
            return name
        point -= share
    return SPLITS[-1][0]


def problems(split: str, count: int, level: int = 1, seed: int = 0) -> list[Problem]:
    """`count` different problems of one split."""
    if split not in dict(SPLITS):
        raise ValueError(f"unknown split {split!r}; expected one of {[name for name, _ in SPLITS]}")
    rng = random.Random(f"smollm2:{seed}:{split}:{level}")
    found: dict[str, Problem] = {}
    while len(found) < count:
        problem = draw(rng, level)
        if split_of(problem) == split:
            found.setdefault(problem.text, problem)
    return list(found.values())


def rows(split: str, chosen: Sequence[Problem]) -> list[dict]:
    """Rows in verl's schema."""
    return [
        {
            "data_source": "word_problems",
            "prompt": problem.messages,
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": str(problem.answer)},
            "extra_info": {"index": i, "id": f"word_problems/{split}/{i}", "split": split, "level": problem.level, "problem": problem.text},
        }
        for i, problem in enumerate(chosen)
    ]
