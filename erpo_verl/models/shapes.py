"""Do the stored tensors have the shapes that config.json (or the adapter's settings) says? Known from the files' headers, before anything is loaded."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

from erpo_verl.models.errors import ModelError
from erpo_verl.models.folder import ADAPTER_WEIGHTS, Adapter, stored_shapes


def check_shapes(base: str, adapter: Adapter | None, config: PretrainedConfig, told: str, trust_remote_code: bool) -> None:
    """Compare the tensors of a folder with a model of its configuration that has no memory (torch's ``meta`` device).

    Names that only one side has are not judged here: some models store their weights under other names than they use them.

    Raises:
        ModelError: a tensor has another shape.
    """
    stored = stored_shapes(Path(base))
    if not stored and adapter is None:
        return
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(copy.deepcopy(config), trust_remote_code=trust_remote_code)
    except Exception:  # a model that cannot be made so tells at loading what is wrong with it
        return
    _compare(stored, {name: tensor.shape for name, tensor in model.state_dict().items()}, f"{told}: ", "its config.json says")
    if adapter is not None:
        _check_adapter(adapter, model, told)


def _check_adapter(adapter: Adapter, model: torch.nn.Module, told: str) -> None:
    from peft import PeftConfig, get_peft_model
    from peft.utils import get_peft_model_state_dict

    stored = stored_shapes(Path(adapter.path), ADAPTER_WEIGHTS)
    if not stored or any("embed_tokens" in name or "lm_head" in name or "wte" in name for name in stored):
        return  # may bring tokens of its own, for which the base is made larger
    try:
        settings = PeftConfig.from_pretrained(adapter.path)
        settings.base_model_name_or_path = None  # what it says is found already
        with torch.device("meta"):
            wanted = get_peft_model_state_dict(get_peft_model(model, settings))
    except Exception:  # as above
        return
    shapes = {name: tensor.shape for name, tensor in wanted.items()}
    _compare(stored, shapes, f"{told}: the adapter does not fit its base: ", "adapter and base say")


def embedding_rows(stored: Mapping[str, tuple[int, ...]]) -> int | None:
    """Rows of the embedding that an adapter brings among its tensors, if it brings one."""
    rows = {shape[0] for name, shape in stored.items() if re.search(r"(embed_tokens|wte|lm_head)\.(weight|\w+\.weight)$", name)}
    return rows.pop() if len(rows) == 1 else None


def _compare(stored: Mapping[str, tuple[int, ...]], wanted: Mapping[str, torch.Size], said: str, who: str) -> None:
    refuse([(name, shape, wanted[name]) for name, shape in stored.items() if name in wanted and shape != tuple(wanted[name])], said, who)


def refuse(others: Sequence[tuple[str, Sequence[int], Sequence[int]]], said: str, who: str) -> None:
    """ModelError where there are tensors of other shapes: (name, stored, wanted)."""
    if others:
        name, stored, wanted = others[0]
        raise ModelError(
            f"{said}{len(others)} of its tensors have other shapes than {who} ({name} is {tuple(stored)}, not {tuple(wanted)}): the two are of different models"
        )
