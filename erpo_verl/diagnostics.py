"""What ERPO did to a batch, as metrics.

Names end in /mean, /max or /min: verl takes the reduction over steps and workers from words found in a metric's name, so
those words (and sum, total, avg) are found nowhere else in one. Each name, its meaning and its range: `docs/metrics.md`.
A metric over an empty set (no valid token, no right response) is 0.0, so that the same names come back at every step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from erpo_verl.config import ErpoConfig
from erpo_verl.segments import Block, Groups, Moments

PREFIX = "erpo/"

# The stricter pivots: the fifth of the batch's tokens with the largest z.
TOP_QUANTILE = 0.8


def top_quantile(values: Tensor) -> Tensor:
    """The value that TOP_QUANTILE of `values` [n] do not exceed; 0 if there is none."""
    if not len(values):
        return values.new_zeros(())
    return values.kthvalue(int(TOP_QUANTILE * (len(values) - 1)) + 1).values


class BatchMetrics:
    """Gathers the metrics of one batch: ``add`` for each block of tokens, then ``result``."""

    def __init__(self, config: ErpoConfig, eta: float):
        self.config = config
        self.eta = eta
        self.top_z: Tensor | None = None  # z of the stricter pivots is above this; set where there is an entropy
        self._names: list[str] = []  # of what each block adds: sums over its tokens, largest and smallest values
        self._added: list[Tensor] = []

    def add(
        self,
        A_erpo: Tensor,
        A: Tensor,
        H: Tensor | None,
        z: Tensor | None,
        W: Tensor | None,
        s_normalised: Tensor | None,
    ) -> None:
        """Takes the tokens [n] of a block into account. A block without tokens changes nothing."""
        if not len(A_erpo):
            return
        size = A_erpo.abs()
        found = {"A": A_erpo.sum(), "|A|": size.sum(), "|A| max": size.amax(), "tokens": size.new_tensor(len(size))}
        if W is not None:
            found |= {"W": W.sum(), "W^2": torch.dot(W, W), "W min": W.amin(), "W max": W.amax()}
        if z is not None:
            for name, threshold in (("pivots", 0.0), ("top", self.top_z)):
                chosen = _as_numbers(torch.gt, z, threshold)
                found |= {name: chosen.sum(), f"{name} H": torch.dot(chosen, H), f"{name} |A|": torch.dot(chosen, size)}
            found["H"] = H.sum()
        if s_normalised is not None:
            found |= {
                "s~": s_normalised.sum(),
                "s~^2": torch.dot(s_normalised, s_normalised),
                "|s~| max": torch.maximum(-s_normalised.amin(), s_normalised.amax()),
                "flipped": _as_numbers(torch.lt, A * A_erpo, 0.0).sum(),
            }
            if self.config.progress.clip is not None:
                found["clipped"] = _as_numbers(torch.ge, s_normalised.abs(), self.config.progress.clip).sum()
        self._names = list(found)
        self._added.append(torch.stack(list(found.values())))

    def result(
        self,
        R: Tensor,
        A: Tensor,
        anchor: Tensor,
        zero_variance: Tensor,
        groups: Groups,
        blocks: Sequence[Block],
        s_moments: Moments | None,
    ) -> dict[str, float]:
        """All metrics of the batch, from what was added and from its responses (tensors [B])."""
        right = torch.gt(R, self.config.zero_variance.threshold)
        alive = (A != 0) | (anchor != 0) if self.eta > 0 else A != 0
        lengths = torch.cat([block.lengths for block in blocks])
        metrics = _response_metrics(groups, right, lengths, zero_variance, alive) | self._token_metrics()
        if s_moments is not None:
            metrics |= _bucket_metrics(s_moments, self.config.progress.min_std)
        return {PREFIX + name: value for name, value in metrics.items()}

    def _token_metrics(self) -> dict[str, float]:
        added = self._pooled()
        tokens, mass = added["tokens"], added["|A|"]
        metrics = {
            "advantage/mean": _ratio(added["A"], tokens),
            "advantage_abs/mean": _ratio(mass, tokens),
            "advantage_abs/max": added["|A| max"],
        }
        if self.config.gate.enable:
            mean = _ratio(added["W"], tokens)
            metrics |= {
                "gate/mean": mean,
                "gate/min": added["W min"],
                "gate/max": added["W max"],
                "gate_std/mean": max(0.0, _ratio(added["W^2"], tokens) - mean**2) ** 0.5,
            }
        if self.top_z is not None:
            metrics |= {
                "cdp_share/mean": _ratio(added["pivots"], tokens),
                "cdp_entropy/mean": _ratio(added["pivots H"], added["pivots"]),
                "non_cdp_entropy/mean": _ratio(added["H"] - added["pivots H"], tokens - added["pivots"]),
                "cdp_advantage_share/mean": _ratio(added["pivots |A|"], mass),
                "top_cdp_z/mean": float(self.top_z),
                "top_cdp_entropy/mean": _ratio(added["top H"], added["top"]),
                "top_cdp_advantage_share/mean": _ratio(added["top |A|"], mass),
            }
        if self.config.progress.active:
            mean = _ratio(added["s~"], tokens)
            metrics |= {
                "eta/mean": self.eta,
                "progress_normalised_std/mean": max(0.0, _ratio(added["s~^2"], tokens) - mean**2) ** 0.5,
                "progress_normalised_abs/max": added["|s~| max"],
                "progress_clip_share/mean": _ratio(added["clipped"], tokens),
                "sign_flip_share/mean": _ratio(added["flipped"], tokens),
            }
        return metrics

    def _pooled(self) -> _ZeroIfAbsent:
        """What was added, over all blocks; 0 for whatever was not."""
        pooled = _ZeroIfAbsent()
        if self._added:
            for name, column in zip(self._names, torch.stack(self._added).T.tolist(), strict=True):
                reduction = name.rpartition(" ")[2]
                pooled[name] = {"min": min, "max": max}.get(reduction, sum)(column)
        return pooled


def _response_metrics(
    groups: Groups, right: Tensor, lengths: Tensor, zero_variance: Tensor, alive: Tensor
) -> dict[str, float]:
    """Metrics of responses and groups; a response is right if R_i is above zero_variance.threshold."""
    share_right = groups.means(right).cpu().numpy()
    right, lengths, equal, alive = (x.cpu().numpy() for x in (right, lengths, zero_variance, alive))
    return {
        "groups_right/mean": float((share_right == 1).mean()),
        "groups_wrong/mean": float((share_right == 0).mean()),
        "groups_mixed/mean": float(((share_right > 0) & (share_right < 1)).mean()),
        "responses_right/mean": float(right.mean()),
        "length_right/mean": _mean_where(lengths, right),
        "length_wrong/mean": _mean_where(lengths, ~right),
        "zero_variance_responses/mean": float(equal.mean()),
        "zero_variance_alive/mean": _mean_where(alive, equal),
    }


def _bucket_metrics(moments: Moments, min_std: float) -> dict[str, float]:
    """Metrics of the progress s, from its moments by bucket."""
    whole = moments.pool_last().pool_last()
    used, low = (moments.count > 0).cpu().numpy(), (moments.std < min_std).cpu().numpy()
    return {
        "progress/mean": whole.mean.item(),
        "progress_std/mean": whole.std.item(),
        "bucket_floor_share/mean": _mean_where(low, used),
    }


class _ZeroIfAbsent(dict[str, float]):
    def __missing__(self, name: str) -> float:
        return 0.0


def _as_numbers(compare: Callable[..., Tensor], values: Tensor, threshold: float | Tensor) -> Tensor:
    """A comparison as 0.0 and 1.0, at once: on a CPU that takes a fifth of the time of a bool tensor made into floats."""
    return compare(values, threshold, out=torch.empty_like(values))


def _mean_where(values: np.ndarray, where: np.ndarray) -> float:
    """Mean of the values where `where` holds; 0 if it holds nowhere."""
    return float((values * where).sum() / max(where.sum(), 1))


def _ratio(part: float, whole: float) -> float:
    """part / whole; 0 if the whole is 0."""
    return part / whole if whole else 0.0
