"""Whole runs of the engine as a user starts them: metrics, checkpoints, resuming after every kind of end, loggers, dumps."""

import contextlib
import json
import math
import os
import resource
import shutil
import signal
import time

import pyarrow.parquet as pq
import pytest
import torch
from trainer_runs import (
    ROOT,
    TOKENIZER,
    Forked,
    command,
    finish,
    metrics,
    run_here,
    same_weights,
    save_tiny,
    start,
    tiny_model,
    weights,
    write_task,
)

SAVING = ["trainer.save_freq=1", "trainer.max_actor_ckpt_to_keep=2"]


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return write_task(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def whole(task, model, tmp_path_factory):
    """A run that was never stopped, with everything on."""
    out = tmp_path_factory.mktemp("runs") / "erpo-s1"
    arguments = command(
        out, model, task, *SAVING, f"data.val_files={task / 'validation.parquet'}", "trainer.test_freq=2", f"trainer.rollout_data_dir={out / 'rollouts'}",
        f"trainer.validation_data_dir={out / 'validation'}", "actor_rollout_ref.rollout.val_kwargs.n=2", "actor_rollout_ref.rollout.val_kwargs.do_sample=true",
        "actor_rollout_ref.rollout.val_kwargs.temperature=1.0", 'trainer.logger=["console","wandb","tensorboard"]', "trainer.experiment_name=erpo-s1",
        'actor_rollout_ref.actor.checkpoint.save_contents=["model","optimizer","extra","hf_model"]',
    )  # fmt: skip
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("WANDB_MODE", "offline")
    output = run_here(arguments)
    monkeypatch.undo()
    return out, arguments, output


# --- what a run leaves


def test_metrics_of_every_step_under_verls_names(whole):
    out, _, output = whole
    lines = metrics(out)
    assert [line["step"] for line in lines] == [0, 1, 2, 3, 4]
    for line in lines[1:]:
        data = line["data"]
        for name in (
            "critic/score/mean", "critic/advantages/max", "response_length/mean", "response_length/clip_ratio", "prompt_length/mean",
            "actor/entropy", "actor/pg_loss", "actor/pg_clipfrac", "actor/ppo_kl_live/mean", "actor/kl_loss_live/mean", "actor/grad_norm", "actor/lr",
            "actor/rows_run/mean", "perf/total_num_tokens", "perf/throughput", "timing_s/gen", "timing_s/ref", "timing_s/update_actor", "timing_s/step",
            "training/global_step", "training/epoch", "training/rollout_probs_diff_mean", "erpo/gate/mean", "erpo/cdp_entropy/mean",
            "reward/acc/mean", "erpo/eta/mean",
        ):  # fmt: skip
            assert math.isfinite(data[name]), name
        assert data["actor/lr"] == pytest.approx(1e-3) and data["training/global_step"] == line["step"]
        assert 0 < data["training/rollout_probs_diff_max"] < 1e-4  # the very weights that are trained have sampled
        assert "timing_s/old_log_prob" not in data
        pivots = data["erpo/cdp_share/mean"]
        mean = pivots * data["erpo/cdp_entropy/mean"] + (1 - pivots) * data["erpo/non_cdp_entropy/mean"]
        assert mean == pytest.approx(data["actor/entropy"], rel=1e-4)
    assert lines[1]["data"]["actor/kl_loss_live/mean"] < lines[4]["data"]["actor/kl_loss_live/mean"]
    assert lines[1]["data"]["erpo/progress_std/mean"] < 1e-6 < lines[3]["data"]["erpo/progress_std/mean"]
    for step in (0, 2, 4):
        data = lines[step]["data"]
        assert 0 <= data["val-core/arithmetic/acc/mean@2"] <= 1
        assert {"val-aux/arithmetic/acc/pass@2", "val-aux/arithmetic/response_length/clip_ratio"} <= data.keys()
    assert "step 4/4" in output and "val-core/arithmetic/acc/mean@2" in output


def test_the_record_of_the_run(whole):
    out, _, _ = whole
    record = json.loads((out / "run.json").read_text())
    assert (record["engine"], record["arm"], record["seed"]) == ("accelerate", "erpo", 1)
    assert record["config"]["algorithm"]["erpo"]["gate"]["gamma"] == 5.0


def test_trackers_got_the_same_numbers(whole):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from erpo_verl.reports.runs import read_run

    out, _, _ = whole
    wanted = [line["data"]["erpo/gate/mean"] for line in metrics(out)[1:]]
    found = []
    for folder in {path.parent for path in out.rglob("events.out.tfevents*")}:
        events = EventAccumulator(str(folder))
        events.Reload()
        if "erpo/gate/mean" in events.Tags()["scalars"]:
            found.append([e.value for e in events.Scalars("erpo/gate/mean")])
    assert found == [pytest.approx(wanted, rel=1e-6)]
    for source in (out, next(out.glob("wandb/offline-run-*"))):  # metrics.jsonl, and the offline run of W&B
        assert list(read_run(source).series["erpo/gate/mean"].values()) == pytest.approx(wanted)


def test_the_exported_model_is_a_plain_folder_with_a_card(whole):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out, _, _ = whole
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out / "model"), AutoTokenizer.from_pretrained(out / "model")
    assert tokenizer.apply_chat_template([{"role": "user", "content": "1+2"}], tokenize=False)
    assert model.dtype == torch.float32
    card = (out / "model" / "README.md").read_text()
    for part in ("trained for 4 steps", "the method `erpo`", "`algorithm.erpo`", '"gamma": 5.0', "val-core/arithmetic/acc/mean@2", "train.parquet", "torch 2"):
        assert part in card
    assert same_weights(out / "model", out / "global_step_4" / "huggingface")


def test_the_rollouts_of_a_step(whole):
    out, _, _ = whole
    rows = pq.read_table(out / "rollouts" / "step_000003.parquet").to_pylist()
    line = metrics(out)[3]["data"]
    assert len(rows) == 16
    for row in rows:
        lengths = {name: len(row[name]) for name in ("token_ids", "tokens", "entropy", "gate", "progress", "advantage", "bucket", "old_log_prob")}
        assert set(lengths.values()) == {row["length"]}, lengths
        for token in range(row["length"]):
            s = 0.1 * (row["old_log_prob"][token] - row["ref_log_prob"][token])
            assert row["progress"][token] == pytest.approx(s, abs=1e-6)
            sign = (row["outcome_advantage"] > 0) - (row["outcome_advantage"] < 0)
            expected = row["gate"][token] * (row["outcome_advantage"] + 0.2 * sign * row["progress_normalised"][token])
            assert row["advantage"][token] == pytest.approx(expected, abs=1e-5)
    entropies = [h for row in rows for h in row["entropy"]]
    assert sum(entropies) / len(entropies) == pytest.approx(line["actor/entropy"], rel=1e-5)
    assert pq.read_table(out / "validation" / "validation_000002_0.parquet").num_rows == 24


def test_checkpoints_kept(whole):
    out, _, _ = whole
    assert sorted(f.name for f in out.glob("global_step_*")) == ["global_step_3", "global_step_4"]
    assert sorted(f.name for f in (out / "global_step_4").iterdir()) == ["extra.pt", "huggingface", "manifest.json", "model.pt", "optimizer.pt"]


# --- going on


def other(arguments, out, *overrides):
    """The same run in another folder, without trackers, validation and dumps: they must not change what is learned."""
    kept = [a for a in arguments if not any(k in a for k in ("default_local_dir", "logger", "rollout_data_dir", "validation_data_dir", "val_files", "test_freq", "save_contents"))]
    return [*kept, f"trainer.default_local_dir={out}", *overrides]


def test_a_second_call_finds_the_run_complete(whole):
    out, arguments, _ = whole
    before = (out / "metrics.jsonl").read_bytes()
    output = run_here(other(arguments, out))
    assert "resumed from" in output and "step 4 of 4" in output and "other settings" not in output
    assert (out / "metrics.jsonl").read_bytes() == before


def test_other_settings_at_a_resume_are_told(whole):
    out, arguments, _ = whole
    kept = [argument for argument in arguments if "logger" not in argument and "_data_dir" not in argument]
    run = [*kept, "algorithm.adv_estimator=grpo", "actor_rollout_ref.actor.optim.lr=0.5", "trainer.val_only=true"]
    told = next(line for line in run_here(run).splitlines() if "other settings" in line)
    assert str(out / "global_step_4") in told
    assert "algorithm.adv_estimator was erpo and is grpo" in told and "actor_rollout_ref.actor.optim.lr was " in told and " and is 0.5" in told
    assert told.count(" and is ") == 2


@pytest.mark.parametrize("moment", ["after step 1", "in step 3", "writing step 2"])
def test_killed_and_resumed_gives_the_same_weights(whole, tmp_path, moment):
    """SIGKILL, then the same command: bit for bit the weights of the run that was never stopped, and every metric once."""
    reference, arguments, _ = whole
    out = tmp_path / "run"
    run = other(arguments, out)
    if moment == "writing step 2":
        finish(start(run, PYTHONPATH=str(kill_switch(tmp_path, "global_step_2"))), -signal.SIGKILL)
        assert [f.name for f in out.glob("global_step_*")] == ["global_step_1"] and list(out.glob(".global_step_2*"))
    else:
        process = Forked([*run, "reward.custom_reward_function.reward_kwargs={pause: 0.05}"])
        wait_for(out / ("global_step_1" if moment == "after step 1" else "global_step_2"), process)
        process.kill()  # "in step 3": the loop has gone on; a step takes a tenth of a second
        process.communicate()
    output = run_here(run)
    assert "resumed from" in output and not list(out.glob(".*partial*"))
    assert same_weights(out / "model", reference / "model")
    ours, theirs = metrics(out), metrics(reference)
    assert [line["step"] for line in ours] == [1, 2, 3, 4]
    for line, expected in zip(ours, theirs[1:], strict=True):
        for name, value in line["data"].items():
            if not name.startswith(("timing_s", "perf/t", "reward/latency")):
                assert value == expected["data"][name], (line["step"], name)


def kill_switch(folder, name):
    """PYTHONPATH with a sitecustomize that ends the process with SIGKILL while the named checkpoint is half-written."""
    (folder / "site").mkdir(exist_ok=True)
    (folder / "site" / "sitecustomize.py").write_text(
        "import os, signal\n"
        "rename = os.rename\n"
        "def switch(a, b, *rest, **kw):\n"
        f"    if str(b).endswith({name!r}):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return rename(a, b, *rest, **kw)\n"
        "os.rename = switch\n"
    )
    return os.pathsep.join([str(folder / "site"), str(ROOT)])


def wait_for(path, process):
    deadline = time.monotonic() + 300
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.005)


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_finishes_the_step_saves_and_goes_on(whole, tmp_path, sign):
    reference, arguments, _ = whole
    out = tmp_path / "run"
    run = other(arguments, out, "trainer.save_freq=-1")
    process = start(run) if sign == signal.SIGINT else Forked(run)
    wait_for(out / "metrics.jsonl", process)
    while not (out / "metrics.jsonl").read_text():
        time.sleep(0.02)
    process.send_signal(sign)
    output = finish(process, 130)
    assert "stopping after this step" in output
    stopped = metrics(out)[-1]["step"]
    assert stopped < 4 and [f.name for f in out.glob("global_step_*")] == [f"global_step_{stopped}"]
    run_here(run)
    assert [line["step"] for line in metrics(out)] == [1, 2, 3, 4]
    assert same_weights(out / "model", reference / "model")


@pytest.mark.parametrize("moment", ["validation", "training"])
def test_ctrl_c_in_the_middle_of_a_step_or_validation(task, model, tmp_path, moment):
    """Once in the first validation, twice in a training step: it ends at once, with 130 and a word on what is left."""
    (tmp_path / "mine.py").write_text(
        "import pathlib, time\n"
        "def f(data_source, solution_str, ground_truth, extra_info):\n"
        "    made_up = solution_str in ('', f'\\\\boxed{{{ground_truth}}}')  # the probe's\n"
        f"    if not made_up and not pathlib.Path({str(tmp_path / 'go')!r}).exists():\n"
        f"        pathlib.Path({str(tmp_path / 'here')!r}).touch()\n"
        "        time.sleep(600)\n"
        "    return 0.5\n"
    )
    run = command(tmp_path / "run", model, task, f"reward.custom_reward_function.path={tmp_path / 'mine.py'}", "reward.custom_reward_function.name=f", *SAVING)
    if moment == "training":
        (tmp_path / "go").touch()
        run_here([*run, "trainer.total_training_steps=1"])
        (tmp_path / "go").unlink()
    process = Forked([*run, f"data.val_files={task / 'validation.parquet'}"])
    wait_for(tmp_path / "here", process)
    process.send_signal(signal.SIGINT)
    if moment == "training":
        time.sleep(0.5)
        assert process.poll() is None  # it wants to finish the step
        process.send_signal(signal.SIGINT)
    output = finish(process, 130)
    assert "Traceback" not in output, output
    if moment == "training":
        assert "stopped after step 1 of 4" in output and "the same command goes on from the newest checkpoint, global_step_1" in output
    else:
        assert "stopped after step 0 of 4" in output and "there is no checkpoint to go on from" in output


def test_other_data_and_another_model_are_refused(whole, tmp_path):
    reference, arguments, _ = whole
    out = tmp_path / "run"
    shutil.copytree(reference, out)
    longer = other(arguments, out, "trainer.total_training_steps=6")
    data = write_task(tmp_path / "data", train=65)
    output = run_here([*longer, f"data.train_files={data / 'train.parquet'}"], 1)
    assert "other training data" in output
    tiny_model(hidden=128).save_pretrained(tmp_path / "wide")
    TOKENIZER.save_pretrained(tmp_path / "wide")
    output = run_here([*longer, f"actor_rollout_ref.model.path={tmp_path / 'wide'}"], 1)
    assert "does not fit actor_rollout_ref.model.path" in output
    save_tiny(tmp_path / "other", seed=1)  # of the same shapes: the reference would be another
    output = run_here([*longer, f"actor_rollout_ref.model.path={tmp_path / 'other'}"], 1)
    assert f"does not fit actor_rollout_ref.model.path={tmp_path / 'other'}: the run began with another model" in output
    output = run_here([*longer, "trainer.resume_mode=disable"], 1)
    assert "holds checkpoints (up to step 4)" in output and "default_local_dir" in output
    assert metrics(out) == metrics(reference)


def test_an_earlier_runs_metrics_are_kept(task, model, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "metrics.jsonl").write_text('{"step": 1, "data": {}}\n')
    output = run_here(command(out, model, task, "trainer.total_training_steps=1", "trainer.save_final_model=false"))
    assert "kept as metrics.jsonl.old-1" in output
    assert (out / "metrics.jsonl.old-1").read_text() == '{"step": 1, "data": {}}\n' and [m["step"] for m in metrics(out)] == [1]


def test_going_back_sets_the_later_steps_aside(whole, tmp_path):
    """With ``resume_path`` into the run's own folder: nothing is lost, and the newest checkpoint is always of the run that goes on."""
    reference, arguments, _ = whole
    out = tmp_path / "run"
    run = other(arguments, out, "trainer.save_freq=1")
    run_here([*run, "trainer.max_actor_ckpt_to_keep=null"])
    before = (out / "metrics.jsonl").read_bytes()
    output = run_here(
        [*run, "trainer.resume_mode=resume_path", f"trainer.resume_from_path={out / 'global_step_1'}", "trainer.total_training_steps=2",
         "trainer.max_actor_ckpt_to_keep=1"]
    )  # fmt: skip
    assert "has been further than global_step_1" in output
    assert sorted(f.name for f in out.glob("global_step_*")) == ["global_step_2", *(f"global_step_{n}.old-1" for n in (2, 3, 4))]
    assert (out / "metrics.jsonl.old-1").read_bytes() == before and [m["step"] for m in metrics(out)] == [1, 2]
    output = run_here([*run, "trainer.max_actor_ckpt_to_keep=1"])
    assert "global_step_2 (step 2 of 4)" in output
    assert same_weights(out / "model", reference / "model")


def test_a_model_of_an_earlier_run_is_kept(task, model, tmp_path):
    run = command(tmp_path / "run", model, task, "trainer.total_training_steps=1")
    run_here(run)
    first = weights(tmp_path / "run" / "model")
    run_here([*run, "data.seed=2"])
    kept, second = weights(tmp_path / "run" / "model.old-1"), weights(tmp_path / "run" / "model")
    assert all(torch.equal(first[name], kept[name]) for name in first) and any(not torch.equal(first[name], second[name]) for name in first)


# --- clear ends


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.train_files=gone.parquet"], "gone.parquet: no such file"),
        (["data.train_batch_size=128"], "hold only 64 prompts"),
        (["data.max_prompt_length=5"], "data.max_prompt_length is 5"),
        (['trainer.logger=["wandbb"]'], "'wandbb' is unknown"),
        (["reward.custom_reward_function.path=gone.py"], "gone.py: no such file"),
        (["trainer.n_gpus_per_node=3"], "torchrun --nproc_per_node 3"),
        (["actor_rollout_ref.actor.kl_loss_type=full"], "kl_loss_type='full'"),
        (["reward.custom_reward_function.reward_kwargs.scale=2"], "unexpected keyword argument 'scale'"),
        (["reward.custom_reward_function.path=null", "reward.custom_reward_function.name=compute_score",
          "reward.custom_reward_function.reward_kwargs.overlong_limt=9"], "reward_kwargs: overlong_limt = 9: unknown key; the nearest known key is overlong_limit"),
        (["actor_rollout_ref.model.lora_rank=2", "actor_rollout_ref.model.target_modules=nothing"], "target_modules=['nothing']"),
        (["actor_rollout_ref.model.lora_rank=2", "actor_rollout_ref.model.exclude_modules=nothing"], "no modules were excluded"),
        (["trainer.rollout_data_dir=/proc/nowhere"], "trainer.rollout_data_dir=/proc/nowhere: cannot be made"),
        (["actor_rollout_ref.actor.optim.betas=[1]"], "optim.betas=[1]"),
    ],
)
def test_a_wrong_start_ends_with_one_line(task, model, tmp_path, overrides, message):
    assert message in run_here(command(tmp_path / "run", model, task, *overrides), 1)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_weights_that_are_not_finite_are_refused_by_the_tensors_name(task, model, tmp_path):
    broken = tiny_model()
    with torch.no_grad():
        broken.model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    shutil.copytree(model, tmp_path / "broken")
    broken.save_pretrained(tmp_path / "broken")
    output = run_here(command(tmp_path / "run", tmp_path / "broken", task), 1)
    assert "broken" in output and "model.layers.0.mlp.up_proj.weight holds NaN or infinite values" in output


def test_a_model_that_does_not_fit_its_tokenizer_or_is_damaged(task, model, tmp_path):
    small, cut = tmp_path / "small", tmp_path / "cut"
    narrow = tiny_model()
    narrow.resize_token_embeddings(12)
    narrow.save_pretrained(small)
    output = run_here(command(tmp_path / "run", small, task, f"actor_rollout_ref.model.tokenizer_path={model}"), 1)
    assert "the model knows the tokens 0 to 11" in output
    shutil.copytree(model, cut)
    file = cut / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    output = run_here(command(tmp_path / "run", cut, task), 1)
    assert f"actor_rollout_ref.model.path={cut}: model.safetensors is damaged (5000 bytes, its header says" in output


def test_check_loads_no_model(task, tmp_path, model):
    output = finish(start(["--check", *command(tmp_path / "run", model, task)]))
    assert "64 training prompts" in output and "4 steps: all is well" in output
    assert not (tmp_path / "run").exists()


def test_a_reward_function_that_raises_ends_the_run_with_response_line_and_checkpoint(task, model, tmp_path):
    (tmp_path / "mine.py").write_text(
        "calls = []\ndef f(data_source, solution_str, ground_truth, extra_info):\n    calls.append(1)\n    return [0.5][len(calls) > 86]  # 66 of them are the probe\n"
    )
    run = command(tmp_path / "run", model, task, *SAVING, f"reward.custom_reward_function.path={tmp_path / 'mine.py'}", "reward.custom_reward_function.name=f")
    output = run_here(run, 1)
    assert "f raised IndexError" in output and "mine.py, line 4) for response 4" in output and "Traceback" not in output
    assert "the same command goes on from the newest checkpoint, global_step_1" in output
    assert [m["step"] for m in metrics(tmp_path / "run")] == [1]


@contextlib.contextmanager
def files_up_to(size):
    """As on a full disk, a write to a longer file ends early (SIGXFSZ is ignored by Python)."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_a_full_disk_ends_the_run_with_the_file_and_the_newest_checkpoint(task, model, tmp_path):
    out = tmp_path / "run"
    run = command(out, model, task, "trainer.save_freq=3", "trainer.total_training_steps=3")
    run_here(run)
    before, kept = (out / "metrics.jsonl").read_bytes(), weights(out / "model")
    longer = [*run, "trainer.total_training_steps=4"]
    with files_up_to(len(before) + 200):
        output = run_here(longer, 1)
    assert f"cannot write the metrics of step 4 to {out / 'metrics.jsonl'}" in output and "Traceback" not in output
    assert "newest checkpoint, global_step_3" in output and (out / "metrics.jsonl").read_bytes() == before
    with files_up_to(len(before) + 6000):
        output = run_here([*longer, f"trainer.rollout_data_dir={tmp_path / 'rollouts'}"], 1)
    assert f"cannot write {tmp_path / 'rollouts' / 'step_000004.parquet'}" in output and "newest checkpoint, global_step_3" in output
    assert not list((tmp_path / "rollouts").iterdir())
    with files_up_to(60_000):
        output = run_here([*longer, "trainer.save_freq=-1"], 1)
    assert f"cannot write the model {out / 'model'}" in output and "newest checkpoint, global_step_3" in output
    assert all(torch.equal(value, kept[name]) for name, value in weights(out / "model").items())
    run_here(longer)
    assert [m["step"] for m in metrics(out)] == [1, 2, 3, 4]


def test_weights_that_are_not_finite_end_the_run_naming_the_token(task, model, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    from safetensors.torch import save_file

    damaged = weights(broken)
    damaged["model.layers.1.mlp.down_proj.weight"][0, 0] = float("nan")
    save_file(damaged, broken / "model.safetensors", metadata={"format": "pt"})
    assert "nan" in run_here(command(tmp_path / "run", broken, task), 1).lower()


# --- ways of the method


def test_dynamic_sampling_keeps_groups_that_differ(task, model, tmp_path):
    """With an own reward of two values, groups of one outcome are left out and more prompts are sampled."""
    (tmp_path / "mine.py").write_text(
        "def f(data_source, solution_str, ground_truth, extra_info):\n"
        "    return {'score': float(len(solution_str) % 7 == 0), 'acc': float(len(solution_str) % 7 == 0), 'pred': ''}\n"
    )
    run = command(
        tmp_path / "run", model, task, "algorithm.filter_groups.enable=true", "algorithm.filter_groups.metric=acc", "trainer.total_training_steps=2",
        f"reward.custom_reward_function.path={tmp_path / 'mine.py'}", "reward.custom_reward_function.name=f",
    )  # fmt: skip
    run_here(run)
    for line in metrics(tmp_path / "run"):
        batches, share = line["data"]["training/num_gen_batches"], line["data"]["training/filter_groups/kept_share/mean"]
        assert line["data"]["erpo/groups_mixed/mean"] == 1.0 and batches >= 1
        assert share * batches * 4 == pytest.approx(round(share * batches * 4)) and 4 <= share * batches * 4 <= batches * 4
    output = run_here([*run, "algorithm.filter_groups.metric=nothing", f"trainer.default_local_dir={tmp_path / 'b'}"], 1)
    assert "algorithm.filter_groups.metric=nothing" in output and "acc" in output
    (tmp_path / "mine.py").write_text("def f(*args):\n    return 0.0\n")
    output = run_here(
        [*run, "algorithm.filter_groups.metric=reward", "algorithm.filter_groups.max_num_gen_batches=2", f"trainer.default_local_dir={tmp_path / 'c'}"], 1
    )
    assert "2 batches of 4 prompts held too few groups" in output


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes(task, model, tmp_path, strategy):
    """Two processes share prompts and gradients; stopped, the run goes on to the weights of one that was not; all of them are trained."""
    out = tmp_path / "run"
    run = command(out, model, task, *SAVING, f"actor_rollout_ref.actor.strategy={strategy}", f"data.val_files={task / 'validation.parquet'}")
    process = start(run, processes=2) if strategy == "ddp" else Forked(run, processes=2)
    wait_for(out / "global_step_1", process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=300)
    finish(Forked(run, processes=2))
    lines = metrics(out)
    assert [line["step"] for line in lines] == [0, 1, 2, 3, 4], output
    assert all(math.isfinite(line["data"]["actor/grad_norm"]) for line in lines[1:])
    start_weights, end = weights(model), weights(out / "model")
    assert start_weights.keys() == end.keys()
    changed = [name for name in end if not torch.equal(start_weights[name], end[name])]
    assert set(changed) == set(end)
    finish(Forked(other(run, tmp_path / "whole"), processes=2))
    assert same_weights(out / "model", tmp_path / "whole" / "model")


def test_an_error_in_one_of_two_processes_ends_both_and_is_told(task, model, tmp_path):
    (tmp_path / "mine.py").write_text("import os\ndef f(d, s, g, e):\n    return 0.5 if os.environ['RANK'] == '0' else {}['lost']\n")
    run = command(tmp_path / "run", model, task, f"reward.custom_reward_function.path={tmp_path / 'mine.py'}", "reward.custom_reward_function.name=f")
    output = finish(start(run, processes=2), 1)
    assert "erpo train (process 1): f raised KeyError: 'lost'" in output and "mine.py, line 3) for response 0" in output
    assert "RuntimeError" not in output


def test_two_processes_learn_what_one_learns(task, model, tmp_path):
    """One step on the same responses (greedy, whatever the seeds of the processes): the weights agree up to rounding."""
    common = ["actor_rollout_ref.rollout.do_sample=false", "trainer.total_training_steps=1", "actor_rollout_ref.actor.grad_clip=1e-3"]
    (tmp_path / "mine.py").write_text("import zlib\ncalls = []\ndef f(d, s, g, e):\n    return float(zlib.crc32(repr((e['index'],)).encode()) % 5)\n")
    common += [f"reward.custom_reward_function.path={tmp_path / 'mine.py'}", "reward.custom_reward_function.name=f", "algorithm.erpo.zero_variance.rule=threshold",
               "algorithm.norm_adv_by_std_in_grpo=false", "algorithm.use_kl_in_reward=false", "actor_rollout_ref.actor.entropy_coeff=0.1"]  # fmt: skip
    for processes, strategy in ((1, "ddp"), (2, "ddp"), (2, "fsdp2")):
        out = tmp_path / f"{processes}-{strategy}"
        run = command(out, model, task, *common, f"actor_rollout_ref.actor.strategy={strategy}")
        finish(Forked(run, processes=2)) if processes == 2 else run_here(run)
    one, two, sharded = (weights(tmp_path / name / "model") for name in ("1-ddp", "2-ddp", "2-fsdp2"))
    a, b, c = (metrics(tmp_path / name)[0]["data"] for name in ("1-ddp", "2-ddp", "2-fsdp2"))
    for name in ("actor/entropy_loss", "actor/grad_norm", "critic/score/mean", "actor/entropy", "response_length/mean"):
        assert a[name] == pytest.approx(b[name], rel=1e-4) == pytest.approx(c[name], rel=1e-4), name
    assert a["actor/grad_norm"] > 0
    for name in one:
        for there in (two, sharded):
            assert (one[name] - there[name]).abs().median() < 1e-6, name


def test_a_pass_for_the_old_log_probs_gives_what_the_rollout_gave(whole, tmp_path):
    """With ``bypass_mode=false`` the same responses are sampled and the metrics of the first step are the same, up to rounding."""
    reference, arguments, _ = whole
    run_here(other(arguments, tmp_path / "run", "algorithm.rollout_correction.bypass_mode=false", "trainer.total_training_steps=1"))
    ours, theirs = metrics(tmp_path / "run")[0]["data"], metrics(reference)[1]["data"]
    more = ours.keys() - theirs.keys()
    assert {name for name in more if not name.startswith("rollout_corr/")} == {"timing_s/old_log_prob"} and theirs.keys() <= ours.keys()
    assert 0 <= ours["rollout_corr/k3_kl"] < 1e-8 and ours["rollout_corr/ppl_ratio"] == pytest.approx(1.0, abs=1e-5)
    for name in ("critic/score/mean", "response_length/mean", "actor/entropy", "actor/pg_loss", "actor/grad_norm", "erpo/gate/mean", "erpo/cdp_entropy/mean"):
        assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-6), name


def test_lora_and_the_merged_export(task, model, tmp_path):
    out = tmp_path / "run"
    adapters = ("actor_rollout_ref.model.lora_rank=4", "actor_rollout_ref.model.exclude_modules=q_proj")
    run = command(out, model, task, *adapters, "actor_rollout_ref.actor.optim.lr=1e-2", *SAVING)
    run_here([*run, "trainer.total_training_steps=2"])
    told = run_here([*run, "actor_rollout_ref.model.lora_rank=2"], 1)
    assert "is of other adapters: actor_rollout_ref.model.lora_rank was 4 and is 2" in told and told.count("\n") < 4
    run_here(run)
    run_here([*run, f"trainer.default_local_dir={tmp_path / 'whole'}"])
    assert same_weights(out / "model", tmp_path / "whole" / "model")
    before, after = weights(model), weights(out / "model")
    assert before.keys() == after.keys()
    assert not torch.equal(before["model.layers.0.mlp.up_proj.weight"], after["model.layers.0.mlp.up_proj.weight"])
    assert torch.equal(before["model.norm.weight"], after["model.norm.weight"])
    state = torch.load(out / "global_step_4" / "model.pt", weights_only=True)
    assert state and all("lora" in name and "q_proj" not in name for name in state)
