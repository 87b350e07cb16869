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
from typing import Any

from sympy.core.random import seed as sympy_seed

from . import mathverify
from .atom import atom_of, converted, scaled, without_degrees
from .guard import (
    Refused,
    answer_problem,
    is_choice,
    is_label,
    is_quantity,
    known,
    letters_differ,
    signature,
    task_left,
)
from .latex import PARTING, Tokens, Word, split, tokens_of, written
from .parts import (
    SET_SIGNS,
    as_number,
    as_parsed,
    bracket_of,
    column_of,
    has_letters,
    is_relation,
    is_set,
    items_of,
    labelled,
    plus_only,
    ratios,
    renamed_sides,
    same_text,
    side_by_side,
    solutions_of,
    trimmed,
    without_braces,
    without_builder,
    without_choice,
    without_membership,
    without_modulus,
    without_scope,
)
from .plain import equal_numbers, read_number

_PACKAGES = ("math-verify", "latex2sympy2_extended", "sympy", "antlr4-python3-runtime")
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
    gold = tokens_of(request["gold"], trusted=True)
    if request["op"] == "read":
        return {"reason": "right" if gold and Comparison(policy).readable(gold) else "gold_unreadable", "pred": ""}
    answer = tokens_of(request["answer"])
    pred = canonical(answer)
    if not gold:
        return {"reason": "gold_unreadable", "pred": pred}
    try:
        if gold != answer:
            _refuse(answer_problem(answer, policy.max_digits, policy.max_exponent))
            _refuse("unsolved" if policy.tasks == "refuse" and task_left(answer) and not task_left(gold) else None)
        reason = "right" if Comparison(policy).meets(without_braces(gold), without_braces(answer)) else "wrong"
    except Refused as refused:
        reason = str(refused)
    except RecursionError:
        reason = "too_deep"
    return {"reason": reason, "pred": pred}


def _refuse(reason: str | None) -> None:
    if reason:
        raise Refused(reason)


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
    """Holds answers against golds under one policy. Methods raise `Refused` where the answer must not be judged further."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def meets(self, gold: Tokens, answer: Tokens) -> bool:
        """Whether the answer is the gold."""
        gold, answer = trimmed(gold), trimmed(answer)
        if gold == answer and answer:
            return True
        if not answer:
            raise Refused("empty")
        if r"\circ" in gold and r"\circ" not in answer and without_degrees(gold) == answer:
            return True
        choice = is_choice(gold)
        if choice:
            return is_choice(answer, leading=True) == choice
        answer = without_choice(answer)
        if self.is_text(gold):
            return same_text(gold, answer)
        answer = without_scope(answer)
        gold_items, answer_items = items_of(gold), items_of(answer)
        if len(gold_items) > 1 or len(answer_items) > 1:
            return self._lists(gold_items, answer_items, gold, answer)
        if any(len(split(one, ("=", r"\approx", r"\in", r"\to", r"\equiv"))) > 1 for one in (gold, answer)):
            return self._equations(gold, answer)
        return self._values(gold, answer)

    def is_text(self, gold: Tokens) -> bool:
        """Whether the gold is words (perhaps with maths among them) and no value with a unit or a label."""
        if not any(isinstance(token, Word) for token in gold) or len(items_of(gold)) > 1:
            return False
        sides = split(gold, ("=",))
        if len(sides) == 2 and is_label(sides[0]):
            gold = sides[1]
        return any(isinstance(token, Word) for token in atom_of(gold, nouns=True).body)

    def readable(self, gold: Tokens) -> bool:
        """Whether every value of a gold is a text, a number, or something that math-verify parses."""
        gold = trimmed(gold)
        if not gold:
            return False
        if is_choice(gold) or self.is_text(gold):
            return True
        items = items_of(gold)
        bracketed = bracket_of(gold)
        if len(items) > 1 or bracketed:
            return all(map(self.readable, items if len(items) > 1 else bracketed[1]))
        sides = [trimmed(side) for side in split(gold, ("=", r"\approx", r"\in"))]
        if len(sides) == 2 and all(sides) and is_label(sides[0]):
            return self.readable(sides[1])
        body = atom_of(gold, nouns=True).body
        if side_by_side(body) and not read_number(written(body)):
            return False
        return bool(read_number(written(body))) or not known(body) or mathverify.parse(written(as_parsed(plus_only(body)))) is not None

    # ---------------------------------------------------------------- several values

    def _lists(self, gold_items: list[Tokens], answer_items: list[Tokens], gold: Tokens, answer: Tokens) -> bool:
        """Several values without brackets, at least on one side."""
        if any(map(is_relation, gold_items + answer_items)) and (is_set(gold) or is_set(answer)):
            return self._as_sets(gold_items, answer_items)
        if any(map(is_relation, gold_items)) and {"||", "&&"} <= {*gold, *answer} and not {"||", "&&"} <= {*gold}:
            return False
        gold_items, answer_items = solutions_of(gold_items), solutions_of(answer_items)
        if len(gold_items) > 1 and len(answer_items) > 1:
            named = all(map(labelled, gold_items)) and not any(map(labelled, answer_items))
            return self._in_any_order(gold_items, answer_items, self.policy.lists == "ordered" or named)
        several, single, is_gold = (gold_items, answer, True) if len(gold_items) > 1 else (answer_items, gold, False)
        if len(several) == 1:  # one solution of several unknowns
            return self.meets(gold_items[0], answer_items[0])
        sides = split(single, ("=", r"\in"))
        if len(sides) == 2 and is_label(sides[0]):
            single = sides[1]
        for number in as_number(gold if is_gold else answer, read_number(written(single))):
            if self.meets(*((number, single) if is_gold else (single, number))):
                return True
        return self._listed(several, single, is_gold)

    def _listed(self, several: list[Tokens], single: Tokens, is_gold: bool) -> bool:
        """A bare list against one thing: a tuple or a set of as many values."""
        bracketed = bracket_of(single)
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
                with contextlib.suppress(Refused):  # another one may be the item's match
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
            bodies = [without_membership(without_builder(item)) for item in items]
            bodies = [split(body, ("=",))[-1] if is_label(split(body, ("=",))[0]) else body for body in bodies]
            if not all(map(known, bodies)):
                return False
            texts.append([written(body) for body in bodies])
        return self._said(mathverify.equal_sets(*texts))

    # ---------------------------------------------------------------- equations and labels

    def _equations(self, gold: Tokens, answer: Tokens) -> bool:
        """Labels, chains, equations, memberships and approximations."""
        gold, answer = self._exact(gold), self._exact(answer)
        gold, answer = without_membership(gold), without_membership(answer)
        if r"\equiv" in answer and r"\equiv" not in gold:
            left, *rest = split(answer, (r"\equiv",))
            if len(rest) == 1 and is_label(left):
                answer = rest[0][: rest[0].index(r"\pmod")] if r"\pmod" in rest[0] else rest[0]
        if r"\equiv" in gold or r"\equiv" in answer:
            return False
        gold_sides, sides = [[trimmed(s) for s in split(one, ("=",))] for one in (gold, answer)]
        if not all(gold_sides) or not all(sides):
            raise Refused("unreadable")
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
            renamed = renamed_sides(*labels, sides)
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
        while len(values) > 1 and is_label(values[0]):
            values = values[1:]  # x = y = 5
        if len(values) > 1 and self.policy.chains == "refuse":
            raise Refused("chain")
        if not all(self.meets(gold, value) for value in values):
            if len(values) > 1:
                raise Refused("chain")
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
        conditions = without_builder(gold), without_builder(answer)
        if conditions[0] != gold and conditions[1] != answer:
            return self._as_sets([gold], [answer])
        gold, answer = conditions
        relations = is_relation(gold), is_relation(answer)
        if relations[0] != relations[1] and (is_set(gold) or is_set(answer)):
            return self._as_sets([gold], [answer])
        if all(relations) and {token for token in gold if token.isalpha()} == {token for token in answer if token.isalpha()}:
            return self._ask(gold, answer) or self._as_sets([gold], [answer])
        if any(sign in one for one in (gold, answer) for sign in SET_SIGNS) or (is_set(gold) and is_set(answer)):
            brackets = bracket_of(gold), bracket_of(answer)
            if not all(brackets):
                return self._as_sets([gold], [answer])
        brackets = bracket_of(gold), bracket_of(answer)
        if any(brackets):
            (gold_kind, gold_items), (kind, items) = (b or ("", [one]) for b, one in zip(brackets, (gold, answer), strict=True))
            if gold_kind == kind:
                return self._in_any_order(gold_items, items, ordered=kind != "{}")
            if {gold_kind, kind} == {"()", ""}:
                column = column_of(answer if gold_kind else gold)
                if column:
                    return self._in_any_order(*((gold_items, column) if gold_kind else (column, items)), ordered=True)
            return False
        return self._single(gold, answer)

    def _single(self, gold_tokens: Tokens, answer_tokens: Tokens) -> bool:
        """One number or expression against one."""
        gold = atom_of(gold_tokens, nouns=True)
        counted = gold.unit is not None and gold.unit.name.startswith("noun ")
        any_noun = self.policy.counted_nouns == "any"
        answer = atom_of(answer_tokens, not has_letters(gold.body), counted, any_noun)
        if answer.unit and not gold.unit:
            gold = atom_of(gold_tokens, units_of_letters=True)
        if any(isinstance(token, Word) for token in answer.body):
            raise Refused("prose")
        answer = converted(gold, answer, self.policy.units)
        if not answer.body:
            raise Refused("empty")
        if ":" in gold.body or ":" in answer.body:
            return ratios(gold.body, answer.body)
        gold_body, body = without_modulus(gold.body, answer.body)
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
        return self._ask(scaled(gold, gold_body, answer.percent), scaled(answer, body, gold.percent))

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
        if side_by_side(answer) or not known(answer):
            raise Refused("unreadable")
        if not known(gold) or letters_differ(gold, answer) or signature(gold) != signature(answer):
            return False
        return self._said(mathverify.equal(written(as_parsed(gold)), written(as_parsed(answer)), self.policy.rel_tol, self.policy.approximations))

    def _said(self, outcome: str) -> bool:
        if outcome in ("unreadable", "gold_unreadable"):
            raise Refused(outcome)
        return outcome == "right"
