"""``erpo train``: from the command line to an exit code. Everything cheap is checked first, then the model is loaded.

    erpo train examples/arithmetic/erpo.yaml trainer.total_training_steps=50
    torchrun --nproc_per_node 2 -m erpo_verl.trainer examples/arithmetic/erpo.yaml
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from erpo_verl.runs import wandb_key
from erpo_verl.trainer.settings import SettingsError, compose, help_text

if TYPE_CHECKING:
    from erpo_verl.trainer.loop import Trainer

STOPPED = 130  # exit code after Ctrl-C, as of any program


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``erpo train``."""
    parser.add_argument("settings", nargs="*", metavar="FILE.yaml | key=value", help="settings, the later ones win")
    parser.add_argument("--check", action="store_true", help="check settings, data, reward, model and tokenizer, print the settings, load no weights")
    parser.add_argument("--keys", action="store_true", help="list every key with its default and meaning")


def run(args: argparse.Namespace) -> int:
    """Train; returns the exit code: 0 done, 1 an error, 130 stopped by Ctrl-C (the run can go on)."""
    if args.keys:
        print(help_text())
        return 0
    return train(args.settings, check=args.check)


def train(arguments: Sequence[str], *, check: bool = False) -> int:
    """One run from its command-line arguments; returns the exit code of ``run``."""
    trainer, expected = None, (SettingsError, OSError, ImportError)
    try:
        settings = compose(arguments)
        _check_wandb(settings)
        # Heavy imports only now: a wrong key is answered in a second.
        from transformers.utils import logging as transformers_logging

        from erpo_verl.trainer.build import build, load_inputs
        from erpo_verl.trainer.machine import check_launch

        expected = (*expected, *_own_errors())
        transformers_logging.disable_progress_bar()
        check_launch(settings)
        inputs = load_inputs(settings)
        if check:
            print(OmegaConf.to_yaml(settings))
        if os.environ.get("RANK", "0") == "0":
            print("".join(f"{note}\n" for note in inputs.notes), end="", flush=True)
        if check:
            prompts = f"{len(inputs.train_prompts)} training prompts, {len(inputs.val_prompts)} validation prompts"
            print(f"{prompts}, {inputs.total_steps} steps: all is well.")
            return 0
        trainer = build(settings, inputs)
        return 0 if trainer.fit() else _stopped(trainer)
    except KeyboardInterrupt:
        return _stopped(trainer)
    except expected as error:
        print(f"erpo train{_process(trainer)}: {error}", file=sys.stderr)
        _say_what_is_left(trainer)
        return 1
    except Exception as error:  # a fault of this program or of a library: its trace says more
        _say_what_is_left(trainer)
        if not _lost_another(error, trainer):
            raise
        print(f"erpo train{_process(trainer)}: another process has ended; its error is the one that counts", file=sys.stderr)
        return 1
    finally:
        _close(trainer)


def _check_wandb(settings: DictConfig) -> None:
    without = None
    if "wandb" in settings.trainer.logger and not settings.trainer.val_only and os.environ.get("RANK", "0") == "0":
        without = wandb_key.problem()
    if without:
        raise SettingsError([f"trainer.logger={list(settings.trainer.logger)}: W&B has {without}; or leave wandb out of trainer.logger"])


def _own_errors() -> tuple[type[Exception], ...]:
    """Errors whose message is all that a user needs."""
    from erpo_verl.models.errors import ModelError
    from erpo_verl.runs.metrics import MetricsError
    from erpo_verl.trainer.checkpoint import CheckpointError
    from erpo_verl.trainer.data import DataError
    from erpo_verl.trainer.loop import TrainingError
    from erpo_verl.trainer.reward import RewardError
    from erpo_verl.trainer.sampler import SamplingError
    from erpo_verl.trainer.tracking import TrackingError

    return CheckpointError, DataError, MetricsError, ModelError, RewardError, SamplingError, TrackingError, TrainingError


def _process(trainer: Trainer | None) -> str:
    several = trainer is not None and trainer.accelerator.num_processes > 1
    return f" (process {trainer.accelerator.process_index})" if several else ""


def _lost_another(error: Exception, trainer: Trainer | None) -> bool:
    """Whether this process failed because another one did: gloo and NCCL have no type of error for that."""
    several = trainer is not None and trainer.accelerator.num_processes > 1
    return several and isinstance(error, RuntimeError) and any(word in str(error) for word in ("gloo", "Gloo", "NCCL"))


def _stopped(trainer: Trainer | None) -> int:
    step = "" if trainer is None else f" after step {trainer.step} of {trainer.total_steps}"
    print(f"\nerpo train: stopped{step}", file=sys.stderr)
    _say_what_is_left(trainer)
    return STOPPED


def _say_what_is_left(trainer: Trainer | None) -> None:
    if trainer is None or not trainer.accelerator.is_main_process:
        return
    from erpo_verl.trainer.checkpoint import steps

    found = steps(trainer.run)
    again = "the same command" if trainer.settings.trainer.resume_mode == "auto" else "the same command with trainer.resume_mode=auto"
    checkpoint = f"{again} goes on from the newest checkpoint, global_step_{found[-1]}" if found else "there is no checkpoint to go on from"
    print(f"  in {trainer.run}: metrics.jsonl; {checkpoint}", file=sys.stderr)


def _close(trainer: Trainer | None) -> None:
    if trainer is None:
        return
    trainer.engine.close()
    if trainer.accelerator.num_processes > 1:
        import torch

        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
