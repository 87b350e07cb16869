# DeepSeek-R1-Distill-Qwen-1.5B, all parameters, 8 GPUs of 80 GB. A long thinker: 8192 tokens to begin with; go on with
# MAX_RESPONSE_LENGTH=16384 once few answers are cut off (metric response_length/clip_ratio).
MODEL_PATH="${MODEL_PATH:-deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B}"
MAX_RESPONSE_LENGTH="${MAX_RESPONSE_LENGTH:-8192}"
TRAIN_BATCH_SIZE="${TRAIN_BATCH_SIZE:-128}"
MINI_BATCH_SIZE="${MINI_BATCH_SIZE:-64}"
# The sampling that its model card gives.
VAL_TEMPERATURE="${VAL_TEMPERATURE:-0.6}"
VAL_TOP_P="${VAL_TOP_P:-0.95}"
