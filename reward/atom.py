"""One value taken apart: its maths, a magnitude or unit behind it, a percent sign; and brought into another unit. Runs in the workers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

from .guard import TRIGONOMETRY, Refused
from .latex import RELATIONS, Tokens, Word
from .parts import trimmed
from .words import MAGNITUDES, NEUTRAL, NUMBER_WORDS, PLAIN_LETTERS, Unit, unit_of

_DEGREES = ["^", "{", r"\circ", "}"]


@dataclass(frozen=True)
class Atom:
    """A single value taken apart: its maths, what its unit and magnitude say, and whether a percent sign follows."""

    body: Tokens
    unit: Unit | None = None
    scale: Fraction = Fraction(1)
    percent: bool = False


def atom_of(tokens: Tokens, units_of_letters: bool = False, nouns: bool = False, any_noun: bool = False) -> Atom:
    """A value taken apart into maths, magnitude, unit and percent sign; `nouns`: any words behind a
    figure may be what is counted, `any_noun`: behind anything."""
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
        tokens = trimmed(tokens[2:] if tokens[1] == ":" else tokens[1:])
    tokens = number_words(tokens)
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
            found = unit_of(tail, counted or any_noun)
            if found and (unit is None or found.name == unit.name):
                tokens, unit = before, found
    if tokens[-4:-1] + tokens[-1:] == ["^", "{", "th", "}"]:
        tokens = tokens[:-4]
    tokens, scale_name = (tokens[:-1], tokens[-1]) if tokens[-1:] and tokens[-1] in ("C", "F") and r"\circ" in tokens[-4:] else (tokens, "")
    if any(token in TRIGONOMETRY for token in tokens):
        tokens = in_radians(tokens)
    elif len(tokens) > 4 and tokens[-4:] == _DEGREES:
        name = {"C": "celsius^1", "F": "fahrenheit^1"}.get(scale_name, "degree^1")
        tokens, unit = tokens[:-4], Unit(name)
    if units_of_letters and unit is None:
        place = next((place for place, token in enumerate(tokens) if token.isalpha()), 0)
        if place and tokens[place] in PLAIN_LETTERS and (found := unit_of(tokens[place:])):
            tokens, unit = tokens[:place], found
    while tokens[-1:] == ["%"]:
        tokens, percent = tokens[:-1], True
    return Atom(trimmed(tokens), unit, scale, percent)


def converted(gold: Atom, answer: Atom, units: str) -> Atom:
    """The answer in the gold's unit, by the policy `units`.

    Raises:
        Refused: the units are of different kinds, or the answer lacks one that is required.
    """
    left, right = gold.unit, answer.unit
    if units == "ignore":
        return answer
    if left and right:
        if left.name == right.name:
            return replace(answer, scale=answer.scale * right.scale / left.scale)
        if (left.name, right.name) == ("degree^1", "radian^1"):
            return replace(answer, body=["(", *answer.body, ")", r"\cdot", "180", "/", r"\pi"])
        if right.name != "degree^1" or left.name not in ("celsius^1", "fahrenheit^1"):
            raise Refused("units_differ")
    degree = [unit is not None and unit.name == "degree^1" for unit in (left, right)]
    if degree == [True, False] and r"\pi" in answer.body and r"\pi" not in gold.body:
        return replace(answer, body=["(", *answer.body, ")", r"\cdot", "180", "/", r"\pi"])
    if degree == [False, True] and r"\pi" in gold.body and r"\pi" not in answer.body:
        return replace(answer, body=["(", *answer.body, ")", r"\cdot", r"\pi", "/", "180"])
    if left and not right and units == "required":
        raise Refused("units_differ")
    return answer


def number_words(tokens: Tokens) -> Tokens:
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


def in_radians(tokens: Tokens) -> Tokens:
    """`\\tan 45^\\circ` without the degrees."""
    out: Tokens = []
    while tokens:
        if tokens[1:5] == _DEGREES and tokens[0][0].isdigit():
            out += [r"\frac", "{", tokens[0], r"\pi", "}", "{", "180", "}"]
            tokens = tokens[5:]
        else:
            out, tokens = [*out, tokens[0]], tokens[1:]
    return out


def scaled(atom: Atom, body: Tokens, other_percent: bool) -> Tokens:
    scale = atom.scale / (100 if atom.percent and not other_percent else 1)
    return body if scale == 1 else ["(", *body, ")", r"\cdot", r"\frac", "{", str(scale.numerator), "}", "{", str(scale.denominator), "}"]


def without_degrees(tokens: Tokens) -> Tokens:
    out: Tokens = []
    for token in tokens:
        out.append(token)
        if out[-4:] == _DEGREES:
            del out[-4:]
    return out
