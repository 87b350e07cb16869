"""The sweep, for real, with a small program in the place of a training run: it writes metrics.jsonl step by step,
goes on from its own last step as a trainer does from a checkpoint, and fails or waits where it is told to.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from recipe_tools import ARMS, SCRIPTS, clean_environment

TRAIN = """
import json, os, pathlib, sys, time
arm, overrides = sys.argv[1], sys.argv[2:]
run, seed = pathlib.Path(os.environ["RUN_DIR"]), int(os.environ["SEED"])
metrics = run / "metrics.jsonl"
done = len(metrics.read_text().splitlines()) if metrics.is_file() else 0
with open(run / "starts.jsonl", "a") as starts:
    starts.write(json.dumps({"from": done, "pid": os.getpid(), "overrides": overrides, "experiment": os.environ["EXPERIMENT"]}) + "\\n")
if (run.parent / f"fail-{run.name}").exists():
    print("RuntimeError: CUDA out of memory")
    sys.exit(3)
slow = (run.parent / "slow").exists()
for step in range(done + 1, 6):
    data = {"critic/score/mean": 0.1 * step, "val-core/sum/acc/mean@4": 0.1 * step + 0.01 * seed, "perf/total_num_tokens": 10}
    with open(metrics, "a") as file:
        file.write(json.dumps({"step": step, "data": data}) + "\\n")
    if slow and step == 2:
        try:
            time.sleep(600)
        except KeyboardInterrupt:
            print("ended in order")
            sys.exit(130)
"""


@pytest.fixture
def sweep(tmp_path):
    program = tmp_path / "train.py"
    program.write_text(TRAIN)
    out = tmp_path / "out"
    out.mkdir()

    def start(*arguments: str, **variables: str) -> subprocess.Popen:
        environment = clean_environment(
            **{
                "LAUNCH": f"{sys.executable} {program}",
                "OUT": str(out),
                "ARMS": "grpo erpo",
                "SEEDS": "1 2",
                "COMPARE": "true",
                **variables,
            }
        )
        command = ["bash", str(SCRIPTS / "sweep.sh"), *arguments]
        return subprocess.Popen(
            command,
            env=environment,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(*arguments: str, **variables: str) -> tuple[int, str, str]:
        child = start(*arguments, **variables)
        output, errors = child.communicate(timeout=300)
        return child.returncode, output, errors

    run.start, run.out = start, out
    return run


def steps(run: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def starts(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "starts.jsonl").read_text().splitlines()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def wait_for(condition, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_all_arms_and_seeds_run_once(sweep):
    code, output, errors = sweep("data.train_batch_size=8")
    assert code == 0, errors
    names = ["grpo-s1", "erpo-s1", "grpo-s2", "erpo-s2"]
    assert [line.split(":")[0] for line in output.splitlines()] == names  # a seed's arms side by side
    for name in names:
        assert steps(sweep.out / name) == [1, 2, 3, 4, 5] and (sweep.out / name / "done").exists()
        (start,) = starts(sweep.out / name)
        assert start["overrides"] == ["data.train_batch_size=8"] and start["experiment"] == name
    code, output, _ = sweep("data.train_batch_size=8")
    assert code == 0 and output.count("finished before") == 4
    assert all(len(starts(sweep.out / name)) == 1 for name in names)


def test_a_failed_run_does_not_stop_the_others_and_is_told_at_the_end(sweep):
    (sweep.out / "fail-erpo-s1").touch()
    code, _, errors = sweep()
    assert code == 1
    assert "erpo-s1: FAILED with exit code 3" in errors and "CUDA out of memory" in errors
    assert errors.splitlines()[-1] == "1 failed: erpo-s1"
    assert not (sweep.out / "erpo-s1" / "done").exists() and (sweep.out / "erpo-s2" / "done").exists()
    (sweep.out / "fail-erpo-s1").unlink()
    assert sweep()[0] == 0
    assert steps(sweep.out / "erpo-s1") == [1, 2, 3, 4, 5] and len(starts(sweep.out / "grpo-s1")) == 1


@pytest.mark.parametrize("to_the_terminal", [True, False], ids=["ctrl-c", "kill"])
def test_a_stop_in_the_middle_ends_the_run_in_order_and_the_next_call_goes_on(sweep, to_the_terminal):
    (sweep.out / "slow").touch()
    child = sweep.start()
    run = sweep.out / "grpo-s1"
    wait_for(lambda: (run / "metrics.jsonl").exists() and len(steps(run)) == 2)
    (start,) = starts(run)
    if to_the_terminal:
        os.killpg(child.pid, signal.SIGINT)  # a terminal sends it to its foreground group, where the run is not
    else:
        child.terminate()
    _, errors = child.communicate(timeout=240)
    assert child.returncode == 130 and "goes on from here" in errors
    assert not alive(start["pid"])
    assert "ended in order" in (run / "run.log").read_text()
    assert not (run / "done").exists() and not (sweep.out / "erpo-s1").exists()
    (sweep.out / "slow").unlink()
    assert sweep()[0] == 0
    assert [s["from"] for s in starts(run)] == [0, 2]
    assert steps(run) == [1, 2, 3, 4, 5]


def test_a_sweep_that_was_killed_outright_goes_on(sweep):
    (sweep.out / "slow").touch()
    child = sweep.start(SEEDS="1")
    run = sweep.out / "grpo-s1"
    wait_for(lambda: (run / "metrics.jsonl").exists() and len(steps(run)) == 2)
    child.kill()
    child.communicate(timeout=240)
    pid = starts(run)[0]["pid"]
    if alive(pid):
        # The run outlived its sweep: another sweep does not start it a second time beside it.
        code, _, errors = sweep(SEEDS="1", ARMS="grpo")
        assert code == 1 and "being run by another sweep" in errors
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not alive(pid))
    (sweep.out / "slow").unlink()
    wait_for(lambda: subprocess.run(["flock", "-n", str(run / ".lock"), "true"]).returncode == 0)
    assert sweep(SEEDS="1")[0] == 0
    assert [s["from"] for s in starts(run)] == [0, 2]


def test_a_run_is_not_continued_with_other_settings(sweep):
    (sweep.out / "fail-grpo-s1").touch()
    assert sweep("data.seed=1", SEEDS="1", ARMS="grpo")[0] == 1
    (sweep.out / "fail-grpo-s1").unlink()
    code, _, errors = sweep("data.seed=2", SEEDS="1", ARMS="grpo")
    assert code == 1 and "begun with another command" in errors and len(starts(sweep.out / "grpo-s1")) == 1
    assert sweep("data.seed=1", SEEDS="1", ARMS="grpo")[0] == 0


def test_a_run_without_metrics_has_failed(sweep):
    code, _, errors = sweep(LAUNCH="true", SEEDS="1", ARMS="grpo")
    assert code == 1 and "without metrics.jsonl" in errors


def test_it_ends_with_the_comparison(sweep):
    code, output, errors = sweep(COMPARE=f"{sys.executable} -m erpo_verl.cli compare")
    assert code == 0, errors
    assert any((sweep.out / "comparison").iterdir())
    assert "grpo" in output and "erpo" in output


def test_what_is_wrong_is_said_before_anything_is_started(sweep, tmp_path):
    assert sweep(ENGINE="torch")[0] == 2
    code, _, errors = sweep(ENGINE="accelerate", LAUNCH="")
    assert code == 2 and "CONFIG" in errors
    code, _, errors = sweep(LAUNCH="", ARMS="grpo erop")
    assert code == 2 and "no arm 'erop'" in errors
    assert list(sweep.out.iterdir()) == []


def test_an_arm_may_be_a_method_of_another_package_by_its_name(sweep, tmp_path):
    package = tmp_path / "site" / "own_method-1.0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: own-method\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[erpo_verl.methods]\nown = own_method:METHOD\n")
    done = subprocess.run(
        ["bash", str(SCRIPTS / "run_ablation.sh"), "--overrides", "own"],
        env=clean_environment(PYTHONPATH=str(tmp_path / "site")), capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "algorithm.adv_estimator=own\n"), done.stderr


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_is_understood_by_the_accelerate_engine(arm):
    from erpo_verl.settings import SettingsError
    from erpo_verl.trainer.settings import compose

    done = subprocess.run(
        ["bash", str(SCRIPTS / "run_ablation.sh"), "--overrides", arm],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    needed = [
        "data.train_files=problems.parquet",
        "actor_rollout_ref.model.path=model",
        "actor_rollout_ref.actor.use_kl_loss=true",
    ]
    arguments = [*needed, "algorithm.adv_estimator=erpo", *done.stdout.splitlines()]
    if any("policy_loss.loss_mode=" in line for line in done.stdout.splitlines()):  # a loss of verl's own
        with pytest.raises(SettingsError, match=r"policy_loss\.loss_mode='\w+': must be one of vanilla, erpo"):
            compose(arguments)
    else:
        assert compose(arguments)


def test_engines_get_the_same_arms(sweep, tmp_path):
    """Nothing is trained: in the place of Python stands a program that writes down what it was given."""
    echo = tmp_path / "python"
    echo.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$RUN_DIR/arguments.txt"; echo "{}" > "$RUN_DIR/metrics.jsonl"\n')
    echo.chmod(0o755)
    config = tmp_path / "task.yaml"
    config.write_text("{}\n")
    code, _, errors = sweep(
        "data.train_batch_size=8",
        ENGINE="accelerate",
        LAUNCH="",
        CONFIG=str(config),
        PYTHON=str(echo),
        ARMS="gate_mean_one_only",
        SEEDS="3",
    )
    assert code == 0, errors
    run = sweep.out / "gate_mean_one_only-s3"
    assert (run / "arguments.txt").read_text().split("\n")[:-1] == [
        *("-m", "erpo_verl.cli", "train", str(config), "algorithm.adv_estimator=erpo"),
        *(
            "+algorithm.erpo.gate.normalize=mean_one",
            "+algorithm.erpo.progress.enable=false",
            "data.train_batch_size=8",
        ),
        *("data.seed=3", "actor_rollout_ref.rollout.seed=3", "actor_rollout_ref.actor.data_loader_seed=3"),
        *("trainer.experiment_name=gate_mean_one_only-s3", f"trainer.default_local_dir={run}"),
    ]
    # DRY_RUN checks, and trains nothing.
    echo.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    code, said, errors = sweep(ENGINE="accelerate", LAUNCH="", CONFIG=str(config), PYTHON=str(echo), ARMS="grpo", SEEDS="5", DRY_RUN="1")
    assert code == 0 and said.split()[-1] == "--check", errors
    assert not (sweep.out / "grpo-s5").exists()
    echo.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$RUN_DIR/arguments.txt"; echo "{}" > "$RUN_DIR/metrics.jsonl"\n')
    code, _, errors = sweep(
        "data.train_batch_size=8", LAUNCH="", PYTHON=str(echo), ARMS="gate_mean_one_only", SEEDS="4", SKIP_CHECK="1"
    )
    assert code == 0, errors
    run = sweep.out / "gate_mean_one_only-s4"
    known = (run / "command.txt").read_text()
    assert (
        "main_ppo" in known
        and "data.seed=4" in known
        and "progress.enable=false" in known
        and known.rstrip().endswith("data.train_batch_size=8")
    )
