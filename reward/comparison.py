"""Plans how two cleaned answers are compared: what words, units, labels and equations mean, by the policy.

A plan is either a decision, or pairs of LaTeX for math-verify. docs/reward.md lists every case.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from . import fastpath
from .bounds import computing_problem
from .config import RewardConfig, RewardConfigError
from .normalize import Clean, clean_gold, with_body
from .units import canonical_unit
from .verdict import Reason

OUTCOMES = {
    "right": Reason.RIGHT, "wrong": Reason.WRONG, "unreadable": Reason.UNREADABLE, "memory": Reason.MEMORY,
    "gold_unreadable": Reason.GOLD_UNREADABLE, "failed": Reason.FAILED, "timeout": Reason.TIMEOUT,
    "crashed": Reason.CRASHED,
}  # fmt: skip
_PLAIN_UNIT = re.compile(r"(.*[\d})])([A-Za-z])")
_MEMBER = re.compile(r"[A-Za-z]\\in (?=.)|[A-Za-z]\\in(?=[^A-Za-z])")


@dataclass(frozen=True)
class Decided:
    """A verdict without a worker."""

    reason: Reason
    pred: str


@dataclass(frozen=True)
class Open:
    """What a worker has to say.

    Attributes:
        alternatives: the answer is right if in any of these every (gold, answer) pair is right.
        pred: canonical form of the answer.
        failing: the reason of a wrong answer.
        policy: what `mathverify.handle` needs of the configuration.
    """

    alternatives: tuple[tuple[tuple[str, str], ...], ...]
    pred: str
    failing: Reason = Reason.WRONG
    policy: dict[str, Any] = field(default_factory=dict)


Pairs = list[tuple[Clean, Clean]]


@lru_cache(maxsize=8192)
def cleaned_gold(text: str, max_chars: int) -> Clean | None:
    """A reference answer in one spelling; None where it is empty or longer than `max_chars`."""
    if len(text) > max_chars:
        return None
    gold = clean_gold(text)
    return gold if gold.body or gold.key else None


def is_list(gold: str, max_chars: int) -> bool:
    """Whether a reference answer is several values without brackets, or a set."""
    cleaned = cleaned_gold(gold, max_chars)
    if cleaned is None or cleaned.wordy:
        return False
    return (len(split_list(cleaned.body)) > 1 and not fastpath.is_thousands(cleaned.body)) or cleaned.body[:2] == r"\{"


def plan(gold: Clean, answer: Clean, config: RewardConfig) -> Decided | Open:
    """How `answer` is compared with `gold`."""
    pred = fastpath.canonical(answer)
    if fastpath.same_text(gold, answer):
        return Decided(_unit_problem(gold, answer, config) or Reason.RIGHT, pred)
    if answer.problem is Reason.PROSE and config.prose == "pass" and not gold.wordy:
        answer = with_body(answer, "")
    elif answer.problem:
        return Decided(answer.problem, pred)
    if gold.wordy or answer.wordy:
        return Decided(Reason.WRONG, pred)  # a text is met by the same text only
    if not answer.body:
        return Decided(Reason.EMPTY, pred)
    answer = _without_plain_unit(gold, answer)
    unit_problem = _unit_problem(gold, answer, config)
    if unit_problem:
        return Decided(unit_problem, pred)
    alternatives, failing, pred = _alternatives(gold, answer, config)
    if not alternatives:
        return Decided(failing, pred)
    open_alternatives = []
    for pairs in alternatives:
        pairs = [part for left, right in pairs for part in _parts(left, right, config)]
        verdicts = [_fast(left, right, config) for left, right in pairs]
        if False in verdicts:
            continue
        left_open = [pair for pair, verdict in zip(pairs, verdicts, strict=True) if verdict is None]
        if not left_open:
            return Decided(Reason.RIGHT, pred)
        open_alternatives.append(left_open)
    if not open_alternatives:
        return Decided(failing, pred)
    problem = computing_problem(answer.body, config)
    if problem:
        return Decided(problem, pred)
    policy = {
        "rel_tol": config.rel_tol,
        "percent": config.percent,
        "relations": config.relations,
        "ordered": config.lists == "ordered",
    }
    as_text = tuple(tuple((_latex(left), _latex(right)) for left, right in pairs) for pairs in open_alternatives)
    return Open(as_text, pred, failing, policy)


def _parts(gold: Clean, answer: Clean, config: RewardConfig) -> Pairs:
    """A tuple or interval against one of the same form: item by item, where it cannot be decided as a whole.

    math-verify reads any two values in brackets as an interval, and refuses those whose ends it does not know to be
    real, such as complex numbers and percents.
    """
    if _fast(gold, answer, config) is None:
        left, right = bracketed(gold.body), bracketed(answer.body)
        if left and right and left[0] == right[0] and len(left[1]) == len(right[1]) > 1:
            return [(_item(gold, g), _item(answer, a)) for g, a in zip(left[1], right[1], strict=True)]
    return [(gold, answer)]


def _item(whole: Clean, body: str) -> Clean:
    return replace(whole, body=body.rstrip("%"), percent=body.endswith("%"))


def bracketed(body: str) -> tuple[str, list[str]] | None:
    """('()', items) and the like for a body that is one pair of round or square brackets around several items."""
    if len(body) < 2 or body[0] not in "([" or body[-1] not in ")]":
        return None
    depth = 0
    for place, char in enumerate(body):
        depth += (char in "{([") - (char in "})]")
        if depth == 0 and place < len(body) - 1:
            return None
    items = split_list(body[1:-1])
    return (body[0] + body[-1], items) if len(items) > 1 and all(items) else None


def _fast(gold: Clean, answer: Clean, config: RewardConfig) -> bool | None:
    if gold.body == answer.body and gold.percent == answer.percent:
        return True
    if fastpath.kinds_clash(gold.body, answer.body, config):
        return False
    return fastpath.decide(gold, answer, config)


def _latex(clean: Clean) -> str:
    return clean.latex + (r"\%" if clean.percent else "")


def _unit_problem(gold: Clean, answer: Clean, config: RewardConfig) -> Reason | None:
    if config.units == "ignore" or gold.unit == answer.unit or not gold.unit:
        return None
    if not answer.unit:
        return Reason.UNITS_DIFFER if config.units == "required" else None
    return Reason.UNITS_DIFFER


def _without_plain_unit(gold: Clean, answer: Clean) -> Clean:
    """`5m` where the gold is 5 metres: the letter is the unit and no variable."""
    if gold.unit and not answer.unit:
        match = _PLAIN_UNIT.fullmatch(answer.body)
        if match and canonical_unit([match[2]]) == gold.unit:
            return with_body(answer, match[1])
    return answer


# ---------------------------------------------------------------------- labels, equations, approximations


def _alternatives(gold: Clean, answer: Clean, config: RewardConfig) -> tuple[list[Pairs], Reason, str]:
    """(alternatives, reason of a wrong answer, canonical answer)."""
    gold_bodies = _gold_readings(gold.body)
    body = _MEMBER.sub("", answer.body) if r"\in" in answer.body and answer.body.count(r"\in") == 1 else answer.body
    if r"\approx" in body:
        # The exact side counts; behind a bare label it is the value.
        first, rest = body.split(r"\approx", 1)
        body = rest if fastpath.is_label(first) and r"\approx" not in rest else first
    body = body.strip()
    labelled = _labelled_list(body)
    if labelled:
        return _labelled_alternatives(gold, gold_bodies, answer, body, labelled)
    sides = fastpath.sides(body)
    if len(sides) == 1 or not all(sides):
        pred = fastpath.canonical(with_body(answer, body))
        alternatives = []
        for reading in gold_bodies:
            gold_sides = fastpath.sides(reading)
            gold_labelled = _labelled_list(reading)
            if gold_labelled:
                reading = _listed(gold_labelled)
            elif len(gold_sides) == 2 and all(gold_sides) and fastpath.is_label(gold_sides[0]):
                reading = gold_sides[1]
            alternatives.append([(with_body(gold, reading), with_body(answer, body))])
        return alternatives, Reason.WRONG, pred
    values = sides[1:] if fastpath.is_label(sides[0]) else sides
    whole = len(values) > 1 and any("=" in reading for reading in gold_bodies)
    pred = fastpath.canonical(with_body(answer, body if whole else values[-1]))
    if len(values) > 1 and config.chains == "refuse" and not any("=" in reading for reading in gold_bodies):
        return [], Reason.CHAIN, pred
    alternatives = []
    for reading in gold_bodies:
        gold_sides = fastpath.sides(reading)
        if len(gold_sides) == 1:
            target = with_body(gold, reading)
            alternatives.append([(target, with_body(answer, value)) for value in values])
        elif fastpath.is_label(gold_sides[0]) and len(gold_sides) == 2 and sides[0].lower() == gold_sides[0].lower():
            target = with_body(gold, gold_sides[1])
            alternatives.append([(target, with_body(answer, value)) for value in values])
        elif len(sides) <= len(gold_sides):
            alternatives.append([(with_body(gold, reading), with_body(answer, body))])
    failing = Reason.CHAIN if len(values) > 1 and not any("=" in reading for reading in gold_bodies) else Reason.WRONG
    return alternatives, failing if alternatives else Reason.CHAIN, pred


def _gold_readings(body: str) -> list[str]:
    """The gold as it stands, without a membership, and both sides of an approximation."""
    if r"\in" in body and body.count(r"\in") == 1:
        body = _MEMBER.sub("", body)
    if r"\approx" in body:
        readings = [side.strip() for side in body.split(r"\approx") if side.strip()]
        kept = [side for side in readings if not fastpath.is_label(side)]
        return kept or readings
    return [body.strip()]


def value_readings(body: str) -> list[str]:
    """The texts that have to be readable for a gold to be usable: its values, without labels."""
    out = []
    for reading in _gold_readings(body):
        labelled = _labelled_list(reading)
        sides = fastpath.sides(reading)
        if labelled:
            out += [value for _label, value in labelled]
        elif len(sides) == 2 and all(sides) and fastpath.is_label(sides[0]):
            out.append(sides[1])
        else:
            out.append(reading)
    return [item for body in out for item in (bracketed(body) or ("", [body]))[1]]


def _labelled_list(body: str) -> list[tuple[str, str]] | None:
    """(label, value) pairs of `x=1;y=2`; None where the body is no such list."""
    items = split_list(body)
    if len(items) < 2:
        return None
    pairs = []
    for item in items:
        sides = fastpath.sides(item)
        if len(sides) != 2 or not all(sides) or not fastpath.is_label(sides[0]):
            return None
        pairs.append((sides[0], sides[1]))
    return pairs


def _labelled_alternatives(
    gold: Clean, gold_bodies: list[str], answer: Clean, body: str, labelled: list[tuple[str, str]]
) -> tuple[list[Pairs], Reason, str]:
    """`x=1, y=2` against the same labels, or against bare values in the same order."""
    labels = [label for label, _value in labelled]
    values = ";".join(value for _label, value in labelled)
    pred = fastpath.canonical(with_body(answer, values if len(set(labels)) == 1 else body))
    alternatives: list[Pairs] = []
    for reading in gold_bodies:
        gold_labelled = _labelled_list(reading)
        if gold_labelled and len(set(labels)) == len(labels):
            if sorted(labels) == sorted(label for label, _value in gold_labelled):
                by_label = dict(labelled)
                alternatives.append(
                    [(with_body(gold, v), with_body(answer, by_label[name])) for name, v in gold_labelled]
                )
        elif gold_labelled:
            gold_values = ";".join(value for _label, value in gold_labelled)
            if {label for label, _value in gold_labelled} == set(labels):
                alternatives.append([(with_body(gold, gold_values), with_body(answer, values))])
        elif "=" not in reading:
            alternatives.append([(with_body(gold, reading), with_body(answer, _listed(labelled)))])
    return alternatives, Reason.WRONG, pred


def _listed(labelled: list[tuple[str, str]]) -> str:
    """The values alone: a list for one label (x=1, x=2, or x_1=1, x_2=2), a tuple for several (x=1, y=2)."""
    values = ";".join(value for _label, value in labelled)
    names = {label.split("_")[0] for label, _value in labelled}
    return values if len(names) == 1 else f"({values})"


def split_list(body: str) -> list[str]:
    """The items of a bare list, split at commas and semicolons outside brackets."""
    items, depth, start = [], 0, 0
    for place, char in enumerate(body):
        if char in "{([":
            depth += 1
        elif char in "})]":
            depth -= 1
        elif char in ",;" and depth <= 0:
            items.append(body[start:place])
            start = place + 1
    items.append(body[start:])
    return items


# ---------------------------------------------------------------------- length shaping


def overlong_penalty(solution: Any, extra_info: Mapping | None, config: RewardConfig) -> float:
    """The soft penalty for length: 0 up to limit - buffer, then rising linearly to overlong_penalty at the limit.

    Raises:
        RewardConfigError: overlong_unit is 'tokens' and extra_info holds no `response_length`.
    """
    if config.overlong_unit == "tokens":
        length = extra_info.get("response_length") if isinstance(extra_info, Mapping) else None
        if length is None:
            raise RewardConfigError(
                "overlong_unit=tokens needs extra_info['response_length']; verl does not give it: use overlong_unit=chars, "
                "or verl's own dapo reward manager"
            )
    else:
        length = len(solution) if isinstance(solution, str) else 0
    over = float(length) - (config.overlong_limit - config.overlong_buffer)
    if over <= 0:
        return 0.0
    return config.overlong_penalty * (min(1.0, over / config.overlong_buffer) if config.overlong_buffer else 1.0)
