"""Read W&B's offline files (``wandb/offline-run-*/run-*.wandb``): history, configuration and name of a run.

The file is a log of protobuf records in LevelDB's format: a header of 7 bytes, then blocks of 32 KiB with chunks of
(CRC-32 of kind and content, length, kind). wandb reads it in its own Go program since 0.20 and offers no reader in
Python; the records themselves are parsed by wandb's ``wandb_internal_pb2``.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_BLOCK, _HEAD = 32768, 7
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


@dataclass
class OfflineRun:
    """What the offline files of a run hold. ``history``: (step, {metric: value}), in order."""

    path: Path
    name: str = ""
    project: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    history: list[tuple[int, dict[str, Any]]] = field(default_factory=list)


def find_files(folder: Path) -> list[Path]:
    """The ``.wandb`` files of one run: ``folder`` itself, those inside it, or those of its ``wandb/offline-run-*`` folders.

    A run that was stopped and went on under the same id has several, in order of time.

    Raises:
        ValueError: they are of several runs.
    """
    folder = Path(folder)
    if folder.suffix == ".wandb":
        return [folder] if folder.is_file() else []
    for pattern in ("*.wandb", "offline-run-*/*.wandb", "wandb/offline-run-*/*.wandb"):
        if found := sorted(folder.glob(pattern)):
            break
    if len({path.name for path in found}) > 1:
        raise ValueError(f"{folder} holds several W&B runs ({', '.join(p.parent.name for p in found)}): name one of these folders")
    return found


def read_offline_run(paths: Sequence[Path]) -> OfflineRun:
    """Read the files of one run.

    Raises:
        ValueError: one is no such file, or is damaged (a file that only ends too early is read as far as it goes), or wandb
            is not installed.
    """
    try:
        from google.protobuf.message import DecodeError
        from wandb.proto.wandb_internal_pb2 import Record
    except ImportError:
        raise ValueError(f"{paths[0]} is a file of W&B: reading it needs `pip install wandb`") from None
    run = OfflineRun(Path(paths[-1]))
    for path in paths:
        for payload in _payloads(Path(path)):
            try:
                _take(run, Record.FromString(payload))
            except (DecodeError, ValueError) as error:
                raise ValueError(f"{path} holds a record that cannot be read: {error}") from None
    run.config.pop("_wandb", None)
    return run


def _take(run: OfflineRun, record: Any) -> None:
    kind = record.WhichOneof("record_type")
    if kind == "run":
        run.name, run.project = record.run.display_name or record.run.run_id, record.run.project
        _update(run.config, record.run.config.update)
    elif kind == "config":
        _update(run.config, record.config.update)
    elif kind == "history":
        data = {_key(item): json.loads(item.value_json) for item in record.history.item}
        step = data.pop("_step", record.history.step.num)
        run.history.append((int(step), {name: value for name, value in data.items() if not name.startswith("_")}))


def _key(item: Any) -> str:
    return item.key or ".".join(item.nested_key)


def _update(config: dict[str, Any], items: Any) -> None:
    for item in items:
        value = json.loads(item.value_json)
        if item.key:
            config[item.key] = value
        elif item.nested_key:
            inner = config
            for part in item.nested_key[:-1]:
                inner = inner.setdefault(part, {})
            inner[item.nested_key[-1]] = value


def _payloads(path: Path) -> Iterator[bytes]:
    data = path.read_bytes()
    if data[:4] != b":W&B":
        raise ValueError(f"{path} is not a file of W&B (it does not begin with ':W&B')")
    position, parts = _HEAD, []
    while position + _HEAD <= len(data):
        room = _BLOCK - position % _BLOCK
        if room < _HEAD:
            position += room
            continue
        crc, length, kind = struct.unpack_from("<IHB", data, position)
        content = data[position + _HEAD : position + _HEAD + length]
        if len(content) < length:
            return  # the run was cut off while writing
        if kind == 0 and length == 0:
            position += room  # padding
            continue
        if kind not in (_FULL, _FIRST, _MIDDLE, _LAST) or zlib.crc32(bytes([kind]) + content) != crc:
            raise ValueError(f"{path} is damaged at byte {position}")
        parts = [content] if kind in (_FULL, _FIRST) else [*parts, content]
        position += _HEAD + length
        if kind in (_FULL, _LAST):
            yield b"".join(parts)

