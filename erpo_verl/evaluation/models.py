"""Loads what an evaluation samples from: the tokenizer and an engine; and a fingerprint of the weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from erpo_verl.evaluation.problems import EvaluationError
from erpo_verl.rollout import RolloutEngine

_WEIGHTS = ("*.safetensors", "*.bin")
_PIECES, _PIECE = 256, 64 * 1024  # of each weight file: 16 MiB spread evenly over it


def check_folder(folder: Path) -> None:
    """Raises:
    EvaluationError: it is no model folder in Hugging Face's form.
    """
    if not folder.is_dir():
        raise EvaluationError(f"--model {folder}: no such folder")
    if not (folder / "config.json").is_file():
        raise EvaluationError(
            f"--model {folder}: no config.json; expected a model in Hugging Face's form "
            "(a verl checkpoint becomes one by `python -m verl.model_merger merge`)"
        )
    if not any(any(folder.glob(pattern)) for pattern in _WEIGHTS):
        raise EvaluationError(f"--model {folder}: no weights (*.safetensors)")


def fingerprint(folder: Path) -> str:
    """16 hex digits of names, sizes and evenly spread pieces of the weights, tokenizer and configuration files."""
    digest = hashlib.sha256()
    for path in sorted(
        p for p in folder.iterdir() if p.suffix in (".json", ".jinja", ".safetensors", ".bin", ".model", ".txt")
    ):
        weights = path.suffix in (".safetensors", ".bin")
        if not weights and not path.name.startswith(
            ("config", "tokenizer", "generation", "chat_template", "vocab", "merges")
        ):
            continue
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with open(path, "rb") as file:
            if size <= _PIECES * _PIECE:
                digest.update(file.read())
                continue
            for piece in range(_PIECES):
                file.seek(piece * (size - _PIECE) // (_PIECES - 1))
                digest.update(file.read(_PIECE))
    return digest.hexdigest()[:16]


def load_tokenizer(folder: Path) -> Any:
    """Raises:
    EvaluationError: there is none, or it has no chat template.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise EvaluationError(f"--model {folder}: no usable tokenizer: {error}") from None
    if not tokenizer.chat_template:
        raise EvaluationError(
            f"--model {folder}: its tokenizer has no chat template; use the instruct model's tokenizer files"
        )
    return tokenizer


def context_length(folder: Path) -> int:
    """max_position_embeddings of the model, in tokens."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    length = getattr(config.get_text_config(), "max_position_embeddings", None)
    if not length:
        raise EvaluationError(
            f"--model {folder}: its config.json has no max_position_embeddings; give --max-prompt-tokens"
        )
    return int(length)


def choose_device(device: str) -> str:
    """``auto`` is cuda where there is one.

    Raises:
        EvaluationError: cuda is asked for, and there is none.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise EvaluationError(f"--device {device}: torch {torch.__version__} sees no CUDA device here")
    return device


def stop_tokens(folder: Path, tokenizer: Any) -> list[int]:
    """Ids that end a response: those of generation_config.json, else of config.json, and the tokenizer's own."""
    from erpo_verl.rollout.vllm import folder_eos_token_ids

    ids = set(folder_eos_token_ids(folder)) | {tokenizer.eos_token_id}
    ids.discard(None)
    if not ids:
        raise EvaluationError(f"--model {folder}: neither its configuration nor its tokenizer names an end token")
    return sorted(ids)


def hf_engine(folder: Path, tokenizer: Any, settings: Mapping[str, Any]) -> RolloutEngine:
    """The model in this process, sampled by the Hugging Face engine."""
    import torch
    from transformers import AutoModelForCausalLM

    from erpo_verl.rollout.hf import HFRollout

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, settings["dtype"]))
    model = model.to(settings["device"]).eval()
    ends = stop_tokens(folder, tokenizer)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0]
    return HFRollout(model, eos_token_ids=ends, pad_token_id=pad, max_batch=settings["batch"])


def vllm_engine(folder: Path, tokenizer: Any, settings: Mapping[str, Any]) -> RolloutEngine:
    """vLLM in this process, on the device that it was built for."""
    from erpo_verl.rollout.vllm import VLLMRollout

    return VLLMRollout(
        folder,
        eos_token_ids=stop_tokens(folder, tokenizer),
        dtype=settings["dtype"],
        max_model_len=settings["max_prompt_tokens"] + settings["max_tokens"],
        gpu_memory_utilization=0.9,  # nothing else is on the GPU here
        seed=settings["seed"],
    )
