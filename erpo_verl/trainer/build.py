"""From checked settings to a trainer: first what is cheap and may be wrong (data, reward, tokenizer), then the model."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import set_seed
from omegaconf import DictConfig, OmegaConf, read_write

from erpo_verl import golds
from erpo_verl.models.parts import ModelParts
from erpo_verl.prompts import Prompter, PromptError
from erpo_verl.reward import KEYS, RewardConfig, RewardSetupError
from erpo_verl.reward.config import RewardConfigError
from erpo_verl.rows import RowError
from erpo_verl.runs.metrics import METRICS
from erpo_verl.runs.names import arm_and_seed
from erpo_verl.runs.record import write_record
from erpo_verl.runs.versions import versions
from erpo_verl.settings import SettingsError
from erpo_verl.trainer import checkpoint
from erpo_verl.trainer.data import DataError, Prompt, Table, order_record, read_table, tokenize
from erpo_verl.trainer.loop import Trainer
from erpo_verl.trainer.machine import make_accelerator
from erpo_verl.trainer.policy import Policy, mesh_of, splits_weights
from erpo_verl.trainer.processes import Processes
from erpo_verl.trainer.reward import DEFAULT, Judge, RewardError, load_reward
from erpo_verl.trainer.rollout import make_engine
from erpo_verl.trainer.sampler import SCORES
from erpo_verl.trainer.settings import as_list
from erpo_verl.trainer.start import check_prompts, load_start_model, read_start_model, recorded_date
from erpo_verl.trainer.tracking import tracker_names


@dataclass(frozen=True)
class Inputs:
    """All that a run needs beside its weights, read and checked."""

    trackers: list[str]
    judge: Judge
    model: ModelParts
    train_prompts: list[Prompt]
    val_prompts: list[Prompt]
    notes: list[str]  # what there is to say of model and data
    order: dict[str, Any]  # what a position in the training prompts belongs to
    total_steps: int


def load_inputs(settings: DictConfig) -> Inputs:
    """Read and check everything that takes seconds, so that nothing of it fails after the model is loaded.

    Where the chat template prints the date, ``data.template_date`` is set to the one that the prompts are made with.

    Raises:
        TrackingError, DataError, RewardError, ModelError, CheckpointError: see there.
    """
    data = settings.data
    trackers = tracker_names(list(settings.trainer.logger))
    train_table = _table(data, data.train_files, data.train_max_samples)
    val_table = _table(data, data.val_files, data.val_max_samples) if data.val_files else None
    judge = load_judge(settings)
    model = read_start_model(settings)
    try:
        template = OmegaConf.to_container(data.apply_chat_template_kwargs)
        prompter = Prompter(model.tokenizer, template, data.template_date or recorded_date(settings))
    except PromptError as error:
        raise DataError(f"data.template_date: {error}") from None
    train_prompts, left_out = _prompts(train_table, prompter, data)
    val_prompts, val_left_out = _prompts(val_table, prompter, data) if val_table else ([], 0)
    notes = list(model.notes)
    notes += [f"left out: {n} prompts over data.max_prompt_length={data.max_prompt_length} tokens" for n in [left_out + val_left_out] if n]
    if prompter.dated:
        notes.append(f"the chat template prints the date: {prompter.date} in all prompts of this run, also when it goes on (data.template_date)")
        with read_write(settings):
            settings.data.template_date = prompter.date
    check_prompts(model, [*train_prompts, *val_prompts], settings)
    if data.train_batch_size > len(train_prompts):
        raise DataError(f"data.train_batch_size={data.train_batch_size}: the training data hold only {len(train_prompts)} prompts")
    total = settings.trainer.total_training_steps or settings.trainer.total_epochs * (len(train_prompts) // data.train_batch_size)
    order = order_record(train_prompts, train_table, model.tokenizer, data)
    if os.environ.get("RANK", "0") == "0":  # once, however many processes there are
        notes += _try_reward(judge, settings, train_prompts, val_prompts)
    return Inputs(trackers, judge, model, train_prompts, val_prompts, notes, order, total)


def _try_reward(judge: Judge, settings: DictConfig, train: list[Prompt], val: list[Prompt]) -> list[str]:
    """The maths reward reads every gold; another function is tried on made-up responses. Returns what there is to say.

    Raises:
        RewardError, DataError: see `Judge.probe` and `golds.check`.
    """
    filters = settings.algorithm.filter_groups
    if not judge.maths:
        judge.probe([*train, *val])
    keys = KEYS if judge.maths else sorted(judge.keys)
    if filters.enable and filters.metric not in (*SCORES, *keys):
        raise RewardError(f"algorithm.filter_groups.metric={filters.metric}: {judge.name} returns no such key; it returns {', '.join(keys)}")
    if not judge.maths:
        return []
    prompts = [*train, *val]
    try:
        found = golds.check([prompt.gold for prompt in prompts], [prompt.place for prompt in prompts], judge.settings)
    except RowError as error:
        raise DataError(str(error)) from None
    except RewardSetupError as error:
        raise RewardError(f"the maths reward cannot be started: {error}") from error
    return [golds.told(found, len(prompts), "which count for nothing")] if found else []


def _table(data: DictConfig, files: Any, limit: int) -> Table:
    return read_table(as_list(files), prompt_key=data.prompt_key, source_key=data.reward_fn_key, limit=limit)


def _prompts(table: Table, prompter: Prompter, data: DictConfig) -> tuple[list[Prompt], int]:
    return tokenize(
        table, prompter, max_length=data.max_prompt_length, filter_overlong=data.filter_overlong_prompts, truncation=data.truncation,
        prompt_key=data.prompt_key,
    )  # fmt: skip


def load_judge(settings: DictConfig) -> Judge:
    """The reward function with its own arguments; the maths reward also gets its number of workers.

    Raises:
        RewardError: it cannot be loaded, or does not take these arguments.
    """
    custom = settings.reward.custom_reward_function
    given = OmegaConf.to_container(custom.reward_kwargs)
    maths = golds.is_maths_reward(custom.path or DEFAULT, custom.name)
    if maths:
        given.setdefault("workers", max(1, min(settings.reward.num_workers, os.cpu_count() or 1)))
        try:
            RewardConfig.from_mapping(given)
        except RewardConfigError as error:
            raise RewardError(f"reward.custom_reward_function.reward_kwargs: {'; '.join(error.problems)}") from None
    return Judge(load_reward(custom.path, custom.name), given, maths=maths)


def build(settings: DictConfig, inputs: Inputs) -> Trainer:
    """The trainer with everything loaded, at the step of the checkpoint that it goes on from (0: a new run).

    Raises:
        SettingsError: settings that do not fit the number of processes, the machine or the model.
        CheckpointError, ModelError: see there.
    """
    trainer = settings.trainer
    folder = Path(trainer.default_local_dir).expanduser().absolute()
    for key, place in (("default_local_dir", folder), ("rollout_data_dir", trainer.rollout_data_dir)):
        if place is not None and not trainer.val_only:
            try:
                Path(place).expanduser().mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise SettingsError(f"trainer.{key}={place}: cannot be made: {error.strerror}") from error
    accelerator = make_accelerator(settings, inputs.trackers, folder)
    found = _prepare(folder, trainer, accelerator)
    set_seed(settings.actor_rollout_ref.actor.fsdp_config.seed, device_specific=True)
    policy = _load_policy(settings, accelerator, inputs)
    engine = make_engine(settings, policy, inputs.model)
    if accelerator.is_main_process and getattr(engine, "note", None):
        print(engine.note)
    made = Trainer(
        settings, accelerator=accelerator, policy=policy, engine=engine, judge=inputs.judge,
        tokenizer=inputs.model.tokenizer, train_prompts=inputs.train_prompts, val_prompts=inputs.val_prompts,
        data_order=inputs.order, run=folder, total_steps=inputs.total_steps,
    )  # fmt: skip
    if found is not None:
        made.resume(found)
        if accelerator.is_main_process:
            print(f"resumed from {found} (step {made.step} of {made.total_steps})")
    if accelerator.is_main_process and not trainer.val_only:
        write_record(
            folder,
            engine="accelerate",
            arm=arm_and_seed(trainer.experiment_name)[0],
            seed=settings.data.seed,
            config=OmegaConf.to_container(settings),
            data_files={"train": as_list(settings.data.train_files), "val": as_list(settings.data.val_files)},
            model_path=settings.actor_rollout_ref.model.path,
            versions=versions("accelerate", settings.actor_rollout_ref.rollout.name),
        )
    return made


def _load_policy(settings: DictConfig, accelerator: Accelerator, inputs: Inputs) -> Policy:
    """The policy; with weights that are split over the processes one process after the other, so that one whole model at a time is in memory."""
    split = splits_weights(settings, accelerator)
    mesh = mesh_of(accelerator) if split else None
    with Processes.of(accelerator).in_turn() if split else contextlib.nullcontext():
        return Policy(load_start_model(settings, inputs.model), settings, accelerator, inputs.total_steps, mesh)


def _prepare(folder: Path, trainer: DictConfig, accelerator: Accelerator) -> Path | None:
    """The run's folder made ready; the checkpoint to go on from, or None. What the run would write over is set aside."""
    found = checkpoint.find(folder, trainer.resume_mode, trainer.resume_from_path)
    if trainer.val_only:  # perhaps beside a run that is under way
        return found
    there = checkpoint.steps(folder)
    if found is None and there:
        raise checkpoint.CheckpointError(
            f"{folder} holds checkpoints (up to step {there[-1]}) and trainer.resume_mode=disable asks for a new "
            "run: give it a folder of its own (trainer.default_local_dir), or remove them"
        )
    if accelerator.is_main_process:
        checkpoint.clean(folder)
        metrics = folder / METRICS
        if found is None:
            if metrics.is_file() and metrics.stat().st_size:
                kept = checkpoint.set_aside(metrics)
                print(f"{metrics} is of an earlier run without a checkpoint to go on from; kept as {kept.name}")
        elif later := [step for step in there if step > checkpoint.step_of(found)]:
            kept = [checkpoint.set_aside(folder / f"global_step_{step}") for step in later]
            if metrics.is_file():
                kept.append(checkpoint.set_aside(metrics, copy=True))
            print(f"{folder} has been further than {found.name}; kept as {', '.join(path.name for path in kept)}")
    accelerator.wait_for_everyone()
    return found
