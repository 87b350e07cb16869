"""Loaded into verl's processes by VERL_USE_EXTERNAL_MODULES: sets every batch's advantages beside verl's own GRPO."""

from __future__ import annotations

import json
import os

import torch
import wrapt


def _wrap(ray_trainer) -> None:
    original = ray_trainer.compute_advantage

    def compute_advantage(data, adv_estimator, *args, **kwargs):
        grpo = ray_trainer.core_algos.compute_grpo_outcome_advantage(
            token_level_rewards=data.batch["token_level_rewards"].clone(),
            response_mask=data.batch["response_mask"],
            index=data.non_tensor_batch["uid"],
        )[0]
        data = original(data, adv_estimator, *args, **kwargs)
        ours = data.batch["advantages"]
        with open(os.environ["ERPO_CAPTURE"], "a") as file:
            line = {"estimator": str(adv_estimator), "equal": torch.equal(ours, grpo), "non_zero": int((grpo != 0).sum())}
            file.write(json.dumps(line) + "\n")
        return data

    ray_trainer.compute_advantage = compute_advantage


wrapt.when_imported("verl.trainer.ppo.ray_trainer")(_wrap)
