"""Golds before a run of verl: the dry run and the first check of the configuration say what the maths reward cannot read, with rows."""

from __future__ import annotations

import json
import types

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("verl")

from hydra import compose, initialize_config_module

from erpo_verl import golds
from erpo_verl.recipes import dry_run
from erpo_verl.rows import RowError
from erpo_verl.verl_plugin import hooks
from erpo_verl.verl_plugin.checks import what_the_golds_say

UNREADABLE = r"\frac{\}{p}i4+2-\sqrt{2}"
MATHS = ["reward.custom_reward_function.path=pkg://erpo_verl.reward"]


def write(path, golds, **changes):
    rows = [
        {"data_source": "s", "prompt": [{"role": "user", "content": "1+1"}], "reward_model": {"ground_truth": gold}, "extra_info": {"i": i}, **changes}
        for i, gold in enumerate(golds)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


def composed(train, val, *overrides):
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", overrides=[f"data.train_files={train}", f"data.val_files={val}", "data.train_batch_size=1", *overrides])


@pytest.fixture
def files(tmp_path):
    return write(tmp_path / "train.parquet", ["1", UNREADABLE, "3"]), write(tmp_path / "val.parquet", ["1", "2"])


def test_unreadable_golds_are_said_by_both(files, monkeypatch, capsys):
    monkeypatch.delenv("ERPO_VERL_ANNOUNCED", raising=False)
    config = composed(*files, *MATHS)
    line = "data.train_files: golds that the reward cannot read: 1 of 3, whose groups count for nothing"
    (said,) = what_the_golds_say(config)
    assert said.startswith(line) and "train.parquet, row 1: " in said
    problems, notes = dry_run.check(config)
    assert [note for note in notes if note.startswith(line)] and not [p for p in problems if "train.parquet" in p]
    module = types.SimpleNamespace(validate_config=lambda config, *rest: "verl's own")
    hooks.check_before_anything_is_loaded(module)
    assert module.validate_config(config, False, False) == "verl's own"
    assert line in capsys.readouterr().err


def test_nothing_is_judged_where_another_reward_is_or_all_is_well(files, monkeypatch):
    monkeypatch.setattr(golds, "unreadable", None)
    assert what_the_golds_say(composed(*files)) == [] == what_the_golds_say(composed(*files, "reward.custom_reward_function.path=mine.py"))
    assert not [note for note in dry_run.check(composed(*files))[1] if "golds" in note]
    monkeypatch.undo()
    assert what_the_golds_say(composed(files[1], files[1], *MATHS)) == []


def test_empty_golds_are_problems_of_the_dry_run_and_never_stop_verl(tmp_path, files):
    config = composed(write(tmp_path / "empty.parquet", ["1", ""]), files[1], *MATHS)
    wrong = "empty.parquet, row 1: reward_model.ground_truth is empty"
    assert [p for p in dry_run.check(config)[0] if wrong in p] and wrong in what_the_golds_say(config)[0]


@pytest.mark.parametrize(
    ("values", "changes", "message"),
    [
        (["1"], {"extra_info": json.dumps({"id": 1})}, "row 0: extra_info is str, and verl wants a struct"),
        (["1"], {"reward_model": b'{"ground_truth": "1"}'}, "row 0: reward_model is bytes, and verl wants a struct"),
        ([b"1"], {}, "row 0: reward_model.ground_truth holds bytes, which verl hands to the reward as they are"),
        ([float("nan")], {}, r"row 0: reward_model.ground_truth is missing \(nan\)"),
    ],
)
def test_what_verl_would_stumble_over_is_refused_with_the_row(tmp_path, values, changes, message):
    file = write(tmp_path / "a.parquet", values, **changes)
    with pytest.raises(RowError, match=message):
        golds.of_files([file, str(tmp_path / "other.jsonl"), "hdfs://far/away.parquet"], None)
