"""The problem sets: where each stands on the hub, which columns hold what, and by which rule its answers are read.

One line of `SETS` a set. Columns are tried in order, dots go into structs, and a list of chat messages stands for its
last user message; so the hub's file and the copies of it that go round are read by the same line.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from erpo_verl.data.source import PrepareError
from erpo_verl.rows import RowError, as_text, struct

PROBLEM = ("extra_info.problem", "problem", "question", "prompt")
TRAIN, TEST = {"train": "train"}, {"test": "test"}


@dataclass(frozen=True)
class ProblemSet:
    """A problem set.

    Attributes:
        name: as the command takes it, and `data_source` in the result.
        title: a phrase for `--list`.
        hub: repository on the Hugging Face hub.
        splits: our split -> the hub's split; the first is the default.
        rows: our split -> number of rows that the hub's file is known to have.
        config: the hub's configuration, None where there is only one.
        gold_rule: a name in `golds.GOLD_RULES`.
        problem, gold, solution, level, type, unit, source_id: columns, tried in order (of `gold`, all go to the rule).
    """

    name: str
    title: str
    hub: str
    splits: Mapping[str, str]
    rows: Mapping[str, int]
    gold_rule: str
    gold: tuple[str, ...] = ("answer", "reward_model.ground_truth")
    config: str | None = None
    problem: tuple[str, ...] = PROBLEM
    solution: tuple[str, ...] = ()
    level: tuple[str, ...] = ()
    type: tuple[str, ...] = ()
    unit: tuple[str, ...] = ()
    source_id: tuple[str, ...] = ("id", "unique_id", "extra_info.id", "extra_info.index")

    @property
    def columns(self) -> frozenset[str]:
        """The top-level columns that are read."""
        paths = (*self.problem, *self.gold, *self.solution, *self.level, *self.type, *self.unit, *self.source_id)
        return frozenset(path.split(".")[0] for path in paths)


SETS: dict[str, ProblemSet] = {
    s.name: s
    for s in (
        ProblemSet(
            "gsm8k", "grade-school word problems", "openai/gsm8k", {"train": "train", "test": "test"},
            {"train": 7473, "test": 1319}, "number", config="main", source_id=("idx",),
        ),
        ProblemSet(
            "math", "MATH (Hendrycks), seven subjects, levels 1 to 5", "DigitalLearningGmbH/MATH-lighteval",
            {"train": "train", "test": "test"}, {"train": 7500, "test": 5000}, "box",
            gold=("reward_model.ground_truth.target", "answer"), solution=("reward_model.ground_truth.solution", "solution"),
            level=("level",), type=("type", "subject"),
        ),
        ProblemSet(
            "math500", "the 500 problems of MATH's test set that are used most", "HuggingFaceH4/MATH-500", TEST,
            {"test": 500}, "text", level=("level",), type=("subject", "type"), source_id=("unique_id",),
        ),
        ProblemSet(
            "aime24", "AIME 2024, I and II", "HuggingFaceH4/aime_2024", {"test": "train"}, {"test": 30}, "integer",
            gold=("answer", "reward_model.ground_truth", "solution"),
        ),
        ProblemSet(
            "aime25", "AIME 2025, I and II", "math-ai/aime25", TEST, {"test": 30}, "integer",
            gold=("answer", "reward_model.ground_truth", "solution"),
        ),
        ProblemSet("amc23", "AMC 12, 2023, with whole-number answers", "math-ai/amc23", TEST, {"test": 40}, "integer"),
        ProblemSet(
            "minerva", "Minerva: university science and maths", "math-ai/minervamath", TEST, {"test": 272}, "box",
            gold=("answer",), solution=("solution",), type=("type",), source_id=("idx", "id"),
        ),
        ProblemSet(
            "olympiadbench", "OlympiadBench: English, text only, open answers, maths", "Hothan/OlympiadBench",
            {"test": "train"}, {"test": 674}, "listed", config="OE_TO_maths_en_COMP", gold=("final_answer", "answer"),
            type=("subfield",), unit=("unit",),
        ),
        ProblemSet(
            "dapo-math-17k", "DAPO-Math-17k; the hub's file repeats each problem about 100 times",
            "BytedTsinghua-SIA/DAPO-Math-17k", TRAIN, {"train": 1791700}, "text", gold=("reward_model.ground_truth", "answer"),
            source_id=("extra_info.index",),
        ),
        ProblemSet(
            "deepscaler", "DeepScaleR's preview set", "agentica-org/DeepScaleR-Preview-Dataset", TRAIN, {"train": 40315},
            "text", gold=("answer", "reward_model.ground_truth"),
        ),
        ProblemSet(
            "skywork-or1", "Skywork-OR1, the maths part (for 8k of it: --sample 8000)", "Skywork/Skywork-OR1-RL-Data",
            {"train": "math"}, {"train": 105055}, "text", gold=("reward_model.ground_truth", "answer"),
            type=("data_source",), source_id=("extra_info.index",),
        ),
    )
}  # fmt: skip
CUSTOM = "custom"
CUSTOM_FIELDS = ("problem", "answer", "level", "type", "unit", "id")
ARITHMETIC = "arithmetic"


def find_set(name: str, columns: str | None = None) -> ProblemSet:
    """The set of that name; `custom` is made from `columns` ("problem=question,answer=gold").

    Raises:
        PrepareError: there is no such set (suggests the nearest), or `columns` cannot be understood.
    """
    if name == CUSTOM:
        return _custom(columns)
    if columns:
        raise PrepareError(f"--columns is for the set {CUSTOM!r}; the columns of {name!r} are known")
    if name == ARITHMETIC:
        raise PrepareError(
            "the arithmetic task is made by a generator that is part of a checkout and not of the installed package: "
            "run `python -m examples.arithmetic.prepare --out DIR` in the checkout's folder"
        )
    if name not in SETS:
        near = difflib.get_close_matches(name.lower(), [*SETS, CUSTOM, ARITHMETIC], 1, 0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise PrepareError(f"no set {name!r}: {hint}`erpo prepare --list` prints all; any other file is `custom`")
    return SETS[name]


def _custom(columns: str | None) -> ProblemSet:
    mapping: dict[str, str] = {}
    for part in (columns or "problem=problem,answer=answer").split(","):
        ours, equals, theirs = part.partition("=")
        ours, theirs = ours.strip(), theirs.strip()
        if not equals or not theirs or ours not in CUSTOM_FIELDS:
            raise PrepareError(f"--columns {part!r}: expected NAME=COLUMN with NAME one of {', '.join(CUSTOM_FIELDS)}")
        mapping[ours] = theirs
    missing = [name for name in ("problem", "answer") if name not in mapping]
    if missing:
        raise PrepareError(f"--columns names no column for {' and '.join(missing)}")
    optional = {name: (mapping[name],) if name in mapping else () for name in ("level", "type", "unit", "id")}
    return ProblemSet(
        CUSTOM, "any .jsonl or .parquet file", "", {"train": "train", "test": "test"}, {}, "text",
        gold=(mapping["answer"],), problem=(mapping["problem"],), level=optional["level"], type=optional["type"],
        unit=optional["unit"], source_id=optional["id"],
    )  # fmt: skip


def lookup(row: Mapping[str, Any], path: str) -> Any:
    """What stands in a row under a dotted path, None where there is nothing. Structs may be JSON text; bytes are read as text."""
    value: Any = row
    try:
        for name in path.split("."):
            value = (value if isinstance(value, Mapping) else struct(value, name)).get(name)
        return as_text(value, path)
    except RowError:
        return None


def first_text(row: Mapping[str, Any], paths: Sequence[str]) -> tuple[str, bool]:
    """The first of some columns that holds text (or a number), and whether it came out of a list of chat messages."""
    for path in paths:
        value = lookup(row, path)
        chat = isinstance(value, (list, tuple))
        if chat:
            users = [m.get("content") for m in value if isinstance(m, Mapping) and m.get("role") == "user"]
            value = users[-1] if users else None
        if isinstance(value, bool) or value is None:
            continue
        text = value if isinstance(value, str) else str(value) if isinstance(value, (int, float)) else ""
        if text.strip():
            return text, chat
    return "", False
