"""What other methods would have said: the credit of each method on the same dumped responses, without training.

    erpo inspect rollouts/step_000050.parquet --methods grpo erpo erpo:progress.eta=0.05,gate.normalize=mean_one my_method

Everything is computed over all responses of the file, step by step, whatever the page shows of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from erpo_verl.runs.rollouts import RolloutsError, read_head, read_rows

WINDOWS = 10  # windows of progress t / T_i
SURPRISING = 0.1  # the share of tokens with the largest surprisal


@dataclass(frozen=True)
class Spec:
    """A method and settings of it, as given after ``--methods``."""

    label: str
    name: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class MethodCredit:
    """A method's work on a file of R responses with N tokens in all."""

    spec: Spec
    advantages: list[np.ndarray]  # R arrays [T_i]
    quantities: dict[str, list[np.ndarray | None]]  # its own per-token quantities, R entries each


@dataclass(frozen=True)
class Figures:
    """One method's credit in numbers, over all N tokens. NaN where there is nothing to take it from."""

    size: float  # mean |A|
    on_pivots: float  # share of |A| on tokens with z > 0
    on_surprising: float  # share of |A| on the tenth with the largest -log pi_old
    by_window: list[float]  # share of |A| in each of WINDOWS windows of progress
    sign_differs: float  # share of tokens whose advantage has not the sign of their response's outcome advantage
    entropy_change: float  # -cov(log pi_old, A) over tokens: first-order change of entropy by a unit step, nats


def parse_specs(texts: Sequence[str]) -> list[Spec]:
    """``erpo`` or ``erpo:gate.gamma=3,progress.eta=0.1``; values are YAML. Names and settings are checked.

    Raises:
        RolloutsError: no such method, a setting that it refuses, or the same twice.
    """
    import yaml

    from erpo_verl import methods

    found = []
    for text in texts:
        name, _, rest = text.partition(":")
        settings: dict[str, Any] = {}
        for item in filter(None, rest.split(",")):
            key, sign, value = item.partition("=")
            if not sign:
                raise RolloutsError(f"--methods {text}: {item!r} is not key=value; write METHOD:key=value,key=value")
            *parents, last = key.split(".")
            place = settings
            for parent in parents:
                place = place.setdefault(parent, {})
                if not isinstance(place, dict):
                    raise RolloutsError(f"--methods {text}: {parent} is given as a value and as a section")
            try:
                place[last] = yaml.safe_load(value)
            except yaml.YAMLError:
                raise RolloutsError(f"--methods {text}: {value!r} cannot be read as a value") from None
        try:
            methods.get(name).configure(settings)
        except ValueError as error:  # unknown methods and settings: the message names them
            raise RolloutsError(f"--methods {text}: {error}") from None
        if text in [spec.label for spec in found]:
            raise RolloutsError(f"--methods: {text} is given twice")
        found.append(Spec(text, name, settings))
    return found


def read_all(path: Path) -> list[dict[str, Any]]:
    """All rows of the file.

    Raises:
        RolloutsError: the file is not as expected, holds no response, or no scores or entropies (a dump of validation).
    """
    rows = read_rows(path, range(len(read_head(path))))
    if not rows:
        raise RolloutsError(f"{path} holds no responses")
    for number, row in enumerate(rows):
        for column in ("score", "old_log_prob"):
            if row[column] is None:
                raise RolloutsError(
                    f"{path}, row {number}: column {column!r} has no value, and every method's credit needs it; a dump of training steps has it, one of "
                    "validation has not"
                )
    return rows


def credits(path: Path, rows: Sequence[dict[str, Any]], specs: Sequence[Spec], norm_adv_by_std_in_grpo: bool = True) -> list[MethodCredit]:
    """Each method's work on the rows, in their order.

    Raises:
        RolloutsError: the file lacks what a method needs, or holds a number that is not finite.
    """
    from erpo_verl import methods

    batches = _batches(rows, norm_adv_by_std_in_grpo)
    found = []
    for spec in specs:
        method = methods.get(spec.name)
        advantages: list[Any] = [None] * len(rows)
        quantities: dict[str, list[Any]] = {quantity.name: [None] * len(rows) for quantity in method.tokens}
        for numbers, batch in batches:
            try:
                credit = method.credit(batch, spec.settings, keep_tokens=True)
            except ValueError as error:
                raise RolloutsError(f"{path}: {spec.label}: {error}") from None
            tokens = credit.tokens
            values = {name: tokens.quantities.get(name) for name in quantities} if tokens is not None else {}
            values = {name: None if value is None else value.double().numpy() for name, value in values.items()}
            of_row = None if tokens is None else tokens.row.numpy()
            for i, number in enumerate(numbers):
                advantages[number] = credit.advantages[i, : rows[number]["length"]].double().numpy()
                for name, value in values.items():
                    quantities[name][number] = None if value is None else value[of_row == i]
        found.append(MethodCredit(spec, advantages, quantities))
    return found


def _batches(rows: Sequence[dict[str, Any]], norm_adv_by_std_in_grpo: bool) -> list[tuple[list[int], Any]]:
    """For each step the numbers of its rows, and its batch; an input that some row lacks is None."""
    import torch

    from erpo_verl.methods import TokenBatch

    members: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        members.setdefault(row["step"], []).append(number)
    found = []
    for step, numbers in members.items():
        longest = max(rows[n]["length"] for n in numbers)
        mask = torch.zeros(len(numbers), longest, dtype=torch.bool)
        rewards = torch.zeros(len(numbers), longest)
        inputs: dict[str, Any] = {}
        for field, column in (("entropy", "entropy"), ("old_log_probs", "old_log_prob"), ("ref_log_prob", "ref_log_prob")):
            there = all(rows[n][column] is not None for n in numbers)
            inputs[field] = torch.zeros(len(numbers), longest) if there else None
            for i, n in enumerate(numbers) if there else ():
                inputs[field][i, : rows[n]["length"]] = torch.tensor(rows[n][column], dtype=torch.float32)
        for i, n in enumerate(numbers):
            mask[i, : rows[n]["length"]] = True
            rewards[i, rows[n]["length"] - 1] = rows[n]["score"]
        batch = TokenBatch(rewards, mask, [rows[n]["uid"] for n in numbers], step=step, norm_adv_by_std_in_grpo=norm_adv_by_std_in_grpo, **inputs)
        found.append((numbers, batch))
    return found


def figures(rows: Sequence[dict[str, Any]], found: MethodCredit, outcome: MethodCredit) -> Figures:
    """A method's credit in numbers; ``outcome`` is GRPO's, whose sign is that of the response's outcome."""
    A = np.concatenate(found.advantages)
    size = np.abs(A)
    log_probs = np.concatenate([row["old_log_prob"] for row in rows]).astype(float)
    progress = np.concatenate([np.arange(row["length"]) / row["length"] for row in rows])
    window = np.minimum((progress * WINDOWS).astype(int), WINDOWS - 1)
    total = size.sum()

    def share(where: np.ndarray) -> float:
        return float(size[where].sum() / total) if total else float("nan")

    z = [row["z"] for row in rows]
    return Figures(
        size=float(size.mean()),
        on_pivots=share(np.concatenate(z).astype(float) > 0) if all(v is not None for v in z) else float("nan"),
        on_surprising=share(-log_probs >= np.quantile(-log_probs, 1 - SURPRISING)),
        by_window=[share(window == k) for k in range(WINDOWS)],
        sign_differs=float((np.sign(A) != np.sign(np.concatenate(outcome.advantages))).mean()),
        entropy_change=float(-np.cov(log_probs, A, bias=True)[0, 1]),
    )


def correlations(found: Sequence[MethodCredit]) -> np.ndarray:
    """Pearson's between the methods' token advantages, [methods, methods]; NaN where a method's do not vary."""
    A = np.stack([np.concatenate(one.advantages) for one in found])
    centred = A - A.mean(axis=1, keepdims=True)
    spread = np.sqrt((centred**2).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (centred @ centred.T) / np.outer(spread, spread)
