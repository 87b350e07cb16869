"""`erpo score`: the same rows in the same order, one bad row reported and scored 0, nothing half written."""

from __future__ import annotations

import argparse
import json

import pytest
from erpo_verl.reward import KEYS, score_command


def run(*arguments):
    parser = argparse.ArgumentParser()
    score_command.add_arguments(parser)
    return score_command.run(parser.parse_args([str(argument) for argument in arguments]))


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_rows_keep_their_order_and_fields(tmp_path, capsys):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [
        {"solution_str": rf"\boxed{{{k % 7}}}", "ground_truth": str(k % 5), "data_source": "x", "k": k}
        for k in range(700)
    ]
    source.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    assert run(source, out) == 0
    scored = rows_of(out)
    assert [row["k"] for row in scored] == list(range(700))
    for row, before in zip(scored, rows, strict=True):
        assert {key: row[key] for key in before} == before
        assert set(KEYS) <= set(row)
        assert row["acc"] == float(row["k"] % 7 == row["k"] % 5)
    assert "700 rows" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_bad_rows_are_reported_and_scored_zero(tmp_path, capsys):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    good = json.dumps({"solution_str": r"\boxed{\ln 8}", "ground_truth": r"3\ln 2"})
    lines = [
        good,
        "{broken",
        good,
        "[1]",
        '{"solution_str": 3, "ground_truth": "3"}',
        '{"ground_truth": "3"}',
        "\ud800".encode("utf-8", "replace").decode(),
        good,
    ]
    source.write_text("\n".join(lines) + "\n")
    assert run(source, out, "--quiet") == 1
    scored = rows_of(out)
    assert [row["acc"] for row in scored] == [1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    assert scored[1]["unreadable_line"] == "{broken" and scored[5]["ground_truth"] == "3"
    said = capsys.readouterr().err
    for line in (2, 4, 5, 6, 7):
        assert f"in.jsonl:{line}:" in said


def test_settings_are_flags(tmp_path, capsys):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps({"response": r"\boxed{10\text{ m}}", "gold": r"10\text{ cm}", "score": 7}) + "\n")
    keys = ("--response-key", "response", "--gold-key", "gold")
    assert run(source, out, "--quiet", *keys, "--prefix", "judge_") == 0
    assert rows_of(out)[0]["judge_acc"] == 0.0 and rows_of(out)[0]["score"] == 7
    assert run(source, out, "--quiet", *keys, "--units", "ignore", "--score-right", "2") == 0
    assert rows_of(out)[0]["score"] == 2.0
    assert run(source, out, "--quiet", *keys, "--rel-tol", "7") == 2
    assert "rel_tol" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(source, out, "--units", "nonsense")


def test_the_input_is_never_overwritten(tmp_path, capsys):
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps({"solution_str": r"\boxed{1}", "ground_truth": "1"}) + "\n")
    before = source.read_text()
    assert run(source, source) == 2
    assert run(tmp_path / "absent.jsonl", tmp_path / "out.jsonl") == 2
    assert source.read_text() == before
    assert "overwrite" in capsys.readouterr().err


def test_help_of_every_flag_prints():
    parser = argparse.ArgumentParser()
    score_command.add_arguments(parser)
    assert "--time-limit-s" in parser.format_help() and score_command.HELP
