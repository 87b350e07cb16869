"""math-verify as the worker uses it: its parser and its comparison, with three mends, and nothing of its text search.

Runs in the worker processes only (sympy is never imported in the trainer). The answer arrives cleaned and bounded, so
that the whole of it is parsed or none; math-verify's regular expressions for finding an answer in text are not used.

The mends, each pinned by a test that fails once it is no longer needed:
    1. antlr 4.9: the generated `AtomContext` lacks `FUNC_GAMMA`, which the converter calls before it looks for a
       percent number. Every percent answer raises AttributeError there. The mend answers "no such token".
    2. Decimals are rounded to six places before they are compared, so that 1e-7 equals 2e-7. The mend compares with a
       relative tolerance, and meets an integer gold exactly.
    3. A percent meets a number only if both are integers or floats of the right kind; the mend follows one policy.

And one for speed: antlr's full-context prediction, which learns nothing from one text for the next, takes four fifths of
the time of parsing functions such as \\ln or \\sin. The quick prediction (SLL) is tried first; where it finds a parse it is the
same one, and where it does not the full one decides (antlr's own advice).
"""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import random
import sys
from typing import Any

import math_verify.grader as grader
import sympy
from antlr4 import PredictionMode
from latex2sympy2_extended import antlr_parser, latex2sympy2
from latex2sympy2_extended.latex2sympy2 import NormalizationConfig, latex2sympy, normalize_latex
from sympy import Basic, Float, Integer, MatrixBase, Number
from sympy.core.random import seed as sympy_seed

_NORMALIZATION = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
)
_PACKAGES = ("math-verify", "latex2sympy2_extended", "sympy", "antlr4-python3-runtime")
# Of every construct one or two: antlr builds its decision tables as it parses, and a first parse costs up to 100 ms.
_WARM_UP = (
    "42", "-3.5", r"50\%", "1,2", r"\{1,2\}", "(1,2)", "[1,2)", "(1,2,3)", r"(-\infty,4)\cup[5,6]", r"1\frac{2}{3}",
    r"\frac{1+\sqrt{5}}{2}", r"-\frac{\sqrt[3]{2}}{3}", "x=5", "y=2x+3", "x+2y-2z-9=0", "f(x)=x^2-3x", "x=1,y=2",
    r"1<x\leq 2", r"x\geq -1", r"x\in(1,2)", r"x\in\mathbb{R}", r"\begin{pmatrix}1&2\\3&-4\end{pmatrix}",
    r"\begin{bmatrix}\frac{1}{2}\\ \sqrt{2}\end{bmatrix}", "2e3", r"1.5\times 10^{-3}", "5!", r"\binom{n}{2}", "|x-1|",
    r"\ln 2", r"\log_{2} 3", r"\log(\frac{2}{3})", r"\sin(x)+\cos^2 x", r"3\sec\frac{1}{2}\theta", "e^{i\\pi}", "3+4i",
    r"\pm\sqrt{2}", r"30^{\circ}", "a_{n+1}", r"2^{n-1}+1", "5_7", r"\text{even}", "(x+1)(x-2)", r"\frac{\pi}{4}",
    r"\frac{x^2-1}{x+1}", r"\sum_{k=1}^{n} k", r"\emptyset", r"\lfloor x\rfloor", r"n(n+1)/2", "C", r"\frac{3}{4}+2i",
    r"\sqrt{x+1}", r"\frac{1}{\sqrt{2}}", r"x\neq 1", r"\overline{AB}", r"90^\circ-\theta", r"\infty", r"\max(a,b)",
)  # fmt: skip
_MODES = (PredictionMode.SLL, PredictionMode.LL)  # quick, full
_mode = PredictionMode.LL  # of the parse under way
_policy: dict[str, Any] = {"rel_tol": 1e-6, "percent": "lenient"}


def prepare() -> dict[str, str]:
    """Mends, warms and tests math-verify; returns the versions in use.

    Raises:
        RuntimeError: a known answer is judged wrongly, so that no verdict could be trusted.
    """
    logging.disable(logging.CRITICAL)
    mend()
    for text in _WARM_UP:
        parsed = _parse(text)
        if parsed is not None:
            _equal(parsed, _parse(text + " "))
    for gold, answer, expected in (
        (r"50\%", "0.5", "right"), (r"\frac{1}{3}+\sqrt{2}", r"\sqrt{2}+1/3", "right"), ("x^2-1", "(x-1)(x+1)", "right"),
        ("1e-7", "2e-7", "wrong"), ("42", "41", "wrong"), ("[0,1)", "(0,1]", "wrong"),
    ):  # fmt: skip
        found = handle({"op": "judge", "gold": gold, "answer": answer, "policy": {}})
        if found != expected:
            raise RuntimeError(f"math-verify's self-test failed: gold {gold!r}, answer {answer!r}: {found}")
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def mend() -> None:
    """Applies the three mends of the module's docstring to this process."""
    if not hasattr(antlr_parser.PSParser.AtomContext, "FUNC_GAMMA"):
        antlr_parser.PSParser.AtomContext.FUNC_GAMMA = lambda self: None
    grader.sympy_numeric_eq = _numeric_eq
    latex2sympy2.PSParser = _Parser


class _Parser(antlr_parser.PSParser):
    """math-verify's parser, with the prediction that `_parse` asks for."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._interp.predictionMode = _mode


def handle(request: dict[str, Any]) -> str | dict[str, Any]:
    """One request: `judge` (gold, answer, policy), `read` (is this text readable?) or `probe` (what is loaded here?).

    Returns:
        'right', 'wrong', 'unreadable' or 'gold_unreadable'; a dict for `probe`.
    """
    sympy_seed(0)  # sympy tries random points; the same pair must get the same verdict every time
    random.seed(0)
    if request["op"] == "probe":
        held = bytearray(request.get("allocate_mb", 0) << 20)  # tries the memory limit
        return {"modules": sorted(name for name in sys.modules if "." not in name), "allocated": len(held)}
    if request["op"] == "read":
        return "right" if _parse(request["gold"]) is not None else "gold_unreadable"
    _policy.update({"rel_tol": 1e-6, "percent": "lenient", "relations": "same_form", "ordered": False})
    _policy.update(request["policy"])
    gold = _parse(request["gold"])
    if gold is None:
        return "gold_unreadable"
    answer = _parse(request["answer"])
    if answer is None:
        return "unreadable"
    if _policy["ordered"]:
        gold, answer = _as_written(gold), _as_written(answer)
    return "right" if _equal(gold, answer) else "wrong"


def _equal(gold: Basic | MatrixBase, answer: Basic | MatrixBase) -> bool:
    return grader.verify(
        gold,
        answer,
        timeout_seconds=None,  # the pool holds the clock: it kills this process
        allow_set_relation_comp=_policy.get("relations") == "as_sets",
    )


@functools.lru_cache(maxsize=512)
def _parse(text: str) -> Basic | MatrixBase | None:
    """`text` as sympy's object, None where it does not parse as a whole."""
    global _mode
    normal = normalize_latex(text, _NORMALIZATION)
    for _mode in _MODES:
        try:
            return latex2sympy(
                normal,
                is_real=not grader.should_treat_as_complex(normal),
                convert_degrees=False,
                normalization_config=None,
            )
        except MemoryError:
            raise
        except Exception:
            continue
    return None


def _as_written(parsed: Basic | MatrixBase) -> Basic | MatrixBase:
    """A bare list in the order in which it was written."""
    written = getattr(parsed, "_unsorted_args", None)
    return sympy.Tuple(*written) if isinstance(parsed, sympy.FiniteSet) and written else parsed


def _numeric_eq(gold: Any, answer: Any, _float_rounding: int, _numeric_precision: int) -> bool:
    """Replaces math-verify's numeric comparison; see mend 2 and 3 of the module's docstring."""
    if isinstance(gold, (MatrixBase, sympy.MatrixExpr)) and isinstance(answer, (MatrixBase, sympy.MatrixExpr)):
        gold, answer = grader.safe_sympy_doit(gold), grader.safe_sympy_doit(answer)
        if not (isinstance(gold, MatrixBase) and isinstance(answer, MatrixBase)) or gold.shape != answer.shape:
            return False
        return all(_numeric_eq(g, a, 0, 0) for g, a in zip(gold.flat(), answer.flat(), strict=True))
    gold_percent, answer_percent = grader.get_pct_val(gold), grader.get_pct_val(answer)
    if gold_percent is not None and answer_percent is not None:
        return _close(gold_percent, answer_percent)
    if gold_percent is not None or answer_percent is not None:
        value = gold_percent if gold_percent is not None else answer_percent
        other = answer if gold_percent is not None else gold
        readings = [value / 100] + ([value] if _policy["percent"] == "lenient" else [])
        return any(_close(*((r, other) if gold_percent is not None else (other, r))) for r in readings)
    return _close(gold, answer)


def _close(gold: Any, answer: Any) -> bool:
    """Whether two expressions are the same number: exactly, or within rel_tol where one holds a decimal."""
    gold, answer = grader.safe_sympy_doit(gold), grader.safe_sympy_doit(answer)
    decimal = gold.has(Float) or answer.has(Float)
    if isinstance(gold, Number) and isinstance(answer, Number) and not decimal:
        return bool(gold == answer)
    if gold.free_symbols or answer.free_symbols:
        return bool((gold - answer).evalf(15, chop=True) == 0)
    gold_value, answer_value = gold.evalf(30), answer.evalf(30)
    gap, scale = sympy.Abs(gold_value - answer_value).evalf(15), sympy.Max(abs(gold_value), abs(answer_value)).evalf(15)
    if not (gap.is_number and scale.is_number and gap.is_finite and scale.is_finite):
        return False
    tolerance = _policy["rel_tol"] if decimal and not isinstance(gold, Integer) else 1e-14
    # Only expressions that are not plain numbers can be a zero in disguise, such as sqrt(2)**2 - 2.
    noise = 0 if isinstance(gold, Number) and isinstance(answer, Number) else 1e-25
    # The slack keeps 0.333333 equal to 1/3, which lies exactly on the tolerance.
    return bool(gap <= tolerance * (1 + 1e-9) * scale + noise)
