"""Refuse what cannot work, before a model is loaded, naming the key and what to set. All problems are reported at once."""

from __future__ import annotations

import sys
from typing import Any

from omegaconf import DictConfig, OmegaConf

from erpo_verl import methods
from erpo_verl.settings import Settings, SettingsError
from erpo_verl.verl_plugin.estimator import is_ours


def _select(config: DictConfig, key: str, default: Any = None) -> Any:
    value = OmegaConf.select(config, key, default=default)
    return default if value is None else value


def check_config(config: DictConfig) -> Settings | None:
    """Check verl's whole configuration for a run with a method of this package.

    Args:
        config: verl's configuration as composed by Hydra.

    Returns:
        The method's checked settings, or None if the run uses an estimator of verl's own.

    Raises:
        SettingsError: settings under ``algorithm.<name>`` are wrong, or other settings of verl rule the method out.
    """
    problems = _loss_problems(config) + _diagnostics_problems(config)
    settings, name = None, _select(config, "algorithm.adv_estimator")
    if is_ours(name):
        try:
            method = methods.get(name)
            settings = method.configure(_select(config, f"algorithm.{name}"))
        except methods.UnknownMethodError as error:
            raise SettingsError([*problems, f"algorithm.adv_estimator={name}: {error}"]) from error
        except SettingsError as error:
            problems.extend(error.problems)
        problems.extend(_estimator_problems(config, method, settings))
    for other in methods.registered():
        if other != name and _select(config, f"algorithm.{other}") is not None:
            print(f"erpo-verl: algorithm.{other}.* is set but algorithm.adv_estimator={name}: ignored.", file=sys.stderr)
    if problems:
        raise SettingsError(problems)
    return settings


def _estimator_problems(config: DictConfig, method: methods.Method, settings: Settings | None) -> list[str]:
    """``settings`` None: they are wrong by themselves, and then nothing is known of what the method needs."""
    problems, needed = [], method.inputs(settings) if settings is not None else set()
    n = _select(config, "actor_rollout_ref.rollout.n", 1)
    if n < 2:
        problems.append(
            f"actor_rollout_ref.rollout.n={n}: {method.name} compares the responses of a group; set it to 2 or more (8 is usual)."
        )
    # Without settings of its own to say otherwise, a method is taken to need the pass.
    if (settings is None or needed - {"ref_log_prob"}) and _select(config, "algorithm.rollout_correction.bypass_mode", False):
        problems.append(
            f"algorithm.rollout_correction.bypass_mode=true: verl then skips the pass over the old policy in which the token entropies"
            f" and log-probs of {method.name} are computed; set algorithm.rollout_correction.bypass_mode=false."
        )
    has_reference = _select(config, "algorithm.use_kl_in_reward", False) or _select(
        config, "actor_rollout_ref.actor.use_kl_loss", False
    )
    if "ref_log_prob" in needed and not has_reference:
        otherwise = method.without.get("ref_log_prob", "").replace("algorithm.", "+algorithm.")
        problems.append(
            f"{method.name} compares the policy with a reference policy and there is none: set"
            " actor_rollout_ref.actor.use_kl_loss=true (actor_rollout_ref.actor.kl_loss_coef=0 is fine and adds no KL"
            " loss)" + (f", or {otherwise}." if otherwise else ".")
        )
    return problems


def _diagnostics_problems(config: DictConfig) -> list[str]:
    wanted = _select(config, "algorithm.diagnostics", False)
    return [] if isinstance(wanted, bool) else [f"algorithm.diagnostics = {wanted!r}: must be true or false"]


def _loss_problems(config: DictConfig) -> list[str]:
    if _select(config, "actor_rollout_ref.actor.policy_loss.loss_mode") != "erpo":
        return []
    mode = _select(config, "actor_rollout_ref.actor.loss_agg_mode", "token-mean")
    if mode == "seq-mean-token-sum-norm" and _select(config, "actor_rollout_ref.actor.loss_scale_factor") is None:
        return [
            "actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-sum-norm without a scale divides by the padded width of"
            " each micro-batch, so the gradient would depend on how a batch is cut; set"
            " actor_rollout_ref.actor.loss_scale_factor (data.max_response_length is the usual choice)."
        ]
    return []


def what_the_golds_say(config: DictConfig) -> list[str]:
    """Lines about reference answers that the math-verify reward cannot read, where it judges; a run is never stopped here."""
    from erpo_verl import golds

    custom = "reward.custom_reward_function"
    if not golds.is_maths_reward(_select(config, f"{custom}.path"), _select(config, f"{custom}.name", "compute_score")):
        return []
    lines = []
    settings = _select(config, f"{custom}.reward_kwargs", {})
    for key in ("data.train_files", "data.val_files"):
        files = _select(config, key, [])
        try:
            found = golds.of_files(
                [files] if isinstance(files, str) else list(files),
                OmegaConf.to_container(settings) if OmegaConf.is_config(settings) else settings,
                source_key=_select(config, "data.reward_fn_key", "data_source"),
            )
        except Exception as error:  # whatever is wrong with the files or the reward, verl will meet it itself
            found = [f"{type(error).__name__}: {error}"]
        lines += [f"{key}: {line}" for line in found]
    return lines
