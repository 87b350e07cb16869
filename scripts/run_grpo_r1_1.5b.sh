#!/usr/bin/env bash
# GRPO, DeepSeek-R1-Distill-Qwen-1.5B on 8 GPUs of 80 GB.
#   bash scripts/run_grpo_r1_1.5b.sh [overrides of verl]     DRY_RUN=1 checks everything without a GPU
set -euo pipefail
RECIPES="$(cd "$(dirname "${BASH_SOURCE[0]}")/recipes" && pwd)"
RECIPE=grpo_r1_1.5b

source "$RECIPES/r1_1.5b.sh"  # the model and its sizes
source "$RECIPES/defaults.sh"  # sizes and rates that it does not set

ALGORITHM=(
    algorithm.adv_estimator=grpo
    actor_rollout_ref.actor.policy_loss.loss_mode=vanilla
)

source "$RECIPES/common.sh"  # verl's settings by section, the check, the start
