"""How right is the maths reward? False positives and false negatives, next to plain math-verify on every row.

    python benchmarks/reward_accuracy.py --labelled FILE.jsonl ... [--data FOLDER] [--synthesised 600] [--rows 1500] [--list]

A labelled file holds rows with a gold (`gold` or `ground_truth`), a response (`response` or `solution_str`) or a bare `answer`,
a label (`right` or `expected`) and perhaps a `kind`; the counts are shown by kind. FOLDER holds problem sets (math_test.parquet,
math500.jsonl, olympiadbench.jsonl, ...: those that are there are used): each gold is judged against itself and against rewritings
that keep its value (both have to be right) and against golds of other rows (right only where the two are one value).
Synthesised pairs are those of reward_pairs.py.

    ours     erpo_verl.reward with its default settings
    plain    math-verify as its README calls it
    boxed    the same with the box looked for first
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from erpo_verl.reward import MathJudge, Reason, RewardConfig, close_all, gold_answers
from reward_pairs import synthesise

FIELDS = {
    "math_test.parquet": None, "math500.jsonl": "answer", "gsm8k_test.jsonl": "answer", "aime24.jsonl": "answer",
    "aime25.parquet": None, "amc23.jsonl": "answer", "olympiadbench.jsonl": "final_answer", "minerva_math.jsonl": "solution",
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One labelled response."""

    kind: str
    gold: str
    response: str
    right: bool


# ---------------------------------------------------------------------- rows


def labelled(path: Path) -> list[Row]:
    """The rows of a labelled file."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        response = row.get("response", row.get("solution_str")) or rf"\boxed{{{row['answer']}}}"
        gold = row.get("gold", row.get("ground_truth"))
        rows.append(Row(row.get("kind", "all"), gold, response, bool(row.get("right", row.get("expected")))))
    return rows


def golds(folder: Path) -> dict[str, list[str]]:
    """The readable single answers of each set that is there."""
    out = {}
    for name, field in FIELDS.items():
        path = folder / name
        if not path.exists():
            continue
        if field is None:
            import pyarrow.parquet

            rows = [row["reward_model"]["ground_truth"] for row in pyarrow.parquet.read_table(path).to_pylist()]
        else:
            rows = [json.loads(line)[field] for line in path.read_text(encoding="utf-8").splitlines()]
        out[name] = [texts[0].strip("$") for row in rows if len(texts := gold_answers(row)) == 1 and texts[0]]
    return out


def from_sets(folder: Path, rng: random.Random) -> list[Row]:
    """Each gold against itself, against its rewritings, and against golds of other rows (taken for wrong)."""
    sets = golds(folder)
    rows = [Row("itself", text, rf"\boxed{{{text}}}", True) for texts in sets.values() for text in texts]
    for texts in sets.values():
        for text in sorted(set(texts)):
            rows += [Row(f"rewritten: {how}", text, rf"\boxed{{{other}}}", True) for how, other in rewritings(text)]
        for text in texts:
            rows += [Row("another row's", text, rf"\boxed{{{o}}}", False) for o in rng.sample(texts, 2) if o != text]
    return rows


def rewritings(text: str) -> Iterator[tuple[str, str]]:
    """(how, the same value spelled otherwise)."""
    yield "dollars", f"$${text}$$"
    if r"\frac" in text:
        yield "dfrac", text.replace(r"\frac", r"\dfrac")
    if re.fullmatch(r"-?\d+", text):
        yield "point zero", f"{text}.0"
        yield "label", f"x = {text}"
        yield "doubled fraction", rf"\frac{{{2 * int(text)}}}{{2}}"
        yield "text", rf"\text{{{text}}}"
        if abs(int(text)) > 999:
            yield "thousands", f"{int(text):,}"
    if match := re.fullmatch(r"(-?)\\frac\{(\d+)\}\{(\d+)\}", text):
        yield "slash", f"{match[1]}{match[2]}/{match[3]}"
        yield "unreduced", rf"{match[1]}\frac{{{3 * int(match[2])}}}{{{3 * int(match[3])}}}"
        yield "decimal", f"{match[1]}{int(match[2]) / int(match[3]):.10g}"
    if re.fullmatch(r"[(\[][^()\[\]]*[)\]]", text):
        yield "left right", rf"\left{text[:-1]}\right{text[-1]}"
    if match := re.fullmatch(r"(\d+)\\sqrt\{(\d+)\}", text):
        yield "under the root", rf"\sqrt{{{int(match[1]) ** 2 * int(match[2])}}}"


# ---------------------------------------------------------------------- judges


def plainly(row: Row, config: list | None = None) -> bool:
    """Plain math-verify on the response and the boxed gold."""
    from math_verify import parse, verify

    gold = row.gold if r"\boxed" in row.gold else rf"\boxed{{{row.gold}}}"
    try:
        settings = {"extraction_config": config} if config else {}
        return bool(verify(parse(gold, **settings), parse(row.response, **settings)))
    except Exception:
        return False


def boxed_first(row: Row) -> bool:
    """The same, told to look at the box before anything else."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig

    return plainly(row, [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()])


def table(name: str, rows: list[Row], judge: MathJudge, plains: dict[str, Callable[[Row], bool]], show: bool) -> None:
    """Prints false positives and negatives by kind, of ours and of the others, and (where asked) every one of ours."""
    results = judge.score_many([(row.response, row.gold) for row in rows])
    verdicts = {"ours": [bool(result["acc"]) for result in results]}
    seconds = {}
    for other, score in plains.items():
        started = time.perf_counter()
        verdicts[other] = [score(row) for row in rows]
        seconds[other] = time.perf_counter() - started
    kinds = sorted({row.kind for row in rows})
    print(f"\n## {name}\n\n| kind | right, wrong | " + " | ".join(f"{judge}: FP, FN" for judge in verdicts) + " |")
    print("|---|---|" + "---|" * len(verdicts))
    for kind in [*kinds, "together"]:
        places = [place for place, row in enumerate(rows) if kind in (row.kind, "together")]
        right = sum(rows[place].right for place in places)
        cells = []
        for found in verdicts.values():
            positive = sum(found[place] and not rows[place].right for place in places)
            negative = sum(rows[place].right and not found[place] for place in places)
            cells.append(f"{positive}, {negative}")
        print(f"| {kind} | {right}, {len(places) - right} | " + " | ".join(cells) + " |")
    fast = sum(result["fast_path"] for result in results)
    print(f"\ndecided in the caller: {fast / len(rows):.1%}", *(f"; {k} took {v:.0f} s" for k, v in seconds.items()))
    if show:
        for sign, wanted in (("accepted, labelled wrong", False), ("refused, labelled right", True)):
            print(f"\n{sign}:")
            for row, result in zip(rows, results, strict=True):
                if row.right is wanted and bool(result["acc"]) is not wanted:
                    reason = Reason(int(result["reason"])).name.lower()
                    print(f"  {row.kind}: {row.gold!r} <- {row.response[-150:]!r}" + (f" [{reason}]" if wanted else ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labelled", type=Path, nargs="*", default=[])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--synthesised", type=int, default=0)
    parser.add_argument("--rows", type=int, default=1500, help="of the rows made from problem sets, so many are judged")
    parser.add_argument("--no-plain", action="store_true", help="ours alone")
    parser.add_argument("--list", action="store_true", help="every row where ours and the label differ")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    judge = MathJudge(RewardConfig(workers=2))
    plains = {} if args.no_plain else {"plain": plainly, "boxed": boxed_first}
    for path in args.labelled:
        table(path.name, labelled(path), judge, plains, args.list)
    if args.data:
        rng = random.Random(0)
        rows = from_sets(args.data, rng)
        table("problem sets", rng.sample(rows, min(args.rows, len(rows))), judge, plains, args.list)
    if args.synthesised:
        made = [Row(pair.kind, pair.gold, pair.response, pair.right) for pair in synthesise(args.synthesised, seed=7)]
        table("synthesised", made, judge, plains, args.list)
    close_all()


if __name__ == "__main__":
    main()
