#!/usr/bin/env bash
# One arm of the ablation study on one model's recipe. The arms are lines of ablations.txt.
#   bash scripts/run_ablation.sh ARM MODEL [overrides of verl]     as: run_ablation.sh gate_mean_one qwen1.5b
#   bash scripts/run_ablation.sh --list                            arms, their overrides and questions
#   bash scripts/run_ablation.sh --overrides ARM                   an arm's overrides, one a line
set -euo pipefail
SCRIPTS="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
RECIPES="$SCRIPTS/recipes"

arm_overrides() {
    local arm overrides
    while IFS='|' read -r arm overrides _; do
        [ "${arm//[[:space:]]/}" = "$1" ] || continue
        read -ra overrides <<< "$overrides"
        printf '%s\n' "${overrides[@]}"
        return
    done < <(grep -v '^#' "$SCRIPTS/ablations.txt")
    echo "no arm '$1'; the arms: $(sed -n 's/^\([a-z][^ |]*\) *|.*/\1/p' "$SCRIPTS/ablations.txt" | tr '\n' ' ')" >&2
    return 2
}

case "${1:-}" in
    --list) grep -v '^#' "$SCRIPTS/ablations.txt"; exit ;;
    --overrides) arm_overrides "${2:?which arm?}"; exit ;;
    "" | -*) sed -n '2,5s/^# //p' "$0" >&2; exit 2 ;;
esac
ARM="$1" NAME="${2:-}"
if [ ! -f "$RECIPES/$NAME.sh" ] || [ "$NAME" = common ] || [ "$NAME" = defaults ]; then
    models=" $(cd "$RECIPES" && printf '%s ' *.sh)"
    models="${models// common.sh/}"
    models="${models// defaults.sh/}"
    echo "no model '$NAME'; the models:${models//.sh/}" >&2
    exit 2
fi
shift 2
OVERRIDES="$(arm_overrides "$ARM")"
RECIPE="${ARM}_$NAME"

# shellcheck source=/dev/null
source "$RECIPES/$NAME.sh"
source "$RECIPES/defaults.sh"

ALGORITHM=(
    algorithm.adv_estimator=erpo
    actor_rollout_ref.actor.policy_loss.loss_mode=erpo
)
while read -r override; do ALGORITHM+=("$override"); done <<< "$OVERRIDES"

source "$RECIPES/common.sh"
