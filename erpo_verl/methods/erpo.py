"""ERPO's token advantages, from top to bottom: outcome -> gate -> progress -> synthesis.

    A_i       = (R_i - mean_g R) / (std_g R + eps)                    outcome, as verl's GRPO        certain
    W_{i,t}   = sigmoid(gamma (H_{i,t} - mu_g) / (sigma_g + eps))     entropy-aware gate, eq. 8      high; gamma medium
    s_{i,t}   = beta (log pi_old(o_t) - log pi_ref(o_t))              implicit progress, eq. 7       high; beta medium
    s~_{i,t}  = (s - mu_{g,k}) / (max(sigma_{g,k}, min_std) + eps)    bucket normalisation, eq. 9    medium-high
    Psi_{i,t} = W_{i,t} sgn(A_i) s~_{i,t}                             synthesis, eq. 10              high
    A^ERPO    = W_{i,t} A_i + eta Psi_{i,t}                           final advantage                medium

Equation numbers are those of arXiv 2603.28204 ([E]); the last column says how certain the reading is (`docs/method.md`). [EP] is the
same authors' EP-GRPO, arXiv 2605.04960; [here] this project's own choice. Neither paper has official code. A group g is the
responses to one prompt. All is computed without gradient, from the policy as it was before the update. From the gate on, tokens are
packed: the n valid tokens of a block of rows, one after the other.

Settings are declared in `erpo_settings.py`, metrics and per-token quantities in `erpo_metrics.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from erpo_verl.methods.batch import Packed, PerBlock, Tables, TokenBatch, mean_and_scale, standardised
from erpo_verl.methods.contract import Credit, Method, Writer
from erpo_verl.methods.erpo_metrics import METRICS, TOKENS, metrics, sums_of_block, sums_of_buckets
from erpo_verl.methods.erpo_settings import PREFIX, BucketsConfig, ErpoConfig, GateConfig, needs
from erpo_verl.methods.grpo import outcome_advantage
from erpo_verl.packing import Block, cut
from erpo_verl.segments import Groups, Moments, joined, moments_of, pool

__all__ = ["METHOD", "ErpoConfig", "erpo_advantages"]


def compute(batch: Packed, config: ErpoConfig, out: Writer) -> None:
    """Writes A^ERPO of every token."""
    eta, strength = config.progress.eta_at(batch.step), 1.0
    if (config.gate.enable or eta > 0) and not config.strength.always_full:
        strength = config.strength.at(batch)
        eta *= strength

    # One value for each response.
    A = out.outcome = outcome_advantage(batch)
    anchor = result_anchor(A, batch, config)
    out.alive = (A != 0) | (anchor != 0) if eta > 0 else A != 0
    A, anchor = A.to(batch.dtype), anchor.to(batch.dtype)

    # One value for each token.
    gate = Gate(batch, config.gate, strength, A) if config.gate.enable and Gate.measured(batch, config.gate) is not None else None
    cells = buckets(batch, config)
    progress = Progress(batch, config, cells) if config.progress.active and batch.log_ratio is not None else None
    for number, block in enumerate(batch.blocks):
        z, W = (None, None) if gate is None else gate(number)
        s, s_normalised = (None, None) if progress is None else progress(number)
        A_i, anchor_i = block.spread(A), None if progress is None else block.spread(anchor)
        A_erpo = synthesis(A_i, W, anchor_i, s_normalised, eta, config.synthesis.bound)

        kept = {}
        if out.keep_tokens:
            kept = {"bucket": cells[number].bucket, "anchor": anchor_i, "gate": W, "progress": s, "progress_normalised": s_normalised}
        out.put(number, A_erpo, z=z, sums=sums_of_block(A_i, W, s_normalised, A_erpo, config, out.picked(number)), **kept)
    if progress is not None:
        out.add(**sums_of_buckets(joined(progress.moments), config))
    out.metrics |= metrics(config, eta, strength, out, gate is not None, progress is not None)


# --- Gate -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gate:
    """Entropy-aware gate W = sigmoid(gamma z), z = (H - mu) / (sigma + eps). Eq. 8. Certainty: high; gamma medium.

    mu and sigma (population) are over all valid tokens of the group. This project's own: ``gate.normalize`` mean_one divides W by its
    mean over the same tokens; a strength below 1 takes 1 + strength (W - 1) for W; with ``gate.side`` positive W is 1 where A_i <= 0; with
    ``gate.measure`` surprisal -log pi_old(o_t) stands for H.
    """

    batch: Packed
    config: GateConfig
    strength: float
    A: Tensor  # [B]

    @staticmethod
    def measured(batch: Packed, config: GateConfig) -> Sequence[Tensor] | None:
        """What z standardises, up to its sign; None where it is not given (and the gate does not act)."""
        return batch.entropy if config.measure == "entropy" else batch.old_log_probs

    def __call__(self, number: int) -> tuple[Tensor | None, Tensor]:
        """z of the entropy [n] (None if it is not what the gate measures) and W [n] of a block."""
        block, by_entropy = self.batch.blocks[number], self.config.measure == "entropy"
        if by_entropy:
            z = self.batch.z(number)
        else:
            log_p = self.batch.old_log_probs[number]
            z = standardised(log_p, *mean_and_scale(moments_of(log_p, block.group_lengths), log_p.dtype), block.group_lengths).neg_()
        W = (self.config.gamma * z).sigmoid_()
        acts = None if self.config.side == "all" else (self.A > 0)[block.rows].to(W.device)  # [b], on which responses
        if self.config.normalize == "mean_one":
            moments = moments_of(W, block.lengths)
            mean_W = pool(moments if acts is None else moments.only(acts), block.group_sizes).mean
            W = W.div_(block.repeat(mean_W.to(W.dtype), block.group_lengths))
        if self.strength != 1:
            W = W.sub_(1).mul_(self.strength).add_(1)
        if acts is not None:
            W = torch.where(block.repeat(acts, block.lengths), W, 1)
        return z if by_entropy else None, W


# --- Progress ---------------------------------------------------------------------------------------------------------


def implicit_progress(log_ratio: Tensor, beta: float) -> Tensor:
    """s = beta (log pi_old - log pi_ref), in beta * nats; in place. Eq. 7. Certainty: high; beta medium."""
    return log_ratio.mul_(beta)


def buckets(batch: Packed, config: ErpoConfig) -> Sequence[Block]:
    """Blocks cut into the progress windows k = min(floor(K tau), K - 1), tau = t / T_i. Certainty: medium-high."""
    by_position = cut(batch.blocks, config.buckets.count, batch.session)
    if not config.progress.active or config.buckets.axis == "position":
        return by_position
    return PerBlock(len(by_position), lambda i: by_position[i].cut_by_entropy(batch.entropy[i], batch.session))


class Progress:
    """Bucket normalisation s~ = (s - mu) / (max(sigma, min_std) + eps). Eq. 9. Certainty: medium-high.

    mu and sigma (population) are over the tokens of one bucket in all responses of the group (or difficulty band). The
    floor min_std and the clip are this project's own: at the first step pi_old = pi_ref, and a z-score would blow
    numerical noise up to unit variance.
    """

    def __init__(self, batch: Packed, config: ErpoConfig, cells: Sequence[Block]):
        self.batch, self.config, self.cells = batch, config.progress, cells
        self.s = PerBlock(len(cells), lambda i: implicit_progress(batch.log_ratio[i], config.progress.beta))
        self.moments: list[Moments] = []  # of s by bucket [groups, K], or [bands, K]
        self.bands: Tensor | None = None  # [B], rows of one number share statistics across groups
        if config.buckets.scope == "difficulty":
            self.bands, count = difficulty_bands(batch.R, batch.groups, config.buckets), config.buckets.difficulty_bands
            of_row = joined([self._of_rows(i) for i in range(len(cells))])
            bands = Groups.from_numbers(self.bands[torch.cat([block.rows for block in cells])], count)
            device = of_row.count.device
            self.moments = [pool(of_row.take(bands.members.to(device)), bands.sizes.to(device))]
        self.statistics = Tables(len(cells), self._of_rows, self._mu_and_scale)

    def _of_rows(self, number: int) -> Moments:
        """[b, K]; rows whose reference was not run have none."""
        cells, without = self.cells[number], self.batch.given.without_reference
        moments = moments_of(self.s[number], cells.bucket_lengths)
        return moments if without is None else moments.only(~without[cells.rows.to(without.device), None].to(moments.count.device))

    def _mu_and_scale(self, of_row: Moments, numbers: range) -> tuple[Tensor, Tensor]:
        """[rows, K] each."""
        blocks = [self.cells[i] for i in numbers]
        if self.bands is None:
            sizes = torch.cat([block.group_sizes for block in blocks])
            self.moments.append(pool(of_row, sizes))
            of_set = torch.repeat_interleave(sizes, output_size=len(of_row.count))
        else:
            of_set = self.bands[torch.cat([block.rows for block in blocks])].to(of_row.count.device)
        mu, scale = mean_and_scale(self.moments[-1], self.batch.dtype, self.config.min_std)
        return mu[of_set], scale[of_set]

    def __call__(self, number: int) -> tuple[Tensor, Tensor]:
        """s [n] and s~ [n] of a block."""
        s, (mu, scale) = self.s[number], self.statistics[number]
        s_normalised = standardised(s, mu, scale, self.cells[number].bucket_lengths)
        clip = self.config.clip
        return s, s_normalised if clip is None else s_normalised.clamp_(-clip, clip)


def difficulty_bands(R: Tensor, groups: Groups, buckets: BucketsConfig) -> Tensor:
    """[B] int64, the band of each row's prompt; this project's reading of "groups samples by difficulty".

    Bands are of equal width in the group's mean outcome, over the range of R in the batch (for outcomes 0 and 1: bands
    of accuracy). All rows are in one band if all outcomes are equal.
    """
    count, low, width = buckets.difficulty_bands, R.double().min(), R.double().max() - R.double().min()
    height = groups.row_means(R.double() - low) * count / torch.where(width > 0, width, 1)
    return height.long().clamp_(0, count - 1)


# --- Synthesis --------------------------------------------------------------------------------------------------------


def result_anchor(A: Tensor, batch: Packed, config: ErpoConfig) -> Tensor:
    """What multiplies W s~ in eq. 10, [B] float64: sgn(A_i). Certainty: high; the other anchors are this project's own.

    In a group whose outcomes are all equal it is 0, or with rule threshold (EP-GRPO) sgn(R_i - theta), whatever
    `progress.anchor` is: A_i is 0 there, and so would be a centred sign.
    """
    anchor = A.double().masked_fill(batch.zero_variance, 0.0)
    if config.progress.anchor != "advantage":
        anchor = anchor.sign()
    if config.progress.anchor == "centered_sign":
        anchor = anchor - batch.groups.row_means(anchor)
    if config.zero_variance.rule == "threshold":
        anchor = torch.where(batch.zero_variance, (batch.R.double() - config.zero_variance.threshold).sign(), anchor)
    return anchor


def synthesis(
    A: Tensor, W: Tensor | None, anchor: Tensor | None, s_normalised: Tensor | None, eta: float, bound: float | None = None
) -> Tensor:
    """A^ERPO = W A + eta Psi, Psi = W anchor s~, all [n]. Eq. 10 (certainty high) and the final advantage (medium).

    W None stands for 1. Without s~, or with eta = 0, there is no Psi. The bound is this project's own.
    """
    if s_normalised is None or eta == 0:
        A_erpo = A if W is None else W * A
    else:
        A_erpo = torch.addcmul(A, anchor, s_normalised, value=eta)  # W is common to both terms: A^ERPO = W (A + eta anchor s~)
        A_erpo = A_erpo if W is None else A_erpo.mul_(W)
    if bound is None:
        return A_erpo
    room = bound * A.abs()
    return A_erpo.maximum(A - room).minimum(A + room)


# --- What it says of itself -------------------------------------------------------------------------------------------

METHOD = Method(
    "erpo",
    "Entropy-Regulated Policy Optimization (arXiv 2603.28204): gates the advantage by entropy and adds progress since the reference policy",
    compute,
    settings=ErpoConfig,
    needs=needs,
    # The anchor is 0 there, and no other group's statistics see these tokens.
    across_groups=lambda config: config.buckets.scope == "difficulty",
    ignores_reference=lambda config: config.zero_variance.rule == "zero" and config.buckets.scope == "prompt",
    without={
        "entropy": f"set {PREFIX}gate.enable=false and {PREFIX}buckets.axis=position",
        "old_log_probs": f"switch the progress term off with {PREFIX}progress.enable=false",
        "ref_log_prob": f"switch the progress term off with {PREFIX}progress.enable=false (erpo inspect: erpo:progress.enable=false)",
    },
    metrics=METRICS,
    tokens=TOKENS,
    right_above=lambda config: config.zero_variance.threshold,
)


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
    left_out: Tensor | None = None,
    keep_tokens: bool = False,
) -> Credit:
    """Token advantages of ERPO for one batch. No input is changed; no gradient flows.

    Args: the fields of `TokenBatch` under their names, ``config`` an ErpoConfig or what ErpoConfig.from_mapping takes, and
        ``keep_tokens`` for the quantities of each token (``.tokens``), at the cost of their memory.

    Returns and raises: as `Method.credit`.
    """
    batch = TokenBatch(
        token_level_rewards, response_mask, index, entropy, old_log_probs, ref_log_prob, step, norm_adv_by_std_in_grpo, deciding, left_out
    )  # fmt: skip
    return METHOD.credit(batch, config, keep_tokens=keep_tokens)
