"""A folder becomes a checked model: configuration, generation settings, adapter, tokenizer, special ids, context; then its weights.

- ``parts``      :func:`~erpo_verl.models.parts.read_model`: all that can be known before the weights are read, for every command
- ``load``       the weights, with their adapter; and their way back into a folder
- ``folder``, ``config``, ``tokenizer``   what the two are made of
"""
