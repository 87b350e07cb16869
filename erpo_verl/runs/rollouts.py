"""Rollouts with the numbers of each token, as parquet: one row a response. Written by both engines, read by ``erpo inspect``.

Columns of lists have one entry a token of the response (``length`` of them): ids, pieces (``Ġthe``, ``<0x0A>``), and whatever per-token
quantities the run's method declares, null where a part of it is off or the responses are of a validation. The file says of
each quantity what it is, so that it can be shown where the method is not installed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erpo_verl.methods.declarations import COMMON, Quantity
from erpo_verl.runs.files import whole

if TYPE_CHECKING:
    import pyarrow

_PLAIN = {
    "step": "int64", "uid": "string", "sample": "int64", "data_source": "string", "prompt": "string", "response": "string",
    "gold": "string", "score": "double", "acc": "double", "reason": "string", "pred": "string", "length": "int64",
    "finished": "bool", "outcome_advantage": "double",
}  # fmt: skip
_WORDS = {"token_ids": "int64", "tokens": "string"}
# Without these a row says nothing; every other value may be null.
_REQUIRED = ("step", "uid", "sample", "prompt", "response", "length", "token_ids", "tokens")
_DECLARATIONS = b"erpo_verl.quantities"  # key of the file's metadata


class RolloutsError(ValueError):
    """A rollouts file or row is not as the schema says; the message names the file, the column and the row."""


def schema(quantities: Sequence[Quantity] = COMMON) -> pyarrow.Schema:
    """The columns, in their order; those of per-token quantities last."""
    import pyarrow as pa

    kinds = {"int64": pa.int64(), "string": pa.string(), "double": pa.float64(), "bool": pa.bool_()}
    lists = {**_WORDS, **{quantity.name: "int64" if quantity.whole else "double" for quantity in quantities}}
    plain = [pa.field(name, kinds[kind], nullable=name not in _REQUIRED) for name, kind in _PLAIN.items()]
    words = [pa.field(name, pa.list_(kinds[kind]), nullable=name not in _REQUIRED) for name, kind in lists.items()]
    return pa.schema([*plain, *words], {_DECLARATIONS: json.dumps([asdict(quantity) for quantity in quantities])})


def declared(names: Iterable[str]) -> list[Quantity]:
    """The quantities of these names: those of every method, then those that a registered method declares; other names are left out."""
    from erpo_verl import methods

    names = set(names)
    found = {quantity.name: quantity for quantity in COMMON}
    if names - set(found) - set(_PLAIN) - set(_WORDS):
        for method in methods.all_methods():
            for quantity in method.tokens:
                found.setdefault(quantity.name, quantity)
    return [quantity for quantity in found.values() if quantity.name in names]


def write_rollouts(path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]], quantities: Sequence[Quantity] | None = None) -> Path:
    """Write the file, whole or not at all; returns its path. Its folder is made where it is missing.

    Args:
        path: the parquet file.
        rows: one mapping a response, keys as in `schema`; a missing key is null.
        quantities: the per-token quantities, as the run's method declares them; None: those that the rows have.

    Raises:
        RolloutsError: an unknown key, a missing value, a list that is not ``length`` long, or a value of another type.
    """
    import pyarrow as pa
    import pyarrow.parquet as parquet

    if quantities is None:
        quantities = declared(name for row in rows for name in row)
    columns = schema(quantities)
    for i, row in enumerate(rows):
        if unknown := set(row) - set(columns.names):
            raise RolloutsError(f"row {i}: unknown column {sorted(unknown)[0]!r}; known are {', '.join(columns.names)}")
        _check_row(row, f"row {i}", columns.names)
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


def read_quantities(path: str | os.PathLike[str]) -> list[Quantity]:
    """The per-token quantities that the file holds, as it declares them (a file that does not: as the methods do).

    Raises:
        RolloutsError: as `read_head`.
    """
    return _quantities(_open(path))


def _quantities(file: Any) -> list[Quantity]:
    there = file.schema_arrow
    said = (there.metadata or {}).get(_DECLARATIONS)
    if said is None:
        return declared(there.names)
    try:
        return [quantity for quantity in (Quantity(**item) for item in json.loads(said)) if quantity.name in there.names]
    except (ValueError, TypeError, AttributeError):  # of another version of this package
        return declared(there.names)


def read_rows(path: str | os.PathLike[str], numbers: Iterable[int]) -> list[dict[str, Any]]:
    """Whole rows, by their number in the file, in the order asked for; each checked. Quantities of every method that the file lacks are None.

    Raises:
        RolloutsError: as `read_head`; or a list of a row is not as long as its response (row and column named).
    """
    numbers = list(numbers)
    file = _open(path)
    columns = [*_PLAIN, *_WORDS, *(quantity.name for quantity in _quantities(file))]
    absent = {quantity.name: None for quantity in COMMON if quantity.name not in columns}
    found: dict[int, dict[str, Any]] = {}
    start = 0
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        wanted = [n for n in numbers if start <= n < start + count]
        if wanted:
            rows = file.read_row_group(group, columns=columns).take([n - start for n in wanted]).to_pylist()
            found.update(zip(wanted, ({**row, **absent} for row in rows), strict=True))
        start += count
    for n in numbers:
        if n not in found:
            raise RolloutsError(f"{path}: there is no row {n}, it has {start}")
        _check_row(found[n], f"{path}, row {n}", columns)
    return [found[n] for n in numbers]


def _open(path: str | os.PathLike[str]):
    import pyarrow as pa
    import pyarrow.parquet as parquet

    if not Path(path).is_file():
        raise RolloutsError(f"{path} is {'a folder' if Path(path).is_dir() else 'missing'}: give a parquet file of rollouts, as the trainer's rollout dump writes them")
    try:
        file = parquet.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise RolloutsError(f"{path} is not a parquet file that can be read: {error}") from None
    there = file.schema_arrow
    for field in schema(_quantities(file)):
        if field.name not in there.names:
            raise RolloutsError(f"{path}: column {field.name!r} is missing; a rollouts file has {', '.join([*_PLAIN, *_WORDS])}")
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


def _check_row(row: Mapping[str, Any], where: str, columns: Iterable[str]) -> None:
    for name in _REQUIRED:
        if row.get(name) is None:
            raise RolloutsError(f"{where}: column {name!r} has no value")
    length = row["length"]
    for name in columns:
        values = None if name in _PLAIN else row.get(name)
        if values is not None and len(values) != length:
            raise RolloutsError(f"{where}: column {name!r} has {len(values)} entries for a response of {length} tokens")
