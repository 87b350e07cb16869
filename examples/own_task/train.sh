#!/usr/bin/env bash
# A task and a reward of one's own, with the Accelerate engine. Arguments are settings (key=value), the later ones win.
#   ALGORITHM=erpo      erpo or grpo
#   PROCESSES=1         one for each GPU (on a CPU any number)
set -euo pipefail
cd "$(dirname "$0")/../.."
ALGORITHM="${ALGORITHM:-erpo}"
PROCESSES="${PROCESSES:-1}"
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-600}"  # after Ctrl-C the step is finished and saved

[ -f outputs/own_task/data/train.parquet ] || python -m examples.own_task.make_data --out outputs/own_task/data

launch=(python -m)
if [ "$PROCESSES" -gt 1 ]; then
    launch=(torchrun --standalone --nproc_per_node "$PROCESSES" -m)
fi
"${launch[@]}" erpo_verl.trainer "examples/own_task/$ALGORITHM.yaml" "$@"
