"""Counts what verl's trainer fetches from the TransferQueue for its advantages. On ``PYTHONPATH`` of a run alone (`verl_step.py`).

Python imports a module of this name when it starts, also in Ray's processes. Each fetch made by ``_compute_advantage``, and by what it calls,
is a line ``{"fields": [...], "bytes": n}`` in the file that ERPO_BENCHMARK_FETCHES names.
"""

import importlib.abc
import importlib.util
import json
import os
import sys

NAME, FILE = "transfer_queue", os.environ.get("ERPO_BENCHMARK_FETCHES")


def size_of(value) -> int:
    """Bytes of a tensor, of a nested one its tokens alone; 0 for anything else."""
    if not hasattr(value, "element_size"):
        return 0
    return (value.values() if value.is_nested else value).numel() * value.element_size()


def counting(fetch):
    def kv_batch_get(*args, **kwargs):
        found = fetch(*args, **kwargs)
        frame, above = sys._getframe(1), []
        while frame is not None:
            above.append(frame.f_code.co_name)
            frame = frame.f_back
        if "_compute_advantage" in above:
            with open(FILE, "a", encoding="utf-8") as file:
                file.write(json.dumps({"fields": kwargs.get("select_fields"), "bytes": sum(size_of(value) for _, value in found.items())}) + "\n")
        return found

    return kv_batch_get


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != NAME:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None:
            run = spec.loader.exec_module

            def exec_module(module):
                run(module)
                module.kv_batch_get = counting(module.kv_batch_get)

            spec.loader.exec_module = exec_module  # the loader stays what it is: the package reads its own files through it
        return spec


if FILE:
    sys.meta_path.insert(0, Finder())
