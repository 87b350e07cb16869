"""The start policy as the settings name it: read and checked without its weights, then loaded and made ready for training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from erpo_verl.models.errors import ModelError
from erpo_verl.models.load import NewAdapters, load_model, padding_changes, without_dropout
from erpo_verl.models.parts import ModelParts, check_tokens, read_model, too_long
from erpo_verl.runs.record import read_record
from erpo_verl.trainer import checkpoint
from erpo_verl.trainer.data import Prompt
from erpo_verl.trainer.policy import DTYPES


def read_start_model(settings: DictConfig) -> ModelParts:
    """The start model without its weights.

    Raises:
        ModelError: it cannot be used, or its adapter not as the settings say.
    """
    model = settings.actor_rollout_ref.model
    parts = read_model(model.path, tokenizer_path=model.tokenizer_path, trust_remote_code=model.trust_remote_code)
    if parts.adapter is not None and model.adapter == "train":
        if model.lora_rank:
            raise ModelError(
                f"actor_rollout_ref.model.adapter=train, lora_rank={model.lora_rank}: the adapter at {parts.adapter.path} is trained as it is "
                f"(rank {parts.adapter.rank}); set lora_rank=0, or adapter=merge for new adapters on top of it"
            )
        if parts.adapter.kind != "LORA":
            raise ModelError(f"actor_rollout_ref.model.adapter=train: {parts.told} is a {parts.adapter.kind} adapter, not LoRA; set adapter=merge")
        parts.notes.append(f"the adapter at {parts.adapter.path} is trained; the reference policy is its base with the adapter as it is now")
    elif parts.adapter is not None:
        parts.notes.append(f"the adapter at {parts.adapter.path} is merged into {parts.base}: that is the start policy, and the reference")
    if parts.dropout and model.disable_dropout:
        rates = ", ".join(f"{name}={value:g}" for name, value in parts.dropout.items())
        parts.notes.append(f"config.json: {rates} is off in training (actor_rollout_ref.model.disable_dropout)")
    return parts


def recorded_date(settings: DictConfig) -> str | None:
    """The date that the prompts of the run were made with which this one goes on, if they had one."""
    trainer = settings.trainer
    found = checkpoint.find(Path(trainer.default_local_dir).expanduser().absolute(), trainer.resume_mode, trainer.resume_from_path)
    try:
        record = None if found is None else read_record(found.parent)
    except ValueError as error:
        raise checkpoint.CheckpointError(str(error)) from None
    return None if record is None else record["config"].get("data", {}).get("template_date")


def check_prompts(model: ModelParts, prompts: list[Prompt], settings: DictConfig) -> None:
    """Whether the model knows all tokens, and has room for every prompt with its response.

    Raises:
        ModelError: it does not.
    """
    check_tokens(model, ((prompt.tokens, prompt.text) for prompt in prompts))
    data, rollout = settings.data, settings.actor_rollout_ref.rollout
    longest, response = max(len(prompt.tokens) for prompt in prompts), data.max_response_length
    problem = too_long(model.context, longest, f"{model.told}: the longest prompt ({longest})", response, f"data.max_response_length={response}")
    if problem is None and rollout.name == "vllm":  # which makes room for more than that
        room = rollout.max_model_len or data.max_prompt_length + response
        words = "actor_rollout_ref.rollout.max_model_len" if rollout.max_model_len else "data.max_prompt_length + data.max_response_length"
        if model.context is not None and room > model.context:
            problem = f"{model.told}: {words} is {room} tokens, and the model was made for {model.context} (its config.json): choose fewer"
    if problem:
        raise ModelError(problem)


def load_start_model(settings: DictConfig, parts: ModelParts) -> nn.Module:
    """The start policy on the CPU, made ready for training as the settings say.

    Raises:
        ModelError: see ``load_model``.
    """
    model_settings = settings.actor_rollout_ref.model
    wanted = None
    if model_settings.lora_rank > 0:
        wanted = NewAdapters(
            model_settings.lora_rank, model_settings.lora_alpha, _names(model_settings.target_modules), _names(model_settings.exclude_modules),
            seed=settings.data.seed,
        )  # fmt: skip
    model = load_model(
        parts, dtype=DTYPES[settings.actor_rollout_ref.actor.fsdp_config.model_dtype],
        attn_implementation=model_settings.override_config.attn_implementation, keep_adapter=model_settings.adapter == "train", new_adapters=wanted,
    )  # fmt: skip
    if padding_changes(model, parts.pad_token_id):
        raise ModelError(
            f"{parts.told}: the states of a {parts.config.model_type} see padding, and batches of training are padded: its probabilities would be "
            "wrong; take verl with actor_rollout_ref.model.use_remove_padding=true"
        )
    if model_settings.disable_dropout:
        without_dropout(model)
    if model_settings.enable_gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    return model


def _names(value: Any) -> Any:
    """Names of modules as peft takes them: it reads a lone string as a pattern for the whole path, so that a plain name is a list of one."""
    if isinstance(value, str) and value != "all-linear" and value.isidentifier():
        return [value]
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
