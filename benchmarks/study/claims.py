"""The claims H1 to H6 of docs/study.md, tested on what is kept of the confirmation: differences to GRPO paired by seed, one verdict each."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.study.protocol import Protocol
from benchmarks.study.tables import BASE, Kept, at_rates, figure, pair
from erpo_verl.pivots.branches import OTHER
from erpo_verl.statistics import ALPHA, Paired, holm
from erpo_verl.tables import p_value, with_interval

SUPPORTED, REFUTED, NOT_SHOWN, OPEN = "supported", "refuted", "not shown", "not measured"
PIVOTS = "pivots"  # folder beside the beds: one folder a policy with the figures.json of `erpo pivots`


@dataclass(frozen=True)
class Part:
    """One difference that a claim needs: where, of what, and its test; ``sign`` is the direction that the claim says."""

    bed: str
    measure: str
    form: str
    sign: int
    paired: Paired


@dataclass(frozen=True)
class Claim:
    """A claim with all the differences that it needs."""

    name: str
    says: str
    parts: Sequence[Part]
    # Each has to hold besides, whatever the p value: words -> whether it does.
    besides: Mapping[str, bool]

    @property
    def p_value(self) -> float | None:
        """Of the whole: the largest of the parts' if all point one way, else 1; None while a part has no test."""
        values = [part.paired.p_value for part in self.parts]
        if not values or None in values:
            return None
        return max(values) if abs(self._ways) == len(self.parts) else 1.0

    @property
    def _ways(self) -> int:
        return sum(int(np.sign(part.paired.difference)) * part.sign for part in self.parts)

    def verdict(self, adjusted: float | None) -> str:
        """What may be said, given the p value that Holm's correction leaves."""
        if adjusted is None:
            return OPEN
        if adjusted >= ALPHA:
            return NOT_SHOWN
        if self._ways < 0:
            return REFUTED
        return SUPPORTED if all(self.besides.values()) else NOT_SHOWN


def claims(protocol: Protocol, kept: Sequence[Kept], pivots: Path) -> list[Claim]:
    """H1 to H6 from the confirmation's runs at their chosen rates, and from the figures of `erpo pivots` below ``pivots``."""
    chosen = {bed: rates for bed, rates in protocol.chosen.items() if bed in protocol.confirm["claims"]}
    runs = {bed: at_rates((k for k in kept if k.run.bed == bed), rates, protocol.confirm["seeds"]) for bed, rates in chosen.items()}
    arm = chosen_arm(protocol)

    def parts(which: str | None, *measures: tuple[str, str, int, Callable[[Kept, Kept], tuple[float, float]]]) -> list[Part]:
        return [
            Part(bed, name, form, sign, pair(arms.get(BASE, {}), arms.get(which, {}), of))
            for bed, arms in runs.items()
            for name, form, sign, of in measures
        ]

    accuracy = ("accuracy", ".3f", 1, figure("accuracy"))
    coverage = ("pass@8", ".3f", 1, figure("pass"))
    coverage_kept = {
        f"pass@8 not below GRPO's on {part.bed}": part.paired.high is not None and part.paired.high >= 0 for part in parts(arm, coverage)
    }
    sturdy = [(f"accuracy, {words}", ".3f", 1, figure("accuracy", of)) for words, of in _STURDY]
    return [
        Claim("H1", "ERPO is more accurate than GRPO at equal generated tokens", parts("erpo", accuracy), {}),
        Claim("H2", "its right answers are shorter at fixed difficulty", parts("erpo", ("length of right answers", ".2f", -1, right_lengths)), {}),
        Claim("H3", "it keeps entropy and coverage", parts("erpo", ("entropy", ".3f", 1, lambda a, b: (a.entropy, b.entropy)), coverage), {}),
        Claim("H4", "it is sturdier: at other temperatures and one level beyond training", parts("erpo", *sturdy), {}),
        Claim("H5", "tokens that the gate marks decide more than others of the same place", pivot_parts(pivots), {}),
        Claim("H6", f"{arm or 'the chosen arm'} is more accurate than GRPO and keeps pass@8", parts(arm, accuracy), coverage_kept),
    ]


_STURDY = (("temperature 0.5", "cool"), ("temperature 1.5", "warm"), ("one level beyond", "beyond"))


def chosen_arm(protocol: Protocol) -> str | None:
    """The arm of H6: the one among the chosen that the confirmation does not name anyway."""
    return next((arm for rates in protocol.chosen.values() for arm in rates if arm not in protocol.confirm["arms"]), None)


def right_lengths(a: Kept, b: Kept) -> tuple[float, float]:
    """Mean length of right answers of both runs, levels with equal weight, over the levels that both solve sometimes."""
    if "failure" in a.figures or "failure" in b.figures:
        return math.nan, math.nan
    levels = [one.figures["test"]["levels"] for one in (a, b)]
    both = [level for level in levels[0] if all(side.get(level, {}).get("length_right") is not None for side in levels)]
    if not both:
        return math.nan, math.nan
    first, second = (float(np.mean([side[level]["length_right"] for level in both])) for side in levels)
    return first, second


def pivot_parts(folder: Path) -> list[Part]:
    """Difference of the squared change at pivots and beside them, for each policy that was measured."""
    found = []
    for path in sorted(folder.glob("*/figures.json")):
        test = json.loads(path.read_text())[OTHER]["test"]
        if test is not None:
            told = Paired(test["difference"], test["low"], test["high"], test["p"], test["problems"], 0, 0)
            found.append(Part(path.parent.name, "squared change at pivots - beside them", ".4f", 1, told))
    return found


def markdown(found: Sequence[Claim]) -> list[str]:
    """One row a claim: the differences that it needs, p, p after Holm's correction, verdict."""
    tested = [one for one in found if one.p_value is not None]
    adjusted = dict(zip((one.name for one in tested), holm([one.p_value for one in tested]), strict=True))
    lines = ["| claim | differences with 95% intervals | p | after Holm | verdict |", "|---|---|---|---|---|"]
    for one in found:
        told = "; ".join(
            f"{part.bed}, {part.measure}: {with_interval(part.paired.difference, part.paired.low, part.paired.high, part.form, sign=True)}"
            for part in one.parts
            if part.paired.pairs
        )
        failed = ", ".join(f"but {words} fails" for words, holds in one.besides.items() if not holds) if one.p_value is not None else ""
        numbers = [p_value(one.p_value), p_value(adjusted.get(one.name))]
        verdict = one.verdict(adjusted.get(one.name))
        lines.append(f"| {one.name}: {one.says} | {told}{'; ' if failed else ''}{failed} | {numbers[0]} | {numbers[1]} | **{verdict}** |")
    return lines
