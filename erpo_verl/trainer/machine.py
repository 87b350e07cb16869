"""Devices, processes and the type of the arithmetic: what ``accelerate launch`` or ``torchrun`` started, as an Accelerator.

A file that ``accelerate config`` wrote reaches a process as environment variables. What this engine does of it (one process, several
with DDP, ``mixed_precision``, ``use_cpu``, ``gpu_ids``) holds; everything else is refused by the name that it has in the file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedType
from accelerate.state import AcceleratorState
from omegaconf import DictConfig

from erpo_verl.trainer.settings import SettingsError

DTYPE = "actor_rollout_ref.actor.fsdp_config.dtype"
SHARD = "set distributed_type: MULTI_GPU there, and actor_rollout_ref.actor.strategy=fsdp2 here if the model must be sharded"
# Variable -> what stands in the file, what to set instead. They are "true" where the file asks for it.
NOT_HERE = {
    "ACCELERATE_USE_FSDP": ("distributed_type: FSDP", SHARD),
    "ACCELERATE_USE_DEEPSPEED": ("distributed_type: DEEPSPEED", SHARD),
    "ACCELERATE_USE_MEGATRON_LM": ("distributed_type: MEGATRON_LM", f"{SHARD}; for Megatron take verl"),
    "ACCELERATE_USE_PARALLELISM_CONFIG": ("parallelism_config", f"leave it out: {SHARD}"),
    "ACCELERATE_USE_SAGEMAKER": ("compute_environment: AMAZON_SAGEMAKER", "set compute_environment: LOCAL_MACHINE"),
}
_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")  # as torchrun and the MPIs say it


def check_launch(settings: DictConfig, environment: Mapping[str, str] = os.environ) -> None:
    """Refuse what the launcher asks for and this engine does not do; cheap, before anything is loaded.

    Raises:
        SettingsError: all of it, each with what to set instead.
    """
    problems = [
        f"accelerate launch, {said}: not supported by this engine; {instead}"
        for name, (said, instead) in NOT_HERE.items()
        if environment.get(name, "").lower() in ("true", "1")
    ]
    backend = environment.get("ACCELERATE_DYNAMO_BACKEND", "NO")
    if backend.upper() != "NO":
        problems.append(f"accelerate launch, dynamo_backend: {backend}: this engine does not compile the model; leave dynamo_config out")
    steps = environment.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    if steps != "1":
        problems.append(
            f"accelerate launch, gradient_accumulation_steps: {steps}: leave it out; an update is of actor_rollout_ref.actor."
            "ppo_mini_batch_size prompts, in micro-batches of ppo_micro_batch_size_per_gpu responses"
        )
    precision = environment.get("ACCELERATE_MIXED_PRECISION")
    own = settings.actor_rollout_ref.actor.fsdp_config.dtype
    if precision not in (None, "no", "bf16"):
        problems.append(f"accelerate launch, mixed_precision: {precision}: this engine computes in bf16 or ('no') in float32; set one of them")
    elif precision is not None and own is not None and _precision(own) != precision:
        problems.append(
            f"{DTYPE}={own}, and accelerate launch says mixed_precision: {precision}: set mixed_precision: {_precision(own)} "
            f"there (accelerate launch --mixed_precision {_precision(own)}), or leave the key out here"
        )
    if _on_cpu(environment) and settings.trainer.device == "cuda":
        problems.append("trainer.device=cuda, and accelerate launch says use_cpu: true: set it to false, or leave the key out here")
    problems += _process_problems(environment)
    if problems:
        raise SettingsError(problems)


def _process_problems(environment: Mapping[str, str]) -> list[str]:
    started = max(int(environment.get(name) or 1) for name in _SIZES)
    local = int(environment.get("LOCAL_WORLD_SIZE") or started)
    if local < started:
        return [f"{started} processes on {started // local} machines (num_machines): this engine runs on one machine; beyond it, take verl"]
    # Accelerate exports an address for several processes also where it starts only one (MULTI_CPU without MPI).
    if started == 1 and "ACCELERATE_MIXED_PRECISION" in environment and "MASTER_ADDR" in environment:
        return [
            "accelerate launch was asked for several processes (num_processes) and started one: it starts several CPU processes through "
            "MPI only. distributed_type: MULTI_GPU starts them (on a machine without GPUs, too), and so does torchrun --nproc_per_node; "
            "num_processes: 1 if one is meant (and unset MASTER_ADDR, if it was set before)"
        ]
    return []


def make_accelerator(settings: DictConfig, trackers: list[str], folder: Path) -> Accelerator:
    """The run's Accelerator: device, processes, trackers, and the type of the arithmetic (``mixed_precision``).

    Raises:
        SettingsError: settings that do not fit the machine or the number of processes.
    """
    cpu = settings.trainer.device == "cpu" or not torch.cuda.is_available() or _on_cpu(os.environ)
    if settings.trainer.device == "cuda" and cpu:
        raise SettingsError(["trainer.device=cuda: torch finds no GPU here (torch.cuda.is_available() is False)"])
    local = int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
    if not cpu and local > torch.cuda.device_count():
        raise SettingsError([f"{local} processes, and torch finds {torch.cuda.device_count()} GPU(s) here: one process a GPU (num_processes, --nproc_per_node)"])
    own = settings.actor_rollout_ref.actor.fsdp_config.dtype
    said = os.environ.get("ACCELERATE_MIXED_PRECISION", "no" if cpu else "bf16")
    # An earlier run in this process may have had another type or device, and Accelerate keeps the first.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    try:
        accelerator = Accelerator(
            log_with=trackers or None, project_dir=str(folder), cpu=cpu, mixed_precision=said if own is None else _precision(own)
        )
    except ValueError as error:  # a GPU that has no bfloat16
        raise SettingsError([f"{DTYPE}: {error}; set it to float32"]) from None
    if problems := _number_problems(settings, accelerator):
        raise SettingsError(problems)
    return accelerator


def _number_problems(settings: DictConfig, accelerator: Accelerator) -> list[str]:
    actor, processes, problems = settings.actor_rollout_ref.actor, accelerator.num_processes, []
    if settings.trainer.n_gpus_per_node not in (None, processes):
        problems.append(
            f"trainer.n_gpus_per_node={settings.trainer.n_gpus_per_node}, and there are {processes} process(es): start it "
            f"with torchrun --nproc_per_node {settings.trainer.n_gpus_per_node} -m erpo_verl.trainer"
        )
    if actor.ppo_mini_batch_size % processes:
        problems.append(
            f"actor_rollout_ref.actor.ppo_mini_batch_size={actor.ppo_mini_batch_size}: must be a multiple of the {processes} processes"
        )
    if settings.actor_rollout_ref.rollout.name == "vllm" and processes > 1:
        problems.append(
            f"actor_rollout_ref.rollout.name=vllm: works with one process, and there are {processes}: set it to hf, or take verl"
        )
    if accelerator.distributed_type not in (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
        problems.append(f"accelerate launch asks for {accelerator.distributed_type.value}: this engine has ddp and fsdp2 on GPUs or CPUs alone")
    return problems


def _precision(dtype: str) -> str:
    """Accelerate's name of a type of ``fsdp_config.dtype``."""
    return "bf16" if dtype in ("bf16", "bfloat16") else "no"


def _on_cpu(environment: Mapping[str, str]) -> bool:
    return environment.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1")
