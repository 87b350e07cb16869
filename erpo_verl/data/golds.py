"""Reference answers: from what a set stores to one plain text that the reward reads.

A rule takes what is `Given` and gives a `Gold`: the answer, or the name of the reason to drop the row, with the mends on
the way. Names and meanings stand in `rules.py`; which set uses which rule, in `sets.py`.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from erpo_verl.data.mend import mend_text

_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)", re.ASCII)
_WHOLE = re.compile(r"([-+]?)0*(\d[\d,]*?)(\.0*)?", re.ASCII)
_NUMBER_WORDS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
]  # fmt: skip
_WRAPPED_WORD = re.compile(r"(?:\\(?:text|mbox|textbf|textrm|mathrm)\s*)?\{?\s*([A-Za-z]+)\s*\}?")
_BARE_FRAC = re.compile(r"(\\[dt]?frac)\s*(\\[a-zA-Z]+)\s*(\d|\\[a-zA-Z]+)(?![a-zA-Z{])")
_UNIT = re.compile(r"(?:\^?\{?\s*\\circ\s*\}?|°|\\?%|\\text\{[^{}]*\}|\\mbox\{[^{}]*\}|\s+[A-Za-z ]+)$")
# Two boxes at the end of a solution: are both asked for, or is either one right?
_ALL_OF = re.compile(r"\b(?:all|list|separated)\b", re.IGNORECASE)
_ONE_OF = re.compile(r"\b(?:only one|not both|any one)\b", re.IGNORECASE)
_LAYOUT = re.compile(r"\\(?:left|right|displaystyle|[,;:!])|[\s$]")


@dataclass(frozen=True)
class Given:
    """What a rule may look at: the answer columns' values in order, the worked solution and the problem ('' for none)."""

    values: Sequence[Any]
    solution: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Gold:
    """A reference answer, the mends that led to it, and why the row is dropped ('' where it is not)."""

    text: str
    rules: tuple[str, ...] = ()
    drop: str = ""


def _dropped(reason: str) -> Gold:
    return Gold("", (), reason)


def number(given: Given) -> Gold:
    """GSM8K: the number after ``####``, or a bare number."""
    value = _first(given.values)
    if value is None:
        return _dropped("no_gold")
    text, rules = (value, ()) if isinstance(value, str) else _plain(value)
    tail = text.rpartition("####")[2].strip()
    tail, unit = _without_unit(tail)
    if not _NUMBER.fullmatch(tail):
        return _dropped("not_a_number" if tail else "no_gold")
    bare = tail.replace(",", "")
    return Gold(bare, (*rules, *(["unit"] if unit else []), *(["thousands"] if bare != tail else [])))


def integer(given: Given) -> Gold:
    """AIME and AMC: a whole number, perhaps stored as a float, with zeros before it, a degree sign, or in a box."""
    value = _first(given.values)
    if value is None:
        return _dropped("no_gold")
    text, rules = _plain(value)
    boxed = last_boxes(text)
    text, unit = _without_unit(boxed[-1] if boxed else text.strip().strip("$"))
    if unit:
        rules += ("unit",)
    whole = _WHOLE.fullmatch(text)
    if not whole:
        return _dropped("not_a_number" if text.strip() else "no_gold")
    bare = (whole[1] if whole[1] == "-" and whole[2] != "0" else "") + whole[2].replace(",", "")
    if "," in whole[2]:
        rules += ("thousands",)
    if whole[3] and "float_integer" not in rules:
        rules += ("float_integer",)
    if re.match(r"[-+]?0\d", text):
        rules += ("leading_zeros",)
    return Gold(bare, rules)


def text(given: Given) -> Gold:
    """An answer that stands in a column of its own: text, a number, or a list of one; of a worked one the box or `####`."""
    value = _first(given.values)
    if isinstance(value, str) and value.strip().startswith('["'):
        with contextlib.suppress(ValueError):
            value = json.loads(value)  # a list that was stored as text (Skywork-OR1)
    if isinstance(value, (list, tuple)):
        if len(value) > 1:
            return _dropped("several_golds")
        value = _first(value)
    if value is None:
        return _dropped("no_gold")
    plain, rules = _plain(value)
    boxed = last_boxes(plain)
    return polished(boxed[-1] if boxed else plain.rpartition("####")[2], rules)


def listed(given: Given) -> Gold:
    """OlympiadBench: a list of one text, which may hold several answers; all of them are asked for."""
    value = _first(given.values)
    parts = [str(part) for part in value if str(part).strip()] if isinstance(value, (list, tuple)) else None
    if parts is None:
        return text(given)
    if not parts:
        return _dropped("no_gold")
    gold = polished(", ".join(parts))
    several = ", ".join(split_answers(gold.text))
    return gold if several == gold.text else Gold(several, (*gold.rules, "several_answers"))


def box(given: Given) -> Gold:
    """MATH and Minerva: the last box of the worked solution; the answer column where there is none.

    Where a set gives both, as some copies of MATH do, the column was cut out of the box by a program: it may be empty,
    or hold `2400^2` for `2400 \\mbox{ cm}^2`. The box is what the authors wrote.
    """
    boxes = last_boxes(given.solution)
    if not any(part.strip() for part in boxes):
        return text(given)
    rules: tuple[str, ...] = ()
    answer = boxes[-1]
    if len(boxes) > 1:
        rules = ("two_boxes",)
        if not any(same_value(other, answer) for other in boxes[:-1]):
            if _ONE_OF.search(given.problem) or not _ALL_OF.search(given.problem):
                return _dropped("several_golds")
            answer = ", ".join(boxes)
    gold = polished(answer, rules)
    column = next((value for value in given.values if isinstance(value, str)), None)
    if column is not None and not gold.drop and not same_value(column, gold.text):
        gold = Gold(gold.text, (*gold.rules, "box_over_target"))
    return gold


GOLD_RULES: dict[str, Callable[[Given], Gold]] = {
    "number": number, "integer": integer, "text": text, "listed": listed, "box": box,
}  # fmt: skip


# ---------------------------------------------------------------------- parts


def polished(answer: str, rules: tuple[str, ...] = ()) -> Gold:
    """A LaTeX answer without delimiters, with the mends that are safe for any set."""
    mended = mend_text(answer)
    answer, rules = mended.text, rules + mended.rules
    if mended.broken:
        return _dropped("broken_text")
    bare = re.sub(r"(?<!\\)\$", "", answer)
    if bare != answer:
        rules += ("dollars",)
        answer = bare.strip().removesuffix(".").strip()
    word = _WRAPPED_WORD.fullmatch(answer)
    if word and word[1].lower() in _NUMBER_WORDS:
        answer, rules = str(_NUMBER_WORDS.index(word[1].lower())), (*rules, "number_word")
    for name, pattern, by in (("numpy", r"\bnp\.(?=[a-z])", r"\\"), ("frac_arguments", _BARE_FRAC, r"\1{\2}{\3}")):
        changed = re.sub(pattern, by, answer)
        if changed != answer:
            answer, rules = changed, (*rules, name)
    return Gold(answer, rules) if answer.strip() else _dropped("no_gold")


def last_boxes(solution: str) -> list[str]:
    """The boxes at the end of a solution that only commas and words like `and` part; one for most, none without a box."""
    from erpo_verl.reward.scanner import find_boxes, join_adjacent, unwrap

    boxes, _open = find_boxes(solution)
    for back in range(len(boxes), 1, -1):  # the longest run of boxes side by side
        parts = [unwrap(solution[begin:end]) for _, begin, end, _ in boxes[-back:]]
        if join_adjacent(solution, boxes[-back:], len(solution)) == ", ".join(parts):
            return parts
    return [unwrap(solution[boxes[-1][1] : boxes[-1][2]])] if boxes else []


def same_value(one: str, other: str) -> bool:
    """Whether two answers are the same: as texts without layout, or as the reward judges `one` by the gold `other`."""
    if _LAYOUT.sub("", one) == _LAYOUT.sub("", other):
        return True
    if not one.strip() or not other.strip():
        return False
    from erpo_verl.reward import RewardConfig, RewardSetupError, shared_judge

    try:
        # Time enough, so that a busy machine does not decide.
        return bool(shared_judge(RewardConfig(prestart=False, time_limit_s=30)).judge(one, other).right)
    except RewardSetupError as error:
        from erpo_verl.data.source import PrepareError

        raise PrepareError(f"comparing two answers needs the reward: {error}") from None


def split_answers(answer: str) -> list[str]:
    """The parts of an answer between commas outside of all brackets; a comma between digits of 1,234,567 stays."""
    parts, depth, start = [], 0, 0
    for place, char in enumerate(answer):
        depth = max(0, depth + (char in "([{") - (char in ")]}"))
        if char == "," and depth == 0:
            parts.append(answer[start:place].strip())
            start = place + 1
    parts.append(answer[start:].strip())
    grouped = re.fullmatch(r"\d{1,3}(,\d{3})+", answer)
    return [answer] if grouped else [part for part in parts if part]


def _first(values: Sequence[Any]) -> Any:
    """The first value that is there; a mapping stands for what it holds under `target` or the like."""
    for value in values:
        if isinstance(value, Mapping):
            value = next((value[key] for key in ("target", "ground_truth", "answer") if value.get(key) is not None), None)
        if value is None or (isinstance(value, str) and not value.strip()) or isinstance(value, bool):
            continue
        if isinstance(value, float) and not math.isfinite(value):
            continue
        return value
    return None


def _plain(value: Any) -> tuple[str, tuple[str, ...]]:
    """A value as text; a float without its needless `.0`."""
    if isinstance(value, float) and value == int(value) and abs(value) < 1e15:
        return str(int(value)), ("float_integer",)
    return (repr(value) if isinstance(value, float) else str(value)), ()


def _without_unit(answer: str) -> tuple[str, bool]:
    """A number without the degree sign, percent sign, dollars or words around it."""
    bare = _UNIT.sub("", answer.strip()).strip()
    bare = re.sub(r"^\\?\$\s*", "", bare)
    return (bare, bare != answer.strip()) if _NUMBER.fullmatch(bare) else (answer.strip(), False)
