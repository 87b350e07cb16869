"""Small real runs of the engine for its tests: a tiny random or warm policy, real data, real reward."""

from __future__ import annotations

import atexit
import contextlib
import functools
import io
import json
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import torch

from erpo_verl.rollout import Response
from erpo_verl.trainer.advantages import advantages, token_level_rewards
from erpo_verl.trainer.batch import Batch, assemble
from erpo_verl.trainer.data import Prompt
from erpo_verl.trainer.machine import make_accelerator
from erpo_verl.trainer.policy import Policy
from erpo_verl.trainer.settings import compose
from erpo_verl.trainer.update import update
from examples.arithmetic.tokenizer import build_tokenizer
from examples.tiny.model import build_model

ROOT = Path(__file__).resolve().parents[2]
TOKENIZER = build_tokenizer()
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "PYTHONPATH": str(ROOT)}  # of a process that is started


def settings_for(*overrides: str, model: str = "model", train: str = "train.parquet"):
    """Settings of a tiny run, as the tests of single parts use them."""
    return compose(
        [
            f"data.train_files={train}", f"actor_rollout_ref.model.path={model}", "data.train_batch_size=4", "data.seed=1",
            "data.max_prompt_length=24", "data.max_response_length=16", "actor_rollout_ref.rollout.n=4",
            "actor_rollout_ref.actor.ppo_mini_batch_size=2", "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=3",
            "actor_rollout_ref.actor.use_kl_loss=true", "actor_rollout_ref.actor.kl_loss_coef=0.0",
            "actor_rollout_ref.model.enable_gradient_checkpointing=false", "trainer.device=cpu", *overrides,
        ]
    )  # fmt: skip


def tiny_model(seed: int = 0, **shape):
    """A random policy of some ten thousand weights."""
    return build_model(TOKENIZER, seed=seed, **{"layers": 2, "hidden": 64, "intermediate": 64, **shape})


def tiny_policy(settings, seed: int = 0, total_steps: int = 10, model=None) -> Policy:
    """A policy on the CPU in this process."""
    return Policy(model or tiny_model(seed), settings, make_accelerator(settings, [], Path.cwd()), total_steps)


def gradients(policy: Policy, batch: Batch, settings, step: int = 1) -> list[list[torch.Tensor]]:
    """The gradient of each update of a training step; the policy stays as it is."""
    found: list[list[torch.Tensor]] = []

    def apply_gradients(_: float) -> float:
        found.append([p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad.clone() for p in policy.parameters])
        policy.optimizer.zero_grad(set_to_none=True)
        return 1.0

    policy.apply_gradients = apply_gradients
    try:
        with warnings.catch_warnings(action="ignore"):  # torch misses the optimizer's step
            update(policy, batch, settings, step)
    finally:
        del policy.apply_gradients
    return found


def some_uniform_groups(settings) -> Batch:
    """Six groups of four with GRPO's advantages, of which only the first and the last are not all right."""
    batch = random_batch(prompts=6)
    scores = batch.scores.clone()
    scores[4:20] = 1.0
    g = torch.Generator().manual_seed(1)
    old = torch.where(batch.response_mask, -3.2 + 0.1 * torch.rand(batch.response_mask.shape, generator=g), 0.0)
    batch = replace(batch, scores=scores, old_log_probs=old)
    batch = replace(batch, token_level_rewards=token_level_rewards(batch, settings)[0])
    return replace(batch, advantages=advantages(batch, settings, 1).advantages)


def sharpen(model, factor: float = 2.0):
    """A random policy whose distributions are as uneven as those of a trained one; nearly uniform ones make a gate of rounding."""
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(factor)  # also the output layer's
    return model


def random_batch(prompts: int = 4, n: int = 4, seed: int = 0, longest: int = 16) -> Batch:
    """Responses of 1 .. longest random tokens to random prompts, right and wrong ones in each group."""
    g = torch.Generator().manual_seed(seed)

    def tokens(low: int, high: int) -> list[int]:
        length = int(torch.randint(low, high + 1, (), generator=g))
        return torch.randint(8, 20, (length,), generator=g).tolist()

    made = [Prompt(tokens(3, 9), "text", "source", "1", {}) for _ in range(prompts)]
    responses = [[Response(t := tokens(1, longest), [-1.0] * len(t), True) for _ in range(n)] for _ in made]
    batch = assemble(made, responses, [f"g{i}" for i in range(prompts)], ["text"] * (prompts * n), TOKENIZER.pad_token_id)
    scores = (torch.rand(prompts * n, generator=g) < 0.5).float()
    scores[::n], scores[1::n] = 1.0, 0.0
    return replace(batch, scores=scores)


def write_task(folder: Path, *, train: int = 64, validation: int = 12) -> Path:
    """Problems of the arithmetic task as parquet."""
    from examples.arithmetic.prepare import write

    write(folder, {"train": train, "validation": validation}, levels=(3, 4))
    return folder


def save_tiny(folder: Path, seed: int = 0) -> Path:
    """A tiny random policy as a model folder."""
    tiny_model(seed).save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder


def command(out: Path, model: Path, data: Path, *overrides: str) -> list[str]:
    """Arguments of a run of a few seconds."""
    return [
        f"data.train_files={data / 'train.parquet'}", f"actor_rollout_ref.model.path={model}",
        f"trainer.default_local_dir={out}", "data.train_batch_size=4", "data.seed=1", "data.max_prompt_length=24",
        "data.max_response_length=12", "actor_rollout_ref.rollout.n=4", "actor_rollout_ref.actor.ppo_mini_batch_size=2",
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=8", "actor_rollout_ref.actor.optim.lr=1e-3",
        "actor_rollout_ref.actor.use_kl_loss=true", "actor_rollout_ref.actor.kl_loss_coef=0.0",
        "actor_rollout_ref.model.enable_gradient_checkpointing=false", "trainer.total_training_steps=4",
        "trainer.device=cpu", f"reward.custom_reward_function.path={Path(__file__).parent / 'trainer_reward.py'}",
        "reward.custom_reward_function.name=digits", *overrides,
    ]  # fmt: skip


def run_here(arguments: list[str], code: int = 0) -> str:
    """The engine in this process (a start of its own costs seconds of imports); its output."""
    from erpo_verl.trainer.run import train

    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        found = train(arguments)
    assert found == code, output.getvalue()
    return output.getvalue()


def start(arguments: list[str], *, processes: int = 1, **environment: str) -> subprocess.Popen:
    """The engine as a process of its own."""
    launcher = [sys.executable, "-m"]
    if processes > 1:
        # Not accelerate launch: without GPUs it starts one process, whatever --num_processes says.
        launcher += ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "-m"]
        arguments = [*arguments, f"trainer.n_gpus_per_node={processes}"]  # refused where there are not as many
    variables = {**os.environ, **ENVIRONMENT, **environment}
    return subprocess.Popen(
        [*launcher, "erpo_verl.trainer", *arguments], env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


class Forked:
    """The engine in processes of its own, forked from one that has done nothing but import it: real signals and exits, without the
    seconds of imports. Offers what the tests use of ``subprocess.Popen``; signals go to every process.
    """

    def __init__(self, arguments: list[str], *, processes: int = 1):
        self.output = Path(tempfile.mkstemp(prefix="erpo-forked-")[1])
        place = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        places = [{**place, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)] if processes > 1 else [{}]
        arguments = [*arguments, f"trainer.n_gpus_per_node={processes}"]
        self.processes = [_forks().Process(target=_forked, args=(arguments, self.output, environment)) for environment in places]
        for process in self.processes:
            process.start()

    def poll(self) -> int | None:
        """The first exit code that is not 0, else 0; None while one is running."""
        codes = [process.exitcode for process in self.processes]
        return None if None in codes else next((code for code in codes if code), 0)

    returncode = property(poll)

    def send_signal(self, sign: int) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                os.kill(process.pid, sign)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        for process in self.processes:
            process.join(timeout)
        assert self.poll() is not None, "still running"
        text = self.output.read_text()
        self.output.unlink()
        return text, None


def _forked(arguments: list[str], output: Path, environment: dict[str, str]) -> None:
    """In the child: as if it had been started from a shell."""
    os.environ.update(environment)
    file = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1), os.dup2(file, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    sys.argv = ["erpo train", *arguments]
    code = 1
    try:
        runpy.run_module("erpo_verl.trainer", run_name="__main__")
    except SystemExit as stop:
        code = stop.code or 0
    finally:
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)


@functools.cache
def _forks() -> Any:
    """The process to fork from: started with the environment that `start` gives."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["erpo_verl.trainer.build", "erpo_verl.trainer.machine"])
    before = dict(os.environ)
    os.environ.update(ENVIRONMENT)
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def finish(process: subprocess.Popen | Forked, code: int = 0) -> str:
    """Wait for it; its output."""
    output, _ = process.communicate(timeout=600)
    assert process.returncode == code, output
    return output


def metrics(out: Path) -> list[dict]:
    """Lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a model folder."""
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def same_weights(a: Path, b: Path) -> bool:
    """Bit for bit."""
    first, second = weights(a), weights(b)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
