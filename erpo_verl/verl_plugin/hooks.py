"""The places of verl 0.9.1 that are wrapped, one function a place. Nothing is replaced: each calls verl's own code.

They are planted as post-import hooks: importing the trainers while ``import verl`` still runs would load the workers before
other plug-ins had their say. None of them knows a method by its name.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from typing import Any

import wrapt

from erpo_verl.verl_plugin import announce, context

STATE_FILE = "credit_state.pt"
"""Beside verl's own files in a checkpoint folder: the memory of a method that has one."""


def install() -> None:
    """Plant all hooks in this process."""
    for module, hook in (
        ("verl.trainer.ppo.core_algos", register),
        ("verl.utils.config", check_before_anything_is_loaded),
        ("verl.trainer.ppo.ray_trainer", legacy_trainer),
        ("verl.trainer.ppo.v1.trainer_base", v1_trainer),
        ("verl.trainer.ppo.v1.trainer_base", v1_reward_metrics),
    ):
        wrapt.when_imported(module)(_announcing_failure(hook))


def _announcing_failure(hook):
    """A verl that is not as expected must not stop those who use estimators of verl's own: say it, and leave that module as it is."""

    @functools.wraps(hook)
    def run(module):
        try:
            hook(module)
        except Exception as error:
            announce(
                f"{module.__name__} is not as expected, the advantage estimators of erpo-verl will not work"
                f" ({type(error).__name__}: {error}); run `erpo doctor`."
            )

    return run


def register(core_algos) -> None:
    """Put the estimators of all methods and the loss into verl's registries. A name that verl has itself stays verl's."""
    from erpo_verl import methods
    from erpo_verl.verl_plugin.estimator import estimator_of
    from erpo_verl.verl_plugin.loss import compute_policy_loss_erpo

    for name in methods.names():
        if name not in core_algos.ADV_ESTIMATOR_REGISTRY:
            core_algos.register_adv_est(name)(estimator_of(name))
    core_algos.register_policy_loss("erpo")(compute_policy_loss_erpo)


def check_before_anything_is_loaded(config_module) -> None:
    """``main_ppo`` validates its configuration before it starts Ray: the first moment at which all settings are known."""
    from erpo_verl.verl_plugin.checks import check_config, what_the_golds_say

    original = config_module.validate_config

    @functools.wraps(original)
    def validate_config(config, *args, **kwargs):
        check_config(config)
        for line in what_the_golds_say(config):
            announce(line)
        return original(config, *args, **kwargs)

    config_module.validate_config = validate_config


# --- What both trainers share


def _ours(trainer) -> bool:
    from erpo_verl.verl_plugin.estimator import is_ours

    return is_ours(trainer.config.algorithm.adv_estimator)


def _announces(trainer) -> bool:
    """Whether the trainer's batches are announced: for a method of this package, or for diagnostics of an estimator of verl's."""
    return _ours(trainer) or bool(trainer.config.algorithm.get("diagnostics", False))


def _context(trainer, **fields: Any) -> context.BatchContext:
    return context.BatchContext(
        step=trainer.global_steps,
        state=getattr(trainer, "_credit_state", None),
        keep=lambda state: setattr(trainer, "_credit_state", state),
        diagnose=not _ours(trainer),
        **fields,
    )


def _checked_init(trainer_class) -> None:
    """Entry points of one's own may not call ``validate_config``; a trainer's constructor still loads no model."""
    from erpo_verl.verl_plugin.checks import check_config

    original = trainer_class.__init__

    @functools.wraps(original)
    def __init__(self, config, *args, **kwargs):
        check_config(config)
        original(self, config, *args, **kwargs)

    trainer_class.__init__ = __init__


def _kept_state(trainer_class) -> None:
    """A method's memory goes into verl's checkpoint folder, before verl marks the checkpoint as whole, and comes from there."""
    import torch

    from erpo_verl import methods

    original_save, original_load = trainer_class._save_checkpoint, trainer_class._load_checkpoint

    @functools.wraps(original_save)
    def _save_checkpoint(self, *args, **kwargs):
        state = getattr(self, "_credit_state", None)
        if state is not None:
            folder = os.path.join(self.config.trainer.default_local_dir, f"global_step_{self.global_steps}")
            os.makedirs(folder, exist_ok=True)
            partial = os.path.join(folder, f".{STATE_FILE}.partial")
            torch.save({"method": self.config.algorithm.adv_estimator, "state": state}, partial)
            os.replace(partial, os.path.join(folder, STATE_FILE))
        return original_save(self, *args, **kwargs)

    @functools.wraps(original_load)
    def _load_checkpoint(self, *args, **kwargs):
        result = original_load(self, *args, **kwargs)
        if self.global_steps > 0 and _ours(self):
            name, trainer = self.config.algorithm.adv_estimator, self.config.trainer
            if methods.get(name).first_state is not None:
                resumed = trainer.resume_from_path if trainer.resume_mode == "resume_path" else None
                folder = resumed or os.path.join(trainer.default_local_dir, f"global_step_{self.global_steps}")
                file = os.path.join(folder, STATE_FILE)
                kept = torch.load(file, weights_only=True) if os.path.isfile(file) else {"method": None}
                if kept["method"] != name:
                    raise RuntimeError(
                        f"{folder} holds no memory of the method {name!r} ({STATE_FILE}: {kept['method'] or 'missing'}): go on with the"
                        " method that wrote it, or start a new run from its weights"
                    )
                self._credit_state = kept["state"]
        return result

    trainer_class._save_checkpoint, trainer_class._load_checkpoint = _save_checkpoint, _load_checkpoint


# --- verl's default trainer


def v1_trainer(trainer_base) -> None:
    """verl's default trainer, in all its modes: entropies wait in the TransferQueue under the batch's keys."""
    import transfer_queue as tq

    from erpo_verl.verl_plugin.estimator import diagnose

    trainer_class = trainer_base.PPOTrainer
    _checked_init(trainer_class)
    _kept_state(trainer_class)
    original = trainer_class._compute_advantage
    original_log = trainer_class._log_rollout_data
    original_road = trainer_base.compute_advantage_for_multi_trajectories

    @functools.wraps(original)
    def _compute_advantage(self, batch, metrics):
        if not _announces(self):
            return original(self, batch, metrics)

        def entropy():
            if (self.config.algorithm.get("rollout_correction", None) or {}).get("bypass_mode", False):
                return None  # verl has made no pass over the old policy
            fields = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=["entropy"])
            return fields["entropy"].to_padded_tensor(0.0)

        def ungradeable():
            if not self.config.reward.custom_reward_function.path:
                return None
            try:
                marks = [extra.get("ungradeable") for extra in _reward_extras(tq, batch, batch.keys)]
            except Exception as error:
                announce(f"what the reward says beside the score cannot be read, no group is left out: {type(error).__name__}: {error}")
                return None
            return None if all(mark is None for mark in marks) else [bool(mark) for mark in marks]

        announced = _context(
            self,
            entropy=entropy,
            metrics=metrics,
            keys=list(batch.keys),
            is_padding=[bool(tag.get("is_padding", False)) for tag in batch.tags],
            ungradeable=ungradeable,
            keep_tokens=bool(self.config.trainer.get("rollout_data_dir", None)),
        )
        with context.working_on(announced):
            result = original(self, batch, metrics)
        self._credit_seen = announced.seen
        return result

    @functools.wraps(original_road)
    def compute_advantage_for_multi_trajectories(data, *args, **kwargs):
        announced = context.current()
        result = original_road(data, *args, **kwargs)
        if announced is not None and announced.diagnose:
            announced.old_log_probs = result.batch.get("old_log_probs", None)
            announced.ref_log_prob = result.batch.get("ref_log_prob", None)
            diagnose(announced, result, kwargs["config"])
        return result

    @functools.wraps(original_log)
    def _log_rollout_data(self, batch, timing_raw, rollout_data_dir):
        original_log(self, batch, timing_raw, rollout_data_dir)
        seen, self._credit_seen = getattr(self, "_credit_seen", None), None
        if seen is not None:
            _dump(self, tq, batch, rollout_data_dir, *seen)

    trainer_class._log_rollout_data = _log_rollout_data
    trainer_class._compute_advantage = _compute_advantage
    trainer_base.compute_advantage_for_multi_trajectories = compute_advantage_for_multi_trajectories


def _dump(trainer, tq, batch, folder, given, rows, credit) -> None:
    """What the method made of each token, beside verl's own dump of the step."""
    from erpo_verl import methods
    from erpo_verl.methods.declarations import COMMON
    from erpo_verl.verl_plugin.dump import write_step

    keys = [batch.keys[row] for row in rows.tolist()]
    fields = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=["prompts", "responses", "reward_model"])
    models = [getattr(item, "data", item) for item in list(fields["reward_model"])] if "reward_model" in fields else [None] * len(keys)
    write_step(
        folder,
        trainer.global_steps,
        keys=keys,
        batch=given,
        credit=credit,
        quantities=(*COMMON, *(methods.get(trainer.config.algorithm.adv_estimator).tokens if _ours(trainer) else ())),
        prompts=fields["prompts"].unbind(),
        responses=fields["responses"].unbind(),
        golds=[model.get("ground_truth") if isinstance(model, dict) else None for model in models],
        extras=list(_reward_extras(tq, batch, keys)),
        tokenizer=trainer.tokenizer,
    )


def v1_reward_metrics(trainer_base) -> None:
    """Log what the math-verify reward counted in a training batch (``reward/...``); verl logs a reward's keys in validation
    only. Acts for that reward alone, whatever the estimator; whatever goes wrong here is said once and stops nobody's run."""
    import transfer_queue as tq

    from erpo_verl.reward.metrics import batch_metrics

    trainer_class = trainer_base.PPOTrainer
    original = trainer_class._compute_metrics

    @functools.wraps(original)
    def _compute_metrics(self, batch, metrics, *args, **kwargs):
        result = original(self, batch, metrics, *args, **kwargs)
        try:
            if self.config.reward.custom_reward_function.path:
                rows = [key for key, tag in zip(batch.keys, batch.tags, strict=True) if not tag.get("is_padding", False)]
                extras = list(_reward_extras(tq, batch, rows))
                names = {name for extra in extras for name in extra}
                if {"fast_path", "reason"} <= names:  # the math-verify reward, by itself or inside a user's own
                    metrics.update(batch_metrics({name: [extra.get(name) for extra in extras] for name in names}))
        except Exception as error:
            announce(f"the reward's counters (reward/...) cannot be logged: {type(error).__name__}: {error}; the run goes on.")
        return result

    trainer_class._compute_metrics = _compute_metrics


def _reward_extras(tq, batch, keys) -> Iterator[dict[str, Any]]:
    """What the reward function returned beside the score, for each key; empty where it returned nothing."""
    fields = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=["extra_fields"])
    for item in list(fields["extra_fields"]):
        # A list, an array or a stack of NonTensorData, as the TransferQueue's backend has it.
        found = getattr(item, "data", item)
        extra = found.get("reward_extra_info") if isinstance(found, dict) else None
        yield extra if isinstance(extra, dict) else {}


# --- The legacy trainer


def legacy_trainer(ray_trainer) -> None:
    """``compute_advantage``, which both trainers call with the batch, and the rest of the legacy trainer's road."""
    from erpo_verl.verl_plugin.estimator import diagnose

    original_compute = ray_trainer.compute_advantage

    @functools.wraps(original_compute)
    def compute_advantage(data, adv_estimator, *args, **kwargs):
        batch = context.current()
        if batch is None:
            return original_compute(data, adv_estimator, *args, **kwargs)
        old_log_probs = data.batch.get("old_log_probs", None)
        legacy = batch.keys is None and batch.old_log_probs is not None
        if legacy and not batch.is_of(old_log_probs):
            # A trainer that made no old log-probs for this batch, or moved its rows since: nothing is known of it.
            context.announce(None)
            return original_compute(data, adv_estimator, *args, **kwargs)
        if not batch.diagnose:
            batch.old_log_probs = old_log_probs
            batch.ref_log_prob = data.batch.get("ref_log_prob", None)
        if legacy:
            batch.spent = True
            marks = data.non_tensor_batch.get("ungradeable", None)
            if marks is not None:
                batch.ungradeable = lambda: [bool(mark) for mark in marks]
        result = original_compute(data, adv_estimator, *args, **kwargs)
        if legacy and batch.diagnose:
            batch.ref_log_prob = data.batch.get("ref_log_prob", None)
            diagnose(batch, result, kwargs["config"])
        return result

    ray_trainer.compute_advantage = compute_advantage

    trainer_class = ray_trainer.RayPPOTrainer
    _checked_init(trainer_class)
    _kept_state(trainer_class)
    original_old_log_prob = trainer_class._compute_old_log_prob
    original_update_actor = trainer_class._update_actor

    @functools.wraps(original_old_log_prob)
    def _compute_old_log_prob(self, batch):
        result = original_old_log_prob(self, batch)
        if _announces(self):
            entropy = result[0].batch["entropys"]  # the trainer drops it right after
            context.announce(_context(self, entropy=lambda: entropy, old_log_probs=result[0].batch["old_log_probs"]))
        return result

    @functools.wraps(original_update_actor)
    def _update_actor(self, batch):
        output = original_update_actor(self, batch)
        announced = context.current()
        if announced is not None and announced.spent:
            # The trainer logs what comes back from the actor; its own metrics are out of reach.
            output.meta_info["metrics"].update(announced.metrics)
            context.announce(None)
        return output

    trainer_class._compute_old_log_prob = _compute_old_log_prob
    trainer_class._update_actor = _update_actor
