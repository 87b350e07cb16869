# Qwen2.5-Math-7B, all parameters, 8 GPUs of 80 GB. Its context ends at 4096 tokens: 1024 for the problem, 3072 for the
# answer.
MODEL_PATH="${MODEL_PATH:-Qwen/Qwen2.5-Math-7B}"
MAX_RESPONSE_LENGTH="${MAX_RESPONSE_LENGTH:-3072}"
