"""The weights of a trained model under the names of its model folder, adapters merged."""

from __future__ import annotations

import copy

from torch import Tensor, nn


def plain_weights(model: nn.Module) -> dict[str, Tensor]:
    """Every weight of a transformers model by the name that ``save_pretrained`` gives it.

    Args:
        model: a causal LM, or peft's wrapper of one: its adapters are merged into a copy (which needs the model's memory once
            more); the model itself is left as it is.
    """
    if hasattr(model, "peft_config"):
        model = copy.deepcopy(model).merge_and_unload()
    return model.state_dict()
