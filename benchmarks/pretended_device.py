"""Tensors that say they are on a GPU and compute on the CPU, to see on a machine without a GPU when the core waits for one.

Whatever brings a number or a size to the host, ``item``, ``tolist``, ``bool``, ``cpu``, ``nonzero``, an index by a mask, is written down in
``waits``. `.numpy()` of such a tensor is an error, as on a GPU.
"""

from __future__ import annotations

from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = torch.device("cuda", 0)
# Operations whose result, or whose result's size, is known only when the device has got there.
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "unique_consecutive")


class OnDevice(torch.Tensor):
    """A tensor of the pretended device, around one of the CPU."""

    @staticmethod
    def __new__(cls, inner):
        outer = torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype, device=DEVICE
        )
        outer.inner = inner
        return outer

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {}, None)


class Waits(TorchDispatchMode):
    """While it is on, waits are written down."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {}, self.found)


class MadeThere(TorchFunctionMode):
    """What would make torch look for a GPU before it comes to `Waits`: what is made there or moved there, indices."""

    def __init__(self, waits):
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "to" and len(args) > 1 and args[1] == DEVICE:
            return args[0] if isinstance(args[0], OnDevice) else OnDevice(args[0].clone())
        if name == "new_tensor" and isinstance(args[0], OnDevice):
            return OnDevice(torch.tensor(args[1], dtype=args[0].dtype))
        if name in ("__getitem__", "__setitem__") and any(isinstance(x, OnDevice) for x in tree_leaves(args)):
            if any(isinstance(x, OnDevice) and x.dtype == torch.bool for x in tree_leaves(args[1])):
                self.waits.append("index by a mask")
            found = func(*tree_map_only(OnDevice, lambda x: x.inner, args))
            return OnDevice(found) if isinstance(found, torch.Tensor) and isinstance(args[0], OnDevice) else found
        if name in WAITING and any(isinstance(x, OnDevice) for x in args):
            self.waits.append(name)
            found = func(*tree_map_only(OnDevice, lambda x: x.inner, args), **kwargs)
            return tree_map_only(torch.Tensor, OnDevice, found)
        if name in ("__float__", "__int__") and isinstance(args[0], OnDevice):
            return func(args[0].cpu())
        if name == "tolist" and isinstance(args[0], OnDevice):
            return args[0].cpu().tolist()
        if kwargs.get("device") == DEVICE:
            return OnDevice(func(*args, **{**kwargs, "device": "cpu"}))
        return func(*args, **kwargs)


def run(func, args, kwargs, waits):
    name = func.overloadpacket.__name__
    given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    there = any(isinstance(x, OnDevice) for x in given)
    target = kwargs.get("device")
    to_host = name == "_to_copy" and target is not None and target.type == "cpu"
    if target is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    sizes_of = name == "repeat_interleave" and kwargs.get("output_size") is None
    if there and waits is not None and (name in WAITING or to_host or sizes_of):
        waits.append(name)
    inner = tree_map_only(OnDevice, lambda x: x.inner, (args, kwargs))
    result = func(*inner[0], **inner[1])
    if not there or to_host or name == "_local_scalar_dense":
        return result
    outer = {id(x.inner): x for x in given if isinstance(x, OnDevice)}  # an operation in place gives back what it was given
    return tree_map_only(torch.Tensor, lambda x: outer.get(id(x)) if id(x) in outer else OnDevice(x), result)


@contextmanager
def pretended():
    """``with pretended() as (to_device, waits)``: moves CPU tensors there, and the list of waits."""
    with Waits() as waits, MadeThere(waits.found):
        yield (lambda x: OnDevice(x.clone()) if isinstance(x, torch.Tensor) else x), waits.found
