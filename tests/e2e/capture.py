"""Loaded into verl's processes by VERL_USE_EXTERNAL_MODULES: sets each batch's advantages beside verl's own GRPO, and beside those that the
live estimator gives for the same tensors with neutral settings (gate off, eta 0)."""

from __future__ import annotations

import json
import os

import torch
import wrapt
from omegaconf import OmegaConf

NEUTRAL = {"gate": {"enable": False}, "progress": {"eta": 0.0}}


def _wrap(ray_trainer) -> None:
    original = ray_trainer.compute_advantage

    def compute_advantage(data, adv_estimator, *args, config, **kwargs):
        batch = {
            "token_level_rewards": data.batch["token_level_rewards"].clone(),
            "response_mask": data.batch["response_mask"],
            "index": data.non_tensor_batch["uid"],
        }
        grpo, _ = ray_trainer.core_algos.compute_grpo_outcome_advantage(**batch)
        estimator = ray_trainer.core_algos.get_adv_estimator_fn(adv_estimator)
        neutral, _ = estimator(**batch, config=OmegaConf.create({**OmegaConf.to_container(config), adv_estimator: NEUTRAL}))
        data = original(data, adv_estimator, *args, config=config, **kwargs)
        line = {
            "estimator": str(adv_estimator),
            "neutral_is_grpo": torch.equal(neutral, grpo),
            "equal": torch.equal(data.batch["advantages"], grpo),
            "non_zero": int((grpo != 0).sum()),
        }
        with open(os.environ["ERPO_CAPTURE"], "a") as file:
            file.write(json.dumps(line) + "\n")
        return data

    ray_trainer.compute_advantage = compute_advantage


wrapt.when_imported("verl.trainer.ppo.ray_trainer")(_wrap)
