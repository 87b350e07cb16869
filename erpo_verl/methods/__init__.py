"""Methods of token-level credit, one module each, and the registry that both engines, the docs and the pages read.

    from erpo_verl import methods

    credit = methods.get("erpo").credit(methods.TokenBatch(...), {"gate": {"gamma": 3.0}})
    credit.advantages, credit.metrics

A method of another package comes in through the entry-point group ``erpo_verl.methods``: its name, and the `Method` object.

    [project.entry-points."erpo_verl.methods"]
    my_method = "my_package.my_module:METHOD"

Importing this module loads no method, and not torch.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import os
import sys
from typing import TYPE_CHECKING

from erpo_verl.settings import nearest

if TYPE_CHECKING:
    from erpo_verl.methods.contract import Credit, Method, TokenBatch

GROUP = "erpo_verl.methods"
BUILT_IN = ("erpo", "grpo", "stare", "high_entropy", "maxrl")
"""Modules of this folder, named as the method that they hold as METHOD."""

_SAID = "ERPO_VERL_METHODS_SAID"

__all__ = ["BUILT_IN", "GROUP", "Credit", "Method", "TokenBatch", "UnknownMethodError", "all_methods", "get", "names", "registered"]


class UnknownMethodError(ValueError):
    """No method of this name, or one that cannot be loaded; the message says what there is, or why not."""


def names() -> list[str]:
    """Names of all methods, those that cannot be loaded left out: the built-in ones, then those of other packages."""
    return [*BUILT_IN, *sorted(_others())]


def registered() -> list[str]:
    """Names under which a method is registered, whether it can be loaded or not; loads none."""
    others = {entry.name for entry in importlib.metadata.entry_points(group=GROUP)}
    return [*BUILT_IN, *sorted(others - set(BUILT_IN))]


def get(name: str) -> Method:
    """The method of that name.

    Raises:
        UnknownMethodError: see there.
    """
    if name in BUILT_IN:
        return importlib.import_module(f"{__name__}.{name}").METHOD
    if name in _others():
        return _others()[name]
    if name in _failures():
        raise UnknownMethodError(f"method {name!r} could not be loaded: {_failures()[name]}")
    raise UnknownMethodError(f"there is no method {name!r}; there are {', '.join(names())} (the nearest is {nearest(name, names())})")


def all_methods() -> list[Method]:
    """All methods, in the order of `names`."""
    return [get(name) for name in names()]


def _others() -> dict[str, Method]:
    return _load()[0]


def _failures() -> dict[str, str]:
    return _load()[1]


@functools.cache
def _load() -> tuple[dict[str, Method], dict[str, str]]:
    """Methods of other packages, and why some could not be loaded: said once on stderr, with the package, and no more."""
    found: dict[str, Method] = {}
    failures: dict[str, str] = {}
    for entry in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda entry: entry.name):
        package = f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else entry.value
        try:
            if entry.name in BUILT_IN or entry.name in found:
                raise ValueError(f"there is a method {entry.name!r} already")
            found[entry.name] = _checked(entry)
        except Exception as error:  # whatever another package raises must not stop the others
            failures.setdefault(entry.name, f"{type(error).__name__}: {error} (package {package})")
            _say(f"the method {entry.name!r} of the package {package} could not be loaded: {type(error).__name__}: {error}")
    return found, failures


def _checked(entry: importlib.metadata.EntryPoint) -> Method:
    from erpo_verl.methods.contract import Method

    method = entry.load()
    if not isinstance(method, Method):
        raise TypeError(f"{entry.value} is {type(method).__name__}, not a Method")
    if method.name != entry.name:
        raise ValueError(f"{entry.value} is named {method.name!r}, its entry point {entry.name!r}: must be equal")
    return method


def _say(message: str) -> None:
    """In one line on stderr, once a run: Ray's workers inherit the environment variable and keep silent."""
    said = os.environ.get(_SAID, "")
    if message not in said:
        os.environ[_SAID] = said + message
        print(f"erpo-verl: {message}", file=sys.stderr, flush=True)


def __getattr__(name: str):
    if name not in ("Credit", "Method", "TokenBatch"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.contract"), name)
