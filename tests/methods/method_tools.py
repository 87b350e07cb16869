"""Methods of other packages, as entry points."""

from __future__ import annotations

import importlib.metadata
from types import SimpleNamespace

from erpo_verl import methods


class Entry:
    """What an entry point is to the registry."""

    def __init__(self, name, value, package="their-package"):
        self.name, self.value = name, value
        self.dist = SimpleNamespace(name=package, version="1.2")

    def load(self):
        return importlib.metadata.EntryPoint(self.name, self.value, methods.GROUP).load()


def install(monkeypatch, *entries):
    """Let ``entries`` be the methods of other packages, until the test ends."""
    real = importlib.metadata.entry_points
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **where: list(entries) if where == {"group": methods.GROUP} else real(**where))
    monkeypatch.delenv(methods._SAID, raising=False)
    methods._load.cache_clear()
    monkeypatch.setattr(methods, "_load", methods._load.__wrapped__ if not entries else _cached(methods._load.__wrapped__))


def _cached(load):
    found = []

    def once():
        if not found:
            found.append(load())
        return found[0]

    once.cache_clear = found.clear
    return once
