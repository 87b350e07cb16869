"""Sampling responses from a policy: one small interface, two engines (Hugging Face, vLLM). Used by trainer and evaluation."""

from erpo_verl.rollout.types import Response, RolloutEngine, SamplingParams

__all__ = ["Response", "RolloutEngine", "SamplingParams"]
