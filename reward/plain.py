"""Plain numbers: integers, decimals, scientific notation, fractions, mixed numbers, with a sign, thousands, a percent sign.

The one part of the comparison that the caller runs itself: on bounded text, in linear time, with numbers no longer than the
text (scientific notation: than `MAX_SHIFT` digits). Two such numbers are equal or differ; everything else is a worker's business.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_CHARS = 250
MAX_SHIFT = 300
_SPELLINGS = (
    ("\\dfrac", "\\frac"), ("\\tfrac", "\\frac"), ("{,}", ","), ("\\!", ""), ("\\%", "%"), ("\u2212", "-"), ("\\times", "\\cdot"),
    ("\u00d7", "\\cdot"), ("\\left", ""), ("\\right", ""),
)  # fmt: skip
_DIGITS = r"(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+|[0-9]+)"
_DECIMAL = re.compile(rf"{_DIGITS}(?:\.[0-9]*)?|\.[0-9]+")
_SCIENTIFIC = re.compile(
    rf"({_DIGITS}(?:\.[0-9]*)?) ?(?:[eE]([+-]?[0-9]{{1,3}})|\\cdot ?10 ?\^ ?(?:\{{ ?([+-]?[0-9]{{1,3}}) ?\}}|([0-9])))"
)
_TWO = rf"\\frac ?(?:\{{ ?(-?{_DIGITS}) ?\}} ?\{{ ?({_DIGITS}) ?\}}|([0-9])([0-9]))"
_FRACTION = re.compile(rf"{_TWO}|(-?[0-9]+) ?/ ?([0-9]+)")
_MIXED = re.compile(rf"([0-9]+)(?: ?{_TWO}| ([0-9]+)/([0-9]+))")


@dataclass(frozen=True)
class Number:
    """A plain number as it is written.

    Attributes:
        value: without the percent sign.
        places: digits behind the decimal point, 0 for an integer, None for a fraction.
        percent: a percent sign follows.
    """

    value: Fraction
    places: int | None = 0
    percent: bool = False

    def __str__(self) -> str:
        return f"{self.value}%" if self.percent else str(self.value)


def read_number(text: str) -> Number | None:
    """The plain number that is all of `text`, None where it is something else (or longer than MAX_CHARS)."""
    if len(text) > MAX_CHARS or "..." in text:  # an ellipsis is no full stop
        return None
    for spelling, other in _SPELLINGS:
        text = text.replace(spelling, other)
    text = text.strip(" \t\r\n$").rstrip(".")
    percent = text.endswith("%")
    text = text.rstrip("% ") if percent else text.rstrip()
    sign = -1 if text.startswith("-") else 1
    text = text.lstrip(" ") if text[:1] not in "+-" else text[1:].lstrip(" ")
    number = _magnitude(text)
    return number and Number(sign * number.value, number.places, percent)


def _magnitude(text: str) -> Number | None:
    """A number without sign and percent sign."""
    if _DECIMAL.fullmatch(text):
        return _decimal(text)
    if match := _SCIENTIFIC.fullmatch(text):
        number, shift = _decimal(match[1]), int(match[2] or match[3] or match[4])
        if abs(shift) > MAX_SHIFT:
            return None
        return Number(number.value * Fraction(10) ** shift, max(0, (number.places or 0) - shift))
    for pattern, mixed in ((_FRACTION, False), (_MIXED, True)):
        if match := pattern.fullmatch(text):
            top, bottom = (int(group.replace(",", "")) for group in match.groups()[mixed:] if group)
            if not bottom or (mixed and not 0 < top < bottom):
                return None
            return Number((int(match[1]) if mixed else 0) + Fraction(top, bottom), None)
    return None


def _decimal(text: str) -> Number:
    text = text.replace(",", "").rstrip(".")
    return Number(Fraction(text), len(text.partition(".")[2]))


def equal_numbers(gold: Number, answer: Number, rel_tol: float, lenient_percent: bool) -> bool:
    """Whether two plain numbers are one value, by the policy of docs/reward.md.

    A percent meets a plain number by its value, and (lenient) by its figure: a gold of 50% or of 50 meets both 50 and 50%. A
    decimal, and a number up to 1, need the value: 0.5 is not 0.5%.
    """
    if gold.percent == answer.percent:
        return _close(gold, answer, rel_tol)
    hundredth = Fraction(1, 100)
    if gold.percent:
        value = Number(gold.value * hundredth, None if gold.places is None else gold.places + 2)
        by_figure = lenient_percent and abs(gold.value) >= 1 and _close(gold, answer, rel_tol)
        return by_figure or _close(value, answer, rel_tol)
    value = Number(answer.value * hundredth, None if answer.places is None else answer.places + 2)
    by_figure = lenient_percent and gold.value.denominator == 1 and abs(gold.value) > 1 and gold.value == answer.value
    return by_figure or _close(gold, value, rel_tol)


def _close(gold: Number, answer: Number, rel_tol: float) -> bool:
    """Equal; or within the tolerance, where one of two numbers may be the other one rounded and the gold is not whole."""
    if gold.value == answer.value:
        return True
    decimal = bool(gold.places) or bool(answer.places)
    if not decimal or gold.value.denominator == 1 or not rel_tol:
        return False
    if rel_tol <= 1e-6 and gold.places is not None and gold.places == answer.places:
        return False  # so small a tolerance is for rounding, and two decimals of as many places differ
    gap, scale = abs(gold.value - answer.value), max(abs(gold.value), abs(answer.value))
    return gap <= Fraction(rel_tol) * scale * (1 + Fraction(1, 10**9))
