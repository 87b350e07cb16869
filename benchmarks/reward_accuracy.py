"""How right is the maths reward? Recall and false positives on real reference answers, next to plain math-verify.

    python benchmarks/reward_accuracy.py --data FOLDER [--pairs PAIRS.jsonl] [--rows 1500]

FOLDER holds problem sets (math_test.parquet, math500.jsonl, gsm8k_test.jsonl, olympiadbench.jsonl, ...: those that are there are
used). Each gold is judged against itself, against rewritings that keep its value (both have to be right) and against golds of
other rows (right only where the two are one value). PAIRS.jsonl holds labelled pairs from elsewhere: rows with `gold`,
`response` (with a box) or `answer` (without), and `right`.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import re
from collections.abc import Iterator
from pathlib import Path

from erpo_verl.reward import MathJudge, Reason, RewardConfig, gold_answers

FIELDS = {
    "math_test.parquet": None, "math500.jsonl": "answer", "gsm8k_test.jsonl": "answer", "aime24.jsonl": "answer",
    "aime25.parquet": None, "amc23.jsonl": "answer", "olympiadbench.jsonl": "final_answer", "minerva_math.jsonl": "solution",
}  # fmt: skip


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


def plainly(gold: str, answer: str) -> bool:
    """Plain math-verify on the boxed texts."""
    from math_verify import parse, verify

    try:
        return bool(verify(parse(rf"\boxed{{{gold}}}"), parse(rf"\boxed{{{answer}}}")))
    except Exception:
        return False


def compare(name: str, pairs: list[tuple[str, str]], judge: MathJudge, rows: int) -> dict:
    """Share judged right by ours (all pairs) and by plain math-verify (`rows` of them), and ours on the same rows."""
    results = judge.score_many([(rf"\boxed{{{answer}}}", gold) for gold, answer in pairs])
    sample = random.Random(0).sample(range(len(pairs)), min(rows, len(pairs)))
    plain = [plainly(*pairs[place]) for place in sample]
    return {
        "what": name,
        "pairs": len(pairs),
        "ours_right": sum(result["acc"] for result in results) / len(pairs),
        "ours_fast": sum(result["fast_path"] for result in results) / len(pairs),
        "sampled": len(sample),
        "ours_right_on_sample": sum(results[place]["acc"] for place in sample) / len(sample),
        "plain_right_on_sample": sum(plain) / len(sample),
        "right_by_ours_only": [
            pairs[p] for p, found in zip(sample, plain, strict=True) if results[p]["acc"] and not found
        ][:12],
        "right_by_plain_only": [
            pairs[p] for p, found in zip(sample, plain, strict=True) if found and not results[p]["acc"]
        ][:12],
    }


def labelled(path: Path, judge: MathJudge) -> dict:
    """Agreement with the labels of somebody else's pairs, ours and plain math-verify's, and every disagreement of ours."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    agreed = plain_agreed = 0
    differing = []
    for row in rows:
        text = row.get("response") or rf"\boxed{{{row['answer']}}}"
        result = judge.score(text, row["gold"])
        agreed += bool(result["acc"]) == bool(row["right"])
        if bool(result["acc"]) != bool(row["right"]):
            differing.append({**row, "ours": Reason(int(result["reason"])).name.lower()})
        from math_verify import parse, verify

        try:
            gold = row["gold"] if "boxed" in row["gold"] else rf"\boxed{{{row['gold']}}}"
            plain_agreed += bool(verify(parse(gold), parse(text))) == bool(row["right"])
        except Exception:
            plain_agreed += not row["right"]
    return {"pairs": len(rows), "ours_agrees": agreed, "plain_agrees": plain_agreed, "differing": differing}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--pairs", type=Path)
    parser.add_argument(
        "--rows", type=int, default=1500, help="pairs of each comparison that plain math-verify judges too"
    )
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    judge = MathJudge(RewardConfig())
    report: dict = {}
    if args.data:
        sets = golds(args.data)
        rng = random.Random(0)
        itself = [(text, text) for texts in sets.values() for text in texts]
        rewritten = [
            (text, other) for texts in sets.values() for text in sorted(set(texts)) for _how, other in rewritings(text)
        ]
        others = [
            (text, other)
            for texts in sets.values()
            for text in texts
            for other in rng.sample(texts, 2)
            if other != text
        ]
        for name, pairs in (("itself", itself), ("rewritings", rewritten), ("others", others)):
            report[name] = compare(name, pairs, judge, args.rows)
    if args.pairs:
        report["labelled"] = labelled(args.pairs, judge)
    print(json.dumps(report, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
