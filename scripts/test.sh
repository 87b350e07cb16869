#!/usr/bin/env bash
# All tests, the end-to-end ones with real Ray, FSDP2 and vLLM included. Arguments go to pytest:
#   bash scripts/test.sh                 everything (about half an hour on two cores)
#   bash scripts/test.sh -m "not e2e"    without the engines (some minutes)
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
exec python -m pytest "$@"
