# Sizes and rates that a model's block does not set itself. Each can be set from the environment.

NNODES="${NNODES:-1}"
GPUS="${GPUS:-8}"                                             # of a node
GPU_MEMORY_GB="${GPU_MEMORY_GB:-80}"                          # of a GPU, for the check before the start

TRAIN_BATCH_SIZE="${TRAIN_BATCH_SIZE:-256}"                   # prompts a step
MINI_BATCH_SIZE="${MINI_BATCH_SIZE:-64}"                      # prompts an update: 4 updates a step
N="${N:-8}"                                                   # responses a prompt: the group
MAX_PROMPT_LENGTH="${MAX_PROMPT_LENGTH:-1024}"                # tokens
MAX_RESPONSE_LENGTH="${MAX_RESPONSE_LENGTH:-4096}"

LR="${LR:-1e-6}"
KL_COEF="${KL_COEF:-0}"
LORA_RANK="${LORA_RANK:-0}"                                   # 0: all parameters are trained
LORA_ALPHA="${LORA_ALPHA:-32}"

STRATEGY="${STRATEGY:-fsdp2}"
OFFLOAD="${OFFLOAD:-false}"                                   # weights and Adam to main memory between their uses
UPDATE_TOKENS_PER_GPU="${UPDATE_TOKENS_PER_GPU:-16384}"       # in a micro-batch; at least prompt and response
LOG_PROB_TOKENS_PER_GPU="${LOG_PROB_TOKENS_PER_GPU:-32768}"
TP="${TP:-1}"                                                 # GPUs that share a copy of vLLM
GPU_MEMORY_UTILIZATION="${GPU_MEMORY_UTILIZATION:-0.6}"       # vLLM's share of a GPU while it generates

VAL_TEMPERATURE="${VAL_TEMPERATURE:-1.0}"                     # as in training
VAL_TOP_P="${VAL_TOP_P:-1.0}"
