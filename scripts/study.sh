#!/usr/bin/env bash
# The study of docs/study.md: arms of scripts/ablations.txt on small tasks, with the Accelerate engine on a CPU.
#   bash scripts/study.sh --small --jobs 2       repeats one bed, two arms, three seeds: under half an hour on two cores
#   bash scripts/study.sh --pilot | --confirm    the whole; a finished run is kept in docs/study/ and skipped next time
#   bash scripts/study.sh --help
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
exec python -m benchmarks.study "$@"
