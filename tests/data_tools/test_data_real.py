"""The real files: exact counts of rows in, mended and dropped, and what of one set stands in another.

The counts are the ones that docs/data.md shows. Skipped where the files are absent.
"""

from __future__ import annotations

import json
import random
from functools import cache

import pyarrow.parquet as pq
import pytest
from data_paths import real
from erpo_verl.reward import check_golds

from erpo_verl import cli
from erpo_verl.data.check import problems_of
from erpo_verl.data.overlap import OverlapIndex

# set, file, split: rows in, rows out, mended, dropped
FILES = {
    "gsm8k gsm8k_train.parquet train": (7473, 7473, {"invisible": 6, "thousands": 79}, {}),
    "gsm8k gsm8k_test.jsonl test": (1319, 1319, {"invisible": 3, "thousands": 14}, {}),
    "math math_train.parquet train": (
        7500,
        7491,
        {"latex_escape": 1, "box_over_target": 19, "two_boxes": 7, "number_word": 1, "frac_arguments": 1, "level_unknown": 2},
        {"no_gold": 2, "several_golds": 2, "duplicate": 5},
    ),
    "math math_test.parquet test": (
        5000,
        4997,
        {"box_over_target": 13, "two_boxes": 7, "frac_arguments": 1},
        {"several_golds": 2, "duplicate": 1},
    ),
    "math500 math500.jsonl test": (500, 500, {}, {}),
    "aime24 aime24.jsonl test": (30, 30, {"leading_zeros": 7}, {}),
    "aime25 aime25.parquet test": (30, 30, {"unit": 1}, {}),
    "aime25 aime25_corrupted.jsonl test": (30, 30, {"latex_escape": 3}, {}),
    "amc23 amc23.jsonl test": (40, 40, {"float_integer": 40}, {}),
    "minerva minerva_math.jsonl test": (272, 272, {"dollars": 1, "numpy": 1}, {}),
    "olympiadbench olympiadbench.jsonl test": (675, 674, {"dollars": 265, "several_answers": 78}, {"unreadable_gold": 1}),
}
ROWS = {
    "math math_train.parquet train": {
        "latex_escape": [5332], "number_word": [6627], "frac_arguments": [6811], "level_unknown": [2773, 2832],
        "no_gold": [5341, 5343], "several_golds": [4253, 5446], "duplicate": [959, 1227, 3881, 4322, 7378],
    },
    "math math_test.parquet test": {"frac_arguments": [1714], "several_golds": [2716, 2912], "duplicate": [2348]},
    "aime25 aime25_corrupted.jsonl test": {"latex_escape": [18, 19, 27]},
    "aime25 aime25.parquet test": {"unit": [19]},
    "minerva minerva_math.jsonl test": {"dollars": [72], "numpy": [5]},
    "olympiadbench olympiadbench.jsonl test": {"unreadable_gold": [96]},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("prepared")


@pytest.mark.parametrize("key", sorted(FILES))
def test_every_file_by_one_command(folder, key):
    name, file, split = key.split()
    out = folder / file.split(".")[0]
    assert cli.main(["prepare", name, "--source", str(real(file)), "--split", split, "--out", str(out)]) == 0
    record = json.loads((out / f"{split}.json").read_text())
    rows = pq.read_table(out / f"{split}.parquet").to_pylist()
    counts = {part: {rule: found["rows"] for rule, found in record[part].items()} for part in ("mended", "dropped")}
    assert (record["rows_in"], record["rows_out"], counts["mended"], counts["dropped"]) == FILES[key]
    for rule, expected in ROWS.get(key, {}).items():
        assert {**record["mended"], **record["dropped"]}[rule]["at"] == expected, rule
    assert len(rows) == len({row["extra_info"]["id"] for row in rows}) == record["rows_out"]
    assert [row["extra_info"]["index"] for row in rows] == list(range(len(rows)))
    assert not check_golds(rows[:300])  # the whole files were checked by the command
    text = "".join(row["prompt"][-1]["content"] + row["reward_model"]["ground_truth"] for row in rows)
    assert not set(text) & set("\x07\x08\x0b\x0c\r\u200b\u2028\u00a0\ufffd")


def test_levels_of_math(folder, tmp_path):
    source = real("math_train.parquet")
    args = ["--levels", "3-5", "--types", "Algebra", "--unreadable", "skip", "--out", str(tmp_path)]
    assert cli.main(["prepare", "math", "--source", str(source), *args]) == 0
    rows = pq.read_table(tmp_path / "train.parquet").to_pylist()
    assert {row["extra_info"]["level"] for row in rows} == {"3", "4", "5"}
    assert {row["extra_info"]["type"] for row in rows} == {"Algebra"}
    whole = [
        row for row in pq.read_table(source).to_pylist() if row["type"] == "Algebra" and row["level"] in ("Level 3", "Level 4", "Level 5")
    ]
    record = json.loads((tmp_path / "train.json").read_text())
    dropped = {rule: found["rows"] for rule, found in record["dropped"].items()}
    assert dropped.pop("level") + dropped.pop("type") == 7500 - len(whole)
    assert len(rows) == len(whole) - sum(dropped.values())


# train, other: (the same, near)
OVERLAPS = {
    ("gsm8k_train.parquet", "gsm8k_test.jsonl"): (0, 0),
    ("math_train.parquet", "math_test.parquet"): (5, 81),
    ("math_train.parquet", "math500.jsonl"): (0, 26),
    ("math_test.parquet", "math500.jsonl"): (500, 13),
    ("math_train.parquet", "aime24.jsonl"): (0, 0),
    ("math_train.parquet", "aime25.parquet"): (0, 0),
    ("math_train.parquet", "amc23.jsonl"): (0, 0),
    ("math_train.parquet", "minerva_math.jsonl"): (0, 0),
    ("math_train.parquet", "olympiadbench.jsonl"): (4, 2),
    ("math_test.parquet", "olympiadbench.jsonl"): (2, 0),
    ("gsm8k_train.parquet", "math_test.parquet"): (0, 0),
    ("aime24.jsonl", "aime25.parquet"): (0, 0),
    ("aime25_corrupted.jsonl", "aime25.parquet"): (14, 12),
}


@cache
def texts(name):
    ((_name, _digest, rows),) = problems_of(str(real(name)))
    return list(rows)


@cache
def index_of(name):
    made = OverlapIndex()
    for row, text in texts(name):
        made.add(name, row, text)
    return made


def count(train, other):
    index = index_of(other)
    kinds = [found.kind for _row, text in texts(train) if (found := index.find(text))]
    return kinds.count("same"), kinds.count("near")


@pytest.mark.parametrize(("train", "other"), sorted(OVERLAPS))
def test_what_stands_in_both(train, other):
    assert count(train, other) == OVERLAPS[train, other]


def test_injected_test_questions_are_found():
    """GSM8K's test set among its training set, every question respelled: all of them are found, and nothing else."""
    draw = random.Random(0)
    train, test, index = texts("gsm8k_train.parquet"), texts("gsm8k_test.jsonl"), index_of("gsm8k_test.jsonl")
    respelled = []
    for row, text in test:
        words = text.upper().split() if row % 2 else text.lower().split()
        respelled.append((row, draw.choice(["", "  ", "\n"]) + draw.choice(["  ", "\n", " \t "]).join(words).rstrip("?.") + draw.choice(["", " ?"])))
    found = [(row, index.find(text)) for row, text in respelled]
    assert all(match and match.kind == "same" and match.row == row for row, match in found)
    assert not any(index.find(text) for _row, text in train)


def test_reworded_test_questions():
    """A clause before the question, a sentence moved, one word in ten changed: how many GSM8K questions are still found."""
    draw = random.Random(0)
    test, index = texts("gsm8k_test.jsonl"), index_of("gsm8k_test.jsonl")

    def share(change):
        hits = [(row, index.find(change(text))) for row, text in test]
        assert all(match.row == row for row, match in hits if match)
        return sum(match is not None for _row, match in hits) / len(hits)

    def some_words(text):
        return " ".join("another" if word.isalpha() and draw.random() < 0.1 else word for word in text.split())

    assert share(lambda text: "Please solve the following problem: " + text) > 0.99
    assert share(lambda text: " ".join(text.split(". ")[::-1])) > 0.98
    assert 0.8 < share(some_words) < 0.9
    assert share(lambda text: text.replace("1", "7").replace("2", "9")) < 0.3  # other numbers make another exercise
