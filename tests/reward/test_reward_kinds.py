"""Kinds of answers that a hostile policy would write, each beside a right one of the same form: the whole kind counts, not the case."""

from __future__ import annotations

import pytest
from erpo_verl.reward import MathJudge, Reason

# gold, answers that are right, answers that are wrong
KINDS = [
    # what math-verify computes with letters as if they had no factor in common
    (r"m+n-\gcd(m,n)", [r"n+m-\gcd(n,m)"], ["m+n-1"]),
    (r"\operatorname{lcm}(m,n)", [r"\operatorname{lcm}(n,m)"], ["mn"]),
    ("2", [r"\gcd(4,6)"], [r"2\gcd(m,n)"]),
    # labels say which value is which
    ("(1,2)", ["x=1,y=2", "y=2,x=1", "(x,y)=(1,2)", "m=1,b=2"], ["y=1,x=2", "b=1,a=2", "(y,x)=(1,2)", r"y=1\text{ and }x=2"]),
    ("(3,4)", [r"\begin{cases}x=3\\y=4\end{cases}"], [r"\begin{cases}y=3\\x=4\end{cases}"]),
    ("f(3)=5", ["f(3)=5", "5"], ["f(2)=5", "g(3)=5"]),
    # what only looks like a label hides the value
    ("30", ["f(2)=30", "f^{-1}(7)=30", "P(A)=30", r"\angle ABC=30", r"\max f=30", r"\text{Area}=30", "a+b=30"],
     ["x(x+1)=30", "30=n(n-1)", "x(2)=30", "k(1+1)=30", "x^{-1}=30", "ex=30", r"x\sqrt{e}=30", r"\angle ABC/2=30", r"\max f\cdot 2=30",
      r"\text{twice the answer}=30", r"\text{Not}=30", r"\text{answer plus one}=30", r"30=\text{half the answer}"]),
    # signs of words, fractions of words, magnitudes
    ("5", [r"\text{five}"], [r"-\text{five}", "负五", r"\text{minus five}"]),
    ("-5", [r"-\text{five}", r"\text{negative five}"], [r"\text{five}"]),
    (r"3\text{ hundredths}", ["0.03"], ["3"]),
    (r"5\text{ lakh}", ["500000"], ["5"]),
    ("15", [r"15\text{ m}"], [r"15\text{k}", r"15\text{M}"]),
    (r"10\text{ Mg}", [r"10\text{ Mg}"], [r"10\text{ mg}"]),
    ("6", [r"6\text{ m}", "6m^2"], ["6mgh", "6h^3"]),
    (r"9", [r"9\text{ square feet}"], [r"9\text{ square root}"]),
    ("0.1", [r"10\text{ per cent}"], [r"0.1\text{ per cent}"]),
    (r"\frac{21}{8}", ["2⅝"], ["2⅛"]),
    # and, or, a comma between relations; domains
    ("(2,5)", [r"x>2\text{ and }x<5", "x>2, x<5"], [r"x>2\text{ or }x<5"]),
    (r"\mathbb{R}", [r"x>2\text{ or }x<5"], [r"x>2\text{ and }x<5", r"x\ge 2, x\ne 3"]),
    ("[1,3]", [r"\{x\mid 1\le x\le 3\}", r"\{x\in\mathbb{R}\mid 1\le x\le 3\}"], [r"\{x\in\mathbb{Z}\mid 1\le x\le 3\}"]),
    ("7", [r"7\text{ for all }n"], [r"7\text{ for all even }n, 8\text{ for all odd }n", r"7\text{ for all }n\text{ but }8\text{ otherwise}"]),
    (r"\text{Alice and Bob}", [r"\text{Alice and Bob}"], [r"\text{Alice or Bob}"]),
    # inequalities of several unknowns: wrong, and no fault of the gold's
    ("x>y", ["y<x"], ["y>x", "x<y"]),
    ("a<b<c", ["a<b<c"], ["a<c<b"]),
    # choices
    ("A", ["(A)", r"(A)\ 12", r"\text{A. }12", r"\text{The answer is (A)}"], ["(A)/(B)", r"(A)\text{ is false}", r"(A)\vee(B)"]),
    # numbers
    ("1,5", ["5,1"], ["1.5"]),
    ("1e3", ["10^3", r"2\cdot 500"], ["3e", "e+3"]),
    (r"\frac53", [r"1.\overline{6}"], [r"1.\overline{6}5"]),
    ("101", ["101_{10}"], ["101_{0}"]),
    (r"\frac{\pi}{3}", [r"60^\circ"], [r"\frac{\pi}{3}^\circ"]),
    (r"\sqrt2", [r"\frac{2}{\sqrt2}", r"2^{1/2}"], [r"\frac{22619537}{15994428}", r"\sqrt2+10^{-15}"]),
    ("2^{100}", [r"4^{50}"], [r"2^{100}+\sqrt2"]),
    ("7", [r"7\approx 7.01"], [r"7\approx 1000"]),
    # vectors, cases of letters
    (r"\vec a\times\vec b", [r"\vec{a}\times\vec{b}"], [r"\vec a\cdot\vec b"]),
    ("x^2+C", ["x^2+c"], ["x^2"]),
    ("a+c", ["c+a"], ["a+C"]),
    # solved tasks, chains on several lines, factorials, conclusions
    ("9", [r"\int_0^3 x^2\,dx = 9", r"\begin{aligned}S&=3\cdot3\\&=9\end{aligned}", r"2x=18\implies x=9"], [r"\int_0^3 x^2\,dx", r"x=9\implies x=8"]),
    # a name and a task are no value; neither is anything behind which nothing stands
    ("42", [r"I=\int_0^1 84x\,dx=42"], [r"x=\int", r"I=\int_0^1 84x\,dx", r"\int_0^1 84x\,dx=I", r"2x\int_0^1 1\,dx=42", "x=", r"x=\$", r"\$", "x=y=z"]),
    ("(1,2)", ["x_1=1,x_2=2", r"\alpha=1,\beta=2"], [r"x=1,y=\int", "x_2=1,x_1=2", r"\beta=1,\alpha=2"]),
    ("2", [r"\frac{4}{2}"], [r"\frac{0}{i-i}", "0^{i}", r"i^{\infty}", r"\infty-\infty+i"]),
    ("f(n)=n, g(n)=1", ["g(n)=1, f(n)=n"], ["f(n)=1, g(n)=n"]),
    (r"\frac{14}{3}", [r"f(-2)+f(-1)=\frac{14}{3}", r"\tan(\alpha+\beta)=\frac{14}{3}"], [r"-x+0y=\frac{14}{3}"]),
    (r"(-\infty,0)\cup(0,\infty)", [r"x\in\mathbb{R}, x\neq 0", r"\{x\mid x<0\text{ or }x>0\}"], [r"\{x\mid x<0\text{ and }x>0\}"]),
    ("(2,5)", ["x>2, x<5"], ["x>2, y<5"]),
    ("5", [r"\text{Double rooms}=5", r"\text{opposite side}=5"], [r"\text{one third of the area}=5", r"\text{half}(x)=5", r"\text{square root of it}=5",
     r"\text{one more than the answer}=5", r"\text{square root: }5", r"2x=10\not\Rightarrow 5"]),
    (r"x^2+ce^{-2x}", ["x^2+Ce^{-2x}"], ["x^2+e^{-2x}"]),
    (r"\{1\pm\sqrt5,-2\}", [r"\{-2,1-\sqrt5,1+\sqrt5\}"], [r"\{-2,1+\sqrt5\}"]),
    # the task copied: an inequality or an equation that is left to be solved
    ("(-3,2)", ["-3<x<2", r"x>-3\text{ and }x<2"], [r"|x-1|+|x+2|<5", "x^2+x<6"]),
    ("x>2", ["2<x"], ["2x>4"]),
    (r"(-\infty,-2)\cup(2,\infty)", ["|x|>2", r"x<-2\text{ or }x>2"], ["x^2>4"]),
    # what has no solution, and what has no value, is not all alike
    ("x^2+1=0", ["x^2+1=0"], ["x^2+2=0", "e^x=0", "x+1=x", "1=2"]),
    (r"\emptyset", [r"\varnothing"], ["[42,3)", r"1\text{ and }2\text{ and }x<3", "2<x<2"]),
    ("[0,1)", ["0\\le x<1"], [r"(-\frac{0}{0},1)\cup[0,1)"]),
    ("1,2", ["x_1=1, x_2=2", "x_➀=1, x_➁=2"], ["x_➀=1, x_➁=3"]),
    ("A", [r"(A) \text{a dog}"], ["(A)(b)(c)(d)", "(A) / (b)", "A) b", r"A. \text{BD}"]),
    ("(1,2)", ["x=1,y=2"], ["x=1,x=2"]),
    ("42", [r"x=42\implies 42"], [r"41\implies 42", r"\text{never: }42", r"\text{cannot be}=42"]),
    (r"\infty", ["+\\infty"], ["2\\infty", r"\infty!"]),
    ("120", ["5! = 120", "5!=120"], ["x!=120"]),
    (r"\frac12", [r"\frac12\text{ or }0.5"], [r"\frac12\text{ or }0.6"]),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "right", "wrong"), KINDS)
def test_a_kind(judge: MathJudge, gold: str, right: list[str], wrong: list[str]) -> None:
    verdicts = {answer: judge.judge(answer, gold).reason for answer in (*right, *wrong)}
    assert [answer for answer in right if verdicts[answer] is not Reason.RIGHT] == []
    assert [answer for answer in wrong if verdicts[answer] in (Reason.RIGHT, Reason.GOLD_UNREADABLE)] == []


@pytest.mark.parametrize(
    ("response", "gold", "right"),
    [
        (r"$\boxed{\frac12}$ or $\boxed{0.5}$", r"\frac12", True),
        (r"\boxed{7}" + "\n\nor maybe\n" + r"\boxed{8}", "8", False),
        (r"\boxed{7}. Alternatively \boxed{8}.", "8", False),
        (r"\boxed{7} vs \boxed{8}", "8", False),
        (r"\boxed{7}, unless it is \boxed{8}", "8", False),
        (r"\boxed{7} = \boxed{7.0}", "7", True),
        (r"$\boxed{3}\ne\boxed{4}$", "4", False),
        (" or ".join(rf"\boxed{{{k}}}" for k in range(400)), "399", False),
    ],
)
def test_boxes_of_doubt(judge: MathJudge, response: str, gold: str, right: bool) -> None:
    assert bool(judge.score(response, gold)["acc"]) is right
