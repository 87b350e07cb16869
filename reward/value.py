"""One value taken apart: its maths, a magnitude or unit behind it, a percent sign; and brought into another unit. Runs in the workers."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction

from .guard import TRIGONOMETRY, Refused
from .latex import RELATIONS, Tokens, Word, split, written
from .parts import trimmed
from .plain import Number, read_number
from .words import MAGNITUDES, NEUTRAL, NUMBER_WORDS, Unit, unit_of

_DEGREES = ["^", "{", r"\circ", "}"]
_CURRENCIES = ("\\$", "€", "£", "¢", "¥", "₹", "$")
_LETTER_UNITS = re.compile(r"[msghLJNWV]|m\^\{[23]\}|[mgJN]/[shm](\^\{[23]\})?")  # not 6mgh, which is a product
_ORDINALS = ("th", "st", "nd", "rd")


@dataclass(frozen=True)
class Atom:
    """A single value taken apart: its maths, what its unit and magnitude say, and whether a percent sign follows."""

    body: Tokens
    unit: Unit | None = None
    scale: Fraction = Fraction(1)
    percent: bool = False


def atom_of(tokens: Tokens, units_of_letters: bool = False, nouns: bool = False, any_noun: bool = False) -> Atom:
    """A value taken apart; `nouns`: any words behind a figure may be what is counted, `any_noun`: behind anything."""
    tokens, percent, scale, unit = list(tokens), False, Fraction(1), None
    sign = tokens[:1] if tokens[:1] == ["-"] else []
    if tokens[len(sign) :] and tokens[len(sign)] in _CURRENCIES:
        unit = unit_of(tokens[len(sign) : len(sign) + 1])
        tokens = sign + tokens[len(sign) + 1 :]
    asked = tokens[:1] and tokens[0].lower() == "find"  # find the value of p - q: the task
    while len(tokens) > 1 and not asked and isinstance(tokens[0], Word) and tokens[0].lower() in NEUTRAL:
        tokens = trimmed(tokens[2:] if tokens[1] == ":" else tokens[1:])
    tokens = _number_words(tokens)
    start = next((place for place, token in enumerate(tokens) if isinstance(token, Word) or token in _CURRENCIES[:4]), None)
    if start:
        if tokens[start - 1] == "(" and tokens[-1] == ")":
            start -= 1
        before, tail = tokens[:start], tokens[start:]
        while tail and (size := MAGNITUDES.get(tail[0].lower()) or MAGNITUDES.get(tail[0].lower().removesuffix("s"))):
            if size < 1 and (scale != 1 or len(tail) > 1):
                break  # 3 hundred-thousandths are no 300 thousandths
            scale, tail = scale * size, tail[1:]
        if not tail or (len(tail) == 1 and tail[0].lower() in _ORDINALS):
            tokens = before
        elif before and (before[-1].isdigit() or not any(token in before for token in ("=", *RELATIONS))):
            found = unit_of(tail, any_noun or (nouns and any(token[0].isdigit() for token in before)))
            if found and (unit is None or found.name == unit.name):
                tokens, unit = before, found
    if tokens[-4:-2] == ["^", "{"] and tokens[-2] in _ORDINALS:
        tokens = tokens[:-4]
    if not any(token in TRIGONOMETRY for token in tokens):
        name = {"C": "celsius^1", "F": "fahrenheit^1"}.get(tokens[-1] if r"\circ" in tokens[-4:] else "", "degree^1")
        bare = tokens if name == "degree^1" else tokens[:-1]
        if len(bare) > 4 and bare[-4:] == _DEGREES:
            tokens, unit = bare[:-4], Unit(name)
    if units_of_letters and unit is None:
        place = next((place for place, token in enumerate(tokens) if token.isalpha()), 0)
        if place and _LETTER_UNITS.fullmatch(written(tokens[place:])) and (found := unit_of(tokens[place:])):
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
    names = left and left.name, right and right.name
    if left and right and names[0] == names[1]:
        return replace(answer, scale=answer.scale * right.scale / left.scale)
    pi = [r"\pi" in atom.body for atom in (gold, answer)]
    if names == ("degree^1", "radian^1") or (names == ("degree^1", None) and pi == [False, True]):
        return replace(answer, body=["(", *answer.body, ")", r"\cdot", "180", "/", r"\pi"])
    if left and right and names not in (("celsius^1", "degree^1"), ("fahrenheit^1", "degree^1")):
        raise Refused("units_differ")
    if names == (None, "degree^1") and pi[0]:
        return replace(answer, body=["(", *answer.body, ")", r"\cdot", r"\pi", "/", "180"])
    if left and not right and units == "required":
        raise Refused("units_differ")
    return answer


def _number_words(tokens: Tokens) -> Tokens:
    """`forty-two` as 42 where that is all, `10 choose 3` as a binomial."""
    if tokens and isinstance(tokens[0], Word) and tokens[0].lower() in ("minus", "negative"):
        tokens = ["-", *tokens[1:]]
    words = [token.lower() for token in tokens if token not in ("-", " ")]
    if 0 < len(words) <= 2 and all(isinstance(token, Word) or token in ("-", " ") for token in tokens):
        values = [NUMBER_WORDS.get(word) for word in words]
        if None not in values and (len(values) == 1 or (values[0] >= 20 and 0 < values[1] < 10)):
            return [*(["-"] if tokens[0] == "-" else []), str(sum(values))]
    for sign in (r"\choose", "choose"):
        if tokens.count(sign) == 1 and 0 < (place := tokens.index(sign)) < len(tokens) - 1:
            return [r"\binom", "{", *tokens[:place], "}", "{", *tokens[place + 1 :], "}"]
    return tokens


def plain(number: Number | None, body: Tokens) -> Tokens:
    """A number in scientific notation written out (math-verify takes 1e3 for 1 e 3); any other body as it is."""
    if number is None or not {"e", "E"} & {*body}:
        return body
    sign = ["-"] if number.value < 0 else []
    digits = str(abs(number.value) * 10 ** (number.places or 0)).rjust((number.places or 0) + 1, "0")
    return [*sign, f"{digits[: -number.places]}.{digits[-number.places :]}" if number.places else digits]


def scaled(atom: Atom, body: Tokens, other_percent: bool) -> Tokens:
    """The maths of a value times its magnitude, and by the hundred where only this one has a percent sign."""
    scale = atom.scale / (100 if atom.percent and not other_percent else 1)
    return body if scale == 1 else ["(", *body, ")", r"\cdot", r"\frac", "{", str(scale.numerator), "}", "{", str(scale.denominator), "}"]


def without_modulus(gold: Tokens, answer: Tokens) -> Tokens:
    """`2 \\pmod 5` as 2 where the gold is a value; `19 \\bmod 5` computed."""
    if r"\pmod" in answer and r"\pmod" not in gold:
        answer = trimmed(answer[: answer.index(r"\pmod")])
    for sign in (r"\bmod", r"\mod"):
        if sign in answer and sign not in gold:
            left, right = (read_number(written(part)) for part in (answer[: answer.index(sign)], answer[answer.index(sign) + 1 :]))
            if left and right and right.value > 0 and right.places == left.places == 0:
                answer = [str(left.value % right.value)]
    return answer


def ratios(gold: Tokens, answer: Tokens) -> bool:
    """3:4 against 6:8 or 3/4, but no time of day: that is met by the same text."""
    parts = split(gold, (":",))
    if len(parts) == 2 and re.fullmatch(r"\d\d", written(parts[1])):
        return False  # a time of day

    def shares(parts: list[Tokens]) -> list[Fraction] | None:
        numbers = [read_number(written(part)) for part in parts]
        if len(numbers) == 1 and numbers[0] and numbers[0].places is None:
            numbers.append(Number(Fraction(1)))
        if len(numbers) < 2 or not all(numbers) or not numbers[-1].value:
            return None
        return [number.value / numbers[-1].value for number in numbers]

    found = shares(parts)
    return found is not None and found == shares(split(answer, (":",)))


def based(gold: Tokens, answer: Tokens, lenient: bool) -> bool | None:
    """Numbers written to a base: None where neither is. A base that the gold does not have is computed."""
    left, right = (re.fullmatch(r"\(?(-?\d[0-9A-Za-z]*)\)?_\{(\d{1,2})\}", written(one)) for one in (gold, answer))
    if not left and not right:
        return None
    if left and right:
        return left[2] == right[2] and left[1].lower().lstrip("0") == right[1].lower().lstrip("0")
    if left:
        return lenient and written(answer).lower() == left[1].lower()
    number = read_number(written(gold))
    try:
        return number is not None and int(right[2]) >= 2 and number.value == int(right[1], int(right[2]))
    except ValueError:
        return False


def same_text(gold: Tokens, answer: Tokens) -> bool:
    """The same words in the same order, and the same signs between them; articles, a plural s, and the case of words (not of
    letters, nor of two of them beside a figure) are left out of account."""
    figures = any(token[0].isdigit() for token in gold)

    def key(tokens: Tokens) -> str:
        kept = []
        for token, following in zip(tokens, [*tokens[1:], ""], strict=True):
            article = (token if kept else token.lower()) in ("a", "an", "the") and isinstance(following, Word)
            if not article and token != '"':
                kept.append(";" if token in (",", "&&") else token if isinstance(token, Word) and len(token) <= 1 + figures else token.lower())
        while len(kept) > 1 and kept[-1] in (".", ";"):
            kept.pop()
        return "".join(word[:-1] if len(word) > 3 and word.isalpha() and word.endswith("s") else word for word in kept)

    return key(gold) == key(answer)
