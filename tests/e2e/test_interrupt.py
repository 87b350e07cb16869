"""Ctrl-C in the middle of a run leaves nothing running, Ray's daemons included, and nothing half-written."""

from __future__ import annotations

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


def test_ctrl_c(overrides, tmp_path):
    out = tmp_path / "run"
    runner = subprocess.Popen([sys.executable, "-c", MAIN, str(out), *overrides("erpo", steps=1000)])
    try:
        deadline = time.monotonic() + 240
        metrics = tmp_path / "run.partial" / "metrics.jsonl"
        while not (metrics.is_file() and metrics.stat().st_size > 0):  # in the middle of training
            assert runner.poll() is None and time.monotonic() < deadline
            time.sleep(0.5)
        running = of_this_run(tmp_path)
        assert any("raylet" in name for name in running.values()) and len(running) > 5, running
        scratch = variable(next(iter(running)), "TMPDIR")
        assert scratch.name.startswith("erpo-") and scratch.is_dir()
        runner.send_signal(signal.SIGINT)
        assert runner.wait(60) == 130
    finally:
        runner.kill()
    assert of_this_run(tmp_path) == {}
    assert list(tmp_path.iterdir()) == []
    assert not scratch.exists()
