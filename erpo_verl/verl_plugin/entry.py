"""Entry point (group ``verl.plugins``). verl logs a plug-in's failure at DEBUG only, so this file does the shouting."""

from __future__ import annotations

import importlib.metadata

from erpo_verl.verl_plugin import TESTED_VERL, announce


def _load() -> None:
    try:
        version = importlib.metadata.version("verl")
    except importlib.metadata.PackageNotFoundError:
        version = "unknown (not installed as a distribution)"
    if version not in TESTED_VERL:
        announce(f"verl {version} was not tested with this plug-in (tested: {', '.join(TESTED_VERL)}); run `erpo doctor`.")
    try:
        from erpo_verl.verl_plugin import hooks

        hooks.install()
    except Exception as error:
        announce(f"the verl plug-in could not be loaded, its advantage estimators will be unknown: {type(error).__name__}: {error}")
        raise


_load()
