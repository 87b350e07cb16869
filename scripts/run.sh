#!/usr/bin/env bash
# A recipe: one algorithm on one model, with verl. Read from top to bottom: recipes/MODEL.sh has what is the
# model's own, recipes/defaults.sh all other sizes and rates, this file verl's settings by section, the check, the start.
#   bash scripts/run.sh ALGORITHM MODEL [overrides of verl]     as: bash scripts/run.sh erpo qwen7b
#   ALGORITHM   what verl calls algorithm.adv_estimator: erpo, grpo, or any other that is registered, own ones too
#   MODEL       a file of recipes/: qwen1.5b, qwen7b, qwen7b_lora, r1_7b, ...
# What recipes set from variables can be set from the environment:
#   DRY_RUN=1         print the command, check it, estimate the memory; needs no GPU, loads no model (print: only print)
#   SKIP_CHECK=1      start without the check
#   RUN_DIR=...       where metrics.jsonl, checkpoints and W&B's files go
#   TOTAL_STEPS=300   SEED=1   NNODES=1   GPUS=8 (of a node)   GPU_MEMORY_GB=80 (of a GPU, for the check)
set -euo pipefail
RECIPES="$(cd "$(dirname "${BASH_SOURCE[0]}")/recipes" && pwd)"

if [ $# -lt 2 ] || [[ "$1" = *=* || "$2" = *=* ]]; then
    sed -n '2,6s/^# //p' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
ALGORITHM="$1" MODEL_NAME="$2"
shift 2
if [[ "$MODEL_NAME" = */* || "$MODEL_NAME" = defaults || ! -f "$RECIPES/$MODEL_NAME.sh" ]]; then
    models=" $(cd "$RECIPES" && printf '%s ' *.sh)"
    models="${models// defaults.sh/}"
    echo "no model '$MODEL_NAME'; the models:${models//.sh/}" >&2
    exit 2
fi
# shellcheck source=/dev/null
source "$RECIPES/$MODEL_NAME.sh"
# shellcheck source=/dev/null
source "$RECIPES/defaults.sh"

PYTHON="${PYTHON:-python3}"
SEED="${SEED:-1}"
EXPERIMENT="${EXPERIMENT:-${ALGORITHM}_$MODEL_NAME-s$SEED}"
RUN_DIR="${RUN_DIR:-$PWD/outputs/recipes/$EXPERIMENT}"

# Problems: `erpo prepare` makes these files (docs/recipes.md). Several files: separated by commas.
DATA_DIR="${DATA_DIR:-$HOME/data/erpo}"
TRAIN_FILES="${TRAIN_FILES:-$DATA_DIR/dapo-math-17k/train.parquet}"
HELD_OUT="$DATA_DIR/math500/test.parquet,$DATA_DIR/aime24/test.parquet,$DATA_DIR/aime25/test.parquet"
VAL_FILES="${VAL_FILES:-$HELD_OUT,$DATA_DIR/amc23/test.parquet,$DATA_DIR/minerva/test.parquet}"
VAL_N="${VAL_N:-4}" # answers to each held-out problem

TOTAL_STEPS="${TOTAL_STEPS:-300}"
SAVE_FREQ="${SAVE_FREQ:-20}"
TEST_FREQ="${TEST_FREQ:-20}"
PROJECT="${PROJECT:-erpo-verl}"
LOGGER="${LOGGER:-[\"console\",\"file\",\"wandb\"]}"

# a,b -> ['a','b'], a list in Hydra's grammar
as_list() { local IFS=,; local item out=""; for item in $1; do out+="${out:+,}'$item'"; done; printf '[%s]' "$out"; }

DATA=(
    data.train_files="$(as_list "$TRAIN_FILES")"
    data.val_files="$(as_list "$VAL_FILES")"
    data.train_batch_size="$TRAIN_BATCH_SIZE"
    data.max_prompt_length="$MAX_PROMPT_LENGTH"
    data.max_response_length="$MAX_RESPONSE_LENGTH"
    data.filter_overlong_prompts=true
    data.truncation=error
    data.seed="$SEED"
)

MODEL=(
    actor_rollout_ref.model.path="$MODEL_PATH"
    actor_rollout_ref.model.use_remove_padding=true
    actor_rollout_ref.model.enable_gradient_checkpointing=true
    actor_rollout_ref.model.lora_rank="$LORA_RANK"
    actor_rollout_ref.model.lora_alpha="$LORA_ALPHA"
)

ACTOR=(
    actor_rollout_ref.actor.strategy="$STRATEGY"
    actor_rollout_ref.actor.optim.lr="$LR"
    actor_rollout_ref.actor.ppo_mini_batch_size="$MINI_BATCH_SIZE"
    actor_rollout_ref.actor.use_dynamic_bsz=true
    actor_rollout_ref.actor.ppo_max_token_len_per_gpu="$UPDATE_TOKENS_PER_GPU"
    # The same loss whatever the method is: two recipes of a model differ in the estimator alone.
    actor_rollout_ref.actor.policy_loss.loss_mode=vanilla
    actor_rollout_ref.actor.loss_agg_mode=token-mean
    # Entropies in float32, some thousand tokens at a time: the gate reads them.
    actor_rollout_ref.actor.entropy_from_logits_with_chunking=true
    # Every method has the reference policy, at no weight in the loss: ERPO's progress term compares with it, and a
    # GRPO run without one would take less time and memory.
    actor_rollout_ref.actor.use_kl_loss=true
    actor_rollout_ref.actor.kl_loss_coef="$KL_COEF"
    actor_rollout_ref.actor.fsdp_config.param_offload="$OFFLOAD"
    actor_rollout_ref.actor.fsdp_config.optimizer_offload="$OFFLOAD"
    actor_rollout_ref.actor.fsdp_config.seed="$SEED"
    actor_rollout_ref.actor.data_loader_seed="$SEED"
)

ROLLOUT=(
    actor_rollout_ref.rollout.name=vllm
    actor_rollout_ref.rollout.n="$N"
    actor_rollout_ref.rollout.temperature=1.0
    actor_rollout_ref.rollout.top_p=1.0
    actor_rollout_ref.rollout.seed="$SEED"
    actor_rollout_ref.rollout.tensor_model_parallel_size="$TP"
    actor_rollout_ref.rollout.gpu_memory_utilization="$GPU_MEMORY_UTILIZATION"
    actor_rollout_ref.rollout.max_model_len="$((MAX_PROMPT_LENGTH + MAX_RESPONSE_LENGTH))"
    actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu="$LOG_PROB_TOKENS_PER_GPU"
    actor_rollout_ref.rollout.val_kwargs.n="$VAL_N"
    actor_rollout_ref.rollout.val_kwargs.do_sample=true
    actor_rollout_ref.rollout.val_kwargs.temperature="$VAL_TEMPERATURE"
    actor_rollout_ref.rollout.val_kwargs.top_p="$VAL_TOP_P"
)
if [ "$LORA_RANK" -gt 0 ]; then
    # vLLM reads the base model itself and gets the adapters alone, layer by layer.
    ROLLOUT+=(actor_rollout_ref.rollout.load_format=safetensors actor_rollout_ref.rollout.layered_summon=true)
fi

REF=(
    actor_rollout_ref.ref.log_prob_max_token_len_per_gpu="$LOG_PROB_TOKENS_PER_GPU"
)

REWARD=(
    reward.custom_reward_function.path=pkg://erpo_verl.reward
    reward.custom_reward_function.name=compute_score
)

TRAINER=(
    trainer.nnodes="$NNODES"
    trainer.n_gpus_per_node="$GPUS"
    trainer.total_training_steps="$TOTAL_STEPS"
    trainer.total_epochs=1000000 # the steps decide
    trainer.save_freq="$SAVE_FREQ"
    trainer.max_actor_ckpt_to_keep=1
    trainer.test_freq="$TEST_FREQ"
    trainer.resume_mode=auto
    trainer.default_local_dir="$RUN_DIR/checkpoints"
    trainer.logger="$LOGGER"
    trainer.project_name="$PROJECT"
    trainer.experiment_name="$EXPERIMENT"
    # In each process of Ray, on whichever node.
    +ray_kwargs.ray_init.runtime_env.env_vars.VERL_FILE_LOGGER_PATH="$RUN_DIR/metrics.jsonl"
    +ray_kwargs.ray_init.runtime_env.env_vars.WANDB_DIR="$RUN_DIR"
    hydra.run.dir="$RUN_DIR"
    hydra.output_subdir=hydra
)

COMMAND=(
    "$PYTHON" -m verl.trainer.main_ppo
    "${DATA[@]}" "${MODEL[@]}" "${ACTOR[@]}" "${ROLLOUT[@]}" "${REF[@]}" "${REWARD[@]}" "${TRAINER[@]}"
    algorithm.adv_estimator="$ALGORITHM"
    "$@"
)

if [ "${DRY_RUN:-0}" != 0 ]; then
    printf '%q' "$PYTHON"
    printf ' %q' "${COMMAND[@]:1:2}"
    printf ' \\\n    %q' "${COMMAND[@]:3}"
    printf '\n\n'
fi
CHECK=("$PYTHON" -m erpo_verl.recipes.dry_run --gpu-memory-gb "$GPU_MEMORY_GB")
case "${DRY_RUN:-0}" in
    print) exit ;;
    1) "${CHECK[@]}" "${COMMAND[@]:3}"; exit ;;
esac
[ "${SKIP_CHECK:-0}" != 1 ] || CHECK+=(--no-check)
mkdir -p "$RUN_DIR"
"${CHECK[@]}" --record "$RUN_DIR" "${COMMAND[@]:3}" # run.json: what the run is, for `erpo compare`

# W&B writes to the disk unless there is an account or WANDB_MODE says otherwise.
if [ -z "${WANDB_MODE:-}${WANDB_API_KEY:-}" ] && ! grep -qs api.wandb.ai "${NETRC:-$HOME/.netrc}"; then
    export WANDB_MODE=offline
fi
# Several nodes: join the cluster that is there (docs/recipes.md). Without one the start fails at once.
if [ "$NNODES" -gt 1 ]; then
    export RAY_ADDRESS="${RAY_ADDRESS:-auto}"
fi

export VERL_FILE_LOGGER_PATH="$RUN_DIR/metrics.jsonl"
# verl's file logger starts its file anew when a run goes on from a checkpoint: what was there is kept, and joined.
"$PYTHON" -m erpo_verl.recipes.metrics_file keep "$RUN_DIR/metrics.jsonl"
status=0
"${COMMAND[@]}" || status=$?
"$PYTHON" -m erpo_verl.recipes.metrics_file join "$RUN_DIR/metrics.jsonl"
exit "$status"
