"""Rows of a source, one after the other: a .parquet or .jsonl file on disk, or a set on the Hugging Face hub.

Nothing is held but one batch, so that a file of millions of rows needs no more memory than a small one.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

BATCH = 2048
Row = dict[str, Any]


class PrepareError(ValueError):
    """A source cannot be read, nothing of it is usable, or the result cannot be written."""


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def file_rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """The rows of a ``.parquet``, ``.jsonl`` or ``.json`` file (one object a line, or one list of objects).

    Args:
        path: the file.
        columns: of parquet, read only the top-level columns among these (None: all).

    Raises:
        PrepareError: the file is missing or unreadable, has another ending, or a row of it is no object (named with its line).
    """
    if not path.is_file():
        raise PrepareError(f"{path}: no such file")
    if path.suffix == ".parquet":
        yield from _parquet_rows(path, columns)
    elif path.suffix in (".jsonl", ".json"):
        yield from _json_rows(path)
    else:
        raise PrepareError(f"{path}: expected a .parquet or .jsonl file")


def _parquet_rows(path: Path, columns: Sequence[str] | None) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    done = 0
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            wanted = None if columns is None else [name for name in names if name in columns]
            for batch in file.iter_batches(batch_size=BATCH, columns=wanted):
                yield from batch.to_pylist()
                done += batch.num_rows
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        where = f"unreadable behind row {done - 1}" if done else "not readable as parquet"
        raise PrepareError(f"{path}: {where}: {_first_line(error)}") from None


def _json_rows(path: Path) -> Iterator[Row]:
    with open(path, "rb") as file:
        start = file.read(1)
        while start.isspace():
            start = file.read(1)
        file.seek(0)
        if start == b"[" and path.suffix == ".json":
            try:
                rows = json.load(file)
            except ValueError as error:
                raise PrepareError(f"{path}: not JSON: {error}") from None
            for number, row in enumerate(rows):
                yield _object(row, f"{path}, row {number}")
            return
        # Lines end at LF only: a form feed or U+2028 inside a string is text.
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise PrepareError(f"{path}, line {number}: not JSON: {error}") from None
            yield _object(row, f"{path}, line {number}")


def _object(row: Any, where: str) -> Row:
    if not isinstance(row, dict):
        raise PrepareError(f"{where}: expected an object, found {type(row).__name__}")
    return row


def hub_rows(repository: str, config: str | None, split: str, revision: str | None, columns: Sequence[str]) -> Iterator[Row]:
    """The rows of one split of a hub set, through `datasets`.

    Raises:
        PrepareError: `datasets` is missing, or the set cannot be read; says what to do.
    """
    try:
        from datasets import load_dataset
        from datasets.utils.logging import disable_progress_bar
    except ImportError:
        raise PrepareError("reading from the hub needs `pip install 'erpo-verl[data]'`; or pass a file: --source PATH") from None
    disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries: the outcome is said below, in one line
    try:
        data = load_dataset(repository, config, split=split, revision=revision)
        wanted = [name for name in data.column_names if name in columns]
        data = data.select_columns(wanted or data.column_names).with_format("arrow")
    except Exception as error:  # the hub's client and its many layers have no common base
        at = f" at revision {revision}" if revision else ""
        raise PrepareError(
            f"{repository}{at}: cannot be read from the hub ({type(error).__name__}: {_first_line(error)}). "
            f"Without the hub, download its {split!r} split elsewhere and pass it: --source PATH"
        ) from None
    for table in data.iter(batch_size=BATCH):
        yield from table.to_pylist()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]
