"""The arithmetic task: problems, chains and splits."""

from __future__ import annotations

import random
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # `examples` is not installed with the package

from examples.arithmetic.task import LEVELS, SPLITS, Fork, Habits, Problem, apply, chain, problems, split_of

RIGHT = Habits().without_errors()


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("3+4*5-2", 3),  # 7, 35 -> 5, 3: strictly from left to right
        ("2-5", 7),  # -3 modulo 10
        ("9*9*9", 9),  # 81 -> 1, 9
        ("0*7+8", 8),
        ("1-2-3-4-5-6-7-8", 6),  # 1 - 35 = -34 -> 6
        ("8+7*6-5+4*3-2*1", 5),  # 15 -> 5, 30 -> 0, -5 -> 5, 9, 27 -> 7, 5, 5
    ],
)
def test_answers_worked_by_hand(text: str, answer: int) -> None:
    problem = Problem(text)
    assert problem.answer == answer
    assert problem.level == len(re.findall(r"\d", text))


@pytest.mark.parametrize("text", ["", "3", "3+", "12+3", "3+4=7", "3/4", "3 + 4"])
def test_what_is_not_a_problem_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a problem"):
        Problem(text)


def steps_of(text: str) -> list[str]:
    return re.sub(r"\\boxed\{\d\}$", "", text).split(";")[:-1]


def test_every_chain_without_an_error_ends_in_the_true_answer_and_every_step_is_true() -> None:
    rng = random.Random(1)
    for problem in problems("train", 300):
        for _ in range(4):
            text = chain(problem, RIGHT, rng)
            assert text.endswith(f"\\boxed{{{problem.answer}}}")
            value = before = int(problem.text[0])
            done = ""
            for step in steps_of(text):
                if step.startswith("?"):  # a check looks again at the step just taken
                    assert step == f"?{before}{done[-2:]}={value}"
                    continue
                before = value
                spelled = step.split("=")[0][1:] if "=" in step else step[:-1]
                if "=" in step:
                    assert step[0] == str(before)
                for operator, operand in re.findall(r"([+\-*])(\d)", spelled):
                    value = apply(value, operator, int(operand))
                done += spelled
                assert step[-1] == str(value)
            assert problem.text == problem.text[0] + done


def test_lengths_of_the_ways() -> None:
    problem = Problem("1+1+1+1+1")
    rng = random.Random(0)
    never = Fork(0, 0)
    restated = chain(problem, Habits(Fork(1, 0), never, never, never), rng)
    concise = chain(problem, Habits(never, Fork(1, 0), never, never), rng)
    jump = chain(problem, Habits(never, never, Fork(1, 0), never), rng)
    checked = chain(problem, Habits(Fork(1, 0), never, never, Fork(1, 0)), rng)
    assert restated == "1+1=2;2+1=3;3+1=4;4+1=5;\\boxed{5}"
    assert concise == "+12;+13;+14;+15;\\boxed{5}"
    assert jump == "+1+13;+1+15;\\boxed{5}"
    assert checked.startswith("1+1=2;?1+1=2;2+1=3;?2+1=3;")


def test_error_rates_are_those_asked_for() -> None:
    problem, rng = Problem("4+5"), random.Random(2)
    habits = Habits(Fork(1, 0.3), Fork(0, 0), Fork(0, 0), Fork(0, 0))
    wrong = sum(not chain(problem, habits, rng).startswith("4+5=9") for _ in range(2000)) / 2000
    assert abs(wrong - 0.3) < 0.04


def test_a_chain_keeps_within_its_length() -> None:
    rng, habits = random.Random(3), Habits(Fork(1, 0), Fork(0, 0), Fork(0, 0), Fork(1, 0))
    assert max(len(chain(p, habits, rng, max_chars=60)) for p in problems("train", 200)) <= 60


@pytest.mark.parametrize("habits", [(Fork(0.5, 0), Fork(0.4, 0), Fork(0.2, 0)), (Fork(1.2, 0), Fork(0, 0), Fork(0, 0))])
def test_impossible_habits_are_refused(habits: tuple[Fork, ...]) -> None:
    with pytest.raises(ValueError, match=r"add up to 1|between 0 and 1"):
        Habits(*habits)


def test_habits_are_read_from_a_mapping_and_what_is_not_named_stays() -> None:
    given = {"restated": {"share": 0.5, "error": 0.2}, "concise": {"share": 0.25, "error": 1}}
    assert Habits.from_mapping(given) == Habits(Fork(0.5, 0.2), Fork(0.25, 1.0), Habits().jump, Habits().recheck)
    assert Habits.from_mapping({}) == Habits()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"leap": {"share": 1, "error": 0}}, "leap"),
        ([], "must be a mapping"),
        ({"jump": {"share": 0.25}}, "jump must be"),
        ({"jump": 0.25}, "jump must be"),
        ({"jump": {"share": "0.25", "error": 0}}, "must be numbers"),
        ({"jump": {"share": 0.5, "error": 0}}, "add up to 1"),
        ({"jump": {"share": 0.25, "error": 2}}, "between 0 and 1"),
    ],
)
def test_habits_that_cannot_be_are_refused(given: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Habits.from_mapping(given)


def test_splits_are_disjoint_balanced_and_reproducible() -> None:
    sets = {name: problems(name, 300, seed=5) for name, _ in SPLITS}
    texts = [p.text for found in sets.values() for p in found]
    assert len(set(texts)) == len(texts)
    for name, found in sets.items():
        assert all(split_of(p) == name for p in found)
        assert [p.level for p in found[: len(LEVELS)]] == list(LEVELS)
        assert found == problems(name, 300, seed=5)
        assert found[:50] == problems(name, 50, seed=5)  # a smaller set is a beginning of the larger
    assert problems("train", 50, seed=6) != sets["train"][:50]


def test_same_seed_same_problems_on_every_machine() -> None:
    assert [p.text for p in problems("test", 3)] == ["6+8-8", "4-8-6-3", "3*4-1+0-7"]


def test_a_split_that_runs_dry_says_so() -> None:
    with pytest.raises(ValueError, match="too few problems of level 2"):
        problems("validation", 300, levels=(2,))
    with pytest.raises(ValueError, match="unknown split"):
        problems("dev", 1)
