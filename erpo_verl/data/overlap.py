"""Problems of one set that stand in another: the check that keeps test questions out of a training set.

Two findings, of different weight:

    same  equal after normalisation (`normalize.normal_form`: blanks, case, punctuation, LaTeX spacing do not count)
    near  a rewording or a sibling: at least half of the other problem's runs of 5 tokens stand in this one (and 8
          of them), all numbers (figures and words) are the same ones, and the drawings ([asy] code), if both have one, are the same

The numbers part a rewording from one more exercise of the same make. What is left over as a false alarm is a sibling
with the same numbers that asks for something else ("Find cos C", "Find cos A"); docs/data.md has the measured counts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from erpo_verl.data.normalize import digest, tokens

RUN = 5  # tokens
SHARE = 0.5  # of the other problem's runs
SHARED_RUNS = 8
_WORDS = frozenset(
    ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "twenty", "thirty", "forty",
     "fifty", "hundred", "thousand", "half"]
)  # fmt: skip
_DRAWING = re.compile(r"\[asy\].*?(?:\[/asy\]|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Match:
    """What a problem was found to be: `kind` ('same' or 'near'), the other's source and row, and the share of its runs."""

    kind: str
    source: str
    row: int
    share: float


@dataclass(frozen=True)
class _Other:
    source: str
    row: int
    numbers: tuple[str, ...]
    drawings: tuple[str, ...]
    runs: int


@dataclass
class OverlapIndex:
    """The problems to look for. `add` them all, then `find` any number of others."""

    others: list[_Other] = field(default_factory=list)
    keys: dict[str, int] = field(default_factory=dict)
    runs: dict[tuple[str, ...], list[int]] = field(default_factory=dict)

    def add(self, source: str, row: int, problem: str) -> None:
        """Add a problem, which is row `row` of `source`."""
        found, numbers, drawings = _read(problem)
        place = len(self.others)
        self.others.append(_Other(source, row, numbers, drawings, len(found)))
        self.keys.setdefault(digest(problem), place)
        for run in found:
            self.runs.setdefault(run, []).append(place)

    def find(self, problem: str) -> Match | None:
        """The strongest match of `problem`, None where there is none. Of equal ones the first that was added."""
        place = self.keys.get(digest(problem))
        if place is not None:
            other = self.others[place]
            return Match("same", other.source, other.row, 1.0)
        found, numbers, drawings = _read(problem)
        shared: Counter[int] = Counter()
        for run in found:
            shared.update(self.runs.get(run, ()))
        best: tuple[float, int] | None = None
        for place, count in shared.items():
            other = self.others[place]
            if count < SHARED_RUNS or count < SHARE * other.runs or numbers != other.numbers:
                continue
            if drawings and other.drawings and drawings != other.drawings:
                continue
            best = max(best or (-1.0, 0), (count / other.runs, -place))
        if best is None:
            return None
        other = self.others[-best[1]]
        return Match("near", other.source, other.row, round(best[0], 3))


def _read(problem: str) -> tuple[set[tuple[str, ...]], tuple[str, ...], tuple[str, ...]]:
    """(runs of tokens, sorted numbers, drawings) of a problem; drawings count for neither of the first two."""
    words = tokens(_DRAWING.sub(" ", problem))
    runs = {tuple(words[i : i + RUN]) for i in range(len(words) - RUN + 1)}
    drawings = tuple(digest(drawing) for drawing in _DRAWING.findall(problem))
    return runs, tuple(sorted(word for word in words if word[0].isdigit() or word in _WORDS)), drawings


def build_index(sources: Iterable[tuple[str, Iterable[tuple[int, str]]]]) -> tuple[OverlapIndex, dict[str, int]]:
    """An index of (name, rows) sources, a row being (number, problem); and how many problems each has."""
    index, counts = OverlapIndex(), {}
    for name, rows in sources:
        counts[name] = counts.get(name, 0)
        for number, problem in rows:
            index.add(name, number, problem)
            counts[name] += 1
    return index, counts
