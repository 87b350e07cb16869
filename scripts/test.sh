#!/usr/bin/env bash
# All tests, the end-to-end ones with real Ray, FSDP2 and vLLM included. Arguments go to pytest:
#   bash scripts/test.sh                 everything (about half an hour on two cores)
#   bash scripts/test.sh -m "not e2e"    without the engines of verl (seven minutes)
# Without arguments the others run first, two at a time; the engines then have the machine to themselves.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
if [ $# -gt 0 ]; then
    exec python -m pytest "$@"
fi
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
python -m pytest -m "not e2e" -n 2 --dist loadfile
python -m pytest -m e2e
