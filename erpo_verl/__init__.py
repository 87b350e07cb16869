"""ERPO (Entropy-Regulated Policy Optimization, arXiv 2603.28204) for verl and for a light Accelerate trainer.

The core is importable from here and needs torch alone: ``erpo_advantages`` computes the token advantages,
``erpo_policy_loss`` and ``aggregate_loss`` the clipped surrogate on them, ``ErpoConfig`` holds every setting. All methods of
token-level credit, also those of other packages: ``erpo_verl.methods``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from erpo_verl.methods.contract import Credit, TokenBatch
    from erpo_verl.methods.erpo import ErpoConfig, erpo_advantages
    from erpo_verl.policy_loss import PolicyLoss, aggregate_loss, erpo_policy_loss
    from erpo_verl.settings import SettingsError as ErpoConfigError

__version__ = "0.1.0"

# Imported when first used: the reward's worker processes and verl's plug-in entry points import this package in every
# process, and must neither wait for torch nor fail with the core.
_HOME = {
    "Credit": "methods.contract",
    "TokenBatch": "methods.contract",
    "erpo_advantages": "methods.erpo",
    "ErpoConfig": "methods.erpo",
    "ErpoConfigError": "settings:SettingsError",  # under this name since there were settings of ERPO alone
    "PolicyLoss": "policy_loss",
    "aggregate_loss": "policy_loss",
    "erpo_policy_loss": "policy_loss",
}

__all__ = [
    "Credit",
    "ErpoConfig",
    "ErpoConfigError",
    "PolicyLoss",
    "TokenBatch",
    "__version__",
    "aggregate_loss",
    "erpo_advantages",
    "erpo_policy_loss",
]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _HOME[name].partition(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), attribute or name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
