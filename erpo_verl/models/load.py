"""The weights: read with their adapter, made ready for training, and written again as a plain model folder."""

from __future__ import annotations

import copy
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from erpo_verl.models.config import is_rate
from erpo_verl.models.errors import ModelError, first_line
from erpo_verl.models.folder import ADAPTER_WEIGHTS, stored_shapes
from erpo_verl.models.parts import ModelParts
from erpo_verl.models.shapes import embedding_rows, refuse


@dataclass(frozen=True)
class NewAdapters:
    """LoRA adapters to be made, by the names of verl's ``actor_rollout_ref.model``."""

    rank: int
    alpha: float = 16
    target_modules: Any = "all-linear"
    exclude_modules: Any = None
    seed: int = 0


def load_model(
    parts: ModelParts,
    *,
    dtype: torch.dtype,
    attn_implementation: str | None = None,
    keep_adapter: bool = False,
    new_adapters: NewAdapters | None = None,
) -> nn.Module:
    """The model on the CPU: its adapter merged into its weights, or with ``keep_adapter`` beside them, to be trained on.

    Args:
        new_adapters: to be put onto the (merged) model.

    Raises:
        ModelError: damaged, missing or not finite weights, an adapter that does not fit, or modules for adapters that it has not.
        ImportError: LoRA without peft.
    """
    options = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            parts.base, config=copy.deepcopy(parts.config), generation_config=parts.generation, dtype=dtype,
            trust_remote_code=parts.trust_remote_code, output_loading_info=True, ignore_mismatched_sizes=True, **options,
        )  # fmt: skip
    except Exception as error:  # OSError, ValueError, ImportError, safetensors' own, and what the model's code raises
        raise ModelError(f"{parts.told}: no model can be loaded from there: {first_line(error)}") from error
    # transformers makes up what is missing or of another shape, at random, with a warning.
    refuse(sorted(info["mismatched_keys"]), f"{parts.told}: ", "its config.json says")
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(f"{parts.told}: its weights lack {len(missing)} of the model's tensors ({', '.join(missing[:3])}); they would be random")
    if parts.adapter is not None:
        model = _with_adapter(model, parts, keep_adapter)
    damaged = next((name for name, weight in model.named_parameters() if not weight.isfinite().all()), None)
    if damaged is not None:
        raise ModelError(f"{parts.told}: its tensor {damaged} holds NaN or infinite values: the weights are damaged, or their training broke down")
    if new_adapters is not None:
        model = _with_new_adapters(model, new_adapters)
    return model


def _with_adapter(model: PreTrainedModel, parts: ModelParts, keep: bool) -> nn.Module:
    from peft import PeftModel

    rows = embedding_rows(stored_shapes(Path(parts.adapter.path), ADAPTER_WEIGHTS))
    if rows is not None and rows != model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(rows)  # an adapter that was trained with tokens of its own
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*missing adapter keys.*")
            loaded = PeftModel.from_pretrained(model, parts.adapter.path, is_trainable=keep)
            return loaded if keep else loaded.merge_and_unload().requires_grad_(True)
    except Exception as error:  # peft's ValueError, torch's RuntimeError for shapes, and the warning above
        raise ModelError(f"{parts.told}: the adapter does not fit its base: {first_line(error)}") from error


def _with_new_adapters(model: nn.Module, wanted: NewAdapters) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(wanted.seed)
    config = LoraConfig(
        task_type="CAUSAL_LM", r=wanted.rank, lora_alpha=wanted.alpha, target_modules=wanted.target_modules,
        exclude_modules=wanted.exclude_modules, bias="none",
    )  # fmt: skip
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*no modules were excluded.*")
            return get_peft_model(model, config)
    except (ValueError, UserWarning) as error:
        raise ModelError(
            f"actor_rollout_ref.model.target_modules={wanted.target_modules}, exclude_modules={wanted.exclude_modules}: {first_line(error)}"
        ) from error


def without_dropout(model: nn.Module) -> nn.Module:
    """Switch off all that is random in training mode, and leave training mode on (gradient checkpointing hangs on it).

    A policy gradient compares the probabilities of the update with those under which was sampled: dropout makes them differ at the
    first step already. Modules of torch have ``p``; models keep rates in attributes of their layers and in their configuration.
    The configuration that is written with the trained model is the original one (``save_model``).
    """
    owner = _plain(model)
    owner.start_config = copy.deepcopy(owner.config)
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if is_rate(value) and re.search(r"drop|jitter", name):
                setattr(module, name, 0.0)
    for part in {id(part): part for part in (owner.config, owner.config.get_text_config(decoder=True))}.values():
        for name, value in list(vars(part).items()):
            if is_rate(value) and re.search(r"drop|jitter", name):
                setattr(part, name, 0.0)
    return model


def padding_changes(model: nn.Module, pad_token_id: int) -> bool:
    """Whether logits depend on masked padding on the left: a batch of unlike prompts then has wrong probabilities.

    For models with states of their own, whose layers do not all look at the mask. Two forward passes of a few tokens.
    """
    weight = model.get_input_embeddings().weight
    tokens = torch.arange(4, device=weight.device).repeat(2, 1) % weight.shape[0]  # two rows: some models take one for a whole one
    pads = torch.full((2, 3), pad_token_id, device=weight.device)
    mask = torch.cat((torch.zeros_like(pads), torch.ones_like(tokens)), dim=1)
    training = model.training
    with torch.no_grad():
        model.eval()
        plain = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False).logits[0, -1].double()
        positions = (mask.cumsum(dim=1) - 1).clamp_(min=0)
        padded = model(input_ids=torch.cat((pads, tokens), dim=1), attention_mask=mask, position_ids=positions, use_cache=False).logits[0, -1].double()
    model.train(training)
    spread = (plain - plain.mean()).norm().item()
    allowed = 1e-2 if weight.dtype == torch.float32 else 0.2
    return bool(plain.isfinite().all()) and ((padded - padded.mean()) - (plain - plain.mean())).norm().item() > allowed * spread


def _plain(model: nn.Module) -> nn.Module:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def save_model(model: nn.Module, folder: Path) -> None:
    """Weights, configuration and generation settings as a plain model folder; adapters are merged into a copy first."""
    merged = copy.deepcopy(model).merge_and_unload() if hasattr(model, "merge_and_unload") else model
    config, start = merged.config, getattr(merged, "start_config", None)
    if start is not None:
        merged.config = start
    try:
        merged.save_pretrained(folder)
    finally:
        merged.config = config
