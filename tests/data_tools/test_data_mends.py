"""Mending text and reading reference answers: each rule on damage as real files have it, and what must stay as it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erpo_verl.data.golds import GOLD_RULES, Given, last_boxes, split_answers
from erpo_verl.data.mend import mend_text
from erpo_verl.data.rules import DROPS, MENDS


@pytest.mark.parametrize(
    ("damaged", "mended", "rules"),
    [
        ("expressed as $\x0crac{m}{n}$", r"expressed as $\frac{m}{n}$", ("latex_escape",)),  # AIME 2025, row 27
        ("of $\triangle DEF$", r"of $\triangle DEF$", ("latex_escape",)),  # AIME 2025, row 19
        ("\\qquad\textbf{(C)} 96", r"\qquad\textbf{(C)} 96", ("latex_escape",)),  # MATH train, row 5332
        ("\x08egin{cases} \x07lpha \\end{cases}", r"\begin{cases} \alpha \end{cases}", ("latex_escape",)),
        ("\x0bec{v} \times 3, 5^\x0clat", r"\vec{v} \times 3, 5^\flat", ("latex_escape",)),
        ("\\left( x \right)", r"\left( x \right)", ("latex_escape",)),
        ("a\r\nb\rc", "a\nb\nc", ("line_ends",)),
        ("two\u00a0cups\u200b of\u2028tea", "two cups of\ntea", ("invisible",)),
        ("  plain \n", "plain", ()),
    ],
)
def test_certain_damage_is_mended(damaged, mended, rules):
    assert mend_text(damaged) == type(mend_text(""))(mended, rules, "")


@pytest.mark.parametrize(
    "text",
    [
        "have\tequal\tperimeters",  # MATH-500, row 426: tabs in prose
        "{\n\tdraw((0,0)--(1,1));\n\tfor(int i=0;i<4;++i)\tdot(i);\n}",  # drawings in MATH
        "eat\t 20 + 10\t= 30",  # GSM8K test, row 1154
        "x\ne y and\nu",  # may have been \ne and \nu, may be line ends
        "the\tangle, the\tan, a\ttotal, the\ttop, a\tfraction, the\tbinomial",
    ],
)
def test_text_that_may_be_meant_stays(text):
    assert mend_text(text).text == text and not mend_text(text).rules and not mend_text(text).broken


@pytest.mark.parametrize("text", ["a\x0c b", "\x00", "lone \x08 x", "\x1b[0m", "bad \ufffd", "\x0bq", "half \ud800", "\x0clatter page", "\x0crack"])
def test_what_cannot_be_mended_is_named(text):
    assert mend_text(text).broken in text and mend_text(text).broken


@given(st.text())
def test_mending_twice_is_mending_once(text):
    once = mend_text(text)
    if not once.broken:
        again = mend_text(once.text)
        assert again.text == once.text and not again.rules and not again.broken


@given(st.sampled_from([r"\frac{1}{2}", r"\forall x", r"\beta", r"\alpha", r"\vec{v}", r"\text{ cm}", r"\times 3", r"\triangle ABC"]))
def test_a_decoded_command_comes_back(command):
    """The damage itself, made as it is made: a backslash and a letter read as an escape."""
    decoded = {"f": "\x0c", "b": "\x08", "a": "\x07", "v": "\x0b", "t": "\t"}[command[1]] + command[2:]
    assert mend_text(f"$x {decoded}$").text == f"$x {command}$"


def gold(rule, *values, solution="", problem=""):
    found = GOLD_RULES[rule](Given(values, solution, problem))
    assert set(found.rules) <= set(MENDS) and (not found.drop or found.drop in DROPS)
    return found.drop or found.text, found.rules


@pytest.mark.parametrize(
    ("rule", "value", "expected"),
    [
        ("number", "She has <<6*7=42>>42.\n#### 42", ("42", ())),
        ("number", "#### 1,234", ("1234", ("thousands",))),
        ("number", "-7.50", ("-7.50", ())),
        ("number", ".5", (".5", ())),
        ("number", "#### $18", ("18", ("unit",))),
        ("number", "#### 12 apples", ("12", ("unit",))),
        ("number", 18, ("18", ())),
        ("number", "#### twelve", ("not_a_number", ())),
        ("number", "####", ("no_gold", ())),
        ("number", None, ("no_gold", ())),
        ("number", float("nan"), ("no_gold", ())),
        ("integer", 27.0, ("27", ("float_integer",))),  # AMC 2023
        ("integer", "27.0", ("27", ("float_integer",))),
        ("integer", "025", ("25", ("leading_zeros",))),  # AIME 2024
        ("integer", "000", ("0", ("leading_zeros",))),
        ("integer", -1.0, ("-1", ("float_integer",))),
        ("integer", r"336^\circ", ("336", ("unit",))),  # AIME 2025
        ("integer", r"$\boxed{204}$", ("204", ())),  # math-ai/aime24 holds it so
        ("integer", 10, ("10", ())),
        ("integer", "100", ("100", ())),
        ("integer", "1,625", ("1625", ("thousands",))),
        ("integer", 2.5, ("not_a_number", ())),
        ("integer", True, ("no_gold", ())),
        ("text", r"\left( 3, \frac{\pi}{2} \right)", (r"\left( 3, \frac{\pi}{2} \right)", ())),
        ("text", r'["\\frac{1}{2}"]', (r"\frac{1}{2}", ())),  # Skywork-OR1: a list as text
        ("text", '["1", "2"]', ("several_golds", ())),
        ("text", ["7"], ("7", ())),
        ("text", [], ("no_gold", ())),
        ("text", "work ... #### 8", ("8", ())),
        ("text", r"work ... \boxed{8}", ("8", ())),
        ("text", "$\\frac{1}{2}$.", (r"\frac{1}{2}", ("dollars",))),
        ("text", r"\$5", (r"\$5", ())),
        ("text", r"\mbox{four}", ("4", ("number_word",))),
        ("text", r"\text{even}", (r"\text{even}", ())),
        ("text", "np.arcsin(10/13)", (r"\arcsin(10/13)", ("numpy",))),  # Minerva, row 5
        ("text", r"2007 + \frac\pi 2", (r"2007 + \frac{\pi}{2}", ("frac_arguments",))),  # MATH train, row 6811
        ("text", "\x0crac12", (r"\frac12", ("latex_escape",))),
        ("text", "3 \x0c 4", ("broken_text", ())),
        ("text", "   ", ("no_gold", ())),
        ("listed", ["$69$,$84$"], ("69, 84", ("dollars", "several_answers"))),  # OlympiadBench
        ("listed", ["1,3,5"], ("1, 3, 5", ("several_answers",))),
        ("listed", ["$(1,1), (3,2)$"], ("(1,1), (3,2)", ("dollars",))),
        ("listed", ["$f(x)=x,f(x)=-x$"], ("f(x)=x, f(x)=-x", ("dollars", "several_answers"))),
        ("listed", ["12,345"], ("12,345", ())),
        ("listed", [], ("no_gold", ())),
        ("listed", [" "], ("no_gold", ())),
    ],
)
def test_golds(rule, value, expected):
    assert gold(rule, value) == expected


def test_boxes_of_a_solution():
    assert last_boxes(r"\boxed{1} and later \boxed{\frac{1}{2}} cm") == [r"\frac{1}{2}"]
    assert last_boxes(r"$\boxed{3}$ or $\boxed{\frac{2}{5}}$.") == ["3", r"\frac{2}{5}"]
    assert last_boxes(r"\boxed{1} so we see \boxed{2}, \boxed{3} and \boxed{4}") == ["2", "3", "4"]
    assert last_boxes("no box") == [] and last_boxes(r"\boxed{open") == []


def test_the_box_counts_and_not_what_was_cut_out_of_it():
    assert gold("box", "", solution=r"are $\boxed{\mbox{Saturday}}$.") == (r"\mbox{Saturday}", ("box_over_target",))
    assert gold("box", "2400^2", solution=r"$\boxed{2400 \mbox{ cm}^2}$") == (r"2400 \mbox{ cm}^2", ("box_over_target",))
    assert gold("box", "(3,4)", solution=r"$\boxed{(3,\, 4)}$") == (r"(3,\, 4)", ())
    assert gold("box", "x-2", solution=r"$\boxed{-2 + x}$") == ("-2 + x", ())  # the same value, another spelling
    assert gold("box", "5", solution="no box here") == ("5", ())
    assert gold("box", "", solution=r"there are $\boxed{}$ primes") == ("no_gold", ())
    assert gold("box", None, solution=r"$\boxed{1.6} \mathrm{~cm}$") == ("1.6", ())


def test_two_boxes():
    both = r"$\boxed{(-2,18)}$ and $\boxed{(8,38)}$."
    assert gold("box", solution=both, problem="List the points.") == ("(-2,18), (8,38)", ("two_boxes",))
    assert gold("box", solution=both, problem="Enter all points. Enter only one of them.") == ("several_golds", ())
    assert gold("box", solution=r"$\boxed{20\!:\!34}$ or $\boxed{8\!:\!34}$", problem="What time?") == ("several_golds", ())
    same = r"we get $\boxed{x+11}$ or $\boxed{11+x}$"
    assert gold("box", solution=same, problem="Simplify") == ("11+x", ("two_boxes",))


def test_splitting_answers():
    assert split_answers(r"(1,2), \{3,4\},[5,6)") == ["(1,2)", r"\{3,4\}", "[5,6)"]
    assert split_answers("1,234,567") == ["1,234,567"]
    assert split_answers("10,11,12") == ["10", "11", "12"]
