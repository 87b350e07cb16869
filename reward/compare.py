"""What right means: how an answer is held against the gold, item by item and value by value, before math-verify is asked.

Runs in the workers, under their clock. docs/reward.md lists every case. Lists, tuples, sets and intervals are taken apart here,
words, units, labels and signs are judged here; math-verify compares the single values, of which it is only given what it reads in full.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import random
import re
import sys
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from sympy.core.random import seed as sympy_seed

from . import mathverify
from .guard import (
    TRIGONOMETRY,
    answer_problem,
    is_choice,
    is_label,
    is_quantity,
    known,
    letters_differ,
    signature,
    task_left,
)
from .latex import PARTING, RELATIONS, Tokens, Word, closing, split, tokens_of, written
from .plain import Number, equal_numbers, read_number
from .words import MAGNITUDES, NEUTRAL, NUMBER_WORDS, PLAIN_LETTERS, Unit, unit_of

_PACKAGES = ("math-verify", "latex2sympy2_extended", "sympy", "antlr4-python3-runtime")
_SET_SIGNS = (r"\cup", r"\cap", r"\setminus")
_DEGREES = ["^", "{", r"\circ", "}"]
_MAX_ITEMS = 64


@dataclass(frozen=True)
class Policy:
    """The fields of `RewardConfig` that decide what is right."""

    units: str = "optional"
    counted_nouns: str = "known"
    percent: str = "lenient"
    bases: str = "lenient"
    lists: str = "unordered"
    tuple_brackets: str = "optional"
    relations: str = "as_sets"
    chains: str = "all_sides"
    tasks: str = "refuse"
    approximations: str = "rational"
    rel_tol: float = 1e-6
    max_digits: int = 200
    max_exponent: int = 10_000


class _Refused(Exception):
    """The answer is refused; the message is the reason's name."""


@dataclass(frozen=True)
class _Atom:
    """A single value taken apart: its maths, what its unit and magnitude say, and whether a percent sign follows."""

    body: Tokens
    unit: Unit | None = None
    scale: Fraction = Fraction(1)
    percent: bool = False


# ---------------------------------------------------------------------- requests


def prepare() -> dict[str, str]:
    """Mends, warms and tests math-verify; returns the versions in use.

    Raises:
        RuntimeError: a known answer is judged wrongly, so that no verdict could be trusted.
    """
    mathverify.mend()
    for text in mathverify.WARM_UP:
        mathverify.equal(text, text + " ", 1e-6, "rational")
    for gold, answer, expected in (
        (r"50\%", "0.5", "right"), (r"\frac{1}{3}+\sqrt{2}", r"\sqrt{2}+1/3", "right"), ("x^2-1", "(x-1)(x+1)", "right"),
        ("1e-7", "2e-7", "wrong"), ("42", "41", "wrong"), ("[0,1)", "(0,1]", "wrong"), (r"\ln 4", r"2\ln 3", "wrong"),
    ):  # fmt: skip
        found = handle({"op": "judge", "gold": gold, "answer": answer, "policy": {}})["reason"]
        if found != expected:
            raise RuntimeError(f"math-verify's self-test failed: gold {gold!r}, answer {answer!r}: {found}")
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def handle(request: dict[str, Any]) -> dict[str, Any]:
    """One request: `judge` (gold, answer, policy), `read` (is this gold readable?) or `probe` (what is loaded here?).

    Returns:
        {'reason': a name of `verdict.Reason` in lower case, 'pred': the answer in one spelling}; for `probe` what it found.
    """
    sympy_seed(0)  # sympy tries random points; the same pair must get the same verdict every time
    random.seed(0)
    if request["op"] == "probe":
        held = bytearray(request.get("allocate_mb", 0) << 20)  # tries the memory limit
        return {"modules": sorted(name for name in sys.modules if "." not in name), "allocated": len(held)}
    policy = Policy(**request["policy"])
    gold = tokens_of(mended(request["gold"]), trusted=True)
    if request["op"] == "read":
        return {"reason": "right" if gold and Comparison(policy).readable(gold) else "gold_unreadable", "pred": ""}
    answer = tokens_of(mended(request["answer"]))
    pred = canonical(answer)
    if not gold:
        return {"reason": "gold_unreadable", "pred": pred}
    try:
        if gold != answer:
            _refuse(answer_problem(answer, policy.max_digits, policy.max_exponent))
            _refuse("unsolved" if policy.tasks == "refuse" and task_left(answer) and not task_left(gold) else None)
        reason = "right" if Comparison(policy).meets(_without_braces(gold), _without_braces(answer)) else "wrong"
    except _Refused as refused:
        reason = str(refused)
    except RecursionError:
        reason = "too_deep"
    return {"reason": reason, "pred": pred}


def _refuse(reason: str | None) -> None:
    if reason:
        raise _Refused(reason)


_DAMAGE = (("\x0c", r"\f"), ("\x08", r"\b"), ("\x07", r"\a"), ("\x0b", r"\v"), ("{}", ""), ("{;}", ";"))
_GLUED = re.compile(r"\\(quad|sin|cos|tan|sec|csc|cot|pi|leq|geq|log|ln|theta)([a-gi-pr-zA-Z])(?![A-Za-z])")
_BARE_UNIT = re.compile(r"(?<=[\d}])\{([A-Za-z][A-Za-z. ]+)\}")


def mended(text: str) -> str:
    """An answer without the damage that published data sets are known to carry.

    That is: control characters in place of a backslash and a letter, rows of a matrix parted by one backslash, a command glued
    to the variable behind it (`\\pir`), units that lost their `\\text`, and empty groups.
    """
    for damage, repaired in _DAMAGE:
        text = text.replace(damage, repaired)
    text = re.sub(r"\t(?=ext|imes|heta|frac|an\b)", r"\\t", text)
    text = re.sub(r"\r(?=ight|ho\b|angle)", r"\\r", text)
    if "matrix" in text:
        text = re.sub(r"(?<!\\)\\(?=[\d-])", r"\\\\", text)
    text = _GLUED.sub(r"\\\1 \2", text)
    text = _BARE_UNIT.sub(lambda match: rf"\text{{ {match[1]}}}" if unit_of(match[1].split()) else match[0], text)
    return re.sub(r"^\{(\w+)\}(?=_)", r"\1", text)


def canonical(tokens: Tokens) -> str:
    """One string for equal answers, as far as that is cheap; majority votes count by it."""
    sides = split(tokens, ("=",))
    if len(sides) == 2 and is_label(sides[0]):
        tokens = sides[1]
    items = split(tokens, PARTING)
    if len(items) > 1:
        return ", ".join(sorted(map(canonical, items)))
    if tokens and all(isinstance(token, Word) for token in tokens):
        return " ".join(tokens).lower()
    number = read_number(written(tokens))
    return str(number) if number else written(tokens)


# ---------------------------------------------------------------------- comparison


class Comparison:
    """Holds answers against golds under one policy. Methods raise `_Refused` where the answer must not be judged further."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def meets(self, gold: Tokens, answer: Tokens) -> bool:
        """Whether the answer is the gold."""
        gold, answer = _trimmed(gold), _trimmed(answer)
        if gold == answer and answer:
            return True
        if not answer:
            raise _Refused("empty")
        if r"\circ" in gold and r"\circ" not in answer and _without_degrees(gold) == answer:
            return True
        choice = is_choice(gold)
        if choice:
            return is_choice(answer, leading=True) == choice
        answer = _without_choice(answer)
        if self.is_text(gold):
            return _same_text(gold, answer)
        answer = _without_scope(answer)
        gold_items, answer_items = _items(gold), _items(answer)
        if len(gold_items) > 1 or len(answer_items) > 1:
            return self._lists(gold_items, answer_items, gold, answer)
        if any(len(split(one, ("=", r"\approx", r"\in", r"\to", r"\equiv"))) > 1 for one in (gold, answer)):
            return self._equations(gold, answer)
        return self._values(gold, answer)

    def is_text(self, gold: Tokens) -> bool:
        """Whether the gold is words (perhaps with maths among them) and no value with a unit or a label."""
        if not any(isinstance(token, Word) for token in gold) or len(_items(gold)) > 1:
            return False
        sides = split(gold, ("=",))
        if len(sides) == 2 and is_label(sides[0]):
            gold = sides[1]
        return any(isinstance(token, Word) for token in self.atom(gold, nouns=True).body)

    def readable(self, gold: Tokens) -> bool:
        """Whether every value of a gold is a text, a number, or something that math-verify parses."""
        gold = _trimmed(gold)
        if not gold:
            return False
        if is_choice(gold) or self.is_text(gold):
            return True
        items = _items(gold)
        bracketed = _bracketed(gold)
        if len(items) > 1 or bracketed:
            return all(map(self.readable, items if len(items) > 1 else bracketed[1]))
        sides = [_trimmed(side) for side in split(gold, ("=", r"\approx", r"\in"))]
        if len(sides) == 2 and all(sides) and is_label(sides[0]):
            return self.readable(sides[1])
        body = self.atom(gold, nouns=True).body
        if _side_by_side(body) and not read_number(written(body)):
            return False
        return bool(read_number(written(body))) or not known(body) or mathverify.parse(written(_products(_plus_only(body)))) is not None

    # ---------------------------------------------------------------- several values

    def _lists(self, gold_items: list[Tokens], answer_items: list[Tokens], gold: Tokens, answer: Tokens) -> bool:
        """Several values without brackets, at least on one side."""
        if any(map(_is_relation, gold_items + answer_items)) and (_is_set(gold) or _is_set(answer)):
            return self._as_sets(gold_items, answer_items)
        if any(map(_is_relation, gold_items)) and {"||", "&&"} <= {*gold, *answer} and not {"||", "&&"} <= {*gold}:
            return False
        gold_items, answer_items = _solutions(gold_items), _solutions(answer_items)
        if len(gold_items) > 1 and len(answer_items) > 1:
            named = all(map(_labelled, gold_items)) and not any(map(_labelled, answer_items))
            return self._in_any_order(gold_items, answer_items, self.policy.lists == "ordered" or named)
        several, single, is_gold = (gold_items, answer, True) if len(gold_items) > 1 else (answer_items, gold, False)
        if len(several) == 1:  # one solution of several unknowns
            return self.meets(gold_items[0], answer_items[0])
        sides = split(single, ("=", r"\in"))
        if len(sides) == 2 and is_label(sides[0]):
            single = sides[1]
        for number in _as_number(gold if is_gold else answer, read_number(written(single))):
            if self.meets(*((number, single) if is_gold else (single, number))):
                return True
        return self._listed(several, single, is_gold)

    def _listed(self, several: list[Tokens], single: Tokens, is_gold: bool) -> bool:
        """A bare list against one thing: a tuple or a set of as many values."""
        bracketed = _bracketed(single)
        if not bracketed or any(len(item) == 1 and re.fullmatch("0\\d+", item[0]) for item in several):
            return False
        kind, items = bracketed
        pair = (several, items) if is_gold else (items, several)
        if kind == "{}":
            return self._in_any_order(*pair)
        if kind == "()" or (kind == "[]" and len(items) != 2):
            return self.policy.tuple_brackets == "optional" and self._in_any_order(*pair, ordered=True)
        return False

    def _in_any_order(self, gold: list[Tokens], answer: list[Tokens], ordered: bool = False) -> bool:
        if len(gold) != len(answer) or len(gold) > _MAX_ITEMS:
            return False
        if ordered:
            return all(self.meets(left, right) for left, right in zip(gold, answer, strict=True))
        left = list(answer)
        for item in gold:
            for place, other in enumerate(left):
                with contextlib.suppress(_Refused):  # another one may be the item's match
                    if self.meets(item, other):
                        del left[place]
                        break
            else:
                return False
        return True

    def _as_sets(self, gold: list[Tokens], answer: list[Tokens]) -> bool:
        """Sets, intervals and relations of one unknown, as sets of numbers."""
        if self.policy.relations == "same_form":
            return False
        texts = []
        for items in (gold, answer):
            bodies = [_without_membership(_without_builder(item)) for item in items]
            bodies = [split(body, ("=",))[-1] if is_label(split(body, ("=",))[0]) else body for body in bodies]
            if not all(map(known, bodies)):
                return False
            texts.append([written(body) for body in bodies])
        return self._said(mathverify.equal_sets(*texts))

    # ---------------------------------------------------------------- equations and labels

    def _equations(self, gold: Tokens, answer: Tokens) -> bool:
        """Labels, chains, equations, memberships and approximations."""
        gold, answer = self._exact(gold), self._exact(answer)
        gold, answer = _without_membership(gold), _without_membership(answer)
        if r"\equiv" in answer and r"\equiv" not in gold:
            left, *rest = split(answer, (r"\equiv",))
            if len(rest) == 1 and is_label(left):
                answer = rest[0][: rest[0].index(r"\pmod")] if r"\pmod" in rest[0] else rest[0]
        if r"\equiv" in gold or r"\equiv" in answer:
            return False
        gold_sides, sides = [[_trimmed(s) for s in split(one, ("=",))] for one in (gold, answer)]
        if not all(gold_sides) or not all(sides):
            raise _Refused("unreadable")
        if len(sides) == 1 and len(gold_sides) == 1:
            return self._values(gold, answer) if answer != gold else True
        if len(sides) == 1:
            ratio = ":" in gold_sides[0] and ":" in answer
            return (is_label(gold_sides[0]) or ratio) and self.meets(gold_sides[-1], answer)
        if len(gold_sides) == 1:
            return self._chain(gold, sides)
        labels = gold_sides[0], sides[0]
        if all(map(is_label, labels)) and len(gold_sides) == 2:
            names = [written(label) for label in labels]
            if names[0].lower() == names[1].lower():
                return self._chain(gold_sides[1], sides)
            renamed = _renamed(*labels, sides)
            if renamed or (any("(" in label for label in labels) and all("(" in label or label == ["y"] for label in labels)):
                return self._chain(gold_sides[1], renamed or sides)
        if len(sides) > 2 or len(gold_sides) > 2:
            return len(sides) == len(gold_sides) and self._in_any_order(gold_sides, sides, ordered=True)
        return self._ask(gold, answer)

    def _chain(self, gold: Tokens, sides: list[Tokens]) -> bool:
        """An answer with equals signs against a value: behind a label every side must be right."""
        if len(sides) > 1 and sides[0] == sides[-1] and is_label(sides[0]):
            return False  # x = x
        if is_label(sides[0]) or (is_quantity(sides[0]) and not is_label(sides[-1])):
            values = sides[1:]
        elif len(sides) == 2 and is_label(sides[1]):
            values = sides[:1]
        else:
            values = sides
        if len(values) > 1 and self.policy.chains == "refuse":
            raise _Refused("chain")
        if not all(self.meets(gold, value) for value in values):
            if len(values) > 1:
                raise _Refused("chain")
            return False
        return True

    def _exact(self, tokens: Tokens) -> Tokens:
        """Of an approximation the exact side, or what stands behind a label."""
        sides = split(tokens, (r"\approx",))
        if len(sides) == 1:
            return tokens
        if not sides[0] or (is_label(sides[0]) and len(sides) == 2):
            return sides[1]
        return sides[0]

    # ---------------------------------------------------------------- one value

    def _values(self, gold: Tokens, answer: Tokens) -> bool:
        """One value against one: brackets, then the maths in them."""
        conditions = _without_builder(gold), _without_builder(answer)
        if conditions[0] != gold and conditions[1] != answer:
            return self._as_sets([gold], [answer])
        gold, answer = conditions
        if _is_relation(gold) != _is_relation(answer) and (_is_set(gold) or _is_set(answer)):
            return self._as_sets([gold], [answer])
        if any(sign in one for one in (gold, answer) for sign in _SET_SIGNS) or (_is_set(gold) and _is_set(answer)):
            brackets = _bracketed(gold), _bracketed(answer)
            if not all(brackets):
                return self._as_sets([gold], [answer])
        brackets = _bracketed(gold), _bracketed(answer)
        if any(brackets):
            (gold_kind, gold_items), (kind, items) = (b or ("", [one]) for b, one in zip(brackets, (gold, answer), strict=True))
            if gold_kind == kind:
                return self._in_any_order(gold_items, items, ordered=kind != "{}")
            if {gold_kind, kind} == {"()", ""}:
                column = _column(answer if gold_kind else gold)
                if column:
                    return self._in_any_order(*((gold_items, column) if gold_kind else (column, items)), ordered=True)
            if any(brackets) and not (gold_kind and kind) and any(r"\begin{" in "".join(one) for one in (gold, answer)):
                return False
            return False
        return self._single(gold, answer)

    def atom(self, tokens: Tokens, units_of_letters: bool = False, nouns: bool = False) -> _Atom:
        """A value taken apart into maths, magnitude, unit and percent sign; `nouns`: any words may be what is counted."""
        tokens, percent, scale, unit = list(tokens), False, Fraction(1), None
        if tokens[:1] == ["%%"]:
            tokens, percent = tokens[1:], True
        sign = tokens[:1] if tokens[:1] == ["-"] else []
        if tokens[len(sign) : len(sign) + 1] and tokens[len(sign)] in ("\\$", "€", "£", "¥", "₹", "$"):
            unit = unit_of(tokens[len(sign) : len(sign) + 1])
            tokens = sign + tokens[len(sign) + 1 :]
            if unit and tokens[-1:] == ["k"]:
                tokens, scale = tokens[:-1], Fraction(1000)
        while tokens and isinstance(tokens[0], Word) and tokens[0].lower() in NEUTRAL and len(tokens) > 1:
            tokens = _trimmed(tokens[1:])
        tokens = _number_words(tokens)
        start = next((place for place, token in enumerate(tokens) if isinstance(token, Word) or token in ("\\$", "€", "£")), None)
        if start:
            if tokens[start - 1] == "(" and tokens[-1] == ")":
                start -= 1
            before, tail = tokens[:start], tokens[start:]
            while tail and tail[0].lower().removesuffix("s") in MAGNITUDES:
                scale, tail = scale * MAGNITUDES[tail[0].lower().removesuffix("s")], tail[1:]
            if not tail or [t.lower() for t in tail] in (["th"], ["st"], ["nd"], ["rd"]):
                tokens = before
            elif (before and not any(token in before for token in ("=", *RELATIONS))) or (before[-1:] and before[-1].isdigit()):
                counted = nouns and any(token[0].isdigit() for token in before)
                found = unit_of(tail, counted or self.policy.counted_nouns == "any")
                if found and (unit is None or found.name == unit.name):
                    tokens, unit = before, found
        if tokens[-4:-1] + tokens[-1:] == ["^", "{", "th", "}"]:
            tokens = tokens[:-4]
        tokens, scale_name = (tokens[:-1], tokens[-1]) if tokens[-1:] and tokens[-1] in ("C", "F") and r"\circ" in tokens[-4:] else (tokens, "")
        if any(token in TRIGONOMETRY for token in tokens):
            tokens = _in_radians(tokens)
        elif len(tokens) > 4 and tokens[-4:] == _DEGREES:
            name = {"C": "celsius^1", "F": "fahrenheit^1"}.get(scale_name, "degree^1")
            tokens, unit = tokens[:-4], Unit(name)
        if units_of_letters and unit is None:
            place = next((place for place, token in enumerate(tokens) if token.isalpha()), 0)
            if place and tokens[place] in PLAIN_LETTERS and (found := unit_of(tokens[place:])):
                tokens, unit = tokens[:place], found
        while tokens[-1:] == ["%"]:
            tokens, percent = tokens[:-1], True
        return _Atom(_trimmed(tokens), unit, scale, percent)

    def _single(self, gold_tokens: Tokens, answer_tokens: Tokens) -> bool:
        """One number or expression against one."""
        gold = self.atom(gold_tokens, nouns=True)
        counted = gold.unit is not None and gold.unit.name.startswith("noun ")
        answer = self.atom(answer_tokens, units_of_letters=not _has_letters(gold.body), nouns=counted)
        if answer.unit and not gold.unit:
            gold = self.atom(gold_tokens, units_of_letters=True)
        if any(isinstance(token, Word) for token in answer.body):
            raise _Refused("prose")
        answer = self._converted(gold, answer)
        if not answer.body:
            raise _Refused("empty")
        if ":" in gold.body or ":" in answer.body:
            return _ratios(gold.body, answer.body)
        gold_body, body = _without_modulus(gold.body, answer.body)
        if gold_body == body and gold.percent == answer.percent and gold.scale == answer.scale:
            return True
        based = self._based(gold_body, body)
        if based is not None:
            return based
        numbers = [read_number(written(one)) for one in (gold_body, body)]
        if all(numbers):
            left, right = (
                replace(number, value=number.value * atom.scale, percent=atom.percent)
                for number, atom in zip(numbers, (gold, answer), strict=True)
            )
            return equal_numbers(left, right, self.policy.rel_tol, self.policy.percent == "lenient")
        return self._ask(_scaled(gold, gold_body, answer.percent), _scaled(answer, body, gold.percent))

    def _converted(self, gold: _Atom, answer: _Atom) -> _Atom:
        """The answer in the gold's unit."""
        left, right = gold.unit, answer.unit
        if self.policy.units == "ignore":
            return answer
        if left and right:
            if left.name == right.name:
                return replace(answer, scale=answer.scale * right.scale / left.scale)
            if (left.name, right.name) == ("degree^1", "radian^1"):
                return replace(answer, body=["(", *answer.body, ")", r"\cdot", "180", "/", r"\pi"])
            if right.name != "degree^1" or left.name not in ("celsius^1", "fahrenheit^1"):
                raise _Refused("units_differ")
        degree = [unit is not None and unit.name == "degree^1" for unit in (left, right)]
        if degree == [True, False] and r"\pi" in answer.body and r"\pi" not in gold.body:
            return replace(answer, body=["(", *answer.body, ")", r"\cdot", "180", "/", r"\pi"])
        if degree == [False, True] and r"\pi" in gold.body and r"\pi" not in answer.body:
            return replace(answer, body=["(", *answer.body, ")", r"\cdot", r"\pi", "/", "180"])
        if left and not right and self.policy.units == "required":
            raise _Refused("units_differ")
        return answer

    def _based(self, gold: Tokens, answer: Tokens) -> bool | None:
        """Numbers written to a base: None where neither is. A base that the gold does not have is computed."""
        left, right = (re.fullmatch(r"(-?\d[0-9A-Za-z]*)_\{(\d{1,2})\}", written(one)) for one in (gold, answer))
        if not left and not right:
            return None
        if left and right:
            return left[2] == right[2] and left[1].lower().lstrip("0") == right[1].lower().lstrip("0")
        if left:
            return self.policy.bases == "lenient" and written(answer).lower() == left[1].lower()
        number = read_number(written(gold))
        try:
            return number is not None and number.value == int(right[1], int(right[2]))
        except ValueError:
            return False

    def _ask(self, gold: Tokens, answer: Tokens) -> bool:
        """math-verify's word on two values that it may be trusted with."""
        if _side_by_side(answer) or not known(answer):
            raise _Refused("unreadable")
        if not known(gold) or letters_differ(gold, answer) or signature(gold) != signature(answer):
            return False
        return self._said(mathverify.equal(written(_products(gold)), written(_products(answer)), self.policy.rel_tol, self.policy.approximations))

    def _said(self, outcome: str) -> bool:
        if outcome in ("unreadable", "gold_unreadable"):
            raise _Refused(outcome)
        return outcome == "right"


# ---------------------------------------------------------------------- parts of an answer


def _trimmed(tokens: Tokens) -> Tokens:
    """Without outer blanks, a leading plus, and brackets around the whole that hold one value."""
    while tokens:
        if tokens[0] in (" ", "+"):
            tokens = tokens[1:]
        elif tokens[-1] == " ":
            tokens = tokens[:-1]
        elif tokens[0] in ("(", "{") and closing(tokens, 0) == len(tokens) - 1 and tokens[-1] in (")", "}") and (
            len(split(tokens[1:-1], (",", *PARTING))) == 1 and not is_choice(tokens)
        ):
            tokens = tokens[1:-1]
        else:
            break
    return tokens


def _items(tokens: Tokens) -> list[Tokens]:
    """The values of a bare list; one for a number with thousands separators."""
    parts = split(tokens, PARTING)
    items: list[Tokens] = []
    for part in parts:
        number = _thousands(part)
        items += [number] if number and (len(parts) > 1 or len(number) > 1 + (number[0] == "-")) else split(part, (",",))
    return [one for item in items for one in _both_signs(item)]


def _both_signs(tokens: Tokens) -> list[Tokens]:
    """A plus-minus sign stands for two values."""
    if tokens.count(r"\pm") != 1 or tokens.count(r"\mp") > 1:
        return [tokens]
    return [[{r"\pm": plus, r"\mp": minus}.get(token, token) for token in tokens] for plus, minus in ("+-", "-+")]


def _labelled(item: Tokens) -> bool:
    sides = split(item, ("=",))
    return len(sides) == 2 and is_label(sides[0])


def _thousands(tokens: Tokens) -> Tokens | None:
    """`1,234,567.8` (perhaps with a sign, a currency or a unit around it) with the number as one token, None for anything else."""
    places = [place for place, token in enumerate(tokens) if token == ","]
    if not places or not 0 < places[0] < places[-1] + 1 < len(tokens):
        return None
    text = "".join(tokens[places[0] - 1 : places[-1] + 2])
    if not re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d+)?|\d{1,2}(,\d\d)+,\d{3}(\.\d+)?", text) or len(split(tokens, (",",))) <= len(places):
        return None
    return [*tokens[: places[0] - 1], text.replace(",", ""), *tokens[places[-1] + 2 :]]


def _as_number(tokens: Tokens, other: Number | None) -> list[Tokens]:
    """What a list without blanks may be as one number: thousands, or (where the other side is that decimal) a decimal comma."""
    number = _thousands(tokens)
    comma = re.fullmatch(r"(-?\d+),(\d+)", written(tokens)) if other and other.places and not {*PARTING} & {*tokens} else None
    return ([number] if number else []) + ([[f"{comma[1]}.{comma[2]}"]] if comma else [])


def _solutions(items: list[Tokens]) -> list[Tokens]:
    """`x=1,y=2,x=3,y=4` as tuples, `x=1,y=2` as itself: labelled values whose labels repeat are solutions."""
    sides = [split(item, ("=",)) for item in items]
    if len(items) < 2 or not all(len(pair) == 2 and is_label(pair[0]) for pair in sides):
        return items
    labels = [written(pair[0]) for pair in sides]
    period = labels.index(labels[0], 1) if labels[0] in labels[1:] else len(labels)
    if period == 1 or period == len(labels) or len(labels) % period or labels != labels[:period] * (len(labels) // period):
        return items
    return [
        ["(", *[token for pair in sides[start : start + period] for token in [*pair[1], ";"]][:-1], ")"]
        for start in range(0, len(items), period)
    ]


def _bracketed(tokens: Tokens) -> tuple[str, list[Tokens]] | None:
    """('()', items) and the like for one pair of brackets around several values (or a set of one), else None."""
    if len(tokens) < 3 or tokens[0] not in ("(", "[", r"\{") or closing(tokens, 0) != len(tokens) - 1:
        return None
    inner = tokens[1:-1]
    items = split(inner, (",", *PARTING))
    kind = {r"\{": "{", "[": "[", "(": "("}[tokens[0]] + {r"\}": "}"}.get(tokens[-1], tokens[-1])
    if not all(items) or any(len(item) == 1 and re.fullmatch(r"0\d\d", item[0]) for item in items[1:]) or (len(items) == 1 and kind != "{}") or ("|" in inner and kind == "{}" and len(items) == 1):
        return None
    if kind == "{}":
        items = _items(inner)
    return kind, items


def _without_braces(tokens: Tokens) -> Tokens:
    """The value of a set of one."""
    bracketed = _bracketed(tokens)
    plain = bracketed and len(bracketed[1]) == 1 and {"|", ":", r"\emptyset", r"\{"}.isdisjoint(tokens[1:])
    return bracketed[1][0] if plain else tokens


def _column(tokens: Tokens) -> list[Tokens] | None:
    """The entries of a column vector."""
    if tokens and re.fullmatch(r"\\begin\{[pbv]?matrix\}", tokens[0]) and tokens[-1].startswith(r"\end") and "&" not in tokens:
        return split(tokens[1:-1], ("\\\\",))
    return None


def _without_builder(tokens: Tokens) -> Tokens:
    """The condition of `\\{x | ...\\}`."""
    if tokens[:1] == [r"\{"] and tokens[-1:] == [r"\}"] and closing(tokens, 0) == len(tokens) - 1:
        head, *rest = split(tokens[1:-1], ("|", ":"))
        if len(rest) == 1 and head and (is_label(head) or is_label(split(head, (r"\in",))[0])):
            return rest[0]
    return tokens


def _without_membership(tokens: Tokens) -> Tokens:
    """Without `x \\in` and `x \\to`."""
    left, *rest = split(tokens, (r"\in", r"\to"))
    return rest[0] if len(rest) == 1 and is_label(left) else tokens


def _without_choice(answer: Tokens) -> Tokens:
    """`(C) 42` as 42."""
    if len(answer) > 3 and answer[0] == "(" and answer[2] == ")" and is_choice(answer[:3]) and (answer[3][0].isdigit() or answer[3] in ("\\frac", "\\sqrt", "-", "\\$")):
        return answer[3:]
    return answer


def _without_scope(answer: Tokens) -> Tokens:
    """`f(x)=1 for all x` as `f(x)=1`."""
    for place, token in enumerate(answer[:-1]):
        if place and token == "for" and isinstance(token, Word) and answer[place + 1] in ("all", "every", "any", "each"):
            return answer[:place]
    return answer


def _without_modulus(gold: Tokens, answer: Tokens) -> tuple[Tokens, Tokens]:
    """`2 \\pmod 5` as 2 where the gold is a value; `19 \\bmod 5` computed."""
    if r"\pmod" in answer and r"\pmod" not in gold:
        answer = _trimmed(answer[: answer.index(r"\pmod")])
    for sign in (r"\bmod", r"\mod"):
        if sign in answer and sign not in gold:
            left, right = (read_number(written(part)) for part in [answer[: answer.index(sign)], answer[answer.index(sign) + 1 :]])
            if left and right and right.value > 0 and right.places == left.places == 0:
                answer = [str(left.value % right.value)]
    return gold, answer


def _number_words(tokens: Tokens) -> Tokens:
    """`forty-two` as 42 where that is all, `10 choose 3` as a binomial."""
    words = [token.lower() for token in tokens if token not in ("-", " ")]
    if words and len(words) <= 2 and all(isinstance(token, Word) or token in ("-", " ") for token in tokens):
        values = [NUMBER_WORDS.get(word) for word in words]
        if None not in values and (len(values) == 1 or (values[0] >= 20 and 0 < values[1] < 10)):
            return [str(sum(values))]
    for sign in (r"\choose", "choose"):
        if tokens.count(sign) == 1:
            place = tokens.index(sign)
            if tokens[:place] and tokens[place + 1 :]:
                return [r"\binom", "{", *tokens[:place], "}", "{", *tokens[place + 1 :], "}"]
    return tokens


def _ratios(gold: Tokens, answer: Tokens) -> bool:
    """3:4 against 6:8 or 3/4, but no time of day: that is met by the same text."""
    parts = [split(one, (":",)) for one in (gold, answer)]
    numbers = [[read_number(written(part)) for part in side] for side in parts]
    if not all(number for side in numbers for number in side):
        return False
    if len(parts[0]) == 2 and len(parts[0][1][0]) == 2:
        return False  # a time of day
    sizes = len(parts[0]), len(parts[1])
    if sizes[0] == sizes[1]:
        left, right = [[number.value for number in side] for side in numbers]
        return all(a * right[0] == b * left[0] for a, b in zip(left, right, strict=True)) and any(left) and any(right)
    if sorted(sizes) != [1, 2]:
        return False
    ratio, single = numbers if sizes[0] == 2 else numbers[::-1]
    return single[0].places is None and ratio[1].value != 0 and ratio[0].value / ratio[1].value == single[0].value


def _renamed(gold_label: Tokens, label: Tokens, sides: list[Tokens]) -> list[Tokens] | None:
    """`f(m)=2m` for the gold f(n)=...: with the gold's variable."""
    if len(gold_label) == len(label) == 4 and gold_label[0] == label[0] and label[1] == "(" and label[2].isalpha():
        old, new = label[2], gold_label[2]
        if not any(new in side for side in sides):
            return [[new if token == old else token for token in side] for side in sides]
    return None


_ARTICLES = frozenset({"a", "an", "the"})


def _same_text(gold: Tokens, answer: Tokens) -> bool:
    """The same words in the same order, and the same signs between them; case, articles and a plural s are left out of account."""

    def key(tokens: Tokens) -> list[str]:
        kept = [";" if token in (",", "&&") else token for token in tokens if token not in _ARTICLES and token != '"']
        kept = [token.lower() for token in kept]
        while kept and kept[-1] in (".", "!", ";") and len(kept) > 1 and kept[-1] != "!":
            kept.pop()
        return [word[:-1] if len(word) > 3 and word.isalpha() and word.endswith("s") else word for word in kept]

    return "".join(key(gold)) == "".join(key(answer))


def _without_degrees(tokens: Tokens) -> Tokens:
    out: Tokens = []
    for token in tokens:
        out.append(token)
        if out[-4:] == _DEGREES:
            del out[-4:]
    return out


def _in_radians(tokens: Tokens) -> Tokens:
    """`\\tan 45^\\circ` without the degrees."""
    out: Tokens = []
    while tokens:
        if tokens[1:5] == _DEGREES and tokens[0][0].isdigit():
            out += [r"\frac", "{", tokens[0], r"\pi", "}", "{", "180", "}"]
            tokens = tokens[5:]
        else:
            out, tokens = [*out, tokens[0]], tokens[1:]
    return out


def _scaled(atom: _Atom, body: Tokens, other_percent: bool) -> Tokens:
    scale = atom.scale / (100 if atom.percent and not other_percent else 1)
    return body if scale == 1 else ["(", *body, ")", r"\cdot", r"\frac", "{", str(scale.numerator), "}", "{", str(scale.denominator), "}"]


def _side_by_side(tokens: Tokens) -> bool:
    return any(token == " " and tokens[place - 1][-1:].isdigit() for place, token in enumerate(tokens) if place)


def _products(tokens: Tokens) -> Tokens:
    """As math-verify reads it rightly: 2(3) with the sign of the product (it takes it for 2 + 3), E_1 with another letter."""
    out: Tokens = []
    for place, token in enumerate(tokens):
        if token in ("E", "e") and tokens[place + 1 : place + 2] == ["_"]:
            token = {"E": r"\Xi", "e": r"\xi"}[token]
        out += [r"\cdot", token] if token == "(" and out and out[-1][-1].isdigit() else [token]
    return out


def _plus_only(tokens: Tokens) -> Tokens:
    return [{r"\pm": "+", r"\mp": "-"}.get(token, token) for token in tokens]


def _has_letters(tokens: Tokens) -> bool:
    return any(token.isalpha() for token in tokens)


def _is_relation(tokens: Tokens) -> bool:
    return len(split(tokens, tuple(RELATIONS))) > 1


def _is_set(tokens: Tokens) -> bool:
    """Whether an answer is an interval, a union, a named set, or a set by its condition."""
    if len(_items(tokens)) > 1:
        return False
    tokens = _without_membership(tokens)
    bracketed = _bracketed(tokens)
    if bracketed:
        return (len(bracketed[1]) == 2 and bracketed[0] != "{}") or bracketed[0] == "{}"
    return any(sign in tokens for sign in (*_SET_SIGNS, r"\mathbb{R}", r"\emptyset")) or _without_builder(tokens) != tokens
