"""Names of runs: ``erpo-s3`` is arm ``erpo``, seed 3."""

from __future__ import annotations

import re

_NAMED = re.compile(r"(?P<arm>.+)-s(?P<seed>[0-9]+)")


def arm_and_seed(name: str) -> tuple[str, int | None]:
    """Arm and seed of a run's name; one without a seed is all arm."""
    match = _NAMED.fullmatch(name)
    return (match["arm"], int(match["seed"])) if match else (name, None)


def run_name(arm: str, seed: int | None) -> str:
    """``ARM-sSEED``, or the arm where there is no seed."""
    return arm if seed is None else f"{arm}-s{seed}"
