"""The tables of the documents are what the code declares; what is declared is what comes back."""

import pytest
from core_batches import random_batch

import erpo_verl
from erpo_verl import ErpoConfig, docs, methods
from erpo_verl.methods.diagnostics import METRICS


def table(name):
    """First column (without the code quotes) -> the other cells, for all table rows of a document."""
    rows = {}
    for line in (docs.ROOT / "docs" / name).read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if line.startswith("| `"):
            rows.setdefault(cells[0].strip("`"), []).append(cells[1:])
    return rows


def test_no_document_is_stale():
    assert not [file.name for file in docs.stale()], "run python -m erpo_verl.docs"


def test_a_stale_document_is_found_and_mended(tmp_path, monkeypatch, capsys):
    for name in docs.DOCUMENTS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text((docs.ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    file = tmp_path / "docs" / "settings.md"
    good = file.read_text(encoding="utf-8")
    file.write_text(good.replace("| `gate.gamma` | `5` |", "| `gate.gamma` | `6` |"), encoding="utf-8")
    monkeypatch.setattr(docs, "stale", lambda root=tmp_path, real=docs.stale: real(root))
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    assert docs.main(["--check"]) == 1 and "docs/settings.md: stale" in capsys.readouterr().out
    assert file.read_text(encoding="utf-8") != good
    assert docs.main([]) == 0 and file.read_text(encoding="utf-8") == good
    assert docs.main(["--check"]) == 0


def test_every_setting_of_erpo_is_in_the_table_with_default_range_meaning_and_source():
    rows = table("settings.md")
    for item in ErpoConfig.settings():
        (default, allowed, meaning, source), *_ = rows[item.name]
        assert default.startswith(f"`{item.written}`") and all((allowed, meaning, source))
    assert rows["buckets.axis"][0][0] == "`position` (ep_grpo: `cumulative_entropy`)"


def test_what_is_declared_as_a_metric_is_what_comes_back():
    on = {"gate": {}, "synthesis": {"bound": 0.5}, "strength": {"fade_steps": 10}}
    batch = random_batch(0, 4, 5, 2)
    for method in methods.all_methods():
        settings = on if method.name == "erpo" else None
        given = methods.TokenBatch(**vars(batch), step=3)
        names = set(method.credit(given, settings).metrics)
        assert names == {metric.name for metric in (*METRICS, *method.metrics)}, method.name
    rows = table("metrics.md")
    assert names <= set(rows) and all(all(cells) for row in rows.values() for cells in row)


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
