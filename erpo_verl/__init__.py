"""ERPO (Entropy-Regulated Policy Optimization, arXiv 2603.28204) for verl and for a light Accelerate trainer.

The core is importable from here and needs torch alone: ``erpo_advantages`` computes the token advantages,
``erpo_policy_loss`` and ``aggregate_loss`` the clipped surrogate on them, ``ErpoConfig`` holds every setting.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from erpo_verl.advantage import ErpoAdvantages, ErpoTokens, erpo_advantages
    from erpo_verl.config import ErpoConfig, ErpoConfigError
    from erpo_verl.policy_loss import PolicyLoss, aggregate_loss, erpo_policy_loss

__version__ = "0.1.0"

# Imported when first used: the reward's worker processes and verl's plug-in entry points import this package in every
# process, and must neither wait for torch nor fail with the core.
_HOME = {
    "ErpoAdvantages": "advantage",
    "ErpoTokens": "advantage",
    "erpo_advantages": "advantage",
    "ErpoConfig": "config",
    "ErpoConfigError": "config",
    "PolicyLoss": "policy_loss",
    "aggregate_loss": "policy_loss",
    "erpo_policy_loss": "policy_loss",
}

__all__ = [
    "ErpoAdvantages",
    "ErpoConfig",
    "ErpoConfigError",
    "ErpoTokens",
    "PolicyLoss",
    "__version__",
    "aggregate_loss",
    "erpo_advantages",
    "erpo_policy_loss",
]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
