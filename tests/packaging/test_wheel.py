"""The wheel: one top-level name, complete without the checkout, and honest about what it needs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("wheel")
    # From a copy: setuptools leaves build/ and *.egg-info in the folder that it builds from.
    source = folder / "source"
    keep = shutil.ignore_patterns(".git", ".venv*", "outputs", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=keep)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    done = subprocess.run(build, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The wheel's files alone in a folder, as pip lays them out."""
    folder = tmp_path_factory.mktemp("site")
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(folder), str(wheel)]
    subprocess.run(install, check=True, timeout=300)
    return folder


def test_exactly_one_top_level_name(wheel):
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"erpo_verl"}


def test_every_module_of_the_checkout_is_in_it(wheel):
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")}
    ours = {f"erpo_verl/{path.relative_to(ROOT / 'erpo_verl')}" for path in (ROOT / "erpo_verl").rglob("*.py")}
    reward = {f"erpo_verl/reward/{path.relative_to(ROOT / 'reward')}" for path in (ROOT / "reward").rglob("*.py")}
    assert packed == ours | reward


def test_the_pages_styles_and_scripts_are_in_it(wheel):
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if "/templates/" in name}
    folder = ROOT / "erpo_verl" / "reports" / "templates"
    assert packed == {f"erpo_verl/reports/templates/{path.name}" for path in folder.iterdir()} and packed


CODE = """
import sys, importlib, pkgutil
site = sys.argv[1]
sys.path.insert(0, site)
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in repr(f).lower()]  # no checkout in sight
import erpo_verl, erpo_verl.reward, erpo_verl.verl_plugin, erpo_verl.reports.compare, erpo_verl.prepare
import torch
mask = torch.ones(4, 3)
rewards = torch.zeros(4, 3); rewards[0, 2] = rewards[2, 2] = 1
a = erpo_verl.erpo_advantages(token_level_rewards=rewards, response_mask=mask, index=[0, 0, 1, 1], entropy=torch.rand(4, 3),
    old_log_probs=-torch.rand(4, 3), ref_log_prob=-torch.rand(4, 3), config=None)
assert a.advantages.shape == (4, 3)
for module in ("erpo_verl", "erpo_verl.reward", "erpo_verl.verl_plugin"):
    assert importlib.import_module(module).__file__.startswith(site), module
print("fine")
"""


@pytest.mark.parametrize("folder", ["/", str(ROOT.parent)])
def test_it_works_from_any_folder(installed, folder):
    variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(installed)], cwd=folder, env=variables, capture_output=True, text=True, timeout=240
    )
    assert done.stdout.strip() == "fine", done.stderr


def test_entry_points(installed):
    (info,) = installed.glob("*.dist-info")
    text = (info / "entry_points.txt").read_text()
    for line in (
        "erpo = erpo_verl.cli:main",
        "erpo = erpo_verl.verl_plugin.entry",
        "erpo_cpu = erpo_verl.verl_cpu.entry",
        "erpo_cpu = erpo_verl.verl_cpu.vllm_plugin:register",
    ):
        assert line in text


def requirements(installed: Path) -> list[Requirement]:
    (info,) = installed.glob("*.dist-info")
    lines = (info / "METADATA").read_text().splitlines()
    return [Requirement(line.removeprefix("Requires-Dist: ")) for line in lines if line.startswith("Requires-Dist: ")]


def test_the_core_needs_little(installed):
    core = {r.name for r in requirements(installed) if r.marker is None}
    assert core == {"torch", "numpy", "omegaconf", "wrapt"}


def test_no_resolver_can_trade_hydra_for_antlr(installed):
    """math-verify on antlr 4.13 would pull hydra-core down to 0.11, quietly, and verl's configuration would break."""
    reward = [r for r in requirements(installed) if r.marker and r.marker.evaluate({"extra": "reward"})]
    by_name = {r.name: r for r in reward}
    assert by_name["math-verify"].extras == {"antlr4_9_3"}
    assert "0.11.3" not in by_name["hydra-core"].specifier and "1.3.8" in by_name["hydra-core"].specifier
