#!/usr/bin/env bash
# GSM8K with Qwen2.5-0.5B-Instruct (`erpo prepare` gets the problems from the hub where they are missing), with the Accelerate engine. Arguments are settings (key=value), the later ones win.
#   ALGORITHM=erpo      erpo or grpo
#   PROCESSES=1         one for each GPU (on a CPU any number)
set -euo pipefail
cd "$(dirname "$0")/../.."
ALGORITHM="${ALGORITHM:-erpo}"
PROCESSES="${PROCESSES:-1}"
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-600}"  # after Ctrl-C the step is finished and saved

for split in train test; do
    [ -f "data/gsm8k/$split.parquet" ] || erpo prepare gsm8k --split "$split" --out data/gsm8k
done

launch=(python -m)
if [ "$PROCESSES" -gt 1 ]; then
    launch=(torchrun --standalone --nproc_per_node "$PROCESSES" -m)
fi
"${launch[@]}" erpo_verl.trainer "examples/gsm8k/$ALGORITHM.yaml" "$@"
