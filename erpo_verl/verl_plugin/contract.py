"""Everything of verl that the plug-in relies on, in one table; a test and ``erpo doctor`` check it against the installed verl.

When an upstream release breaks a line, the message says which feature of the plug-in stands on it.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Clause:
    """One symbol of verl and what it must be like."""

    module: str
    symbol: str  # dotted path inside the module
    why: str  # what the plug-in does with it
    parameters: tuple[str, ...] = ()  # names that must be among its parameters
    source: tuple[str, ...] = ()  # texts that must stand in its source: facts with no other handle

    def problem(self) -> str | None:
        """None if the installed verl is as expected, else a message in one line."""
        where = f"{self.module}.{self.symbol}"
        try:
            target: Any = importlib.import_module(self.module)
            for part in self.symbol.split("."):
                target = getattr(target, part)
        except Exception as error:
            return f"{where}: {type(error).__name__}: {error} (needed: {self.why})"
        target = inspect.unwrap(target)
        missing = [name for name in self.parameters if name not in inspect.signature(target).parameters]
        if missing:
            return f"{where}: no parameter {', '.join(missing)} (needed: {self.why})"
        text = inspect.getsource(target) if self.source else ""
        missing = [line for line in self.source if line not in text]
        if missing:
            return f"{where}: its source no longer has {missing[0]!r} (needed: {self.why})"
        return None


CORE = "verl.trainer.ppo.core_algos"
V1 = "verl.trainer.ppo.v1.trainer_base"
LEGACY = "verl.trainer.ppo.ray_trainer"

CONTRACT: tuple[Clause, ...] = (
    # Registries.
    Clause(CORE, "register_adv_est", "registers an estimator a method", ("name_or_enum",)),
    Clause(CORE, "AdvantageEstimator", "says which names are verl's own"),
    Clause(CORE, "register_policy_loss", "registers the loss", ("name",)),
    Clause(
        CORE,
        "agg_loss",
        "aggregates the loss over the global batch",
        (
            "loss_mat",
            "loss_mask",
            "loss_agg_mode",
            "dp_size",
            "batch_num_tokens",
            "global_batch_size",
            "loss_scale_factor",
        ),
    ),
    Clause(
        CORE,
        "compute_grpo_outcome_advantage",
        "defines the outcome advantage that ERPO reproduces bit for bit",
        ("token_level_rewards", "response_mask", "index", "epsilon", "norm_adv_by_std_in_grpo"),
    ),
    # How the loss is called and what it is given.
    Clause(
        "verl.workers.utils.losses",
        "ppo_loss",
        "calls the loss with these arguments",
        ("config", "model_output", "data"),
        (
            "old_log_prob=old_log_prob",
            "advantages=advantages",
            "response_mask=response_mask",
            "rollout_is_weights=rollout_is_weights",
            'config.global_batch_info["batch_num_tokens"]',
            'config.global_batch_info["global_batch_size"]',
        ),
    ),
    # The common road of both trainers.
    Clause(
        LEGACY,
        "compute_advantage",
        "calls the estimator; wrapped to see the old and reference log-probs",
        ("data", "adv_estimator", "norm_adv_by_std_in_grpo", "config"),
        ('"token_level_rewards": data.batch["token_level_rewards"]', 'adv_kwargs["index"] = data.non_tensor_batch["uid"]'),
    ),
    Clause(
        "verl.trainer.ppo.v1.utils",
        "compute_advantage_for_multi_trajectories",
        "passes estimators other than GRPO on to compute_advantage",
        ("data", "batch_keys", "adv_estimator"),
        ("if adv_estimator != core_algos.AdvantageEstimator.GRPO:", "return compute_advantage("),
    ),
    Clause(
        "verl.trainer.ppo.v1.utils",
        "MetricsAggregator",
        "reduces metrics by the words in their names",
        (),
        ('["max", "maximum"]', '["min", "minimum"]', '["sum", "total"]'),
    ),
    # The v1 trainer.
    Clause(
        V1,
        "PPOTrainer._compute_advantage",
        "wrapped to announce the batch to the estimators",
        ("self", "batch", "metrics"),
        ('"old_log_probs", "ref_log_prob"',),
    ),
    Clause(
        V1,
        "PPOTrainer._compute_advantage",
        "wrapped for the diagnostics of verl's own estimators",
        (),
        ("data = compute_advantage_for_multi_trajectories(", "config=self.config.algorithm"),
    ),
    Clause(
        V1,
        "PPOTrainer._save_checkpoint",
        "wrapped to keep a method's memory beside the checkpoint",
        ("self",),
        ("self.config.trainer.default_local_dir", 'f"global_step_{self.global_steps}"'),
    ),
    Clause(
        V1,
        "PPOTrainer._load_checkpoint",
        "wrapped to read a method's memory",
        ("self",),
        ("self.global_steps = 0", "self.config.trainer.resume_from_path"),
    ),
    Clause(
        V1,
        "PPOTrainer._compute_old_log_prob",
        "puts per-token entropies into the TransferQueue",
        ("self", "batch", "metrics"),
        ('"calculate_entropy": True', 'data.select("old_log_probs", "entropy")'),
    ),
    Clause(
        V1, "PPOTrainer._log_rollout_data", "wrapped to write what a method made of each token beside verl's dump of rollouts",
        ("self", "batch", "timing_raw", "rollout_data_dir"), ('"prompts", "responses", "rm_scores", "reward_model"',),
    ),
    Clause(V1, "PPOTrainer.fit", "dumps rollouts before it clears the queue", (), ("self._log_rollout_data(batch, self.timing_raw, rollout_data_dir)",)),
    Clause(V1, "PPOTrainer.__init__", "wrapped to check the settings", ("self", "config")),
    Clause(V1, "PPOTrainer.fit", "counts steps from 1 in self.global_steps", (), ("self.global_steps += 1",)),
    Clause(
        V1,
        "PPOTrainer._compute_metrics",
        "wrapped to log the math-verify reward's counters; shows where a reward's further results are",
        ("self", "batch", "metrics"),
        ('select_fields=["extra_fields"]',),
    ),
    # The legacy trainer (trainer.use_v1=false).
    Clause(LEGACY, "RayPPOTrainer.__init__", "wrapped to check the settings", ("self", "config")),
    Clause(
        LEGACY,
        "RayPPOTrainer._compute_old_log_prob",
        "wrapped to keep the entropies that it returns",
        ("self", "batch"),
        ('"entropys": entropy.float()',),
    ),
    Clause(LEGACY, "RayPPOTrainer._update_actor", "wrapped to log a method's metrics with the actor's", ("self", "batch")),
    Clause(
        LEGACY,
        "RayPPOTrainer._save_checkpoint",
        "wrapped to keep a method's memory beside the checkpoint",
        ("self",),
        ("self.config.trainer.default_local_dir", 'f"global_step_{self.global_steps}"'),
    ),
    Clause(LEGACY, "RayPPOTrainer._load_checkpoint", "wrapped to read a method's memory", ("self",), ("self.global_steps = ",)),
    Clause(
        LEGACY,
        "RayPPOTrainer.fit",
        "puts a reward's further results into the batch",
        (),
        ("batch.non_tensor_batch.update({k: np.array(v) for k, v in reward_extra_infos_dict.items()})",),
    ),
    # Early checks.
    Clause(
        "verl.utils.config",
        "validate_config",
        "wrapped to refuse settings before Ray starts",
        ("config", "use_reference_policy", "use_critic"),
    ),
    Clause("verl.trainer.main_ppo", "main", "calls validate_config before run_ppo", (), ("validate_config(", "run_ppo(")),
    Clause(
        "verl.trainer.ppo.utils",
        "need_reference_policy",
        "has a reference policy exactly where the check expects one",
        ("config",),
        ("use_kl_in_reward", "actor.use_kl_loss"),
    ),
)


def problems(report: Callable[[Clause, str | None], None] | None = None) -> list[str]:
    """Check all clauses; returns the messages of those that do not hold. ``report`` sees each clause as it is checked."""
    found = []
    for clause in CONTRACT:
        problem = clause.problem()
        if report is not None:
            report(clause, problem)
        if problem is not None:
            found.append(problem)
    return found
