"""Reference answers: what a data set may hold as one, and the check of all of them before a run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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


def check_golds(rows: Iterable[Any], config: Any = None) -> list[GoldProblem]:
    """The rows whose reference answer the judge cannot read; an empty list means that all are usable.

    Args:
        rows: reference answers, or rows that hold one: verl's `reward_model.ground_truth`, or `ground_truth`, `answer`,
            `target`, `final_answer`.
        config: a `RewardConfig`, or None for the defaults.

    Every alternative of a row must be readable. Loads math-verify where an answer is beyond the fast path.
    """
    from .comparison import cleaned_gold, value_readings
    from .config import RewardConfig
    from .fastpath import parse
    from .normalize import with_body
    from .pool import PoolSettings, shared_pool

    config = config or RewardConfig()
    pool = None
    problems: list[GoldProblem] = []
    waiting = []
    for place, row in enumerate(rows):
        gold = _field(row)
        answers = gold_answers(gold)
        if not answers or not all(text.strip() for text in answers):
            problems.append(GoldProblem(place, gold, "empty"))
            continue
        for text in answers:
            cleaned = cleaned_gold(text, config.max_gold_chars)
            if cleaned is None:
                why = "too long" if len(text) > config.max_gold_chars else "nothing but signs"
                problems.append(GoldProblem(place, gold, why))
                break
            if cleaned.problem:
                problems.append(GoldProblem(place, gold, "two numbers side by side"))
                break
            if cleaned.wordy:
                continue
            unread = [body for body in value_readings(cleaned.body) if parse(body) is None]
            if not unread:
                continue
            if pool is None:
                names = PoolSettings.__dataclass_fields__
                pool = shared_pool(PoolSettings(**{name: getattr(config, name) for name in names}))
            waiting.extend(
                (place, gold, pool.submit({"op": "read", "gold": with_body(cleaned, body).latex})) for body in unread
            )
    for place, gold, future in waiting:
        outcome = future.result()
        if outcome != "right":
            why = "math-verify cannot parse it" if outcome == "gold_unreadable" else f"reading it ended in {outcome}"
            problems.append(GoldProblem(place, gold, why))
    first = {problem.row: problem for problem in reversed(problems)}
    return [first[row] for row in sorted(first)]


def _field(row: Any) -> Any:
    """The reference answer of a row, or the row itself where it is one."""
    if isinstance(row, Mapping):
        inner = row.get("reward_model")
        if isinstance(inner, Mapping):
            return inner.get("ground_truth")
    return row
