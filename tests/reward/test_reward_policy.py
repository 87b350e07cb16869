"""The policy, case by case: each row of docs/reward.md, and the settings that change it."""

from __future__ import annotations

import pytest
from erpo_verl.reward import MathJudge, Reason, RewardConfig

R, W = Reason.RIGHT, Reason.WRONG

CASES = [
    # numbers
    ("42", "42", R), ("42", "42.0", R), ("42", "042", R), ("42", "41", W), ("-3", "−3", R), ("1000", "1,000", R),
    ("1000", "1{,}000", R), ("1000", r"1\,000", R), ("10000", "10 000", R), ("1,000", "1000", R), ("42", "4 2", Reason.UNREADABLE),
    ("1/2", r"\frac12", R), ("1/2", "0.5", R), ("1/2", r"\dfrac{2}{4}", R), (r"\frac{5}{3}", r"1\frac{2}{3}", R),
    ("6", "2(3)", R), ("5", "2(3)", W), (r"2\sqrt{3}", r"\sqrt{12}", R), (r"\frac{\pi}{4}", "pi/4", R), ("27.0", "27", R),
    (r"0.\overline{3}", "1/3", R),
    # decimals: a relative tolerance, and none for integers
    ("1/3", "0.333333", R), ("1/3", "0.3333", W), ("1e-7", "2e-7", W), ("10^{-7}", r"2\cdot 10^{-7}", W),
    ("42", "41.9999999", W), ("1000000", "1000000.5", W), ("3.14159265", r"\pi", R), ("3.14", r"\pi", W),
    (r"\sqrt{2}", "1.41421356", W), (r"\sqrt{2}", "1.41", W), (r"\pi", "3.14159265358979", W),
    ("0.1234568", "0.1234567", W),
    # percent
    (r"50\%", "50%", R), (r"50\%", "0.5", R), (r"50\%", "50", R), ("0.5", r"50\%", R), ("50", r"50\%", R), (r"50\%", "5", W),
    (r"50\%", "50 percent", R), (r"12.5\%", r"\frac{1}{8}", R),
    # units
    (r"10\text{ cm}", "10", R), ("10", r"10\text{ cm}", R), (r"10\text{ cm}", "10 cm", R),
    (r"10\text{ cm}", r"10\text{ m}", W), (r"10\text{ cm}", r"0.1\text{ m}", R), (r"10\text{ cm}", r"10\text{ g}", Reason.UNITS_DIFFER), (r"10\text{ cm}^2", r"10\text{ square centimeters}", R),
    (r"60\text{ mph}", r"60 \text{ miles per hour}", R), (r"5\text{ m}", "5m", R), (r"\$18", "18", R), ("18", r"\$18", R),
    ("18", "18 dollars", R), (r"336^\circ", "336", R), ("336", r"336^{\circ}", R), ("12", r"12 \text{ marbles}", R), ("12", r"12\text{ wumpuses}", Reason.PROSE), (r"12\text{ wumpuses}", r"12\text{ wumpuses}", R),
    # bases
    ("101_2", "101_{2}", R), ("101_2", "101", R), ("101", "101_2", W), ("5", "101_2", R), ("a", "a_1", W), ("101", "101_{10}", R), ("101_2", "101_3", W), ("101_2", "5", W),
    # lists, sets, tuples, intervals
    ("1,2", "2, 1", R), ("1,2", "1 and 2", R), ("1,2", r"\{2,1\}", R), (r"\{1,2\}", "1,2", R), ("1,2", "1,2,3", W),
    ("1,1,2", "1,2", W), ("(1,2)", "(1, 2)", R), ("(1,2)", "(2,1)", W), ("(1,2)", "1,2", R), ("(1,2)", "2,1", W),
    ("(1,2)", r"\{1,2\}", W), (r"\{1,2\}", "(1,2)", W), ("[0,1)", r"\left[0, 1\right)", R), ("[0,1)", "(0,1]", W), ("[0,1]", "(0,1)", W),
    (r"(-\infty,4)\cup(5,\infty)", r"(-\infty, 4) \cup (5, \infty)", R), (r"(-\infty,4)\cup(5,\infty)", r"(5,\infty)\cup(-\infty,4)", R),
    (r"x\in[-2,7]", "[-2,7]", R), ("[-2,7]", r"x \in [-2,7]", R), ("[-2,7]", r"-2 \leq x \leq 7", R), ("100,200", "100, 200", R),
    (r"\pm 2", "2, -2", R), (r"1\pm\sqrt{2}", r"1+\sqrt{2}, 1-\sqrt{2}", R), (r"\pm 2", "2", W), ("2", r"\pm 2", W),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{bmatrix} 1 \\ 2 \end{bmatrix}", R),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix} 2 \\ 1 \end{pmatrix}", W),
    # labels and equations
    ("5", "x=5", R), ("x=5", "5", R), ("x=5", "x = 5", R), ("y=2x+3", "2x+3", R), ("y=2x+3", "y=3+2x", R),
    ("y=2x+3", "2x-y+3=0", R), ("y=2x+3", "y=2x+4", W), ("x+2y=9", "2x+4y=18", R), ("42", r"6\cdot 7=42", R), ("42", "41=42", Reason.CHAIN),
    ("42", "42=41", Reason.CHAIN), ("x=1,y=2", "y=2, x=1", R), ("x=1,y=2", "x=2, y=1", W), ("(1,2)", "x=1, y=2", R),
    ("1,2", r"x=1 \text{ or } x=2", R), (r"\frac{2}{3}\approx 0.67", r"\frac23", R), (r"\frac23", r"\frac23 \approx 0.667", R),
    ("42", r"41 \approx 42", W), ("42", r"x \approx 42", R),
    # words
    (r"\text{Monday}", "monday", R), (r"\text{Monday}", "Tuesday", W), ("(C)", "C", R), (r"\text{(C)}", r"\textbf{C}", R),
    ("C", "D", W), (r"6:00\text{ p.m.}", "6:00 PM", R), ("42", "The answer is 42", R), ("42", "maybe 42", Reason.PROSE),
    ("42", r"42 \text{ maybe}", Reason.PROSE), ("42", "I considered 42 but could not solve it", Reason.PROSE),
    ("42", r"41 \text{ or } 42", W), (r"\text{even}", r"\text{odd}", W), (r"\text{even}", "42", W), ("42", r"\text{even}", Reason.PROSE),
    # algebra, some of it by math-verify
    (r"\frac{NO}{BO}=\frac{1}{\sqrt{6}}", r"\frac{1}{\sqrt{6}}", R), ("A:B=1", "1", R), ("x^2+y^2=5", "5", W), ("A+B=C", "C", W), ("C", "(C) or (D)", W),
    ("0,111", "0.111", R), ("0.111", "0,111", R), ("111", "0,111", W),
    ("2i", "(1+i)^2", R), ("5", "|3+4i|", R), ("2i", "(1-i)^2", W),
    ("f(n)=2n", "f(m)=2m", R), ("f(n)=2n", "f(m)=2n", W), ("f(x)=2x", "g(x)=2x", R), ("12120", r"12\quad 120", Reason.UNREADABLE),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\left[\begin{array}{cc}1&2\\3&4\end{array}\right]", R), ("42", r"\begin{aligned}4&2\end{aligned}", Reason.UNREADABLE),
    ("A", "(A) and (B)", W), (r"\vec{v}", r"\vec v", R),
    ("x^2-1", "(x-1)(x+1)", R), ("x^2-1", "x^2+1", W), (r"\frac{1}{x-1}", r"-\frac{1}{1-x}", R), ("3+4i", "4i+3", R),
    (r"\log_2 3", r"\frac{\ln 3}{\ln 2}", R), (r"\tan^2(y)+1", r"\sec^2(y)", R), ("2^{2009}", r"2\cdot 2^{2008}", R),
    (r"\sqrt[3]{2}", "2^{1/3}", R), ("2n+1", "2k+1", W), (r"\frac{1}{2}", "\\\\frac{1}{2}", R), (r"\binom{5}{2}", "10", R),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "answer", "reason"), CASES)
def test_default_policy(judge, gold, answer, reason):
    assert judge.judge(answer, gold).reason is reason


@pytest.mark.parametrize(
    ("settings", "gold", "answer", "right"),
    [
        ({"chains": "refuse"}, "42", r"6\cdot 7=42", False),
        ({"chains": "refuse"}, "42", "x=42", True),
        ({"units": "required"}, r"10\text{ cm}", "10", False),
        ({"units": "required"}, r"10\text{ cm}", "10 cm", True),
        ({"units": "ignore"}, r"10\text{ cm}", r"10\text{ m}", True),
        ({"percent": "strict"}, r"50\%", "50", False),
        ({"percent": "strict"}, r"50\%", "0.5", True),
        ({"percent": "strict"}, r"50\%", r"50\%", True),
        ({"bases": "strict"}, "101_2", "101", False),
        ({"bases": "strict"}, "101_2", "101_2", True),
        ({"lists": "ordered"}, "1,2", "2,1", False),
        ({"lists": "ordered"}, "1,2", "1,2", True),
        ({"lists": "ordered"}, r"\ln 2,\ln 3", r"\ln 3,\ln 2", False),
        ({"lists": "unordered"}, r"\ln 2,\ln 3", r"\ln 3,\ln 2", True),
        ({"tuple_brackets": "required"}, "(1,2)", "1,2", False),
        ({"tuple_brackets": "required"}, r"(\ln 2,\ln 3)", r"\ln 2,\ln 3", False),
        ({"tuple_brackets": "required"}, "(1,2)", "(1,2)", True),
        ({"relations": "same_form"}, "[-2,7]", r"-2 \leq x \leq 7", False),
        ({"rel_tol": 0.01, "approximations": "any"}, r"\pi", "3.14", True),
        ({"rel_tol": 0.01}, "42", "42.1", False),
        ({"rel_tol": 0.0}, "1/3", "0.333333", False),
        ({"approximations": "any"}, r"\sqrt{2}", "1.41421356", True),
        ({"counted_nouns": "any"}, "12", r"12\text{ wumpuses}", True),
        ({"counted_nouns": "any"}, "12", r"12\text{ squared}", False),
        ({"counted_nouns": "any"}, "12", r"12\text{ nope}", False),
        ({"tasks": "compute"}, "12", r"\sum_{k=1}^{3} 2k", True),
        ({"tasks": "refuse"}, "12", r"\sum_{k=1}^{3} 2k", False),
    ],
)
def test_settings_change_it(settings, gold, answer, right):
    assert MathJudge(RewardConfig(**settings)).judge(answer, gold).right is right


def test_percent_strict_holds_in_the_worker_too():
    strict, lenient = MathJudge(RewardConfig(percent="strict")), MathJudge(RewardConfig())
    assert lenient.judge(r"(50\%, \ln 2)", r"(50, \ln 2)").right
    assert not strict.judge(r"(50\%, \ln 2)", r"(50, \ln 2)").right
    assert strict.judge(r"(50\%, \ln 2)", r"(0.5, \ln 2)").right


def test_boxes_side_by_side_are_a_list_only_for_a_list(judge):
    listed = r"The solutions are \boxed{1} and \boxed{2}."
    assert judge.score(listed, "1,2")["acc"] == 1.0
    for single in ("1", "2"):  # several answers to one question
        assert judge.score(listed, single)["reason"] == Reason.SEVERAL_BOXES
    assert judge.score("$$\\boxed{2}$$\n$$\\boxed{2}$$", "2")["acc"] == 1.0  # the same one said twice
    assert judge.score("$\\boxed{1}$\n$\\boxed{2}$", "2")["acc"] == 1.0  # on lines of their own the last counts
    assert judge.score("$\\boxed{1}$\n$\\boxed{2}$", "1,2")["acc"] == 1.0
    assert judge.score(r"It was \boxed{41} at first, but now it is \boxed{42}", "42")["acc"] == 1.0
    assert judge.score(r"It was \boxed{41} at first, but now it is \boxed{42}", "41,42")["acc"] == 0.0


def test_golds_of_every_form(judge):
    for gold in (
        "42",
        42,
        42.0,
        ["41", "42"],
        ("41", 42),
        {"target": "42"},
        {"answer": ["42"]},
        "so #### 42",
        r"\boxed{42}",
    ):
        assert judge.score(r"\boxed{42}", gold)["acc"] == 1.0, gold
        assert judge.score(r"\boxed{43}", gold)["acc"] == 0.0, gold
    for gold in (None, "", "  ", float("nan"), [], {}, {"target": ""}, True):
        result = judge.score(r"\boxed{42}", gold)
        assert result["gold_unreadable"] == 1.0 and result["acc"] == 0.0, gold


def test_damaged_golds_are_repaired(judge):
    assert judge.judge(r"\frac{1}{2}", "\x0crac{1}{2}").right
    assert judge.judge(r"5\text{ cm}", "5\text{ cm}").right
    assert judge.judge(r"\begin{pmatrix}4\\-3\end{pmatrix}", r"\begin{pmatrix}4\-3\end{pmatrix}").right
    assert judge.judge(r"\frac{\pi r}{2}", r"\frac{\pir}{2}").right
    assert judge.judge(r"440", r"440{cm}^2").right
    assert judge.judge(r"\text{A5}_{11}", "{A5}_{11}").right


def test_votes_are_counted_by_value(judge):
    def pred(text):
        return judge.score(rf"\boxed{{{text}}}", "1")["pred"]

    assert pred("1/2") == pred("0.5") == pred(r"\frac{2}{4}") == pred("x=0.5")
    assert pred("2, 1") == pred(r"1 \text{ and } 2")
    assert pred(r"\text{Monday}") == pred("monday")
    assert pred("1/2") != pred("1/3")
    assert len(pred("7" * 900)) <= 200


def test_scores_and_shaping():
    judge = MathJudge(
        RewardConfig(
            score_right=2.0,
            score_wrong=-1.0,
            format_bonus=0.25,
            overlong_limit=100,
            overlong_buffer=50,
            overlong_penalty=0.5,
        )
    )
    assert judge.score(r"\boxed{1}", "1")["score"] == 2.25
    assert judge.score(r"\boxed{1}", "2")["score"] == -0.75
    assert judge.score("1", "2")["score"] == -1.0
    assert judge.score("a" * 66 + r"\boxed{1}", "1")["overlong_penalty"] == 0.25
    assert judge.score("a" * 191 + r"\boxed{1}", "1")["score"] == 1.75
    tokens = MathJudge(RewardConfig(overlong_limit=100, overlong_unit="tokens"))
    assert tokens.score(r"\boxed{1}", "1", {"response_length": 100})["score"] == 1.0
    assert tokens.score(r"\boxed{1}", "1", {"response_length": 101})["score"] == 0.0
    with pytest.raises(ValueError, match="response_length"):
        tokens.score(r"\boxed{1}", "1", {})


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        (r"(-\infty,4)\cup(5,\infty)", r"(5,\infty) \cup (-\infty,4)", True),
        (r"(0,1)\cup[1,2]", "(0,2]", True),
        (r"(0,1)\cup(1,2]", "(0,2]", False),
        (r"(0,3)\cup(1,2)", "(0,3)", True),
        (r"(0,1]\cup[1,2)", "(0,2)", True),
        (r"[0,1]\cup(0,1)", "[0,1]", True),
        (r"(-\infty,4)\cup(5,\infty)", r"(-\infty,4]\cup(5,\infty)", False),
        (r"(-\infty,4)\cup(5,\infty)", "(4,5)", False),
    ],
)
def test_unions_are_compared_as_sets_of_numbers(judge, gold, answer, right):
    assert judge.judge(answer, gold).right is right
