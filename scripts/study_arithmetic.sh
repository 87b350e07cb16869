#!/usr/bin/env bash
# The study of docs/results.md: four arms on the arithmetic task, three start policies, with the Accelerate engine on a CPU.
# Seed s has a start policy of its own, shared by the arms. Resumes where it stopped; about 40 minutes on one core.
#   OUT=outputs/study        where everything goes
#   ARMS, SEEDS              arms (scripts/ablations.txt) and seeds
set -euo pipefail
cd "$(dirname "$0")/.."
OUT="${OUT:-outputs/study}"
export ARMS="${ARMS:-grpo erpo anchor_centered ep_grpo}" SEEDS="${SEEDS:-0 1 2}" OMP_NUM_THREADS=1
source scripts/environment.sh

python -m examples.arithmetic.prepare --out "$OUT/data"
for seed in $SEEDS; do
    python -m examples.arithmetic.warm_start --seed "$seed" --threads 1 --out "$OUT/start-$seed"
done
where="$OUT/runs"
env ENGINE=accelerate CONFIG=examples/arithmetic/erpo.yaml "OUT=$where" COMPARE=true PYTHON=python bash scripts/sweep.sh \
    "actor_rollout_ref.model.path=$OUT/start-\${data.seed}" "data.train_files=$OUT/data/train.parquet" \
    "data.val_files=$OUT/data/validation.parquet" trainer.save_freq=25 trainer.rollout_data_freq=50 \
    "trainer.rollout_data_dir=$OUT/runs/\${trainer.experiment_name}/rollouts"
runs=()
for arm in $ARMS; do
    for seed in $SEEDS; do
        runs+=("$OUT/runs/$arm-s$seed")
        erpo evaluate --model "$OUT/runs/$arm-s$seed/model" --data "$OUT/data/test.parquet" --k 8 --temperature 1.0 \
            --max-tokens 80 --engine hf --seed 1 --out "$OUT/eval/$arm-s$seed" --quiet
    done
done
erpo compare "${runs[@]}" --out "$OUT/comparison"
