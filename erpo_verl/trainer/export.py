"""A trained policy as a plain Hugging Face model folder, with tokenizer and a card that says how it was made."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn
from transformers import PreTrainedTokenizerBase

from erpo_verl import methods
from erpo_verl.models.load import save_model
from erpo_verl.runs.files import partial_path
from erpo_verl.runs.versions import version
from erpo_verl.trainer.checkpoint import CheckpointError, set_aside

# What decides a run, in the order of the card's table.
_TOLD = (
    "algorithm.adv_estimator",
    "data.train_batch_size",
    "actor_rollout_ref.rollout.n",
    "actor_rollout_ref.rollout.temperature",
    "actor_rollout_ref.actor.ppo_mini_batch_size",
    "actor_rollout_ref.actor.loss_agg_mode",
    "actor_rollout_ref.actor.optim.lr",
    "actor_rollout_ref.model.lora_rank",
    "data.max_response_length",
    "data.seed",
)


def write_model(folder: Path, model: nn.Module, tokenizer: PreTrainedTokenizerBase, settings: DictConfig, step: int, metrics: Mapping[str, float]) -> None:
    """Write weights, configuration, tokenizer and card into ``folder`` (which may exist). LoRA adapters are merged in."""
    save_model(model, folder)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(card(settings, step, metrics))


def replace_model(folder: Path, *arguments: Any, keep_old: bool = False) -> Path:
    """``write_model`` to a folder that appears whole, in the place of an older one, which may be kept as ``<folder>.old-<number>``.

    Raises:
        CheckpointError: it cannot be written. An older one is as it was.
    """
    partial = partial_path(folder)
    try:
        partial.mkdir(parents=True)
        write_model(partial, *arguments)
        old = set_aside(folder) if folder.exists() else None
        os.rename(partial, folder)
    except Exception as error:  # a full disk is an OSError, from safetensors an error of its own
        raise CheckpointError(f"cannot write the model {folder}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if old is not None and not keep_old:
        shutil.rmtree(old, ignore_errors=True)
    return folder


def card(settings: DictConfig, step: int, metrics: Mapping[str, float]) -> str:
    """The model card: start model, method, settings, data, versions, and the last metrics, with nothing made up."""
    algorithm = settings.algorithm.adv_estimator
    base = settings.actor_rollout_ref.model.path
    lines = ["---", f"base_model: {json.dumps(base)}", "library_name: transformers", f"tags: [reinforcement-learning, {algorithm}, erpo-verl]", "---", ""]
    lines += [
        f"# {settings.trainer.experiment_name}",
        "",
        f"`{base}`, trained for {step} steps by erpo-verl {version('erpo-verl')}'s Accelerate engine with the method `{algorithm}`: "
        f"{methods.get(algorithm).about}.",
        "",
        "| setting | value |",
        "|---|---|",
        *(f"| `{key}` | {OmegaConf.select(settings, key)} |" for key in _TOLD),
    ]
    if own := OmegaConf.to_container(settings.algorithm[algorithm]):
        lines.append(f"| `algorithm.{algorithm}` | `{json.dumps(own)}` |")
    files = settings.data.train_files
    lines += ["", f"Training data: {files if isinstance(files, str) else ', '.join(files)}.", ""]
    told = {name: value for name, value in metrics.items() if name.startswith("val-core/") or name == "critic/score/mean"}
    if told:
        lines += ["| last measured | value |", "|---|---|", *(f"| `{name}` | {value:.4f} |" for name, value in told.items()), ""]
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "accelerate"))
    lines += [f"Versions: {packages}.", ""]
    return "\n".join(lines)
