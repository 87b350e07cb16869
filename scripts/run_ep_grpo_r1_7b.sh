#!/usr/bin/env bash
# EP-GRPO, DeepSeek-R1-Distill-Qwen-7B on 8 GPUs of 80 GB.
#   bash scripts/run_ep_grpo_r1_7b.sh [overrides of verl]     DRY_RUN=1 checks everything without a GPU
set -euo pipefail
RECIPES="$(cd "$(dirname "${BASH_SOURCE[0]}")/recipes" && pwd)"
RECIPE=ep_grpo_r1_7b

source "$RECIPES/r1_7b.sh"  # the model and its sizes
source "$RECIPES/defaults.sh"  # sizes and rates that it does not set

ALGORITHM=(
    algorithm.adv_estimator=erpo
    +algorithm.erpo.preset=ep_grpo
    actor_rollout_ref.actor.policy_loss.loss_mode=erpo
)

source "$RECIPES/common.sh"  # verl's settings by section, the check, the start
