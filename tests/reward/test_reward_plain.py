"""Plain numbers, which the caller decides itself: exact, bounded, and in agreement with Python's own fractions."""

from __future__ import annotations

from fractions import Fraction

import pytest
from erpo_verl.reward.plain import Number, equal_numbers, read_number
from hypothesis import given, settings
from hypothesis import strategies as st

FRACTIONS = st.fractions(-500, 500, max_denominator=400)


def spelled(value: Fraction, style: int) -> str:
    sign = "-" if value < 0 else ""
    top, bottom = abs(value.numerator), value.denominator
    return [
        f"{sign}\\frac{{{top}}}{{{bottom}}}", f"{sign}{top}/{bottom}", f"\\dfrac{{{sign}{top}}}{{{bottom}}}",
        f"${sign}\\tfrac{{{2 * top}}}{{{2 * bottom}}}$",
    ][style]  # fmt: skip


def equal(gold: str, answer: str, rel_tol: float = 1e-6, lenient: bool = True) -> bool:
    return equal_numbers(read_number(gold), read_number(answer), rel_tol, lenient)


@settings(max_examples=300, deadline=None)
@given(FRACTIONS, FRACTIONS, st.integers(0, 3), st.integers(0, 3))
def test_fractions_are_decided_exactly(left, right, style, other):
    assert read_number(spelled(left, style)).value == left
    assert equal(spelled(left, style), spelled(right, other)) is (left == right)


@settings(max_examples=300, deadline=None)
@given(st.integers(-(10**12), 10**12), st.integers(0, 8))
def test_integers_and_decimals_in_every_spelling(digits, places):
    value = Fraction(digits, 10**places)
    plain = f"{digits / 10**places:.{places}f}" if abs(digits) < 10**9 else str(digits)
    value = value if abs(digits) < 10**9 else Fraction(digits)
    assert read_number(plain).value == value
    whole, dot, behind = plain.partition(".")
    assert read_number(f"{int(whole):,}".replace("0", "0") + dot + behind).value == value or whole == "-0"
    assert read_number(f"{plain}e3").value == 1000 * value
    assert read_number(f"{plain} \\times 10^{{-3}}").value == value / 1000


@pytest.mark.parametrize(
    ("text", "value", "places"),
    [
        ("042", 42, 0), ("+42", 42, 0), ("\u221242", -42, 0), ("- 42", -42, 0), ("42.", 42, 0), (".5", Fraction(1, 2), 1), ("42.0", 42, 1),
        ("1{,}000", 1000, 0), ("1,234,567.5", Fraction(2469135, 2), 1), ("1\\frac{1}{2}", Fraction(3, 2), None), ("1 1/2", Fraction(3, 2), None),
        ("-1\\frac12", Fraction(-3, 2), None), ("11/2", Fraction(11, 2), None), ("\\frac{1,000}{3}", Fraction(1000, 3), None),
        ("6.02\\times10^{23}", 602 * 10**21, 0), ("2 \\cdot 10^3", 2000, 0), ("4.2e1", 42, 0), ("1.5E-2", Fraction(3, 200), 3),
    ],
)  # fmt: skip
def test_spellings(text, value, places):
    assert read_number(text) == Number(Fraction(value), places)


@pytest.mark.parametrize(
    "text",
    ["", "-", "4 2", "12,34", "1,00", "42-", "--42", "1/0", "\\frac{1}{0}", "2\\frac{5}{3}", "1/-2", "0.3...", "1e999", "9^9", "x",
     "\u0664\u0662", "1_000", "42!", "5'", "1" * 300, "0x10", "nan", "inf", "1,2", "3:4"],
)  # fmt: skip
def test_what_is_no_plain_number(text):
    assert read_number(text) is None


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        ("42", "42.0", True), ("42", "41.9999999", False), ("42", "42.0000001", False), ("1000000", "1000000.5", False),
        ("1/3", "0.333333", True), ("1/3", "0.3333", False), ("1e-7", "2e-7", False), ("0.1234568", "0.1234567", False),
        ("0.333333", "0.3333333", True), ("2/3", "0.67", False), ("0.5", "1/2", True),
        ("50\\%", "50", True), ("50\\%", "0.5", True), ("50\\%", "1/2", True), ("50\\%", "5", False), ("50", "50\\%", True),
        ("50", "5000\\%", True), ("0.5", "50\\%", True), ("0.5", "0.5\\%", False), ("1", "1\\%", False), ("1/2", "50%", True),
        ("0.5\\%", "0.5", False), ("0.5\\%", "0.005", True), ("12.5\\%", "12.5", True), ("12.5", "12.5\\%", False),
    ],
)  # fmt: skip
def test_equality_by_policy(gold, answer, right):
    assert equal(gold, answer) is right


def test_settings_of_equality():
    assert equal("3.14", "3.15", rel_tol=0.01) and not equal("3.14", "3.15")
    assert not equal("1/3", "0.333333", rel_tol=0.0)
    assert not equal("42", "42.1", rel_tol=0.01)
    assert not equal("50\\%", "50", lenient=False) and equal("50\\%", "0.5", lenient=False)


@settings(max_examples=500, deadline=None)
@given(st.text(st.sampled_from("0123456789,.-+/%\\frac{}eE^ $"), max_size=60))
def test_never_raises_and_stays_short(text):
    number = read_number(text)
    if number is not None:
        assert max(number.value.numerator.bit_length(), number.value.denominator.bit_length()) < 4 * 700
        str(number)
        equal_numbers(number, number, 1e-6, True)
