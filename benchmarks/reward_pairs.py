"""Synthesises labelled (gold, response, right) triples as maths data sets and models write them.

The mix follows published sets (MATH, GSM8K, AIME, OlympiadBench): mostly integers, then fractions, roots, pi and
polynomials, some intervals, tuples, lists, units, percent, texts and matrices, and a share of answers that need a
computer algebra system (logarithms, trigonometry, powers with symbols, rational functions, inequalities).
Labels come from the construction: a right answer is a rewriting of the gold, a wrong one is another value.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Pair:
    """One labelled response.

    Attributes:
        kind: what sort of answer it is.
        gold: the reference answer, as a data set holds it.
        answer: the content of the response's box.
        right: the label.
    """

    kind: str
    gold: str
    answer: str
    right: bool

    @property
    def response(self) -> str:
        """A short worked response that ends in the box."""
        return (
            "We set up the problem step by step. First $a = 3$ and $b = \\frac{7}{2}$, so the sum is 6.5.\n"
            f"Combining these results, the final answer is $\\boxed{{{self.answer}}}$."
        )


def _fraction(value: Fraction, rng: random.Random, plain: bool = False) -> str:
    sign = "-" if value < 0 else ""
    top, bottom = abs(value.numerator), value.denominator
    if bottom == 1:
        return f"{sign}{top}"
    forms = [f"{sign}\\frac{{{top}}}{{{bottom}}}"]
    if not plain:
        forms += [f"{sign}\\dfrac{{{top}}}{{{bottom}}}", f"{sign}{top}/{bottom}", f"\\frac{{{sign}{top}}}{{{bottom}}}"]
    return rng.choice(forms)


def _two(rng: random.Random, right: bool, draw: Callable[[], object]) -> tuple:
    """Two equal draws, or two that differ."""
    first = draw()
    if right:
        return first, first
    second = draw()
    while second == first:
        second = draw()
    return first, second


def _integer(rng: random.Random, right: bool) -> tuple[str, str]:
    gold, answer = _two(
        rng, right, lambda: rng.choice([rng.randint(0, 99), rng.randint(-500, 5000), rng.randint(1, 10**7)])
    )
    forms = [str(answer)] * 4 + [f"x = {answer}", f"{answer}.0", f"\\text{{{answer}}}"]
    if abs(answer) > 999:
        forms += [f"{answer:,}", f"{answer:,}".replace(",", "{,}")]
    return str(gold), rng.choice(forms)


def _rational(rng: random.Random, right: bool) -> tuple[str, str]:
    gold, answer = _two(rng, right, lambda: Fraction(rng.randint(-60, 60), rng.randint(2, 40)))
    return _fraction(gold, rng, plain=True), _fraction(answer, rng)


def _decimal(rng: random.Random, right: bool) -> tuple[str, str]:
    gold, answer = _two(rng, right, lambda: Fraction(rng.randint(-4000, 4000), rng.choice([4, 8, 20, 25])))
    return f"{float(gold):g}", rng.choice([f"{float(answer):g}", f"{float(answer):.4f}", _fraction(answer, rng)])


def _root(rng: random.Random, right: bool) -> tuple[str, str]:
    gold, answer = _two(
        rng, right, lambda: (rng.randint(1, 12), rng.choice([2, 3, 5, 6, 7, 10, 13]), rng.randint(1, 9))
    )
    a, n, b = answer
    shown = [
        f"\\frac{{{a}\\sqrt{{{n}}}}}{{{b}}}",
        f"\\frac{{\\sqrt{{{a * a * n}}}}}{{{b}}}",
        f"\\frac{{{a * n}}}{{{b}\\sqrt{{{n}}}}}",
    ]
    return f"\\frac{{{gold[0]}\\sqrt{{{gold[1]}}}}}{{{gold[2]}}}", rng.choice(shown)


def _circle(rng: random.Random, right: bool) -> tuple[str, str]:
    gold, answer = _two(rng, right, lambda: Fraction(rng.randint(1, 40), rng.randint(1, 12)))
    shown = [f"\\frac{{{answer.numerator}\\pi}}{{{answer.denominator}}}", f"{_fraction(answer, rng)}\\pi"]
    return f"\\frac{{{gold.numerator}\\pi}}{{{gold.denominator}}}", shown[0] if "/" in shown[1] else rng.choice(shown)


def _polynomial(rng: random.Random, right: bool) -> tuple[str, str]:
    gold, answer = _two(rng, right, lambda: tuple(sorted(rng.sample(range(-9, 10), 2))))

    def expanded(roots: tuple[int, int]) -> str:
        total, product = -(roots[0] + roots[1]), roots[0] * roots[1]
        middle = "" if total == 0 else f"{total:+d}x" if abs(total) > 1 else "+x" if total > 0 else "-x"
        return "x^2" + middle + (f"{product:+d}" if product else "")

    def factored(roots: tuple[int, int]) -> str:
        return "".join(f"(x{-root:+d})" if root else "x" for root in roots)

    return expanded(gold), rng.choice([expanded, factored])(answer)


def _tuple(rng: random.Random, right: bool) -> tuple[str, str]:
    size = rng.choice([2, 2, 3])
    gold, answer = _two(
        rng, right, lambda: tuple(Fraction(rng.randint(-9, 9), rng.choice([1, 1, 2, 3])) for _ in range(size))
    )
    shown = ", ".join(_fraction(value, rng) for value in answer)
    return "(" + ",".join(_fraction(value, rng, plain=True) for value in gold) + ")", rng.choice(
        [f"({shown})", rf"\left( {shown} \right)"]
    )


def _interval(rng: random.Random, right: bool) -> tuple[str, str]:
    def draw() -> tuple:
        low = rng.randint(-20, 20)
        return rng.choice("(["), low, low + rng.randint(1, 30), rng.choice(")]"), rng.random() < 0.2

    gold, answer = _two(rng, right, draw)

    def shown(value: tuple, loose: bool) -> str:
        left, low, high, close, infinite = value
        if infinite:
            return (
                f"(-\\infty,{low})\\cup({high},\\infty)" if not loose else f"(-\\infty, {low}) \\cup ({high}, \\infty)"
            )
        return rf"\left{left}{low}, {high}\right{close}" if loose else f"{left}{low},{high}{close}"

    def meaning(value: tuple) -> tuple:
        return value[1:3] if value[4] else value

    if not right and meaning(gold) == meaning(answer):
        return _interval(rng, right)
    return shown(gold, False), shown(answer, rng.random() < 0.5)


def _list(rng: random.Random, right: bool) -> tuple[str, str]:
    gold, answer = _two(rng, right, lambda: frozenset(rng.sample(range(-30, 31), rng.choice([2, 3, 4]))))
    shuffled = rng.sample(sorted(answer), len(answer))
    shown = [
        ", ".join(map(str, shuffled)),
        r"\{" + ",".join(map(str, shuffled)) + r"\}",
        " and ".join(map(str, shuffled)),
    ]
    return ", ".join(map(str, sorted(gold))), rng.choice(shown)


def _percent(rng: random.Random, right: bool) -> tuple[str, str]:
    gold, answer = _two(rng, right, lambda: rng.randint(2, 99))
    return f"{gold}\\%", rng.choice([f"{answer}\\%", f"{answer}%", f"{answer / 100:g}", f"{answer}\\text{{ percent}}"])


def _unit(rng: random.Random, right: bool) -> tuple[str, str]:
    gold, answer = _two(rng, right, lambda: rng.randint(2, 900))
    unit = rng.choice(["cm", "km", "hours", "square meters", "dollars", "degrees", "inches", "miles per hour"])
    return f"{gold}\\text{{ {unit}}}", rng.choice([f"{answer}\\text{{ {unit}}}", f"{answer} {unit}", f"{answer}"])


def _text(rng: random.Random, right: bool) -> tuple[str, str]:
    words = ["Monday", "Tuesday", "even", "odd", "east", "parabola", "ellipse", "Evelyn", "yes", "no"]
    if rng.random() < 0.4:
        gold, answer = _two(rng, right, lambda: rng.choice("ABCDE"))
        return rng.choice([f"({gold})", gold]), rng.choice(
            [f"({answer})", answer, f"\\textbf{{({answer})}}", f"\\text{{{answer}}}"]
        )
    gold, answer = _two(rng, right, lambda: rng.choice(words))
    return f"\\text{{{gold}}}", rng.choice([f"\\text{{{answer}}}", answer, answer.lower()])


def _matrix(rng: random.Random, right: bool) -> tuple[str, str]:
    rows, columns = rng.choice([(2, 2), (2, 1), (3, 1)])
    gold, answer = _two(
        rng, right, lambda: tuple(tuple(rng.randint(-9, 9) for _ in range(columns)) for _ in range(rows))
    )

    def shown(value: tuple, name: str, blank: str) -> str:
        return (
            rf"\begin{{{name}}}"
            + rf"{blank}\\{blank}".join("&".join(map(str, row)) for row in value)
            + rf"\end{{{name}}}"
        )

    return shown(gold, "pmatrix", ""), shown(answer, rng.choice(["pmatrix", "bmatrix"]), rng.choice(["", " "]))


def _complex(rng: random.Random, right: bool) -> tuple[str, str]:
    gold, answer = _two(rng, right, lambda: (rng.randint(-20, 20), rng.randint(2, 20)))
    return f"{gold[0]}+{gold[1]}i", rng.choice([f"{answer[0]}+{answer[1]}i", f"{answer[1]}i{answer[0]:+d}"])


def _hard(rng: random.Random, right: bool) -> tuple[str, str]:
    """What only a computer algebra system decides."""
    a, b = rng.sample(range(2, 12), 2)
    off = 0 if right else rng.choice([1, 2, 3])
    pairs = [
        (f"\\log_{{{a}}} {b}", f"\\frac{{\\ln {b + off}}}{{\\ln {a}}}"),
        (f"{a}\\sin(2x)", f"{2 * a + off}\\sin(x)\\cos(x)"),
        (f"2^{{n+{a}}}", f"{2**a + off} \\cdot 2^n"),
        (f"\\frac{{1}}{{x-{a}}}", f"-\\frac{{1}}{{{a + off}-x}}"),
        (f"\\frac{{x+{a}}}{{x+{b + 12}}}", f"1-\\frac{{{b + 12 - a + off}}}{{x+{b + 12}}}"),
        (f"\\sqrt[3]{{{a}}}", f"{a + off}^{{1/3}}"),
        (f"{a}e^{{{b}}}", f"{a + off}\\exp({b})"),
        (f"x\\leq {a}", f"{a + off}\\geq x"),
        (f"y={a}x+{b}", f"y-{b}={a + off}x"),
        (f"\\ln({a}x)", f"\\ln(x)+\\ln({a + off})"),
        (f"\\binom{{n}}{{2}}+{a}", f"\\frac{{n(n-1)}}{{2}}+{a + off}"),
    ]
    return rng.choice(pairs)


MIX: dict[str, tuple[int, Callable[[random.Random, bool], tuple[str, str]]]] = {
    "integer": (34, _integer), "fraction": (11, _rational), "decimal": (5, _decimal), "root": (6, _root), "pi": (4, _circle),
    "polynomial": (6, _polynomial), "tuple": (5, _tuple), "interval": (4, _interval), "list": (4, _list), "percent": (3, _percent),
    "unit": (4, _unit), "text": (3, _text), "matrix": (3, _matrix), "complex": (2, _complex), "hard": (6, _hard),
}  # fmt: skip


def synthesise(count: int, seed: int = 0) -> list[Pair]:
    """`count` distinct labelled pairs, half of them right, in a fixed shuffled order."""
    rng = random.Random(seed)
    kinds, weights = list(MIX), [weight for weight, _make in MIX.values()]
    seen: set[tuple[str, str]] = set()
    pairs: list[Pair] = []
    while len(pairs) < count:
        kind = rng.choices(kinds, weights)[0]
        right = len(pairs) % 2 == 0
        gold, answer = MIX[kind][1](rng, right)
        repeats = (gold, answer) in seen
        if repeats and (kind not in ("text", "hard", "percent", "unit") or rng.random() < 0.9):
            continue
        seen.add((gold, answer))
        pairs.append(Pair(kind, gold, answer, right))
    rng.shuffle(pairs)
    return pairs
