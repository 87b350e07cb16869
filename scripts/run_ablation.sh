#!/usr/bin/env bash
# One arm of the ablation study on one model's recipe: a line of ablations.txt, or a registered method by its name.
#   bash scripts/run_ablation.sh ARM MODEL [overrides of verl]     as: run_ablation.sh gate_mean_one qwen1.5b
#   bash scripts/run_ablation.sh --list                            arms, their overrides and questions
#   bash scripts/run_ablation.sh --overrides ARM                   an arm's overrides, one a line
set -euo pipefail
SCRIPTS="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
export PYTHON="${PYTHON:-python3}"

arm_overrides() {
    local arm overrides
    while IFS='|' read -r arm overrides _; do
        [ "${arm//[[:space:]]/}" = "$1" ] || continue
        read -ra overrides <<< "$overrides"
        printf '%s\n' "${overrides[@]}"
        return
    done < <(grep -v '^#' "$SCRIPTS/ablations.txt")
    if "$PYTHON" -c 'import sys; from erpo_verl import methods; sys.exit(sys.argv[1] not in methods.registered())' "$1"; then
        echo "algorithm.adv_estimator=$1"
        return
    fi
    echo "no arm '$1', and no registered method; the arms: $(sed -n 's/^\([a-z][^ |]*\) *|.*/\1/p' "$SCRIPTS/ablations.txt" | tr '\n' ' ')" >&2
    return 2
}

case "${1:-}" in
    --list) grep -v '^#' "$SCRIPTS/ablations.txt"; exit ;;
    --overrides) arm_overrides "${2:?which arm?}"; exit ;;
    "" | -*) sed -n '2,5s/^# //p' "$0" >&2; exit 2 ;;
esac
ARM="$1" MODEL_NAME="${2:-}"
lines="$(arm_overrides "$ARM")"
mapfile -t overrides <<< "$lines"
shift $(($# > 1 ? 2 : 1))
export EXPERIMENT="${EXPERIMENT:-${ARM}_$MODEL_NAME-s${SEED:-1}}"
exec bash "$SCRIPTS/run.sh" erpo "$MODEL_NAME" "${overrides[@]}" "$@"
