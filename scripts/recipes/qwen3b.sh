# Qwen2.5-3B, all parameters, 8 GPUs of 80 GB.
MODEL_PATH="${MODEL_PATH:-Qwen/Qwen2.5-3B}"
