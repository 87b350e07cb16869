"""Countdown: problems, chains, splits, the reward beside an independent reference, files, and a warm start of seconds."""

from __future__ import annotations

import ast
import json
import operator
import random
import re
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pq = pytest.importorskip("pyarrow.parquet")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from examples.countdown import prepare, warm_start  # noqa: E402
from examples.countdown.reward import DEEPEST, NoValue, boxed, compute_score, value_of  # noqa: E402
from examples.countdown.task import (  # noqa: E402
    LARGEST,
    LEVELS,
    SPLITS,
    Habits,
    Problem,
    chain,
    draw,
    expression,
    outcome,
    problems,
    solutions,
    split_of,
)
from examples.countdown.tokenizer import CHARACTERS, build_tokenizer, chat  # noqa: E402


def by_python(text: str) -> Fraction:
    """The same grammar by Python's own parser."""
    signs = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}

    def value(node: ast.expr) -> Fraction:
        if isinstance(node, ast.BinOp):
            return signs[type(node.op)](value(node.left), value(node.right))
        return Fraction(ast.literal_eval(node))

    return value(ast.parse(text, mode="eval").body)


# Reward


expressions = st.recursive(
    st.integers(0, 60).map(str),
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner, st.booleans()).map(
        lambda t: f"({t[0]}{t[1]}{t[2]})" if t[3] else f"{t[0]} {t[1]}{t[2]}"
    ),
    max_leaves=10,
)


@given(expressions)
@settings(max_examples=300, deadline=None)
def test_values_are_those_of_pythons_parser(text: str) -> None:
    try:
        expected = by_python(text)
    except ZeroDivisionError:
        with pytest.raises(NoValue, match="zero"):
            value_of(text)
        return
    assert value_of(text) == (expected, [int(n) for n in re.findall(r"\d+", text)])


@pytest.mark.parametrize(
    "text",
    ["", " ", "3+", "+3", "-3", "(3", "3)", "()", "3 4", "3**2", "3//2", "2^3", "3,4", "3+x", "__import__('os')", "1234567", "3+\u0663",
     "(" * (DEEPEST + 1) + "3" + ")" * (DEEPEST + 1), "1+" * 200 + "1", "5/0", "5/(3-3)"],
)  # fmt: skip
def test_what_is_no_expression_has_no_value(text: str) -> None:
    with pytest.raises(NoValue):
        value_of(text)
    assert compute_score("countdown", f"\\boxed{{{text}}}", "3,5:8")["score"] == 0.0


@pytest.mark.parametrize(
    ("response", "problem", "right"),
    [
        ("5*7=35+3=38;\\boxed{(5*7)+3}", "3,5,7:38", 1),
        ("\\boxed{3+5*7}", "3,5,7:38", 1),  # * before +, in any order
        ("\\boxed{38}", "3,5,7:38", 0),  # the target alone
        ("\\boxed{(5*7)+3+0}", "3,5,7:38", 0),  # a number that is not given
        ("\\boxed{(5*7)+3}", "3,3,5,7:38", 0),  # not all of them
        ("\\boxed{5*7+3-3+3}", "3,5,7:38", 0),  # one of them more than once
        ("\\boxed{3*8/2}", "2,3,8:12", 1),
        ("\\boxed{1/3*3}", "1,3,3:1", 1),  # exact fractions
        ("\\boxed{(5*7)+3} no: \\boxed{5+7+3}", "3,5,7:38", 0),  # the last box counts
        ("\\boxed{5+7+3} no: \\boxed{ (5*7) + 3 }", "3,5,7:38", 1),
        ("(5*7)+3", "3,5,7:38", 0),
        ("\\boxed{(5*7)+3", "3,5,7:38", 0),
        ("", "3,5,7:38", 0),
    ],
)
def test_scores(response: str, problem: str, right: int) -> None:
    result = compute_score("countdown", response, problem, {"anything": 1})
    assert result["score"] == result["acc"] == float(right)
    assert result["pred"] == (boxed(response) or "")


@pytest.mark.parametrize("problem", ["", "38", "3,5,7", "3:38", "3,5,7=38", "3,5,7:x", None, 38])
def test_a_ground_truth_that_is_no_problem_is_an_error(problem: object) -> None:
    with pytest.raises(ValueError, match="not a countdown problem"):
        compute_score("countdown", "\\boxed{1}", problem)


# Task


def test_solutions_are_all_tries_that_reach_the_target() -> None:
    found = solutions((3, 5, 7), 38)
    assert {expression(*t) for t in found} == {"(5*7)+3", "(7*5)+3"}
    for numbers, target in (((2, 3, 4, 6), 24), ((1, 1, 12), 13), ((9, 9, 9), 9)):
        for order, operators in solutions(numbers, target):
            assert by_python(expression(order, operators)) == target and sorted(order) == sorted(numbers)
    assert len(solutions((1, 2, 3, 4), 10)) > 20  # many


def test_every_problem_has_a_solution_and_lies_in_its_ranges() -> None:
    for problem in problems("train", 200):
        assert solutions(tuple(problem.numbers), problem.target)
        assert 1 <= problem.target <= LARGEST and all(1 <= number <= 12 for number in problem.numbers)


def test_chains_say_what_they_do_and_end_in_what_was_tried_last() -> None:
    rng, right, tries = random.Random(0), [], []
    for problem in problems("train", 200):
        text = chain(problem, Habits(error=0.0), rng)
        *attempts, box = text.split(";")
        assert 1 <= len(attempts) <= 4
        ends = []
        for attempt in attempts:
            first, *rest = re.split(r"(?=[+\-*])", attempt)
            value = int(first)
            for step in rest:  # "+5=8"
                said = re.fullmatch(r"([+\-*])(\d+)=(\d+)", step)
                value = {"+": value + int(said[2]), "-": value - int(said[2]), "*": value * int(said[2])}[said[1]]
                assert value == int(said[3]) and 0 <= value <= LARGEST
            used = [int(first)] + [int(re.match(r"[+\-*](\d+)", step)[1]) for step in rest]
            assert sorted(used) == sorted(problem.numbers)
            ends.append(value)
        assert problem.target not in ends[:-1]  # nothing is tried after a success
        assert value_of(boxed(box))[0] == ends[-1]
        right.append(compute_score("countdown", text, problem.text)["score"] == 1.0)
        assert right[-1] == (ends[-1] == problem.target)
        tries.append(len(attempts))
    assert 0.1 < sum(right) / len(right) < 0.7 and len(set(tries)) == 4


def test_errors_and_nose_are_as_asked_for() -> None:
    rng = random.Random(1)
    chosen = problems("train", 150)
    assert all(compute_score("", chain(p, Habits(nose=1.0, error=0.0), rng), p.text)["score"] for p in chosen)
    blind = [compute_score("", chain(p, Habits(nose=0.0, error=0.0), rng, max_tries=1), p.text)["score"] for p in chosen]
    assert sum(blind) / len(blind) < 0.2
    wrong = Habits(nose=1.0, error=1.0)
    assert sum(compute_score("", chain(p, wrong, rng), p.text)["score"] for p in chosen) > 0  # the expression may be right all the same
    with pytest.raises(ValueError, match="nose must be between 0 and 1"):
        Habits(nose=1.5)


def test_splits_are_disjoint_and_know_no_order_of_the_numbers() -> None:
    def key(problem: Problem) -> tuple:
        return tuple(sorted(problem.numbers)), problem.target

    sets = {name: problems(name, 200, seed=3) for name, _ in SPLITS}
    keys = [key(p) for found in sets.values() for p in found]
    assert len(set(keys)) == len(keys)
    for name, found in sets.items():
        assert all(split_of(p) == name for p in found)
        assert [p.level for p in found[:4]] == [*LEVELS, *LEVELS]
        assert found[:50] == problems(name, 50, seed=3) != problems(name, 50, seed=4)
    assert split_of(Problem("3,5,7:38")) == split_of(Problem("7,3,5:38"))
    with pytest.raises(ValueError, match="too few problems of level 2"):
        problems("validation", 1000, levels=(2,))
    with pytest.raises(ValueError, match="unknown split"):
        problems("dev", 1)


def test_same_seed_same_problems_on_every_machine() -> None:
    rng = random.Random(0)
    assert [draw(rng, 3).text for _ in range(2)] == SAME
    assert outcome((12, 9, 1), ("*", "-")) is None  # 108 is out of range


SAME = ["7,7,1:1", "2,10,5:25"]


# Files, tokenizer, warm start


def test_parquet_files(tmp_path) -> None:
    sizes = {"train": 20, "test": 20, "beyond": 6}
    paths, again = prepare.write(tmp_path / "a", sizes, seed=1), prepare.write(tmp_path / "b", sizes, seed=1)
    for split, path in paths.items():
        assert path.read_bytes() == again[split].read_bytes()
        for i, row in enumerate(pq.read_table(path).to_pylist()):
            info = row["extra_info"]
            problem = Problem(info["problem"])
            assert row["prompt"] == [{"role": "user", "content": problem.text}]
            assert row["reward_model"] == {"style": "rule", "ground_truth": problem.text}
            assert info["id"] == f"countdown/{split}/{i}" and info["level"] == problem.level
            assert info["solutions"] >= 1
            assert (problem.level == 5) == (split == "beyond")


def test_a_number_is_one_token_and_text_survives(tmp_path) -> None:
    build_tokenizer().save_pretrained(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    rng = random.Random(0)
    texts = [p.text for p in problems("train", 30)] + [chain(p, Habits(), rng) for p in problems("train", 60)]
    for text in [*texts, CHARACTERS]:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.convert_ids_to_tokens(tokenizer("12+7=19;\\boxed{12+7}")["input_ids"]) == [
        "12", "+", "7", "=", "19", ";", "\\boxed{", "12", "+", "7", "}",
    ]  # fmt: skip
    ids = tokenizer.apply_chat_template(chat("3,5,7:38"), add_generation_prompt=True, return_dict=False)
    assert len(ids) == 11


def test_a_warm_start_of_seconds(tmp_path, capsys) -> None:
    tiny = warm_start.Settings(steps=30, batch=8, layers=1, hidden=64, intermediate=64, warmup_steps=5)
    _, losses = warm_start.train(tiny, build_tokenizer(), quiet=True)
    assert sum(losses[-5:]) / 5 < 0.8 * losses[0]
    quick = warm_start.Settings(**{**vars(tiny), "steps": 1})
    out = tmp_path / "start"
    record = warm_start.make(out, quick, eval_problems=4)
    assert "numbers" in capsys.readouterr().out
    assert json.loads((out / "warm_start.json").read_text()) == json.loads(json.dumps(record))
    stamp = (out / "model.safetensors").stat().st_mtime_ns
    assert warm_start.make(out, quick, eval_problems=4, quiet=True) == json.loads(json.dumps(record))
    assert (out / "model.safetensors").stat().st_mtime_ns == stamp
    assert set(record["start_policy"]["levels"]) == {"3", "4"}


@pytest.mark.parametrize("algorithm", ["grpo", "erpo"])
def test_it_trains_with_its_own_reward(tmp_path, algorithm, capsys) -> None:
    from erpo_verl.trainer.run import train

    quick = warm_start.Settings(steps=1, layers=1, hidden=64, intermediate=64)
    warm_start.make(tmp_path / "start", quick, eval_problems=2, quiet=True)
    data = prepare.write(tmp_path / "data", {"train": 8, "validation": 2})
    code = train(
        [
            f"examples/countdown/{algorithm}.yaml", f"actor_rollout_ref.model.path={tmp_path / 'start'}",
            f"data.train_files={data['train']}", f"data.val_files={data['validation']}", "data.train_batch_size=4",
            "actor_rollout_ref.actor.ppo_mini_batch_size=2", "actor_rollout_ref.rollout.n=2", "data.max_response_length=12",
            "trainer.total_training_steps=1", "trainer.save_freq=-1", "trainer.save_final_model=false",
            f"trainer.default_local_dir={tmp_path / 'run'}",
        ]
    )  # fmt: skip
    assert code == 0, capsys.readouterr().err
    data = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["data"]
    assert "val-core/countdown/acc/mean@2" in data and "critic/score/mean" in data
