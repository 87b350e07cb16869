#!/usr/bin/env bash
# EP-GRPO, Qwen2.5-3B with LoRA on one GPU of 48 GB.
#   bash scripts/run_ep_grpo_qwen3b_lora.sh [overrides of verl]     DRY_RUN=1 checks everything without a GPU
set -euo pipefail
RECIPES="$(cd "$(dirname "${BASH_SOURCE[0]}")/recipes" && pwd)"
RECIPE=ep_grpo_qwen3b_lora

source "$RECIPES/qwen3b_lora.sh"  # the model and its sizes
source "$RECIPES/defaults.sh"  # sizes and rates that it does not set

ALGORITHM=(
    algorithm.adv_estimator=erpo
    +algorithm.erpo.preset=ep_grpo
    actor_rollout_ref.actor.policy_loss.loss_mode=erpo
)

source "$RECIPES/common.sh"  # verl's settings by section, the check, the start
