"""vLLM's side (entry point group ``vllm.general_plugins``, loaded in every vLLM process): keep weights updatable.

On the CPU, vLLM 0.28.0 repacks each linear weight for its GEMM kernel and drops the original, so that a later weight update finds
an empty tensor. Here the linear layers multiply with the plain weight, which an update then changes in place.
"""

from __future__ import annotations

from erpo_verl.verl_cpu import enabled


def register() -> None:
    """Replace the dispatch of unquantised CPU GEMMs; does nothing unless ``ERPO_VERL_CPU=1``."""
    if not enabled():
        return
    import torch
    from vllm.model_executor.layers import utils

    def dispatch_cpu_unquantized_gemm(layer: torch.nn.Module, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    utils.dispatch_cpu_unquantized_gemm = dispatch_cpu_unquantized_gemm
