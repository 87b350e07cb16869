"""What a method did to a batch, as metrics: the same for every method, so that runs can be laid side by side.

A metric over an empty set (no valid token, no right response) is NaN: an empty set has no mean. The same names come back at
every step for the same inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from erpo_verl.methods.batch import Packed
from erpo_verl.methods.declarations import Metric
from erpo_verl.segments import even_sample

PREFIX = "erpo/"

# The stricter pivots: the fifth of the batch's tokens with the largest z.
TOP_QUANTILE = 0.8

_SHARE = "0 to 1"
METRICS = (
    Metric("erpo/groups_right/mean", "share of groups whose responses are all right", _SHARE, "[here]"),
    Metric("erpo/groups_wrong/mean", "share of groups whose responses are all wrong", _SHARE, "[here]"),
    Metric("erpo/groups_mixed/mean", "share of groups with right and wrong responses", _SHARE, "[here]", "Groups that teach"),
    Metric("erpo/responses_right/mean", "share of responses that are right", _SHARE, "[here]"),
    Metric("erpo/length_right/mean", "mean length of right responses", "tokens, >= 0", "[here]", "Length, right and wrong", "right"),
    Metric("erpo/length_wrong/mean", "mean length of wrong responses", "tokens, >= 0", "[here]", "Length, right and wrong", "wrong"),
    Metric(
        "erpo/left_out_responses/mean", "share of responses whose group is left out, because one of its answers could not be judged; "
        "all other metrics are over the rest", _SHARE, "[here]",
    ),
    Metric(
        "erpo/zero_variance_responses/mean", "share of responses in groups (of two or more) whose outcomes are all equal", _SHARE, "[EP]"
    ),
    Metric(
        "erpo/zero_variance_alive/mean", "share of those that still carry a gradient: A_i is not 0, or eta and the anchor are not (A_i may "
        "hold a rounding residue of verl's mean)", _SHARE, "[EP]",
    ),
    Metric("erpo/advantage/mean", "mean of the token advantages", "any", "[E]"),
    Metric("erpo/advantage_abs/mean", "mean of their sizes", ">= 0", "[E]"),
    Metric("erpo/advantage_abs/max", "their largest size", ">= 0", "[E]"),
    Metric("erpo/cdp_share/mean", "share of tokens that are pivots", _SHARE, "[E]", "Share of pivots", "of tokens"),
    Metric("erpo/cdp_entropy/mean", "mean entropy of pivots", "nats, >= 0", "[E]", "Entropy of pivots and of other tokens", "pivots"),
    Metric(
        "erpo/non_cdp_entropy/mean", "mean entropy of the other tokens", "nats, >= 0", "[E]", "Entropy of pivots and of other tokens", "others"
    ),
    Metric(
        "erpo/cdp_advantage_share/mean", "share of the batch's sum of sizes of token advantages that lies on pivots", _SHARE, "[here]",
        "Share of pivots", "of advantage",
    ),
    Metric(
        "erpo/top_cdp_z/mean", "z above which a token is a top pivot: the 0.8 quantile of z over an even sample of the batch's tokens",
        "standard deviations", "[here]",
    ),
    Metric("erpo/top_cdp_entropy/mean", "mean entropy of top pivots", "nats, >= 0", "[here]", "Entropy of top pivots"),
    Metric("erpo/top_cdp_advantage_share/mean", "share of the sum of sizes of token advantages that lies on top pivots", _SHARE, "[here]"),
)  # fmt: skip
"""In every method's metrics; those of pivots only where an entropy is given."""


class Tally:
    """Sums over a batch's tokens, gathered block by block and brought to Python at once."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._added: list[Tensor] = []

    def add(self, found: Mapping[str, Tensor]) -> None:
        """Takes a block's numbers; a name that ends in " max" or " min" is an extreme, any other a sum. Same names each time."""
        self._names = list(found)
        self._added.append(torch.stack(list(found.values())))

    def pooled(self) -> Pooled:
        """Every name over all blocks."""
        pooled = Pooled()
        if self._added:
            for name, column in zip(self._names, torch.stack(self._added).T.tolist(), strict=True):
                reduction = name.rpartition(" ")[2]
                pooled[name] = {"min": min, "max": max}.get(reduction, sum)(column)
        return pooled


class Pooled(dict[str, float]):
    """What a `Tally` found. Without any token: NaN for an extreme, 0 for a sum."""

    def __missing__(self, name: str) -> float:
        return float("nan") if name.rpartition(" ")[2] in ("min", "max") else 0.0

    def mean(self, name: str, count: str = "tokens") -> float:
        """One sum over another; NaN for an empty set."""
        return ratio(self[name], self[count])

    def std(self, name: str, square: str, count: str = "tokens") -> float:
        """Population standard deviation over tokens, from the sums of x and of x^2."""
        mean = self.mean(name, count)
        return max(0.0, self.mean(square, count) - mean**2) ** 0.5 if mean == mean else mean


def ratio(part: float, whole: float) -> float:
    """part / whole; NaN if the whole is 0."""
    return part / whole if whole else float("nan")


def top_quantile(values: Tensor) -> Tensor:
    """The value that TOP_QUANTILE of `values` [n] do not exceed; NaN if there is none."""
    if not len(values):
        return values.new_full((), float("nan"))
    return values.kthvalue(int(TOP_QUANTILE * (len(values) - 1)) + 1).values


def as_numbers(compare: Callable[..., Tensor], values: Tensor, threshold: float | Tensor) -> Tensor:
    """A comparison as 0.0 and 1.0, at once: on a CPU that takes a fifth of the time of a bool tensor made into floats."""
    return compare(values, threshold, out=torch.empty_like(values))


class Diagnostics:
    """The metrics of one batch: ``sums`` for each block of tokens, then ``result``."""

    def __init__(self, batch: Packed):
        self.batch = batch
        self.top_z: Tensor | None = None  # z of the stricter pivots is above this
        if batch.entropy is not None:
            H, rows = even_sample(batch.entropy, batch.blocks)
            mu, sigma = batch.group_entropy
            self.top_z = top_quantile(batch.together.cat((H - mu[rows]) / (sigma[rows] + 1e-6)))

    def sums(self, advantages: Tensor, H: Tensor | None, z: Tensor | None) -> dict[str, Tensor]:
        """What a block's tokens [n] (one or more) add to the batch's."""
        size = advantages.abs()
        found = {
            "advantage": advantages.sum(), "|advantage|": size.sum(), "|advantage| max": size.amax(), "tokens": size.new_tensor(len(size)),
        }  # fmt: skip
        if z is not None:
            for name, threshold in (("pivots", 0.0), ("top pivots", self.top_z)):
                chosen = as_numbers(torch.gt, z, threshold)
                found |= {name: chosen.sum(), f"{name} H": torch.dot(chosen, H), f"{name} |advantage|": torch.dot(chosen, size)}
            found["H"] = H.sum()
        return found

    def result(self, pooled: Pooled, alive: Tensor, right_above: float) -> dict[str, float]:
        """All of `METRICS` but ``left_out_responses``.

        Args:
            pooled: the batch's sums.
            alive: [B] bool, responses that carry a gradient.
            right_above: a response is right if its outcome R_i is above this.
        """
        metrics = self._responses(alive, right_above)
        tokens, mass = pooled["tokens"], pooled["|advantage|"]
        metrics |= {
            "advantage/mean": pooled.mean("advantage"),
            "advantage_abs/mean": pooled.mean("|advantage|"),
            "advantage_abs/max": pooled["|advantage| max"],
        }
        if self.top_z is not None:
            metrics |= {
                "cdp_share/mean": pooled.mean("pivots"),
                "cdp_entropy/mean": pooled.mean("pivots H", "pivots"),
                "non_cdp_entropy/mean": ratio(pooled["H"] - pooled["pivots H"], tokens - pooled["pivots"]),
                "cdp_advantage_share/mean": ratio(pooled["pivots |advantage|"], mass),
                "top_cdp_z/mean": float(self.top_z),
                "top_cdp_entropy/mean": pooled.mean("top pivots H", "top pivots"),
                "top_cdp_advantage_share/mean": ratio(pooled["top pivots |advantage|"], mass),
            }
        return {PREFIX + name: value for name, value in metrics.items()}

    def _responses(self, alive: Tensor, right_above: float) -> dict[str, float]:
        batch = self.batch
        right = torch.gt(batch.R, right_above)
        share_right = batch.groups.means(right).cpu().numpy()
        right, lengths, equal, alive = (x.cpu().numpy() for x in (right, batch.lengths, batch.zero_variance, alive))
        sums = {
            "groups": len(share_right), "all right": (share_right == 1).sum(), "all wrong": (share_right == 0).sum(),
            "mixed": ((share_right > 0) & (share_right < 1)).sum(), "responses": len(right), "right": right.sum(),
            "length right": (lengths * right).sum(), "length wrong": (lengths * ~right).sum(), "equal": equal.sum(), "alive": (alive & equal).sum(),
        }  # fmt: skip
        pooled = Pooled(batch.together.pool({name: float(value) for name, value in sums.items()}))
        return {
            "groups_right/mean": pooled.mean("all right", "groups"),
            "groups_wrong/mean": pooled.mean("all wrong", "groups"),
            "groups_mixed/mean": pooled.mean("mixed", "groups"),
            "responses_right/mean": pooled.mean("right", "responses"),
            "length_right/mean": pooled.mean("length right", "right"),
            "length_wrong/mean": ratio(pooled["length wrong"], pooled["responses"] - pooled["right"]),
            "zero_variance_responses/mean": pooled.mean("equal", "responses"),
            "zero_variance_alive/mean": pooled.mean("alive", "equal"),
        }
