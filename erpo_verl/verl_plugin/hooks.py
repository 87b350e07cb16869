"""The places of verl 0.9.1 that are wrapped, one function a place. Nothing is replaced: each calls verl's own code.

They are planted as post-import hooks: importing the trainers while ``import verl`` still runs would load the workers before
other plug-ins had their say.
"""

from __future__ import annotations

import functools

import wrapt

from erpo_verl.verl_plugin import announce, context


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
    """A verl that is not as expected must not stop those who do not use ERPO: say it, and leave that module as it is."""

    @functools.wraps(hook)
    def run(module):
        try:
            hook(module)
        except Exception as error:
            announce(
                f"{module.__name__} is not as expected, adv_estimator=erpo will not work"
                f" ({type(error).__name__}: {error}); run `erpo doctor`."
            )

    return run


def register(core_algos) -> None:
    """Put the estimator and the loss into verl's registries."""
    from erpo_verl.verl_plugin.estimator import compute_erpo_advantage
    from erpo_verl.verl_plugin.loss import compute_policy_loss_erpo

    core_algos.register_adv_est("erpo")(compute_erpo_advantage)
    core_algos.register_policy_loss("erpo")(compute_policy_loss_erpo)


def check_before_anything_is_loaded(config_module) -> None:
    """``main_ppo`` validates its configuration before it starts Ray: the first moment at which all settings are known."""
    from erpo_verl.verl_plugin.checks import check_config

    original = config_module.validate_config

    @functools.wraps(original)
    def validate_config(config, *args, **kwargs):
        check_config(config)
        return original(config, *args, **kwargs)

    config_module.validate_config = validate_config


def _uses_erpo(trainer) -> bool:
    return trainer.config.algorithm.adv_estimator == "erpo"


def _checked_init(trainer_class) -> None:
    """Entry points of one's own may not call ``validate_config``; a trainer's constructor still loads no model."""
    from erpo_verl.verl_plugin.checks import check_config

    original = trainer_class.__init__

    @functools.wraps(original)
    def __init__(self, config, *args, **kwargs):
        check_config(config)
        original(self, config, *args, **kwargs)

    trainer_class.__init__ = __init__


def v1_trainer(trainer_base) -> None:
    """verl's default trainer, in all its modes: entropies wait in the TransferQueue under the batch's keys."""
    import transfer_queue as tq

    trainer_class = trainer_base.PPOTrainer
    _checked_init(trainer_class)
    original = trainer_class._compute_advantage

    @functools.wraps(original)
    def _compute_advantage(self, batch, metrics):
        if not _uses_erpo(self):
            return original(self, batch, metrics)

        def entropy():
            fields = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=["entropy"])
            return fields["entropy"].to_padded_tensor(0.0)

        announced = context.BatchContext(
            entropy=entropy,
            step=self.global_steps,
            metrics=metrics,
            keys=list(batch.keys),
            is_padding=[bool(tag.get("is_padding", False)) for tag in batch.tags],
        )
        with context.working_on(announced):
            return original(self, batch, metrics)

    trainer_class._compute_advantage = _compute_advantage


def v1_reward_metrics(trainer_base) -> None:
    """Log what the math-verify reward counted in a training batch (``reward/...``); verl logs a reward's keys in validation
    only. Acts for that reward alone, whatever the estimator."""
    import transfer_queue as tq

    from erpo_verl.reward.metrics import batch_metrics

    trainer_class = trainer_base.PPOTrainer
    original = trainer_class._compute_metrics

    @functools.wraps(original)
    def _compute_metrics(self, batch, metrics, *args, **kwargs):
        result = original(self, batch, metrics, *args, **kwargs)
        if self.config.reward.custom_reward_function.path:
            rows = [key for key, tag in zip(batch.keys, batch.tags, strict=True) if not tag.get("is_padding", False)]
            fields = tq.kv_batch_get(keys=rows, partition_id=batch.partition_id, select_fields=["extra_fields"])
            # A list, an array or a stack of NonTensorData, as the TransferQueue's backend has it.
            column = [getattr(item, "data", item) for item in list(fields["extra_fields"])]
            extras = [(item or {}).get("reward_extra_info") or {} for item in column]
            names = {name for extra in extras for name in extra}
            if {"fast_path", "reason"} <= names:  # the math-verify reward, by itself or inside a user's own
                metrics.update(batch_metrics({name: [extra.get(name) for extra in extras] for name in names}))
        return result

    trainer_class._compute_metrics = _compute_metrics


def legacy_trainer(ray_trainer) -> None:
    """``compute_advantage``, which both trainers call with the batch, and the rest of the legacy trainer's road."""
    original_compute = ray_trainer.compute_advantage

    @functools.wraps(original_compute)
    def compute_advantage(data, adv_estimator, *args, **kwargs):
        batch = context.current()
        if adv_estimator == "erpo" and batch is not None:
            batch.old_log_probs = data.batch.get("old_log_probs", None)
            batch.ref_log_prob = data.batch.get("ref_log_prob", None)
        return original_compute(data, adv_estimator, *args, **kwargs)

    ray_trainer.compute_advantage = compute_advantage

    trainer_class = ray_trainer.RayPPOTrainer
    _checked_init(trainer_class)
    original_old_log_prob = trainer_class._compute_old_log_prob
    original_update_actor = trainer_class._update_actor

    @functools.wraps(original_old_log_prob)
    def _compute_old_log_prob(self, batch):
        result = original_old_log_prob(self, batch)
        if _uses_erpo(self):
            entropy = result[0].batch["entropys"]  # the trainer drops it right after
            context.announce(context.BatchContext(entropy=lambda: entropy, step=self.global_steps))
        return result

    @functools.wraps(original_update_actor)
    def _update_actor(self, batch):
        output = original_update_actor(self, batch)
        announced = context.current()
        if _uses_erpo(self) and announced is not None:
            # The trainer logs what comes back from the actor; its own metrics are out of reach.
            output.meta_info["metrics"].update(announced.metrics)
        return output

    trainer_class._compute_old_log_prob = _compute_old_log_prob
    trainer_class._update_actor = _update_actor
