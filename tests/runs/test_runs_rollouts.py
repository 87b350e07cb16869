"""The rollouts file: what is written comes back, and what is wrong is named."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from runs_rows import row

from erpo_verl.methods.declarations import COMMON, Quantity
from erpo_verl.runs.rollouts import (
    RolloutsError,
    declared,
    read_head,
    read_quantities,
    read_rows,
    schema,
    write_rollouts,
)


def test_round_trip(tmp_path):
    rows = [row("u", 0), row("u", 1, right=False, tokens=("x", "é", "\n"), entropy=None, bucket=None), row("v", 0, tokens=())]
    path = write_rollouts(tmp_path / "deep" / "r.parquet", rows)
    quantities = declared(rows[0])
    assert parquet.read_schema(path).equals(schema(quantities))
    assert read_quantities(path) == quantities and [q.name for q in quantities if q.signed] == ["advantage", "z", "progress", "progress_normalised"]
    assert read_rows(path, [2, 0, 1]) == [rows[2], rows[0], rows[1]]
    head = read_head(path)
    assert [r["uid"] for r in head] == ["u", "u", "v"] and "tokens" not in head[0]


def test_absent_values_are_null(tmp_path):
    few = {name: row()[name] for name in ("step", "uid", "sample", "prompt", "response", "length", "token_ids", "tokens")}
    (found,) = read_rows(write_rollouts(tmp_path / "r.parquet", [few]), [0])
    assert {name: value for name, value in found.items() if value is not None} == few


def test_rows_of_several_row_groups(tmp_path):
    path = write_rollouts(tmp_path / "r.parquet", [row("u", i) for i in range(10)])
    parquet.write_table(parquet.read_table(path), path, row_group_size=3)
    assert [r["sample"] for r in read_rows(path, [9, 0, 4, 3])] == [9, 0, 4, 3]
    with pytest.raises(RolloutsError, match="no row 10, it has 10"):
        read_rows(path, [10])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"gates": [1.0]}, "unknown column 'gates'"),
        ({"uid": None}, "'uid' has no value"),
        ({"gate": [1.0]}, "'gate' has 1 entries for a response of 2 tokens"),
        ({"score": "high"}, "column 'score'"),
        ({"prompt": "\ud800"}, "column 'prompt'"),
    ],
)
def test_bad_rows_leave_the_old_file(tmp_path, changes, expected):
    path = write_rollouts(tmp_path / "r.parquet", [row()])
    before = path.read_bytes()
    with pytest.raises(RolloutsError, match=expected):
        write_rollouts(path, [row(), {**row(), **changes}])
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_bad_files_are_named(tmp_path):
    with pytest.raises(RolloutsError, match="is missing"):
        read_head(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("not parquet")
    with pytest.raises(RolloutsError, match="not a parquet file"):
        read_head(tmp_path / "text.parquet")
    table = parquet.read_table(write_rollouts(tmp_path / "r.parquet", [row()]))
    parquet.write_table(table.drop_columns(["tokens"]), tmp_path / "less.parquet")
    with pytest.raises(RolloutsError, match="column 'tokens' is missing"):
        read_head(tmp_path / "less.parquet")
    other = table.set_column(table.schema.get_field_index("gate"), "gate", pa.array([["x", "y"]]))
    parquet.write_table(other, tmp_path / "other.parquet")
    with pytest.raises(RolloutsError, match="column 'gate' is list"):
        read_head(tmp_path / "other.parquet")


def test_narrower_numbers_are_read(tmp_path):
    table = parquet.read_table(write_rollouts(tmp_path / "r.parquet", [row()]))
    narrow = table.set_column(table.schema.get_field_index("gate"), "gate", pa.array([[0.25, 0.5]], pa.list_(pa.float32())))
    parquet.write_table(narrow, tmp_path / "narrow.parquet")
    assert read_rows(tmp_path / "narrow.parquet", [0])[0]["gate"] == [0.25, 0.5]


def test_lists_of_another_length_are_named(tmp_path):
    table = parquet.read_table(write_rollouts(tmp_path / "r.parquet", [row()]))
    wrong = table.set_column(table.schema.get_field_index("z"), "z", pa.array([[0.25]]))
    parquet.write_table(wrong, tmp_path / "wrong.parquet")
    with pytest.raises(RolloutsError, match=r"row 0: column 'z' has 1 entries for a response of 2 tokens"):
        read_rows(tmp_path / "wrong.parquet", [0])


def test_a_quantity_of_a_method_that_is_not_installed_is_read_with_its_words(tmp_path):
    own = Quantity("curiosity", "curiosity", "How much the method wondered.", "wonders", signed=True)
    path = write_rollouts(tmp_path / "r.parquet", [{**row(), "curiosity": [0.5, -1.0]}], [*COMMON, *declared(["gate", "progress", "progress_normalised", "bucket"]), own])
    assert read_quantities(path)[-1] == own and read_rows(path, [0])[0]["curiosity"] == [0.5, -1.0]


def test_a_file_without_declarations_has_those_of_the_methods(tmp_path):
    path = write_rollouts(tmp_path / "r.parquet", [row()])
    parquet.write_table(parquet.read_table(path).replace_schema_metadata(None), path)
    assert {quantity.name for quantity in read_quantities(path)} >= {"entropy", "z", "gate", "bucket", "advantage"}
    parquet.write_table(parquet.read_table(path).drop_columns(["z", "gate"]), path)
    found = read_rows(path, [0])[0]
    assert found["z"] is None and "gate" not in found
