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

The file: settings, the equations, what is declared for metrics and pages, the public function.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from erpo_verl.methods.batch import EPS, Packed, TokenBatch, by_group, standardised
from erpo_verl.methods.contract import Credit, Method, Metric, Quantity, Writer
from erpo_verl.methods.diagnostics import as_numbers
from erpo_verl.methods.grpo import outcome_advantage
from erpo_verl.methods.strength import StrengthSettings
from erpo_verl.segments import Block, Groups, Moments, cut, pool, row_moments, segment_moments
from erpo_verl.settings import Settings, section, setting

PREFIX = "algorithm.erpo."

# --- Settings ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GateConfig(Settings, prefix=PREFIX + "gate."):
    """Entropy-aware gate W (eq. 8)."""

    enable: bool = setting(
        True, bool, "Weight tokens by their entropy; false sets W = 1 everywhere, also inside Psi.", "[here] ablation"
    )
    gamma: float = setting(
        5.0, float, "Steepness of the gate, W = sigmoid(gamma z); 0 gives W = 0.5 everywhere.", "[E] eq. 8", at_least=0
    )
    normalize: str = setting(
        "none", str, "mean_one divides W by its mean over the group's valid tokens (those on which it acts), so that the gate does not change the "
        "step size.", "[here] ablation", choices=("none", "mean_one"),
    )  # fmt: skip
    measure: str = setting(
        "entropy", str, "What z standardises: the entropy H, or the surprisal -log pi_old(o_t) of the sampled token.",
        "[E] eq. 8 (entropy); [here] ablation (surprisal)", choices=("entropy", "surprisal"),
    )  # fmt: skip
    side: str = setting(
        "all", str, "On which responses the gate acts: all, or positive: those with A_i > 0 alone; W = 1 in the others.",
        "[E] (all); [here] ablation (positive)", choices=("all", "positive"),
    )  # fmt: skip


@dataclass(frozen=True)
class ProgressConfig(Settings, prefix=PREFIX + "progress."):
    """Implicit progress s (eq. 7), its normalisation (eq. 9) and its strength in the synthesis (eq. 10)."""

    enable: bool = setting(True, bool, "Add the progress term eta Psi; false is the same as eta = 0.", "[here] ablation")
    beta: float = setting(
        0.1, float, "Scale of s = beta (log pi_old - log pi_ref); cancels in the z-score but for min_std and eps.", "[E] eq. 7", above=0
    )
    eta: float = setting(0.2, float, "Strength of the progress term; 0 switches it off.", "[E] final advantage", at_least=0)
    min_std: float = setting(
        1e-3, float, "Floor under a bucket's standard deviation, in units of s; with beta 0.1 it counts log-ratios that spread less than 0.01 nats "
        "as noise.", "[here] guard", at_least=0,
    )  # fmt: skip
    clip: float | None = setting(
        None, float, "Limit on the size of the normalised progress; null for no limit.", "[here] guard", above=0, nullable=True
    )
    warmup_steps: int = setting(
        0, int, "Steps over which eta rises linearly from 0; 0 for no warm-up.", "[EP] remark on warm-up", at_least=0
    )
    decay_steps: int | None = setting(
        None, int, "Steps over which eta falls linearly to 0; null for no decay.", "[here] ablation", at_least=1, nullable=True
    )
    anchor: str = setting(
        "sign", str, "What ties progress to the outcome: sgn(A_i), sgn(A_i) minus its mean over the group, or A_i itself.",
        "[E] eq. 10 (sign); [here] (the others)", choices=("sign", "centered_sign", "advantage"),
    )  # fmt: skip

    @property
    def active(self) -> bool:
        """Whether the progress term can be non-zero at any step."""
        return self.enable and self.eta > 0

    def eta_at(self, step: int | None) -> float:
        """eta at a training step, counted from 1: ``eta * min(1, step / warmup) * max(0, 1 - step / decay)``.

        ``step`` may be None only where neither warm-up nor decay is set; ValueError otherwise.
        """
        if not self.active:
            return 0.0
        if self.warmup_steps == 0 and self.decay_steps is None:
            return self.eta
        if step is None:
            raise ValueError(
                f"{self.prefix}warmup_steps or decay_steps is set, so erpo_advantages needs `step` (counted from 1); "
                "pass it, or set warmup_steps=0 and decay_steps=null"
            )
        if step < 0:
            raise ValueError(f"step = {step}: must be >= 0 (training steps are counted from 1)")
        eta = self.eta
        if self.warmup_steps:
            eta *= min(1.0, step / self.warmup_steps)
        if self.decay_steps is not None:
            eta *= max(0.0, 1.0 - step / self.decay_steps)
        return eta


@dataclass(frozen=True)
class BucketsConfig(Settings, prefix=PREFIX + "buckets."):
    """Progress windows: which tokens share the statistics of eq. 9."""

    count: int = setting(10, int, "Number of buckets K along a response.", "[E] progress window", at_least=1)
    axis: str = setting(
        "position", str, "Progress tau of a token: its place among the response's valid tokens, or the share of the response's entropy that has "
        "been spent by then.", "[E] (position); [EP] (cumulative_entropy)", choices=("position", "cumulative_entropy"),
    )  # fmt: skip
    scope: str = setting(
        "prompt", str, "Whose tokens share a bucket's statistics: one prompt's group, or all prompts of one difficulty band.",
        "[E] (prompt); [here] reading of the abstract (difficulty)", choices=("prompt", "difficulty"),
    )  # fmt: skip
    difficulty_bands: int = setting(
        4, int, "Number of bands of the group's mean outcome; used with scope difficulty.", "[here]", at_least=1
    )


@dataclass(frozen=True)
class ZeroVarianceConfig(Settings, prefix=PREFIX + "zero_variance."):
    """What anchors the progress term in a group whose outcomes are all equal."""

    rule: str = setting(
        "zero", str, "zero: no progress term there. threshold: the anchor is sgn(R_i - threshold) there.",
        "[E] eq. 10, sgn(0) = 0 (zero); [EP] (threshold)", choices=("zero", "threshold"),
    )  # fmt: skip
    threshold: float = setting(
        0.5, float, "theta: an outcome above it counts as right, in rule threshold and in the metrics.", "[EP]; value [here]"
    )


@dataclass(frozen=True)
class SynthesisConfig(Settings, prefix=PREFIX + "synthesis."):
    """The final advantage."""

    bound: float | None = setting(
        None, float, "How far an advantage may be moved, as a fraction of |A_i|: |A^ERPO - A_i| <= bound |A_i|. Up to 1 no token's sign flips; null "
        "for no bound.", "[here] ablation", above=0, nullable=True,
    )  # fmt: skip


# What a preset sets differently from the defaults above; any single setting given beside it overrides it.
PRESETS: dict[str, dict[str, Any]] = {
    "erpo": {},
    "ep_grpo": {"buckets.axis": "cumulative_entropy", "zero_variance.rule": "threshold"},
}


@dataclass(frozen=True)
class ErpoConfig(Settings, prefix=PREFIX, presets=PRESETS):
    """All settings of ERPO, checked when it is made.

    A section that is not given takes the preset's values; a section given as an object is taken as it is. To override
    single settings of a preset, use ``from_mapping``.
    """

    preset: str = setting(
        "erpo", str, "A set of settings; any single setting given beside it overrides it.", "[E], [EP]", choices=tuple(PRESETS)
    )
    gate: GateConfig = section(GateConfig)
    progress: ProgressConfig = section(ProgressConfig)
    buckets: BucketsConfig = section(BucketsConfig)
    zero_variance: ZeroVarianceConfig = section(ZeroVarianceConfig)
    synthesis: SynthesisConfig = section(SynthesisConfig)
    strength: StrengthSettings = section(StrengthSettings)

    @property
    def needs_entropy(self) -> bool:
        """Whether the settings make use of the per-token entropy."""
        return "entropy" in needs(self)

    @property
    def needs_ref_log_prob(self) -> bool:
        """Whether the settings make use of the old and the reference log-probabilities."""
        return "ref_log_prob" in needs(self)


def needs(config: ErpoConfig, step: int | None = None) -> set[str]:
    """Inputs that the settings make use of at a step; step None: at any step."""
    emphasis = config.strength.faded(step) > 0
    progress = emphasis and (config.progress.active if step is None else config.progress.eta_at(step) > 0)
    gate = emphasis and config.gate.enable
    needed = set()
    if (gate and config.gate.measure == "entropy") or (progress and config.buckets.axis == "cumulative_entropy"):
        needed.add("entropy")
    if (gate or progress) and config.strength.needs_entropy:
        needed.add("entropy")
    if gate and config.gate.measure == "surprisal":
        needed.add("old_log_probs")
    return needed | ({"old_log_probs", "ref_log_prob"} if progress else set())


# --- The method -------------------------------------------------------------------------------------------------------


def compute(batch: Packed, config: ErpoConfig, out: Writer) -> None:
    """Writes A^ERPO of every token."""
    eta, strength = config.progress.eta_at(batch.step), 1.0
    if (config.gate.enable or eta > 0) and not config.strength.always_full:
        strength = config.strength.at(batch)
        eta *= strength

    # One value for each response: outcome and anchor.
    A = out.outcome = outcome_advantage(batch)
    anchor = result_anchor(A, batch, config)
    out.alive = (A != 0) | (anchor != 0) if eta > 0 else A != 0

    # Statistics over groups and buckets: of the entropy, and of the progress.
    gate = progress = cells = None
    if config.gate.enable and Gate.values(batch, config.gate) is not None:
        gate = Gate.fit(batch, A, config.gate, strength)
    has_progress = config.progress.active and batch.log_ratio is not None
    if has_progress or out.keep_tokens:
        by_entropy = config.progress.active and config.buckets.axis == "cumulative_entropy"
        cells = cut(batch.blocks, config.buckets.count, batch.entropy if by_entropy else None, batch.session)
    if has_progress:
        s = [implicit_progress(x, config.progress.beta) for x in batch.log_ratio]
        sharing = batch.groups if config.buckets.scope == "prompt" else difficulty_bands(batch.R, batch.groups, config.buckets)
        progress = Progress.fit(s, cells, sharing, config.progress, batch.dtype, batch.given.without_reference)

    # One value for each token: gate, normalised progress, synthesis.
    A, anchor = A.to(batch.dtype), anchor.to(batch.dtype)
    for i, block in enumerate(batch.blocks):
        z, W = (None, None) if gate is None else gate(i)
        s_normalised = None if progress is None else progress(s[i], cells[i])
        A_i, anchor_i = block.spread(A), None if progress is None else block.spread(anchor)
        A_erpo = synthesis(A_i, W, anchor_i, s_normalised, eta, config.synthesis.bound)
        kept = {}
        if out.keep_tokens:
            kept = {"bucket": cells[i].bucket, "anchor": anchor_i, "gate": W, "progress": s[i] if has_progress else None}
            kept["progress_normalised"] = s_normalised
        sums = _sums(A_i, W, s_normalised, A_erpo, config) if len(A_i) else {}
        if s_normalised is not None and len(A_i):
            without = batch.given.without_reference
            sums["s~ tokens"] = A_i.new_tensor(len(A_i)) if without is None else (block.lengths * ~without[block.rows]).sum().to(A_i.dtype)
        out.put(i, A_erpo, z=z, sums=sums, **kept)
    if progress is not None:
        out.add(**_bucket_sums(progress.moments, config))
    out.metrics |= _metrics(config, eta, strength, out, gate is not None, progress is not None)


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
    mu: Tensor  # [B], of each row's group; nats
    sigma: Tensor  # [B]
    acts: Tensor | None = None  # [B] bool, on which responses; None: on all
    mean_W: Tensor | None = None  # [B]

    @staticmethod
    def values(batch: Packed, config: GateConfig) -> list[Tensor] | None:
        """What z standardises, up to its sign; None where it is not given (and the gate does not act)."""
        return batch.entropy if config.measure == "entropy" else batch.old_log_probs

    @classmethod
    def fit(cls, batch: Packed, A: Tensor, config: GateConfig, strength: float) -> Gate:
        """Statistics of the group's tokens."""
        if config.measure == "entropy":
            mu, sigma = batch.group_entropy
        else:
            surprisal = (-x for x in cls.values(batch, config))
            mu, sigma = by_group(pool(row_moments(batch.blocks, surprisal), batch.groups), batch.groups, batch.dtype)
        gate, acts = cls(batch, config, 1.0, mu, sigma), A > 0 if config.side == "positive" else None
        if config.normalize == "mean_one":
            W = row_moments(batch.blocks, (gate(i)[1] for i in range(len(batch.blocks))))
            if acts is not None:
                W = Moments(W.count * acts, W.mean, W.deviation * acts)
            gate = replace(gate, mean_W=by_group(pool(W, batch.groups), batch.groups, batch.dtype)[0])
        return replace(gate, strength=strength, acts=acts)

    def __call__(self, number: int) -> tuple[Tensor | None, Tensor]:
        """z of the entropy [n] (None if it is not what the gate measures) and W [n] of a block."""
        block = self.batch.blocks[number]
        by_entropy = self.config.measure == "entropy"
        z = self.batch.z(number) if by_entropy else standardised(-self.batch.old_log_probs[number], block, self.mu, self.sigma)
        W = (self.config.gamma * z).sigmoid_()
        if self.mean_W is not None:
            W = W.div_(block.spread(self.mean_W))
        if self.strength != 1:
            W = W.sub_(1).mul_(self.strength).add_(1)
        if self.acts is not None:
            W = torch.where(block.spread(self.acts), W, 1)
        return z if by_entropy else None, W


# --- Progress ---------------------------------------------------------------------------------------------------------


def implicit_progress(log_ratio: Tensor, beta: float) -> Tensor:
    """s = beta (log pi_old - log pi_ref), in beta * nats; in place. Eq. 7. Certainty: high; beta medium."""
    return log_ratio.mul_(beta)


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
        cls, s: list[Tensor], blocks: list[Block], sharing: Groups, config: ProgressConfig, dtype: torch.dtype, without: Tensor | None = None
    ) -> Progress:
        """Statistics of the progress s ([n] of each block) by bucket, over the rows that share them; those ``without`` [B] have none."""
        moments = segment_moments(blocks, s)
        if without is not None:
            moments = Moments(moments.count * ~without[:, None], moments.mean, moments.deviation * ~without[:, None])
        moments = pool(moments, sharing)
        return cls(config, *by_group(moments, sharing, dtype), moments)

    def __call__(self, s: Tensor, block: Block) -> Tensor:
        """s~ [n] of a block's progress."""
        s_normalised = standardised(s, block, self.mu, self.sigma.clamp(min=self.config.min_std))
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
    # W is common to both terms: A^ERPO = W (A + eta anchor s~).
    inner = A if s_normalised is None or eta == 0 else torch.addcmul(A, anchor, s_normalised, value=eta)
    A_erpo = inner if W is None else W * inner
    if bound is None:
        return A_erpo
    room = bound * A.abs()
    return A_erpo.maximum(A - room).minimum(A + room)


# --- What it says of itself -------------------------------------------------------------------------------------------

METRICS = (
    Metric("erpo/gate/mean", "mean of W; with `gate.normalize` mean_one about 1 by construction", "0 to 1 (none), >= 0 (mean_one)", "[E] eq. 8", "Gate"),
    Metric("erpo/gate/min", "smallest W", "as above", "[E] eq. 8"),
    Metric("erpo/gate/max", "largest W", "as above", "[E] eq. 8"),
    Metric("erpo/gate_std/mean", "spread of W over tokens", ">= 0", "[E] eq. 8"),
    Metric("erpo/eta/mean", "eta at this step, after warm-up, decay and `strength`", ">= 0", "[EP], [here]"),
    Metric("erpo/progress/mean", "mean of s over the tokens whose reference log-probs were computed", "beta * nats", "[E] eq. 7"),
    Metric("erpo/progress_std/mean", "spread of s over the same tokens", "beta * nats, >= 0", "[E] eq. 7"),
    Metric(
        "erpo/bucket_floor_share/mean", "share of the buckets that hold tokens whose standard deviation is below `progress.min_std`", "0 to 1",
        "[here]",
    ),
    Metric("erpo/progress_normalised_std/mean", "spread of s~ over the same tokens; about 1 where no bucket is under the floor", ">= 0", "[E] eq. 9"),
    Metric("erpo/progress_normalised_abs/max", "largest size of s~", ">= 0", "[E] eq. 9"),
    Metric(
        "erpo/progress_clip_share/mean", "share of the same tokens whose s~ is at the limit `progress.clip`; 0 without a limit", "0 to 1", "[here]"
    ),
    Metric(
        "erpo/sign_flip_share/mean", "share of tokens whose A^ERPO has the opposite sign of A_i", "0 to 1", "[E] eq. 10", "Advantages turned round"
    ),
    Metric("erpo/bound_share/mean", "share of tokens whose advantage is held by `synthesis.bound`", "0 to 1", "[here]"),
    Metric("erpo/strength/mean", "strength of gate and progress at this step, where a setting of `strength` is set", "0 to 1", "[here]"),
)  # fmt: skip

TOKENS = (
    Quantity("gate", "gate", "Entropy-aware gate W, by which the outcome's advantage is multiplied.", "", "[E] eq. 8"),
    Quantity("progress", "progress s", "Progress since the reference policy.", "beta * nats", "[E] eq. 7", signed=True, colour=False),
    Quantity(
        "progress_normalised", "progress", "Progress since the reference policy, normalised within its bucket (standard deviations).",
        "standard deviations", "[E] eq. 9", signed=True,
    ),
    Quantity("bucket", "bucket", "Progress window of the token, counted from 0.", "", "[E] eq. 9", colour=False, whole=True),
    Quantity("anchor", "anchor", "What ties progress to the outcome, in the place of sgn(A_i).", "", "[E] eq. 10", signed=True, colour=False),
)  # fmt: skip


def _sums(A: Tensor, W: Tensor | None, s_normalised: Tensor | None, A_erpo: Tensor, config: ErpoConfig) -> dict[str, Tensor]:
    """What a block's tokens [n] add to the metrics."""
    found = {}
    if W is not None:
        low, high = W.aminmax()
        found |= {"W": W.sum(), "W^2": torch.dot(W, W), "W min": low, "W max": high}
    if s_normalised is not None:
        low, high = s_normalised.aminmax()
        found |= {
            "s~": s_normalised.sum(),
            "s~^2": torch.dot(s_normalised, s_normalised),
            "|s~| max": torch.maximum(-low, high),
            "flipped": as_numbers(torch.lt, A * A_erpo, 0.0).sum(),
        }
        if config.progress.clip is not None:
            found["clipped"] = as_numbers(torch.ge, s_normalised.abs(), config.progress.clip).sum()
    if config.synthesis.bound is not None:
        found["held"] = as_numbers(torch.ge, (A_erpo - A).abs() * (1 + EPS), config.synthesis.bound * A.abs()).sum()
    return found


def _bucket_sums(s: Moments, config: ErpoConfig) -> dict[str, float]:
    """What the progress's moments by bucket add to the metrics."""
    used = s.count > 0
    sums = (s.count.sum(), (s.count * s.mean).sum(), (s.deviation + s.count * s.mean.square()).sum(), used.sum(), (used & (s.std < config.progress.min_std)).sum())
    return dict(zip(("s count", "s", "s^2", "buckets", "low buckets"), (value.item() for value in sums), strict=True))


def _metrics(config: ErpoConfig, eta: float, strength: float, out: Writer, gate: bool, progress: bool) -> dict[str, float]:
    """The batch's metrics; ``gate``, ``progress``: whether there is one."""
    found: dict[str, float] = {}
    pooled = out.pooled
    if gate:
        found |= {"gate/mean": pooled.mean("W"), "gate/min": pooled["W min"], "gate/max": pooled["W max"], "gate_std/mean": pooled.std("W", "W^2")}
    if config.progress.active:
        found["eta/mean"] = eta
    if progress:
        found |= {
            "progress/mean": pooled.mean("s", "s count"),
            "progress_std/mean": pooled.std("s", "s^2", "s count"),
            "bucket_floor_share/mean": pooled.mean("low buckets", "buckets"),
            "progress_normalised_std/mean": pooled.std("s~", "s~^2", "s~ tokens"),
            "progress_normalised_abs/max": pooled["|s~| max"],
            "progress_clip_share/mean": pooled.mean("clipped", "s~ tokens"),
            "sign_flip_share/mean": pooled.mean("flipped"),
        }
    if config.synthesis.bound is not None:
        found["bound_share/mean"] = pooled.mean("held")
    if not config.strength.always_full:
        found["strength/mean"] = strength
    return {f"erpo/{name}": value for name, value in found.items()}


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
        "ref_log_prob": f"switch the progress term off with {PREFIX}progress.enable=false",
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
