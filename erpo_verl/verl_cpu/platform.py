"""A ``cpu`` platform for verl, registered through verl's own ``PlatformRegistry`` (needed in verl 0.9.1)."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import torch
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry, set_platform


class _CpuDevice:
    """``torch.cpu`` plus the calls that verl makes on ``torch.cuda`` and that ``torch.cpu`` lacks."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    @staticmethod
    def mem_get_info(device: Any = None) -> tuple[int, int]:
        """(free, total) bytes of main memory."""
        page = os.sysconf("SC_PAGE_SIZE")
        return os.sysconf("SC_AVPHYS_PAGES") * page, os.sysconf("SC_PHYS_PAGES") * page

    @staticmethod
    def get_device_name(device: Any = None) -> str:
        return "cpu"

    # Memory bookkeeping: the CPU has no caching allocator to ask or to empty.
    @staticmethod
    def _zero(device: Any = None) -> int:
        return 0

    memory_allocated = memory_reserved = max_memory_allocated = max_memory_reserved = _zero

    @staticmethod
    def _nothing(*args: Any, **kwargs: Any) -> None:
        return None

    empty_cache = reset_peak_memory_stats = ipc_collect = _nothing

    # The device's random state is the host's: saved and restored with it.
    @staticmethod
    def get_rng_state(device: Any = None) -> torch.Tensor:
        return torch.get_rng_state()

    @staticmethod
    def set_rng_state(state: torch.Tensor, device: Any = None) -> None:
        torch.set_rng_state(state.cpu())

    manual_seed = manual_seed_all = staticmethod(torch.manual_seed)


_DEVICE = _CpuDevice()


@PlatformRegistry.register("cpu")
class PlatformCPU(PlatformBase):
    """Everything on the host; collectives over gloo; Ray's logical "GPU" resource stands for a slot of work."""

    device_name = "cpu"
    vendor_name = "cpu"
    device_module = _DEVICE

    def is_available(self) -> bool:
        return True

    def current_device(self) -> str:
        # Not an index: verl passes this to Tensor.to(), where a number would mean an accelerator.
        return "cpu"

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None:
        return None

    def synchronize(self, device_index: int | None = None) -> None:
        return None

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def set_allocator_settings(self, settings: str) -> None:
        return None

    def empty_cache(self) -> None:
        return None

    def get_device_capability(self, device_index: int = 0) -> tuple[None, None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        # Must differ from CUDA_VISIBLE_DEVICES: Ray's GPU ids are not devices here.
        return "ERPO_VERL_CPU_VISIBLE_SLOTS"

    @contextlib.contextmanager
    def nvtx_range(self, msg: str):
        yield

    def profiler_start(self) -> None:
        return None

    def profiler_stop(self) -> None:
        return None

    def ray_resource_name(self) -> str:
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        # Weights reach vLLM through shared memory; there is no device memory to share handles of.
        return False

    def cudart(self) -> None:
        return None


def activate() -> None:
    """Make ``cpu`` the platform of this process."""
    set_platform(PlatformCPU())
