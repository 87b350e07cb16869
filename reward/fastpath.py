"""Decides plain answers without a worker. It says right or wrong only where that is certain, and nothing otherwise."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from functools import lru_cache

from .config import RewardConfig
from .exact import Exact, Unsupported
from .normalize import Clean
from .structure import THOUSANDS, Seq, Value, is_ambiguous, read, read_as_list

_CHOICE = re.compile(r"\(?([A-Z])\)?")
_BASED = re.compile(r"(-?[0-9A-Fa-f.,]+)_\{?(\d{1,2})\}?")
_LABEL = re.compile(r"[^0-9=<>]*(?:_\{?[0-9a-zA-Z]+\}?[^0-9=<>]*)*")


def same_text(gold: Clean, answer: Clean) -> bool:
    """Whether both are the same text up to spelling: right under every policy."""
    if gold.wordy or answer.wordy:
        return bool(gold.key) and gold.key == answer.key
    if answer.problem:
        return False  # 4 2 is not 42
    same = gold.body.replace(";", ",") == answer.body.replace(";", ",")
    return same and bool(gold.body) and gold.percent == answer.percent


def decide(gold: Clean, answer: Clean, config: RewardConfig) -> bool | None:
    """True or False where the maths of the two bodies (units and texts are judged before) certainly agree or differ.

    The percent signs of both are taken into account by the policy of `config`.
    """
    choice = _CHOICE.fullmatch(gold.body)
    if choice:
        other = _CHOICE.fullmatch(answer.body)
        return choice[1] == other[1] if other else None
    based = _based(gold.body, answer.body, config)
    if based is not None:
        return based
    gold_value, answer_value = parse(gold.body), parse(answer.body)
    if gold_value is None or answer_value is None:
        return None
    if isinstance(gold_value, Exact) and isinstance(answer_value, Seq):
        listed = _as_list(gold.body)
        gold_value = listed if listed is not None else gold_value
    elif isinstance(gold_value, Seq) and isinstance(answer_value, Exact):
        listed = _as_list(answer.body)
        answer_value = listed if listed is not None else answer_value
    if gold.percent or answer.percent:
        if not (isinstance(gold_value, Exact) and isinstance(answer_value, Exact)):
            return None
        return _percent(gold_value, gold.percent, answer_value, answer.percent, config)
    same = compare(gold_value, answer_value, config)
    return None if same is False and (is_ambiguous(gold.body) or is_ambiguous(answer.body)) else same


@lru_cache(maxsize=8192)
def parse(body: str) -> Value | None:
    """The exact value of a body, None where this module cannot read it."""
    try:
        return read(body)
    except (Unsupported, RecursionError, OverflowError, ValueError, ZeroDivisionError, IndexError):
        return None


def _as_list(body: str) -> Value | None:
    try:
        return read_as_list(body)
    except (Unsupported, ValueError, IndexError):
        return None


def canonical(answer: Clean) -> str:
    """One string for equal answers, as far as that is cheap; majority votes count by it."""
    if answer.wordy:
        return answer.key
    value = parse(answer.body)
    if value is None:
        return answer.body
    return f"{value}%" if answer.percent else str(value)


# ---------------------------------------------------------------------- values


def compare(gold: Value, answer: Value, config: RewardConfig) -> bool | None:
    """Whether two values agree; None where that is not certain."""
    gold, answer = _unwrapped(gold), _unwrapped(answer)
    if isinstance(gold, Exact) and isinstance(answer, Exact):
        return _numbers(gold, answer, config)
    if isinstance(gold, Exact) or isinstance(answer, Exact):
        # One value against several: a list, a tuple, an interval or a matrix is never a number, nor is a set unless it
        # names one value twice.
        several = answer if isinstance(gold, Exact) else gold
        distinct = any(compare(several.items[0], item, config) is False for item in several.items[1:])
        return False if several.kind != "{}" or distinct else None
    return _sequences(gold, answer, config)


def _unwrapped(value: Value) -> Value:
    if isinstance(value, Seq) and value.kind == "{}" and len(value.items) == 1:
        return value.items[0]
    return value


def _numbers(gold: Exact, answer: Exact, config: RewardConfig) -> bool | None:
    if gold == answer:
        return True
    if gold.is_number and answer.is_number:
        if not (gold.decimal or answer.decimal):
            return False
        exact_gold = gold.rational
        if exact_gold is not None and exact_gold.denominator == 1:
            return False  # a whole number is met exactly or not at all
        return _near(gold, answer, config.rel_tol)
    if gold.decimal or answer.decimal:
        return None
    names = gold.variables | answer.variables
    if names & {"e", "E", "d"} or any(name.startswith("\\") and name != r"\infty" for name in names):
        # e may be Euler's number; Greek letters may be constants
        return None if gold.variables != answer.variables else False
    if {name.lower() for name in gold.variables} == {name.lower() for name in answer.variables}:
        return False if gold.variables == answer.variables else None
    return False


def _near(gold: Exact, answer: Exact, tolerance: float) -> bool | None:
    """Whether two numbers agree within the relative tolerance; None right at its edge."""
    left, right = gold.rational, answer.rational
    if left is not None and right is not None:
        return abs(left - right) <= tolerance * max(abs(left), abs(right)) * (1 + 1e-9)
    try:
        first, second = gold.value(), answer.value()
    except Unsupported:
        return None
    gap, scale = abs(first - second), max(abs(first), abs(second))
    if 0.9 * tolerance * scale < gap < 1.1 * tolerance * scale or gap < 1e-13 * scale:
        return None if tolerance < 1e-12 or gap >= 1e-13 * scale else True
    return gap <= tolerance * scale


def _percent(gold: Exact, gold_sign: bool, answer: Exact, answer_sign: bool, config: RewardConfig) -> bool | None:
    """Percent against percent by figures; percent against a plain number by value, or (lenient) by figures too."""
    if gold_sign and answer_sign:
        return _numbers(gold, answer, config)
    hundredth = Exact.number(1) / Exact.number(100)
    pairs = [(gold * hundredth, answer) if gold_sign else (gold, answer * hundredth)]
    if config.percent == "lenient":
        pairs.append((gold, answer))
    found = [_numbers(left, right, config) for left, right in pairs]
    return True if True in found else (None if None in found else False)


def _sequences(gold: Seq, answer: Seq, config: RewardConfig) -> bool | None:
    kinds = (_role(gold), _role(answer))
    if "union" in kinds:
        left, right = _pieces(gold), _pieces(answer)
        if left is not None and right is not None:
            return left == right
        same = kinds[0] == kinds[1] and len(gold.items) == len(answer.items) and _in_order(gold, answer, config)
        return True if same else None
    if kinds[0] == kinds[1]:
        kind = kinds[0]
        if kind == "matrix":
            if (len(gold.items), len(gold.items[0].items)) != (len(answer.items), len(answer.items[0].items)):
                return None  # a row for a column: math-verify's word
            return _in_order(gold, answer, config)
        if kind == "{}" or (kind == "list" and config.lists == "unordered"):
            return _in_any_order(gold, answer, config, distinct=kind == "{}")
        return _in_order(gold, answer, config)
    pair = set(kinds)
    if pair == {"list", "{}"}:
        return _in_any_order(gold, answer, config, distinct=True)
    if pair == {"list", "()"}:
        return _in_order(gold, answer, config) if config.tuple_brackets == "optional" else False
    if pair == {"()", "{}"} or pair <= {"()", "[]", "[)", "(]"}:
        return False  # a tuple is no set; intervals with other ends are other intervals
    return None


def _pieces(seq: Seq) -> list[tuple[float | Fraction, int, float | Fraction, int]] | None:
    """An interval or union as disjoint pieces in order: (low, 1 if it is open, high, -1 if it is open).

    None where an end is no fraction and no infinity.
    """
    pieces = []
    for part in seq.items if seq.kind == "union" else (seq,):
        if not isinstance(part, Seq) or part.kind not in ("()", "[]", "[)", "(]") or len(part.items) != 2:
            return None
        ends = [_end(item) for item in part.items]
        if None in ends or not ends[0] < ends[1]:
            return None
        pieces.append((ends[0], int(part.kind[0] == "("), ends[1], -int(part.kind[1] == ")")))
    pieces.sort()
    merged = pieces[:1]
    for low, low_open, high, high_open in pieces[1:]:
        last = merged[-1]
        if low < last[2] or (low == last[2] and not (low_open and last[3])):
            merged[-1] = (last[0], last[1], *max((last[2], last[3]), (high, high_open)))
        else:
            merged.append((low, low_open, high, high_open))
    return merged


def _end(value: Value) -> float | Fraction | None:
    if not isinstance(value, Exact):
        return None
    infinity = Exact.atom(r"\infty")
    if value in (infinity, -infinity):
        return math.inf if value == infinity else -math.inf
    return value.rational


def _role(seq: Seq) -> str:
    """The kind, where square brackets around other than two values are a list and no interval."""
    return "list" if seq.kind == "[]" and len(seq.items) != 2 else seq.kind


def _in_order(gold: Seq, answer: Seq, config: RewardConfig) -> bool | None:
    if len(gold.items) != len(answer.items):
        return False
    found = [
        _in_order(left, right, config)
        if isinstance(left, Seq) and isinstance(right, Seq) and left.kind == right.kind == "row"
        else compare(left, right, config)
        for left, right in zip(gold.items, answer.items, strict=True)
    ]
    return False if False in found else (None if None in found else True)


def _in_any_order(gold: Seq, answer: Seq, config: RewardConfig, distinct: bool) -> bool | None:
    if len(gold.items) > 64 or len(answer.items) > 64:
        return None
    if distinct and not (_all_differ(gold, config) and _all_differ(answer, config)):
        return None  # a set may name one value twice
    if len(gold.items) != len(answer.items):
        return False
    left = list(answer.items)
    unsure = False
    for item in gold.items:
        for place, other in enumerate(left):
            found = compare(item, other, config)
            if found:
                del left[place]
                break
            unsure = unsure or found is None
        else:
            return None if unsure else False
    return True


def _all_differ(seq: Seq, config: RewardConfig) -> bool:
    """Whether no value is named twice; False also where that is not certain, or too much to compare."""
    items = seq.items
    return len(items) <= 24 and all(
        compare(items[left], items[right], config) is False for left in range(len(items)) for right in range(left)
    )


# ---------------------------------------------------------------------- bases and equations


def _based(gold: str, answer: str, config: RewardConfig) -> bool | None:
    """Numbers written to a base: by their digits; None where neither has a base."""
    left, right = _BASED.fullmatch(gold), _BASED.fullmatch(answer)
    if not left and not right:
        return None
    if left and right:
        return left[2] == right[2] and _digits(left[1]) == _digits(right[1])
    plain = answer if left else gold
    if not re.fullmatch(r"-?[0-9A-Fa-f.,]+", plain):
        return None
    return config.bases == "lenient" and _digits((left or right)[1]) == _digits(plain)


def _digits(text: str) -> str:
    return text.replace(",", "").lower()


def sides(body: str) -> list[str]:
    """The sides of an equation, split at `=` outside brackets."""
    out, depth, start = [], 0, 0
    for place, char in enumerate(body):
        if char in "{([":
            depth += 1
        elif char in "})]":
            depth -= 1
        elif char == "=" and depth <= 0:
            out.append(body[start:place])
            start = place + 1
    out.append(body[start:])
    return out


def is_label(side: str) -> bool:
    """Whether a side only names what follows: no figures but in an index, as `x`, `f(x)`, `\\angle ABC`, `a_1`."""
    return bool(side) and bool(_LABEL.fullmatch(side)) and parse_constant(side) is None


def parse_constant(side: str) -> Exact | None:
    """The number that a side without figures may still be, as pi."""
    value = parse(side)
    return value if isinstance(value, Exact) and value.is_number else None


def is_thousands(body: str) -> bool:
    """Whether the commas of a body part thousands and no list."""
    return bool(THOUSANDS.fullmatch(body))


def kinds_clash(gold: str, answer: str, config: RewardConfig) -> bool:
    """Whether the outermost brackets alone settle that the two differ: a tuple against a set, or (by policy) a list."""
    kinds = {_outer_kind(gold), _outer_kind(answer)}
    if kinds == {"()", "{}"}:
        return True
    return config.tuple_brackets == "required" and kinds == {"()", "list"}


def _outer_kind(body: str) -> str:
    """'()' or '{}' for several values in one pair of brackets, 'list' for several bare ones, '' for anything else."""
    flat = body.replace(r"\{", "{").replace(r"\}", "}")
    depth = 0
    separators = [False, False]  # outside all brackets, inside the first level
    for place, char in enumerate(flat):
        if char in "{([":
            depth += 1
        elif char in "})]":
            depth -= 1
            if depth == 0 and place < len(flat) - 1 and flat[place + 1] not in ",;":
                return ""
        elif char in ",;" and 0 <= depth <= 1:
            separators[depth] = True
    if separators[0]:
        return "list"
    if separators[1] and flat[0] + flat[-1] == "()":
        return "()"
    if separators[1] and body.startswith(r"\{") and body.endswith(r"\}"):
        return "{}"
    return ""
