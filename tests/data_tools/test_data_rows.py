"""What a row holds for the reward: one file, read by training, by evaluation and by preparation, says the same to all three."""

import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from erpo_verl.data.golds import GOLD_RULES, Given
from erpo_verl.data.sets import first_text, lookup
from erpo_verl.evaluation.problems import EvaluationError, read_problems
from erpo_verl.rows import RowError, as_text, reward_row, struct
from erpo_verl.trainer.data import DataError, read_table

INFO = {"id": "p1", "level": 3, "index": 0}
PROMPT = [{"role": "user", "content": "1+1"}]


def row(**changes):
    return {"data_source": "s", "prompt": PROMPT, "reward_model": {"style": "rule", "ground_truth": "2"}, "extra_info": INFO, **changes}


def both(tmp_path, rows, schema=None):
    """(id, level, gold as the engine holds it) of the first row, by training and by evaluation."""
    file = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), file)
    trained, asked = read_table([str(file)]).rewards[0], read_problems([file])[0][0]
    assert (trained.id or asked.id, trained.level, trained.gold) == (asked.id, asked.level, asked.gold)
    assert trained.extra_info == asked.extra_info
    return trained


@pytest.mark.parametrize("info", [INFO, json.dumps(INFO), json.dumps(INFO).encode(), f"  {json.dumps(INFO)}\n"])
def test_extra_info_in_every_form(tmp_path, info) -> None:
    found = both(tmp_path, [row(extra_info=info)])
    assert (found.id, found.level, found.extra_info) == ("p1", "3", INFO)


def test_extra_info_as_a_map(tmp_path) -> None:
    schema = pa.schema(
        {"data_source": pa.string(), "prompt": pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
         "reward_model": pa.struct({"ground_truth": pa.string()}), "extra_info": pa.map_(pa.string(), pa.string())}
    )  # fmt: skip
    found = both(tmp_path, [row(extra_info=[("id", "p1"), ("level", "3")])], schema)
    assert found.extra_info == {"id": "p1", "level": "3"}


@pytest.mark.parametrize("info", [None, "", "null", "{}", float("nan")])
def test_no_extra_info(tmp_path, info) -> None:
    found = both(tmp_path, [row(extra_info=info)])
    assert (found.id, found.level, found.extra_info) == (None, None, {})
    assert reward_row({key: value for key, value in row().items() if key != "extra_info"}).extra_info == {}


@pytest.mark.parametrize(
    ("own", "column", "level"),
    [
        (None, "Level 4", "Level 4"), (float("nan"), 4.0, "4"), ("", 4, "4"), (3, "Level 4", "3"), (3.5, None, "3.5"), (None, None, None),
        (None, float("nan"), None), ("5", None, "5"),
    ],
)  # fmt: skip
def test_the_level_in_two_places(tmp_path, own, column, level) -> None:
    found = both(tmp_path, [row(level=column, extra_info={"id": "p1", "level": own})])
    assert found.level == level
    told = found.extra_info["level"]  # what the reward function gets
    if level is not None:
        assert str(told).removesuffix(".0") == level


@pytest.mark.parametrize(
    ("gold", "held"),
    [(b"42", "42"), (42, 42), (27.0, 27.0), (["1", "2"], ["1", "2"]), ([b"1"], ["1"]), ({"target": b"7"}, {"target": "7"}), ("x", "x")],
)
def test_golds_are_read(tmp_path, gold, held) -> None:
    assert both(tmp_path, [row(reward_model={"ground_truth": gold})]).gold == held


@pytest.mark.parametrize("model", [{"ground_truth": "2"}, '{"ground_truth": "2"}', b'{"ground_truth": "2"}'])
def test_reward_model_as_json(tmp_path, model) -> None:
    assert both(tmp_path, [row(reward_model=model)]).gold == "2"


def nan_struct(value):
    return {"ground_truth": value}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward_model": nan_struct(float("nan"))}, "reward_model.ground_truth is missing .nan."),
        ({"reward_model": nan_struct("nan")}, "reward_model.ground_truth is missing"),
        ({"reward_model": nan_struct(None)}, "reward_model.ground_truth is missing .None."),
        ({"reward_model": nan_struct([])}, "reward_model.ground_truth is missing"),
        ({"reward_model": nan_struct([float("nan")])}, "reward_model.ground_truth is missing"),
        ({"reward_model": nan_struct(b"\xff\xfe")}, "reward_model.ground_truth holds bytes that are no UTF-8 text"),
        ({"reward_model": "gold: 2"}, "reward_model is text that is no JSON: 'gold: 2'"),
        ({"reward_model": None}, "reward_model.ground_truth is missing"),
        ({"extra_info": "level 3"}, "extra_info is text that is no JSON: 'level 3'"),
        ({"extra_info": "[1, 2]"}, "extra_info must be a struct, or JSON that holds one, and is '.1, 2.'"),
        ({"extra_info": [{"id": 1}]}, "extra_info must be a struct"),
        ({"extra_info": 3}, "extra_info must be a struct, or JSON that holds one, and is 3"),
        ({"data_source": 5}, "data_source must be text, and is 5"),
        ({"data_source": None}, "data_source must be text, and is None"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_row_alike(tmp_path, changes, message) -> None:
    file = tmp_path / "bad.parquet"
    rows = [row(**changes)] if "extra_info" not in changes else [row(extra_info=None), row(**changes)]
    number = len(rows) - 1
    pq.write_table(pa.Table.from_pylist(rows), file)
    for read, error in ((lambda: read_table([str(file)]), DataError), (lambda: read_problems([file]), EvaluationError)):
        with pytest.raises(error, match=rf"bad\.parquet, row {number}: {message}"):
            read()


def test_prepare_looks_into_json_and_bytes_too() -> None:
    source = {"extra_info": json.dumps({"id": "a", "level": None}), "level": 4.0, "q": b"1+1", "reward_model": b'{"ground_truth": "2"}'}
    assert lookup(source, "extra_info.id") == "a" and lookup(source, "q") == "1+1" and lookup(source, "reward_model.ground_truth") == "2"
    assert lookup(source, "q.text") is None and lookup({"q": b"\xff"}, "q") is None
    assert first_text(source, ("extra_info.level", "level")) == ("4.0", False)
    for gold, text in ((b"42", "42"), (["42"], "42"), (27.0, "27"), (42, "42")):
        assert GOLD_RULES["text"](Given([lookup({"a": gold}, "a")])).text == text
    assert GOLD_RULES["text"](Given([lookup({"a": math.nan}, "a")])).drop == "no_gold"


def test_the_parts() -> None:
    assert struct([("a", 1)], "x") == {"a": 1} and struct([], "x") == {}
    assert as_text({"a": [b"1", 2]}, "x") == {"a": ["1", 2]}
    with pytest.raises(RowError, match="x holds bytes"):
        as_text([b"\xff"], "x")


def test_in_which_forms_an_answer_counts_is_remembered(tmp_path) -> None:
    """`erpo prepare` writes it, by the template or as asked; the reward reads it of the row, unless the setting is given."""
    from erpo_verl.reward import score

    from erpo_verl.cli import main

    (tmp_path / "a.jsonl").write_text('{"problem": "1+1", "answer": "2"}\n')
    for name, options, forms in (("a", [], "boxed"), ("b", ["--template", "dapo"], "marked"), ("c", ["--answer-forms", "any"], "any")):
        assert main(["prepare", "custom", "--source", str(tmp_path / "a.jsonl"), "--out", str(tmp_path / name), *options]) == 0
        row = read_problems([tmp_path / name / "train.parquet"])[0][0]
        assert row.answer_forms() == forms and json.loads((tmp_path / name / "train.json").read_text())["answer_forms"] == forms
        assert score("so\nAnswer: 2", row.gold, row.extra_info)["acc"] == (forms != "boxed")
        assert score("so\nAnswer: 2", row.gold, row.extra_info, answer_forms="boxed")["acc"] == 0.0
    with pytest.raises(RowError, match=r"extra_info\.answer_forms must be one of boxed, marked, any, and is 'last'"):
        reward_row({**row_with("2"), "extra_info": {"answer_forms": "last"}})


def row_with(gold):
    return {"data_source": "s", "prompt": PROMPT, "reward_model": {"ground_truth": gold}}
