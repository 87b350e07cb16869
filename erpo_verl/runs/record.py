"""``run.json``: what a run was, beside the ``metrics.jsonl`` that says how it went. Both engines write it; stdlib alone.

    {"engine": "accelerate", "arm": "erpo", "seed": 1, "config": {...},
     "data": [{"split": "train", "path": "...", "bytes": 1234, "sha256": "...", "rows": 512}, ...],
     "model": {"path": "...", "sha256": "...", "hash": "whole", "revision": null},
     "versions": {"torch": "2.13.0", "verl": null}, "python": "3.11.9",
     "machine": {"cpu": "...", "cores": 2, "gpus": []}, "started": "2026-01-31T12:00:00+00:00"}

``erpo compare`` reads it to say whether runs may be compared. A folder without it is compared all the same, with a warning.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from erpo_verl.runs.files import write_whole

RECORD = "run.json"

# What of a model's folder decides what it computes.
_MODEL_FILES = (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt")
# A model of more than this is hashed by samples: reading 15 GB before each run would cost a minute or more.
_WHOLE_UP_TO = 2 * 2**30
_BLOCK = 2**20


def write_record(
    folder: str | os.PathLike[str],
    *,
    engine: str,
    arm: str,
    seed: int | None,
    config: Mapping[str, Any],
    data_files: Mapping[str, Sequence[str] | str | None],
    model_path: str | os.PathLike[str],
    versions: Mapping[str, str | None],
) -> Path:
    """Write ``folder/run.json``, whole or not at all; returns its path. An older one is replaced.

    Args:
        folder: the run's folder.
        engine: ``verl`` or ``accelerate``.
        arm: what the run is of; runs of one arm differ by their seed alone.
        seed: seed of the run, by which arms are paired; None where there is none.
        config: the run's settings, nested, of plain values (others are written as text).
        data_files: paths by split, ``{"train": [...], "val": [...]}``; a missing file is recorded without a hash.
        model_path: folder of the start policy, or its name on the hub.
        versions: of the distributions that it computes with, from `versions.versions`.

    Raises:
        ValueError: ``engine`` or ``arm`` is empty.
        OSError: the file cannot be written.
    """
    if not engine or not arm:
        raise ValueError(f"a run's record needs an engine and an arm, not engine={engine!r}, arm={arm!r}")
    record = {
        "engine": engine,
        "arm": arm,
        "seed": seed,
        "config": dict(config),
        "data": [{"split": split, **_data_file(Path(path))} for split, paths in data_files.items() for path in _listed(paths)],
        "model": _model(os.fspath(model_path)),
        "versions": dict(versions),
        "python": platform.python_version(),
        "machine": _machine(),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    return write_whole(Path(folder) / RECORD, json.dumps(record, indent=1, ensure_ascii=False, default=str) + "\n")


def read_record(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The record of a run's folder, or None where there is none.

    Raises:
        ValueError: the file is not a record; the message names it.
    """
    path = Path(folder) / RECORD
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): remove it, or write it again") from None
    expected = {"engine": str, "arm": str, "config": dict, "data": list, "model": dict, "versions": dict}
    for key, kind in expected.items():
        if not isinstance(record, dict) or not isinstance(record.get(key), kind):
            raise ValueError(f"{path}: key {key!r} is missing or not a {kind.__name__}")
    seed = record.setdefault("seed", None)
    if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool)):
        raise ValueError(f"{path}: key 'seed' is {seed!r}, not an integer or null")
    return record


def _listed(paths: Sequence[str] | str | None) -> list[str]:
    return [] if paths is None else [paths] if isinstance(paths, str | os.PathLike) else list(paths)


def _data_file(path: Path) -> dict[str, Any]:
    path = path.expanduser().absolute()
    if not path.is_file():
        return {"path": str(path), "bytes": None, "sha256": None, "rows": None}
    digest = hashlib.sha256()
    rows = 0
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            rows += block.count(b"\n")
    counted = {".jsonl": rows, ".parquet": None}.get(path.suffix)
    if path.suffix == ".parquet":
        counted = _parquet_rows(path)
    return {"path": str(path), "bytes": path.stat().st_size, "sha256": digest.hexdigest(), "rows": counted}


def _parquet_rows(path: Path) -> int | None:
    try:
        import pyarrow.parquet
    except ImportError:
        return None
    try:
        return pyarrow.parquet.read_metadata(path).num_rows
    except (OSError, ValueError):  # pyarrow's own errors are of these two kinds; the run itself will complain of the file
        return None


def _model(name: str) -> dict[str, Any]:
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return {"path": name, "sha256": None, "hash": None, "revision": _hub_revision(name)}
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in _MODEL_FILES)
    whole = sum(path.stat().st_size for path in files) <= _WHOLE_UP_TO
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        digest.update(_file_digest(path, whole))
    return {
        "path": str(folder.absolute()),
        "sha256": digest.hexdigest() if files else None,
        "hash": ("whole" if whole else "sampled") if files else None,
        "revision": None,
    }


def _file_digest(path: Path, whole: bool) -> bytes:
    """SHA-256 of a file, or of 64 blocks of 1 MiB spread evenly over it, the first and the last among them."""
    digest, size = hashlib.sha256(), path.stat().st_size
    with open(path, "rb") as file:
        if whole or size <= 64 * _BLOCK:
            while block := file.read(_BLOCK):
                digest.update(block)
        else:
            for i in range(64):
                file.seek((size - _BLOCK) * i // 63)
                digest.update(file.read(_BLOCK))
    return digest.digest()


def _hub_revision(name: str) -> str | None:
    """Commit of a hub model in the local cache, as far as the cache says."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    ref = cache / f"models--{name.replace('/', '--')}" / "refs" / "main"
    return ref.read_text().strip() if ref.is_file() else None


def _machine() -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0] if names else cpu
    torch = sys.modules.get("torch")  # imported by the engine or not at all: this module stays light
    gpus = []
    if torch is not None and torch.cuda.is_available():
        gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"cpu": cpu, "cores": os.cpu_count(), "gpus": gpus}
