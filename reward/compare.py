"""What right means: how an answer is held against the gold, item by item and value by value, before math-verify is asked.

Runs in the workers, under their clock. docs/reward.md lists every case. Lists, tuples, sets and intervals are taken apart here,
words, units, labels and signs are judged here; math-verify compares the single values, of which it is only given what it reads in full.
"""

from __future__ import annotations

import contextlib
import random
import re
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from sympy.core.random import seed as sympy_seed

from . import guard, mathverify, parts, value
from .guard import Refused
from .latex import PARTING, Tokens, Word, split, tokens_of, written
from .plain import equal_numbers, read_number

_MAX_ITEMS = 64
_SELF_TEST = {
    "tasks": "refuse", "chains": "all_sides", "units": "optional", "counted_nouns": "known", "percent": "lenient", "bases": "lenient",
    "lists": "unordered", "tuple_brackets": "optional", "relations": "as_sets", "approximations": "rational", "rel_tol": 1e-6,
    "max_digits": 200, "max_exponent": 10_000,
}  # fmt: skip


# ---------------------------------------------------------------------- requests


def prepare() -> None:
    """Mends, warms and tests math-verify.

    Raises:
        RuntimeError: a guard.known answer is judged wrongly, so that no verdict could be trusted.
    """
    mathverify.mend()
    for text in mathverify.WARM_UP:
        mathverify.equal(text, text + " ", 1e-6, "rational")
    for gold, answer, expected in (
        (r"50\%", "0.5", "right"), (r"\frac{1}{3}+\sqrt{2}", r"\sqrt{2}+1/3", "right"), ("x^2-1", "(x-1)(x+1)", "right"),
        ("1e-7", "2e-7", "wrong"), ("42", "41", "wrong"), ("[0,1)", "(0,1]", "wrong"), (r"\ln 4", r"2\ln 3", "wrong"),
    ):  # fmt: skip
        found = handle({"op": "judge", "gold": gold, "answer": answer, "policy": _SELF_TEST})["reason"]
        if found != expected:
            raise RuntimeError(f"math-verify's self-test failed: gold {gold!r}, answer {answer!r}: {found}")


def handle(request: dict[str, Any]) -> dict[str, Any]:
    """One request: `judge` (gold, answer, policy), `read` (is this gold readable?) or `probe` (what is loaded here?).

    A policy is what `RewardConfig.policy` gives.

    Returns:
        {'reason': a name of `verdict.Reason` in lower case, 'pred': the answer in one spelling}; for `probe` what it found.
    """
    sympy_seed(0)  # sympy tries random points; the same pair must get the same verdict every time
    random.seed(0)
    if request["op"] == "probe":
        held = bytearray(request.get("allocate_mb", 0) << 20)  # tries the memory limit
        return {"modules": sorted(name for name in sys.modules if "." not in name), "allocated": len(held)}
    policy = SimpleNamespace(**request["policy"])
    gold = tokens_of(request["gold"])
    if request["op"] == "read":
        return {"reason": "right" if gold and Comparison(policy).readable(gold) else "gold_unreadable"}
    answer = tokens_of(request["answer"])
    try:
        reason = _judged(gold, answer, policy)
    except Refused as refused:
        reason = str(refused)
        if reason == "gold_unreadable" and gold and Comparison(policy).readable(gold):
            reason = "unreadable"  # whether a gold can be read does not depend on the answer
    except RecursionError:
        reason = "too_deep"
    return {"reason": reason, "pred": canonical(answer)}


def _judged(gold: Tokens, answer: Tokens, policy: SimpleNamespace) -> str:
    if not gold:
        return "gold_unreadable"
    if gold != answer:
        problem = guard.answer_problem(answer, policy.max_digits, policy.max_exponent)
        if problem or (policy.tasks == "refuse" and guard.task_left(answer) and not guard.task_left(gold)):
            return problem or "unsolved"
    return "right" if Comparison(policy).meets(parts.without_braces(gold), parts.without_braces(answer)) else "wrong"


def canonical(tokens: Tokens) -> str:
    """One string for equal answers, as far as that is cheap; verl's majority votes count by it."""
    tokens = parts.value_behind_label(tokens) or tokens
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

    def __init__(self, policy: SimpleNamespace) -> None:
        self.policy = policy

    def meets(self, gold: Tokens, answer: Tokens) -> bool:
        """Whether the answer is the gold."""
        gold, answer = parts.trimmed(gold), parts.trimmed(answer)
        if not answer:
            raise Refused("empty")
        if gold == answer:
            return True
        if choice := guard.is_choice(gold):
            return guard.is_choice(answer, leading=True) == choice
        answer = parts.without_choice(answer)
        if self.is_text(gold):
            return value.same_text(gold, answer)
        answer = parts.without_scope(parts.concluded(answer))
        gold_items, answer_items = parts.items_of(gold), parts.items_of(answer)
        if len(gold_items) > 1 or len(answer_items) > 1:
            return self._lists(gold_items, answer_items, gold, answer)
        if any(len(split(one, ("=", r"\approx", r"\in", r"\to", r"\equiv"))) > 1 for one in (gold, answer)):
            return self._equations(gold, answer)
        return self._values(gold, answer)

    def is_text(self, gold: Tokens) -> bool:
        """Whether the gold is words (perhaps with maths among them) and no value with a unit or a label."""
        if not any(isinstance(token, Word) for token in gold) or len(parts.items_of(gold)) > 1:
            return False
        return any(isinstance(token, Word) for token in value.atom_of(parts.value_behind_label(gold) or gold, nouns=True).body)

    def readable(self, gold: Tokens) -> bool:
        """Whether every value of a gold is a text, a number, or something that math-verify parses."""
        gold = parts.trimmed(gold)
        if not gold:
            return False
        if guard.is_choice(gold) or self.is_text(gold):
            return True
        items, bracketed = parts.items_of(gold), parts.bracket_of(gold)
        if len(items) > 1 or bracketed:
            return all(map(self.readable, items if len(items) > 1 else bracketed[1]))
        sides = [parts.trimmed(side) for side in split(gold, ("=", r"\approx", r"\in"))]
        if len(sides) == 2 and all(sides) and guard.is_label(sides[0]):
            return self.readable(sides[1])
        body = [{r"\pm": "+", r"\mp": "-"}.get(token, token) for token in value.atom_of(gold, nouns=True).body]
        if read_number(written(body)):
            return True
        return not guard.side_by_side(body) and (not guard.known(body) or mathverify.parse(written(guard.as_parsed(body))) is not None)

    # ---------------------------------------------------------------- several values

    def _lists(self, gold_items: list[Tokens], answer_items: list[Tokens], gold: Tokens, answer: Tokens) -> bool:
        """Several values without brackets, at least on one side."""
        if any(map(parts.is_relation, gold_items + answer_items)) and (parts.is_set(gold) or parts.is_set(answer) or len(gold_items) != len(answer_items)):
            return self._as_sets(gold_items, answer_items, _joined(gold), _joined(answer))
        if ("||" in gold) != ("||" in answer) and any(map(self.is_text, gold_items)) and len(gold_items) == len(answer_items):
            return False  # Alice or Bob is not Alice and Bob
        if any(map(parts.is_relation, gold_items)) and {"||", "&&"} <= {*gold, *answer} and not {"||", "&&"} <= {*gold}:
            return False  # x>2 or x<-2 is not x>2 and x<-2
        gold_items, answer_items = parts.solutions_of(gold_items), parts.solutions_of(answer_items)
        names = parts.labels_of(gold_items), parts.labels_of(answer_items)
        if len(gold_items) == len(names[0]) == len(set(names[0])) == len(answer_items) > 1 and sorted(names[0]) == sorted(names[1]):
            return ("||" in gold) == ("||" in answer) and self._all_meet(gold_items, [answer_items[names[1].index(name)] for name in names[0]], ordered=True)
        if len(gold_items) > 1 and len(answer_items) > 1:
            named = None not in map(parts.value_behind_label, gold_items) and not any(map(parts.value_behind_label, answer_items))
            return self._all_meet(gold_items, answer_items, self.policy.lists == "ordered" or named)
        is_gold = len(gold_items) > 1
        several, single = (gold_items, answer) if is_gold else (answer_items, gold)
        sides = split(single, ("=", r"\in"))
        if len(sides) == 2 and guard.is_label(sides[0]):
            single = sides[1]

        def ordered(several: Any, single: Any) -> tuple[Any, Any]:
            return (several, single) if is_gold else (single, several)

        for number in parts.as_number(gold if is_gold else answer, read_number(written(single)), is_gold):
            if self.meets(*ordered(number, single)):
                return True
        if not is_gold and "||" in answer and "&&" not in answer:  # 1/2 or 0.5: one value, said twice
            return all(self.meets(gold, item) for item in answer_items)
        bracketed = parts.bracket_of(single)
        labels = parts.labels_of(several)
        if len(set(labels)) < len(labels):
            return False  # x=1, x=2 is no point
        if not bracketed or any(len(item) == 1 and re.fullmatch("0\\d+", item[0]) for item in several):
            return False
        kind, items = bracketed
        if kind == "{}":
            return self._all_meet(*ordered(several, items))
        tuples = kind == "()" or (kind == "[]" and len(items) != 2)
        return tuples and self.policy.tuple_brackets == "optional" and self._all_meet(*ordered(several, items), ordered=True)

    def _all_meet(self, gold: list[Tokens], answer: list[Tokens], ordered: bool = False) -> bool:
        """Whether each item of the gold has one of the answer's."""
        if len(gold) != len(answer) or not 0 < len(gold) <= _MAX_ITEMS:
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

    def _as_sets(self, gold: list[Tokens], answer: list[Tokens], *both: bool | None) -> bool:
        """Sets, intervals and relations of one unknown, as sets of numbers; `both`: see `mathverify.equal_sets`."""
        if self.policy.relations == "same_form":
            return False
        self._refuse_task(gold, answer)
        bodies = [[parts.without_membership(parts.without_builder(item)) for item in items] for items in (gold, answer)]
        bodies = [[parts.value_behind_label(body) or body for body in items] for items in bodies]
        if not all(guard.known(body) for items in bodies for body in items):
            return False
        return self._said(mathverify.equal_sets(*(list(map(written, items)) for items in bodies), both or (False, False)))

    def _refuse_task(self, gold: list[Tokens], answer: list[Tokens]) -> None:
        """An inequality that is left to be solved, where the gold's are solved, is the task."""
        if self.policy.tasks == "refuse" and all(map(parts.is_solved, gold)) and not all(map(parts.is_solved, answer)):
            raise Refused("unsolved")

    # ---------------------------------------------------------------- equations and labels

    def _equations(self, gold: Tokens, answer: Tokens) -> bool:
        """Labels, chains, equations, memberships and approximations."""
        gold, answer = (parts.without_membership(_exact(one)) for one in (gold, answer))
        if r"\equiv" in answer and r"\equiv" not in gold:
            left, *rest = split(answer, (r"\equiv",))
            if len(rest) == 1 and guard.is_label(left):
                answer = rest[0][: rest[0].index(r"\pmod")] if r"\pmod" in rest[0] else rest[0]
        gold_sides, sides = [[parts.trimmed(s) for s in split(one, ("=",))] for one in (gold, answer)]
        if not all(gold_sides) or not all(sides):
            raise Refused("unreadable")
        if len(sides) == 1 and len(gold_sides) == 1:
            return answer == gold or self._values(gold, answer)
        if len(sides) == 1:
            named = guard.is_label(gold_sides[0]) or (":" in gold_sides[0] and ":" in answer)
            lengths = guard.is_quantity(gold_sides[0]) and all(token.isupper() for token in gold_sides[0] if token.isalpha())
            return (named or (lengths and not parts.has_letters(gold_sides[-1]))) and self.meets(gold_sides[-1], answer)
        if len(gold_sides) == 1:
            return self._chain(gold, sides)
        labels = gold_sides[0], sides[0]
        same = len({written(label).lower().replace(", ", ",") for label in labels}) == 1  # (x,y) and (x, y)
        if all(map(guard.is_label, labels)) and len(gold_sides) == 2:
            if same:
                return self._chain(gold_sides[1], sides)
            others = parts.renamed(*labels, sides)
            functions = any("(" in label for label in labels) and all("(" in label or label == ["y"] for label in labels)
            figures = any(token[0].isdigit() for label in labels if "(" in label for token in label[label.index("(") :])
            if others or (functions and not figures and (["y"] in labels or labels[0][1:] == labels[1][1:])):  # f(x) and y, f(x) and g(x)
                return self._chain(gold_sides[1], others or sides)
            if figures and any("(" in label for label in labels):
                return False  # f(2) is not f(3)
        if len(gold_sides) == len(sides) == 2 and labels[0][:1] == ["("] and not same:
            return False  # (x,y) is not (y,x)
        if len(sides) > 2 or len(gold_sides) > 2:
            return len(sides) == len(gold_sides) and self._all_meet(gold_sides, sides, ordered=True)
        return self._ask(gold, answer)

    def _chain(self, gold: Tokens, sides: list[Tokens]) -> bool:
        """An answer with equals signs against a value: behind a label every side must be right."""
        if len(sides) > 1 and sides[0] == sides[-1] and guard.is_label(sides[0]):
            return False  # x = x
        if not guard.is_task(gold) and self.policy.tasks == "refuse":
            sides = [side for side in sides if not guard.begins_with_task(side)] or sides  # the task is done
        values = sides
        if guard.is_label(sides[0]) or (guard.is_quantity(sides[0]) and not guard.is_label(sides[-1])):
            values = sides[1:]
        elif len(sides) == 2 and guard.is_label(sides[1]):
            values = sides[:1]
        while len(values) > 1 and guard.is_label(values[0]):
            values = values[1:]  # x = y = 5
        if not values:
            raise Refused("unsolved")  # a name and a task are no value
        if len(values) > 1 and self.policy.chains == "refuse":
            raise Refused("chain")
        if all(self.meets(gold, side) for side in values):
            return True
        if len(values) > 1:
            raise Refused("chain")
        return False

    # ---------------------------------------------------------------- one value

    def _values(self, gold: Tokens, answer: Tokens) -> bool:
        """One value against one: brackets, then the maths in them."""
        builders = parts.builder(gold), parts.builder(answer)
        if all(builders):
            return builders[0][0] == builders[1][0] and self._as_sets(*(parts.items_of(one[1]) for one in builders), *(_joined(one[1]) for one in builders))
        conditions = parts.without_builder(gold), parts.without_builder(answer)
        if conditions != (gold, answer):
            return self.meets(*conditions)  # x<3 or x>5
        relations = parts.is_relation(gold), parts.is_relation(answer)
        sets = parts.is_set(gold), parts.is_set(answer)
        if relations[0] != relations[1] and any(sets):
            return self._as_sets([gold], [answer])
        unknowns = [{token for token in one if token.isalpha()} for one in (gold, answer)]
        if all(relations) and unknowns[0] == unknowns[1]:
            self._refuse_task([gold], [answer])
            return self._ask(gold, answer) or (len(unknowns[0]) == 1 and self._as_sets([gold], [answer]))
        brackets = parts.bracket_of(gold), parts.bracket_of(answer)
        if not all(brackets) and (all(sets) or any(sign in one for one in (gold, answer) for sign in parts.SET_SIGNS)):
            return self._as_sets([gold], [answer])
        if not any(brackets):
            return self._single(gold, answer)
        (gold_kind, gold_items), (kind, items) = (b or ("", [one]) for b, one in zip(brackets, (gold, answer), strict=True))
        if {gold_kind, kind} == {"()", ""}:
            gold_items, items = (gold_items, parts.column_of(answer)) if gold_kind else (parts.column_of(gold), items)
        elif gold_kind != kind:
            return False
        return bool(gold_items and items) and self._all_meet(gold_items, items, ordered=kind != "{}")

    def _single(self, gold_tokens: Tokens, answer_tokens: Tokens) -> bool:
        """One number or expression against one."""
        policy = self.policy
        gold = value.atom_of(gold_tokens, nouns=True)
        counted = gold.unit is not None and gold.unit.name.startswith("noun ")
        answer = value.atom_of(answer_tokens, not parts.has_letters(gold.body), counted, policy.counted_nouns == "any")
        if answer.unit and not gold.unit:
            gold = value.atom_of(gold_tokens, units_of_letters=True)
        if any(isinstance(token, Word) for token in answer.body):
            raise Refused("prose")
        answer = value.converted(gold, answer, policy.units)
        if not answer.body:
            raise Refused("empty")
        if ":" in gold.body or ":" in answer.body:
            return value.ratios(gold.body, answer.body)
        body = value.without_modulus(gold.body, answer.body)
        of_bases = value.based(gold.body, body, policy.bases == "lenient")
        if of_bases is not None:
            return of_bases
        numbers = [read_number(written(one)) for one in (gold.body, body)]
        if all(numbers):
            left, right = (
                replace(number, value=number.value * atom.scale, percent=atom.percent)
                for number, atom in zip(numbers, (gold, answer), strict=True)
            )
            return equal_numbers(left, right, policy.rel_tol, policy.percent == "lenient")
        bodies = [value.plain(number, one) for number, one in zip(numbers, (gold.body, body), strict=True)]
        return self._ask(value.scaled(gold, bodies[0], answer.percent), value.scaled(answer, bodies[1], gold.percent))

    def _ask(self, gold: Tokens, answer: Tokens) -> bool:
        """math-verify's word on two values that it may be trusted with."""
        if guard.side_by_side(answer) or not guard.known(answer) or (r"\infty" in answer and answer[:-1] not in ([], ["-"], ["+"]) and not parts.is_relation(answer)):
            raise Refused("unreadable")
        if not guard.known(gold) or guard.letters_differ(gold, answer) or guard.signature(gold) != guard.signature(answer):
            return False
        texts = written(guard.as_parsed(gold)), written(guard.as_parsed(answer))
        return self._said(mathverify.equal(*texts, self.policy.rel_tol, self.policy.approximations))

    def _said(self, outcome: str) -> bool:
        if outcome in ("unreadable", "gold_unreadable"):
            raise Refused(outcome)
        return outcome == "right"


def _joined(tokens: Tokens) -> bool | None:
    """Whether values are joined by `and`; None by commas."""
    return True if "&&" in tokens else False if "||" in tokens else None


def _exact(tokens: Tokens) -> Tokens:
    """Of an approximation the exact side, or what stands behind a label."""
    sides = split(tokens, (r"\approx",))
    numbers = [number.value for side in sides if (number := read_number(written(side)))]
    if any(abs(number - numbers[0]) > abs(numbers[0]) / 10 for number in numbers):
        raise Refused("chain")  # 7 is not about 1000
    labelled = len(sides) == 2 and (not sides[0] or guard.is_label(sides[0]))
    return sides[1] if labelled else sides[0]
