"""Model folders as users bring them: tiny, whole, and then spoilt in one place."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from examples.arithmetic.tokenizer import build_tokenizer
from examples.tiny.model import build_model

TOKENIZER = build_tokenizer()
VOCABULARY = len(TOKENIZER)


def save_plain(folder: Path, seed: int = 0) -> Path:
    """A random model of some thousand weights with its tokenizer."""
    build_model(TOKENIZER, seed=seed, layers=1, hidden=64, intermediate=64).save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder


def spoilt(plain: Path, folder: Path, *, drop: tuple[str, ...] = (), **files: dict[str, Any]) -> Path:
    """A copy with other entries in its JSON files (``config``, ``generation_config``, ``tokenizer_config``), without those in ``drop``."""
    shutil.copytree(plain, folder)
    for name in ("config", "generation_config", "tokenizer_config"):
        file = folder / f"{name}.json"
        data = {key: value for key, value in json.loads(file.read_text()).items() if key not in drop} | files.get(name, {})
        file.write_text(json.dumps(data))
    return folder


def save_adapter(folder: Path, base: Path, written: str | None = "", **options: Any) -> Path:
    """A LoRA adapter of the model at ``base``, with weights that change its logits; ``written`` stands for the base's path."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "down_proj"], **options)
    )
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name or "modules_to_save" in name:
            torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(folder)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": str(base) if written == "" else written}))
    return folder


def logits(model: torch.nn.Module) -> torch.Tensor:
    """[5, V] of some tokens."""
    with torch.no_grad():
        return model.eval()(torch.tensor([[8, 9, 10, 11, 12]])).logits[0]
