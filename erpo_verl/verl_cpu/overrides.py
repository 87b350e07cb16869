"""Settings of verl that a run without a GPU needs, with the reason for each. A user's later override wins."""

from __future__ import annotations

OVERRIDES: dict[str, str] = {
    # Where things run.
    "trainer.device": "cpu",
    "trainer.n_gpus_per_node": "1",
    "trainer.nnodes": "1",
    # Ray schedules "GPU" slots; there is no GPU, so the slots are declared. CPUs are declared too: verl's actors each
    # reserve one, and on a machine with two cores Ray would wait for ever.
    "+ray_kwargs.ray_init.num_gpus": "1",
    "ray_kwargs.ray_init.num_cpus": "12",
    "+ray_kwargs.ray_init.include_dashboard": "false",
    "transfer_queue.backend.SimpleStorage.num_data_storage_units": "1",
    # FSDP2 only: FSDP1 insists on an accelerator. float32: in bfloat16 rollout and training probabilities differ by 1e-4.
    "actor_rollout_ref.actor.strategy": "fsdp2",
    "actor_rollout_ref.ref.strategy": "fsdp2",
    "actor_rollout_ref.actor.fsdp_config.model_dtype": "fp32",
    "actor_rollout_ref.ref.fsdp_config.model_dtype": "fp32",
    "+actor_rollout_ref.actor.fsdp_config.mixed_precision.param_dtype": "fp32",
    "+actor_rollout_ref.ref.fsdp_config.mixed_precision.param_dtype": "fp32",
    "actor_rollout_ref.actor.fsdp_config.use_torch_compile": "false",
    "actor_rollout_ref.ref.fsdp_config.use_torch_compile": "false",
    # Flash attention and its packed batches exist on GPUs only.
    "actor_rollout_ref.model.use_remove_padding": "false",
    "+actor_rollout_ref.model.override_config.attn_implementation": "sdpa",
    # Rollouts: real vLLM, without the features that need device memory to give back.
    "actor_rollout_ref.rollout.name": "vllm",
    "actor_rollout_ref.rollout.tensor_model_parallel_size": "1",
    "actor_rollout_ref.rollout.dtype": "float32",
    "actor_rollout_ref.rollout.enforce_eager": "true",
    "actor_rollout_ref.rollout.free_cache_engine": "false",
    "+actor_rollout_ref.rollout.enable_sleep_mode": "false",
    # The engine's worker in the engine's own process (with VLLM_ENABLE_V1_MULTIPROCESSING=0, see patches): one import of vLLM less.
    "+actor_rollout_ref.rollout.engine_kwargs.vllm.distributed_executor_backend": "uni",
    "actor_rollout_ref.rollout.agent.num_workers": "1",
    "data.dataloader_num_workers": "0",
    # A step of a tiny model takes less than the two seconds between two looks into the replay buffer.
    "trainer.v1.sampler.custom_sampler.path": "pkg://erpo_verl.verl_cpu.sampler",
    "trainer.v1.sampler.custom_sampler.name": "QuickPollReplayBuffer",
}


def as_arguments() -> list[str]:
    """The overrides as command-line arguments of ``verl.trainer.main_ppo``."""
    return [f"{key}={value}" for key, value in OVERRIDES.items()]
