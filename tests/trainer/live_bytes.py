"""Bytes of all tensors on the CPU that are alive, now and at most: counted, so that nothing else on the machine changes them."""

import gc
from collections.abc import Iterator

import torch
from torch.distributed.tensor import DTensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def storage_of(thing) -> torch.UntypedStorage | None:
    """Of a tensor on the CPU, of a split one this process's part; None for anything else."""
    if not issubclass(type(thing), torch.Tensor):
        return None
    tensor = thing._local_tensor if type(thing) is DTensor else thing
    return tensor.untyped_storage() if tensor.device.type == "cpu" else None


def storages() -> Iterator[torch.UntypedStorage]:
    """Of all tensors that Python knows of."""
    gc.collect()
    for thing in gc.get_objects():
        if (storage := storage_of(thing)) is not None:
            yield storage


def live_bytes() -> int:
    """Bytes that they hold now."""
    return sum({storage._cdata: storage.nbytes() for storage in storages()}.values())


class PeakBytes(TorchDispatchMode):
    """``peak``: the most that storages held at one time while it was on, those from before among them."""

    def __enter__(self):
        self.peak = 0
        self._known = {storage._cdata: StorageWeakRef(storage) for storage in storages()}
        return super().__enter__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for thing in tree_leaves(result):
            storage = storage_of(thing)
            if storage is not None and storage._cdata not in self._known:
                self._known[storage._cdata] = StorageWeakRef(storage)
        self.peak = max(self.peak, self._now())
        return result

    def _now(self) -> int:
        total = 0
        for key, ref in list(self._known.items()):
            storage = torch.UntypedStorage._new_with_weak_ptr(ref.cdata)
            if storage is None:
                del self._known[key]
            else:
                total += storage.nbytes()
        return total
