"""What a run is given is read and refused before a model is loaded: golds, reward functions, trackers."""

import contextlib
import io
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from trainer_runs import command, save_tiny, write_task

from erpo_verl import golds, hints
from erpo_verl.rows import RowError
from erpo_verl.trainer.reward import Judge
from erpo_verl.trainer.run import train

UNREADABLE = r"\frac{\}{p}i4+2-\sqrt{2}"


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return write_task(tmp_path_factory.mktemp("data"), train=12)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model"))


def checked(arguments, code=0):
    """``erpo train --check``: its output."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        assert train(arguments, check=True) == code, output.getvalue()
    return output.getvalue()


def changed(task, folder, change, name="train"):
    """The task's rows, each through ``change(number, row)``, as the training file of a folder."""
    rows = pq.read_table(task / f"{name}.parquet").to_pylist()
    for number, row in enumerate(rows):
        change(number, row)
    pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    return folder


def with_maths(arguments):
    return [a for a in arguments if "custom_reward_function" not in a]


# --- golds


def test_golds_that_the_reward_cannot_read_are_said_with_their_rows(task, model, tmp_path):
    def spoil(number, row):
        if number in (3, 7):
            row["reward_model"]["ground_truth"] = UNREADABLE

    data = changed(task, tmp_path, spoil)
    output = checked(with_maths(command(tmp_path / "run", model, data)))
    assert "golds that the reward cannot read: 2 of 12, which count for nothing" in output
    assert "train.parquet, row 3: " in output and "row 7: " in output and "12 training prompts" in output


def test_empty_golds_are_refused_with_the_row(task, model, tmp_path):
    def spoil(number, row):
        row["reward_model"]["ground_truth"] = "  " if number == 5 else "1"

    data = changed(task, tmp_path, spoil)
    assert "train.parquet, row 5: reward_model.ground_truth is empty ('  ')" in checked(with_maths(command(tmp_path / "run", model, data)), 1)
    # A function of one's own may want no gold.
    assert "all is well" in checked(command(tmp_path / "run", model, data))


def test_where_no_gold_can_be_read_nothing_is_trained():
    places = [("a.parquet", 4), ("a.parquet", 9)]
    with pytest.raises(RowError, match=r"a\.parquet: the reward can read none of 2 golds; the first, row 4: "):
        golds.check([UNREADABLE] * 2, places)
    found = golds.check(["1", UNREADABLE], places)
    assert [(bad.place, bad.file, bad.row) for bad in found] == [(1, "a.parquet", 9)]
    many = golds.told([golds.Unreadable(n, "a", n, "x", "y") for n in range(7)], 9, "left out")
    assert many.endswith("a, row 4: 'x' (y); and 2 more)") and "7 of 9, left out" in many


def test_which_function_is_the_maths_reward(tmp_path, monkeypatch):
    import erpo_verl.reward

    own = os.path.join(os.path.dirname(erpo_verl.reward.__file__), "verl_reward.py")
    (tmp_path / "verl_reward.py").touch()
    assert golds.is_maths_reward("pkg://erpo_verl.reward", "compute_score") and golds.is_maths_reward(own, "compute_score")
    for path, name in ((None, "compute_score"), ("pkg://erpo_verl.reward", "other"), (str(tmp_path / "verl_reward.py"), "compute_score"), ("gone/verl_reward.py", "compute_score")):
        assert not golds.is_maths_reward(path, name)


# --- reward functions


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 'right'", "f: the score of response 0 is 'right'"),
        ("return None", "f: the score of response 0 is None"),
        ("return {'score': 10**400}", "must be a finite number"),
        ("return {'acc': True}", "f: the score of response 0 is None"),
        ("return float(extra_info['tests'])", "f raised KeyError: 'tests'"),
        ("return 1 / len(solution_str)", "f raised ZeroDivisionError"),
        ("return float(ground_truth == 'x') if extra_info['index'] < 11 else int('many')", "the row with id arithmetic/train/11, before training"),
    ],
)
def test_a_reward_function_that_cannot_work_is_refused_at_once(task, model, tmp_path, body, message):
    (tmp_path / "mine.py").write_text(f"def f(data_source, solution_str, ground_truth, extra_info):\n    {body}\n")
    output = checked([*command(tmp_path / "run", model, task), f"reward.custom_reward_function.path={tmp_path / 'mine.py'}", "reward.custom_reward_function.name=f"], 1)
    assert message in output and "Traceback" not in output and not (tmp_path / "run").exists()


def test_arguments_of_a_reward_function_that_it_does_not_take(task, model, tmp_path):
    arguments = command(tmp_path / "run", model, task)
    assert "unexpected keyword argument 'scal'" in checked([*arguments, "reward.custom_reward_function.reward_kwargs.scal=2"], 1)
    assert "unit = 'required': unknown key; the nearest known key is units" in checked([*with_maths(arguments), "reward.custom_reward_function.reward_kwargs.unit=required"], 1)


# --- trackers


def test_wandb_without_a_key_is_one_line_at_once(model, task, tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    arguments = [*command(tmp_path / "run", model, task), 'trainer.logger=["console","wandb"]']
    output = checked(arguments, 1)
    assert "W&B has no key for https://api.wandb.ai" in output and "leave wandb out of trainer.logger" in output and not (tmp_path / "run").exists()
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert "all is well" in checked(arguments)


# --- the first batch


def test_of_a_first_batch_without_a_right_answer_it_is_said_what_may_help(task, model, tmp_path):
    """A random policy gives the arithmetic task no right answer; the hint comes once, and not where something is right."""
    from trainer_runs import run_here

    data = changed(task, tmp_path, lambda number, row: row["reward_model"].update(ground_truth="123456"))
    arguments = [*with_maths(command(tmp_path / "run", model, data)), "trainer.save_final_model=false"]
    output = run_here(arguments)
    assert output.count("nothing of the first batch is right (16 responses)") == 1
    assert r"of 16 hold no final answer in a form that counts" in output and "where the gold is '123456'" in output
    output = run_here([*command(tmp_path / "own", model, task), "trainer.save_final_model=false", "trainer.total_training_steps=1"])
    assert "nothing of the first batch" not in output


def test_what_the_first_batch_shows():
    found = hints.first_batch(["so\nAnswer: 7", "", " "], ["7", "8", "9"], [0, 0, 0], [True, False, False], judge={}, reasons=[2, 2, 3], forms_key="KEY", length_key="LENGTH")
    assert found[0] == "nothing of the first batch is right (3 responses)"
    assert found[1].startswith("1 of 3 would be right if a final answer counted in any form") and "KEY=any" in found[1]
    assert found[2:] == [r"2 of 3 hold no final answer in a form that counts", "2 of 3 were cut off: LENGTH may be too short", "2 of 3 are empty"]
    assert hints.first_batch(["a", "b"], ["1", "1"], [0, 0.5], [True, True]) == [] == hints.first_batch([], [], [], [])
    own = hints.first_batch(["a" * 200, "b"], ["1", "1"], [0, -1], [True, True])
    assert own == ["nothing of the first batch is right (2 responses)", f"the first one ends in {'a' * 80!r}, where the gold is '1'"]


def test_votes_of_the_maths_reward_are_by_value_and_of_another_as_spelled():
    from erpo_verl.reward import compute_score

    assert Judge(compute_score, maths=True).votes(["", r"\ln4", r"2\ln2", "3", ""]) == ["", "0", "0", "1", ""]
    assert Judge(lambda d, s, g, e: 0.0).votes(["", 1, r"\ln4"]) == ["", "1", r"\ln4"]


def test_a_validation_group_that_nobody_could_judge_is_left_out():
    from dataclasses import replace

    from trainer_runs import random_batch

    from erpo_verl.trainer.validation import as_problems

    batch = random_batch(prompts=3, n=2)
    info = {"acc": [1.0, 0.0, 1.0, 1.0, 0.0, 0.0], "pred": list("abcdef")}
    votes = Judge(lambda d, s, g, e: 0.0).votes
    whole = as_problems(replace(batch, reward_info=info), 2, votes)
    assert [p.acc for p in whole] == [[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]] and whole[0].predictions == ["a", "b"]
    missed = as_problems(replace(batch, reward_info={**info, "ungradeable": [0, 0, 0, 1.0, 0, 0]}), 2, votes)
    assert [p.acc for p in missed] == [[1.0, 0.0], [0.0, 0.0]]
