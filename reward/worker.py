"""The processes behind the pool: a nursery that loads math-verify once, and the workers that it forks.

Run as a script by its path, so that no package `__init__` runs: neither torch nor verl is imported here, and the caller, which may
hold threads and CUDA contexts, is never forked. The nursery is single-threaded; a worker that it forks is ready within milliseconds
and shares the loaded pages. Messages are lines of JSON, both ways; nothing is ever unpickled.

Lifetime: the nursery ends (and kills its workers) when its control socket closes or its parent is gone; a worker is killed by the
kernel when the nursery is gone (Linux), and ends by itself when its socket closes.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import sys
import traceback
import types
from typing import Any

_PRIVATE = "_erpo_reward_worker"  # the name under which sibling modules are imported here
_PR_SET_PDEATHSIG = 1
_MAX_LINE = 1 << 20  # bytes; anything longer is garbage on the line


def packed(message: dict[str, Any]) -> bytes:
    """One line. Lone surrogates and control characters survive (JSON escapes them)."""
    return json.dumps(message).encode("ascii") + b"\n"


class Lines:
    """Collects bytes and gives back whole messages."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """The messages that `data` completes.

        Raises:
            ValueError, RecursionError: the bytes are no message, or one without end.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        messages = [json.loads(line) for line in lines]
        if len(self._rest) > _MAX_LINE or not all(isinstance(message, dict) for message in messages):
            raise ValueError("garbage on the line")
        return messages


def _import_compare(extra_path: list[str]) -> types.ModuleType:
    """`compare` of this folder, imported without running any package's `__init__`."""
    here = os.path.dirname(os.path.abspath(__file__))
    # Running by path put this folder first: its module names (config, worker...) must not shadow anybody's.
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != here]
    sys.path.extend(entry for entry in extra_path if entry not in sys.path)
    package = sys.modules[_PRIVATE] = types.ModuleType(_PRIVATE)
    package.__path__ = [here]
    return importlib.import_module(_PRIVATE + ".compare")


def nursery_main(control: socket.socket, setup: dict[str, Any]) -> None:
    """Loads math-verify, then serves `fork` and `end` requests until the control socket closes."""
    parent = os.getppid()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's; the socket tells when to end
    try:
        compare = _import_compare(setup["sys_path"])
        compare.prepare()
    except BaseException:
        found = {"error": traceback.format_exc()[-3000:]}
    else:
        gc.collect()
        gc.freeze()  # what is loaded stays out of the collector, so that forked workers share its pages
        found = {"ready": True}
    try:
        control.sendall(packed(found))
    except OSError:
        return  # who started it has ended meanwhile
    if "error" in found:
        return
    children: dict[int, int] = {}  # pids by the pool's numbers
    lines, fds = Lines(), []
    try:
        while os.getppid() == parent:
            if not select.select([control], [], [], 1.0)[0]:
                continue
            data, new, _flags, _address = socket.recv_fds(control, 65536, 64)
            if not data:
                return
            fds += new
            for request in lines.feed(data):
                if "end" in request:
                    if pid := children.pop(request["end"], 0):
                        _end(pid)
                    continue
                fd = fds.pop(0)
                pid = os.fork()
                if pid == 0:
                    control.close()
                    _worker_process(fd, setup["memory_limit_mb"], compare)  # never returns
                children[request["fork"]] = pid
                os.close(fd)
    except OSError:
        return
    finally:
        for pid in children.values():
            _end(pid)


def kill(pid: int) -> None:
    """Kills a worker and whatever it may have started."""
    for end in (os.killpg, os.kill):
        with contextlib.suppress(OSError):
            end(pid, signal.SIGKILL)


def _end(pid: int) -> None:
    """Kills and reaps a worker. Until then nobody else can have its pid."""
    kill(pid)
    with contextlib.suppress(OSError):
        os.waitpid(pid, 0)


def _worker_process(fd: int, memory_limit_mb: int, compare: types.ModuleType) -> None:
    """The life of a forked worker; ends in `os._exit`, whatever happens."""
    code = 1
    try:
        nursery = os.getppid()
        os.setsid()  # its own group
        with contextlib.suppress(Exception):  # where this is not Linux, the closed socket must do
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != nursery:
            os._exit(0)
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")  # where memory runs out, the kernel takes a worker and not the trainer
        for what, limit in ((resource.RLIMIT_AS, memory_limit_mb << 20), (resource.RLIMIT_FSIZE, 0)):
            with contextlib.suppress(ValueError, OSError):  # some systems know no address-space limit
                resource.setrlimit(what, (limit, limit))
        _serve(socket.socket(fileno=fd), compare)
        code = 0
    except BaseException:
        pass
    finally:
        os._exit(code)


def _serve(sock: socket.socket, compare: types.ModuleType) -> None:
    """Answers requests until the socket closes. The pool never sends a second one before an answer."""
    lines = Lines()
    sock.sendall(packed({"hello": os.getpid()}))
    while data := sock.recv(65536):
        for request in lines.feed(data):
            try:
                outcome = compare.handle(request)
            except BaseException as error:
                outcome = {"reason": "memory" if isinstance(error, MemoryError) else "failed"}
            sock.sendall(packed({"outcome": outcome, "rss_mb": _resident_mb()}))


def _resident_mb() -> float:
    """Resident memory of this process in MiB; its peak where the system tells no current value."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize() / (1 << 20)
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    nursery_main(socket.socket(fileno=int(sys.argv[1])), json.loads(sys.argv[2]))
    os._exit(0)  # nothing here needs the slow way out
