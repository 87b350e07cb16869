"""vLLM's side (entry point group ``vllm.general_plugins``, loaded in every vLLM process): keep weights updatable."""

from __future__ import annotations

from erpo_verl.verl_cpu import enabled


def register() -> None:
    """Keep vLLM's linear weights as they are; does nothing unless ``ERPO_VERL_CPU=1``."""
    if enabled():
        from erpo_verl.rollout.weights import keep_plain_cpu_weights

        keep_plain_cpu_weights()
