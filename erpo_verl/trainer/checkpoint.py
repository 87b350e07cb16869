"""Checkpoints: folders ``global_step_N`` that are whole or not there, the newest few kept, and finding one to go on from.

A checkpoint is written under another name, forced to disk, and renamed; so a folder of the right name is complete, whenever the
process was killed. It holds all that a run goes on from: weights, optimizer, schedule, position in the data, the random states of
every process, and the trackers' run ids. What a killed run left half-written is removed at the next start.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from erpo_verl.runs.files import flush, partial_path, remove_partials, write_whole

_FOLDER = re.compile(r"global_step_(\d+)")
LATEST = "latest_checkpointed_iteration.txt"  # verl's name; for people and other tools, never relied on
MANIFEST = "manifest.json"
_HINT = "choose another checkpoint with trainer.resume_mode=resume_path trainer.resume_from_path=..."


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or read; the message says which, why, and what to do."""


def save(
    run: Path, step: int, parts: dict[str, Any], *, keep: int | None, extra_files: Callable[[Path], None] | None = None
) -> Path:
    """Write ``run/global_step_<step>`` with one file for each part; returns its path. Called by the main process only.

    Args:
        run: folder of the run.
        step: last finished training step.
        parts: name -> anything that ``torch.save`` takes and ``weights_only`` loading gives back.
        keep: how many checkpoints stay, this one included; None for all.
        extra_files: called with the folder before it is renamed, to put further files into it (a model folder).

    Raises:
        CheckpointError: the disk is full, or not writable. Older checkpoints are as they were.
    """
    target = run / f"global_step_{step}"
    partial = partial_path(target)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name, part in parts.items():
            torch.save(part, partial / f"{name}.pt")
        if extra_files is not None:
            extra_files(partial)
        sizes = {str(f.relative_to(partial)): f.stat().st_size for f in sorted(partial.rglob("*")) if f.is_file()}
        (partial / MANIFEST).write_text(json.dumps({"step": step, "files": sizes}, indent=1) + "\n")
        for file in partial.rglob("*"):
            flush(file)
        if target.exists():  # of an earlier try that went another way
            shutil.rmtree(target)
        os.rename(partial, target)
        flush(run)
        write_whole(run / LATEST, f"{step}\n")
    except Exception as error:  # a full disk is an OSError, from torch.save a RuntimeError, from safetensors an error of its own
        shutil.rmtree(partial, ignore_errors=True)
        older = [number for number in steps(run) if number != step]
        left = f"the newest complete one is global_step_{older[-1]}" if older else "there is no complete one yet"
        raise CheckpointError(f"cannot write the checkpoint {target}: {error}; {left}") from error
    if keep is not None:
        for old in steps(run)[:-keep]:
            shutil.rmtree(run / f"global_step_{old}", ignore_errors=True)
    return target


def set_aside(path: Path, *, copy: bool = False) -> Path:
    """Rename (or copy) a file or folder that would be written over to ``<name>.old-<number>``; returns that."""
    number = 1
    while (kept := path.with_name(f"{path.name}.old-{number}")).exists():
        number += 1
    if copy:
        shutil.copy2(path, kept)
    else:
        os.rename(path, kept)
    return kept


def step_of(folder: Path) -> int:
    """Step of a checkpoint.

    Raises:
        CheckpointError: its manifest cannot be read.
    """
    try:
        return int(json.loads((folder / MANIFEST).read_text())["step"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / MANIFEST}: cannot be read: {error}; {_HINT}") from error


def steps(run: Path) -> list[int]:
    """Steps of the complete checkpoints of a run, rising."""
    found = [_FOLDER.fullmatch(entry.name) for entry in run.iterdir()] if run.is_dir() else []
    return sorted(int(match[1]) for match in found if match)


def clean(run: Path) -> None:
    """Remove what a killed process left half-written. A run's folder is one process's: whoever has the id of the killed one now is another."""
    remove_partials(run, of_living=True)


def find(run: Path, mode: str, path: str | None) -> Path | None:
    """The checkpoint to go on from, as ``trainer.resume_mode`` says; None to start anew.

    Raises:
        CheckpointError: ``resume_path`` names no complete checkpoint.
    """
    if mode == "disable":
        return None
    if mode == "resume_path":
        folder = Path(path).expanduser().absolute()
        if not (folder / MANIFEST).is_file():
            raise CheckpointError(f"trainer.resume_from_path={path}: no checkpoint (a folder global_step_N with {MANIFEST})")
        return folder
    found = steps(run)
    return run / f"global_step_{found[-1]}" if found else None


def load(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """The named parts of a checkpoint.

    Raises:
        CheckpointError: a file is missing, or not as long as it was written.
    """
    try:
        sizes = json.loads((folder / MANIFEST).read_text())["files"]
        for name, size in sizes.items():
            if (folder / name).stat().st_size != size:
                raise CheckpointError(f"{folder / name} is damaged ({(folder / name).stat().st_size} bytes, written were {size}); {_HINT}")
        return {name: torch.load(folder / f"{name}.pt", map_location="cpu", weights_only=True) for name in names}
    except CheckpointError:
        raise
    except Exception as error:  # whatever a damaged file makes of it
        raise CheckpointError(f"{folder}: cannot be read: {error}; {_HINT}") from error


def random_state() -> dict[str, Any]:
    """The random states of this process, as tensors and plain values."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    version, internal, gauss_next = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss],
        "python": [version, list(internal), gauss_next],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Take over what ``random_state`` returned."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
