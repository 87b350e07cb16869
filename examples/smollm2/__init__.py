"""A real pretrained model on two CPU cores: SmolLM2-135M-Instruct on one-step word problems."""
