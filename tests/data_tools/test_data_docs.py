"""docs/data.md names every set, template, rule and count that the code and the tests on real files have."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_data_real import FILES, OVERLAPS

from erpo_verl.data.rules import DROPS, MENDS
from erpo_verl.data.sets import SETS
from erpo_verl.data.templates import TEMPLATES

TEXT = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


def rows() -> list[list[str]]:
    """The cells of every table row."""
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in TEXT.splitlines() if line.startswith("| ")]


def test_names():
    first = [cells[0] for cells in rows()]
    listed = {name.strip("` ") for cell in first for name in cell.replace(" (default)", "").split(",")}
    assert {*SETS, *TEMPLATES, *MENDS, *DROPS} <= listed
    for known in SETS.values():
        assert known.hub in TEXT and known.gold_rule in TEXT
        assert not known.config or known.config in TEXT


@pytest.mark.parametrize("key", sorted(FILES))
def test_counts(key):
    name, file, _split = key.split()
    (cells,) = [cells for cells in rows() if cells[0] == f"`{name}` {file}"]
    rows_in, rows_out, mended, dropped = FILES[key]
    shown = [", ".join(f"{rule} {count}" for rule, count in part.items()) for part in (mended, dropped)]
    found = [*cells, "", ""][1:5]
    assert found == [str(rows_in), str(rows_out), *shown]


def test_overlaps():
    names = {
        "gsm8k_train.parquet": "GSM8K train", "gsm8k_test.jsonl": "GSM8K test", "math_train.parquet": "MATH train",
        "math_test.parquet": "MATH test", "math500.jsonl": "MATH-500", "olympiadbench.jsonl": "OlympiadBench",
        "aime24.jsonl": "AIME 2024", "aime25.parquet": "AIME 2025", "amc23.jsonl": "AMC 2023",
        "minerva_math.jsonl": "Minerva", "aime25_corrupted.jsonl": "AIME 2025 (another copy)",
    }  # fmt: skip
    tables = [cells for cells in rows() if len(cells) == 4 and cells[2].isdigit() and cells[3].isdigit()]
    shown = {(cells[0], other): (int(cells[2]), int(cells[3])) for cells in tables for other in cells[1].split(", ")}
    for (train, other), counts in OVERLAPS.items():
        assert shown[names[train], names[other]] == counts
