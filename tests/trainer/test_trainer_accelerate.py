"""A file that `accelerate config` wrote means what it says, or is refused by the name that stands in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.default import write_basic_config
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env, prepare_simple_launcher_cmd_env
from trainer_runs import (
    ROOT,
    command,
    metrics,
    run_here,
    same_weights,
    save_tiny,
    settings_for,
    tiny_policy,
    write_task,
)

from erpo_verl.trainer.machine import check_launch
from erpo_verl.trainer.settings import SettingsError

FILES = ROOT / "examples" / "accelerate"
BASE = {"compute_environment": "LOCAL_MACHINE", "distributed_type": "NO", "num_machines": 1, "num_processes": 1, "mixed_precision": "no", "use_cpu": False}
TWO = {"distributed_type": "MULTI_GPU", "num_processes": 2}


def environment(file: Path) -> dict[str, str]:
    """What `accelerate launch --config_file FILE` hands to a process, by Accelerate's own functions."""
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(["--config_file", str(file), "-m", "erpo_verl.trainer"]))
    if not (args.multi_gpu or args.use_fsdp or args.use_megatron_lm):
        return prepare_simple_launcher_cmd_env(args)[1]
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": str(args.num_processes)}  # torchrun's part
    return {**prepare_multi_gpu_env(args), **ranks, "LOCAL_WORLD_SIZE": str(args.num_processes // (args.num_machines or 1))}


def written(folder: Path, **content) -> Path:
    file = folder / "accelerate.yaml"
    file.write_text(yaml.safe_dump({**BASE, **content}))
    return file


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    """No variable of a launcher is left from the shell that the tests were started in, or from another test."""
    for name in list(os.environ):
        if name.startswith(("ACCELERATE_", "FSDP_", "MASTER_")) or name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("task")
    return save_tiny(folder / "model"), write_task(folder / "data", train=16, validation=4)


def test_one_process_and_mixed_precision_are_what_the_settings_would_have_made(task, tmp_path, monkeypatch):
    """Bit for bit: `mixed_precision: 'no'` is fsdp_config.dtype=float32, `bf16` is bf16; and they differ."""
    for name, dtype in (("one_process", "float32"), ("bf16", "bf16")):
        arguments = command(tmp_path / f"{name}-own", *task, "trainer.total_training_steps=2", f"actor_rollout_ref.actor.fsdp_config.dtype={dtype}")
        run_here(arguments)
        with monkeypatch.context() as patch:
            for variable, value in environment(FILES / f"{name}.yaml").items():
                patch.setenv(variable, value)
            run_here(command(tmp_path / name, *task, "trainer.total_training_steps=2"))
        assert same_weights(tmp_path / name / "model", tmp_path / f"{name}-own" / "model")
    assert not same_weights(tmp_path / "one_process" / "model", tmp_path / "bf16" / "model")


def test_two_processes_in_bf16(task, tmp_path):
    """The file for DDP, launched for real: without GPUs, two processes on the CPU."""
    out = tmp_path / "run"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(FILES / "ddp.yaml"), "--main_process_port", "0"]
    done = subprocess.run(
        # Refused where there are not two.
        [*launch, "-m", "erpo_verl.trainer", *command(out, *task, "trainer.total_training_steps=2", "trainer.n_gpus_per_node=2")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    steps = [line["data"] for line in metrics(out)]
    assert len(steps) == 2 and all(step["actor/grad_norm"] > 0 for step in steps)


@pytest.mark.parametrize(("file", "dtype"), [("one_process", torch.float32), ("bf16", torch.bfloat16)])
def test_the_type_of_the_arithmetic(file, dtype, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", environment(FILES / f"{file}.yaml")["ACCELERATE_MIXED_PRECISION"])
    policy = tiny_policy(settings_for())
    assert policy.dtype == dtype and policy.accelerator.mixed_precision == ("bf16" if dtype == torch.bfloat16 else "no")
    inside = []
    policy.module.model.model.layers[0].mlp.register_forward_hook(lambda module, given, made: inside.append(made.dtype))
    with policy._autocast():
        policy.module.model(torch.tensor([[1, 2, 3]]))
    assert inside == [dtype] and all(p.dtype == torch.float32 for p in policy.parameters)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_file_that_accelerate_config_wrote_by_itself(precision, tmp_path):
    file = tmp_path / "default.yaml"
    assert write_basic_config(mixed_precision=precision, save_location=str(file))
    check_launch(settings_for(), environment(file))


def test_the_shipped_files_and_no_launcher_pass():
    check_launch(settings_for(), {})
    for file in FILES.glob("*.yaml"):
        assert yaml.safe_load(file.read_text()).keys() >= BASE.keys()
        check_launch(settings_for(), environment(file))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"distributed_type": "MULTI_CPU", "num_processes": 2, "use_cpu": True}, ("started one", "distributed_type: MULTI_GPU")),
        ({"num_processes": 2}, ("started one", "torchrun --nproc_per_node")),
        ({"distributed_type": "FSDP", "num_processes": 2, "fsdp_config": {"fsdp_version": 2}}, ("distributed_type: FSDP", "strategy=fsdp2")),
        ({"distributed_type": "MEGATRON_LM", "num_processes": 2, "megatron_lm_config": {"megatron_lm_tp_degree": 2}}, ("MEGATRON_LM", "take verl")),
        ({"dynamo_config": {"dynamo_backend": "INDUCTOR"}}, ("dynamo_backend: INDUCTOR", "leave dynamo_config out")),
        ({**TWO, "dynamo_config": {"dynamo_backend": "EAGER"}}, ("dynamo_backend: EAGER",)),
        ({"mixed_precision": "fp16"}, ("mixed_precision: fp16", "bf16 or ('no')")),
        ({**TWO, "num_machines": 2, "num_processes": 4, "main_process_ip": "10.0.0.1", "machine_rank": 1, "main_process_port": 1}, ("4 processes on 2 machines", "take verl")),
    ],
)  # fmt: skip
def test_what_the_engine_does_not_do_is_refused_by_its_name(content, expected, tmp_path):
    with pytest.raises(SettingsError) as error:
        check_launch(settings_for(), environment(written(tmp_path, **content)))
    assert len(error.value.problems) == 1 and all(part in error.value.problems[0] for part in expected), error.value


@pytest.mark.parametrize(
    ("variables", "expected"),  # where the launcher itself needs what is not installed here
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "distributed_type: DEEPSPEED"),
        ({"ACCELERATE_USE_SAGEMAKER": "true"}, "compute_environment: LOCAL_MACHINE"),
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, "parallelism_config"),
        ({"ACCELERATE_MIXED_PRECISION": "fp8"}, "mixed_precision: fp8"),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, "ppo_mini_batch_size"),
    ],
)
def test_what_needs_more_than_is_installed_is_refused_too(variables, expected):
    with pytest.raises(SettingsError) as error:
        check_launch(settings_for(), variables)
    assert len(error.value.problems) == 1 and expected in error.value.problems[0]


@pytest.mark.parametrize(("dtype", "precision"), [("float32", "bf16"), ("bf16", "no")])
def test_two_types_of_arithmetic_contradict_each_other(dtype, precision, tmp_path):
    settings = settings_for(f"actor_rollout_ref.actor.fsdp_config.dtype={dtype}")
    with pytest.raises(SettingsError, match=rf"fsdp_config\.dtype={dtype}, and accelerate launch says mixed_precision: {precision}"):
        check_launch(settings, environment(written(tmp_path, mixed_precision=precision)))


def test_use_cpu_and_a_gpu_contradict_each_other(tmp_path):
    with pytest.raises(SettingsError, match=r"trainer\.device=cuda, and accelerate launch says use_cpu: true"):
        check_launch(settings_for("trainer.device=cuda"), environment(written(tmp_path, use_cpu=True)))


def test_all_of_it_is_told_at_once_and_before_anything_is_loaded(tmp_path, monkeypatch):
    for name, value in environment(written(tmp_path, mixed_precision="fp16", dynamo_config={"dynamo_backend": "INDUCTOR"})).items():
        monkeypatch.setenv(name, value)
    output = run_here(command(tmp_path / "run", tmp_path / "no model", tmp_path / "no data"), code=1)
    assert "2 invalid settings" in output and "fp16" in output and "INDUCTOR" in output
    assert not (tmp_path / "run").exists()
