"""Run ``verl.trainer.main_ppo`` on the CPU as a child process: progress on the terminal, the long log in a file.

    launch(["data.train_files=...", ...], out=Path("outputs/erpo"), label="erpo")

The folder ``out`` appears when the run is complete, with ``metrics.jsonl`` (verl's file logger), ``run.json`` (what the run was)
and ``verl.log``; until then everything is in ``out.partial``. However the run ends, nothing of it stays behind: Ray's processes carry a mark in their
environment and are found by it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from erpo_verl.runs.metrics import METRICS, read_more
from erpo_verl.runs.names import arm_and_seed
from erpo_verl.runs.record import write_record
from erpo_verl.runs.versions import versions
from erpo_verl.verl_cpu import SWITCH
from erpo_verl.verl_cpu.overrides import as_arguments

MARK = "ERPO_VERL_RUN"
"""Environment variable that marks the processes of one run."""


class RunFailed(RuntimeError):
    """``main_ppo`` ended with an error; the message names the log and shows its last lines that matter."""


def launch(
    arguments: Sequence[str],
    out: Path,
    label: str,
    *,
    environment: dict[str, str] | None = None,
    module: str = "verl.trainer.main_ppo",
    quiet: bool = False,
) -> Path:
    """Train with verl on the CPU until the end; returns ``out``.

    Args:
        arguments: overrides for ``main_ppo``; they come after those that the CPU needs, so they win.
        out: folder of the run. If it is there the run is complete and nothing is started.
        label: what to call the run on the terminal.
        environment: further variables for the run.
        module: what to run in the place of ``verl.trainer.main_ppo``.
        quiet: print no progress.

    Raises:
        RunFailed: the run ended with an error, or wrote no metrics. ``out.partial`` is kept for a look.
        KeyboardInterrupt: Ctrl-C; the run's processes are gone and ``out.partial`` is removed.
    """
    out = Path(out).resolve()
    if out.is_dir():
        if not quiet:
            print(f"{label}: {out} is there, reusing it (remove the folder to train again)")
        return out
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    mark = uuid.uuid4().hex
    # Ray's session and vLLM's sockets go where they can be removed. Directly under /tmp: a socket's path has 107 characters.
    scratch = tempfile.mkdtemp(prefix="erpo-", dir="/tmp")
    # Hydra would put a dated folder of its own into the run's.
    hydra = ["hydra.run.dir=.", "hydra.output_subdir=null"]
    command = [sys.executable, "-m", module, *as_arguments(), *arguments, *hydra]
    variables = {
        **os.environ,
        SWITCH: "1",
        MARK: mark,
        "VERL_FILE_LOGGER_PATH": str(partial / METRICS),
        "HYDRA_FULL_ERROR": "1",
        "TMPDIR": scratch,
        "RAY_TMPDIR": scratch,
        "VLLM_RPC_BASE_PATH": scratch,
        # One thread a process: with a dozen processes on few cores, threads that wait for each other cost more than they bring.
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        # A clean log, and no look outside.
        "PYTHONUNBUFFERED": "1",
        "RAY_DEDUP_LOGS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "1"),
        **(environment or {}),
    }
    (partial / "command.json").write_text(json.dumps(command, indent=1) + "\n")
    _record(partial, [*as_arguments(), *arguments], out.name)
    progress = None if quiet else Progress(partial / METRICS, label, _total_steps(arguments))
    started = time.monotonic()
    with open(partial / "verl.log", "wb") as log:
        # A session of its own: Ctrl-C in the terminal reaches us alone, and we end the run in order.
        child = subprocess.Popen(
            command, cwd=partial, env=variables, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        # `kill` ends a run as Ctrl-C does.
        previous = signal.signal(signal.SIGTERM, signal.default_int_handler) if _in_main_thread() else None
        try:
            while child.poll() is None:
                time.sleep(0.5)
                if progress is not None:
                    progress.show()
        except BaseException:
            _end(child, mark)
            shutil.rmtree(partial, ignore_errors=True)
            raise
        finally:
            _end(child, mark)
            shutil.rmtree(scratch, ignore_errors=True)
            if previous is not None:
                signal.signal(signal.SIGTERM, previous)
    if progress is not None:
        progress.show(last=True)
    if child.returncode != 0 or not _has_metrics(partial / METRICS):
        raise RunFailed(
            f"{label}: {module} ended with exit code {child.returncode}; see {partial / 'verl.log'}\n"
            + _telling_lines(partial / "verl.log")
        )
    (partial / "seconds.txt").write_text(f"{time.monotonic() - started:.1f}\n")
    partial.rename(out)
    return out


def settings_of(arguments: Sequence[str]) -> dict[str, Any]:
    """Hydra overrides as a nested dict: ``+a.b=1`` is ``{"a": {"b": 1}}``; a later one wins, ``~a.b`` takes a key back."""
    given: dict[str, str] = {}
    for argument in arguments:
        name, sign, value = argument.partition("=")
        name = name.lstrip("+")
        if name.startswith("~"):
            given.pop(name[1:], None)
        elif sign:
            given[name] = value
    settings: dict[str, Any] = {}
    for name, value in given.items():
        *path, last = name.split(".")
        inner = settings
        for part in path:
            if not isinstance(inner.get(part), dict):
                inner[part] = {}
            inner = inner[part]
        inner[last] = _plain(value)
    return settings


def _plain(value: str) -> Any:
    try:
        return OmegaConf.to_container(OmegaConf.from_dotlist([f"value={value}"]))["value"]
    except Exception:  # Hydra's own syntax, or an error that main_ppo is about to explain: recorded as it was typed
        return value


def _record(folder: Path, arguments: Sequence[str], name: str) -> None:
    """Write the run's ``run.json``; arm and seed are the experiment's name and ``data.seed``, else the folder's name."""
    config = settings_of(arguments)

    def find(key: str) -> Any:
        return OmegaConf.select(OmegaConf.create(config), key, throw_on_resolution_failure=False)

    experiment = str(find("trainer.experiment_name") or name)
    arm, named = arm_and_seed(experiment)
    seed = named if find("data.seed") is None else find("data.seed")
    write_record(
        folder,
        engine="verl",
        arm=arm,
        seed=seed if isinstance(seed, int) else None,
        config=config,
        data_files={"train": _paths(find("data.train_files")), "val": _paths(find("data.val_files"))},
        model_path=str(find("actor_rollout_ref.model.path") or "none given"),
        versions=versions("verl", "vllm"),
    )


def _paths(value: Any) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else [str(path) for path in value]


def _total_steps(arguments: Sequence[str]) -> int | None:
    for argument in reversed(arguments):
        if argument.startswith("trainer.total_training_steps="):
            return int(argument.split("=", 1)[1])
    return None


def _has_metrics(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _telling_lines(log: Path, count: int = 12) -> str:
    """The last lines of a log that say what went wrong, without Ray's and Hydra's stack frames."""
    lines = log.read_text(errors="replace").splitlines()
    telling = [i for i, line in enumerate(lines) if "Error" in line and "UserWarning" not in line]
    # The message of an error may go on for some lines after its name (ERPO's own lists every problem).
    start = telling[-1] if telling else max(0, len(lines) - count)
    return "\n".join("  " + line[:500] for line in lines[start : start + count])


# --- Ending a run -----------------------------------------------------------------------------------------------------


def marked_processes(mark: str) -> list[int]:
    """Process ids whose environment carries the mark: the driver, Ray's daemons and workers, vLLM's engines."""
    found, wanted = [], f"{MARK}={mark}".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:  # ended meanwhile, or another user's
                continue
    return found


def _end(child: subprocess.Popen, mark: str, patience: float = 10.0) -> None:
    """Ask the driver to end (it then shuts Ray down), and kill whatever of the run is left after ``patience`` seconds."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN) if _in_main_thread() else None
    try:
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(patience)
            except subprocess.TimeoutExpired:
                child.kill()
        child.wait()
        for sign, seconds in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 5.0)):
            deadline = time.monotonic() + seconds
            left = marked_processes(mark)
            for pid in left:
                try:
                    os.kill(pid, sign)
                except ProcessLookupError:
                    continue
            while left and time.monotonic() < deadline:
                time.sleep(0.1)
                left = marked_processes(mark)
            if not left:
                return
    finally:
        if previous is not None:
            signal.signal(signal.SIGINT, previous)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


# --- Progress ---------------------------------------------------------------------------------------------------------


class Progress:
    """One line on the terminal (a line every ten steps where there is no terminal) from a growing ``metrics.jsonl``."""

    def __init__(self, metrics: Path, label: str, total: int | None):
        self.metrics, self.label, self.total = metrics, label, total
        self.read, self.first = 0, None
        self.live = sys.stdout.isatty()
        print(f"{label}: starting Ray, FSDP and vLLM (about a minute)", flush=True)

    def show(self, last: bool = False) -> None:
        """Print what is new."""
        entries = []
        if self.metrics.is_file():
            entries, self.read = read_more(self.metrics, self.read)
        for step, data in entries:
            accuracy = next((v for k, v in data.items() if k.startswith("val-") and "/acc/mean@" in k), None)
            if accuracy is not None:
                self._print(f"{self.label}: step {step}: held-out accuracy {accuracy:.3f}", keep=True)
            if "critic/score/mean" in data:
                self._step(step, data)
        if last and self.live:
            print(flush=True)

    def _step(self, step: int, data: dict) -> None:
        now = time.monotonic()
        if self.first is None:
            self.first = (step, now)
        pace = (now - self.first[1]) / max(1, step - self.first[0])
        rest = "" if self.total is None or step == self.first[0] else f"  {pace * (self.total - step):4.0f} s left"
        self._print(
            f"{self.label}: {step:>4}/{self.total or '?'}  reward {data['critic/score/mean']:.3f}"
            f"  length {data.get('response_length/mean', float('nan')):5.1f}"
            f"  entropy {data.get('actor/entropy', float('nan')):.3f}{rest}",
            keep=not self.live and step % 10 == 0,
        )

    def _print(self, text: str, keep: bool) -> None:
        if self.live:
            print(f"\r\033[K{text}", end="\n" if keep else "", flush=True)
        elif keep:
            print(text, flush=True)
