#!/usr/bin/env bash
# All that only a GPU can show, in under nine minutes, on a machine with torch, transformers, accelerate and pytest and no network.
#   bash scripts/gpu_check.sh pack          where there is a registry: puts what else it needs into outputs/gpu_check/packages (a few MB)
#   bash scripts/gpu_check.sh               on the GPU machine; writes outputs/gpu_check/gpu_check.json and .md
#   bash scripts/gpu_check.sh --small --device cpu    does the check itself work? (arguments go to benchmarks/gpu_check.py)
#   PYTHON=python3 OUT=outputs/gpu_check
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON="${PYTHON:-python3}"
OUT="${OUT:-outputs/gpu_check}"
mkdir -p "$OUT"
OUT="$(cd "$OUT" && pwd)"

if [ "${1:-}" = pack ]; then
    "$PYTHON" -m pip install --quiet --upgrade --no-deps --target "$OUT/packages" -c constraints.txt \
        omegaconf antlr4-python3-runtime math-verify latex2sympy2_extended wrapt
    rm -rf "$OUT"/packages/bin
    du -sh "$OUT/packages"
    exit
fi

# The package without an installation: the reward's folder lies beside it and belongs under its name.
rm -rf "$OUT/path"
mkdir -p "$OUT/path/erpo_verl"
for entry in erpo_verl/*; do
    ln -s "$PWD/$entry" "$OUT/path/erpo_verl/"
done
ln -s "$PWD/reward" "$OUT/path/erpo_verl/reward"
export PYTHONPATH="$OUT/path:$PWD:$OUT/packages${PYTHONPATH:+:$PYTHONPATH}"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false WANDB_MODE=disabled
exec "$PYTHON" -m benchmarks.gpu_check --out "$OUT" "$@"
