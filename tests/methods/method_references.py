"""The peers in plain Python: float64, loops, no torch and nothing of the package. Nested lists [B][T] as in `reference.py`."""

from __future__ import annotations

import math

from reference import mean, outcome_advantages, strength_at, table


def _prepared(token_level_rewards, response_mask, index, std=True):
    valid = [[t for t, m in enumerate(row) if m] for row in response_mask]
    rewards = [math.fsum(row) for row in token_level_rewards]
    return valid, rewards, outcome_advantages(rewards, index, std)


def _weighted(A, weights, mean_one, response_mask):
    if mean_one and weights:
        center = mean(list(weights.values()))
        weights = {token: w / center if center else 0.0 for token, w in weights.items()}
    return table({(i, t): w * A[i] for (i, t), w in weights.items()}, response_mask)


def _top(values, share):
    """The floor(share * n) tokens with the largest values, and whoever equals the last of them."""
    k = math.floor(share * len(values) + 1e-9)
    if k == 0:
        return set()
    last = sorted(values.values(), reverse=True)[k - 1]
    return {token for token, value in values.items() if value >= last}


def stare(
    token_level_rewards, response_mask, index, entropy, old_log_probs, ref_log_prob,
    share=0.1, weight=1.1, below_entropy=0.3, mean_one=False, target=None, fade_steps=None, step=None,
):  # fmt: skip
    valid, _, A = _prepared(token_level_rewards, response_mask, index)
    tokens = [(i, t) for i, row in enumerate(valid) for t in row]
    H = [entropy[i][t] for i, t in tokens]
    strength = strength_at(target, fade_steps, step, H)
    if below_entropy is not None and not (H and mean(H) < below_entropy):
        strength = 0.0
    best = _top({(i, t): -old_log_probs[i][t] for i, t in tokens if A[i] > 0}, share) if strength else set()
    weights = {token: 1 + strength * (weight - 1) if token in best else 1.0 for token in tokens}
    return _weighted(A, weights, mean_one, response_mask)


def high_entropy(
    token_level_rewards, response_mask, index, entropy, old_log_probs, ref_log_prob, share=0.2, mean_one=False, target=None, fade_steps=None, step=None
):
    valid, _, A = _prepared(token_level_rewards, response_mask, index)
    H = {(i, t): entropy[i][t] for i, row in enumerate(valid) for t in row}
    strength = strength_at(target, fade_steps, step, list(H.values()))
    best = _top(H, share)
    weights = {token: 1.0 if token in best else 1 - strength for token in H}
    return _weighted(A, weights, mean_one, response_mask)


def maxrl(token_level_rewards, response_mask, index, entropy, old_log_probs, ref_log_prob, grpo_size=False):
    valid, rewards, A = _prepared(token_level_rewards, response_mask, index)
    ours = []
    for i, reward in enumerate(rewards):
        center = mean([r for r, g in zip(rewards, index, strict=True) if g == index[i]])
        ours.append((reward - center) / center if center > 0 else 0.0)
    if grpo_size and any(ours):
        factor = mean([abs(a) for a in A]) / mean([abs(a) for a in ours])
        ours = [a * factor for a in ours]
    return table({(i, t): ours[i] for i, row in enumerate(valid) for t in row}, response_mask)
