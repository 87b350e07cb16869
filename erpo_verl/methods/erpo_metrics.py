"""Metrics and per-token quantities of ERPO (`erpo_verl/methods/erpo.py`): declared, and computed from what the method has at hand."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from erpo_verl.methods.batch import EPS
from erpo_verl.methods.credit import Writer
from erpo_verl.methods.declarations import Metric, Quantity
from erpo_verl.methods.erpo_settings import ErpoConfig
from erpo_verl.segments import Moments

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
        "erpo/sign_flip_share/mean", "share of tokens whose A^ERPO has the opposite sign of A_i, in an even sample of at most 8,192 of the batch's tokens", "0 to 1", "[E] eq. 10", "Advantages turned round"
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


def count(compare: Callable[..., Tensor], values: Tensor, threshold: float | Tensor) -> Tensor:
    """How many of ``values`` [n] compare so; they are overwritten: a comparison as 0.0 and 1.0 is much faster than one as bool on a CPU."""
    return compare(values, threshold, out=values).sum()


def sums_of_block(
    A: Tensor, W: Tensor | None, s_normalised: Tensor | None, A_erpo: Tensor, config: ErpoConfig, picked: Tensor | slice
) -> dict[str, Tensor]:
    """What a block's tokens [n] add to the metrics; ``picked``: those of an even sample."""
    found: dict[str, Tensor] = {}
    if not len(A):
        return found
    if W is not None:
        low, high = W.aminmax()
        found |= {"W": W.sum(), "W^2": torch.dot(W, W), "W min": low, "W max": high}
    if s_normalised is not None:
        low, high = s_normalised.aminmax()
        flipped = A[picked] * A_erpo[picked] < 0
        found |= {"|s~| max": torch.maximum(-low, high), "flipped": flipped.sum().to(A.dtype), "sampled": A.new_tensor(flipped.shape[0])}
        if config.progress.clip is not None:
            found |= {"clipped": count(torch.ge, s_normalised.abs(), config.progress.clip), "s~": s_normalised.sum()}
            found["s~^2"] = torch.dot(s_normalised, s_normalised)
    if config.synthesis.bound is not None:
        found["held"] = count(torch.ge, (A_erpo - A).abs() * (1 + EPS), config.synthesis.bound * A.abs())
    return found


def sums_of_buckets(s: Moments, config: ErpoConfig) -> dict[str, Tensor]:
    """What the progress's moments by bucket add to the metrics."""
    used = s.count > 0
    found = {
        "s count": s.count.sum(), "s": s.total.sum(), "s^2": s.square.sum(), "buckets": used.sum(),
        "low buckets": (used & (s.std < config.progress.min_std)).sum(),
    }  # fmt: skip
    if config.progress.clip is None:
        # In its bucket s~ has mean 0 and the deviation of s in units of the scale.
        scale = s.std.clamp(min=config.progress.min_std) + EPS
        found["s~^2"] = (s.deviation / scale.square()).sum()
    return found


def metrics(config: ErpoConfig, eta: float, strength: float, out: Writer, gate: bool, progress: bool) -> dict[str, float]:
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
            "progress_normalised_std/mean": pooled.std("s~", "s~^2", "s count"),
            "progress_normalised_abs/max": pooled["|s~| max"],
            "progress_clip_share/mean": pooled.mean("clipped", "s count"),
            "sign_flip_share/mean": pooled.mean("flipped", "sampled"),
        }
    if config.synthesis.bound is not None:
        found["bound_share/mean"] = pooled.mean("held")
    if not config.strength.always_full:
        found["strength/mean"] = strength
    return {f"erpo/{name}": value for name, value in found.items()}
