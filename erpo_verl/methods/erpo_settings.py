"""Settings of ERPO (`erpo_verl/methods/erpo.py`): declared and checked here, listed in `docs/settings.md`.

[E] is arXiv 2603.28204, [EP] the same authors' EP-GRPO, arXiv 2605.04960, [here] this project's own choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from erpo_verl.methods.strength import StrengthSettings
from erpo_verl.settings import Settings, section, setting

PREFIX = "algorithm.erpo."


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
