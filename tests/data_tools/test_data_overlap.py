"""The normal form of a problem, ids, and the check that finds test questions in a training set."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erpo_verl.data.normalize import digest, normal_form, problem_id, tokens
from erpo_verl.data.overlap import OverlapIndex


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"Evaluate $\log_82$.", r"Evaluate $\log_8 2$."),
        (r"\[\frac{1}{2}\]", r"$\dfrac12$"),
        (r"\left( a, b \right)", "(a,b)"),
        ("He paid $1,000 for it.", "he paid 1000 for it"),
        (r"x^{2}+b_{1} \le 3", r"x^2 + b_1 \leq 3"),
        ("Janet\u2019s ducks \u2212 all of them\u2026", "JANET'S DUCKS - ALL OF THEM..."),
        (r"$4^{a}=5,$ and", "$4^a = 5$, and"),
        (r"\begin{pmatrix} 1 & 2 \end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}"),
        (r"an angle of 30°", r"an angle of $30^\circ$"),
    ],
)
def test_the_same_problem(one, other):
    assert normal_form(one) == normal_form(other) and digest(one) == digest(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 1.5 + 2?", "What is 15 + 2?"),
        (r"\frac{1}{23}", r"\frac{12}{3}"),
        ("x - y", "x + y"),
        ("Find 5!", "Find 5"),
        ("$x^{10}$", "$x^10$"),  # LaTeX's x^10 is x^1 0
        ("[0, 1)", "(0, 1)"),
        ("$a_1$", "$a^1$"),
    ],
)
def test_other_problems(one, other):
    assert normal_form(one) != normal_form(other)


def test_an_id_is_known():
    """Pinned: ids are written into data and results, so a change of the normal form is a breaking change."""
    assert normal_form(r"What is $\dfrac{1}{2} + 1{,}000$?") == r"whatis\frac12+1000"
    assert problem_id("math", digest("What is 1+1?")) == problem_id("math", digest("what is $1 + 1$"))
    assert problem_id("math", digest("What is 1+1?")) == "math/" + digest("whatis1+1")[:16]
    assert digest("What is 1+1?") == "64fc1f2272961f50a529a4e601ac748c3437e9002c144d702db9ad6e570e3ea0"


@given(st.lists(st.sampled_from(["Find", "x", "+", "12", r"\frac{1}{2}", "the", "sum", "(", ")", "=", "3.5"]), min_size=1, max_size=30), st.integers(0, 99))
def test_blanks_case_and_punctuation_do_not_count(words, seed):
    draw = random.Random(seed)
    plain = " ".join(words)
    other = "".join(word.upper() + draw.choice([" ", "  ", "\n", ", ", " \\, ", " $"]) for word in words)
    other = re.sub(r"\\FRAC", r"\\frac", other)
    assert normal_form(plain) == normal_form(other)
    assert tokens(plain) == tokens(other)


BOATS = "A boat goes 12 miles up the river in 3 hours and comes back in 2 hours. How fast is the river in miles per hour?"
CARDS = "Two cards are dealt at random from a standard deck of 52 cards. What is the probability that both are hearts?"
SHORT = "What is 2+2?"


@pytest.fixture
def index():
    made = OverlapIndex()
    for row, problem in enumerate([BOATS, CARDS, SHORT]):
        made.add("test", row, problem)
    return made


def test_same(index):
    for row, problem in enumerate([BOATS, CARDS, SHORT]):
        found = index.find("  " + problem.upper().replace(" ", "  ").replace(".", " ."))
        assert (found.kind, found.source, found.row, found.share) == ("same", "test", row, 1.0)


def test_near(index):
    """CARDS has 21 tokens, so 17 runs of 5."""
    reworded = "Two cards are dealt at random from a standard deck of 52 cards. Find the probability of both being hearts."
    found = index.find(reworded)  # its first 13 tokens are the same: 9 runs
    assert (found.kind, found.row, found.share) == ("near", 1, round(9 / 17, 3))
    found = index.find(CARDS.replace("both are hearts", "both are kings"))
    assert (found.kind, found.row, found.share) == ("near", 1, round(16 / 17, 3))
    assert index.find("In short: " + BOATS).kind == "near"
    assert index.find("From a standard deck of 52 cards two are dealt. How probable is it that both are hearts?") is None


def test_another_exercise_of_the_same_make_is_not_near(index):
    assert index.find(BOATS.replace("12", "15")) is None
    assert index.find("What is 2+3?") is None
    assert index.find("How many ways are there to seat 5 people?") is None


def test_drawings_part_problems():
    index = OverlapIndex()
    text = "The graph of y = f(x) is shown below, and each of the lines has a length of one unit. Find f(f(1)) now. [asy]{}[/asy]"
    index.add("test", 0, text.format("draw((0,0)--(1,1));"))
    assert index.find(text.format("draw((0,0)--(1, 1));")).kind == "same"
    assert index.find(text.format("draw((0,0)--(5,1));")) is None
    assert index.find(text.format("").replace("[asy][/asy]", "")).kind == "near"  # a copy without its drawing


def test_the_first_of_equal_matches_is_named():
    index = OverlapIndex()
    index.add("b", 7, CARDS)
    index.add("a", 1, CARDS)
    assert (index.find(CARDS).source, index.find(CARDS).row) == ("b", 7)
    near = index.find(CARDS + " Say so now please")
    assert (near.kind, near.source, near.row) == ("near", "b", 7)
