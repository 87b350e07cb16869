"""Going on: the position in the data belongs to an order of prompts; validating alone leaves a run's history as it is."""

import hashlib
import json
import shutil

import pyarrow.parquet as pq
import pytest
from trainer_runs import TOKENIZER, command, metrics, run_here, save_tiny, write_task

from erpo_verl.trainer.data import changes, new_epoch


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return write_task(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def begun(task, model, tmp_path_factory):
    """A run of three steps with a checkpoint each; 12 of 64 prompts are behind it."""
    out = tmp_path_factory.mktemp("run") / "run"
    arguments = command(out, model, task, "trainer.save_freq=1", "trainer.total_training_steps=3")
    run_here(arguments)
    return out, arguments


def going_on(begun, folder, *overrides):
    """The arguments of a longer run in a copy of the folder."""
    out = folder / "run"
    if not out.exists():
        shutil.copytree(begun[0], out)
    return out, [*begun[1], f"trainer.default_local_dir={out}", "trainer.total_training_steps=4", "trainer.save_final_model=false", *overrides]


def files(folder):
    """Every file with its hash."""
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.rglob("*")) if f.is_file()}


# --- the position in the data


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("data.seed=2", "data.seed was 1 and is 2"), ("data.shuffle=false", "data.shuffle was True and is False"),
        ("data.train_max_samples=40", "data.train_max_samples was -1 and is 40"),
        ("data.max_prompt_length=10 data.filter_overlong_prompts=true", "data.filter_overlong_prompts was False and is True, data.max_prompt_length was 24 and is 10"),
        ("data.apply_chat_template_kwargs.mode=2", None),  # the template does not look at it: the same prompts
        ("data.max_prompt_length=23", None),
    ],
)  # fmt: skip
def test_a_changed_order_of_the_prompts_is_refused_and_named(begun, tmp_path, override, told):
    out, run = going_on(begun, tmp_path, *override.split())
    before = files(out)
    output = run_here(run, 1 if told else 0)
    if told:
        assert f"global_step_3 is of a run on other training data or another order of it: {told}. Give what it was" in output
        assert "trainer.resume_data=new_epoch" in output and files(out) == before
    else:
        assert [line["step"] for line in metrics(out)] == [1, 2, 3, 4]


def test_other_content_and_another_template_are_named(begun, task, tmp_path):
    out, run = going_on(begun, tmp_path)
    rows = pq.read_table(task / "train.parquet")
    turned = tmp_path / "turned.parquet"
    pq.write_table(rows.take(list(range(63, -1, -1))), turned)  # the same rows in another order
    assert "other training data or another order of it: data.train_files has changed. Give" in run_here([*run, f"data.train_files={turned}"], 1)
    other = tmp_path / "tokenizer"
    TOKENIZER.save_pretrained(other)
    file = other / "chat_template.jinja"
    file.write_text(file.read_text().replace("add_generation_prompt", "true or add_generation_prompt") + "{{ '+' }}")
    output = run_here([*run, f"actor_rollout_ref.model.tokenizer_path={other}"], 1)
    assert "another order of it: the chat template or data.apply_chat_template_kwargs has changed" in output
    same = tmp_path / "moved.parquet"
    shutil.copy(task / "train.parquet", same)
    run_here([*run, f"data.train_files={same}"])
    assert [line["step"] for line in metrics(out)] == [1, 2, 3, 4]


def test_a_new_epoch_by_an_explicit_setting(begun, tmp_path):
    """12 of 64 prompts were taken: the second epoch of the new order begins, at its first prompt. Said once more, it changes nothing."""
    out, run = going_on(begun, tmp_path, "data.train_max_samples=40", "trainer.resume_data=new_epoch", "trainer.save_freq=1")
    assert "data.train_max_samples was -1 and is 40; a new epoch of these begins" in run_here(run)
    assert [line["step"] for line in metrics(out)] == [1, 2, 3, 4]
    assert metrics(out)[-1]["data"]["training/epoch"] == (40 + 4) / 40
    output = run_here([*run, "trainer.total_training_steps=5"])
    assert "new epoch" not in output and metrics(out)[-1]["data"]["training/epoch"] == (40 + 8) / 40


def test_where_a_new_epoch_begins():
    assert [new_epoch({"count": 10}, position, 7) for position in (0, 1, 10, 11)] == [0, 7, 7, 14]
    assert changes({"parts": {"a": 1}}, {"parts": {"a": 1}}) == "the tokenizer, or what the template makes of a row, has changed"


# --- validating alone


@pytest.mark.parametrize("how", ["auto", "older", "disable", "beside"])
def test_val_only_writes_nothing_into_a_runs_history(begun, task, tmp_path, how):
    out, run = going_on(begun, tmp_path)
    run = [*run, "trainer.val_only=true", f"data.val_files={task / 'validation.parquet'}", "data.seed=5", f"trainer.validation_data_dir={out / 'validation'}"]
    if how == "older":
        run += ["trainer.resume_mode=resume_path", f"trainer.resume_from_path={out / 'global_step_1'}"]
    elif how == "disable":
        run += ["trainer.resume_mode=disable"]
    else:
        (out / ".global_step_4.partial-1").mkdir()  # of a run that is under way
    before = files(out)
    output = run_here(run)
    after = files(out)
    step = {"auto": 3, "older": 1, "disable": 0, "beside": 3}[how]
    assert after.keys() - before.keys() == {"val_only.jsonl", f"validation/val_only_{step:06d}_0.parquet"}
    assert before.items() <= after.items() and ("disable" in how or (out / "global_step_3").is_dir())
    assert how not in ("auto", "beside") or (out / ".global_step_4.partial-1").is_dir()
    line = json.loads((out / "val_only.jsonl").read_text())
    assert line["step"] == step and line["checkpoint"] == (str(out / f"global_step_{step}") if step else None)
    value = line["data"]["val-core/arithmetic/acc/mean@1"]
    assert f"step {step}: val-core/arithmetic/acc/mean@1 {value:.3f}" in output and "val_only.jsonl" in output


def test_val_only_adds_a_line_each_time_and_needs_no_run(model, task, tmp_path):
    run = command(tmp_path / "new", model, task, "trainer.val_only=true", f"data.val_files={task / 'validation.parquet'}")
    run_here(run)
    run_here(run)
    lines = [json.loads(line) for line in (tmp_path / "new" / "val_only.jsonl").read_text().splitlines()]
    for line in lines:
        del line["data"]["timing_s/testing"]
        line["data"] = {name: value for name, value in line["data"].items() if "latency" not in name}
    assert len(lines) == 2 and lines[0] == lines[1] and [f.name for f in (tmp_path / "new").iterdir()] == ["val_only.jsonl"]


@pytest.mark.parametrize(
    ("returned", "core"), [("{'score': share}", "reward"), ("share", "acc"), ("{'score': share, 'acc': share > 0.5}", "acc"), ("share > 0.5", "acc")]
)
def test_validation_is_named_as_verl_names_it(model, task, tmp_path, returned, core):
    (tmp_path / "mine.py").write_text(
        "def f(data_source, solution_str, ground_truth, extra_info):\n"
        f"    share = sum(map(str.isdigit, solution_str)) / max(1, len(solution_str))\n    return {returned}\n"
    )
    run_here(
        command(tmp_path / "run", model, task, "trainer.val_only=true", f"data.val_files={task / 'validation.parquet'}",
                f"reward.custom_reward_function.path={tmp_path / 'mine.py'}", "reward.custom_reward_function.name=f")
    )  # fmt: skip
    data = json.loads((tmp_path / "run" / "val_only.jsonl").read_text())["data"]
    assert [name for name in data if name.startswith("val-core/") and "/mean@" in name] == [f"val-core/arithmetic/{core}/mean@1"]
