"""From settings to a finished run: check everything cheap first, then load, resume, train.

    erpo train examples/arithmetic/erpo.yaml trainer.total_training_steps=50
    accelerate launch --num_processes 2 -m erpo_verl.trainer examples/arithmetic/erpo.yaml
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict

from erpo_verl.trainer.settings import SettingsError, as_list, compose, help_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``erpo train``."""
    parser.add_argument("settings", nargs="*", metavar="FILE.yaml | key=value", help="settings, the later ones win")
    parser.add_argument("--check", action="store_true", help="check settings and data, print the settings, load no model")
    parser.add_argument("--keys", action="store_true", help="list every key with its default and meaning")


def run(args: argparse.Namespace) -> int:
    """Train; returns the exit code: 0 done, 1 an error, 130 stopped by Ctrl-C (the run can go on)."""
    if args.keys:
        print(help_text())
        return 0
    try:
        return train(args.settings, check=args.check)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from the newest checkpoint", file=sys.stderr)
        return 130


def train(arguments: Sequence[str], *, check: bool = False) -> int:
    """One run from its command-line arguments; returns the exit code of ``run``."""
    try:
        settings = compose(arguments)
    except SettingsError as error:
        return _fail(error)

    # Heavy imports only now: a wrong key is answered in a second.
    from transformers import AutoTokenizer
    from transformers.utils import logging as transformers_logging

    from erpo_verl.trainer import data as data_module
    from erpo_verl.trainer.checkpoint import CheckpointError
    from erpo_verl.trainer.experience import ExperienceError
    from erpo_verl.trainer.loop import TrainingError
    from erpo_verl.trainer.reward import Judge, RewardError, load_reward
    from erpo_verl.trainer.tracking import TrackingError, tracker_names

    transformers_logging.disable_progress_bar()
    trainer = None
    try:
        settings = _with_seed(settings)
        names = tracker_names(list(settings.trainer.logger))
        columns = {"prompt_key": settings.data.prompt_key, "source_key": settings.data.reward_fn_key}
        train_table = data_module.read_table(as_list(settings.data.train_files), limit=settings.data.train_max_samples, **columns)
        val_files = as_list(settings.data.val_files)
        val_table = data_module.read_table(val_files, limit=settings.data.val_max_samples, **columns) if val_files else None
        custom = settings.reward.custom_reward_function
        judge = Judge(load_reward(custom.path, custom.name), _reward_settings(settings))
        model = settings.actor_rollout_ref.model
        tokenizer = AutoTokenizer.from_pretrained(model.tokenizer_path or model.path, trust_remote_code=model.trust_remote_code)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        template = OmegaConf.to_container(settings.data.apply_chat_template_kwargs)
        limits = {"max_length": settings.data.max_prompt_length, "template": template, **columns}
        train_prompts, dropped = data_module.tokenize(
            train_table, tokenizer, filter_overlong=settings.data.filter_overlong_prompts, truncation=settings.data.truncation, **limits
        )
        val_prompts, val_dropped = (
            data_module.tokenize(val_table, tokenizer, filter_overlong=settings.data.filter_overlong_prompts,
                                 truncation=settings.data.truncation, **limits) if val_table else ([], 0)
        )  # fmt: skip
        if dropped or val_dropped:
            print(f"left out: {dropped} training and {val_dropped} validation prompts over {settings.data.max_prompt_length} tokens")
        if settings.data.train_batch_size > len(train_prompts):
            raise data_module.DataError(
                f"data.train_batch_size={settings.data.train_batch_size}: the training data hold only {len(train_prompts)} prompts"
            )
        total = settings.trainer.total_training_steps or math.ceil(
            settings.trainer.total_epochs * (len(train_prompts) // settings.data.train_batch_size)
        )
        if check:
            print(OmegaConf.to_yaml(settings))
            print(f"{len(train_prompts)} training prompts, {len(val_prompts)} validation prompts, {total} steps: all is well.")
            return 0
        trainer = _build(settings, names, judge, tokenizer, train_prompts, val_prompts, train_table.fingerprint, total)
        if trainer is None:
            return 0
        if trainer.fit():
            return 0
        trainer.tracking.say(f"stopped after step {trainer.step} of {total}; the same command goes on from there")
        return 130
    except (
        SettingsError, TrackingError, data_module.DataError, RewardError, CheckpointError, ExperienceError, TrainingError, OSError,
        ValueError,
    ) as error:  # fmt: skip
        known = isinstance(error, (SettingsError, TrackingError, data_module.DataError, RewardError, CheckpointError,
                                   ExperienceError, TrainingError, OSError))  # fmt: skip
        if not known and trainer is None:
            raise  # a ValueError of a library while loading: its trace says more
        return _fail(error, trainer)
    finally:
        _close(trainer)


def _build(settings: DictConfig, trackers: list[str], judge, tokenizer, train_prompts, val_prompts, fingerprint: str, total: int):
    """The trainer with everything loaded, resumed where there is a checkpoint; None where the run is complete already."""
    from accelerate import Accelerator
    from accelerate.utils import DistributedType, set_seed

    from erpo_verl.reports.record import write_record
    from erpo_verl.trainer import checkpoint
    from erpo_verl.trainer.engine import make_engine
    from erpo_verl.trainer.loop import Trainer
    from erpo_verl.trainer.policy import Policy, load_model

    folder = Path(settings.trainer.default_local_dir).expanduser().absolute()
    accelerator = Accelerator(
        log_with=trackers or None, project_dir=str(folder), cpu=settings.trainer.device == "cpu", mixed_precision="no"
    )
    _check_processes(settings, accelerator.num_processes, accelerator.distributed_type == DistributedType.FSDP)
    found = checkpoint.find(folder, settings.trainer.resume_mode, settings.trainer.resume_from_path)
    if found is None and checkpoint.steps(folder):
        raise checkpoint.CheckpointError(
            f"{folder} holds checkpoints (up to step {checkpoint.steps(folder)[-1]}) and trainer.resume_mode=disable asks for a new "
            "run: give it a folder of its own (trainer.default_local_dir), or remove them"
        )
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint.clean(folder)
        if found is None:
            _set_aside(folder / "metrics.jsonl")
    accelerator.wait_for_everyone()

    set_seed(settings.actor_rollout_ref.actor.fsdp_config.seed, device_specific=True)
    model = load_model(settings)
    policy = Policy(model, settings, accelerator, total)
    trainer = Trainer(
        settings, accelerator=accelerator, policy=policy, engine=make_engine(settings, policy, tokenizer), judge=judge,
        tokenizer=tokenizer, train_prompts=train_prompts, val_prompts=val_prompts, data_fingerprint=fingerprint, run=folder,
        total_steps=total,
    )  # fmt: skip
    if found is not None:
        trainer.resume(found)
        if accelerator.is_main_process:
            print(f"resumed from {found} (step {trainer.step} of {total})")
    if accelerator.is_main_process:
        write_record(
            folder,
            engine="accelerate",
            arm=_arm(settings.trainer.experiment_name),
            seed=settings.data.seed,
            config=OmegaConf.to_container(settings),
            data_files={"train": as_list(settings.data.train_files), "val": as_list(settings.data.val_files)},
            model_path=settings.actor_rollout_ref.model.path,
            packages=("erpo-verl", "torch", "transformers", "accelerate", "peft", "numpy"),
        )
    return trainer


def _with_seed(settings: DictConfig) -> DictConfig:
    if settings.data.seed is None:
        with open_dict(settings):
            OmegaConf.set_readonly(settings, False)
            settings.data.seed = 1
            OmegaConf.set_readonly(settings, True)
    return settings


def _arm(experiment_name: str) -> str:
    """``erpo-s3`` is arm ``erpo``."""
    head, sign, tail = experiment_name.rpartition("-s")
    return head if sign and tail.isdigit() else experiment_name


def _reward_settings(settings: DictConfig) -> dict:
    """The reward function's own arguments; the maths reward also gets its number of workers."""
    custom = settings.reward.custom_reward_function
    given = OmegaConf.to_container(custom.reward_kwargs)
    if custom.path in (None, "pkg://erpo_verl.reward"):
        given.setdefault("workers", max(1, min(settings.reward.num_workers, os.cpu_count() or 1)))
    return given


def _check_processes(settings: DictConfig, processes: int, accelerates_fsdp: bool) -> None:
    actor, problems = settings.actor_rollout_ref.actor, []
    if settings.trainer.n_gpus_per_node not in (None, processes):
        problems.append(
            f"trainer.n_gpus_per_node={settings.trainer.n_gpus_per_node}, and accelerate launched {processes} process(es): start it "
            f"with accelerate launch --num_processes {settings.trainer.n_gpus_per_node} -m erpo_verl.trainer"
        )
    if actor.ppo_mini_batch_size % processes:
        problems.append(
            f"actor_rollout_ref.actor.ppo_mini_batch_size={actor.ppo_mini_batch_size}: must be a multiple of the {processes} processes"
        )
    if settings.actor_rollout_ref.rollout.name == "vllm" and processes > 1:
        problems.append(
            f"actor_rollout_ref.rollout.name=vllm: works with one process, and accelerate launched {processes}: set it to hf, or take verl"
        )
    if accelerates_fsdp:
        problems.append("accelerate launch --use_fsdp: leave it out; actor_rollout_ref.actor.strategy=fsdp2 shards the model")
    if problems:
        raise SettingsError(problems)


def _set_aside(metrics: Path) -> None:
    """An earlier run in this folder left metrics and no checkpoint: they are kept under another name."""
    if metrics.is_file() and metrics.stat().st_size:
        number = 1
        while (kept := metrics.with_name(f"{metrics.name}.old-{number}")).exists():
            number += 1
        os.replace(metrics, kept)
        print(f"{metrics} is of an earlier run without a checkpoint to go on from; kept as {kept.name}")


def _fail(error: Exception, trainer=None) -> int:
    print(f"erpo train: {error}", file=sys.stderr)
    if trainer is not None:
        from erpo_verl.trainer.checkpoint import steps

        found = steps(trainer.run)
        print(f"  metrics up to step {trainer.step} are in {trainer.run / 'metrics.jsonl'}; "
              + (f"the newest checkpoint is global_step_{found[-1]}" if found else "there is no checkpoint"), file=sys.stderr)  # fmt: skip
    return 1


def _close(trainer) -> None:
    if trainer is None:
        return
    trainer.engine.close()
    if trainer.accelerator.num_processes > 1:
        import torch

        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
