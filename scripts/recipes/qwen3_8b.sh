# Qwen3-8B with thinking, all parameters, 8 GPUs of 80 GB. It thinks at length: answers of up to 16384 tokens.
MODEL_PATH="${MODEL_PATH:-Qwen/Qwen3-8B}"
MAX_RESPONSE_LENGTH="${MAX_RESPONSE_LENGTH:-16384}"
TRAIN_BATCH_SIZE="${TRAIN_BATCH_SIZE:-128}"
MINI_BATCH_SIZE="${MINI_BATCH_SIZE:-32}"
UPDATE_TOKENS_PER_GPU="${UPDATE_TOKENS_PER_GPU:-17408}"
TP="${TP:-2}"
# The sampling that its model card gives for thinking.
VAL_TEMPERATURE="${VAL_TEMPERATURE:-0.6}"
VAL_TOP_P="${VAL_TOP_P:-0.95}"
