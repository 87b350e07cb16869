"""The engine that an evaluation samples from, and a fingerprint of the weights. The model itself is read by ``erpo_verl.models``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erpo_verl.evaluation.problems import EvaluationError
from erpo_verl.models.errors import Names
from erpo_verl.rollout import RolloutEngine

if TYPE_CHECKING:
    from erpo_verl.models.parts import ModelParts

_PIECES, _PIECE = 256, 64 * 1024  # of each weight file: 16 MiB spread evenly over it


NAMES = Names(model="--model", tokenizer="--tokenizer", trust="--trust-remote-code", joined=" ")


def fingerprint(parts: ModelParts) -> str:
    """16 hex digits of names, sizes and evenly spread pieces of the weights, tokenizer and configuration files; of an adapter and its
    base together."""
    digest = hashlib.sha256()
    for path in [parts.base] if parts.adapter is None else [parts.base, parts.adapter.path]:
        folder = Path(path)
        if folder.is_dir():
            _add(digest, folder)
        else:  # a name on the hub
            digest.update(f"{path}\0{getattr(parts.config, '_commit_hash', None)}\0".encode())
    return digest.hexdigest()[:16]


def _add(digest: Any, folder: Path) -> None:
    for path in sorted(
        p for p in folder.iterdir() if p.suffix in (".json", ".jinja", ".safetensors", ".bin", ".model", ".txt")
    ):
        weights = path.suffix in (".safetensors", ".bin")
        if not weights and not path.name.startswith(
            ("config", "tokenizer", "generation", "chat_template", "vocab", "merges", "adapter")
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


def read(model: Path, tokenizer: Path | None = None, *, trust_remote_code: bool = False) -> ModelParts:
    """The model of a command without its weights, checked.

    Raises:
        ModelError: it cannot be used.
    """
    from erpo_verl.models.parts import read_model  # not before arguments are checked: it imports transformers

    path = None if tokenizer is None else str(tokenizer)
    return read_model(str(model), tokenizer_path=path, trust_remote_code=trust_remote_code, names=NAMES, training=False)


def longest_prompt(parts: ModelParts, max_tokens: int, given: int | None) -> int:
    """Tokens of the longest prompt beside a response of ``max_tokens``: as given, or what the model's context leaves.

    Raises:
        EvaluationError: the context is not known and none is given, or it is too short.
    """
    from erpo_verl.models.parts import too_long

    if given is None:
        if parts.context is None:
            raise EvaluationError(f"{parts.told}: its config.json does not say how long its context is; give --max-prompt-tokens")
        if parts.context <= max_tokens:
            raise EvaluationError(f"--max-tokens {max_tokens}: the model's context is {parts.context} tokens; choose fewer")
        return parts.context - max_tokens
    problem = too_long(parts.context, given, f"--max-prompt-tokens {given}", max_tokens, f"--max-tokens {max_tokens}")
    if problem:
        raise EvaluationError(problem)
    return given


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


def hf_engine(parts: ModelParts, settings: Mapping[str, Any]) -> RolloutEngine:
    """The model in this process, sampled by the Hugging Face engine."""
    from erpo_verl.rollout.hf import HFRollout

    model = weights(parts, settings).to(settings["device"]).eval()
    return HFRollout(model, eos_token_ids=parts.end_token_ids, pad_token_id=parts.pad_token_id, max_batch=settings["batch"])


def vllm_engine(parts: ModelParts, settings: Mapping[str, Any], *, gpu_memory_utilization: float = 0.9) -> RolloutEngine:
    """vLLM in this process, on the device that it was built for. An adapter is merged by transformers, and handed over."""
    from erpo_verl.rollout.vllm import VLLMRollout

    engine = VLLMRollout(
        parts.base,
        eos_token_ids=parts.end_token_ids,
        dtype=settings["dtype"],
        max_model_len=settings["max_prompt_tokens"] + settings["max_tokens"],
        gpu_memory_utilization=gpu_memory_utilization,  # by default nothing else is on the GPU
        seed=settings["seed"],
        trust_remote_code=parts.trust_remote_code,
    )
    if parts.adapter is not None:
        engine.sync(weights(parts, settings))
    return engine


def weights(parts: ModelParts, settings: Mapping[str, Any]) -> Any:
    """The transformers model in the type of ``settings``, on the CPU; an adapter is merged."""
    import torch

    from erpo_verl.models.load import load_model

    return load_model(parts, dtype=getattr(torch, settings["dtype"]))
