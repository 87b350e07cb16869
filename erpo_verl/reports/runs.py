"""Read runs: ``metrics.jsonl`` with its ``run.json``, or W&B's offline files, of either engine.

A line of ``metrics.jsonl`` is a step, ``{"step": 3, "data": {"critic/score/mean": 0.4, ...}}``, as verl's file logger and the
Accelerate engine write it. Arm and seed are those of ``run.json``, else those in the name: ``erpo-s3`` is arm ``erpo``, seed 3.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from erpo_verl.reports.metrics import TOKENS, HeldOut
from erpo_verl.reports.wandb_files import find_files, read_offline_run
from erpo_verl.runs.metrics import METRICS, read_metrics
from erpo_verl.runs.names import arm_and_seed, run_name
from erpo_verl.runs.record import read_record


@dataclass(frozen=True)
class Run:
    """One run. ``series[name]`` maps steps, ascending, to finite values; ``broken[name]`` lists steps without a number.

    ``recorded``: the name that its record gives it, where the folder's is used in its place.
    """

    path: Path
    arm: str
    seed: int | None
    series: dict[str, dict[int, float]]
    broken: dict[str, list[int]] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)
    recorded: str = ""

    @property
    def label(self) -> str:
        """``arm-s1``, or the arm where there is no seed."""
        return run_name(self.arm, self.seed)

    @property
    def last_step(self) -> int:
        """The last step that has any metric."""
        return max(max(values) for values in self.series.values())

    def gaps(self, name: str) -> set[int]:
        """Steps at which the run should have a number and has none: it is not finite, or a training metric is of an empty set."""
        steps = set() if name.startswith("val-") else set(self.series.get("critic/score/mean", {}))
        return (steps | set(self.broken.get(name, ()))) - set(self.values(name))

    @cached_property
    def tokens(self) -> dict[int, float]:
        """Tokens generated in training up to and including each step; empty where the metrics do not say.

        ``perf/total_num_tokens`` counts prompts and responses; the responses' part is that of the mean lengths, exactly:
        both means are over the same responses.
        """
        total = self.series.get("perf/total_num_tokens", {})
        response, prompt = self.series.get("response_length/mean", {}), self.series.get("prompt_length/mean", {})
        summed, result = 0.0, {0: 0.0}  # validation before the first step
        for step, count in total.items():
            if step not in response or step not in prompt or response[step] + prompt[step] <= 0:
                return {}
            summed += count * response[step] / (response[step] + prompt[step])
            result[step] = summed
        return result if total else {}

    def values(self, name: str) -> dict[int, float]:
        """The series of a metric, `TOKENS` included; empty where the run has none."""
        return self.tokens if name == TOKENS else self.series.get(name, {})


def read_run(path: Path) -> Run:
    """Read a run's folder, its ``metrics.jsonl``, or W&B's offline folder or file.

    Raises:
        ValueError: there is nothing to read, a line is not as expected (named with its number), or there are no metrics.
    """
    path = Path(path)
    metrics = path if path.suffix == ".jsonl" else path / METRICS
    if metrics.is_file():
        folder = metrics.parent
        run = _with_steps(Run(folder, folder.resolve().name, None, {}), read_metrics(metrics))
        record = read_record(folder)
    elif offline := find_files(path):
        found = read_offline_run(offline)
        run = _with_steps(Run(path, found.name or offline[0].parent.name, None, {}), found.history)
        record = {"config": _nested(found.config)}
        names = record["config"].get("trainer")
        if isinstance(names, dict) and isinstance(names.get("experiment_name"), str):
            run = replace(run, arm=names["experiment_name"])
    elif not path.exists():
        raise ValueError(f"{path} is missing")
    else:
        raise ValueError(f"{path} has no metrics.jsonl, and no W&B run (wandb/offline-run-*/*.wandb): is it the folder of a finished run?")
    if not run.series:
        raise ValueError(f"{metrics if metrics.is_file() else path} holds no metrics")
    arm, seed = arm_and_seed(run.arm)
    run = replace(run, arm=arm, seed=seed)
    if record and "arm" in record:
        run = replace(run, arm=record["arm"], seed=record["seed"])
    return replace(run, record=record or {})


def _with_steps(run: Run, lines: Iterable[tuple[int, dict[str, Any]]]) -> Run:
    """A step that comes twice (a resumed run repeats what came after its checkpoint) counts as it came last."""
    series: dict[str, dict[int, float]] = {}
    broken: dict[str, set[int]] = {}
    for step, data in lines:
        for name, value in data.items():
            if isinstance(value, bool) or not (value is None or isinstance(value, int | float) or value in ("NaN", "Infinity", "-Infinity")):
                continue
            broken.setdefault(name, set()).discard(step)
            series.setdefault(name, {}).pop(step, None)
            if isinstance(value, int | float) and math.isfinite(value):
                series[name][step] = float(value)
            else:
                broken[name].add(step)
    return replace(
        run,
        series={name: dict(sorted(values.items())) for name, values in sorted(series.items()) if values},
        broken={name: sorted(steps) for name, steps in sorted(broken.items()) if steps},
    )


def _nested(config: dict[str, Any]) -> dict[str, Any]:
    """Dotted keys unfolded: W&B's configuration is nested in verl's runs and flat in the Accelerate engine's."""
    nested: dict[str, Any] = {}
    for name, value in config.items():
        *path, last = name.split(".")
        inner = nested
        for part in path:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                return config
        inner[last] = value
    return nested


def held_out(runs: Sequence[Run]) -> list[HeldOut]:
    """The number that each validation source is judged by, by source: accuracy where a run has it, else the mean reward, and of
    several numbers of samples the largest. A name that all runs of the source share goes before one that some lack."""
    having: dict[str, list[set[HeldOut]]] = {}
    for run in runs:
        found: dict[str, set[HeldOut]] = {}
        for name in run.series:
            if one := HeldOut.parse(name):
                found.setdefault(one.source, set()).add(one)
        for source, names in found.items():
            having.setdefault(source, []).append(names)
    chosen = []
    for _, names in sorted(having.items()):
        for candidates in [set.intersection(*names)] if set.intersection(*names) else names:
            best = max(candidates, key=lambda one: (one.kind == "acc", one.n, one.name))
            chosen += [best] if best not in chosen else []
    return chosen


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Read several runs. Arms whose runs share a recorded name and seed take the names of their folders, all of an arm's runs at once.

    Raises:
        ValueError: as `read_run`; or two runs have the same arm and seed by their folders' names too.
    """
    runs = [read_run(path) for path in paths]
    keys = [(run.arm, run.seed) for run in runs]
    shared = {arm for (arm, seed) in keys if keys.count((arm, seed)) > 1}
    named = []
    for run in runs:
        if run.arm in shared:
            arm, seed = arm_and_seed(run.path.resolve().name)
            run = replace(run, arm=arm, seed=run.seed if seed is None else seed, recorded=run_name(run.arm, run.seed))
        named.append(run)
    by_arm(named)
    return named


def by_arm(runs: list[Run]) -> dict[str, list[Run]]:
    """Runs by arm, in the order in which the arms came; seeds sorted.

    Raises:
        ValueError: two runs have the same arm and seed.
    """
    arms: dict[str, list[Run]] = {}
    for run in runs:
        arms.setdefault(run.arm, []).append(run)
    for arm, members in arms.items():
        seeds = [run.seed for run in members]
        if len(set(seeds)) < len(seeds):
            twice = next(run for run in members if seeds.count(run.seed) > 1)
            same = [run for run in members if run.seed == twice.seed]
            what = "no seed" if twice.seed is None else f"seed {twice.seed}"
            if same[0].path.resolve() == same[1].path.resolve():
                raise ValueError(f"{same[0].path} is given twice")
            paths = " and ".join(str(run.path) for run in same)
            other = same[-1].path.resolve()
            where = other.with_name(run_name(f"{arm}-b", 1 if twice.seed is None else twice.seed))
            raise ValueError(
                f"{paths} are both of arm {arm!r} with {what}, by their records and by their folders' names: give each folder a name of its "
                f"own, ARM-sSEED, as with: mv {other} {where}"
            )
        members.sort(key=lambda run: -1 if run.seed is None else run.seed)
    return arms
