"""From a source's rows to problems: read, mended, chosen, without duplicates, each with an answer that the reward reads.

    rows -> problem text (mended) -> level, type -> answer (by the set's rule) -> duplicates -> [overlap] -> reward's check

Every row that does not arrive, and every change to one that does, is counted under a name of `rules.py`, with its
row number in the source (from 0).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from erpo_verl import golds
from erpo_verl.data.golds import GOLD_RULES, Given, same_value
from erpo_verl.data.mend import mend_text
from erpo_verl.data.normalize import digest, problem_id
from erpo_verl.data.rules import DROPS, MENDS
from erpo_verl.data.sets import ProblemSet, first_text, lookup
from erpo_verl.data.source import PrepareError
from erpo_verl.data.templates import strip_instruction

SHOWN_PLACES = 1000  # rows a rule that the record names; the count goes on
KNOWN_TEXTS = 200_000  # texts whose mended form is remembered while rows are read


@dataclass
class Problem:
    """One problem on its way: `row` is its place in the source, `key` the digest of its normal form."""

    row: int
    text: str
    key: str
    gold: str
    level: str | None
    type: str | None
    unit: str | None
    source_id: str | None
    rules: tuple[str, ...] = ()


@dataclass
class Counted:
    """How many rows fell under one rule, and the first of them, each with a remark."""

    count: int = 0
    places: list[tuple[int, str]] = field(default_factory=list)

    def add(self, row: int, remark: str = "") -> None:
        """Count one more row."""
        self.count += 1
        if len(self.places) < SHOWN_PLACES:
            self.places.append((row, remark))

    def take(self, row: int) -> str:
        """Take a counted row back; returns its remark."""
        self.count -= 1
        for place in self.places:
            if place[0] == row:
                self.places.remove(place)
                return place[1]
        return ""


@dataclass
class Conversion:
    """What came out: the problems, the number of rows read, and what was dropped under which rule."""

    problems: list[Problem] = field(default_factory=list)
    rows_in: int = 0
    dropped: dict[str, Counted] = field(default_factory=dict)

    def drop(self, rule: str, row: int, remark: str = "") -> None:
        """Count a dropped row under `rule`."""
        self.dropped.setdefault(rule, Counted()).add(row, remark)

    def drop_where(self, rule: str, remarks: Mapping[int, str]) -> None:
        """Drop the problems whose row is a key of `remarks`."""
        for problem in self.problems:
            if problem.row in remarks:
                self.drop(rule, problem.row, remarks[problem.row])
        self.problems = [problem for problem in self.problems if problem.row not in remarks]

    def mended(self) -> dict[str, Counted]:
        """The rules that changed a problem that is left, in the order of `rules.MENDS`."""
        found: dict[str, Counted] = {}
        for problem in self.problems:
            for rule in problem.rules:
                found.setdefault(rule, Counted()).add(problem.row)
        return {rule: found[rule] for rule in MENDS if rule in found}


def convert(
    rows: Iterable[Mapping[str, Any]],
    known: ProblemSet,
    levels: Sequence[str] | None = None,
    types: Sequence[str] | None = None,
    duplicates: str = "drop",
    progress: Callable[[int, int], None] | None = None,
) -> Conversion:
    """Problems of a set from its source's rows.

    Args:
        rows: the source, in order.
        known: where the set keeps what.
        levels, types: keep only these (types without regard to case); None keeps all.
        duplicates: `drop` or `keep`.
        progress: called with (rows read, problems kept) after each row.

    Raises:
        PrepareError: no row has one of the levels or types asked for.
    """
    result = Conversion()
    texts: dict[str, tuple[str, tuple[str, ...], str, str]] = {}  # raw text -> mended; a set may repeat it 100 times
    first: dict[str, int] = {}  # key -> place in `problems`
    rival: dict[str, list[tuple[int, str]]] = {}  # key -> rows with another answer
    wanted_types = None if types is None else {name.casefold() for name in types}
    seen_types: set[str] = set()
    seen_levels: set[str] = set()
    for number, row in enumerate(rows):
        result.rows_in += 1
        if progress:
            progress(result.rows_in, len(result.problems))
        raw, chat = first_text(row, known.problem)
        if not raw:
            result.drop("no_problem", number, f"none in {' or '.join(known.problem)}")
            continue
        if raw not in texts:
            done = _problem_text(raw, chat)
            if len(texts) < KNOWN_TEXTS:
                texts[raw] = done
        else:
            done = texts[raw]
        text, rules, broken, key = done
        if broken:
            result.drop("broken_text", number, f"{broken!r} in the problem")
            continue
        if not text:
            result.drop("no_problem", number, "nothing but invisible characters")
            continue
        level, level_rules = _level(_label(row, known.level) or "")
        kind = _label(row, known.type)
        seen_levels.add(level or "")
        seen_types.add(kind or "")
        if levels is not None and level not in levels:
            result.drop("level", number, level or "none")
            continue
        if wanted_types is not None and (kind or "").casefold() not in wanted_types:
            result.drop("type", number, kind or "none")
            continue
        solution = first_text(row, known.solution)[0]
        gold = GOLD_RULES[known.gold_rule](Given([lookup(row, path) for path in known.gold], solution, text))
        if gold.drop:
            result.drop(gold.drop, number, _excerpt(row, known))
            continue
        problem = Problem(
            number, text, key, gold.text, level, kind, _label(row, known.unit), _label(row, known.source_id),
            tuple(dict.fromkeys((*rules, *level_rules, *gold.rules))),
        )  # fmt: skip
        if duplicates == "drop" and key in first:
            kept = result.problems[first[key]]
            if key in rival or not same_value(problem.gold, kept.gold):
                rival.setdefault(key, []).append((number, problem.gold))
            else:
                result.drop("duplicate", number, f"as row {kept.row}")
            continue
        first.setdefault(key, len(result.problems))
        result.problems.append(problem)
    _check_asked(levels, seen_levels, "level")
    _check_asked(types, seen_types, "type")
    _drop_rivals(result, first, rival)
    return result


def _problem_text(raw: str, chat: bool) -> tuple[str, tuple[str, ...], str, str]:
    """(text, rules, broken character, key) of a problem as it stands in the source."""
    bare = strip_instruction(raw) if chat else raw
    mended = mend_text(bare)
    rules = (*(["instruction"] if bare != raw else []), *mended.rules)
    return mended.text, rules, mended.broken, "" if mended.broken else digest(mended.text)


def _label(row: Mapping[str, Any], paths: Sequence[str]) -> str | None:
    """A short text about a row; None where there is none, or where it is broken."""
    mended = mend_text(first_text(row, paths)[0])
    return None if mended.broken else mended.text or None


def _level(raw: str) -> tuple[str | None, tuple[str, ...]]:
    """`Level 5` or `5` as "5"; another name as it stands; `Level ?` as None."""
    match = re.fullmatch(r"(?:level)?\s*(\d+)", raw.strip(), re.IGNORECASE)
    if match:
        return match[1], ()
    if not raw.strip() or re.fullmatch(r"(?:level)?\s*\?", raw.strip(), re.IGNORECASE):
        return None, ("level_unknown",) if raw.strip() else ()
    return raw.strip(), ()


def _excerpt(row: Mapping[str, Any], known: ProblemSet) -> str:
    shown = next((value for value in (lookup(row, path) for path in known.gold) if value is not None), None)
    return repr(shown)[:120]


def _check_asked(asked: Sequence[str] | None, seen: set[str], what: str) -> None:
    lowered = {name.casefold() for name in seen}
    for name in asked or ():
        if name.casefold() not in lowered:
            there = ", ".join(sorted(filter(None, seen))) or "none"
            raise PrepareError(f"no row has the {what} {name!r}; the source has: {there}")


def _drop_rivals(result: Conversion, first: Mapping[str, int], rival: Mapping[str, list[tuple[int, str]]]) -> None:
    """Drop every copy of the problems that stand in the source with different answers."""
    remarks: dict[int, str] = {}
    for key, others in rival.items():
        kept = result.problems[first[key]]
        remarks[kept.row] = f"{kept.gold[:60]!r}, but {others[0][1][:60]!r} in row {others[0][0]}"
        for row, gold in others:
            result.drop("conflicting_golds", row, f"{gold[:60]!r}, but {kept.gold[:60]!r} in row {kept.row}")
    result.drop_where("conflicting_golds", remarks)


def check_answers(result: Conversion, unreadable: str) -> list[tuple[int, str, str]]:
    """(row, answer, why) of the problems whose answer the reward cannot read; drops them where `unreadable` is `drop`.

    Raises:
        PrepareError: math-verify cannot be started; or there are such rows and `unreadable` is `refuse`.
    """
    if unreadable == "skip":
        return []
    from erpo_verl.reward import RewardSetupError

    try:
        found = golds.unreadable([problem.gold for problem in result.problems])
    except RewardSetupError as error:
        raise PrepareError(f"checking the answers needs the reward ({error}); or pass --unreadable skip") from None
    listed = [(result.problems[place].row, result.problems[place].gold, why) for place, _gold, why in found]
    if listed and unreadable == "refuse":
        row, gold, why = listed[0]
        raise PrepareError(f"{len(listed)} answers cannot be read by the reward; the first is {gold!r} in row {row}: {why}")
    if unreadable == "drop":
        result.drop_where("unreadable_gold", {row: f"{gold[:120]!r}: {why}" for row, gold, why in listed})
    return listed


def sample(result: Conversion, size: int | None, seed: int, set_name: str) -> None:
    """Keep `size` problems, chosen by a hash of seed and id: order and the rest of the set do not matter.

    Raises:
        PrepareError: there are fewer.
    """
    if size is None:
        return
    if size > len(result.problems):
        raise PrepareError(f"--sample {size}: only {len(result.problems)} problems are left")

    def rank(problem: Problem) -> tuple[bytes, int]:
        return hashlib.sha256(f"{seed}:{problem_id(set_name, problem.key)}".encode()).digest(), problem.row

    keep = {problem.row for problem in sorted(result.problems, key=rank)[:size]}
    result.drop_where("sample", {problem.row: "" for problem in result.problems if problem.row not in keep})


def in_order(dropped: Mapping[str, Counted]) -> dict[str, Counted]:
    """The counts in the order of `rules.DROPS`, the rows of each in theirs."""
    return {rule: Counted(dropped[rule].count, sorted(dropped[rule].places)) for rule in DROPS if rule in dropped}
