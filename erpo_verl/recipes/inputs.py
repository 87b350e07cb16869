"""Model and rows of a run of verl, looked at by what looks at them for training and evaluation (``models``, ``prompts``).

verl reads both by itself, and some things differently: what it would do otherwise than meant is said, with the override that mends it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from erpo_verl.models.config import GENERATION
from erpo_verl.models.errors import ModelError
from erpo_verl.models.folder import find
from erpo_verl.models.parts import ModelParts, check_tokens, read_model
from erpo_verl.prompts import CONTINUE, Prompter, PromptError, chat_messages, is_answer
from erpo_verl.rows import RowError, read_file

_MODEL = "actor_rollout_ref.model"
ROWS = ("pkg://erpo_verl.verl_plugin.rows", "Rows")


def check_model(config: DictConfig) -> tuple[ModelParts | None, list[str], list[str]]:
    """(the model without its weights, problems, notes) of a folder on this machine."""
    model = config.actor_rollout_ref.model
    try:
        base, adapter = find(model.path, f"{_MODEL}.path={model.path}")
        if adapter is not None:
            return None, [f"{_MODEL}.path={model.path}: an adapter; verl takes {_MODEL}.path={base} {_MODEL}.lora_adapter_path={model.path}"], []
        parts = read_model(model.path, tokenizer_path=model.tokenizer_path, trust_remote_code=bool(model.trust_remote_code))
    except ModelError as error:
        return None, [str(error)], []
    if model.custom_chat_template:
        parts.tokenizer.chat_template = model.custom_chat_template
    problems, notes = [], [note for note in parts.notes if not note.startswith(GENERATION)]
    if parts.generation_changes:
        words = f"{_MODEL}.path={model.path}: transformers refuses to save its {GENERATION} as it stands; it would with {', '.join(parts.generation_changes)}"
        if "hf_model" in config.actor_rollout_ref.actor.checkpoint.save_contents:
            problems.append(f"{words}. verl stops there when it saves hf_model")
        else:
            notes.append(f"{words}. verl leaves it out of its checkpoints")
    given = OmegaConf.to_container(model.override_config)
    left = {name: rate for name, rate in parts.dropout.items() if given.get(name) != 0}
    if left:
        rates, off = ", ".join(f"{name}={rate:g}" for name, rate in left.items()), " ".join(f"+{_MODEL}.override_config.{name}=0" for name in left)
        problems.append(f"{_MODEL}.path={model.path}: {rates} of config.json acts in verl's update, not in its rollout: add {off}")
    hidden = [parts.tokenizer.convert_ids_to_tokens(i) for i in parts.decoder.tags]
    if "</think>" in hidden:
        words = f"{_MODEL}.path={model.path}: <think> and </think> are special tokens of the tokenizer, and verl takes them out before the reward"
        needed = OmegaConf.select(config, "reward.custom_reward_function.reward_kwargs.require_think")
        (problems if needed else notes).append(f"{words}; set \"special\": false for both in tokenizer.json and tokenizer_config.json")
    return parts, problems, notes


def check_rows(config: DictConfig, parts: ModelParts, files: Mapping[str, Iterable[Path]]) -> tuple[list[str], list[str]]:
    """(problems, notes) of the prompts in parquet files, by the key that names them."""
    data = config.data
    template = OmegaConf.to_container(data.apply_chat_template_kwargs)
    prompter = Prompter(parts.tokenizer, template)
    cleaned = (data.custom_cls.path, data.custom_cls.name) == ROWS
    problems, notes = [], []
    if template.get(CONTINUE):
        problems.append(f"data.apply_chat_template_kwargs.{CONTINUE}: verl asks for a new answer at the same time, and its rollout would stop there; leave it out")
    for key, paths in files.items():
        for path in paths:
            try:
                found = _check_file(path, data.prompt_key, prompter, parts, cleaned)
            except (PromptError, ModelError, RowError) as error:
                found = str(error)
            if found:
                problems.append(f"{key}: {found}")
    if prompter.dated:
        notes.append("the chat template prints the date: verl asks with other prompts from day to day; data.apply_chat_template_kwargs may fix it")
    return problems, notes


def _check_file(path: Path, prompt_key: str, prompter: Prompter, parts: ModelParts, cleaned: bool) -> str | None:
    filled: list[int] = []
    for number, row in enumerate(read_file(str(path), (prompt_key,))):
        try:
            messages = chat_messages(row, prompt_key)
            if is_answer(messages[-1]):
                return f"{path}, row {number}: it ends in an assistant's message, and verl would ask for another one behind it: cut that off"
            text, tokens = prompter(messages)
            check_tokens(parts, [(tokens, text)])
        except PromptError as error:
            return f"{path}, row {number}: {error}"
        if _nulls(row[prompt_key]):
            filled.append(number)
    if filled and not cleaned:
        return (
            f"{path}: messages of {len(filled)} rows (the first: row {filled[0]}) have null fields, which verl hands to the chat template; add "
            f"data.custom_cls.path={ROWS[0]} data.custom_cls.name={ROWS[1]}"
        )
    return None


def _nulls(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(inner is None or _nulls(inner) for inner in value.values())
    return isinstance(value, list | tuple) and any(_nulls(inner) for inner in value)
