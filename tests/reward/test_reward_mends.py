"""What of math-verify is mended, each mend pinned: a test that fails here says that upstream changed, and which mend can go.

Runs plain math-verify in a subprocess, since this process never imports sympy.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import metadata

from conftest import ROOT

PLAIN = """
import json, logging, sys
logging.disable(logging.CRITICAL)
from math_verify import parse, verify
from math_verify.parser import LatexExtractionConfig
config = [LatexExtractionConfig(boxed_match_priority=0)]
def read(text):
    return parse("\\\\boxed{" + text + "}", config, fallback_mode="no_fallback", parsing_timeout=None)
def same(gold, answer):
    return bool(verify(read(gold), read(answer), timeout_seconds=None))
print(json.dumps(eval(sys.argv[1])))
"""


def plainly(expression: str):
    """The value of an expression over `read` and `same` with math-verify as it is installed."""
    done = subprocess.run([sys.executable, "-c", PLAIN, expression], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def antlr() -> str:
    return metadata.version("antlr4-python3-runtime")


def test_percent_does_not_reach_math_verify(judge):
    """On antlr 4.9 it reads no percent at all; here the sign is taken off before."""
    assert judge.judge(r"(50\%, \ln 2)", r"(0.5, \ln 2)").right
    assert judge.judge(r"\ln(e)50\%", r"50\%").right


def test_decimals_are_still_rounded_to_six_places():
    assert plainly("same('0.0000001', '0.0000002')"), (
        "math-verify no longer rounds absolutely: the mend of reward/mathverify.py can go"
    )


def test_mixed_numbers_still_swallow_products():
    assert plainly("same('5', '2(3)')"), (
        "math-verify reads 2(3) as a product again: the \\cdot of reward/guard.py can go"
    )


QUICK = """
import json, logging, sys
sys.path.insert(0, sys.argv[1])
logging.disable(logging.CRITICAL)
import mathverify
from antlr4 import PredictionMode
mathverify.mend()
def parsed(text, modes):
    mathverify._MODES = modes
    mathverify.parse.cache_clear()
    return repr(mathverify.parse(text))
texts = [*mathverify.WARM_UP, *json.loads(sys.argv[2])]
full = [parsed(text, (PredictionMode.LL,)) for text in texts]
print(json.dumps([
    [text for text, f in zip(texts, full) if parsed(text, mode) != f]
    for mode in ((PredictionMode.SLL,), (PredictionMode.SLL, PredictionMode.LL))
]))
"""


def test_the_quick_prediction_parses_as_the_full_one():
    """Where it parses at all; a few texts, such as `a_{n+1}`, the full one alone reads, and it is then asked."""
    texts = [
        r"\ln(4x)", r"\ln(x)+\ln(4)", r"\log_{3} 4", r"3\sin(2x)", r"6\sin(x)\cos(x)", r"2\exp(11)", r"|x|+|y|", r"\sqrt[3]{4}",
        r"\frac{\ln 2}{\ln 3}", r"a\cos^{2}\theta-b", r"2^{n+3}", r"(", r"x^", r"\sin", r"\frac{1}", r"1+", "x y z",
        r"\int_0^1 x dx", r"\lim_{x\to 0} \frac{\sin x}{x}", r"f(x)=\ln(x+1)", r"\{x \mid x>1\}", r"\left|\frac{a}{b}\right|",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", QUICK, str(ROOT / "reward"), json.dumps(texts)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    quick_alone, both = json.loads(done.stdout)
    assert both == []
    assert r"a_{n+1}" in quick_alone and len(quick_alone) < 10


def test_the_requirements_keep_hydra_and_antlr_together():
    """The package asks for antlr 4.9 and for hydra-core 1.3 in one breath: no resolver can please antlr 4.13 instead."""
    if sys.version_info >= (3, 11):
        import tomllib

        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        wanted = " ".join(project["optional-dependencies"]["reward"])
        assert "math-verify[antlr4_9_3]" in wanted
        assert re.search(r"hydra-core>=1\.3", wanted)
        everything = " ".join(line for extra in project["optional-dependencies"].values() for line in extra)
        assert "antlr4_13" not in everything and "antlr4_11" not in everything
    assert antlr().startswith("4.9.")
    hydra = metadata.version("hydra-core")
    assert tuple(map(int, hydra.split(".")[:2])) >= (1, 3)
