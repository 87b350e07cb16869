"""Rollouts from other probabilities than those of the update, as vLLM's in another type: how far off, and importance weights.

Names, meanings and bounds are verl 0.9.1's (``algorithm.rollout_correction``): with r = pi_old / pi_rollout of a sampled token, its loss
is multiplied by r, or by the product of all r of its response, cut off at a threshold (truncated importance sampling).
"""

from __future__ import annotations

import torch
from omegaconf import DictConfig
from torch import Tensor

from erpo_verl.trainer.batch import Batch
from erpo_verl.trainer.processes import Processes, Tally

LIMIT = 20.0  # |log r| beyond this is cut off before exp(), as in verl
PREFIX = "rollout_corr/"


def importance_weights(batch: Batch, settings: DictConfig, processes: Processes) -> tuple[Tensor | None, dict[str, float]]:
    """Weights [B, T] float32 for the losses of this process's rows, 0 at masked tokens; None where none are asked for.

    The metrics, over the rows of all processes, say how far the two policies are apart, and with weights what these are.

    Args:
        batch: with ``old_log_probs`` of a pass and ``rollout_log_probs``.
        settings: of the whole run.
        processes: a mean weight of 1 (``rollout_is_batch_normalize``) is one over the rows of them all.
    """
    chosen, tally = settings.algorithm.rollout_correction, Tally()
    mask = batch.response_mask
    log_ratio = torch.where(mask, batch.old_log_probs - batch.rollout_log_probs, 0.0)
    _divergences(tally, batch.old_log_probs, batch.rollout_log_probs, mask)
    if chosen.rollout_is is None:
        return None, tally.result(processes)
    sequence = chosen.rollout_is == "sequence"
    log_r = log_ratio.sum(dim=1, keepdim=True) if sequence else log_ratio  # [B, 1] or [B, T]
    raw = log_r.clamp(-LIMIT, LIMIT).exp()
    weights = torch.where(mask, raw.clamp(max=chosen.rollout_is_threshold), 0.0)
    _weight_metrics(tally, weights[mask], raw[:, 0] if sequence else raw[mask], chosen.rollout_is_threshold, sequence)
    # Each response counts once in the mean of its weight, each token where every one has its own.
    counted = weights.amax(dim=1) if sequence else weights[mask]
    tally.mean(PREFIX + "rollout_is_batch_norm_factor", counted)
    metrics = tally.result(processes)
    mean, std = (metrics[f"{PREFIX}rollout_is_{kind}"] for kind in ("mean", "std"))
    metrics[PREFIX + "rollout_is_eff_sample_size"] = (mean + 1e-8) ** 2 / (mean**2 + std**2)
    factor = metrics.pop(PREFIX + "rollout_is_batch_norm_factor")
    if chosen.rollout_is_batch_normalize:
        factor = factor if factor > 1e-8 else 1.0
        metrics[PREFIX + "rollout_is_batch_norm_factor"] = factor
        weights = weights / factor
    return weights, metrics


def _weight_metrics(tally: Tally, weights: Tensor, raw: Tensor, threshold: float, sequence: bool) -> None:
    """Of the weights of tokens, and of their values before the cut (of responses, where these have one each)."""
    tally.mean(PREFIX + "rollout_is_mean", weights, std=PREFIX + "rollout_is_std")
    extremes = raw if sequence else weights
    tally.max(PREFIX + "rollout_is_max", extremes)
    tally.min(PREFIX + "rollout_is_min", extremes)
    tally.mean(PREFIX + "rollout_is_ratio_fraction_high", (raw > threshold).float())
    tally.mean(PREFIX + "rollout_is_ratio_fraction_low", (raw < 1.0 / threshold).float())


def _divergences(tally: Tally, old: Tensor, rollout: Tensor, mask: Tensor) -> None:
    """Estimates of KL(pi_rollout || pi_old) and chi^2 in nats a token, and perplexities a response, of both policies."""
    log_r = (old - rollout)[mask]
    tally.mean(PREFIX + "kl", -log_r)
    tally.mean(PREFIX + "k3_kl", log_r.exp() - log_r - 1)
    tally.mean(PREFIX + "chi2_token", (2 * log_r.clamp(-LIMIT, LIMIT)).exp() - 1)
    of_response = torch.where(mask, old - rollout, 0.0).sum(dim=1)
    tally.mean(PREFIX + "chi2_seq", (2 * of_response.clamp(-LIMIT, LIMIT)).exp() - 1)
    lengths = mask.sum(dim=1).clamp(min=1)
    means = {name: torch.where(mask, x, 0.0).sum(dim=1) / lengths for name, x in (("training", old), ("rollout", rollout))}
    for name, mean in means.items():
        tally.mean(f"{PREFIX}{name}_ppl", (-mean).exp())
        tally.mean(f"{PREFIX}{name}_log_ppl", -mean)
    difference = means["rollout"] - means["training"]
    tally.mean(PREFIX + "log_ppl_diff", difference)
    tally.mean(PREFIX + "log_ppl_abs_diff", difference.abs())
    tally.max(PREFIX + "log_ppl_diff_max", difference)
    tally.min(PREFIX + "log_ppl_diff_min", difference)
    tally.mean(PREFIX + "ppl_ratio", difference.exp())
