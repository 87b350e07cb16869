#!/usr/bin/env bash
# MATH with Qwen2.5-1.5B-Instruct and LoRA, validated on MATH-500 (`erpo prepare` gets them from the hub), with the Accelerate engine. Arguments are settings (key=value), the later ones win.
#   ALGORITHM=erpo      erpo or grpo
#   PROCESSES=1         one for each GPU (on a CPU any number)
set -euo pipefail
cd "$(dirname "$0")/../.."
ALGORITHM="${ALGORITHM:-erpo}"
PROCESSES="${PROCESSES:-1}"
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-600}"  # after Ctrl-C the step is finished and saved

[ -f data/math/train.parquet ] || erpo prepare math --split train --out data/math
[ -f data/math500/test.parquet ] || erpo prepare math500 --split test --out data/math500

launch=(python -m)
if [ "$PROCESSES" -gt 1 ]; then
    launch=(torchrun --standalone --nproc_per_node "$PROCESSES" -m)
fi
"${launch[@]}" erpo_verl.trainer "examples/math/$ALGORITHM.yaml" "$@"
