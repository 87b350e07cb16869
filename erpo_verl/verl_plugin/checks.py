"""Refuse what cannot work, before a model is loaded, naming the key and what to set. All problems are reported at once."""

from __future__ import annotations

import sys
from typing import Any

from omegaconf import DictConfig, OmegaConf

from erpo_verl.methods.erpo import ErpoConfig
from erpo_verl.settings import SettingsError


def _select(config: DictConfig, key: str, default: Any = None) -> Any:
    value = OmegaConf.select(config, key, default=default)
    return default if value is None else value


def check_config(config: DictConfig) -> ErpoConfig | None:
    """Check verl's whole configuration for a run with ERPO.

    Args:
        config: verl's configuration as composed by Hydra.

    Returns:
        The checked settings, or None if the run does not use the estimator ``erpo``.

    Raises:
        SettingsError: settings under ``algorithm.erpo`` are wrong, or other settings of verl rule ERPO out.
    """
    problems = _loss_problems(config)
    erpo = None
    if _select(config, "algorithm.adv_estimator") == "erpo":
        try:
            erpo = ErpoConfig.from_mapping(_select(config, "algorithm.erpo"))
        except SettingsError as error:
            problems.extend(error.problems)
        problems.extend(_estimator_problems(config, erpo))
    elif _select(config, "algorithm.erpo") is not None:
        name = _select(config, "algorithm.adv_estimator")
        print(f"erpo-verl: algorithm.erpo.* is set but algorithm.adv_estimator={name}: ignored.", file=sys.stderr)
    if problems:
        raise SettingsError(problems)
    return erpo


def _estimator_problems(config: DictConfig, erpo: ErpoConfig | None) -> list[str]:
    problems = []
    n = _select(config, "actor_rollout_ref.rollout.n", 1)
    if n < 2:
        problems.append(
            f"actor_rollout_ref.rollout.n={n}: ERPO compares the responses of a group; set it to 2 or more (8 is usual)."
        )
    if _select(config, "algorithm.rollout_correction.bypass_mode", False):
        problems.append(
            "algorithm.rollout_correction.bypass_mode=true: verl then skips the pass over the old policy in which token"
            " entropies are computed; set algorithm.rollout_correction.bypass_mode=false."
        )
    has_reference = _select(config, "algorithm.use_kl_in_reward", False) or _select(
        config, "actor_rollout_ref.actor.use_kl_loss", False
    )
    if erpo is not None and erpo.needs_ref_log_prob and not has_reference:
        problems.append(
            "the progress term compares the policy with a reference policy and there is none: set"
            " actor_rollout_ref.actor.use_kl_loss=true (actor_rollout_ref.actor.kl_loss_coef=0 is fine and adds no KL"
            " loss), or switch the term off with +algorithm.erpo.progress.enable=false."
        )
    return problems


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
