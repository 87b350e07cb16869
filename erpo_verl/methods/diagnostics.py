"""What a method did to a batch, as metrics: the same for every method, so that runs can be laid side by side.

A metric over an empty set (no valid token, no right response) is NaN: an empty set has no mean. The same names come back at
every step for the same inputs.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from erpo_verl.methods.batch import Packed
from erpo_verl.methods.declarations import Metric

PREFIX = "erpo/"

# The stricter pivots: the fifth of the tokens with the largest z.
TOP_QUANTILE = 0.8
# Shares and entropies of pivots are over an even sample of at most this many tokens: one, drawn with a fixed seed, out of every m in a row.
# (Every m-th one would meet the same places again and again in texts with a rhythm.) It is all of them in a small batch. A share of it is off by
# half a percentage point (one standard error), and in a large batch the sample spares a tenth of the work.
SAMPLE = 1 << 13

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
    Metric("erpo/cdp_share/mean", "share of tokens that are pivots; this and the following over an even sample of at most 8,192 of the batch's tokens", _SHARE, "[E]", "Share of pivots", "of tokens"),
    Metric("erpo/cdp_entropy/mean", "mean entropy of pivots", "nats, >= 0", "[E]", "Entropy of pivots and of other tokens", "pivots"),
    Metric(
        "erpo/non_cdp_entropy/mean", "mean entropy of the other tokens", "nats, >= 0", "[E]", "Entropy of pivots and of other tokens", "others"
    ),
    Metric(
        "erpo/cdp_advantage_share/mean", "share of the sum of sizes of token advantages that lies on pivots", _SHARE, "[here]",
        "Share of pivots", "of advantage",
    ),
    Metric(
        "erpo/top_cdp_z/mean", "z above which a token is a top pivot: the 0.8 quantile of z",
        "standard deviations", "[here]",
    ),
    Metric("erpo/top_cdp_entropy/mean", "mean entropy of top pivots", "nats, >= 0", "[here]", "Entropy of top pivots"),
    Metric("erpo/top_cdp_advantage_share/mean", "share of the sum of sizes of token advantages that lies on top pivots", _SHARE, "[here]"),
)  # fmt: skip
"""In every method's metrics; those of pivots only where an entropy is given."""


class Tally:
    """Sums over a batch's tokens, gathered block by block."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._added: list[Tensor] = []

    def add(self, found: Mapping[str, Tensor]) -> None:
        """Takes a block's numbers; a name that ends in " max" or " min" is an extreme, any other a sum. Same names each time."""
        self._names = list(found)
        self._added.append(torch.stack(list(found.values())))

    def pooled(self, of_batch: Mapping[str, Tensor], sample: Tensor | None) -> tuple[Pooled, Tensor | None]:
        """Every name over all blocks, and the ``sample`` on the CPU, float64: all that a device has found is fetched at once."""
        parts = [*self._added, *(x[None] for x in of_batch.values()), *([] if sample is None else [sample.reshape(-1)])]
        fetched = torch.cat([part.double() for part in parts]).cpu() if parts else torch.empty(0)
        rows, rest = len(self._added), len(self._added) * len(self._names)
        pooled = Pooled()
        for name, column in zip(self._names, fetched[:rest].view(rows, -1).T.tolist() if rows else (), strict=True):
            pooled[name] = {"min": min, "max": max}.get(name.rpartition(" ")[2], sum)(column)
        pooled |= dict(zip(of_batch, fetched[rest : rest + len(of_batch)].tolist(), strict=True))
        return pooled, None if sample is None else fetched[rest + len(of_batch) :].view(sample.shape)


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


def _even_sample(sizes: list[int], tokens: int) -> list[Tensor] | list[slice]:
    """For each block of so many tokens an index of those in the sample; of all blocks at most `SAMPLE`."""
    every = -(-tokens // SAMPLE)
    if every <= 1:
        return [slice(None)] * len(sizes)
    begins = torch.arange(0, tokens, every)
    places = begins + torch.randint(every, begins.shape, generator=torch.Generator().manual_seed(0))
    ends = torch.tensor(sizes).cumsum(0)
    upto = torch.searchsorted(places, ends).tolist()
    return [places[first:last] - (end - size) for first, last, end, size in zip([0, *upto], upto, ends.tolist(), sizes, strict=False)]


class Diagnostics:
    """The metrics of one batch: ``sums`` for each block of tokens, then ``result``."""

    def __init__(self, batch: Packed):
        self.batch = batch
        device = batch.given.response_mask.device
        self._picked = [
            index if isinstance(index, slice) else index.to(device) for index in _even_sample([block.size for block in batch.blocks], batch.tokens)
        ]
        self._sample: list[Tensor] = []
        self._sizes = torch.empty(0)

    def picked(self, number: int) -> Tensor | slice:
        """Which tokens of block ``number`` are in the even sample: an index."""
        return self._picked[number]

    def sums(self, number: int, advantages: Tensor, H: Tensor | None, z: Tensor | None) -> dict[str, Tensor]:
        """What the tokens [n] (one or more) of block ``number`` add to the batch's."""
        if self._sizes.shape[0] < advantages.shape[0]:
            self._sizes = torch.empty_like(advantages)  # the same memory for every block
        size = torch.abs(advantages, out=self._sizes[: advantages.shape[0]])
        if z is not None:
            picked = self.picked(number)
            self._sample.append(torch.stack([x[picked] for x in (z, H, size)], dim=1))
        return {"advantage": advantages.sum(), "|advantage|": size.sum(), "|advantage| max": size.amax()}

    def sample(self) -> Tensor | None:
        """[m, 3] z, entropy and size of the advantage of an even sample of the tokens put so far; None without entropies."""
        if self.batch.entropy is None:
            return None
        return torch.cat(self._sample) if self._sample else torch.empty(0, 3)

    def result(self, pooled: Pooled, sample: Tensor | None, alive: Tensor, right_above: float) -> dict[str, float]:
        """All of `METRICS` but ``left_out_responses``.

        Args:
            pooled: the batch's sums.
            sample: as `sample` makes it, on the CPU.
            alive: [B] bool, responses that carry a gradient.
            right_above: a response is right if its outcome R_i is above this.
        """
        metrics = {
            "advantage/mean": pooled.mean("advantage"),
            "advantage_abs/mean": pooled.mean("|advantage|"),
            "advantage_abs/max": pooled["|advantage| max"],
        }
        if sample is not None:
            z, H, size = self.batch.together.cat(sample).T
            pivot, threshold = z > 0, top_quantile(z)
            top, mass = z > threshold, float(size.sum())
            metrics |= {
                "cdp_share/mean": float(pivot.double().mean()),
                "cdp_entropy/mean": float(H[pivot].mean()),
                "non_cdp_entropy/mean": float(H[~pivot].mean()),
                "cdp_advantage_share/mean": ratio(float(size[pivot].sum()), mass),
                "top_cdp_z/mean": float(threshold),
                "top_cdp_entropy/mean": float(H[top].mean()),
                "top_cdp_advantage_share/mean": ratio(float(size[top].sum()), mass),
            }
        metrics |= self._responses(alive, right_above)
        return {PREFIX + name: value for name, value in metrics.items()}

    def _responses(self, alive: Tensor, right_above: float) -> dict[str, float]:
        batch = self.batch
        right = torch.gt(batch.R, right_above)
        share_right = batch.groups.means(right).numpy()
        right, lengths, equal, alive = (x.numpy() for x in (right, batch.lengths, batch.zero_variance, alive.cpu()))
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
