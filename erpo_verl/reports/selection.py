"""Which responses of a rollouts file ``erpo inspect`` shows: by default the first groups that have right and wrong ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from erpo_verl.methods.declarations import Quantity
from erpo_verl.runs.rollouts import RolloutsError, read_head, read_quantities, read_rows

MAX_TOKENS = 40_000
"""Tokens on a page; a browser scrolls this many smoothly."""


@dataclass(frozen=True)
class Group:
    """Responses to one prompt at one step. ``left_out``: how many of it are not shown."""

    step: int
    uid: str
    rows: list[dict[str, Any]]
    left_out: int


@dataclass(frozen=True)
class Selection:
    """What is shown, and in ``notes`` what is not. ``top_z[step]``: z above which a token is in the top fifth of that step;
    ``quantities``: what the file holds of each token, as it declares them."""

    groups: list[Group]
    notes: list[str]
    top_z: dict[int, float]
    quantities: list[Quantity]


def is_right(row: dict[str, Any]) -> bool:
    """By ``acc`` where it is there, else by ``score``."""
    value = row["acc"] if row["acc"] is not None else row["score"]
    return value is not None and value > 0.5


def parse_rows(text: str) -> list[int]:
    """``0-3,8`` is rows 0, 1, 2, 3 and 8, counted from 0.

    Raises:
        RolloutsError: it is not of this form.
    """
    rows: list[int] = []
    for part in text.split(","):
        first, sign, last = part.strip().partition("-")
        if not first.isdecimal() or (sign and not last.isdecimal()) or (sign and int(last) < int(first)):
            raise RolloutsError(f"--rows {text!r}: not rows such as 0-3,8 (counted from 0)")
        rows += range(int(first), int(last or first) + 1)
    return list(dict.fromkeys(rows))


def select(
    path: Path, *, rows: Sequence[int] | None = None, uids: Sequence[str] = (), groups: int = 4, each: int = 3
) -> Selection:
    """Choose and read responses.

    Args:
        path: the rollouts file.
        rows: these rows alone.
        uids: these prompts alone, all their responses.
        groups: otherwise the first so many groups with right and wrong responses,
        each: with at most so many right and so many wrong responses each.

    Raises:
        RolloutsError: the file is not as expected, or holds no such row or uid.
    """
    head = read_head(path)
    if not head:
        raise RolloutsError(f"{path} holds no responses")
    members: dict[tuple[int, str], list[int]] = {}
    for number, row in enumerate(head):
        members.setdefault((row["step"], row["uid"]), []).append(number)
    mixed = [key for key, numbers in members.items() if len({is_right(head[n]) for n in numbers}) == 2]
    notes = [f"The file holds {len(head)} responses to {len(members)} prompts; {len(mixed)} of these have right and wrong ones."]
    if rows is not None:
        if wrong := [n for n in rows if n >= len(head)]:
            raise RolloutsError(f"{path}: there is no row {wrong[0]}, it has {len(head)} (counted from 0)")
        wanted = {key: [n for n in numbers if n in set(rows)] for key, numbers in members.items()}
        wanted = {key: numbers for key, numbers in wanted.items() if numbers}
    elif uids:
        if unknown := [uid for uid in uids if uid not in {key[1] for key in members}]:
            raise RolloutsError(f"{path}: there is no uid {unknown[0]!r}; the first are {', '.join(key[1] for key in list(members)[:5])}")
        wanted = {key: numbers for key, numbers in members.items() if key[1] in uids}
    else:
        chosen = mixed[:groups] or list(members)[:groups]
        if not mixed:
            notes.append("No prompt has right and wrong responses, so the first prompts are shown.")
        wanted = {key: _some(head, members[key], each) for key in chosen}
    found, tokens = [], 0
    for (step, uid), numbers in wanted.items():
        kept = []
        for n in numbers:
            if (found or kept) and tokens + head[n]["length"] > MAX_TOKENS:
                continue
            kept.append(n)
            tokens += head[n]["length"]
        if kept:
            found.append(Group(step, uid, read_rows(path, kept), len(members[step, uid]) - len(kept)))
    asked, shown = sum(map(len, wanted.values())), sum(len(group.rows) for group in found)
    if shown < asked:
        notes.append(f"{asked - shown} of the responses asked for are left out: a page shows up to {MAX_TOKENS:,} tokens. Choose with the options rows or uid.")
    if rows is None and not uids and len(found) < len(members):
        notes.append(f"Shown are {len(found)} prompts with up to {each} right and {each} wrong responses each; the options groups, each, uid and rows choose others.")
    return Selection(found, notes, _top_z(path, {group.step for group in found}), read_quantities(path))


def _some(head: Sequence[dict[str, Any]], numbers: Sequence[int], each: int) -> list[int]:
    right = [n for n in numbers if is_right(head[n])][:each]
    wrong = [n for n in numbers if not is_right(head[n])][:each]
    return sorted([*right, *wrong])


def _top_z(path: Path, steps: set[int]) -> dict[int, float]:
    """The 0.8 quantile of z over all tokens of each step in the file."""
    import pyarrow.compute as compute
    import pyarrow.parquet as parquet

    if "z" not in parquet.read_schema(path).names:
        return {}
    table = parquet.read_table(path, columns=["step", "z"])
    found = {}
    for step in sorted(steps):
        z = table.filter(compute.equal(table["step"], step))["z"].drop_null()
        if len(z):
            values = compute.list_flatten(z).drop_null().to_numpy().astype(float)
            values = values[np.isfinite(values)]
            if len(values):
                found[step] = float(np.quantile(values, 0.8))
    return found
