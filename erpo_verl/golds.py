"""All reference answers checked before the first step, for both engines: what the maths reward cannot read is said, with the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erpo_verl.rows import RowError, as_text, read_file, reward_rows

MATHS = "pkg://erpo_verl.reward"
_FILE = "verl_reward.py"  # the same function by its file's path
_SHOWN = 5
_PATIENT_S = 30.0  # for what a busy machine did not read in time


@dataclass(frozen=True)
class Unreadable:
    """A gold that the reward cannot read."""

    place: int  # in the sequence that was checked
    file: str
    row: int
    gold: Any
    why: str


def is_maths_reward(path: str | None, name: str) -> bool:
    """Whether ``reward.custom_reward_function`` with this path and name is the maths reward of this package."""
    if name != "compute_score" or not path:
        return False
    if path == MATHS or not path.endswith(_FILE):
        return path == MATHS
    import erpo_verl.reward

    own = Path(erpo_verl.reward.__file__).with_name(_FILE)
    return Path(path).expanduser().exists() and Path(path).expanduser().samefile(own)


def unreadable(golds: Sequence[Any], settings: Mapping[str, Any] | None = None) -> list[tuple[int, Any, str]]:
    """(place, gold, why) of those that the reward cannot read. A busy machine does not decide: what took too long gets more time.

    Args:
        settings: of the reward, by name.

    Raises:
        RewardSetupError: math-verify cannot be started.
    """
    from erpo_verl.reward import RewardConfig, check_golds

    settings = dict(settings or {})
    found = check_golds(golds, RewardConfig.from_mapping(settings))
    slow = [bad.row for bad in found if bad.why.startswith("reading it ended in")]
    patient = {**settings, "time_limit_s": max(_PATIENT_S, settings.get("time_limit_s", 0.0))}
    again = check_golds([golds[place] for place in slow], RewardConfig.from_mapping(patient)) if slow else []
    still = {slow[bad.row] for bad in again}
    return [(bad.row, bad.gold, bad.why) for bad in found if bad.row not in slow or bad.row in still]


def check(golds: Sequence[Any], places: Sequence[tuple[str, int]], settings: Mapping[str, Any] | None = None) -> list[Unreadable]:
    """Check the golds of a run.

    Args:
        golds: as `rows.reward_row` reads them.
        places: file and row number of each.
        settings: of the reward, by name.

    Raises:
        RowError: a gold is empty (named), or none of all can be read.
        RewardSetupError: math-verify cannot be started.
    """
    found = [Unreadable(place, *places[place], gold, why) for place, gold, why in unreadable(golds, settings)]
    for bad in found:
        if bad.why == "empty":
            raise RowError(f"{bad.file}, row {bad.row}: reward_model.ground_truth is empty ({bad.gold!r}); `erpo prepare` drops such rows")
    if found and len(found) == len(golds):
        raise RowError(f"{found[0].file}: the reward can read none of {len(golds)} golds; the first, row {found[0].row}: {_shown(found[0])}")
    return found


def told(found: Sequence[Unreadable], of: int, then: str) -> str:
    """A line about the golds that cannot be read; ``then`` says what becomes of their rows."""
    shown = "; ".join(f"{bad.file}, row {bad.row}: {_shown(bad)}" for bad in found[:_SHOWN])
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return f"golds that the reward cannot read: {len(found)} of {of}, {then} ({shown}{more})"


def _shown(bad: Unreadable) -> str:
    return f"{str(bad.gold)[:60]!r} ({bad.why})"


def of_files(files: Sequence[str], settings: Mapping[str, Any] | None, *, source_key: str = "data_source") -> list[str]:
    """What there is to say of the golds of some parquet files, for verl, which reads the files itself; none where all are well.

    Args:
        files: files that are no parquet files on this disk are passed over.
        settings: of the maths reward, by name; None where another function judges: then the rows are read, and no gold is judged.
        source_key: the column that names the data source.

    Raises:
        RowError: a row cannot be read, or not in the form in which verl reads it; or see `check`.
        RewardSetupError: math-verify cannot be started.
    """
    golds: list[Any] = []
    places: list[tuple[str, int]] = []
    for file in files:
        path = Path(file).expanduser()
        if path.suffix != ".parquet" or not path.is_file():
            continue
        rows = read_file(path, (source_key, "reward_model"))
        for number, (row, reward) in enumerate(zip(rows, reward_rows(rows, path, source_key=source_key), strict=True)):
            for name in ("extra_info", "reward_model"):
                if row.get(name) is not None and not isinstance(row[name], dict):
                    raise RowError(f"{path}, row {number}: {name} is {type(row[name]).__name__}, and verl wants a struct; `erpo prepare` writes one")
            if as_text(row["reward_model"]["ground_truth"], "") != row["reward_model"]["ground_truth"]:
                raise RowError(f"{path}, row {number}: reward_model.ground_truth holds bytes, which verl hands to the reward as they are; write text")
            golds.append(reward.gold)
            places.append((str(path), number))
    found = check(golds, places, settings) if settings is not None and golds else []
    return [told(found, len(golds), "whose groups count for nothing")] if found else []
