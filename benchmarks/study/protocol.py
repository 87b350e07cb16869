"""The study's protocol: beds, arms, rates and seeds, read from protocol.yaml, and the runs of each stage in their order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
PROTOCOL = Path(__file__).parent / "protocol.yaml"
ARMS = (ROOT / "scripts" / "ablations.txt", Path(__file__).parent / "peers.txt")


class StudyError(ValueError):
    """The protocol, or what was asked of it, cannot be used; the message says why."""


@dataclass(frozen=True)
class Bed:
    """A task with its start policies."""

    name: str
    task: str  # package with `prepare` and `warm_start`
    config: str  # YAML of `erpo train`
    tokens: int  # generated tokens after which a policy is measured
    max_steps: int
    warm_start: tuple[str, ...] = ()  # further arguments of `warm_start`
    overrides: tuple[str, ...] = ()  # further settings of the training
    seeds: tuple[int, ...] | None = None  # of the confirmation where the bed has not all of them


@dataclass(frozen=True)
class Run:
    """One training run with its evaluation."""

    bed: str
    arm: str
    rate: float
    seed: int

    @property
    def label(self) -> str:
        """Arm and rate: what `erpo compare` takes for the arm."""
        return f"{self.arm}-lr{rate_text(self.rate)}"

    @property
    def name(self) -> str:
        return f"{self.label}-s{self.seed}"


def rate_text(rate: float) -> str:
    """3e-4, 1.7e-4."""
    mantissa, exponent = f"{rate:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


@dataclass(frozen=True)
class Protocol:
    """protocol.yaml, checked."""

    beds: dict[str, Bed]
    arms: list[list[str]]
    rates: list[float]
    pilot: Mapping[str, Any]
    confirm: Mapping[str, Any]
    plateau: Mapping[str, Any]
    small: Mapping[str, Any]
    chosen: Mapping[str, Mapping[str, float]]
    evaluation: Mapping[str, Mapping[str, Any]]

    def grid(self) -> Iterator[Run]:
        """Every arm at every rate of the pilot, first arms and middle rates first."""
        rates = self.pilot["rates"]
        middle_first = sorted(rates, key=lambda rate: abs(rates.index(rate) - len(rates) // 2))
        for tier in self.arms:
            for seed in self.pilot["grid_seeds"]:
                for rate in middle_first:
                    for bed in self.pilot["beds"]:
                        yield from (Run(bed, arm, rate, seed) for arm in tier)

    def edges(self, best: Mapping[tuple[str, str], float]) -> Iterator[Run]:
        """The next rate outwards for each arm whose best one, {(bed, arm): rate}, is at an edge of the pilot's."""
        for (bed, arm), rate in best.items():
            for edge, step in ((min(self.pilot["rates"]), -1), (max(self.pilot["rates"]), 1)):
                beyond = self.rates.index(edge) + step
                if rate == edge and 0 <= beyond < len(self.rates):
                    yield from (Run(bed, arm, self.rates[beyond], seed) for seed in self.pilot["grid_seeds"])

    def more(self, best: Mapping[tuple[str, str], float]) -> Iterator[Run]:
        """The further pilot seeds at the best rate, {(bed, arm): rate}, of the arms among which one is chosen."""
        for (bed, arm), rate in ((key, rate) for key, rate in best.items() if key[1] not in self.confirm["arms"]):
            yield from (Run(bed, arm, rate, seed) for seed in self.pilot["more_seeds"])

    def confirmation(self) -> Iterator[Run]:
        """The confirmation's runs, seed by seed, of the arms that have a chosen rate.

        Raises:
            StudyError: the protocol names no chosen rate for an arm of the primary comparison.
        """
        missing = [f"{bed}/{arm}" for bed in self.chosen for arm in self.confirm["primary"] if arm not in self.chosen[bed]]
        if not self.chosen or missing:
            raise StudyError(f"{PROTOCOL.name} names no chosen rate for {', '.join(missing) or 'any bed'}: the pilot comes first")
        others = list(dict.fromkeys(arm for rates in self.chosen.values() for arm in rates if arm not in self.confirm["primary"]))
        for arms in (self.confirm["primary"], others):
            for seed in self.confirm["seeds"]:
                for bed, rates in self.chosen.items():
                    if seed in (self.beds[bed].seeds or self.confirm["seeds"]):
                        yield from (Run(bed, arm, rates[arm], seed) for arm in arms if arm in rates)

    def wide(self) -> Iterator[Run]:
        """The arms whose plateau of learning rates is measured, at all rates."""
        for seed in self.plateau["seeds"]:
            for rate in self.rates:
                for bed in self.plateau["beds"]:
                    yield from (Run(bed, arm, rate, seed) for arm in self.plateau["arms"])

    def few(self) -> Iterator[Run]:
        """The small repetition: one bed, two arms, three seeds."""
        small = self.small
        for seed in small["seeds"]:
            for arm in small["arms"]:
                rate = self.chosen.get(small["bed"], {}).get(arm, small["rate"])
                yield Run(small["bed"], arm, rate, seed)


def load(path: Path = PROTOCOL) -> Protocol:
    """Raises:
    StudyError: an unknown key or a value that is none, or an arm or a bed that is not listed.
    """
    raw = yaml.safe_load(path.read_text())
    try:
        beds = {name: Bed(name, **{key: tuple(v) if isinstance(v, list) else v for key, v in bed.items()}) for name, bed in raw["beds"].items()}
        protocol = Protocol(beds, *(raw[key] for key in ("arms", "rates", "pilot", "confirm", "plateau", "small", "chosen", "evaluation")))
    except (KeyError, TypeError) as error:
        raise StudyError(f"{path}: {error}") from None
    named = {*protocol.confirm["primary"], *protocol.confirm["arms"], *protocol.plateau["arms"], *protocol.small["arms"]} - {arm for tier in protocol.arms for arm in tier}
    if named:
        raise StudyError(f"{path}: {', '.join(sorted(named))} is not among arms")
    asked = [*protocol.chosen, *protocol.confirm["claims"], protocol.small["bed"], *protocol.pilot["beds"], *protocol.plateau["beds"]]
    unknown = [bed for bed in asked if bed not in beds]
    if unknown:
        raise StudyError(f"{path}: no bed {', '.join(unknown)}")
    return protocol


def arm_overrides(arm: str) -> list[str] | None:
    """The arm's settings, from scripts/ablations.txt or peers.txt; None where this version has no such arm."""
    for line in (line for path in ARMS for line in path.read_text().splitlines()):
        name, _, rest = line.partition("|")
        if name.strip() == arm and not line.startswith("#"):
            return rest.partition("|")[0].split()
    return None
