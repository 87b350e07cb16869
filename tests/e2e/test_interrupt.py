"""Ctrl-C in the middle of a run leaves nothing running, Ray's daemons included, and nothing half-written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from erpo_verl.verl_cpu.launch import MARK

MAIN = """
import sys
from pathlib import Path
from erpo_verl.verl_cpu.launch import launch
try:
    launch(sys.argv[2:], Path(sys.argv[1]), "run")
except KeyboardInterrupt:
    sys.exit(130)
"""


def of_this_run(folder) -> dict[int, str]:
    """Processes that a run in `folder` started, with their names: by their environment, which children inherit."""
    wanted = f"VERL_FILE_LOGGER_PATH={folder}".encode()
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/environ", "rb") as environ, open(f"/proc/{name}/cmdline", "rb") as cmdline:
                variables = environ.read().split(b"\0")
                if any(v.startswith(wanted) for v in variables) and any(v.startswith(MARK.encode()) for v in variables):
                    found[int(name)] = cmdline.read().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
    return found


def variable(pid: int, name: str) -> Path:
    variables = dict(v.split(b"=", 1) for v in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") if b"=" in v)
    return Path(variables[name.encode()].decode())


def test_neutral_settings_are_grpo_and_ctrl_c(overrides, tmp_path):
    """One live run: gate off and eta 0 give verl's GRPO on its very tensors, bit for bit; then Ctrl-C, in the middle of training."""
    folder, capture = tmp_path / "runs", tmp_path / "capture.jsonl"
    neutral = ["+algorithm.erpo.gate.enable=false", "+algorithm.erpo.progress.eta=0"]
    environment = {
        **os.environ,
        "VERL_USE_EXTERNAL_MODULES": "capture",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
        "ERPO_CAPTURE": str(capture),
    }
    command = [sys.executable, "-c", MAIN, str(folder / "run"), *overrides("erpo", steps=1000), *neutral]
    runner = subprocess.Popen(command, env=environment)
    try:
        deadline = time.monotonic() + 600
        metrics = folder / "run.partial" / "metrics.jsonl"
        while len(lines(metrics)) < 3 or len(lines(capture)) < 3:
            assert runner.poll() is None and time.monotonic() < deadline
            time.sleep(0.5)
        batches = [json.loads(line) for line in lines(capture)]
        running = of_this_run(folder)
        assert any("raylet" in name for name in running.values()) and len(running) > 5, running
        scratch = variable(next(iter(running)), "TMPDIR")
        assert scratch.name.startswith("erpo-") and scratch.is_dir()
        runner.send_signal(signal.SIGINT)
        assert runner.wait(60) == 130
    finally:
        if runner.poll() is None:  # an assertion above failed: the run must not go on behind the other tests
            runner.send_signal(signal.SIGTERM)
            runner.wait(60)
    assert of_this_run(folder) == {}
    assert list(folder.iterdir()) == []
    assert not scratch.exists()
    assert all(b["estimator"] == "erpo" and b["equal"] for b in batches)
    assert sum(b["non_zero"] for b in batches) > 100


def lines(path: Path) -> list[str]:
    """The complete lines of a growing file."""
    return path.read_text().split("\n")[:-1] if path.is_file() else []
