"""The rollout engine that the settings ask for, beside the policy that it samples from."""

from __future__ import annotations

import torch
from omegaconf import DictConfig

from erpo_verl.models.parts import ModelParts
from erpo_verl.rollout import RolloutEngine
from erpo_verl.trainer.policy import DTYPES, Policy


def make_engine(settings: DictConfig, policy: Policy, parts: ModelParts) -> RolloutEngine:
    """``hf`` samples from the policy's ``sampled_model``, in this process; ``vllm`` has weights of its own."""
    rollout = settings.actor_rollout_ref.rollout
    if rollout.name == "hf":
        from erpo_verl.rollout.hf import HFRollout

        return HFRollout(
            policy.sampled_model, eos_token_ids=parts.end_token_ids, pad_token_id=parts.pad_token_id, max_batch=rollout.max_num_seqs
        )
    from erpo_verl.rollout.vllm import VLLMRollout

    return VLLMRollout(
        parts.base,
        eos_token_ids=parts.end_token_ids,
        dtype=str(DTYPES.get(rollout.dtype, policy.dtype)).removeprefix("torch."),
        max_model_len=rollout.max_model_len or settings.data.max_prompt_length + settings.data.max_response_length,
        gpu_memory_utilization=rollout.gpu_memory_utilization,
        enforce_eager=rollout.enforce_eager,
        max_num_seqs=rollout.max_num_seqs,
        seed=rollout.seed,
        trust_remote_code=settings.actor_rollout_ref.model.trust_remote_code,
    )


def samples_as_trained(settings: DictConfig, policy: Policy) -> bool:
    """Whether the rollout samples from the very weights that are trained, in the arithmetic of the update.

    Its probabilities are then those of a pass of training over the same tokens, up to rounding in float32. In bfloat16 they
    are not: the shapes of the products differ, and 8 bits of mantissa show it.
    """
    model_dtype = DTYPES[settings.actor_rollout_ref.actor.fsdp_config.model_dtype]
    return settings.actor_rollout_ref.rollout.name == "hf" and policy.dtype == model_dtype == torch.float32


def bypasses(settings: DictConfig, policy: Policy) -> bool:
    """Whether the rollout's log-probs and entropies stand for those of a pass of their own (``rollout_correction.bypass_mode``)."""
    chosen = settings.algorithm.rollout_correction
    if chosen.bypass_mode is None:
        return chosen.rollout_is is None and samples_as_trained(settings, policy)
    return chosen.bypass_mode
