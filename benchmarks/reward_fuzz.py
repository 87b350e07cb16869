"""Looks for a response that hangs, bloats or breaks what the reward runs in the caller: in the trainer, with no time limit.

    python benchmarks/reward_fuzz.py [--seconds 600] [--seed 0] [--cases FILE.jsonl ...] [--full]

Responses are made from a grammar of LaTeX fragments, by repetition and by mutation of cases (the built-in ones, and those of the
files: `solution_str` and `ground_truth`). Each goes the caller's whole road; requests to the workers are answered at once by a
stand-in, so that any time spent is the caller's own. `--full` uses the workers too: then a find is also a response that is right for two
reference answers of different values, or that makes itself ungradeable though the reference answer can be read.

A find is a response that raises, gets the verdict `failed`, takes more than LIMIT_S of processor time plus LIMIT_S for each million
characters, or whose result holds a string longer than verdict.PRED_CHARS or a number that is not finite. Finds are printed, shortened
as far as they still are one, and end the run with status 1. Seconds are processor seconds, so that a busy machine finds the same.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import math
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from erpo_verl.reward import MathJudge, RewardConfig, close_all

LIMIT_S = 0.1
HARD_LIMIT_S = 2.0  # processor seconds after which one call is interrupted and counted as a find
ATOMS = (
    "0", "1", "2", "7", "42", "1999", "10^{400}", "1e300", "0.333", "1,000", "x", "y", "n", "a_{n}", "x_1", "f(x)", "\\pi", "\\infty", "e", "i",
    "\\theta", "\\emptyset", "\\mathbb{R}", "\\ldots", "...", "?", "!", "'", "\\text{ cm}", "\\text{maybe}", "\\%", "%", "$", "^\\circ", "\u2212",
    "\u00bd", "\u2075", "\u4e07", "\ud800", "\u0301", "\u200b", "\U0001d7d2", "\x00", "\n", "",
)  # fmt: skip
FRAMES = (
    "\\frac{A}{B}", "\\frac AB", "\\sqrt{A}", "\\sqrt[A]{B}", "A^{B}", "A^B", "A_{B}", "{A}", "(A)", "[A]", "\\{A\\}", "|A|", "\\left(A\\right)",
    "\\text{A}", "\\textbf{(C) }A", "\\boxed{A}", "\\color{red}{A}", "\\phantom{A}", "\\begin{pmatrix}A&B\\\\B&A\\end{pmatrix}",
    "\\begin{aligned}A&=B\\end{aligned}", "A+B", "A-B", "AB", "A\\cdot B", "A/B", "A=B", "A<B", "A,B", "A;B", "A \\text{ and } B", "A\\cup B",
    "A\\pm B", "A!", "A:B", "\\overline{A}", "A\\overline{B}", "\\log_A B", "\\binom{A}{B}", "\\sum_{A}^{B}", "\\int_A^B", "<think>A</think>B",
    "\\boxed{A} or \\boxed{B}", "#### A", "Answer: A",
)  # fmt: skip
CASES = (
    ("\\boxed{a_{n}+a_{n}+5=42}", "42"), ("\\boxed{10^{400}}", "2.5"), ("\\boxed{(x+0)^{60}+(x+1)^{60}}", "42"),
    ("\\boxed{\\{(x+0)^{60},(x+1)^{60}\\}}", "\\{1,2\\}"), ("\\boxed{\\frac{1}{3^{1999}}+\\frac{1}{7^{1333}}+\\frac{1}{11^{999}}}", "42"),
    ("\\boxed{12345678901234567890}", "1/3"), ("\\boxed{x=1,y=2}", "(1,2)"), ("\\boxed{5\\text{ km/h}}", "5"), ("\\boxed{1,000,000}", "10^6"),
    ("<think>a</think>\\boxed{[0,1)\\cup(2,\\infty)}", "[0,1)"), ("\\boxed{\\text{Monday}}", "\\text{Monday}"), ("\\boxed{\\pm 2}", "2,-2"),
)  # fmt: skip
GOLDS = ("42", "2.5", "1/3", "x=5", "(1,2)", "\\{1,2\\}", "1,2", "\\text{even}", "50\\%", "[0,1)", "x^2+1", "10\\text{ cm}", "C", "")


UNLIKE = ("42", "\\frac{14}{3}", "(1,2)", "\\{7,8\\}", "x=5", "f(x)=2x", "\\text{Monday}", "[0,1)", "3:4", "10\\text{ cm}", "x^2+C")  # no two have one value (a choice: (C) 42 meets both C and 42)


def grown(rng: random.Random, depth: int) -> str:
    """A text of the grammar."""
    if depth <= 0 or rng.random() < 0.15:
        return rng.choice(ATOMS)
    frame = rng.choice(FRAMES)
    return frame.replace("A", "\0").replace("B", grown(rng, depth - 1)).replace("\0", grown(rng, depth - 1))[:20_000]


def repeated(rng: random.Random) -> str:
    """One fragment many times, perhaps with something before, behind and between: what makes bad patterns explode."""
    piece, joint = grown(rng, rng.choice([0, 0, 1, 1, 2])), rng.choice(["", "", "+", ",", " ", "=", ";", "-"])
    count = rng.choice([3, 10, 16, 24, 30, 100, 1000, 30_000])
    text = joint.join([piece] * count) if rng.random() < 0.7 else "".join(piece.replace("0", str(k)) + joint for k in range(min(count, 300)))
    return rng.choice(["", grown(rng, 1)]) + text[:1_000_000] + rng.choice(["", "", "5=42", grown(rng, 1)])


def mutated(rng: random.Random, text: str) -> str:
    """`text` with pieces cut, doubled, replaced or swapped."""
    for _ in range(rng.choice([1, 1, 2, 4])):
        start = rng.randrange(len(text) + 1)
        end = min(len(text), start + rng.choice([0, 1, 2, 5, 20]))
        piece = rng.choice(["", text[start:end] * rng.choice([2, 3, 14, 16, 40, 300]), rng.choice(ATOMS), grown(rng, 1), text[::-1][:5]])
        text = (text[:start] + piece + text[end:])[:200_000]
    return text


def responses(rng: random.Random, cases: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """(response, gold) without end."""
    while True:
        kind = rng.random()
        if kind < 0.35:
            text = rf"so \boxed{{{grown(rng, rng.choice([1, 2, 3, 4]))}}}."
        elif kind < 0.65:
            text = rf"\boxed{{{repeated(rng)}}}" if rng.random() < 0.8 else repeated(rng)
        else:
            text, gold = rng.choice(cases)
            yield mutated(rng, text), gold if rng.random() < 0.7 else mutated(rng, gold)
            continue
        yield text, rng.choice(GOLDS) if rng.random() < 0.8 else grown(rng, 2)


class Overtime(BaseException):
    """The call took HARD_LIMIT_S. No Exception, so that no handler for those swallows it."""


def fault(judge: MathJudge, response: str, gold: str) -> str | None:
    """What is wrong with the judgement of one response, None where nothing is."""
    started = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, HARD_LIMIT_S)
    try:
        result = judge.score(response, gold)
    except Overtime:
        return f"takes over {HARD_LIMIT_S} s of processor time"
    except Exception as error:
        return f"raises {type(error).__name__}: {str(error)[:100]}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
    seconds = time.process_time() - started
    if seconds > LIMIT_S * (1 + len(response) / 1e6):
        return f"takes {seconds:.2f} s of processor time"
    if result["reason"] == 19:
        return "comparison failed"
    if len(result["pred"]) > 200 or not all(math.isfinite(value) for key, value in result.items() if key != "pred"):
        return f"has a result out of bounds: {result}"
    return None


def misjudged(judge: MathJudge, response: str) -> str | None:
    """Which two unlike reference answers a response meets, or which one it makes unreadable; None where all is well."""
    results = judge.score_many([(response, gold) for gold in UNLIKE])
    right = [gold for gold, result in zip(UNLIKE, results, strict=True) if result["acc"]]
    lost = [gold for gold, result in zip(UNLIKE, results, strict=True) if result["reason"] in (15, 19)]
    return f"meets {right[0]} and {right[1]}" if len(right) > 1 else f"ungradeable beside {lost[0]}" if lost else None


def shortened(response: str, gold: str, is_fault: Callable[[str, str], bool]) -> str:
    """The response with everything cut off that the fault does not need."""
    size = len(response) // 2
    while size:
        place = 0
        while place < len(response):
            shorter = response[:place] + response[place + size :]
            if is_fault(shorter, gold):
                response = shorter
            else:
                place += size
        size //= 2
        if len(response) > 2000 and size < 50:
            break
    return response


def _stand_in(_request: dict) -> concurrent.futures.Future:
    """A worker that says `wrong` at once."""
    future: concurrent.futures.Future = concurrent.futures.Future()
    future.set_result({"reason": "wrong", "pred": "x"} if _NEW else "wrong")
    return future


_NEW = hasattr(MathJudge, "group_answers")  # older judges want a bare word


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600.0, help="processor seconds to spend")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=Path, nargs="*", default=[])
    parser.add_argument("--full", action="store_true", help="with the real workers")
    parser.add_argument("--finds", type=int, default=5, help="stop after so many")
    args = parser.parse_args()

    def stop(_signal: int, _frame: object) -> None:
        raise Overtime

    signal.signal(signal.SIGPROF, stop)
    judge = MathJudge(RewardConfig(cache_size=64, time_limit_s=1.0))
    if not args.full:
        judge._pool = lambda: type("StandIn", (), {"submit": staticmethod(_stand_in), "start": staticmethod(lambda: None)})()
    cases = list(CASES)
    for path in args.cases:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        cases += [(row["solution_str"], row["ground_truth"]) for row in rows]
    rng = random.Random(args.seed)
    finds: list[dict] = []
    tried, longest = 0, (0.0, "")
    started = time.process_time()
    for response, gold in responses(rng, cases):
        if time.process_time() - started > args.seconds or len(finds) >= args.finds:
            break
        before = time.process_time()
        why = (fault(judge, response, gold) or (misjudged(judge, response) if args.full else None))
        longest = max(longest, (time.process_time() - before, response[:120]))
        tried += 1
        if why:
            kind = why.split()[0]
            short = shortened(
                response, gold, lambda text, other, kind=kind: (fault(judge, text, other) or (args.full and misjudged(judge, text)) or "").startswith(kind)
            )
            finds.append({"why": why, "response": short[:2000], "gold": gold})
            print(json.dumps(finds[-1]), flush=True)
    print(f"{tried} responses in {time.process_time() - started:.0f} s of processor time, {len(finds)} finds; longest {longest[0]:.3f} s "
          f"for {longest[1]!r}")  # fmt: skip
    close_all()
    return 1 if finds else 0


if __name__ == "__main__":
    sys.exit(main())
