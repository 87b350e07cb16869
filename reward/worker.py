"""The processes behind the pool: a nursery that loads math-verify once, and the workers that it forks.

Run as a script by its path (never as ``-m``), so that no package `__init__` runs: neither torch nor verl is imported
here. The pool starts the nursery with `subprocess` (the caller, which may hold threads and CUDA contexts, is never
forked). The nursery is single-threaded, loads and warms math-verify, and forks a worker whenever the pool asks for one:
a replacement is ready within milliseconds and shares the loaded pages.

Lifetime: the nursery ends (and kills its workers) when its control socket closes or its parent is gone; a worker is
killed by the kernel when the nursery is gone (Linux), and ends by itself when its socket closes.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
import time
import traceback
import types

_PRIVATE = "_erpo_reward_worker"  # the name under which sibling modules are imported here
_PR_SET_PDEATHSIG = 1


def _import_siblings(extra_path: list[str]) -> tuple:
    """`protocol` and `compare` of this folder, imported without running any package's `__init__`."""
    here = os.path.dirname(os.path.abspath(__file__))
    # Running by path put this folder first: its module names (config, worker...) must not shadow anybody's.
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != here]
    sys.path.extend(entry for entry in extra_path if entry not in sys.path)
    package = types.ModuleType(_PRIVATE)
    package.__path__ = [here]
    sys.modules[_PRIVATE] = package
    import importlib

    return importlib.import_module(_PRIVATE + ".protocol"), importlib.import_module(_PRIVATE + ".compare")


def nursery_main(control_fd: int) -> None:
    """Loads math-verify, then serves `fork` and `reap` requests until the control socket closes."""
    parent = os.getppid()
    control = socket.socket(fileno=control_fd)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's; the socket tells when to end
    setup = json.loads(_read_line(control))
    try:
        protocol, compare = _import_siblings(setup["sys_path"])
        versions = compare.prepare()
    except BaseException:
        control.sendall(json.dumps({"error": traceback.format_exc()[-4000:]}).encode() + b"\n")
        return
    gc.collect()
    gc.freeze()  # what is loaded stays out of the collector, so that forked workers share its pages
    control.sendall(json.dumps({"ready": True, "versions": versions}).encode() + b"\n")

    children: set[int] = set()
    buffered = b""
    try:
        while True:
            readable, _, _ = select.select([control], [], [], 1.0)
            if os.getppid() != parent:
                return
            if not readable:
                continue
            data, fds, _flags, _address = socket.recv_fds(control, 65536, 8)
            if not data:
                return
            buffered += data
            *lines, buffered = buffered.split(b"\n")
            for line in lines:
                request = json.loads(line)
                if "reap" in request:
                    with contextlib.suppress(ChildProcessError):
                        os.waitpid(request["reap"], 0)
                    children.discard(request["reap"])
                    continue
                fd = fds.pop(0)
                pid = os.fork()
                if pid == 0:
                    control.close()
                    _worker_process(fd, setup, protocol, compare)  # never returns
                children.add(pid)
                os.close(fd)
                control.sendall(json.dumps({"forked": request["fork"], "pid": pid}).encode() + b"\n")
    except (ConnectionError, OSError):
        return
    finally:
        for pid in children:
            with contextlib.suppress(OSError):
                os.killpg(pid, signal.SIGKILL)
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(OSError):
                os.waitpid(pid, 0)


def _read_line(sock: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\n"):
        piece = sock.recv(65536)
        if not piece:
            os._exit(0)
        data += piece
    return data


def _worker_process(fd: int, setup: dict, protocol: types.ModuleType, compare: types.ModuleType) -> None:
    """The life of a forked worker; ends in `os._exit`, whatever happens."""
    code = 1
    try:
        nursery = os.getppid()
        os.setsid()  # its own group, so that the pool can kill whatever it may have started
        _die_with_parent()
        if os.getppid() != nursery:
            os._exit(0)
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")  # where memory runs out, the kernel takes a worker and not the trainer
        limit = setup["memory_limit_mb"] << 20
        with contextlib.suppress(ValueError, OSError):  # some systems know no address-space limit
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        _serve(socket.socket(fileno=fd), protocol, compare)
        code = 0
    except BaseException:
        pass
    finally:
        os._exit(code)


def _serve(sock: socket.socket, protocol: types.ModuleType, compare: types.ModuleType) -> None:
    """Answers requests until the socket closes. One request at a time; the pool never sends a second before an answer."""
    reader = protocol.FrameReader()
    sock.sendall(protocol.pack({"hello": os.getpid()}))
    while True:
        data = sock.recv(65536)
        if not data:
            return
        for request in reader.feed(data):
            answer: dict = {"id": request["id"]}
            started = time.process_time()
            try:
                answer["outcome"] = compare.handle(request)
            except MemoryError:
                answer["outcome"] = "memory"
            except RecursionError:
                answer["outcome"] = "failed"
            except BaseException as error:
                answer["outcome"] = "failed"
                answer["error"] = type(error).__name__
            answer["cpu_s"] = time.process_time() - started
            answer["rss_mb"] = _resident_mb()
            sock.sendall(protocol.pack(answer))


def _resident_mb() -> float:
    """Resident memory of this process in MiB; its peak where the system tells no current value."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize() / (1 << 20)
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _die_with_parent() -> None:
    """Asks Linux to kill this process when the nursery's (only) thread ends. Elsewhere the closed socket must do."""
    with contextlib.suppress(Exception):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


if __name__ == "__main__":
    nursery_main(int(sys.argv[1]))
    os._exit(0)  # nothing here needs the slow way out
