#!/usr/bin/env bash
# GRPO and ERPO side by side, for real, on a machine without a GPU: a tiny language model learns arithmetic in verl
# (Ray, FSDP2, vLLM rollouts). Ends with a table and a figure. A second call reuses what is there.
#   OUT=outputs/quickstart   where everything goes
#   STEPS=24 SEED=1          length and seed of both runs
set -euo pipefail
cd "$(dirname "$0")/.."

OUT="${OUT:-outputs/quickstart}"
STEPS="${STEPS:-24}"
SEED="${SEED:-1}"

source scripts/environment.sh

echo "1/4  problems"
python -m examples.arithmetic.prepare --out "$OUT/data"
echo "2/4  start policy (supervised warm start)"
python -m examples.arithmetic.warm_start --out "$OUT/start" --threads 1
echo "3/4  training with verl: GRPO, then ERPO, with the same prompts, seed and budget"
for algorithm in grpo erpo; do
    python -m examples.arithmetic.train_verl --algorithm "$algorithm" --model "$OUT/start" --data "$OUT/data" \
        --out "$OUT/$algorithm-s$SEED" --steps "$STEPS" --seed "$SEED" "$@"
done
echo "4/4  comparison"
erpo compare "$OUT/grpo-s$SEED" "$OUT/erpo-s$SEED" --out "$OUT/comparison"
