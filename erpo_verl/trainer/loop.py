"""The training loop, in the order in which one would explain it.

For each step:
    1  rollout       n responses to each prompt, from the policy as it is now
    2  reward        the reward function judges each response
    3  log-probs     old log-probs and entropies under the policy, log-probs under the reference
    4  advantages    GRPO: one number a response; ERPO: one a token (`erpo_verl.methods`)
    5  update        clipped surrogate on mini-batches, KL and entropy terms if asked for (`update.py`)

Around it: validation, metrics, checkpoints, and an orderly end at Ctrl-C.
"""

from __future__ import annotations

import json
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from omegaconf import DictConfig
from transformers import PreTrainedTokenizerBase

from erpo_verl.models.errors import first_line
from erpo_verl.rollout import RolloutEngine
from erpo_verl.runs.metrics import metrics_line
from erpo_verl.trainer import checkpoint, dump, export
from erpo_verl.trainer.advantages import advantages, method_of, token_level_rewards
from erpo_verl.trainer.batch import Batch
from erpo_verl.trainer.correction import importance_weights
from erpo_verl.trainer.data import Prompt, PromptOrder, changes, new_epoch
from erpo_verl.trainer.metrics import add_mismatch, data_metrics, timing_metrics
from erpo_verl.trainer.policy import DEFAULT_MICRO_BATCH, Policy
from erpo_verl.trainer.processes import Tally
from erpo_verl.trainer.reward import Judge
from erpo_verl.trainer.rollout import bypasses
from erpo_verl.trainer.sampler import Sampler, SamplingStopped
from erpo_verl.trainer.settings import (
    ADAPTER_KEYS,
    changed,
    deciding,
    reads_reference,
    reads_reference_of_equal_outcomes,
)
from erpo_verl.trainer.tracking import Tracking, append_line
from erpo_verl.trainer.update import update
from erpo_verl.trainer.validation import validate

# A gradient that is not finite is skipped; so many steps with nothing else end the run.
MAX_SKIPPED_STEPS = 3
VAL_ONLY = "val_only.jsonl"
CHECKPOINT_PARTS = ("model", "optimizer", "extra")


class TrainingError(RuntimeError):
    """The run cannot go on; the message says why."""


class Trainer:
    """See the module. All arguments are ready to use; ``run.py`` makes them from the settings."""

    def __init__(
        self,
        settings: DictConfig,
        *,
        accelerator: Accelerator,
        policy: Policy,
        engine: RolloutEngine,
        judge: Judge,
        tokenizer: PreTrainedTokenizerBase,
        train_prompts: Sequence[Prompt],
        val_prompts: Sequence[Prompt],
        data_order: Mapping[str, Any],
        run: Path,
        total_steps: int,
    ):
        self.settings, self.accelerator, self.policy, self.engine = settings, accelerator, policy, engine
        self.tokenizer, self.train_prompts, self.val_prompts = tokenizer, train_prompts, val_prompts
        self.data_order, self.run, self.total_steps = data_order, run, total_steps
        self.bypass = bypasses(settings, policy)
        self.sampler = Sampler(
            engine, judge, tokenizer, settings, accelerator.process_index, accelerator.num_processes,
            with_entropy=self.bypass and settings.actor_rollout_ref.rollout.name == "hf",
        )  # fmt: skip
        self.order = PromptOrder(len(train_prompts), seed=settings.data.seed, shuffle=settings.data.shuffle)
        self.step = 0  # last finished step
        self.resumed_from: str | None = None  # the checkpoint
        self.skipped_steps = 0
        self.credit_state: Any = None  # of a method with a memory
        self.tracker_ids: dict[str, str] = {}
        self.last_metrics: dict[str, float] = {}
        self.tracking: Tracking | None = None
        self.seconds: dict[str, float] = defaultdict(float)
        self._asked: Callable[[], bool] = lambda: False  # whether a stop was asked for

    # --- the loop

    def fit(self) -> bool:
        """Train to the last step; returns whether it got there (False: it was asked to stop, and saved)."""
        trainer = self.settings.trainer
        if trainer.val_only:
            self._validate_only()
            return True
        self.tracking = Tracking(
            self.run, self.settings, self.accelerator, start=self.step, total=self.total_steps, ids=self.tracker_ids
        )
        self.tracker_ids = self.tracking.ids
        if self.accelerator.is_main_process:
            self.sampler.say = self.tracking.say
        try:
            if self.val_prompts and trainer.val_before_train and self.step == 0:
                self.engine.sync(self.policy.sync_sampled())
                self.tracking.log(self.step, self._validate())
            with _asked_to_stop() as asked:
                self._asked = asked
                while self.step < self.total_steps:
                    try:
                        metrics = self.train_step(self.step + 1)
                    except SamplingStopped:
                        self.tracking.say(f"step {self.step + 1} was given up before it had all its groups; it begins anew when the run goes on")
                        self._save_last()
                        return False
                    self.step += 1
                    last = self.step == self.total_steps
                    if _due(trainer.test_freq, self.step, last):
                        self.engine.sync(self.policy.sync_sampled())
                        metrics.update(self._validate())
                    self.last_metrics.update(metrics)
                    self.tracking.log(self.step, metrics)
                    stop = self.policy.processes.max([float(asked())])[0] > 0 and not last
                    if stop or _due(trainer.save_freq, self.step, last):
                        self.save()
                    if stop:
                        return False
                if trainer.save_final_model:
                    self._save_model()
            return True
        finally:
            self.tracking.close()

    def train_step(self, step: int) -> dict[str, float]:
        """One step of the method; returns its metrics.

        Raises:
            TrainingError: a log-prob or an entropy is not finite (names the row and the token), or no update of the last steps was.
        """
        self.seconds.clear()
        processes = self.policy.processes
        compared = self.settings.actor_rollout_ref.rollout.calculate_log_probs
        with self._timed("step"):
            # 1, 2: responses and their scores
            with self._timed("gen"):
                self.engine.sync(self.policy.sync_sampled())
                batch, metrics = self.sampler.training_batch(self.train_prompts, self.order, step, self._between_batches)
            # 3: log-probs of the sampled tokens, under the policy before the update and under the reference
            batch, found = self._with_log_probs(batch, step)
            metrics.update(found)
            # 4: advantages, of the groups that this process has
            with self._timed("adv"):
                rewards, penalty_metrics = token_level_rewards(batch, self.settings, processes)
                batch = replace(batch, token_level_rewards=rewards)
                try:
                    credit = advantages(batch, self.settings, step, self.credit_state, self._dumps(step), processes)
                except ValueError as error:
                    raise TrainingError(f"step {step}: {error}") from error
                self.credit_state = credit.state
                batch = replace(batch, advantages=credit.advantages)
            # 5: the update
            with self._timed("update_actor"):
                metrics.update(update(self.policy, batch, self.settings, step, measure_mismatch=self.bypass and compared))
        metrics.update({**penalty_metrics, **credit.metrics})
        metrics.update(data_metrics(batch, self.settings.data.max_prompt_length, processes))
        tokens = int(processes.sum([float(batch.attention_mask.sum())])[0])
        metrics.update(timing_metrics(self.seconds, tokens, processes.count))
        metrics["training/global_step"] = float(step)
        metrics["training/epoch"] = self.order.position / len(self.train_prompts)
        if self._dumps(step):
            folder = Path(self.settings.trainer.rollout_data_dir).expanduser()
            dump.write_step(folder, step, batch, credit, self.settings, self.tokenizer, processes)
        self._count_skipped(metrics, step)
        return metrics

    def _between_batches(self, told: str) -> bool:
        """Dynamic sampling: says how far it is; whether a stop was asked for, in any process."""
        self.tracking.say(f"step {self.step + 1}: {told}")
        return self.policy.processes.max([float(self._asked())])[0] > 0

    def _with_log_probs(self, batch: Batch, step: int) -> tuple[Batch, dict[str, float]]:
        """Log-probs and entropies filled in; and, of a pass beside the rollout, how far the two are apart."""
        actor, rollout, ref = (self.settings.actor_rollout_ref[name] for name in ("actor", "rollout", "ref"))
        size = rollout.log_prob_micro_batch_size_per_gpu or 2 * (actor.ppo_micro_batch_size_per_gpu or DEFAULT_MICRO_BATCH)
        if self.bypass:
            old, entropy = batch.rollout_log_probs, batch.rollout_entropy
        else:
            with self._timed("old_log_prob"):
                old, entropy = self.policy.log_probs(batch, size, with_entropy=True)
        batch = replace(batch, old_log_probs=old, entropy=entropy)
        if reads_reference(self.settings, step):
            wanted = [True] * len(batch) if reads_reference_of_equal_outcomes(self.settings) else batch.differs()
            with self._timed("ref"):
                size = ref.log_prob_micro_batch_size_per_gpu or size
                # A dump holds the reference of every row.
                reference, _ = self.policy.log_probs(batch, size, reference=True, wanted=None if self._dumps(step) else wanted)
            batch = replace(batch, ref_log_prob=reference, without_reference=None if all(wanted) else ~torch.tensor(wanted))
        if self.bypass or not (rollout.calculate_log_probs or self.settings.algorithm.rollout_correction.rollout_is):
            return batch, {}
        weights, metrics = importance_weights(batch, self.settings, self.policy.processes)
        add_mismatch(tally := Tally(), old, batch.rollout_log_probs, batch.response_mask)
        return replace(batch, rollout_is_weights=weights), metrics | tally.result(self.policy.processes)

    def _validate_only(self) -> None:
        """``trainer.val_only``: nothing is written that belongs to the history of a run, which may be under way in the same folder."""
        self.engine.sync(self.policy.sync_sampled())
        self.sampler.say = print if self.accelerator.is_main_process else None
        metrics = self._validate()
        if self.accelerator.is_main_process:
            told = {"checkpoint": self.resumed_from, "model": self.settings.actor_rollout_ref.model.path}
            line = json.dumps({**json.loads(metrics_line(self.step, metrics)), **told}) + "\n"
            self.run.mkdir(parents=True, exist_ok=True)
            append_line(self.run / VAL_ONLY, line, "the validation")
            for name, value in metrics.items():
                if name.startswith("val-core/") and "/mean@" in name:
                    print(f"step {self.step}: {name} {value:.3f}")
            print(f"all numbers: the last line of {self.run / VAL_ONLY}")

    def _validate(self) -> dict[str, float]:
        with self._timed("testing"):
            metrics, batches = validate(self.sampler, self.val_prompts)
        folder = self.settings.trainer.validation_data_dir
        if folder is not None:
            name = f"{'val_only' if self.settings.trainer.val_only else 'validation'}_{self.step:06d}_{self.accelerator.process_index}.parquet"
            dump.write_validation(Path(folder).expanduser() / name, self.step, batches, self.tokenizer)
        return {**metrics, "timing_s/testing": self.seconds["testing"]}

    def _dumps(self, step: int) -> bool:
        trainer = self.settings.trainer
        return trainer.rollout_data_dir is not None and step % trainer.rollout_data_freq == 0

    def _count_skipped(self, metrics: dict[str, float], step: int) -> None:
        self.skipped_steps = self.skipped_steps + 1 if metrics["actor/grad_norm"] != metrics["actor/grad_norm"] else 0
        if self.skipped_steps >= MAX_SKIPPED_STEPS:
            raise TrainingError(
                f"step {step}: no gradient of the last {MAX_SKIPPED_STEPS} steps was finite; the policy is as it was before "
                "them. Try a lower actor_rollout_ref.actor.optim.lr, or fsdp_config.dtype=float32"
            )

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        if self.accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds[name] += time.perf_counter() - began

    # --- checkpoints

    def save(self) -> None:
        """Write a checkpoint of the last finished step.

        Raises:
            CheckpointError: it cannot be written.
        """
        state = self.policy.state()
        random_states: list[Any] = [checkpoint.random_state()]
        if self.accelerator.num_processes > 1:
            states: list[Any] = [None] * self.accelerator.num_processes
            torch.distributed.all_gather_object(states, random_states[0])
            random_states = states
        trainer = self.settings.trainer
        with_model = "hf_model" in self.settings.actor_rollout_ref.actor.checkpoint.save_contents
        whole = self.policy.whole_model() if with_model else None
        if self.accelerator.is_main_process:
            extra = {
                "step": self.step,
                "position": self.order.position,
                "scheduler": state["scheduler"],
                "skipped_steps": self.skipped_steps,
                "credit": {"method": self.settings.algorithm.adv_estimator, "state": self.credit_state},
                "random": random_states,
                "trackers": self.tracker_ids,
                "data": dict(self.data_order),
                "model": self.policy.start,
                "settings": deciding(self.settings),
                "metrics": {n: v for n, v in self.last_metrics.items() if n.startswith(("val-core/", "critic/score/"))},
            }
            checkpoint.save(
                self.run,
                self.step,
                {"model": state["model"], "optimizer": state["optimizer"], "extra": extra},
                keep=trainer.max_actor_ckpt_to_keep,
                extra_files=self._model_writer(whole) if with_model else None,
            )
        self.accelerator.wait_for_everyone()

    def _save_last(self) -> None:
        """A checkpoint of the last finished step, if there is a step and it has none yet."""
        if self.step and self.step not in checkpoint.steps(self.run):
            self.save()

    def _model_writer(self, model: Any) -> Callable[[Path], None]:
        return lambda folder: export.write_model(
            folder / "huggingface", model, self.tokenizer, self.settings, self.step, self.last_metrics
        )

    def resume(self, folder: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            CheckpointError: it is damaged, or of a run on other data or with another model.
        """
        parts = checkpoint.load(folder, CHECKPOINT_PARTS)
        extra = parts["extra"]
        path = self.settings.actor_rollout_ref.model.path
        others = changed(extra.get("settings", {}), deciding(self.settings))
        if adapters := [told for told in others if told.startswith(ADAPTER_KEYS)]:
            raise checkpoint.CheckpointError(f"{folder} is of other adapters: {', '.join(adapters)}; give what the run began with")
        if extra.get("model", self.policy.start) != self.policy.start:
            raise checkpoint.CheckpointError(
                f"{folder} does not fit actor_rollout_ref.model.path={path}: the run began with another model, which also is its "
                "reference; give the same one"
            )
        try:
            self.policy.load_state({"model": parts["model"], "optimizer": parts["optimizer"], "scheduler": extra["scheduler"]})
        except (RuntimeError, KeyError, ValueError) as error:
            raise checkpoint.CheckpointError(f"{folder} does not fit actor_rollout_ref.model.path={path}: {first_line(error)}") from error
        method, kept = method_of(self.settings), extra.get("credit", {"method": None, "state": None})
        if method.first_state is not None and kept["method"] != method.name:
            raise checkpoint.CheckpointError(
                f"{folder} holds no memory of the method {method.name!r} (it is of {kept['method'] or 'an older version'}): go on with the "
                "method that wrote it, or begin a new run from its weights"
            )
        self.credit_state = kept["state"] if kept["method"] == method.name else None
        if self.accelerator.is_main_process and others:
            print(f"goes on with other settings than those of {folder}: {', '.join(others)}")
        self.resumed_from = str(folder)
        self.step, self.skipped_steps = extra["step"], extra["skipped_steps"]
        if not self.settings.trainer.val_only:
            self.order.position = self._position(folder, extra)
        self.tracker_ids, self.last_metrics = dict(extra["trackers"]), dict(extra["metrics"])
        states = extra["random"]
        if len(states) == self.accelerator.num_processes:  # with another number the run goes on, but not bit for bit
            checkpoint.set_random_state(states[self.accelerator.process_index])

    def _position(self, folder: Path, extra: Mapping[str, Any]) -> int:
        """Where in the data a run goes on, which is only known while the prompts and their order are the same."""
        before, position = extra["data"], extra["position"]
        if not isinstance(before, dict):
            raise checkpoint.CheckpointError(f"{folder} is of an earlier version of erpo-verl, which did not record the order of the prompts")
        if before["order"] == self.data_order["order"]:
            return position
        what = changes(before, self.data_order)
        if self.settings.trainer.resume_data == "same":
            raise checkpoint.CheckpointError(
                f"{folder} is of a run on other training data or another order of it: {what}. Give what it was, or begin a new epoch of "
                "the new prompts with trainer.resume_data=new_epoch"
            )
        if self.accelerator.is_main_process:
            print(f"the training prompts are others than at {folder.name}: {what}; a new epoch of these begins")
        return new_epoch(before, position, self.order.count)

    def _save_model(self) -> None:
        whole = self.policy.whole_model()
        if self.accelerator.is_main_process:
            # A model there is of this run where it was resumed, else of another one.
            folder = export.replace_model(
                self.run / "model", whole, self.tokenizer, self.settings, self.step, self.last_metrics, keep_old=self.resumed_from is None
            )
            self.tracking.say(f"model: {folder}")
        self.accelerator.wait_for_everyone()


def _due(every: int, step: int, last: bool) -> bool:
    return every > 0 and (step % every == 0 or last)


@contextmanager
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM let the step finish; a second Ctrl-C ends at once."""
    asked: list[int] = []

    def handler(number: int, _frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        print("\nstopping after this step, with a checkpoint (once more: at once, without)", flush=True)

    previous = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
