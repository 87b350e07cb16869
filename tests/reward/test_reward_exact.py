"""Exact arithmetic: it equals Python's own where both apply, and its normal form decides equality."""

from __future__ import annotations

import contextlib
import math
from fractions import Fraction

import pytest
from erpo_verl.reward.exact import Exact, Unsupported
from erpo_verl.reward.structure import read
from hypothesis import given, settings
from hypothesis import strategies as st

FRACTIONS = st.fractions(min_value=-1000, max_value=1000, max_denominator=60)


def latex(value: Fraction) -> str:
    """A fraction in LaTeX."""
    sign = "-" if value < 0 else ""
    if value.denominator == 1:
        return str(value)
    return f"{sign}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


@settings(max_examples=300, deadline=None)
@given(FRACTIONS, FRACTIONS, st.sampled_from("+-*/"))
def test_rational_arithmetic_is_pythons(left, right, sign):
    text = f"({latex(left)})" + {"*": r"\cdot"}.get(sign, sign) + f"({latex(right)})"
    if sign == "/" and right == 0:
        with pytest.raises(Unsupported):
            read(text)
        return
    expected = {"+": left + right, "-": left - right, "*": left * right, "/": left / right if right else None}[sign]
    assert read(text).rational == expected


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 5000), st.integers(1, 5000))
def test_square_roots_multiply(first, second):
    product = read(f"\\sqrt{{{first}}}\\sqrt{{{second}}}")
    assert product == read(f"\\sqrt{{{first * second}}}")
    assert math.isclose(product.value().real, math.sqrt(first * second))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(FRACTIONS, st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=5), st.randoms())
def test_order_of_terms_does_not_matter(terms, random):
    def written(items):
        return "+".join(f"({latex(value)})x^{{{a}}}y^{{{b}}}" for value, a, b in items)

    shuffled = list(terms)
    random.shuffle(shuffled)
    assert read(written(terms)) == read(written(shuffled))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (r"\sqrt{12}", r"2\sqrt{3}"),
        (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}"),
        (r"\frac{1}{1+\sqrt{2}}", r"\sqrt{2}-1"),
        (r"\frac{1}{\sqrt{2}+\sqrt{3}}", r"\sqrt{3}-\sqrt{2}"),
        (r"\frac{1}{2+i}", r"\frac{2-i}{5}"),
        (r"i^{7}", "-i"),
        (r"\sqrt{-4}", "2i"),
        (r"(x+1)(x-1)", "x^2-1"),
        (r"(x+y)^3", "x^3+3x^2y+3xy^2+y^3"),
        (r"\frac{x}{2}", r"\frac{1}{2}x"),
        (r"\frac{x^2}{x}", "x"),
        (r"2\frac{1}{3}", r"\frac{7}{3}"),
        (r"-1\frac{2}{3}", r"-\frac{5}{3}"),
        (r"3\frac{\sqrt{2}}{2}", r"\frac{3\sqrt{2}}{2}"),
        (r"\frac12", r"\frac{1}{2}"),
        (r"\frac1{10}", "0.1"),
        (r"0.1\overline{6}", r"\frac{1}{6}"),
        (r"0.\overline{9}", "1"),
        ("1.5e-3", r"\frac{3}{2000}"),
        ("5!", "120"),
        ("2^{-3}", r"\frac{1}{8}"),
        ("4^{1/2}", "2"),
        (r"\pi r^2", r"r^2\pi"),
    ],
)
def test_equal_in_value_and_form(left, right):
    assert read(left) == read(right)


@pytest.mark.parametrize(
    "text",
    [
        "1/2x", "x(2", "f(2)", "f(x)+1", r"\sqrt[3]{2}", r"\sqrt12", "x^10", "2^x", "9^9^9", r"\frac{1}{0}", "1//2", "--3",
        r"\frac{1}{x+1}", "3 4", "x2", "", "+", "(", "1,,2", r"2\cdot 3\frac{1}{2}", r"3\frac{5}{4}", "50!", "5!!",
        r"\sin x", "1.2.3", "12_5", r"\infty+1", "(x+y+z+1)^{40}", "9^{99999}", r"\sqrt{x}", r"\sqrt{1.7}",
    ],
)  # fmt: skip
def test_what_is_not_plain_is_left_alone(text):
    with pytest.raises((Unsupported, IndexError, ValueError)):
        read(text)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="0123456789+-/^_{}()[],;.\\ xyefin!|=<>&", max_size=30))
def test_garbage_raises_nothing_else(text):
    with contextlib.suppress(Unsupported, IndexError, ValueError):
        read(text)


def test_growth_is_bounded():
    with pytest.raises(Unsupported):
        Exact.number(10**600) * Exact.number(10**700)
    with pytest.raises(Unsupported):
        read("(a+b+c+d+u+v+w+x+y+z)^{8}")
