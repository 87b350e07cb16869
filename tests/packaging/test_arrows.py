"""Who may import whom: read from the sources, imports inside functions among them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORE = {"methods", "packing", "policy_loss", "segments", "settings"}
ENGINES = {"trainer", "verl_plugin", "verl_cpu", "evaluation", "recipes"}
# part -> parts of erpo_verl that it never imports
NEVER = {
    **{part: {"reports"} for part in ENGINES},
    "trainer": {"reports", "verl_plugin", "verl_cpu", "recipes"},
    "verl_plugin": {"reports", "trainer"},
    "verl_cpu": {"reports", "trainer"},
    "recipes": {"reports", "trainer"},
    "evaluation": {"reports", "trainer", "verl_plugin", "verl_cpu", "recipes"},
    "rollout": {"reports", "evaluation", *ENGINES},
    "runs": {"reports", "data", "reward", "rollout", *ENGINES},
    "data": {"reports", "rollout", *ENGINES},
    "reward": {"reports", "rollout", *ENGINES},
    "reports": {"rollout", *ENGINES},
    **{part: {"reports", "reward", "runs", "data", "rollout", *ENGINES} for part in CORE},
}


def imported(source: str, package: tuple[str, ...] = ("erpo_verl",)) -> set[str]:
    """Every name that a module imports, dotted; ``from a import b`` is both ``a`` and ``a.b``. ``package``: where it stands."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            names.update({module, *(f"{module}.{alias.name}" for alias in node.names)})
    return names


def modules(part: str) -> list[Path]:
    if part == "reward":
        return sorted((ROOT / "reward").rglob("*.py"))
    folder = ROOT / "erpo_verl" / part
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [path for path in [folder.with_suffix(".py")] if path.is_file()]


def test_the_reader_sees_every_way_to_import():
    source = "import a.b\ndef f():\n    from erpo_verl import reports\n    from .. import trainer\n    from .rows import x\n"
    assert imported(source, ("erpo_verl", "runs")) == {
        "a.b", "erpo_verl", "erpo_verl.reports", "erpo_verl.trainer", "erpo_verl.runs.rows", "erpo_verl.runs.rows.x",
    }  # fmt: skip


@pytest.mark.parametrize("part", sorted(NEVER))
def test_arrows(part):
    found = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules(part)
        for name in imported(path.read_text(encoding="utf-8"), ("erpo_verl", part))
        if name.startswith("erpo_verl.") and name.split(".")[1] in NEVER[part]
    }
    assert not found


def test_the_parts_are_there():
    assert [part for part in NEVER if not modules(part)] == []


def test_verl_is_imported_where_verl_is_the_subject_alone():
    allowed = {"verl_plugin", "verl_cpu", "recipes"}
    found = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in [*(ROOT / "erpo_verl").rglob("*.py"), *(ROOT / "reward").rglob("*.py")]
        if path.relative_to(ROOT).parts[1] not in allowed
        for name in imported(path.read_text(encoding="utf-8"))
        if name == "verl" or name.startswith("verl.")
    }
    assert not found
