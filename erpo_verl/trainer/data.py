"""Prompts from parquet files in verl's schema, and the order in which they are trained on.

A row has ``prompt`` (chat messages), ``data_source``, ``reward_model.ground_truth`` and perhaps ``extra_info``. Every row is looked
at when the file is read: an unusable one is an error that names the file and the row, before a model is loaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from erpo_verl.rows import RewardRow, RowError, read_file, reward_rows

# One of these is in every folder that holds a tokenizer.
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt", "*.tiktoken", "*.model")


class DataError(ValueError):
    """A data file is missing or damaged, or a row or the tokenizer cannot be used; the message names the file and the row."""


@dataclass(frozen=True)
class Prompt:
    """One row of the data, tokenized."""

    tokens: list[int]  # the chat template applied, with the mark of the assistant's turn
    text: str  # the same as text
    data_source: str
    gold: Any  # reward_model.ground_truth
    extra_info: dict[str, Any]
    id: str | None = None
    level: str | None = None  # difficulty, where the data say one
    place: tuple[str, int] = ("", 0)  # file and row


@dataclass(frozen=True)
class Table:
    """Rows as read, before tokenization."""

    rows: list[dict[str, Any]]
    rewards: list[RewardRow]  # what each row holds for the reward
    places: list[tuple[str, int]]  # file and row number of each
    files: list[str]
    fingerprint: str  # sha256 over the files' bytes: a run does not go on with other data than it began with


def read_table(files: Sequence[str], *, prompt_key: str = "prompt", source_key: str = "data_source", limit: int = -1) -> Table:
    """Read and check parquet files.

    Args:
        files: paths.
        prompt_key, source_key: names of the columns.
        limit: only the first so many rows of each file; -1 for all.

    Raises:
        DataError: a missing or damaged file, a missing column, or an unusable row.
    """
    rows, rewards, places, digest = [], [], [], hashlib.sha256()
    for file in files:
        try:
            found = read_file(file, (prompt_key, source_key, "reward_model"))
            found = found[:limit] if limit >= 0 else found
            rewards += reward_rows(found, file, source_key=source_key)
        except RowError as error:
            raise DataError(str(error)) from None
        digest.update(Path(file).read_bytes())
        for number, row in enumerate(found):
            problem = _problem(row[prompt_key], prompt_key)
            if problem:
                raise DataError(f"{file}, row {number}: {problem}")
            rows.append(row)
            places.append((str(file), number))
    if not rows:
        raise DataError(f"{', '.join(files)}: no rows")
    return Table(rows, rewards, places, list(files), digest.hexdigest())


def _problem(messages: Any, prompt_key: str) -> str | None:
    """Why a row's prompt cannot be used, or None."""
    if not isinstance(messages, list) or not messages:
        return f"{prompt_key} must be a list of messages"
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str) or not message.get("role"):
            return f"{prompt_key} must hold messages with role and content"
    return None


def load_tokenizer(model: DictConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of ``actor_rollout_ref.model``, with a chat template and a token to pad with.

    Raises:
        DataError: there is none, or it has no chat template.
    """
    key = "path" if model.tokenizer_path is None else "tokenizer_path"
    name = model[key]
    told = f"actor_rollout_ref.model.{key}={name}"
    folder = Path(name).expanduser()
    # transformers makes an empty tokenizer out of a model's config.json, without a word.
    if folder.is_dir() and not any(any(folder.glob(pattern)) for pattern in _TOKENIZER_FILES):
        raise DataError(f"{told}: the folder holds no tokenizer; set actor_rollout_ref.model.tokenizer_path to one that does")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder if folder.is_dir() else name, trust_remote_code=model.trust_remote_code)
    except Exception as error:  # OSError, ValueError, ImportError, and what the model's own code raises
        raise DataError(f"{told}: no such folder, and no tokenizer from the hub: {first_line(error)}") from error
    if tokenizer.chat_template is None:
        raise DataError(
            f"{told}: the tokenizer has no chat template, and prompts are chat messages; take an instruction-tuned model, or set "
            "actor_rollout_ref.model.tokenizer_path to a tokenizer with a template"
        )
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise DataError(f"{told}: the tokenizer has neither pad_token nor eos_token")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def first_line(error: Exception) -> str:
    """What an error of a library says, without the advice that follows."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def tokenize(
    table: Table,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    filter_overlong: bool = False,
    truncation: str = "error",
    prompt_key: str = "prompt",
    template: Mapping[str, Any] | None = None,
) -> tuple[list[Prompt], int]:
    """Apply the chat template; returns the prompts and how many overlong ones were left out.

    Raises:
        DataError: the template refuses a prompt, one is longer than ``max_length`` tokens and ``truncation`` is error, or all are
            left out.
    """
    prompts, dropped = [], 0
    for row, reward, (file, number) in zip(table.rows, table.rewards, table.places, strict=True):
        where = f"{file}, row {number}"
        try:
            text = tokenizer.apply_chat_template(row[prompt_key], tokenize=False, add_generation_prompt=True, **(template or {}))
        except Exception as error:  # jinja's errors, and whatever a template raises
            roles = ", ".join(str(message["role"]) for message in row[prompt_key])
            raise DataError(f"{where}, with the roles {roles}: the chat template refuses it: {first_line(error)}") from error
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(tokens) > max_length:
            if filter_overlong:
                dropped += 1
                continue
            if truncation == "error":
                raise DataError(
                    f"{where} has {len(tokens)} tokens, and "
                    f"data.max_prompt_length is {max_length}: raise it, or set data.filter_overlong_prompts=true or "
                    "data.truncation=left"
                )
            tokens = _truncate(tokens, max_length, truncation)
        prompts.append(Prompt(tokens, text, reward.data_source, reward.gold, reward.extra_info, reward.id, reward.level, (file, number)))
    if not prompts:
        raise DataError(f"{', '.join(table.files)}: all {dropped} prompts are longer than {max_length} tokens")
    return prompts, dropped


def _truncate(tokens: list[int], length: int, side: str) -> list[int]:
    """As verl's: left keeps the end, right keeps the beginning, middle keeps both."""
    if side == "left":
        return tokens[-length:]
    if side == "right":
        return tokens[:length]
    head = length // 2
    return tokens[:head] + tokens[len(tokens) - (length - head) :]


def order_record(prompts: Sequence[Prompt], table: Table, tokenizer: PreTrainedTokenizerBase, data: DictConfig) -> dict[str, Any]:
    """What a position in the data belongs to, for checkpoints: ``order`` is a hash of the prompts in their order with all that decides
    it, ``parts`` says by which settings it came about, so that a change can be named."""
    digest = hashlib.sha256(repr((data.shuffle, data.seed if data.shuffle else None)).encode())
    for prompt in prompts:
        digest.update(repr((prompt.tokens, prompt.data_source, prompt.gold)).encode())
    names = ("train_max_samples", "filter_overlong_prompts", "max_prompt_length", "truncation", "shuffle", "seed", "prompt_key", "reward_fn_key")
    template = json.dumps([tokenizer.chat_template, OmegaConf.to_container(data.apply_chat_template_kwargs)], sort_keys=True, default=str)
    parts = {
        "data.train_files": table.fingerprint,
        **{f"data.{name}": data[name] for name in names},
        "the chat template or data.apply_chat_template_kwargs": hashlib.sha256(template.encode()).hexdigest(),
    }
    return {"order": digest.hexdigest(), "count": len(prompts), "parts": parts}


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """In words what made another order of prompts out of that of a checkpoint."""
    old, new = before["parts"], now["parts"]
    found = [
        f"{name} has changed" if len(str(old.get(name))) == 64 else f"{name} was {old.get(name)} and is {value}"
        for name, value in new.items()
        if old.get(name) != value
    ]
    return ", ".join(found) or "the tokenizer, or what the template makes of a row, has changed"


def new_epoch(before: Mapping[str, Any], position: int, count: int) -> int:
    """The position at which the next epoch begins, of ``count`` prompts, for one who was at ``position`` of another order."""
    return -(-position // before["count"]) * count


class PromptOrder:
    """An endless order over ``count`` prompts, by epochs; ``position`` says how many were taken.

    The order of an epoch depends on the seed and the epoch alone, so that ``position`` is all that a checkpoint needs.
    """

    def __init__(self, count: int, *, seed: int, shuffle: bool = True, position: int = 0):
        self.count, self.seed, self.shuffle, self.position = count, seed, shuffle, position
        self._epoch, self._order = -1, list(range(count))

    def take(self, size: int) -> list[int]:
        """The next ``size`` prompts' numbers; runs on into the next epoch."""
        return [next(self) for _ in range(size)]

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        epoch, place = divmod(self.position, self.count)
        if epoch != self._epoch and self.shuffle:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self._order = torch.randperm(self.count, generator=generator).tolist()
        self._epoch = epoch
        self.position += 1
        return self._order[place]
