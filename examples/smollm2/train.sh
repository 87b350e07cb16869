#!/usr/bin/env bash
# SmolLM2-135M on one-step word problems, on a CPU: model and problems are made where they are missing. Arguments are settings (key=value).
#   ALGORITHM=erpo      erpo or grpo
set -euo pipefail
cd "$(dirname "$0")/../.."
[ -f outputs/smollm2/model/config.json ] || python -m examples.smollm2.make_model --out outputs/smollm2/model
[ -f outputs/smollm2/data/train.parquet ] || python -m examples.smollm2.prepare --out outputs/smollm2/data
python -m erpo_verl.trainer "examples/smollm2/${ALGORITHM:-erpo}.yaml" "$@"
