"""Reference answers: every one of the real sets is readable or listed; against itself right, against others wrong."""

from __future__ import annotations

import json
import random
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from erpo_verl.reward import check_golds, gold_answers


def test_problems_are_listed_with_their_rows():
    rows = [
        "42",
        "",
        r"\frac{1}{2}",
        None,
        r"\begin{pmatrix}1&2\\3\end{pmatrix}",
        r"\log_2 3",
        {"target": " "},
        "2 3",
        ["1", ""],
    ]
    problems = check_golds(rows)
    assert [problem.row for problem in problems] == [1, 3, 4, 6, 7, 8]
    assert problems[0].why == "empty" and problems[2].why == "it cannot be parsed"
    assert problems[2].gold == rows[4]


def test_rows_of_verl_are_understood():
    rows = [{"reward_model": {"ground_truth": gold, "style": "rule"}} for gold in ("42", "", {"target": "7"})]
    assert [problem.row for problem in check_golds(rows)] == [1]
    assert check_golds(iter(["1"] * 1000)) == []


def _load(data):
    parquet = pytest.importorskip("pyarrow.parquet")

    def lines(name):
        with open(data / name, encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    def table(name):
        return parquet.read_table(data / name).to_pylist()

    return {
        "math_train": [row["reward_model"]["ground_truth"] for row in table("math_train.parquet")],
        "math_test": [row["reward_model"]["ground_truth"] for row in table("math_test.parquet")],
        "math500": [row["answer"] for row in lines("math500.jsonl")],
        "gsm8k_test": [row["answer"] for row in lines("gsm8k_test.jsonl")],
        "aime24": [row["answer"] for row in lines("aime24.jsonl")],
        "aime25": [row["reward_model"]["ground_truth"] for row in table("aime25.parquet")],
        "aime25_corrupted": [row["answer"] for row in lines("aime25_corrupted.jsonl")],
        "amc23": [row["answer"] for row in lines("amc23.jsonl")],
        "minerva_math": [row["solution"] for row in lines("minerva_math.jsonl")],
        "olympiadbench": [row["final_answer"] for row in lines("olympiadbench.jsonl")],
    }


@pytest.fixture(scope="module")
def golds(data):
    return _load(data)


def test_the_known_bad_rows_of_the_real_sets(golds):
    found = {name: [problem.row for problem in check_golds(rows)] for name, rows in golds.items()}
    assert set(found["math_train"]) >= {5341, 5343, 6627, 7301} and len(found["math_train"]) <= 12
    assert 3526 in found["math_test"] and len(found["math_test"]) <= 5
    for name in ("math500", "gsm8k_test", "aime24", "aime25", "aime25_corrupted", "amc23"):
        assert found[name] == []
    assert len(found["minerva_math"]) <= 6 and len(found["olympiadbench"]) <= 2


def test_each_gold_meets_itself(golds, judge):
    for name, rows in golds.items():
        for row in rows:
            for text in gold_answers(row):
                if text:
                    assert judge.judge(text, text).right, (name, text)


def test_each_gold_meets_its_rewritings(golds, judge):
    """Spelled otherwise, a gold is still right: blanks, \\dfrac, \\left, dollars, a label, thousands, doubled fractions."""
    missed = []
    count = 0
    for name in ("math500", "gsm8k_test", "aime24", "aime25", "amc23", "olympiadbench"):
        for row in golds[name]:
            for text in gold_answers(row):
                for rewritten in _rewritings(text):
                    count += 1
                    if not judge.judge(rewritten, text).right:
                        missed.append((name, text, rewritten))
    assert count > 5000
    assert not missed


def _rewritings(text):
    bare = text.strip("$")
    yield f"$${bare}$$"
    yield bare.replace(r"\frac", r"\dfrac")
    yield f" {bare}. "
    yield re.sub(r"(?<=[+=-])(?=[^\s])", " ", bare)
    if "=" not in bare and "," not in bare and "<" not in bare and not re.search(r"\\(?:text|mathrm|in|le|ge)", bare):
        yield f"A = {bare}"
    if re.fullmatch(r"-?\d{4,}", bare):
        yield f"{int(bare):,}"
        yield f"{int(bare):,}".replace(",", "{,}")
    if re.fullmatch(r"-?\d+", bare):
        yield f"{bare}.0"
        yield rf"\frac{{{2 * int(bare)}}}{{2}}"
        yield rf"\text{{{bare}}}"
    if re.fullmatch(r"\\frac\{\d+\}\{\d+\}", bare):
        top, bottom = map(int, re.findall(r"\d+", bare))
        yield f"{top}/{bottom}"
        yield f"{top / bottom:.12f}" if top / bottom > 1e-3 else f"{top}/{bottom}"
    if re.fullmatch(r"[(\[][^()\[\]]*[)\]]", bare):
        yield rf"\left{bare[:-1]}\right{bare[-1]}"


def test_golds_of_other_rows_are_almost_never_right(golds, judge):
    """Right only where the two golds are one value: the numbers agree, or one leaves its base out."""
    random_ = random.Random(0)
    pairs = []
    for name in ("math500", "math_test", "olympiadbench", "gsm8k_test"):
        texts = [gold_answers(row)[0] for row in golds[name] if gold_answers(row) and gold_answers(row)[0]]
        pairs += [(text, other) for text in texts[:500] for other in random_.sample(texts, 2)]
    with ThreadPoolExecutor(8) as threads:  # keeps both workers busy
        right = list(threads.map(lambda pair: judge.judge(pair[1], pair[0]).right, pairs))
    wrong = [
        (text, other)
        for (text, other), met in zip(pairs, right, strict=True)
        if met and "".join(text.split()) != "".join(other.split())
    ]
    assert len(pairs) > 3000
    assert len(wrong) <= 0.002 * len(pairs), wrong
