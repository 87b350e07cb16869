#!/usr/bin/env bash
# GRPO, Qwen2.5-7B on 8 GPUs of 80 GB. run_erpo_qwen7b.sh is its pair.
#   bash scripts/run_grpo_qwen7b.sh [overrides of verl]     DRY_RUN=1 checks everything without a GPU
exec bash "$(dirname "${BASH_SOURCE[0]}")/run.sh" grpo qwen7b "$@"
