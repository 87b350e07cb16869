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


def keep_plain_cpu_weights() -> None:
    """Keep the linear weights of a vLLM model on the CPU updatable; to be called before it is loaded.

    vLLM 0.28.0 repacks each of them for its GEMM kernel and drops the original, so that a later update finds an empty tensor.
    Afterwards the layers multiply with the plain weight, which an update changes in place.
    """
    import torch
    from vllm.model_executor.layers import utils

    def dispatch_cpu_unquantized_gemm(layer: nn.Module, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    utils.dispatch_cpu_unquantized_gemm = dispatch_cpu_unquantized_gemm
