"""`erpo prepare`: rows in, rows out, what was dropped and why; the same input gives the same bytes."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

from erpo_verl import cli, prepare

ROWS = [
    {"question": "How many?", "answer": "Two and two.\n#### 1,234"},
    {"problem": "And now?", "answer": "-7.50"},
    {"question": "How many?", "answer": "#### 1234"},
    {"question": "Broken", "answer": "#### twelve"},
    {"question": "", "answer": "#### 3"},
    {"question": "No answer", "answer": None},
]


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n")
    return path


def test_rows_and_record(source, tmp_path, capsys):
    assert cli.main(["prepare", "gsm8k", "--source", str(source), "--out", str(tmp_path / "out")]) == 0
    rows = pq.read_table(tmp_path / "out" / "train.parquet").to_pylist()
    assert [row["reward_model"]["ground_truth"] for row in rows] == ["1234", "-7.50"]
    assert rows[0]["prompt"] == [{"role": "user", "content": f"How many? {prepare.INSTRUCTION}"}]
    assert rows[0]["data_source"] == "gsm8k" and rows[0]["extra_info"]["split"] == "train"
    record = json.loads((tmp_path / "out" / "train.json").read_text())
    assert (record["rows_in"], record["rows_out"]) == (6, 2)
    assert {d["row"]: d["reason"] for d in record["dropped"]}[2] == "the same problem as row 0"
    assert sorted(d["row"] for d in record["dropped"]) == [2, 3, 4, 5]
    assert "2 of 6 rows" in capsys.readouterr().out


def test_same_bytes(source, tmp_path):
    for folder in ("a", "b"):
        assert cli.main(["prepare", "gsm8k", "--source", str(source), "--out", str(tmp_path / folder)]) == 0
    for name in ("train.parquet", "train.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("no.jsonl", None, "no such file"),
        ("bad.jsonl", b'{"question": "a", "answer": "#### 1"}\n{nonsense\n', "line 2"),
        ("list.jsonl", b"[1, 2]\n", "line 1"),
        ("bad.parquet", b"not parquet", "not readable as parquet"),
        ("wrong.txt", b"x", ".parquet or .jsonl"),
        ("none.jsonl", b'{"question": "a", "answer": "b"}\n', "none of its 1 rows"),
    ],
)
def test_bad_sources(tmp_path, capsys, name, content, expected):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    out = tmp_path / "out"
    assert cli.main(["prepare", "gsm8k", "--source", str(tmp_path / name), "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert expected in error and name in error
    assert not out.exists()
