"""Dynamic sampling: it says how far it is, hears a stop between batches, and ends where no group is of use."""

import os
import signal

import pyarrow.parquet as pq
import pytest
from trainer_runs import command, metrics, run_here, same_weights, save_tiny, write_task

SAVING = ["trainer.save_freq=1"]
# Groups of every third prompt differ; the process gets a SIGTERM in the middle of the given call.
SPARSE = """
import os, signal
calls = 0
def f(data_source, solution_str, ground_truth, extra_info, stop_at=0):
    global calls
    calls += 1
    if calls == stop_at:
        os.kill(os.getpid(), signal.SIGTERM)
    return {"score": float(calls % 2 and extra_info["index"] % 3 == 0), "acc": 0.0}
"""


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return write_task(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model"))


def run_of(folder, model, task, body, *overrides):
    (folder / "mine.py").write_text(body)
    return command(
        folder / "run", model, task, "algorithm.filter_groups.enable=true", f"reward.custom_reward_function.path={folder / 'mine.py'}",
        "reward.custom_reward_function.name=f", "trainer.total_training_steps=2", *overrides,
    )  # fmt: skip


def test_batches_without_one_usable_group_end_the_run_with_what_to_do(task, model, tmp_path):
    run = run_of(tmp_path, model, task, "def f(*args):\n    return 0.0\n", "algorithm.filter_groups.max_empty_batches=3")
    output = run_here(run, 1)
    assert "step 1: 1 batch sampled, 0 of 4 groups found" in output and "step 1: 2 batches sampled, 0 of 4 groups found" in output
    assert "step 1: 3 batches of 4 prompts in a row (48 responses) held no group whose reward differs: the reward is 0.0 for every" in output
    assert "algorithm.filter_groups.max_empty_batches" in output and "Traceback" not in output


def test_a_batch_with_one_usable_group_is_no_empty_one(task, model, tmp_path):
    """With as few as one in a row, a run whose every batch has some goes on."""
    run = run_of(tmp_path, model, task, SPARSE, "algorithm.filter_groups.max_empty_batches=1", "data.train_batch_size=8", "data.shuffle=false")
    run_here(run)
    assert [line["data"]["training/num_gen_batches"] for line in metrics(tmp_path / "run")] == [3.0, 3.0]


def test_a_stop_is_heard_between_batches_and_the_run_goes_on_as_if_never_stopped(task, model, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    whole.mkdir()
    stopped.mkdir()
    probe = 2 + 64  # calls before training
    run_here(run_of(whole, model, task, SPARSE, *SAVING, "data.shuffle=false"))
    first = int(metrics(whole / "run")[0]["data"]["training/num_gen_batches"])
    kill = probe + 16 * first + 5  # in the first batch of step 2
    before = signal.getsignal(signal.SIGTERM)
    output = run_here(run_of(stopped, model, task, SPARSE, *SAVING, "data.shuffle=false", f"reward.custom_reward_function.reward_kwargs.stop_at={kill}"), 130)
    assert signal.getsignal(signal.SIGTERM) is before
    assert "step 2 was given up before it had all its groups" in output and "stopped after step 1 of 2" in output
    assert "goes on from the newest checkpoint, global_step_1" in output
    assert [line["step"] for line in metrics(stopped / "run")] == [1]
    run_here(run_of(stopped, model, task, SPARSE, *SAVING, "data.shuffle=false"))
    assert [line["step"] for line in metrics(stopped / "run")] == [1, 2]
    assert same_weights(stopped / "run" / "model", whole / "run" / "model")


def test_a_stop_in_the_first_step_leaves_no_checkpoint_and_says_so(task, model, tmp_path):
    run = run_of(tmp_path, model, task, SPARSE, "data.shuffle=false", "reward.custom_reward_function.reward_kwargs.stop_at=70")
    output = run_here(run, 130)
    assert "stopped after step 0 of 2" in output and "there is no checkpoint to go on from" in output
    assert not list((tmp_path / "run").glob("global_step_*")) and os.path.getsize(tmp_path / "run" / "metrics.jsonl") == 0


@pytest.mark.parametrize(
    ("body", "metric", "code"),
    [
        ("{'score': float(extra_info['index'] % 2), 'acc': 0}", "nothing", 1), ("float(len(solution_str) % 2)", "acc", 0),
        ("{'score': float(len(solution_str) % 2)}", "acc", 1), ("{'score': float(len(solution_str) % 2)}", "score", 0),
        ("float(len(solution_str) % 2)", "seq_reward", 0),
    ],
)  # fmt: skip
def test_a_metric_that_the_reward_does_not_return_is_refused_at_once(task, model, tmp_path, body, metric, code):
    body = f"def f(data_source, solution_str, ground_truth, extra_info):\n    return {body}\n"
    output = run_here(run_of(tmp_path, model, task, body, f"algorithm.filter_groups.metric={metric}", "trainer.total_training_steps=1"), code)
    if code:
        assert f"algorithm.filter_groups.metric={metric}: f returns no such key; it returns " in output and not (tmp_path / "run").exists()


def test_a_group_that_nobody_could_judge_is_of_no_use(task, model, tmp_path):
    """Its rewards differ, but it counts for nothing in the update."""
    body = SPARSE.replace('"acc": 0.0}', '"acc": 0.0, "ungradeable": float(extra_info["index"] == 0)}')
    kept = {}
    for name, text in (("graded", SPARSE), ("missed", body)):
        (tmp_path / name).mkdir()
        run_here(run_of(tmp_path / name, model, task, text, "data.shuffle=false", "trainer.total_training_steps=1", f"trainer.rollout_data_dir={tmp_path / name / 'dump'}"))
        kept[name] = dict.fromkeys(row["prompt"] for row in pq.read_table(tmp_path / name / "dump" / "step_000001.parquet").to_pylist())
    first = next(iter(kept["graded"]))
    assert first not in kept["missed"] and list(kept["graded"])[1:] == list(kept["missed"])[:3]
