"""The places of verl 0.9.1 that refuse a machine without an accelerator and offer no seam. One function a patch.

Each acts when verl imports the module it mends (wrapt's post-import hooks), so that ``import verl`` stays as light as it was.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os

import wrapt


def activate() -> None:
    """Install all patches of this file in this process."""
    _environment()
    _vllm_distribution_name()
    wrapt.when_imported("verl.utils.import_utils")(_no_value_head_of_trl)
    wrapt.when_imported("verl.utils.distributed")(_process_group_backend)
    wrapt.when_imported("verl.workers.engine.fsdp.transformer_impl")(_no_pinned_memory)


def _environment() -> None:
    """Variables that verl and vLLM read in worker processes; a value that the user set is kept."""
    for name, value in {
        # verl registers its FSDP engine for cuda and npu only; the engine itself asks the platform.
        "VERL_ENGINE_DEVICE": "cuda",
        # vLLM's defaults are a KV cache of half the machine's memory and one pinned thread a core.
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        # vLLM on the CPU takes its worker into the engine's process only where this is 0.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        # vLLM compiles a helper of its sampler in C++ at every start, for longer than a tiny model's run would use it.
        "TORCHDYNAMO_DISABLE": "1",
    }.items():
        os.environ.setdefault(name, value)


def _vllm_distribution_name() -> None:
    """verl asks the installed distributions for ``vllm``; on the CPU the same package is called ``vllm-cpu``."""
    original = importlib.metadata.version

    @functools.wraps(original)
    def version(distribution_name: str) -> str:
        try:
            return original(distribution_name)
        except importlib.metadata.PackageNotFoundError:
            if distribution_name != "vllm":
                raise
            # vLLM itself looks for "cpu" in this string to choose its platform.
            return original("vllm-cpu") + "+cpu"

    importlib.metadata.version = version


def _no_value_head_of_trl(module) -> None:
    """verl mends TRL's value head wherever TRL is installed; TRL 1.16 has none any more, and every start would fail.

    A critic alone uses that class, and ERPO, like GRPO, has no critic: for verl, TRL is not there.
    """
    module.is_trl_available = lambda: False


def _process_group_backend(module) -> None:
    """verl composes ``cpu:gloo,<device>:<backend>``, here ``cpu:gloo,cpu:gloo``, which torch refuses as a repeated device."""
    original = module.initialize_global_process_group_ray

    @functools.wraps(original)
    def initialize_global_process_group_ray(timeout_second=None, backend=None):
        return original(timeout_second=timeout_second, backend=backend or "cpu:gloo")

    module.initialize_global_process_group_ray = initialize_global_process_group_ray


def _no_pinned_memory(module) -> None:
    """A forward-only FSDP2 policy (the reference) pins host memory for copies to a device that is not there."""
    original = module.CPUOffloadPolicy
    module.CPUOffloadPolicy = lambda pin_memory=True: original(pin_memory=False)
