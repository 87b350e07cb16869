"""math-verify as the worker uses it: its parser and its comparison of two values, mended, and nothing of its text search.

Runs in the workers only. What arrives is one value, cleaned and bounded, so that the whole of it is parsed or none. Two mends:

- math-verify rounds decimals to six places before it compares them, so that 1e-7 equals 2e-7. Here a relative tolerance decides, and
  a whole or irrational gold is met exactly. A test fails once this is no longer needed.
- antlr's full-context prediction takes four fifths of the time of parsing functions such as \\ln. The quick one (SLL) is tried first;
  where it finds a parse it is the same one, and where it does not the full one decides (antlr's own advice).
"""

from __future__ import annotations

import functools
import logging
from typing import Any

import math_verify.grader as grader
import sympy
from antlr4 import PredictionMode
from latex2sympy2_extended import antlr_parser, latex2sympy2
from latex2sympy2_extended.latex2sympy2 import NormalizationConfig, latex2sympy, normalize_latex
from sympy import Basic, Float, Integer, MatrixBase, Number
from sympy.core.relational import Relational

_NORMALIZATION = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
)
# Of every construct one or two: antlr builds its decision tables as it parses, and a first parse costs up to 100 ms.
WARM_UP = (
    "42", "-3.5", r"\{1,2\}", "(1,2)", "[1,2)", r"(-\infty,4)\cup[5,6]", r"\frac{1+\sqrt{5}}{2}", r"-\frac{\sqrt[3]{2}}{3}",
    "x=5", "x+2y-2z-9=0", "f(x)=x^2-3x", r"1<x\leq 2", r"x\geq -1", r"\mathbb{R}", r"\begin{pmatrix}1&2\\3&-4\end{pmatrix}",
    r"\begin{bmatrix}\frac{1}{2}\\ \sqrt{2}\end{bmatrix}", r"1.5\cdot 10^{-3}", "5!", r"\binom{n}{2}", "|x-1|", r"\ln 2", r"\log_{2} 3",
    r"\log(\frac{2}{3})", r"\sin(x)+\cos^2 x", r"3\sec\frac{1}{2}\theta", "e^{i\\pi}", "3+4i", "a_{n+1}", r"2^{n-1}+1", "(x+1)(x-2)",
    r"\frac{\pi}{4}", r"\frac{x^2-1}{x+1}", r"\sum_{k=1}^{n} k", r"\emptyset", r"\lfloor x\rfloor", r"n(n+1)/2", r"\frac{3}{4}+2i",
    r"\sqrt{x+1}", r"\frac{1}{\sqrt{2}}", r"x\neq 1", r"\infty", r"\max(a,b)", r"\mathbb{R}\setminus\{0\}",
)  # fmt: skip
_MODES = (PredictionMode.SLL, PredictionMode.LL)  # quick, full
_mode = PredictionMode.LL  # of the parse under way
_tolerance = {"rel_tol": 1e-6, "approximations": "rational"}


def mend() -> None:
    """Applies the mend of the module's docstring to this process."""
    logging.disable(logging.CRITICAL)
    grader.sympy_numeric_eq = _numeric_eq
    grader.sympy_solve_and_compare = _solutions_eq
    latex2sympy2.PSParser = _Parser


class _Parser(antlr_parser.PSParser):
    """math-verify's parser, with the prediction that `parse` asks for."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._interp.predictionMode = _mode


@functools.lru_cache(maxsize=512)
def parse(text: str) -> Basic | MatrixBase | None:
    """`text` as sympy's object, None where it does not parse as a whole, or holds a division by zero."""
    global _mode
    normal = normalize_latex(text, _NORMALIZATION)
    for _mode in _MODES:
        try:
            parsed = latex2sympy(
                normal,
                is_real=not grader.should_treat_as_complex(normal),
                convert_degrees=False,
                normalization_config=None,
            )
        except MemoryError:
            raise
        except Exception:
            continue
        return parsed if isinstance(parsed, (Basic, MatrixBase)) else None
    return None


def equal(gold: str, answer: str, rel_tol: float, approximations: str) -> str:
    """'right' or 'wrong' for two values; 'gold_unreadable' or 'unreadable' where one does not parse."""
    _tolerance.update(rel_tol=rel_tol, approximations=approximations)
    left = parse(gold)
    if left is None:
        return "gold_unreadable"
    right = parse(answer)
    if right is None:
        return "unreadable"
    if _meaningless(right) or _trivial(right) is not _trivial(left):
        return "unreadable"
    alone = isinstance(left, sympy.Symbol) != isinstance(right, sympy.Symbol) and isinstance(left, sympy.Expr)
    if alone and isinstance(right, sympy.Expr):  # math-verify compares a lone symbol by its name
        same = grader.sympy_symbolic_eq(left, right)
    else:
        same = grader.verify(left, right, timeout_seconds=None)
    return "right" if same or _same_complex(left, right) else "wrong"


def _same_complex(left: Basic | MatrixBase, right: Basic | MatrixBase) -> bool:
    """Whether two complex numbers are one; math-verify takes i for a variable."""
    if not (isinstance(left, sympy.Expr) and isinstance(right, sympy.Expr)):
        return False
    units = {symbol: sympy.I for symbol in left.free_symbols | right.free_symbols if symbol.name == "i"}
    if not units or len(units) < len(left.free_symbols | right.free_symbols):
        return False
    try:
        gap = (left - right).subs(units).evalf(30, chop=True)
        return bool(gap.is_number and gap.is_finite and abs(gap) < 1e-20)
    except (TypeError, ValueError, ArithmeticError):
        return False


def equal_sets(gold: list[str], answer: list[str], both: tuple[bool | None, bool | None] = (False, False)) -> str:
    """As `equal`, for two unions of sets, intervals, relations of one unknown and numbers: are they the same set of reals?

    Args:
        both: for gold and answer, whether relations side by side hold together (`and`); None, by a comma: where they can.
    """
    try:
        left, right = _union(gold, both[0]), _union(answer, both[1])
        if left is None or right is None:
            return "gold_unreadable" if left is None else "unreadable"
        return "right" if left == right or sympy.SymmetricDifference(left, right).is_empty else "wrong"
    except MemoryError:
        raise
    except Exception:
        return "unreadable"


def _union(texts: list[str], both: bool | None) -> sympy.Set | None:
    sets, relations, unknowns = [], 0, set()
    for text in texts:
        parsed = parse(text)
        if parsed is None or _meaningless(parsed):
            return None
        if isinstance(parsed, Relational) or grader.is_relation(parsed):
            if len(parsed.free_symbols) != 1:
                return None
            relations += 1
            unknowns |= parsed.free_symbols
            parsed = _real(parsed).as_set()
        if isinstance(parsed, sympy.Tuple) and len(parsed) == 2:
            parsed = sympy.Interval.open(*parsed)
        if not isinstance(parsed, sympy.Set):
            if both and len(texts) > 1:
                return None  # a number and a relation hold together of nothing
            parsed = sympy.FiniteSet(parsed)
        sets.append(parsed.doit())
        if sets[-1].is_empty and text.strip() not in (r"\emptyset", r"\{\}"):
            return None  # [3,2) and x<x are no way of writing the empty set
    if len(unknowns) > 1:
        return None
    numbers = any(isinstance(one, sympy.FiniteSet) for one in sets)
    if both is not False and relations and len(sets) > 1 and not numbers:
        together = sympy.Intersection(*sets)
        if both or not together.is_empty:
            return together
    return sympy.Union(*sets)


def _real(relation: Basic) -> Basic:
    """The relation in one real unknown, evaluated."""
    (symbol,) = relation.free_symbols
    unknown = sympy.Symbol("x", real=True)
    parts = getattr(relation, "_unsorted_args", None) or [relation]
    parts = [part.func(part.lhs.subs(symbol, unknown).doit(), part.rhs.subs(symbol, unknown).doit()) for part in parts]
    return sympy.And(*parts)


def _meaningless(parsed: Basic | MatrixBase) -> bool:
    """Whether a division by zero or 0^0 stands somewhere."""
    if isinstance(parsed, MatrixBase):
        return False
    for node in sympy.preorder_traversal(parsed):
        if node in (sympy.nan, sympy.zoo):
            return True
        if isinstance(node, sympy.Pow) and not node.base.free_symbols and not node.exp.free_symbols:
            exponent = grader.safe_sympy_doit(node.exp)
            if exponent.is_nonpositive and grader.safe_sympy_doit(node.base).is_zero:
                return True
    return False


def _trivial(parsed: Basic | MatrixBase) -> bool:
    """Whether an equation says nothing: 0 = 0."""
    return isinstance(parsed, sympy.Eq) and bool(grader.sympy_symbolic_eq(parsed.lhs, parsed.rhs))


_solve_and_compare = grader.sympy_solve_and_compare


def _solutions_eq(gold: Basic, answer: Basic, *precision: int) -> bool:
    """Replaces math-verify's comparison of equations by their solutions: two that have none are not therefore one."""
    if isinstance(gold, sympy.Eq) and isinstance(answer, sympy.Eq) and not sympy.solve(gold, gold.free_symbols):
        return False
    return bool(_solve_and_compare(gold, answer, *precision))


def _numeric_eq(gold: Any, answer: Any, _float_rounding: int, _numeric_precision: int) -> bool:
    """Replaces math-verify's numeric comparison; see the module's docstring."""
    if isinstance(gold, (MatrixBase, sympy.MatrixExpr)) and isinstance(answer, (MatrixBase, sympy.MatrixExpr)):
        gold, answer = grader.safe_sympy_doit(gold), grader.safe_sympy_doit(answer)
        if not (isinstance(gold, MatrixBase) and isinstance(answer, MatrixBase)) or gold.shape != answer.shape:
            return False
        return all(_numeric_eq(g, a, 0, 0) for g, a in zip(gold.flat(), answer.flat(), strict=True))
    gold, answer = grader.safe_sympy_doit(gold), grader.safe_sympy_doit(answer)
    decimal = gold.has(Float) or answer.has(Float)
    if isinstance(gold, Number) and isinstance(answer, Number) and not decimal:
        return bool(gold == answer)
    if gold.free_symbols or answer.free_symbols:
        return bool((gold - answer).evalf(15, chop=True) == 0)
    gold_value, answer_value = gold.evalf(60), answer.evalf(60)
    gap, scale = sympy.Abs(gold_value - answer_value).evalf(15), sympy.Max(abs(gold_value), abs(answer_value)).evalf(15)
    if not (gap.is_number and scale.is_number and gap.is_finite and scale.is_finite):
        return False
    exact = isinstance(gold, Integer) or (
        _tolerance["approximations"] == "rational" and not gold.has(Float) and not isinstance(gold, Number)
    )
    if decimal and exact and not isinstance(gold, Integer) and answer.has(Float) and isinstance(answer, Number):
        return False
    # A float has 15 digits; what has none is exact, and two such values that agree in 40 digits are one.
    tolerance = _tolerance["rel_tol"] if decimal and not exact else 1e-14 if decimal else 1e-40
    # Only expressions that are not plain numbers can be a zero in disguise, such as sqrt(2)**2 - 2.
    noise = 0 if isinstance(gold, Number) and isinstance(answer, Number) else 1e-25 if decimal else 1e-45
    # The slack keeps 0.333333 equal to 1/3, which lies exactly on the tolerance.
    return bool(gap <= tolerance * (1 + 1e-9) * scale + noise)
