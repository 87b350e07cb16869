"""Weights in parts: how a model is split over processes, copied without its weights, filled, and gathered weight by weight.

Nothing here needs a whole copy of a model on a device: a copy's structure is made without memory for its weights, each process
takes its part of one whole weight after the other, and whole weights are gathered one at a time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def like(model: nn.Module, make: Callable[[Tensor], Tensor]) -> nn.Module:
    """A copy of a model's structure and buffers, in which ``make(weight)`` stands for each weight. Shared weights stay shared."""
    weights = {id(p): nn.Parameter(make(p.detach()), requires_grad=p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, weights)


def without_weights(model: nn.Module) -> nn.Module:
    """The same without memory for weights (torch's ``meta`` device)."""
    return like(model, lambda weight: torch.empty_like(weight, device="meta"))


def split(module: nn.Module, kinds: set[str], mesh: DeviceMesh, dtype: torch.dtype) -> None:
    """Split a module's weights over the processes of ``mesh``, in place: each block by itself, then the rest.

    Args:
        kinds: class names of blocks (transformers' ``_no_split_modules``); weights are gathered block by block.
        dtype: type of the arithmetic, in which weights are gathered; gradients are reduced in float32.
    """
    mixed = MixedPrecisionPolicy(param_dtype=None if dtype == torch.float32 else dtype, reduce_dtype=torch.float32)
    for block in [m for m in module.modules() if type(m).__name__ in kinds]:
        fully_shard(block, mesh=mesh, mp_policy=mixed)
    fully_shard(module, mesh=mesh, mp_policy=mixed)


def fill(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give a module without weights its own, split as its are: of each whole weight, on any device, this process's part."""

    def part(place: Tensor, whole: Tensor) -> Tensor:
        if not isinstance(place, DTensor):
            return whole
        spread = distribute_tensor(whole.detach().to(place.device_mesh.device_type), place.device_mesh, place.placements, src_data_rank=None)
        own = spread.to_local().clone()  # the part alone, not a view into the whole
        return DTensor.from_local(own, place.device_mesh, place.placements, shape=whole.shape, stride=whole.stride())

    made: dict[int, nn.Parameter] = {}
    state = {}
    for name, place in module.named_parameters(remove_duplicate=False):
        if id(place) not in made:
            made[id(place)] = nn.Parameter(part(place, weights[name]), requires_grad=place.requires_grad)
        state[name] = made[id(place)]
    module.load_state_dict(state, strict=False, assign=True)


def gathered(module: nn.Module, dtype: Callable[[str], torch.dtype] | None = None, *, trained: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Whole weights one after the other, by name (a collective call).

    Args:
        dtype: type in which each is gathered, by its name; None: its own.
        trained: only those that training changes.
    """
    for name, weight in module.named_parameters():
        if weight.requires_grad or not trained:
            weight = weight.detach() if dtype is None else weight.detach().to(dtype(name))
            yield name, weight.full_tensor() if isinstance(weight, DTensor) else weight
