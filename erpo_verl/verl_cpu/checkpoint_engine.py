"""Weights from the trainer to separate rollout servers without NCCL: verl's checkpoint engine ``store``.

The asynchronous trainer ``separate_async`` needs an engine that crosses processes, and all of verl 0.9.1's own move device memory.
This one passes each update as bytes through a torch ``TCPStore``: fit for a tiny model on one machine, and nothing else. It
comes in through verl's own seam:

    actor_rollout_ref.rollout.checkpoint_engine.backend=store
    actor_rollout_ref.rollout.checkpoint_engine.custom_backend_module=erpo_verl.verl_cpu.checkpoint_engine
"""

from __future__ import annotations

import io
from collections.abc import AsyncGenerator, Generator
from datetime import timedelta
from typing import Any

import ray
import torch
from torch.distributed import TCPStore
from verl.checkpoint_engine.base import CheckpointEngine, CheckpointEngineRegistry
from verl.utils.net_utils import get_free_port

_PATIENCE = timedelta(seconds=300)


@CheckpointEngineRegistry.register("store")
class StoreCheckpointEngine(CheckpointEngine):
    """Actor rank 0 serves a store; each update is one key in it, which the rollout workers wait for."""

    def __init__(self, bucket_size: int, is_master: bool = False) -> None:
        self.is_master = is_master
        self.store: TCPStore | None = None
        self.updates = 0
        if is_master:
            self.address = ray.util.get_node_ip_address().strip("[]")
            self.port, _ = get_free_port(self.address)
            self.store = TCPStore(self.address, self.port, is_master=True, wait_for_workers=False, timeout=_PATIENCE)

    def prepare(self) -> dict[str, Any]:
        return {"address": (self.address, self.port), "updates": self.updates} if self.is_master else {}

    @classmethod
    def build_topology(cls, actor_wg_world_size: int, rollout_world_size: int, metadata: list[dict]):
        def everyone(size: int) -> dict[str, list[Any]]:
            return {"master": [metadata[0]] * size}

        return everyone(actor_wg_world_size), everyone(rollout_world_size)

    def init_process_group(self, master: dict[str, Any]) -> None:
        """Rollout workers connect; a worker that comes late waits for the update that is made next."""
        if self.store is None:
            host, port = master["address"]
            self.store = TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=_PATIENCE)
        self.updates = master["updates"]

    def finalize(self) -> None:
        return None

    @torch.no_grad()
    async def send_weights(
        self, weights: Generator[tuple[str, torch.Tensor], None, None], global_steps: int | None = None
    ) -> None:
        # Every rank walks the generator: gathering a sharded weight is collective. Rank 0 alone sends.
        gathered = {name: weight.detach().cpu().clone() for name, weight in weights}
        self.updates += 1
        if self.is_master:
            buffer = io.BytesIO()
            torch.save(gathered, buffer)
            self.store.set(f"weights/{self.updates}", buffer.getvalue())
            self.store.delete_key(f"weights/{self.updates - 2}")

    async def receive_weights(self, global_steps: int | None = None) -> AsyncGenerator[tuple[str, torch.Tensor], None]:
        self.updates += 1
        buffer = io.BytesIO(self.store.get(f"weights/{self.updates}"))
        for name, weight in torch.load(buffer, weights_only=True).items():
            yield name, weight
