#!/usr/bin/env bash
# Countdown on a CPU: problems and start policy are made where they are missing, with the Accelerate engine. Arguments are settings (key=value), the later ones win.
#   ALGORITHM=erpo      erpo or grpo
#   PROCESSES=1         one for each GPU (on a CPU any number)
set -euo pipefail
cd "$(dirname "$0")/../.."
ALGORITHM="${ALGORITHM:-erpo}"
PROCESSES="${PROCESSES:-1}"
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-600}"  # after Ctrl-C the step is finished and saved

[ -f outputs/countdown/data/train.parquet ] || python -m examples.countdown.prepare --out outputs/countdown/data
python -m examples.countdown.warm_start --out outputs/countdown/start --threads 1

launch=(python -m)
if [ "$PROCESSES" -gt 1 ]; then
    launch=(torchrun --standalone --nproc_per_node "$PROCESSES" -m)
fi
"${launch[@]}" erpo_verl.trainer "examples/countdown/$ALGORITHM.yaml" "$@"
