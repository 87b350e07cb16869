"""Which problems of one prepared or raw file stand in others: for `--against`, and `erpo prepare --check`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from erpo_verl.data.mend import mend_text
from erpo_verl.data.overlap import Match, OverlapIndex, build_index
from erpo_verl.data.sets import PROBLEM, SETS, find_set, first_text
from erpo_verl.data.source import PrepareError, Row, file_rows, file_sha256, hub_rows
from erpo_verl.data.templates import strip_instruction

_COLUMNS = tuple(path.split(".")[0] for path in PROBLEM)


@dataclass
class Report:
    """What was found against one source: rows of it, its hash, and (row, its row, share) of the matches by kind."""

    name: str
    sha256: str
    rows: int = 0
    matches: dict[str, list[tuple[int, int, float]]] = field(default_factory=lambda: {"same": [], "near": []})

    def add(self, row: int, match: Match) -> None:
        """Note a match of the problem in row `row`."""
        self.matches[match.kind].append((row, match.row, match.share))

    def as_dict(self) -> dict[str, Any]:
        """For the record beside the data."""
        found: dict[str, Any] = {"source": self.name, "sha256": self.sha256, "rows": self.rows}
        for kind, matches in self.matches.items():
            found[kind] = len(matches)
            found[f"{kind}_at"] = [{"row": row, "other_row": other, "share": share} for row, other, share in matches]
        return found


def problems_of(source: str) -> list[tuple[str, str, Iterator[tuple[int, str]]]]:
    """(name, sha256, rows) of each file that `source` stands for: a file, a folder of parquet files, or a set on the hub.

    Raises:
        PrepareError: it is none of these.
    """
    path = Path(source)
    if path.is_dir():
        files = sorted(path.glob("*.parquet"))
        if not files:
            raise PrepareError(f"{path}: no .parquet file in this folder")
        return [(f"{path.name}/{file.name}", file_sha256(file), _numbered(file_rows(file, _COLUMNS), file)) for file in files]
    if not path.exists() and source in SETS:
        known = find_set(source)
        ours, theirs = next(reversed(known.splits.items()))  # the test split, where there is one
        rows = hub_rows(known.hub, known.config, theirs, None, sorted(known.columns))
        return [(f"{known.hub} {ours}", "", _numbered(rows, source))]
    if not path.is_file():
        raise PrepareError(f"{source}: neither a file, nor a folder, nor a set (`erpo prepare --list`)")
    return [(path.name, file_sha256(path), _numbered(file_rows(path, _COLUMNS), path))]


def _numbered(rows: Iterator[Row], where: object) -> Iterator[tuple[int, str]]:
    """(row number, problem) of each row that has one."""
    found = False
    number = -1
    for number, row in enumerate(rows):
        text, chat = first_text(row, PROBLEM)
        if text:
            found = True
            yield number, mend_text(strip_instruction(text) if chat else text).text
    if not found and number >= 0:
        raise PrepareError(f"{where}: none of its {number + 1} rows has a problem in {' or '.join(PROBLEM)}")


def read_others(sources: Sequence[str]) -> tuple[OverlapIndex, list[Report]]:
    """An index of all problems of `sources`, and an empty report for each."""
    parts = [part for source in sources for part in problems_of(source)]
    names = [f"{number}:{name}" for number, (name, _digest, _rows) in enumerate(parts)]
    index, counts = build_index((name, rows) for name, (_n, _d, rows) in zip(names, parts, strict=True))
    reports = [Report(part[0], part[1], counts[name]) for name, part in zip(names, parts, strict=True)]
    return index, reports


def report_for(reports: Sequence[Report], match: Match) -> Report:
    """The report of the source that `match` is in."""
    return reports[int(match.source.partition(":")[0])]


def check_files(train: str, others: Sequence[str], shown: int) -> int:
    """Print how many problems of `train` stand in `others`; returns the number that are the same."""
    index, reports = read_others(others)
    texts: dict[tuple[str, int], str] = {}
    same = 0
    for name, _digest, rows in problems_of(train):
        count = 0
        for number, problem in rows:
            count += 1
            match = index.find(problem)
            if match:
                report_for(reports, match).add(number, match)
                texts[name, number] = problem
                same += match.kind == "same"
        print(f"{name}: {count} problems")
        for report in reports:
            print(f"  in {report.name} ({report.rows}): {len(report.matches['same'])} the same, {len(report.matches['near'])} near")
            for kind, matches in report.matches.items():
                for number, other, share in matches[:shown]:
                    line = " ".join(texts[name, number].split())[:100]
                    print(f"    {kind} {share:.2f}  row {number} is row {other} there: {line}")
            report.matches = {"same": [], "near": []}
    return same
