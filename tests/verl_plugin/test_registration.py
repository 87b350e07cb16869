"""The plug-in as a user meets it: a fresh process that imports verl. Each case is a process of its own, as Ray's workers are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("verl")


def python(code: str, **variables: str) -> subprocess.CompletedProcess:
    """Run code in a fresh interpreter, from a folder with no checkout in sight."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ERPO_", "VERL_"))}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        timeout=240,
        cwd="/",
        env={**environment, **variables},
    )


def test_verl_knows_erpo_with_no_environment_variable():
    code = """
import verl.trainer.ppo.core_algos as a
assert a.get_adv_estimator_fn("erpo").__module__ == "erpo_verl.verl_plugin.estimator"
assert a.get_policy_loss_fn("erpo").__module__ == "erpo_verl.verl_plugin.loss"
print("fine")
"""
    done = python(code)
    assert done.stdout.strip().endswith("fine"), done.stderr
    assert "erpo-verl:" not in done.stderr


def test_import_verl_stays_light():
    """The plug-in must not pull in the trainers while `import verl` runs: other plug-ins come first."""
    code = """
import sys, verl
print([m for m in sys.modules if m.startswith(("verl.trainer.ppo", "verl.workers")) or m.startswith("erpo_verl.methods.")])
"""
    assert python(code).stdout.strip() == "[]"


def test_cpu_part_is_inert_unless_asked_for():
    code = """
import importlib.metadata, sys
before = importlib.metadata.version
import verl
from verl.plugin.platform.platform_manager import PlatformRegistry
print(importlib.metadata.version is before, "cpu" in PlatformRegistry.registered_names(),
      any(m in sys.modules for m in ("erpo_verl.verl_cpu.patches", "erpo_verl.verl_cpu.platform")))
"""
    assert python(code).stdout.strip() == "True False False"
    assert python(code, ERPO_VERL_CPU="1").stdout.strip() == "False True True"


def test_cpu_platform_answers_what_verl_asks():
    code = """
import verl, torch
from verl.utils.device import get_device_id, get_device_name, get_torch_device
device = get_torch_device()
free, total = device.mem_get_info()
assert 0 < free <= total
device.set_rng_state(device.get_rng_state())
assert torch.zeros(1).to(get_device_id()).device.type == get_device_name() == "cpu"
print("fine")
"""
    done = python(code, ERPO_VERL_CPU="1")
    assert done.stdout.strip().endswith("fine"), done.stderr


def site(tmp_path: Path, text: str) -> str:
    """A folder for PYTHONPATH whose sitecustomize.py runs before anything else: faults are injected through it."""
    (tmp_path / "sitecustomize.py").write_text(text)
    return str(tmp_path)


def test_untested_verl_is_announced_in_one_line(tmp_path):
    fault = """
import importlib.metadata as m
real = m.version
m.version = lambda name: "0.10.7" if name == "verl" else real(name)
"""
    done = python("import verl; import verl.trainer.ppo.core_algos", PYTHONPATH=site(tmp_path, fault))
    said = [line for line in done.stderr.splitlines() if line.startswith("erpo-verl:")]
    assert len(said) == 1 and "0.10.7" in said[0] and "0.9.1" in said[0] and "erpo doctor" in said[0], done.stderr


def test_a_plugin_that_cannot_load_says_so(tmp_path):
    """verl itself would log this at DEBUG, and the user would read "Unknown advantage estimator" an hour later."""
    fault = "import sys; sys.modules['wrapt'] = None"
    done = python("import verl", PYTHONPATH=site(tmp_path, fault))
    said = [line for line in done.stderr.splitlines() if line.startswith("erpo-verl:")]
    assert len(said) == 1 and "could not be loaded" in said[0] and "wrapt" in said[0], done.stderr


def test_a_changed_verl_is_announced_and_does_not_stop_others(tmp_path):
    """A verl whose legacy trainer is gone: GRPO users go on, and the message says what is not as expected."""
    code = """
import wrapt
def remove(module):
    del module.RayPPOTrainer._update_actor
wrapt.when_imported("verl.trainer.ppo.ray_trainer")(remove)
import verl.trainer.ppo.ray_trainer
import verl.trainer.ppo.core_algos as a
print(a.get_adv_estimator_fn("grpo") is a.compute_grpo_outcome_advantage)
"""
    done = python(code)
    assert done.stdout.strip() == "True", done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("erpo-verl:")]
    assert len(said) == 1 and "ray_trainer" in said[0] and "_update_actor" in said[0], done.stderr


def test_it_is_announced_once_a_run(tmp_path):
    """Ray's workers inherit the driver's environment."""
    fault = "import sys; sys.modules['wrapt'] = None"
    code = """
import subprocess, sys, verl
print(subprocess.run([sys.executable, "-W", "ignore", "-c", "import verl"], capture_output=True, text=True).stderr)
"""
    done = python(code, PYTHONPATH=site(tmp_path, fault))
    assert done.stderr.count("erpo-verl:") == 1
    assert "erpo-verl:" not in done.stdout
