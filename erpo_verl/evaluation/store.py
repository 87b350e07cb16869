"""The folder of an evaluation: its settings, and its samples as they come. It can be stopped anywhere and gone on with.

``settings.json`` is written first; a command with other settings is refused. ``samples.jsonl`` has a line for each
problem and condition, in the order of the plan, and is only ever appended to, a whole chunk at a time. A chunk is what
is generated together, from one seed; on resume what stands behind the last whole chunk is cut off (a torn line, or a
part of a chunk) and made again. So the file ends up byte for byte the same however often it was interrupted.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from erpo_verl.evaluation.problems import EvaluationError
from erpo_verl.runs.files import write_whole

SETTINGS, SAMPLES = "settings.json", "samples.jsonl"
# May differ between two calls: paths, whose contents are compared by their hashes, and versions, with a warning.
FREE = ("model", "data", "versions")


@contextmanager
def locked(folder: Path):
    """Only one evaluation at a time may write into a folder.

    Raises:
        EvaluationError: another one is, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "w")  # noqa: SIM115
    except OSError as error:
        raise EvaluationError(f"--out {folder}: cannot be written: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EvaluationError(
                f"--out {folder}: another evaluation is writing there; wait for it, or choose another folder"
            ) from None
        yield


def check_settings(folder: Path, settings: Mapping[str, Any]) -> list[str]:
    """Compare with the settings that the folder was begun with, or record them; returns warnings.

    Paths may differ where their contents do not, and versions, with a warning; nothing else may.

    Raises:
        EvaluationError: the folder was begun with other settings (each that differs is named), or holds samples without
        settings.
    """
    path = folder / SETTINGS
    settings = json.loads(json.dumps(settings))  # as they read back: tuples are lists
    if not path.is_file():
        if (folder / SAMPLES).exists():
            raise EvaluationError(f"--out {folder}: holds {SAMPLES} but no {SETTINGS}; choose another folder")
        write_whole(path, json.dumps(settings, indent=1) + "\n")
        return []
    before = read_settings(folder)
    differing = [
        f"  {key}: {json.dumps(before.get(key))} there, {json.dumps(settings.get(key))} now"
        for key in {**before, **settings}
        if key not in FREE and before.get(key) != settings.get(key)
    ]
    if differing:
        raise EvaluationError(
            f"--out {folder} was begun with other settings; choose another folder, or use these:\n"
            + "\n".join(differing)
        )
    old, new = before.get("versions", {}), settings.get("versions", {})
    return [
        f"{name} was {old.get(name)} when this evaluation began, and is {new.get(name)} now"
        for name in new
        if old.get(name) != new[name]
    ]


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings of an evaluation.

    Raises:
        EvaluationError: there are none, or they are unreadable.
    """
    try:
        return json.loads((folder / SETTINGS).read_text())
    except FileNotFoundError:
        raise EvaluationError(f"{folder}: no evaluation there (no {SETTINGS})") from None
    except ValueError as error:
        raise EvaluationError(f"{folder / SETTINGS}: not JSON: {error}") from None


def read_samples(folder: Path) -> list[dict[str, Any]]:
    """All whole lines of ``samples.jsonl``.

    Raises:
        EvaluationError: a line other than the last is damaged (named with its number).
    """
    return _whole_lines(folder / SAMPLES)[0]


def resume(folder: Path, chunks: Sequence[Sequence[tuple]]) -> int:
    """Cut ``samples.jsonl`` back to whole chunks of the plan; returns how many chunks are done.

    Args:
        chunks: the plan: for each chunk the keys (rewording, temperature, id) of its lines.

    Raises:
        EvaluationError: a line is damaged, or is not the plan's (named with its number).
    """
    path = folder / SAMPLES
    if not path.exists():
        return 0
    lines, ends = _whole_lines(path)
    done, number, keep = 0, 0, 0
    for chunk in chunks:
        for key, line in zip(chunk, lines[number : number + len(chunk)], strict=False):
            if key_of(line) != tuple(key):
                raise EvaluationError(
                    f"{path}, line {number + 1}: holds {key_of(line)}, expected {tuple(key)}; the file was changed, "
                    "choose another --out"
                )
            number += 1
        if number < keep + len(chunk):
            break
        done, keep = done + 1, number
    size = ends[keep - 1] if keep else 0
    if path.stat().st_size != size:
        os.truncate(path, size)
    return done


def key_of(line: Mapping[str, Any]) -> tuple:
    """What a line of ``samples.jsonl`` is about."""
    return line["rewording"], line["temperature"], line["id"]


def append(folder: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Append the lines of one chunk, and wait until they are on the disk."""
    data = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode("utf-8", "surrogatepass")
    with open(folder / SAMPLES, "ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _whole_lines(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """(lines, the byte at which each ends). A last line that is torn is left away."""
    lines, ends, position = [], [], 0
    data = path.read_bytes()
    while position < len(data):
        end = data.find(b"\n", position)
        if end < 0:
            break
        try:
            line = json.loads(data[position:end].decode("utf-8", "surrogatepass"))
            key_of(line)
        except (ValueError, KeyError, TypeError) as error:
            if end + 1 == len(data):  # the end of a block that reached the disk in part
                break
            raise EvaluationError(f"{path}, line {len(lines) + 1}: damaged ({error}); choose another --out") from None
        lines.append(line)
        position = end + 1
        ends.append(position)
    return lines, ends
