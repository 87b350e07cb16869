"""A row of the data as the reward sees it: read in one way for training, evaluation and preparation.

A row in verl's schema has ``data_source``, ``reward_model.ground_truth`` and perhaps ``extra_info``. Files come from many writers, so the
same things stand in them in several forms, and each means here what it says: ``extra_info`` (and ``reward_model``) may be a struct, a map
or JSON as text or bytes; a null, a NaN and an absent field are one; bytes are UTF-8 text; the level stands in ``extra_info.level``, or in a
column ``level``. What cannot be read is refused, with the row.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erpo_verl.reward.config import RewardConfig

# Values of the reward's setting of that name, which ``extra_info`` may give for a row; the first is the default.
ANSWER_FORMS: tuple[str, ...] = next(setting.choices for setting in RewardConfig.settings() if setting.name == "answer_forms")


class RowError(ValueError):
    """A file, or a row of it, cannot be read; the message names it."""


@dataclass(frozen=True)
class RewardRow:
    """What a row holds for the reward."""

    data_source: str
    gold: Any  # reward_model.ground_truth; never null, NaN or bytes
    extra_info: dict[str, Any]  # with ``level`` from the column of that name where it has none of its own
    id: str | None  # extra_info.id
    level: str | None  # 3, 3.0 and "3" are "3"


def read_file(file: str | Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a parquet file, in order.

    Args:
        file: its path.
        columns: names that it must have.

    Raises:
        RowError: it is missing, damaged or empty, or lacks a column.
    """
    import pyarrow.parquet as pq

    if not Path(file).is_file():
        raise RowError(f"{file}: no such file")
    try:
        table = pq.read_table(file)
    except Exception as error:  # pyarrow's errors have no common base
        raise RowError(f"{file}: not readable as parquet: {error}") from None
    lacking = [name for name in columns if name not in table.column_names]
    if lacking:
        raise RowError(
            f"{file}: no column {' or '.join(map(repr, lacking))}; the columns are {', '.join(table.column_names)} "
            "(`erpo prepare` writes files in the right schema)"
        )
    if not table.num_rows:
        raise RowError(f"{file}: no rows")
    return table.to_pylist()


def reward_row(row: Mapping[str, Any], *, source_key: str = "data_source") -> RewardRow:
    """Read the reward's side of a row.

    Args:
        row: as `read_file` gives it.
        source_key: the column that names the data source.

    Raises:
        RowError: a field cannot be used; the message does not name the row, which the caller knows.
    """
    source = as_text(row.get(source_key), source_key)
    if not isinstance(source, str) or not source.strip():
        raise RowError(f"{source_key} must be text, and is {_shown(row.get(source_key))}")
    model = struct(row.get("reward_model"), "reward_model")
    gold = as_text(model.get("ground_truth"), "reward_model.ground_truth")
    if holds_nothing(gold):
        raise RowError(f"reward_model.ground_truth is missing ({_shown(gold)}); `erpo prepare` drops such rows")
    info = struct(row.get("extra_info"), "extra_info")
    forms = info.get("answer_forms")
    if not missing(forms) and forms not in ANSWER_FORMS:
        raise RowError(f"extra_info.answer_forms must be one of {', '.join(ANSWER_FORMS)}, and is {_shown(forms)}")
    level = info.get("level")
    if _label(level) is None and _label(row.get("level")) is not None:
        info["level"] = level = row["level"]
    return RewardRow(source, gold, info, _label(info.get("id")), _label(level))


def reward_rows(
    rows: Sequence[Mapping[str, Any]], file: str | Path, *, source_key: str = "data_source"
) -> Iterator[RewardRow]:
    """`reward_row` of each row of a file.

    Raises:
        RowError: names the file and the row.
    """
    for number, row in enumerate(rows):
        try:
            yield reward_row(row, source_key=source_key)
        except RowError as error:
            raise RowError(f"{file}, row {number}: {error}") from None


_MISSING_AS_TEXT = ("nan", "NaN", "<NA>")  # what pandas makes of a missing value when a column is turned into text


def missing(value: Any) -> bool:
    """Whether nothing is there: None, or the NaN that pandas writes for it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def holds_nothing(value: Any) -> bool:
    """Whether a value is missing, or a list or mapping of nothing but missing ones."""
    if isinstance(value, Mapping):
        return all(map(holds_nothing, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(holds_nothing, value))
    return missing(value) or (isinstance(value, str) and value.strip() in _MISSING_AS_TEXT)


def struct(value: Any, name: str) -> dict[str, Any]:
    """A mapping, however it was stored: a struct, a map (a list of pairs), or JSON as text or bytes. Nothing is the empty one.

    Raises:
        RowError: it is something else.
    """
    told = value
    if isinstance(value, (str, bytes, bytearray, memoryview)):
        value = as_text(value, name)
        try:
            value = json.loads(value) if value.strip() else None
        except (ValueError, RecursionError):
            raise RowError(f"{name} is text that is no JSON: {_shown(told)}") from None
    if missing(value):
        return {}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, list) and all(isinstance(item, tuple) and len(item) == 2 for item in value):
        return dict(value)
    raise RowError(f"{name} must be a struct, or JSON that holds one, and is {_shown(told)}")


def as_text(value: Any, name: str) -> Any:
    """The value with bytes read as UTF-8, also inside lists and mappings.

    Raises:
        RowError: bytes that are no UTF-8.
    """
    if isinstance(value, (bytes, bytearray, memoryview)):
        try:
            return bytes(value).decode()
        except UnicodeDecodeError:
            raise RowError(f"{name} holds bytes that are no UTF-8 text: {_shown(bytes(value))}") from None
    if isinstance(value, Mapping):
        return {key: as_text(item, name) for key, item in value.items()}
    return [as_text(item, name) for item in value] if isinstance(value, (list, tuple)) else value


def _label(value: Any) -> str | None:
    """A short name as text: 3 and 3.0 as "3"; None where there is none."""
    if missing(value) or isinstance(value, (Mapping, list, tuple)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(as_text(value, "extra_info")).strip() or None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
