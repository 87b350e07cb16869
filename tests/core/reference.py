"""ERPO in plain Python: float64, loops, no torch and nothing of the package. Slow and meant to be read.

Inputs are nested lists [B][T] of Python floats, `settings` a flat dict of dotted names. Everything is computed from the
definitions, token by token, with `math.fsum`.
"""

import math
import struct
from fractions import Fraction
from itertools import accumulate

EPS = 1e-6

# verl divides a lone response's reward by float32(1) + 1e-6, whatever the dtype of the rewards.
LONE_SCALE = struct.unpack("f", struct.pack("f", 1 + EPS))[0]

DEFAULTS = {
    "gate.enable": True,
    "gate.gamma": 5.0,
    "gate.normalize": "none",
    "gate.measure": "entropy",
    "gate.side": "all",
    "progress.enable": True,
    "progress.beta": 0.1,
    "progress.eta": 0.2,
    "progress.min_std": 1e-3,
    "progress.clip": None,
    "progress.warmup_steps": 0,
    "progress.decay_steps": None,
    "progress.anchor": "sign",
    "buckets.count": 10,
    "buckets.axis": "position",
    "buckets.scope": "prompt",
    "buckets.difficulty_bands": 4,
    "zero_variance.rule": "zero",
    "zero_variance.threshold": 0.5,
    "synthesis.bound": None,
    "strength.entropy_target": None,
    "strength.fade_steps": None,
}


def mean(values):
    return math.fsum(values) / len(values)


def population_std(values):
    center = mean(values)
    return math.sqrt(math.fsum((v - center) ** 2 for v in values) / len(values))


def sign(x):
    return (x > 0) - (x < 0)


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def outcome_advantages(rewards, index, divide_by_std):
    advantages = []
    for i, reward in enumerate(rewards):
        group = [r for r, g in zip(rewards, index, strict=True) if g == index[i]]
        if len(group) == 1:
            center, scale = 0.0, LONE_SCALE
        else:
            center = mean(group)
            scale = math.sqrt(math.fsum((r - center) ** 2 for r in group) / (len(group) - 1)) + EPS
        advantages.append((reward - center) / scale if divide_by_std else reward - center)
    return advantages


def buckets(entropies, axis, count):
    """k of each valid token of a response. Rational arithmetic: a token on an edge falls where the definition says."""
    length = len(entropies)
    if axis == "cumulative_entropy" and any(h > 0 for h in entropies):
        spent = list(accumulate(Fraction(max(h, 0.0)) for h in entropies))
        tau = [x / spent[-1] for x in spent]
    else:
        tau = [Fraction(t, length) for t in range(length)]
    return [min(math.floor(count * x), count - 1) for x in tau]


def band_of_group(rewards, index, group, bands):
    low, high = min(rewards), max(rewards)
    if low == high:
        return 0
    center = sum(Fraction(r) for r, g in zip(rewards, index, strict=True) if g == group) / sum(
        g == group for g in index
    )
    return min(math.floor(bands * (center - Fraction(low)) / (Fraction(high) - Fraction(low))), bands - 1)


def eta_at(settings, step):
    eta = settings["progress.eta"] if settings["progress.enable"] else 0.0
    if settings["progress.warmup_steps"] > 0:
        eta *= min(1.0, step / settings["progress.warmup_steps"])
    if settings["progress.decay_steps"] is not None:
        eta *= max(0.0, 1.0 - step / settings["progress.decay_steps"])
    return eta


def strength_at(target, fade_steps, step, entropies):
    """Strength of an emphasis: `entropies` are those of all valid tokens of the batch."""
    strength = 1.0 if fade_steps is None else max(0.0, 1 - step / fade_steps)
    if target is not None:
        strength *= min(max((target - mean(entropies)) / target, 0.0), 1.0) if entropies else 0.0
    return strength


def erpo(
    token_level_rewards, response_mask, index, entropy, old_log_probs, ref_log_prob, settings, step=None, std=True
):
    """Returns [B][T] floats: A^ERPO at valid tokens, 0.0 at masked ones."""
    settings = {**DEFAULTS, **settings}
    rows = range(len(index))
    valid = [[t for t, m in enumerate(row) if m] for row in response_mask]
    rewards = [math.fsum(r for r in row if math.isfinite(r)) for row in token_level_rewards]
    A = outcome_advantages(rewards, index, std)
    strength = strength_at(
        settings["strength.entropy_target"],
        settings["strength.fade_steps"],
        step,
        [entropy[i][t] for i in rows for t in valid[i]] if entropy else [],
    )
    eta = eta_at(settings, step) * strength

    # Gate.
    W = {(i, t): 1.0 for i in rows for t in valid[i]}
    for group in set(index) if settings["gate.enable"] else ():
        tokens = [(i, t) for i in rows if index[i] == group for t in valid[i]]
        if not tokens:
            continue
        surprisal = settings["gate.measure"] == "surprisal"
        H = {(i, t): -old_log_probs[i][t] if surprisal else entropy[i][t] for i, t in tokens}
        mu, sigma = mean(list(H.values())), population_std(list(H.values()))
        acted = [(i, t) for i, t in tokens if settings["gate.side"] == "all" or A[i] > 0]
        for token in acted:
            W[token] = sigmoid(settings["gate.gamma"] * (H[token] - mu) / (sigma + EPS))
        if settings["gate.normalize"] == "mean_one" and acted:
            mean_W = mean([W[token] for token in acted])
            for token in acted:
                W[token] /= mean_W
        for token in acted:
            W[token] = 1 + strength * (W[token] - 1)

    # Progress.
    Psi = {token: 0.0 for token in W}
    if eta > 0:
        cell, s = {}, {}
        for i in rows:
            where = index[i]
            if settings["buckets.scope"] == "difficulty":
                where = band_of_group(rewards, index, index[i], settings["buckets.difficulty_bands"])
            H = [entropy[i][t] if entropy else 0.0 for t in valid[i]]
            numbers = buckets(H, settings["buckets.axis"], settings["buckets.count"])
            for t, k in zip(valid[i], numbers, strict=True):
                cell[i, t] = where, k
                s[i, t] = settings["progress.beta"] * (old_log_probs[i][t] - ref_log_prob[i][t])
        members = {}
        for token, name in cell.items():
            members.setdefault(name, []).append(s[token])
        statistics = {
            name: (mean(v), max(population_std(v), settings["progress.min_std"])) for name, v in members.items()
        }

        for i in rows:
            group = [j for j in rows if index[j] == index[i]]
            equal = len(group) > 1 and len({rewards[j] for j in group}) == 1
            signs = [0 if equal else sign(A[j]) for j in group]
            anchor = 0 if equal else sign(A[i])
            if settings["progress.anchor"] == "centered_sign":
                anchor = anchor - mean(signs)
            if settings["progress.anchor"] == "advantage":
                anchor = 0.0 if equal else A[i]
            if equal and settings["zero_variance.rule"] == "threshold":
                anchor = sign(rewards[i] - settings["zero_variance.threshold"])
            for t in valid[i]:
                center, spread = statistics[cell[i, t]]
                s_normalised = (s[i, t] - center) / (spread + EPS)
                if settings["progress.clip"] is not None:
                    s_normalised = min(max(s_normalised, -settings["progress.clip"]), settings["progress.clip"])
                Psi[i, t] = W[i, t] * anchor * s_normalised

    advantages = {(i, t): W[i, t] * A[i] + eta * Psi[i, t] for i, t in W}
    if settings["synthesis.bound"] is not None:
        for i, t in advantages:
            room = settings["synthesis.bound"] * abs(A[i])
            advantages[i, t] = min(max(advantages[i, t], A[i] - room), A[i] + room)
    return table(advantages, response_mask)


def table(advantages, response_mask):
    """{(row, column): value} as [B][T] floats, 0.0 at masked tokens."""
    return [[advantages.get((i, t), 0.0) for t in range(len(row))] for i, row in enumerate(response_mask)]
