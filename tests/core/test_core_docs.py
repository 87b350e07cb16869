"""docs/settings.md and docs/metrics.md list exactly what the code declares and returns."""

from pathlib import Path

import pytest
from core_batches import random_batch

import erpo_verl
from erpo_verl import ErpoConfig

DOCS = Path(__file__).parents[2] / "docs"


def table(name):
    """First column (without the code quotes) -> the other cells, for all table rows of a document."""
    rows = {}
    for line in (DOCS / name).read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if line.startswith("| `"):
            key = cells[0].strip("`")
            assert key not in rows, f"{key} stands twice in {name}"
            rows[key] = cells[1:]
    return rows


def written(value):
    """A value as YAML writes it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_settings_table():
    rows = table("settings.md")
    assert list(rows) == [row.key for row in ErpoConfig.settings()]
    for row in ErpoConfig.settings():
        preset = "; ".join(f"{name}: `{written(value)}`" for name, value in row.presets.items())
        default = f"`{written(row.default)}`" + (f" ({preset})" if preset else "")
        assert rows[row.key] == [default, row.allowed, row.help, row.source], row.key


def test_metrics_table():
    names = set(random_batch(0, 4, 5, 2).advantages({}).metrics)
    rows = table("metrics.md")
    assert set(rows) - {"actor/pg_clipfrac", "actor/ppo_kl", "actor/pg_clipfrac_lower"} == names
    assert all(all(cells) for cells in rows.values())


def test_the_package_exports_what_it_says_and_imports_light():
    import subprocess
    import sys

    assert all(hasattr(erpo_verl, name) for name in erpo_verl.__all__)
    heavy = "verl", "ray", "omegaconf", "transformers", "hydra", "accelerate"
    code = f"import sys, erpo_verl; sys.exit(', '.join(set({heavy!r}) & set(sys.modules)) or 0)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_version():
    metadata = pytest.importorskip("importlib.metadata")
    try:
        assert metadata.version("erpo-verl") == erpo_verl.__version__
    except metadata.PackageNotFoundError:
        pytest.skip("the package is not installed here")
