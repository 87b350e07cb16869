"""How a metric and a per-token quantity are declared: once, where they are computed.

From here come `docs/metrics.md`, the columns of dumped rollouts, the colours and words of ``erpo inspect`` and the panels of
``erpo compare``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# Words that verl's metrics aggregator takes for a reduction wherever they stand in a name, as a part of it or inside one.
_REDUCTIONS = ("max", "min", "sum", "total", "avg", "average", "timing", "mean")


@dataclass(frozen=True)
class Metric:
    """One number for a batch.

    Its name ends in /mean, /max or /min: verl takes the reduction over steps and workers from words found in the name, so those
    words (and sum, total, average, timing) stand nowhere else in it.
    """

    name: str
    meaning: str
    unit: str  # unit and range: "nats, >= 0"
    source: str  # the equation or paper, or "[here]"
    chart: str = ""  # title of its chart in `erpo compare`; metrics with the same title share one, at most two; "": no chart
    label: str = ""  # what tells it from the chart's other metric

    def problem(self) -> str | None:
        """What is wrong with the name, in words; None if nothing is."""
        head, _, reduction = self.name.rpartition("/")
        if not re.fullmatch(r"[a-z0-9_]+(/[a-z0-9_]+)+", self.name) or reduction not in ("mean", "max", "min"):
            return f"metric {self.name!r}: must be method/name/mean (or /max, /min), in small letters, digits and _"
        if inside := [word for word in _REDUCTIONS if word in head]:
            return f"metric {self.name!r}: verl would take {inside[0]!r} inside the name for its reduction; choose another word"
        return None


@dataclass(frozen=True)
class Quantity:
    """One number for each token, for dumps and pages."""

    name: str  # column of the dump, keyword of `Writer.put`
    label: str  # a word or two for a button or a legend
    meaning: str
    unit: str
    source: str = ""
    signed: bool = False  # whether its colours go both ways from 0
    colour: bool = True  # whether a page offers to colour tokens by it
    whole: bool = False  # whole numbers


COMMON = (
    Quantity("advantage", "advantage", "Token advantage: blue makes the token more likely, orange less.", "", "", signed=True),
    Quantity("entropy", "entropy", "Entropy of the policy's distribution before the token, in nats.", "nats"),
    Quantity(
        "z", "z", "Entropy in standard deviations from the mean of the prompt's responses; pivots have z > 0.",
        "standard deviations", "[E] eq. 8", signed=True,
    ),
    Quantity("old_log_prob", "log prob, old policy", "Log-probability of the token before the update.", "nats", colour=False),
    Quantity("ref_log_prob", "log prob, reference", "Log-probability of the token under the reference.", "nats", colour=False),
)  # fmt: skip
"""Quantities of every method."""
