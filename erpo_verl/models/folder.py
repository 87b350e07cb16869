"""What lies in a model's folder: a model, or an adapter and where its base is; and whether the weights are whole.

Nothing of the weights is read but the headers of their files.
"""

from __future__ import annotations

import json
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erpo_verl.models.errors import ModelError, first_line

ADAPTER, ADAPTER_WEIGHTS, INDEX = "adapter_config.json", "adapter_model.safetensors", ".index.json"
# One of these is in every folder that holds a tokenizer.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt", "*.tiktoken", "*.model")


@dataclass(frozen=True)
class Adapter:
    """An adapter in peft's form."""

    path: str  # folder, or name on the hub
    kind: str  # peft's name: LORA, LOHA, IA3 ...
    rank: int | None
    base: str  # folder, or name on the hub


def find(path: str, told: str) -> tuple[str, Adapter | None]:
    """Where the weights of the model are, and the adapter that ``path`` holds, if it is one.

    Args:
        path: folder, or name on the hub.
        told: how a message calls it.

    Raises:
        ModelError: no such folder, or nothing that could be loaded is in it.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        if folder.exists() or path.startswith(("/", "./", "../", "~")):
            raise ModelError(f"{told}: there is no such folder")
        file = _adapter_on_the_hub(path)
        return (path, None) if file is None else _adapter(Path(file), path, told)
    if (folder / ADAPTER).is_file():
        return _adapter(folder / ADAPTER, str(folder), told)
    if not (folder / "config.json").is_file():
        raise ModelError(f"{told}: no config.json in the folder; {_what_else(folder)}")
    return str(folder), None


def _what_else(folder: Path) -> str:
    names = [file.name for file in folder.iterdir()]
    if any(name.endswith(".gguf") for name in names):
        return "it holds GGUF weights, which nothing can be trained from: take the model in Hugging Face's form"
    if any(name.startswith("model_world_size_") for name in names) or "actor" in names:
        return "a checkpoint of verl becomes a model by `python -m verl.model_merger merge`"
    if "manifest.json" in names:
        return "a checkpoint of `erpo train` holds no model folder; add hf_model to actor_rollout_ref.actor.checkpoint.save_contents"
    return "expected a model in Hugging Face's form"


def _adapter_on_the_hub(name: str) -> str | None:
    from transformers.utils import cached_file

    try:
        return cached_file(name, ADAPTER, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False)
    except (OSError, ValueError):  # no such repository, or not allowed: the model's own loading says it better
        return None


def _adapter(file: Path, path: str, told: str) -> tuple[str, Adapter]:
    try:
        config = json.loads(file.read_text())
        kind, base = str(config["peft_type"]).upper(), config.get("base_model_name_or_path")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{told}: its {ADAPTER} cannot be read: {first_line(error)}") from None
    if not base:
        raise ModelError(f"{told}: an adapter whose {ADAPTER} names no base_model_name_or_path; write the base model's folder there")
    if config.get("task_type") not in (None, "CAUSAL_LM"):
        raise ModelError(f"{told}: an adapter for {config['task_type']}, not for a causal language model")
    found = _base(str(base), Path(path))
    if found is None:
        raise ModelError(f"{told}: an adapter of {base!r}, and there is no such folder; write the base model's folder into base_model_name_or_path of {file}")
    if (Path(found) / ADAPTER).is_file() and not (Path(found) / "config.json").is_file():
        raise ModelError(f"{told}: an adapter of {found}, which is an adapter itself; merge that one into its base first, and name the result in {file}")
    return found, Adapter(path, kind, config.get("r"), found)


def _base(base: str, adapter: Path) -> str | None:
    """The base as a folder: as it is written, or seen from the adapter's folder; a name of the hub as it is."""
    written = Path(base).expanduser()
    for folder in (written, adapter / base):
        if folder.is_dir():
            return str(folder)
    return None if written.is_absolute() or base.startswith((".", "~")) else base


def tokenizer_folder(base: str, adapter: Adapter | None) -> str:
    """Where the tokenizer is: beside the adapter, if there is one, else the model's."""
    if adapter is not None:
        folder = Path(adapter.path)
        if folder.is_dir() and any(any(folder.glob(pattern)) for pattern in TOKENIZER_FILES):
            return adapter.path
    return base


def check_weights(path: str, told: str) -> None:
    """Whether a folder's weights are there and as long as their headers say.

    Raises:
        ModelError: no weights, a part is missing, or a file is cut off (named).
    """
    folder = Path(path)
    if not folder.is_dir():  # a name on the hub
        return
    for index in sorted(folder.glob(f"*{INDEX}")):
        try:
            parts = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise ModelError(f"{told}: {index.name} cannot be read: {first_line(error)}") from None
        gone = [part for part in parts if not (folder / part).is_file()]
        if gone:
            raise ModelError(f"{told}: {len(gone)} of the {len(parts)} files of weights are missing ({gone[0]}); fetch the model again")
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        problem = _cut_off(file)
        if problem:
            raise ModelError(f"{told}: {file.name} is damaged ({problem}); fetch it again")
    if files:
        return
    files = [file for file in sorted(folder.glob("*.bin")) if file.name != "training_args.bin"]
    for file in files:
        if not zipfile.is_zipfile(file) and not _old_pickle(file):
            raise ModelError(f"{told}: {file.name} is damaged (neither of torch's two forms); fetch it again")
    if not files:
        raise ModelError(f"{told}: the folder holds no weights (*.safetensors); {_what_else(folder)}")


def _old_pickle(file: Path) -> bool:
    with open(file, "rb") as data:
        return data.read(2) == b"\x80\x02"


def _cut_off(file: Path) -> str | None:
    size = file.stat().st_size
    with open(file, "rb") as data:
        if data.read(20).startswith(b"version https://git"):
            return "a pointer of Git LFS in place of the file"
    try:
        header, begin = read_header(file)
        end = begin + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        return f"its header cannot be read: {first_line(error)}"
    return None if size == end else f"{size} bytes, its header says {end}"


def read_header(file: Path) -> tuple[dict[str, Any], int]:
    """The tensors of a safetensors file, {name: {dtype, shape, data_offsets}}, and the byte at which their data begin."""
    with open(file, "rb") as data:
        (length,) = struct.unpack("<Q", data.read(8))
        if length > 100_000_000:
            raise ValueError(f"a header of {length} bytes")
        header = json.loads(data.read(length))
    header.pop("__metadata__", None)
    return header, 8 + length


def stored_shapes(folder: Path, pattern: str = "*.safetensors") -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in the folder's safetensors files; empty where there are none."""
    files = sorted(folder.glob(pattern)) if folder.is_dir() else []
    return {name: tuple(entry["shape"]) for file in files for name, entry in read_header(file)[0].items()}
