#!/usr/bin/env bash
# All tests, the end-to-end ones with real Ray, FSDP2 and vLLM included (docs/development.md). Arguments go to pytest:
#   bash scripts/test.sh                       everything, in two processes
#   bash scripts/test.sh -m "not e2e" -n 2     without the engines of verl
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
[ $# -gt 0 ] || set -- -n 2 --dist loadfile
exec python -m pytest "$@"
