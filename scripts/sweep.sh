#!/usr/bin/env bash
# Arms x seeds, one run after another, until all are finished; then their comparison.
#   ARMS="grpo erpo" SEEDS="1 2 3" MODEL=qwen1.5b bash scripts/sweep.sh [overrides]
# A finished run is skipped, a broken-off one goes on from its checkpoint, a failed one does not stop the others (exit
# code 1 at the end). Ctrl-C ends the run in hand in order and stops; the same command goes on from there.
#   ARMS      lines of ablations.txt (bash scripts/run_ablation.sh --list)
#   ENGINE    verl: the recipe of MODEL, with all that recipes take from the environment (TOTAL_STEPS, DATA_DIR, ...)
#             accelerate: `erpo train CONFIG`, CONFIG a YAML file
#   LAUNCH    instead of an engine, a command; it gets the arm's name and the overrides, and RUN_DIR, SEED, EXPERIMENT
#   OUT       where the runs go: OUT/ARM-sSEED, with metrics.jsonl, run.log and, once finished, the empty file `done`
#   COMPARE   the command at the end; COMPARE=true for none      DRY_RUN=1   check every arm and start nothing
set -euo pipefail
SCRIPTS="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

ARMS="${ARMS:-grpo erpo}"
SEEDS="${SEEDS:-1 2 3}"
MODEL="${MODEL:-qwen1.5b}"
ENGINE="${ENGINE:-verl}"
CONFIG="${CONFIG:-}"
LAUNCH="${LAUNCH:-}"
OUT="$(realpath -m "${OUT:-outputs/sweep-$MODEL}")"
export PYTHON="${PYTHON:-python3}"
COMPARE="${COMPARE:-$PYTHON -m erpo_verl.cli compare}"

case "$ENGINE" in
    verl) ;;
    accelerate) [ -f "$CONFIG" ] || { echo "ENGINE=accelerate needs CONFIG, the YAML file of a run" >&2; exit 2; } ;;
    *) echo "ENGINE=$ENGINE: must be verl or accelerate" >&2; exit 2 ;;
esac

if [ -z "$LAUNCH" ]; then
    for arm in $ARMS; do bash "$SCRIPTS/run_ablation.sh" --overrides "$arm" > /dev/null || exit 2; done
fi

# The command of one run, one word a line.
run_command() { # arm, overrides...
    local arm="$1" arm_overrides
    shift
    if [ -n "$LAUNCH" ]; then
        local words
        read -ra words <<< "$LAUNCH"
        printf '%s\n' "${words[@]}" "$arm" "$@"
    elif [ "$ENGINE" = verl ]; then
        printf '%s\n' bash "$SCRIPTS/run_ablation.sh" "$arm" "$MODEL" "$@"
    else
        arm_overrides="$(bash "$SCRIPTS/run_ablation.sh" --overrides "$arm")" || return
        printf '%s\n' "$PYTHON" -m erpo_verl.cli train "$CONFIG" algorithm.adv_estimator=erpo "$arm_overrides" "$@" \
            "data.seed=$SEED" "actor_rollout_ref.rollout.seed=$SEED" "actor_rollout_ref.actor.data_loader_seed=$SEED" \
            "trainer.experiment_name=$EXPERIMENT" "trainer.default_local_dir=$RUN_DIR"
    fi
}

# Ctrl-C and kill: the run in hand gets SIGINT, at the second time SIGTERM, and the sweep waits for its end.
group="" stopped=0
stop() {
    stopped=$((stopped + 1))
    if [ -n "$group" ]; then
        echo "stopping $EXPERIMENT (once more to insist)" >&2
        if [ "$stopped" -gt 1 ]; then kill -TERM -- "-$group"; else kill -INT -- "-$group"; fi 2>/dev/null || true
    fi
}
trap stop INT TERM

finish_or_go_on() { # arm, seed, overrides...; the run's exit code in `status`
    local arm="$1" words known_by
    export SEED="$2" EXPERIMENT="$1-s$2"
    export RUN_DIR="$OUT/$EXPERIMENT"
    shift 2
    status=0
    if [ -f "$RUN_DIR/done" ]; then
        echo "$EXPERIMENT: finished before"
        return
    fi
    words="$(run_command "$arm" "$@")"
    if [ "${DRY_RUN:-0}" = 1 ]; then
        echo "--- $EXPERIMENT"
        mapfile -t command <<< "$words"
        if [ -z "$LAUNCH" ] && [ "$ENGINE" = accelerate ]; then command+=(--check); fi # the other engine's scripts know DRY_RUN
        "${command[@]}" || status=$?
        return
    fi
    mkdir -p "$RUN_DIR"
    mapfile -t command <<< "$words"
    known_by="$words" # what a run must have been begun with to be gone on with
    if [ -z "$LAUNCH" ] && [ "$ENGINE" = verl ]; then known_by="$(DRY_RUN=print "${command[@]}")"; fi
    if [ -f "$RUN_DIR/command.txt" ] && [ "$(cat "$RUN_DIR/command.txt")" != "$known_by" ]; then
        echo "$EXPERIMENT: begun with another command, $RUN_DIR/command.txt: give another OUT, or remove that file" >&2
        status=2
        return
    fi
    printf '%s\n' "$known_by" > "$RUN_DIR/command.txt"
    echo "$EXPERIMENT: running, log in $RUN_DIR/run.log"
    set -m # a process group of its own: Ctrl-C reaches it through `stop` alone
    (
        set +m
        exec 9> "$RUN_DIR/.lock"
        flock -n 9 || { echo "$EXPERIMENT is being run by another sweep" >&2; exit 75; }
        "${command[@]}" 9>&-
    ) >> "$RUN_DIR/run.log" 2>&1 &
    group=$!
    set +m
    while true; do # a signal ends `wait` before the run has ended
        wait "$group" && status=0 || status=$?
        kill -0 "$group" 2>/dev/null || break
    done
    group=""
    if [ "$status" = 0 ] && [ ! -s "$RUN_DIR/metrics.jsonl" ]; then
        echo "$EXPERIMENT: ended without an error and without metrics.jsonl" >> "$RUN_DIR/run.log"
        status=1
    fi
    [ "$status" != 0 ] || touch "$RUN_DIR/done"
}

finished=() failed=()
for seed in $SEEDS; do
    for arm in $ARMS; do
        finish_or_go_on "$arm" "$seed" "$@"
        if [ "$stopped" -gt 0 ]; then
            echo "stopped; the same command goes on from here" >&2
            exit 130
        elif [ "$status" = 0 ]; then
            finished+=("$RUN_DIR")
        else
            failed+=("$EXPERIMENT")
            echo "$EXPERIMENT: FAILED with exit code $status" >&2
            [ ! -f "$RUN_DIR/run.log" ] || tail -n 5 "$RUN_DIR/run.log" | sed 's/^/    /' >&2
        fi
    done
    [ "${DRY_RUN:-0}" != 1 ] || break # seeds differ in nothing that is checked
done

if [ "${DRY_RUN:-0}" != 1 ] && [ "${#finished[@]}" -gt 0 ]; then
    read -ra command <<< "$COMPARE"
    "${command[@]}" "${finished[@]}" --out "$OUT/comparison" || failed+=("the comparison")
fi
if [ "${#failed[@]}" -gt 0 ]; then
    echo "${#failed[@]} failed: ${failed[*]}" >&2
    exit 1
fi
