"""What is kept of the study's runs, as tables: arms by rate, and at their chosen rates beside GRPO."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.study.one import EVALUATION, METRICS, RECORD
from benchmarks.study.protocol import Protocol, Run, rate_text
from erpo_verl.statistics import MIN_PAIRS, Interval, Paired, crossed_bootstrap, paired_t
from erpo_verl.tables import signed, with_interval

BASE = "grpo"


@dataclass(frozen=True)
class Kept:
    """A finished run: its figures, and its policy's entropy at the end (nats)."""

    run: Run
    figures: Mapping[str, Any]
    entropy: float

    def value(self, name: str, of: str = "test") -> float:
        """A figure of the evaluation; a run whose training broke down has accuracy and coverage 0, and no length."""
        if "failure" in self.figures:
            return 0.0 if name in ("accuracy", "pass", "majority") else math.nan
        found = self.figures[of][name]
        return math.nan if found is None else float(found)


def read(keep: Path) -> list[Kept]:
    """All runs that are kept in a folder."""
    return [read_one(path.parent) for path in sorted(keep.glob(f"*/*/{EVALUATION}"))]


def read_one(folder: Path) -> Kept:
    """One run's folder."""
    study = json.loads((folder / RECORD).read_text())
    run = Run(study["study"]["bed"], study["study"]["arm"], float(study["study"]["rate"]), int(study["seed"]))
    last = json.loads((folder / METRICS).read_text().splitlines()[-1])
    return Kept(run, json.loads((folder / EVALUATION).read_text()), last["data"].get("actor/entropy", math.nan))


def one_line(folder: Path) -> str:
    """A run in a few words."""
    kept = read_one(folder)
    if failure := kept.figures.get("failure"):
        return f"broke down: {failure}"
    return f"accuracy {kept.value('accuracy'):.3f}  pass@k {kept.value('pass'):.3f}  length {kept.value('length'):.1f}  entropy {kept.entropy:.3f}"


def best_rates(protocol: Protocol, kept: Iterable[Kept]) -> dict[tuple[str, str], float]:
    """(bed, arm) -> the rate with the highest mean accuracy over the pilot's grid seeds, where every rate of the pilot has all of them.

    A rate next to the pilot's counts too where it was tried.
    """
    seeds = protocol.pilot["grid_seeds"]
    found: dict[tuple[str, str, float], dict[int, float]] = defaultdict(dict)
    for k in kept:
        if k.run.seed in seeds:
            found[k.run.bed, k.run.arm, k.run.rate][k.run.seed] = k.value("accuracy")
    best = {}
    for bed, arm in dict.fromkeys((bed, arm) for bed, arm, _ in found):
        means = {rate: np.mean(list(found[bed, arm, rate].values())) for rate in protocol.rates if len(found[bed, arm, rate]) == len(seeds)}
        if {*protocol.pilot["rates"]} <= {*means}:
            best[bed, arm] = max(means, key=means.__getitem__)
    return best


def plateau(rates: Sequence[float], accuracies: Mapping[float, float], share: float = 0.9) -> int:
    """How many neighbouring rates, the best one among them, keep this share of the best rate's accuracy."""
    values = [accuracies.get(rate, -math.inf) for rate in rates]
    top = int(np.argmax(values))
    good = [value >= share * values[top] for value in values]
    low = high = top
    while low > 0 and good[low - 1]:
        low -= 1
    while high + 1 < len(good) and good[high + 1]:
        high += 1
    return high - low + 1


def markdown(protocol: Protocol, kept: Sequence[Kept]) -> str:
    """Up to three tables a bed: the pilot by learning rate, the confirmation beside GRPO, the plateau of learning rates."""
    out = []
    for bed in protocol.beds:
        mine = [k for k in kept if k.run.bed == bed]
        if mine:
            pilot = [k for k in mine if k.run.seed in (*protocol.pilot["grid_seeds"], *protocol.pilot["more_seeds"])]
            wide = [k for k in mine if k.run.seed in protocol.plateau["seeds"] and k.run.arm in protocol.plateau["arms"]]
            tried = {(k.run.arm, k.run.rate) for k in wide}
            tables = [
                *_by_rate("Pilot", protocol, pilot),
                *_arms(protocol, bed, mine),
                *(_by_rate("Plateau", protocol, wide) if len(tried) > len(protocol.plateau["arms"]) else []),
            ]
            out += [f"### {bed}", "", *tables]
    return "\n".join(out) if out else "nothing is kept yet"


def _by_rate(title: str, protocol: Protocol, kept: Sequence[Kept]) -> list[str]:
    rates = protocol.rates
    cells: dict[tuple[str, float], list[Kept]] = defaultdict(list)
    for k in kept:
        cells[k.run.arm, k.run.rate].append(k)
    arms = [arm for tier in protocol.arms for arm in tier if any(arm == name for name, _ in cells)]
    if not arms:
        return []
    lines = [f"{title}: test accuracy / pass@8 (runs), by learning rate", ""]
    lines.append("| arm | " + " | ".join(rate_text(rate) for rate in rates) + " | neighbouring rates within 90% of the best |")
    lines.append("|---" * (len(rates) + 2) + "|")
    for arm in arms:
        means, row = {}, []
        for rate in rates:
            found = cells.get((arm, rate), [])
            if not found:
                row.append("")
                continue
            means[rate] = float(np.mean([k.value("accuracy") for k in found]))
            row.append(f"{means[rate]:.3f} / {np.mean([k.value('pass') for k in found]):.3f} ({len(found)})")
        whole = f"{plateau(rates, means)} of {len(rates)}" if len(means) == len(rates) else ""
        lines.append(f"| {arm} | " + " | ".join(row) + f" | {whole} |")
    return [*lines, ""]


MEASURES = (("accuracy", "test", ".3f"), ("pass", "test", ".3f"), ("length_right", "test", ".1f"), ("accuracy", "beyond", ".3f"))


def _arms(protocol: Protocol, bed: str, kept: Sequence[Kept]) -> list[str]:
    """Each arm at its chosen rate on the seeds of the confirmation; before there is a choice, those of the small repetition."""
    small = protocol.small if protocol.small["bed"] == bed else {"arms": [], "seeds": [], "rate": None}
    rates = protocol.chosen.get(bed) or dict.fromkeys(small["arms"], small["rate"])
    seeds = protocol.confirm["seeds"] if bed in protocol.chosen else small["seeds"]
    arms = at_rates(kept, rates, seeds)
    if not arms:
        return []
    base = arms.get(BASE, {})
    lines = ["Mean ± standard deviation over seeds, and the difference to GRPO, paired by seed, with its 95% t interval. IQM: the interquartile mean over"]
    lines += ["seeds of the difference in accuracy, with a bootstrap over seeds and problems.", ""]
    lines += ["| arm, rate | seeds | accuracy | pass@8 | length of right answers | entropy | accuracy one level beyond | accuracy - GRPO's | its IQM | pass@8 - GRPO's |"]
    lines += ["|---" * 10 + "|"]
    for arm, found in sorted(arms.items(), key=lambda item: item[0] != BASE):
        told = [_spread([k.value(m, of) for k in found.values()], form) for m, of, form in MEASURES]
        entropy = _spread([k.entropy for k in found.values()], ".3f")
        differences = ["", "", ""] if arm == BASE else [_difference(base, found, "accuracy"), _robust(base, found), _difference(base, found, "pass")]
        name = f"{arm}, {rate_text(rates[arm])}"
        lines.append(f"| {name} | {len(found)} | {told[0]} | {told[1]} | {told[2]} | {entropy} | {told[3]} | " + " | ".join(differences) + " |")
    return [*lines, ""]


def at_rates(kept: Iterable[Kept], rates: Mapping[str, float], seeds: Collection[int]) -> dict[str, dict[int, Kept]]:
    """arm -> seed -> the run of one bed at the arm's rate; without the arms that have none."""
    found: dict[str, dict[int, Kept]] = {}
    for k in kept:
        if k.run.seed in seeds and k.run.rate == rates.get(k.run.arm):
            found.setdefault(k.run.arm, {})[k.run.seed] = k
    return found


def _robust(base: Mapping[int, Kept], other: Mapping[int, Kept]) -> str:
    found = over_problems(base, other)
    return "" if found is None else with_interval(found.value, found.low, found.high, ".3f", sign=True)


def over_problems(base: Mapping[int, Kept], other: Mapping[int, Kept]) -> Interval | None:
    """Interquartile mean over seeds of the difference in accuracy, by a bootstrap over seeds and the problems that they share."""
    seeds = [s for s in sorted({*base} & {*other}) if not {"failure"} & {*base[s].figures, *other[s].figures}]
    if len(seeds) < MIN_PAIRS:
        return None
    return crossed_bootstrap([_shares(other[s]) - _shares(base[s]) for s in seeds])


def _shares(kept: Kept) -> np.ndarray:
    """[P] share of right samples of each test problem."""
    test = kept.figures["test"]
    return np.array([int(c, 16) if isinstance(c, str) else c for c in test["right"]]) / test["k"]


def _spread(values: Sequence[float], form: str) -> str:
    values = [v for v in values if not math.isnan(v)]
    if not values:
        return ""
    return f"{np.mean(values):{form}}" + (f" ± {np.std(values, ddof=1):{form}}" if len(values) > 1 else "")


def figure(name: str, of: str = "test") -> Callable[[Kept, Kept], tuple[float, float]]:
    """A figure of the evaluation, of both runs."""
    return lambda a, b: (a.value(name, of), b.value(name, of))


def pair(base: Mapping[int, Kept], other: Mapping[int, Kept], of: Callable[[Kept, Kept], tuple[float, float]]) -> Paired:
    """other - base over the seeds that both have; pairs without a number are left out."""
    numbers = [of(base[seed], other[seed]) for seed in sorted({*base} & {*other})]
    numbers = [both for both in numbers if all(map(math.isfinite, both))]
    return paired_t([a for a, _ in numbers], [b for _, b in numbers])


def _difference(base: Mapping[int, Kept], other: Mapping[int, Kept], measure: str) -> str:
    found = pair(base, other, figure(measure))
    if found.pairs < MIN_PAIRS:  # an interval from two pairs says nothing
        return signed(found.difference, ".3f") if found.pairs else ""
    return with_interval(found.difference, found.low, found.high, ".3f", sign=True)
