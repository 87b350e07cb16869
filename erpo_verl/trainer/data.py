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
from transformers import PreTrainedTokenizerBase

from erpo_verl.prompts import Prompter, PromptError, chat_messages
from erpo_verl.rows import RewardRow, RowError, read_file, reward_rows


class DataError(ValueError):
    """A data file is missing or damaged, or a row cannot be used; the message names the file and the row."""


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
            try:
                rows.append({**row, prompt_key: chat_messages(row, prompt_key)})
            except PromptError as error:
                raise DataError(f"{file}, row {number}: {error}") from None
            places.append((str(file), number))
    if not rows:
        raise DataError(f"{', '.join(files)}: no rows")
    return Table(rows, rewards, places, list(files), digest.hexdigest())


def tokenize(
    table: Table,
    prompter: Prompter,
    *,
    max_length: int,
    filter_overlong: bool = False,
    truncation: str = "error",
    prompt_key: str = "prompt",
) -> tuple[list[Prompt], int]:
    """Apply the chat template; returns the prompts and how many overlong ones were left out.

    Raises:
        DataError: a row cannot become a prompt, one is longer than ``max_length`` tokens and ``truncation`` is error, or all are
            left out.
    """
    prompts, dropped = [], 0
    for row, reward, (file, number) in zip(table.rows, table.rewards, table.places, strict=True):
        where = f"{file}, row {number}"
        try:
            text, tokens = prompter(row[prompt_key])
        except PromptError as error:
            raise DataError(f"{where}: {error}") from error
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
    names = ("train_max_samples", "filter_overlong_prompts", "max_prompt_length", "truncation", "shuffle", "seed", "prompt_key", "reward_fn_key",
             "template_date")  # fmt: skip
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
