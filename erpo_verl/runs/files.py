"""Files that appear whole or not at all: they are written beside their place, as ``.<name>.partial-<pid>``, and renamed."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

PARTIAL = ".partial-"
_PARTIAL_NAME = re.compile(rf"\..+{re.escape(PARTIAL)}(?P<pid>[0-9]+)")


def partial_path(path: Path) -> Path:
    """Where this process writes what is to be ``path``."""
    return path.with_name(f".{path.name}{PARTIAL}{os.getpid()}")


@contextmanager
def whole(path: str | os.PathLike[str], *, sync: bool = False) -> Iterator[Path]:
    """The path to write in the place of ``path``; what is there at the end of the block gets the name, at an error nothing is left.

        with whole(path) as partial:
            parquet.write_table(table, partial)

    Args:
        path: the file; its folder is made where it is missing.
        sync: wait until the content is on the disk before it gets the name.

    Raises:
        OSError: it cannot be written; what was there before is untouched.
    """
    with whole_together([path], sync=sync) as (partial,):
        yield partial


@contextmanager
def whole_together(paths: Sequence[str | os.PathLike[str]], *, sync: bool = False) -> Iterator[list[Path]]:
    """As `whole` for several files: all are complete before the first gets its name."""
    targets = [Path(path) for path in paths]
    partials = [partial_path(path) for path in targets]
    try:
        for path in targets:
            path.parent.mkdir(parents=True, exist_ok=True)
        yield partials
        if sync:
            for partial in partials:
                flush(partial)
        for partial, path in zip(partials, targets, strict=True):
            os.replace(partial, path)
    finally:
        for partial in partials:
            with suppress(OSError):
                partial.unlink(missing_ok=True)


def write_whole(path: str | os.PathLike[str], content: str | bytes, *, sync: bool = False) -> Path:
    """Write ``content`` (text as UTF-8) as `whole` does; returns the path."""
    data = content.encode() if isinstance(content, str) else content
    with whole(path, sync=sync) as partial:
        partial.write_bytes(data)
    return Path(path)


def flush(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_partials(folder: Path, *, of_living: bool = False) -> None:
    """Remove what processes that were killed outright left half-written in a folder.

    Args:
        folder: its entries are looked at, not those of folders in it.
        of_living: also what belongs to a process id that is in use (where nothing else may write into the folder).
    """
    for entry in folder.iterdir() if folder.is_dir() else ():
        match = _PARTIAL_NAME.fullmatch(entry.name)
        if match and (of_living or not _lives(int(match["pid"]))):
            with suppress(OSError):
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it lives, under another user
        pass
    return True
