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

from erpo_verl import golds
from erpo_verl.evaluation.rewording import ORIGINAL, reword
from erpo_verl.prompts import Prompter, PromptError, chat_messages
from erpo_verl.reward import gold_answers
from erpo_verl.rows import ANSWER_FORMS, RewardRow, RowError, read_file, reward_rows


class EvaluationError(ValueError):
    """Something that the user gave cannot be used; the message names it and says what to do."""


@dataclass(frozen=True)
class Problem:
    """One row of the data."""

    id: str  # extra_info.id, or SOURCE/hash of prompt and gold
    source: str
    messages: list[dict[str, Any]]
    gold: Any  # reward_model.ground_truth, as the judge takes it
    level: str | None  # extra_info.level, or the column level
    extra_info: dict[str, Any] = field(default_factory=dict)
    place: tuple[str, int] = ("", 0)  # file and row

    def answer_forms(self, asked: str | None = None) -> str:
        """In which forms a final answer counts: those asked for, else what the row says, else a box alone."""
        return asked or self.extra_info.get("answer_forms") or ANSWER_FORMS[0]

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
        try:
            rows = read_file(file, ("data_source", "prompt", "reward_model"))[:limit]
            rewards = list(reward_rows(rows, file))
        except RowError as error:
            raise EvaluationError(f"--data {error}") from None
        for number, (row, reward) in enumerate(zip(rows, rewards, strict=True)):
            where = f"{file}, row {number}"
            problem = _problem(row, reward, (str(file), number))
            known = found.setdefault(problem.id, (problem, where))
            if known[1] == where:
                continue
            if (known[0].messages, known[0].gold_text) != (problem.messages, problem.gold_text):
                raise EvaluationError(
                    f"{where}: its id {problem.id!r} is that of {known[1]}, another problem; make ids unique"
                )
            repeated += 1
    return [problem for problem, _ in found.values()], repeated


def _problem(row: Mapping[str, Any], reward: RewardRow, place: tuple[str, int]) -> Problem:
    where = f"{place[0]}, row {place[1]}"
    try:
        messages = chat_messages(row)
    except PromptError as error:
        raise EvaluationError(f"{where}: {error}") from None
    if not any(text.strip() for text in gold_answers(reward.gold)):
        raise EvaluationError(f"{where}: reward_model.ground_truth is empty; `erpo prepare` drops such rows")
    digest = hashlib.sha256(json.dumps([messages, gold_answers(reward.gold)], sort_keys=True).encode()).hexdigest()[:12]
    return Problem(
        id=reward.id or f"{reward.data_source}/{digest}",
        source=reward.data_source,
        messages=messages,
        gold=reward.gold,
        level=reward.level,
        extra_info=reward.extra_info,
        place=place,
    )


def leave_out_unreadable(problems: Sequence[Problem], settings: Mapping[str, Any] | None = None) -> tuple[list[Problem], list[str], str]:
    """Without the problems whose gold the reward cannot read: no answer to them could be judged.

    Args:
        settings: of the reward, by name.

    Returns:
        (the others, the ids that are left out, a line about them or "").

    Raises:
        EvaluationError: none of the golds can be read.
    """
    try:
        found = golds.check([problem.gold for problem in problems], [problem.place for problem in problems], settings)
    except RowError as error:
        raise EvaluationError(f"--data {error}") from None
    without = {bad.place for bad in found}
    kept = [problem for number, problem in enumerate(problems) if number not in without]
    line = golds.told(found, len(problems), "left out") if found else ""
    return kept, [problems[bad.place].id for bad in found], line


def build_prompts(
    problems: Sequence[Problem],
    prompter: Prompter,
    rewording: str,
    max_tokens: int,
) -> tuple[list[Prompt], dict[str, list[str]]]:
    """The prompts under one wording, the shortest first, and the ids that are left out, by reason.

    Args:
        prompter: applies the chat template.
        max_tokens: longest prompt.

    Raises:
        EvaluationError: a row cannot become a prompt (named), other than for a rewording.
    """
    prompts, left_out = [], {"too_long": [], "rewording_does_not_apply": []}
    for problem in problems:
        messages = reword(rewording, problem.messages, problem.extra_info)
        if messages is None:
            left_out["rewording_does_not_apply"].append(problem.id)
            continue
        try:
            text, tokens = prompter(messages)
        except PromptError as error:  # of the template (Gemma: no system role) or of the row
            if rewording != ORIGINAL:
                left_out["rewording_does_not_apply"].append(problem.id)
                continue
            raise EvaluationError(f"{problem.place[0]}, row {problem.place[1]}: {error}") from None
        if len(tokens) > max_tokens:
            left_out["too_long"].append(problem.id)
            continue
        prompts.append(Prompt(problem, text, tokens))
    prompts.sort(key=lambda prompt: len(prompt.tokens))  # like lengths together: little padding
    return prompts, left_out
