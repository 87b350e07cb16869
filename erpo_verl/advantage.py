"""ERPO's token advantages, from top to bottom: outcome -> gate -> progress -> synthesis.

    A_i       = (R_i - mean_g R) / (std_g R + eps)                    outcome, as verl's GRPO        certain
    W_{i,t}   = sigmoid(gamma (H_{i,t} - mu_g) / (sigma_g + eps))     entropy-aware gate, eq. 8      high; gamma medium
    s_{i,t}   = beta (log pi_old(o_t) - log pi_ref(o_t))              implicit progress, eq. 7       high; beta medium
    s~_{i,t}  = (s - mu_{g,k}) / (max(sigma_{g,k}, min_std) + eps)    bucket normalisation, eq. 9    medium-high
    Psi_{i,t} = W_{i,t} sgn(A_i) s~_{i,t}                             synthesis, eq. 10              high
    A^ERPO    = W_{i,t} A_i + eta Psi_{i,t}                           final advantage                medium

Equation numbers are those of arXiv 2603.28204; the last column says how certain the reading is (`docs/method.md`).
A group g is the responses to one prompt. All is computed without gradient, from the policy as it was before the update.
Tensors come in as [B, T]. From the gate on, tokens are packed: the n valid tokens of a block of rows, one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from erpo_verl.config import PREFIX, BucketsConfig, ErpoConfig, GateConfig, ProgressConfig
from erpo_verl.diagnostics import BatchMetrics, top_quantile
from erpo_verl.segments import (
    Block,
    Groups,
    Moments,
    check_finite,
    even_sample,
    pack,
    pool,
    row_moments,
    segment_moments,
)

EPS = 1e-6


@dataclass(frozen=True)
class ErpoTokens:
    """What went into the advantages of N packed tokens, for dumps and figures. None where a part is off or not given."""

    row: Tensor  # [N] int64
    column: Tensor  # [N] int64
    position: Tensor  # [N] int64, t
    bucket: Tensor  # [N] int64, k
    outcome: Tensor  # [N] A_i
    anchor: Tensor | None  # [N] what stands in the place of sgn(A_i) in eq. 10
    entropy: Tensor | None  # [N] H, nats
    z: Tensor | None  # [N] H in standard deviations from the group's mean
    gate: Tensor | None  # [N] W; None means W = 1
    progress: Tensor | None  # [N] s, beta * nats
    progress_normalised: Tensor | None  # [N] s~, clipped where progress.clip is set
    advantages: Tensor  # [N] A^ERPO

    @classmethod
    def concatenate(cls, parts: Sequence[ErpoTokens]) -> ErpoTokens:
        """The tokens of all parts, in order; all parts have the same fields switched off."""
        columns = {name: [getattr(part, name) for part in parts] for name in cls.__dataclass_fields__}
        return cls(**{name: None if c[0] is None else torch.cat(c) for name, c in columns.items()})


@dataclass(frozen=True)
class ErpoAdvantages:
    """``advantages`` [B, T], 0 at masked tokens, in the dtype of token_level_rewards; ``metrics``; ``tokens`` if kept."""

    advantages: Tensor
    metrics: dict[str, float]
    tokens: ErpoTokens | None = None


@torch.no_grad()
def erpo_advantages(
    *,
    token_level_rewards: Tensor,
    response_mask: Tensor,
    index: Sequence[Any] | Tensor,
    entropy: Tensor | None,
    old_log_probs: Tensor | None,
    ref_log_prob: Tensor | None,
    config: ErpoConfig | Mapping[str, Any] | None,
    step: int | None = None,
    norm_adv_by_std_in_grpo: bool = True,
    deciding: Tensor | None = None,
    keep_tokens: bool = False,
) -> ErpoAdvantages:
    """Token advantages of ERPO for one batch. No input is changed; no gradient flows.

    Args:
        token_level_rewards: [B, T] float. R_i is the sum over the whole row, as in verl (which may put the reward of a
            multi-turn response on a masked token).
        response_mask: [B, T] bool, int or float; non-zero marks a valid token. Holes are fine: t and T_i count valid
            tokens.
        index: B hashable group ids (verl's ``uid``), in any order.
        entropy: [B, T] float, >= 0, nats, of the full next-token distribution at sampling temperature, under the policy
            before the update. None only if the settings make no use of it.
        old_log_probs, ref_log_prob: [B, T] float, nats, of the sampled tokens under the policy before the update and
            under the reference. None only if the progress term is off.
        config: an ErpoConfig, or what ErpoConfig.from_mapping takes.
        step: training step, counted from 1; needed where ``progress.warmup_steps`` or ``decay_steps`` is set.
        norm_adv_by_std_in_grpo: whether A_i is divided by the group's standard deviation (verl's setting of that name).
        deciding: [B] int64, for each row the row whose outcome counts for it; None: each row its own. An agent loop may cut
            one session into several rows, of which the last decides (as in verl): the session then counts once in its
            group's mean and standard deviation, while gate and progress see the tokens of all its rows.
        keep_tokens: whether to return the quantities of each token (``.tokens``), at the cost of their memory.

    Returns:
        ErpoAdvantages. The same metric names come back for the same config and the same choice of None inputs.

    Raises:
        ValueError: shapes that differ, a missing input or step, NaN or inf at a valid token (names tensor, row, token).
        ErpoConfigError: (a ValueError) from the settings.
    """
    config = ErpoConfig.from_mapping(config)
    eta = config.progress.eta_at(step)
    inputs = {"entropy": entropy, "old_log_probs": old_log_probs, "ref_log_prob": ref_log_prob}
    inputs = {name: tensor for name, tensor in inputs.items() if tensor is not None}
    _check_inputs(config, token_level_rewards, response_mask, index, inputs)
    dtype = torch.float32  # of the arithmetic on tokens; their sums are taken in float64
    for tensor in (token_level_rewards, *inputs.values()):
        dtype = torch.promote_types(dtype, tensor.dtype)
    entropy_axis = config.progress.active and config.buckets.axis == "cumulative_entropy"
    blocks = pack(response_mask, config.buckets.count, entropy if entropy_axis else None)
    H = s = None
    if entropy is not None:
        H = [block.take(entropy).to(dtype) for block in blocks]
    if config.progress.active:
        log_probs = ([block.take(x).to(dtype) for x in (old_log_probs, ref_log_prob)] for block in blocks)
        s = [implicit_progress(old, ref, config.progress.beta) for old, ref in log_probs]
    unused = () if s is not None else [x for x in (old_log_probs, ref_log_prob) if x is not None]
    checked = [*(H or []), *(s or []), *(block.take(x) for x in unused for block in blocks)]
    check_finite(inputs, checked, blocks)

    # One value for each response: outcome and anchor.
    groups = Groups.from_ids(index, token_level_rewards.device)
    R = response_rewards(token_level_rewards, response_mask)
    if deciding is None:
        A, zero_variance = outcome_advantage(R, groups, norm_adv_by_std_in_grpo)
    else:
        deciders, share = deciding_rows(deciding, groups)
        A, zero_variance = outcome_advantage(
            R[deciders], Groups.from_ids(groups.of_row[deciders], R.device), norm_adv_by_std_in_grpo
        )
        R, A, zero_variance = R[deciders][share], A[share], zero_variance[share]
    anchor = result_anchor(A, R, zero_variance, groups, config)

    # Statistics over groups and buckets: of the entropy, and of the progress.
    gate = progress = None
    if H is not None:
        gate = Gate.fit(H, blocks, groups, config.gate, dtype)
    if s is not None:
        sharing = groups if config.buckets.scope == "prompt" else difficulty_bands(R, groups, config.buckets)
        progress = Progress.fit(s, blocks, sharing, config.progress, dtype)

    # One value for each token: gate, normalised progress, synthesis.
    advantages = torch.empty(response_mask.shape, dtype=token_level_rewards.dtype, device=response_mask.device)
    metrics = BatchMetrics(config, eta)
    if gate is not None:
        H_sample, rows = even_sample(H, blocks)
        metrics.top_z = top_quantile(entropy_z(H_sample, gate.mu[rows], gate.sigma[rows]))
    parts = []
    for i, block in enumerate(blocks):
        z, W = (None, None) if gate is None else gate(H[i], block)
        s_normalised = None if progress is None else progress(s[i], block)
        A_i, anchor_i = block.spread(A.to(dtype)), None if progress is None else block.spread(anchor.to(dtype))
        A_erpo = synthesis(A_i, W, anchor_i, s_normalised, eta)
        block.put(A_erpo, advantages)
        metrics.add(A_erpo, A_i, H and H[i], z, W, s_normalised)
        if keep_tokens:
            place = (block.row, block.column, block.position, block.bucket)
            parts.append(ErpoTokens(*place, A_i, anchor_i, H and H[i], z, W, s and s[i], s_normalised, A_erpo))
    return ErpoAdvantages(
        advantages,
        metrics.result(R, A, anchor, zero_variance, groups, blocks, progress and progress.moments),
        ErpoTokens.concatenate(parts) if keep_tokens else None,
    )


# --- Outcome ----------------------------------------------------------------------------------------------------------


def response_rewards(token_level_rewards: Tensor, response_mask: Tensor) -> Tensor:
    """R_i [B]: the sum of each row, masked tokens included, as verl sums it. NaN and inf at masked tokens count as 0."""
    R = token_level_rewards.sum(dim=-1)
    broken = (~R.isfinite()).nonzero().squeeze(1)
    if len(broken):
        rows = token_level_rewards[broken]
        rows = torch.where(response_mask[broken].bool() | rows.isfinite(), rows, 0)
        R[broken] = rows.sum(dim=-1)
        bad = (~rows.isfinite()).nonzero().tolist()
        if bad:
            row, column = bad[0]
            raise ValueError(
                f"token_level_rewards is {rows[row, column].item()} at row {int(broken[row])}, column {column}"
            )
        if not R.isfinite().all():
            raise ValueError(f"the sum of token_level_rewards is too large for {R.dtype} in row {int(broken[0])}")
    return R


def outcome_advantage(R: Tensor, groups: Groups, divide_by_std: bool = True) -> tuple[Tensor, Tensor]:
    """A_i = (R_i - mean_g R) / (std_g R + eps), [B] in the dtype of R. Source: GRPO, as in verl 0.9.1. Certain.

    Bit for bit what verl computes: the sample standard deviation (correction 1), and for a lone response mean 0 and
    std 1. Without `divide_by_std` only the mean is subtracted.

    Also returns [B] bool, whether all outcomes of the row's group (of two or more) are equal. That is decided on R: A_i
    may hold a rounding residue there, as the mean of equal floats is not always that float.
    """
    # verl takes torch.mean and torch.std of one group at a time, and a batched torch.std rounds differently. Groups
    # often have the same outcomes (0s and 1s), so each distinct list of outcomes is worked out once.
    numbers: dict[tuple[float, ...], int] = {}
    of_group, samples = [], []
    for outcomes in R[groups.members].split(groups.sizes.tolist()):
        key = tuple(outcomes.tolist())
        if key not in numbers:
            numbers[key] = len(numbers)
            samples.append(outcomes)
        of_group.append(numbers[key])
    several = torch.tensor([len(key) > 1 for key in numbers], device=R.device)
    equal = torch.tensor([len(key) > 1 and len(set(key)) == 1 for key in numbers], device=R.device)
    means = torch.where(several, torch.stack([x.mean() for x in samples]), 0)
    scales = torch.stack([x.std() if len(key) > 1 else x[0] for x, key in zip(samples, numbers, strict=True)]) + EPS
    # verl's std of a lone response is a float32 1, whatever the dtype: 1 + eps is rounded accordingly.
    scales = torch.where(several, scales, (torch.ones((), device=R.device) + EPS).to(R.dtype))
    of_row = torch.tensor(of_group, device=R.device)[groups.of_row]
    A = R - means[of_row]
    return (A / scales[of_row] if divide_by_std else A), equal[of_row]


def deciding_rows(deciding: Tensor, groups: Groups) -> tuple[Tensor, Tensor]:
    """The rows that decide [D], and for each row [B] the place of its decider among them."""
    deciding = deciding.to(groups.of_row.device)
    rows = len(groups.of_row)
    if deciding.shape != (rows,) or not ((deciding >= 0) & (deciding < rows)).all():
        raise ValueError(f"deciding must hold, for each of the {rows} rows, the number of a row")
    if not ((deciding[deciding] == deciding) & (groups.of_row[deciding] == groups.of_row)).all():
        raise ValueError("deciding: a row that decides must decide for itself, and for rows of its own group")
    return deciding.unique(return_inverse=True)


# --- Gate -------------------------------------------------------------------------------------------------------------


def entropy_z(H: Tensor, mu: Tensor, sigma: Tensor) -> Tensor:
    """z = (H - mu) / (sigma + eps): inside eq. 8."""
    return (H - mu).div_(sigma + EPS)


@dataclass(frozen=True)
class Gate:
    """Entropy-aware gate W = sigmoid(gamma z), z = (H - mu) / (sigma + eps). Eq. 8. Certainty: high; gamma medium.

    mu and sigma (population) are over all valid tokens of the group. With `gate.normalize` mean_one (this project's own)
    W is divided by its mean over the same tokens.
    """

    config: GateConfig
    mu: Tensor  # [B], of each row's group; nats
    sigma: Tensor  # [B]
    mean_W: Tensor | None = None  # [B]

    @classmethod
    def fit(cls, H: list[Tensor], blocks: list[Block], groups: Groups, config: GateConfig, dtype: torch.dtype) -> Gate:
        """Statistics of the entropies H ([n] of each block) by group."""
        moments = pool(row_moments(blocks, H), groups)
        gate = cls(config, *(x.to(dtype)[groups.of_row] for x in (moments.mean, moments.std)))
        if not config.enable or config.normalize == "none":
            return gate
        W = (gate(H_block, block)[1] for H_block, block in zip(H, blocks, strict=True))
        mean_W = pool(row_moments(blocks, W), groups).mean
        return replace(gate, mean_W=mean_W.to(dtype)[groups.of_row])

    def __call__(self, H: Tensor, block: Block) -> tuple[Tensor, Tensor | None]:
        """z [n] and W [n] of a block's entropies; W is None (which stands for 1) if the gate is off."""
        z = entropy_z(H, block.spread(self.mu), block.spread(self.sigma))
        if not self.config.enable:
            return z, None
        W = (self.config.gamma * z).sigmoid_()
        return z, W if self.mean_W is None else W.div_(block.spread(self.mean_W))


# --- Progress ---------------------------------------------------------------------------------------------------------


def implicit_progress(old_log_probs: Tensor, ref_log_prob: Tensor, beta: float) -> Tensor:
    """s = beta (log pi_old - log pi_ref), in beta * nats. Eq. 7. Certainty: high; beta medium."""
    return (old_log_probs - ref_log_prob).mul_(beta)


@dataclass(frozen=True)
class Progress:
    """Bucket normalisation s~ = (s - mu) / (max(sigma, min_std) + eps). Eq. 9. Certainty: medium-high.

    mu and sigma (population) are over the tokens of one bucket in all responses of the group (or difficulty band). The
    floor min_std and the clip are this project's own: at the first step pi_old = pi_ref, and a z-score would blow
    numerical noise up to unit variance.
    """

    config: ProgressConfig
    mu: Tensor  # [B, K], of each row's group
    sigma: Tensor  # [B, K]
    moments: Moments  # [groups or bands, K]

    @classmethod
    def fit(
        cls, s: list[Tensor], blocks: list[Block], sharing: Groups, config: ProgressConfig, dtype: torch.dtype
    ) -> Progress:
        """Statistics of the progress s ([n] of each block) by bucket, over the rows that share them."""
        moments = pool(segment_moments(blocks, s), sharing)
        return cls(config, *(x.to(dtype)[sharing.of_row] for x in (moments.mean, moments.std)), moments)

    def __call__(self, s: Tensor, block: Block) -> Tensor:
        """s~ [n] of a block's progress."""
        s_normalised = (s - block.spread(self.mu)).div_(block.spread(self.sigma.clamp(min=self.config.min_std) + EPS))
        clip = self.config.clip
        return s_normalised if clip is None else s_normalised.clamp_(-clip, clip)


def difficulty_bands(R: Tensor, groups: Groups, buckets: BucketsConfig) -> Groups:
    """Rows pooled by their prompt's difficulty; this project's reading of "groups samples by difficulty".

    Bands are of equal width in the group's mean outcome, over the range of R in the batch (for outcomes 0 and 1: bands
    of accuracy). All rows are in one band if all outcomes are equal.
    """
    count, low, width = buckets.difficulty_bands, R.double().min(), R.double().max() - R.double().min()
    height = groups.row_means(R.double() - low) * count / torch.where(width > 0, width, 1)
    return Groups.from_numbers(height.long().clamp_(0, count - 1), count)


# --- Synthesis --------------------------------------------------------------------------------------------------------


def result_anchor(A: Tensor, R: Tensor, zero_variance: Tensor, groups: Groups, config: ErpoConfig) -> Tensor:
    """What multiplies W s~ in eq. 10, [B] float64: sgn(A_i). Certainty: high; the other anchors are this project's own.

    In a group whose outcomes are all equal it is 0, or with rule threshold (EP-GRPO) sgn(R_i - theta), whatever
    `progress.anchor` is: A_i is 0 there, and so would be a centred sign.
    """
    anchor = A.double().masked_fill(zero_variance, 0.0)
    if config.progress.anchor != "advantage":
        anchor = anchor.sign()
    if config.progress.anchor == "centered_sign":
        anchor = anchor - groups.row_means(anchor)
    if config.zero_variance.rule == "threshold":
        anchor = torch.where(zero_variance, (R.double() - config.zero_variance.threshold).sign(), anchor)
    return anchor


def synthesis(A: Tensor, W: Tensor | None, anchor: Tensor | None, s_normalised: Tensor | None, eta: float) -> Tensor:
    """A^ERPO = W A + eta Psi, Psi = W anchor s~, all [n]. Eq. 10 (certainty high) and the final advantage (medium).

    W None stands for 1. Without s~, or with eta = 0, there is no Psi.
    """
    # W is common to both terms: A^ERPO = W (A + eta anchor s~).
    inner = A if s_normalised is None or eta == 0 else torch.addcmul(A, anchor, s_normalised, value=eta)
    return inner if W is None else W * inner


# --- Inputs -----------------------------------------------------------------------------------------------------------


def _check_inputs(
    config: ErpoConfig,
    token_level_rewards: Tensor,
    response_mask: Tensor,
    index: Sequence[Any] | Tensor,
    inputs: Mapping[str, Tensor],
) -> None:
    """ValueError if an input that the settings need is missing, or if shapes differ."""
    if config.needs_entropy and "entropy" not in inputs:
        raise ValueError(
            "entropy is None, and the settings use it: pass it, or set "
            f"{PREFIX}gate.enable=false and {PREFIX}buckets.axis=position"
        )
    for name in ("old_log_probs", "ref_log_prob"):
        if config.needs_ref_log_prob and name not in inputs:
            raise ValueError(
                f"{name} is None, and the progress term uses it: pass it, or set {PREFIX}progress.enable=false"
            )
    shape = tuple(token_level_rewards.shape)
    if len(shape) != 2 or shape[0] == 0:
        raise ValueError(
            f"token_level_rewards has shape {shape}: must be [responses, tokens], with one response or more"
        )
    for name, tensor in {"response_mask": response_mask, **inputs}.items():
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, token_level_rewards {shape}: must be equal")
    if len(index) != shape[0]:
        raise ValueError(f"index has {len(index)} group ids for {shape[0]} responses: must be equal")
