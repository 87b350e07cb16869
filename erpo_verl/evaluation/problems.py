"""Problems from parquet files in verl's schema, and the prompts that a model sees of them.

Every row is looked at before a model is loaded: an unusable one is an error that names file and row. A prompt that is
too long for the model, or a row that repeats another, is left out and counted, never silently.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from erpo_verl.evaluation.rewording import ORIGINAL, reword
from erpo_verl.reward import gold_answers


class EvaluationError(ValueError):
    """Something that the user gave cannot be used; the message names it and says what to do."""


@dataclass(frozen=True)
class Problem:
    """One row of the data."""

    id: str  # extra_info.id, or SOURCE/hash of prompt and gold
    source: str
    messages: list[dict[str, str]]
    gold: Any  # reward_model.ground_truth, as the judge takes it
    level: str | None  # extra_info.level, or the column level
    extra_info: dict[str, Any] = field(default_factory=dict)

    @property
    def gold_text(self) -> str:
        """The accepted answers as text."""
        return " | ".join(gold_answers(self.gold))


@dataclass(frozen=True)
class Prompt:
    """What the model sees of a problem under one wording."""

    problem: Problem
    text: str  # the chat template applied, with the mark of the assistant's turn
    tokens: list[int]


def read_problems(files: Sequence[Path], limit: int | None = None) -> tuple[list[Problem], int]:
    """The problems of some parquet files, in order, and how many rows repeated an earlier one.

    Args:
        limit: only the first so many rows of each file.

    Raises:
        EvaluationError: a file is missing, unreadable or empty, a row is unusable, or two different problems share an
        id.
    """
    found: dict[str, tuple[Problem, str]] = {}
    repeated = 0
    for file in files:
        rows = _read_rows(file)
        for number, row in enumerate(rows[:limit] if limit else rows):
            where = f"{file}, row {number}"
            problem = _problem(row, where)
            known = found.setdefault(problem.id, (problem, where))
            if known[1] == where:
                continue
            if (known[0].messages, known[0].gold_text) != (problem.messages, problem.gold_text):
                raise EvaluationError(
                    f"{where}: its id {problem.id!r} is that of {known[1]}, another problem; make ids unique"
                )
            repeated += 1
    return [problem for problem, _ in found.values()], repeated


def _read_rows(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        raise EvaluationError(f"--data {file}: no such file")
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(file)
    except Exception as error:  # pyarrow's errors have no common base
        raise EvaluationError(f"--data {file}: not readable as parquet: {error}") from None
    missing = [name for name in ("data_source", "prompt", "reward_model") if name not in table.column_names]
    if missing:
        raise EvaluationError(
            f"--data {file}: no column {' or '.join(map(repr, missing))}; it has {', '.join(table.column_names)} "
            "(`erpo prepare` writes files in the right schema)"
        )
    if not table.num_rows:
        raise EvaluationError(f"--data {file}: no rows")
    return table.to_pylist()


def _problem(row: Mapping[str, Any], where: str) -> Problem:
    messages, reward = row["prompt"], row["reward_model"]
    if not isinstance(messages, list) or not messages:
        raise EvaluationError(f"{where}: prompt must be a list of chat messages")
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str) or not message.get("role"):
            raise EvaluationError(f"{where}: prompt must hold messages with role and content")
    if not isinstance(row["data_source"], str) or not row["data_source"]:
        raise EvaluationError(f"{where}: data_source must be text")
    gold = reward.get("ground_truth") if isinstance(reward, dict) else None
    if not any(text.strip() for text in gold_answers(gold)):
        raise EvaluationError(f"{where}: reward_model.ground_truth is empty; `erpo prepare` drops such rows")
    info = row.get("extra_info") or {}
    level = info.get("level", row.get("level"))
    messages = [{"role": str(m["role"]), "content": m["content"]} for m in messages]
    digest = hashlib.sha256(json.dumps([messages, gold_answers(gold)], sort_keys=True).encode()).hexdigest()[:12]
    return Problem(
        id=str(info.get("id") or f"{row['data_source']}/{digest}"),
        source=row["data_source"],
        messages=messages,
        gold=gold,
        level=None if level is None else str(level),
        extra_info=dict(info),
    )


def build_prompts(
    problems: Sequence[Problem],
    tokenizer: Any,
    rewording: str,
    max_tokens: int,
    template: Mapping[str, Any] | None = None,
) -> tuple[list[Prompt], dict[str, list[str]]]:
    """The prompts under one wording, the shortest first, and the ids that are left out, by reason.

    Args:
        tokenizer: a Hugging Face tokenizer with a chat template.
        max_tokens: longest prompt.
        template: further arguments of the chat template.

    Raises:
        EvaluationError: the chat template refuses the messages (named), other than for a rewording.
    """
    prompts, left_out = [], {"too_long": [], "rewording_does_not_apply": []}
    for problem in problems:
        messages = reword(rewording, problem.messages, problem.extra_info)
        if messages is None:
            left_out["rewording_does_not_apply"].append(problem.id)
            continue
        try:
            text = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **(template or {})
            )
        except Exception as error:  # jinja's errors, which a template may raise itself (Gemma: no system role)
            if rewording != ORIGINAL:
                left_out["rewording_does_not_apply"].append(problem.id)
                continue
            raise EvaluationError(f"problem {problem.id}: the chat template refuses its messages: {error}") from None
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(tokens) > max_tokens:
            left_out["too_long"].append(problem.id)
            continue
        prompts.append(Prompt(problem, text, list(tokens)))
    prompts.sort(key=lambda prompt: len(prompt.tokens))  # like lengths together: little padding
    return prompts, left_out
