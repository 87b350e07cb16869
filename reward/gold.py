"""Reference answers: what a data set may hold as one, and the check of all of them before a run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .config import RewardConfig
from .plain import read_number
from .pool import shared_pool
from .scanner import find_boxes, join_adjacent, unwrap

_KEYS = ("target", "ground_truth", "answer", "final_answer")


def gold_answers(gold: Any) -> list[str]:
    """The accepted answers that a data set's field stands for, each as the bare text of an answer.

    A number is written out; a list (or array) holds alternatives; a mapping holds its answer under `target`,
    `ground_truth`, `answer` or `final_answer`; of a worked solution the last box counts, or the text after `####`.
    What is none of these (None, NaN) gives no answer.
    """
    if isinstance(gold, str):
        return [_bare(gold)]
    if hasattr(gold, "tolist") and not isinstance(gold, (Mapping, Sequence)):
        gold = gold.tolist()  # numpy scalars and arrays, torch tensors
    if isinstance(gold, bool) or gold is None:
        return []
    if isinstance(gold, int):
        return [str(gold)]
    if isinstance(gold, float):
        if not math.isfinite(gold):
            return []
        return [str(int(gold)) if gold == int(gold) and abs(gold) < 1e15 else repr(gold)]
    if isinstance(gold, Mapping):
        for key in _KEYS:
            if gold.get(key) is not None:
                return gold_answers(gold[key])
        return []
    if isinstance(gold, (Sequence, set, frozenset)):
        return [text for item in gold for text in gold_answers(item)]
    return [_bare(str(gold))]


def _bare(text: str) -> str:
    boxes, _unclosed = find_boxes(text)
    if boxes:
        return join_adjacent(text, boxes, len(text)) or unwrap(text[boxes[-1][1] : boxes[-1][2]])
    if "####" in text:
        text = text.rsplit("####", 1)[1]
    # Not the other blanks: a tab or a form feed at the start may be all that is left of \text or \frac.
    return text.strip(" \r\n")


@dataclass(frozen=True)
class GoldProblem:
    """A row whose reference answer cannot be used.

    Attributes:
        row: its place, counted from 0.
        gold: the field as it stands.
        why: in words.
    """

    row: int
    gold: Any
    why: str


def check_golds(rows: Iterable[Any], config: RewardConfig | None = None) -> list[GoldProblem]:
    """The rows whose reference answer the judge cannot read; an empty list means that all are usable.

    Args:
        rows: reference answers, or rows that hold one: verl's `reward_model.ground_truth`, or `ground_truth`, `answer`,
            `target`, `final_answer`.
        config: None for the defaults.

    Every alternative of a row must be readable. Loads math-verify where an answer is no plain number.

    Raises:
        RewardSetupError: the workers cannot be started.
    """
    config = config or RewardConfig()
    problems: dict[int, GoldProblem] = {}
    waiting = []
    for place, row in enumerate(rows):
        gold = _field(row)
        answers = gold_answers(gold)
        if not answers or not all(text.strip() for text in answers):
            problems[place] = GoldProblem(place, gold, "empty")
            continue
        for text in answers:
            if len(text) > config.max_gold_chars:
                problems[place] = GoldProblem(place, gold, "too long")
            elif read_number(text) is None:
                request = {"op": "read", "gold": text, "policy": config.policy()}
                waiting.append((place, gold, shared_pool(config).submit(request)))
    for place, gold, future in waiting:
        reason = future.result()["reason"]
        if reason != "right":
            why = "it cannot be parsed" if reason == "gold_unreadable" else f"reading it ended in {reason}"
            problems.setdefault(place, GoldProblem(place, gold, why))
    return [problems[place] for place in sorted(problems)]


def _field(row: Any) -> Any:
    """The reference answer of a row, or the row itself where it is one."""
    if isinstance(row, Mapping):
        inner = row.get("reward_model")
        if isinstance(inner, Mapping):
            return inner.get("ground_truth")
    return row
