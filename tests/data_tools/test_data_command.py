"""`erpo prepare`: what it writes, prints and refuses, on small files made by hand."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from erpo_verl import cli
from erpo_verl.data.sets import SETS
from erpo_verl.data.templates import INSTRUCTION, TEMPLATES, strip_instruction

GSM8K = [
    {"question": "How many?", "answer": "Two and two.\n#### 1,234"},
    {"problem": "And now?", "answer": "-7.50"},
    {"question": "How  many ?", "answer": "#### 1234"},
    {"question": "Broken", "answer": "#### twelve"},
    {"question": "", "answer": "#### 3"},
    {"question": "No answer", "answer": None},
    {"question": "Control \x00 character", "answer": "#### 4"},
    {"question": "Twice", "answer": "#### 5"},
    {"question": "twice", "answer": "#### 6"},
    {"question": "\u200b", "answer": "#### 7"},
]
MATH = [
    {"problem": "Let $x=1$. Find $x$.", "level": "Level 1", "type": "Algebra", "solution": "It is $\\boxed{1}$."},
    {"problem": "What is a cube?", "level": "Level 5", "type": "Geometry", "solution": "$\\boxed{8}$ corners"},
    {"problem": "Unknown level", "level": "Level ?", "type": "Geometry", "solution": "$\\boxed{\\frac{1}{2}}$"},
    {"problem": "Prove it.", "level": "Level 3", "type": "Number Theory", "solution": "Clear."},
]


def lines(path: Path, rows) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


def prepare(*args) -> int:
    return cli.main(["prepare", *map(str, args)])


def read(folder: Path, name: str = "train"):
    """(rows, record) of a prepared folder."""
    return pq.read_table(folder / f"{name}.parquet").to_pylist(), json.loads((folder / f"{name}.json").read_text())


@pytest.fixture
def gsm8k(tmp_path):
    return lines(tmp_path / "in.jsonl", GSM8K)


def test_rows_and_record(gsm8k, tmp_path, capsys):
    assert prepare("gsm8k", "--source", gsm8k, "--out", tmp_path / "out") == 0
    rows, record = read(tmp_path / "out")
    assert [row["reward_model"] for row in rows] == [
        {"style": "rule", "ground_truth": "1234"},
        {"style": "rule", "ground_truth": "-7.50"},
    ]
    assert rows[0]["prompt"] == [{"role": "user", "content": f"How many? {INSTRUCTION}"}]
    assert rows[0]["data_source"] == "gsm8k" and rows[0]["ability"] == "math"
    info = rows[1]["extra_info"]
    assert info.pop("id").startswith("gsm8k/") and info.pop("problem") == "And now?"
    assert info == {"index": 1, "split": "train", "row": 1, "level": None, "type": None, "unit": None, "source_id": None, "answer_forms": "boxed"}
    assert (record["rows_in"], record["rows_out"], record["rows_published"]) == (10, 2, 7473)
    assert {rule: found["at"] for rule, found in record["dropped"].items()} == {
        "no_problem": [4, 9],
        "broken_text": [6],
        "no_gold": [5],
        "not_a_number": [3],
        "duplicate": [2],
        "conflicting_golds": [7, 8],
    }
    assert record["dropped"]["duplicate"]["remarks"] == {"2": "as row 0"}
    assert record["dropped"]["not_a_number"]["remarks"] == {"3": "'#### twelve'"}
    assert {rule: found["at"] for rule, found in record["mended"].items()} == {"thousands": [0]}
    assert record["source"]["name"] == "in.jsonl" and str(tmp_path) not in json.dumps(record)
    assert record["source"]["sha256"] == hashlib.sha256(gsm8k.read_bytes()).hexdigest()
    assert record["file_sha256"] == hashlib.sha256((tmp_path / "out" / "train.parquet").read_bytes()).hexdigest()
    out = capsys.readouterr().out
    assert "2 of 10 rows" in out and "dropped 2: conflicting_golds (row 7, 8)" in out


def test_duplicates_may_be_kept(gsm8k, tmp_path):
    assert prepare("gsm8k", "--source", gsm8k, "--duplicates", "keep", "--out", tmp_path / "out") == 0
    rows, record = read(tmp_path / "out")
    assert [row["extra_info"]["row"] for row in rows] == [0, 1, 2, 7, 8] and "duplicate" not in record["dropped"]


def test_same_bytes_whatever_the_hash_seed(tmp_path):
    source = lines(tmp_path / "in.jsonl", MATH + [{**row, "problem": f"{row['problem']} {i}"} for i in range(40) for row in MATH])
    against = lines(tmp_path / "test.jsonl", MATH[:1])
    for seed in ("1", "2"):
        subprocess.run(
            [sys.executable, "-m", "erpo_verl.cli", "prepare", "math", "--source", source, "--against", against, "--sample", "50",
             "--out", tmp_path / seed],
            env={**os.environ, "PYTHONHASHSEED": seed}, check=True, capture_output=True, cwd=tmp_path,
        )  # fmt: skip
    for name in ("train.parquet", "train.json"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    assert len(read(tmp_path / "1")[0]) == 50


def test_levels_and_types(tmp_path, capsys):
    source = lines(tmp_path / "in.jsonl", MATH)
    assert prepare("math", "--source", source, "--out", tmp_path / "all") == 0
    rows, record = read(tmp_path / "all")
    assert [(row["extra_info"]["level"], row["extra_info"]["type"]) for row in rows] == [
        ("1", "Algebra"), ("5", "Geometry"), (None, "Geometry"),
    ]  # fmt: skip
    assert record["mended"]["level_unknown"]["at"] == [2] and record["dropped"]["no_gold"]["at"] == [3]
    assert prepare("math", "--source", source, "--levels", "1-2,5", "--types", "geometry", "--out", tmp_path / "some") == 1
    assert "level '2'" in capsys.readouterr().err
    assert prepare("math", "--source", source, "--levels", "1,5", "--types", "geometry", "--out", tmp_path / "some") == 0
    rows, record = read(tmp_path / "some")
    assert [row["extra_info"]["row"] for row in rows] == [1]
    assert record["dropped"]["level"]["at"] == [2, 3] and record["dropped"]["type"]["at"] == [0]


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_templates(gsm8k, tmp_path, name):
    assert prepare("gsm8k", "--source", gsm8k, "--template", name, "--out", tmp_path / "out") == 0
    messages = read(tmp_path / "out")[0][0]["prompt"]
    assert [m["role"] for m in messages] == (["system", "user"] if TEMPLATES[name].system else ["user"])
    assert "How many?" in messages[-1]["content"] and messages == TEMPLATES[name].messages("How many?")
    assert ("boxed{}" in json.dumps(messages)) == (name not in ("plain", "dapo"))
    assert strip_instruction(messages[-1]["content"]) == "How many?"


def test_sample_is_nested_and_does_not_depend_on_the_order(tmp_path):
    rows = [{"problem": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(60)]
    ids = {}
    for name, source, size in (("a", rows, 20), ("b", rows[::-1], 20), ("c", rows, 10)):
        path = lines(tmp_path / f"{name}.jsonl", [{**row, "row": i} for i, row in enumerate(source)])
        assert prepare("custom", "--source", path, "--sample", size, "--seed", 3, "--out", tmp_path / name) == 0
        ids[name] = {row["extra_info"]["id"] for row in read(tmp_path / name)[0]}
    assert ids["a"] == ids["b"] and ids["c"] < ids["a"] and len(ids["c"]) == 10


def test_custom_columns(tmp_path, capsys):
    rows = [{"q": {"text": "Find $x$."}, "gold": {"target": "7"}, "grade": 3, "n": 5}, {"q": {"text": "Say it"}, "gold": 2.0}]
    source = lines(tmp_path / "in.jsonl", rows)
    columns = "problem=q.text,answer=gold,level=grade,id=n"
    args = ["--source", source, "--columns", columns, "--split", "test", "--data-source", "mine", "--out", tmp_path / "out"]
    assert prepare("custom", *args) == 0
    rows, _record = read(tmp_path / "out", "test")
    assert {(row["data_source"], row["extra_info"]["id"][:5]) for row in rows} == {("mine", "mine/")}
    assert [row["reward_model"]["ground_truth"] for row in rows] == ["7", "2"]
    assert (rows[0]["extra_info"]["level"], rows[0]["extra_info"]["source_id"]) == ("3", "5")
    for bad, expected in (("problem", "NAME=COLUMN"), ("problem=q", "answer"), ("question=q,answer=a", "one of problem")):
        assert prepare("custom", "--source", source, "--columns", bad, "--out", tmp_path / "x") == 1
        assert expected in capsys.readouterr().err


def test_unreadable_answers(tmp_path, capsys):
    rows = [{"problem": "One?", "answer": "1"}, {"problem": "Two?", "answer": "\\frac{"}, {"problem": "Three?", "answer": "2 3"}]
    source = lines(tmp_path / "in.jsonl", rows)
    kept = {"drop": [0], "keep": [0, 1, 2], "skip": [0, 1, 2]}
    for choice, expected in kept.items():
        assert prepare("custom", "--source", source, "--unreadable", choice, "--out", tmp_path / choice) == 0
        found, record = read(tmp_path / choice)
        assert [row["extra_info"]["row"] for row in found] == expected
        assert [bad["row"] for bad in record["unreadable_golds"]] == ([] if choice == "skip" else [1, 2])
    capsys.readouterr()
    assert prepare("custom", "--source", source, "--unreadable", "refuse", "--out", tmp_path / "refuse") == 1
    assert "row 1" in capsys.readouterr().err and not (tmp_path / "refuse").exists()


TRAIN = [
    {"question": "Janet has 3 ducks that lay 16 eggs. How many eggs does she sell, if she eats 4 of them every day?", "answer": "#### 12"},
    {"question": "A robe takes 2 bolts of blue fiber and half that much white fiber. How many bolts in total?", "answer": "#### 3"},
    {"question": "Janet has 3 hens that lay 20 eggs. How many eggs does she sell, if she eats 4 of them every day?", "answer": "#### 16"},
    {"question": "Now Janet has 3 ducks that lay 16 eggs. How many eggs does she sell, if she eats 4 of them?", "answer": "#### 12"},
]
TEST = [{"question": "JANET has 3 ducks, that lay 16 eggs.\nHow many eggs does she sell if she eats 4 of them every day ?", "answer": "#### 12"}]


@pytest.mark.parametrize(("action", "left"), [("drop", [1, 2, 3]), ("drop-near", [1, 2]), ("report", [0, 1, 2, 3])])
def test_test_questions_in_a_training_set(tmp_path, capsys, action, left):
    source, against = lines(tmp_path / "train.jsonl", TRAIN), lines(tmp_path / "test.jsonl", TEST)
    args = ["gsm8k", "--source", source, "--against", against, "--on-overlap", action, "--out", tmp_path / "out"]
    assert prepare(*args) == 0
    rows, record = read(tmp_path / "out")
    assert [row["extra_info"]["row"] for row in rows] == left
    (found,) = record["against"]
    assert (found["source"], found["rows"], found["same"], found["near"]) == ("test.jsonl", 1, 1, 1)
    assert found["same_at"] == [{"row": 0, "other_row": 0, "share": 1.0}] and found["near_at"][0]["row"] == 3
    assert "against test.jsonl: 1 the same, 1 near" in capsys.readouterr().out


def test_check_of_two_folders(tmp_path, capsys):
    for name, rows in (("train", TRAIN), ("test", TEST)):
        source = lines(tmp_path / f"{name}.jsonl", rows)
        assert prepare("gsm8k", "--source", source, "--split", name, "--template", "qwen3", "--out", tmp_path / name) == 0
    capsys.readouterr()
    assert prepare("--check", tmp_path / "train", tmp_path / "test") == 1
    out = capsys.readouterr().out
    assert "in test/test.parquet (1): 1 the same, 1 near" in out and "row 0 is row 0 there" in out
    other = lines(tmp_path / "other.jsonl", [{"question": "Something else?", "answer": "#### 1"}])
    assert prepare("--check", other, tmp_path / "test") == 0
    assert prepare("--check", other) == 2
    assert prepare("--check", other, tmp_path / "nothing") == 2
    empty = tmp_path / "empty"
    empty.mkdir()
    assert prepare("--check", other, empty) == 2
    assert "no .parquet file" in capsys.readouterr().err


def test_show_and_list(gsm8k, tmp_path, capsys):
    assert prepare("gsm8k", "--source", gsm8k, "--show", 1) == 0
    out = capsys.readouterr().out
    assert '"How many?' in out and "nothing written" in out and "And now?" not in out
    assert prepare("--list") == 0
    out = capsys.readouterr().out
    assert all(name in out and known.hub in out for name, known in SETS.items()) and "deepseek-r1" in out


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["gsm8"], "did you mean 'gsm8k'"),
        (["AIME2024"], "did you mean 'aime24'"),
        (["qqqqq"], "--list"),
        ([], "which set"),
        (["arithmetic"], "examples.arithmetic.prepare"),
        (["gsm8k", "--levels", "3"], "no levels"),
        (["gsm8k", "--types", "x"], "no types"),
        (["math", "--levels", "3-"], "expected levels"),
        (["gsm8k", "--template", "llama"], "no template"),
        (["gsm8k", "--columns", "problem=a"], "custom"),
        (["gsm8k", "--data-source", "mine"], "--data-source"),
        (["custom", "--data-source", "gsm8k"], "--data-source"),
        (["custom", "--source", "hub"], "no place on the hub"),
        (["math500", "--split", "train"], "no train split"),
        (["gsm8k", "--sample", "0"], "at least 1"),
        (["gsm8k", "--name", "a/b"], "--name"),
        (["math", "--types", "Topology"], "the source has: Algebra, Geometry, Number Theory"),
        (["math", "--sample", "9"], "only 3 problems"),
    ],
)
def test_refusals(tmp_path, capsys, args, expected):
    source = lines(tmp_path / "in.jsonl", MATH)
    hub = "--source" in args or "--split" in args
    assert prepare(*args, *([] if hub else ["--source", source]), "--out", tmp_path / "out") == 1
    assert expected in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_one_folder_does_not_mix_sets(gsm8k, tmp_path, capsys):
    math = lines(tmp_path / "math.jsonl", MATH)
    out = tmp_path / "out"
    assert prepare("gsm8k", "--source", gsm8k, "--out", out) == 0
    before, schema = (out / "train.parquet").read_bytes(), pq.read_schema(out / "train.parquet")
    assert prepare("math", "--source", math, "--out", out) == 1
    assert "holds the set 'gsm8k'" in capsys.readouterr().err and (out / "train.parquet").read_bytes() == before
    assert prepare("math", "--source", math, "--name", "math", "--out", out) == 0
    assert sorted(path.name for path in out.iterdir()) == ["math.json", "math.parquet", "train.json", "train.parquet"]
    (out / "train.json").unlink()
    assert prepare("math", "--source", math, "--out", out) == 1  # the rows themselves say so too
    pq.write_table(pa.table({"x": [1]}), out / "train.parquet")
    assert prepare("gsm8k", "--source", gsm8k, "--out", out) == 1 and "'unknown'" in capsys.readouterr().err
    assert pq.read_schema(out / "math.parquet").equals(schema)


# ---------------------------------------------------------------------- the hub's layouts, as rows made by hand

HUB = {
    "aime24": ({"id": 60, "problem": "P 1", "solution": "..", "answer": "025", "url": "u"}, "25"),
    "aime25": ({"problem": "P 2", "answer": "70", "id": "0"}, "70"),
    "amc23": ({"question": "P 3", "answer": "27.0", "url": "u", "id": 0}, "27"),
    "minerva": ({"question": "P 4", "answer": "4.5e33"}, "4.5e33"),
    "olympiadbench": ({"question": "P 5", "final_answer": ["$2n$"], "subfield": "Algebra", "unit": None}, "2n"),
    "dapo-math-17k": (
        {
            "prompt": [{"content": TEMPLATES["dapo"].messages("P 6")[0]["content"], "role": "user"}],
            "reward_model": {"ground_truth": "34", "style": "rule-lighteval/MATH_v2"},
            "extra_info": {"index": "a-b-c"},
        },
        "34",
    ),
    "deepscaler": ({"problem": "P 7", "answer": "\\frac{1}{2}", "solution": ""}, "\\frac{1}{2}"),
    "skywork-or1": (
        {
            "data_source": "train-math-deepscaler",
            "prompt": [{"content": "P 8", "role": "user"}],
            "reward_model": {"ground_truth": '["$\\\\frac{1}{2}$"]', "style": "rule"},
            "extra_info": {"index": 0, "model_difficulty": {"DeepSeek-R1-Distill-Qwen-7B": 3}},
        },
        "\\frac{1}{2}",
    ),
    "math500": ({"problem": "P 9", "answer": "3", "subject": "Algebra", "level": 2, "unique_id": "test/1"}, "3"),
    "math": ({"problem": "P 10", "solution": "$\\boxed{4}$", "level": "Level 2", "type": "Algebra"}, "4"),
    "gsm8k": ({"question": "P 11", "answer": "#### 1,000"}, "1000"),
}


@pytest.mark.parametrize("name", sorted(SETS))
def test_each_set_reads_its_hub_layout(tmp_path, name):
    row, expected = HUB[name]
    source = tmp_path / "in.parquet"
    pq.write_table(pa.Table.from_pylist([row]), source)
    split = next(iter(SETS[name].splits))
    assert prepare(name, "--source", source, "--out", tmp_path / "out") == 0
    (found,), _record = read(tmp_path / "out", split)
    assert found["reward_model"]["ground_truth"] == expected
    assert found["extra_info"]["problem"].startswith("P ") and found["extra_info"]["split"] == split
    assert found["prompt"][0]["content"] == f"{found['extra_info']['problem']} {INSTRUCTION}"


# ---------------------------------------------------------------------- the hub's client


def hub_run(folder: Path, *args) -> subprocess.CompletedProcess:
    env = {**os.environ, "HF_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "erpo_verl.cli", "prepare", *args, "--out", "out"]
    return subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=120)


def test_without_the_hub(tmp_path):
    done = hub_run(tmp_path, "aime25")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert "math-ai/aime25" in line and "--source PATH" in line


def test_a_repository_through_the_hub_client(tmp_path):
    """`datasets` reads a folder of a repository's layout as it reads the hub: configurations, splits, files."""
    folder = tmp_path / "openai" / "gsm8k"
    (folder / "main").mkdir(parents=True)
    table = {"question": ["How many?", "And?"], "answer": ["x #### 1,234", "#### 5"]}
    pq.write_table(pa.table(table), folder / "main" / "train-00000-of-00001.parquet")
    pq.write_table(pa.table({"question": ["T?"], "answer": ["#### 7"]}), folder / "main" / "test-00000-of-00001.parquet")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: main\n  data_files:\n  - split: train\n    path: main/train-*\n"
        "  - split: test\n    path: main/test-*\n---\n"
    )
    done = hub_run(tmp_path, "gsm8k")
    assert done.returncode == 0, done.stderr
    rows, record = read(tmp_path / "out")
    assert [row["reward_model"]["ground_truth"] for row in rows] == ["1234", "5"]
    source = record["source"]
    assert (source["name"], source["config"], source["split"], len(source["sha256"])) == ("openai/gsm8k", "main", "train", 64)


def test_two_sets_go_into_one_dataset(gsm8k, tmp_path):
    """As verl loads its files: each through `datasets`, then all together, which needs the same schema in all."""
    datasets = pytest.importorskip("datasets")
    source = lines(tmp_path / "math.jsonl", MATH)
    assert prepare("gsm8k", "--source", gsm8k, "--out", tmp_path / "a") == 0
    assert prepare("math", "--source", source, "--template", "qwen-boxed", "--out", tmp_path / "b") == 0
    parts = [
        datasets.load_dataset("parquet", data_files=str(tmp_path / name / "train.parquet"), cache_dir=str(tmp_path / "cache"))["train"]
        for name in "ab"
    ]
    both = datasets.concatenate_datasets(parts)
    assert [row["reward_model"]["ground_truth"] for row in both] == ["1234", "-7.50", "1", "8", "\\frac{1}{2}"]
    assert both[2]["prompt"][0]["role"] == "system" and both[0]["extra_info"]["level"] is None
