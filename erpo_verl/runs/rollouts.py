"""Rollouts with the numbers of each token, as parquet: one row a response. Written by the trainer, read by ``erpo inspect``.

Columns of lists have one entry a token of the response (``length`` of them). Those of numbers are null where a part of the
method is off, or where the responses are of a validation. ``tokens`` are the tokenizer's own pieces (``Ġthe``, ``<0x0A>``).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erpo_verl.runs.files import whole

if TYPE_CHECKING:
    import pyarrow

NUMBERS = ("entropy", "z", "gate", "progress", "progress_normalised", "advantage", "old_log_prob", "ref_log_prob")
"""Columns of one float a token: nats; standard deviations; W; beta * nats; standard deviations; A^ERPO; nats; nats."""

_PLAIN = {
    "step": "int64", "uid": "string", "sample": "int64", "data_source": "string", "prompt": "string", "response": "string",
    "gold": "string", "score": "double", "acc": "double", "reason": "string", "pred": "string", "length": "int64",
    "finished": "bool", "outcome_advantage": "double",
}  # fmt: skip
_LISTS = {"token_ids": "int64", "tokens": "string", **dict.fromkeys(NUMBERS, "double"), "bucket": "int64"}
# Without these a row says nothing; every other value may be null.
_REQUIRED = ("step", "uid", "sample", "prompt", "response", "length", "token_ids", "tokens")


class RolloutsError(ValueError):
    """A rollouts file or row is not as the schema says; the message names the file, the column and the row."""


def schema() -> pyarrow.Schema:
    """The columns, in their order."""
    import pyarrow as pa

    kinds = {"int64": pa.int64(), "string": pa.string(), "double": pa.float64(), "bool": pa.bool_()}
    plain = [pa.field(name, kinds[kind], nullable=name not in _REQUIRED) for name, kind in _PLAIN.items()]
    lists = [pa.field(name, pa.list_(kinds[kind]), nullable=name not in _REQUIRED) for name, kind in _LISTS.items()]
    return pa.schema([*plain, *lists])


def write_rollouts(path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write the file, whole or not at all; returns its path. Its folder is made where it is missing.

    Args:
        path: the parquet file.
        rows: one mapping a response, keys as in `schema`; a missing key is null.

    Raises:
        RolloutsError: an unknown key, a missing value, a list that is not ``length`` long, or a value of another type.
    """
    import pyarrow as pa
    import pyarrow.parquet as parquet

    columns = schema()
    for i, row in enumerate(rows):
        if unknown := set(row) - set(columns.names):
            raise RolloutsError(f"row {i}: unknown column {sorted(unknown)[0]!r}; known are {', '.join(columns.names)}")
        _check_row(row, f"row {i}")
    arrays = []
    for field in columns:
        values = [row.get(field.name) for row in rows]
        try:
            arrays.append(pa.array(values, field.type))
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise RolloutsError(f"column {field.name!r}: {error}") from None
        except UnicodeEncodeError as error:
            raise RolloutsError(f"column {field.name!r}: a text that is not Unicode ({error.reason})") from None
    table = pa.Table.from_arrays(arrays, schema=columns)
    with whole(path) as partial:
        parquet.write_table(table, partial, compression="zstd")
    return Path(path)


def read_head(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The columns of one value a row, of every row: enough to choose from a large file without reading its tokens.

    Raises:
        RolloutsError: the file is missing, not parquet, or lacks a column (named).
    """
    return _open(path).read(columns=list(_PLAIN)).to_pylist()


def read_rows(path: str | os.PathLike[str], numbers: Iterable[int]) -> list[dict[str, Any]]:
    """Whole rows, by their number in the file, in the order asked for; each checked.

    Raises:
        RolloutsError: as `read_head`; or a list of a row is not as long as its response (row and column named).
    """
    numbers = list(numbers)
    file = _open(path)
    found: dict[int, dict[str, Any]] = {}
    start = 0
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        wanted = [n for n in numbers if start <= n < start + count]
        if wanted:
            rows = file.read_row_group(group, columns=[*_PLAIN, *_LISTS]).take([n - start for n in wanted]).to_pylist()
            found.update(zip(wanted, rows, strict=True))
        start += count
    for n in numbers:
        if n not in found:
            raise RolloutsError(f"{path}: there is no row {n}, it has {start}")
        _check_row(found[n], f"{path}, row {n}")
    return [found[n] for n in numbers]


def _open(path: str | os.PathLike[str]):
    import pyarrow as pa
    import pyarrow.parquet as parquet

    if not Path(path).is_file():
        raise RolloutsError(f"{path} is missing: give a parquet file of rollouts, as the trainer's rollout dump writes them")
    try:
        file = parquet.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise RolloutsError(f"{path} is not a parquet file that can be read: {error}") from None
    there = file.schema_arrow
    for field in schema():
        if field.name not in there.names:
            raise RolloutsError(f"{path}: column {field.name!r} is missing; a rollouts file has {', '.join(schema().names)}")
        kind = there.field(field.name).type
        # Other writers may use wider or narrower types, or all-null columns; what cannot be cast is refused.
        if not (kind.equals(field.type) or pa.types.is_null(kind) or _alike(kind, field.type)):
            raise RolloutsError(f"{path}: column {field.name!r} is {kind}, not {field.type}")
    return file


def _alike(kind: pyarrow.DataType, wanted: pyarrow.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_list(wanted):
        is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
        return is_list and (pa.types.is_null(kind.value_type) or _alike(kind.value_type, wanted.value_type))
    tests = (pa.types.is_integer, pa.types.is_boolean, lambda t: pa.types.is_string(t) or pa.types.is_large_string(t))
    if pa.types.is_floating(wanted):
        return pa.types.is_floating(kind) or pa.types.is_integer(kind)
    return any(test(kind) and test(wanted) for test in tests)


def _check_row(row: Mapping[str, Any], where: str) -> None:
    for name in _REQUIRED:
        if row.get(name) is None:
            raise RolloutsError(f"{where}: column {name!r} has no value")
    length = row["length"]
    for name in _LISTS:
        values = row.get(name)
        if values is not None and len(values) != length:
            raise RolloutsError(f"{where}: column {name!r} has {len(values)} entries for a response of {length} tokens")
