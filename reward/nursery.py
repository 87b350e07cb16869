"""The processes of worker.py as the pool sees them: the nursery that loads math-verify and forks, and the workers.

Everything here is called by the pool's thread only.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import selectors
import socket
import subprocess
import sys
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from . import worker as script
from .worker import Lines, packed

LONG_S = 0.3  # a request that takes longer than this gets company: another worker may start in the meantime
_HELLO_LIMIT_S = 30.0


class NurseryLost(Exception):
    """The nursery is gone, or cannot do its work; the message says why.

    Attributes:
        hopeless: it does not heal by starting another one (math-verify cannot be imported).
    """

    def __init__(self, why: str, hopeless: bool = False) -> None:
        super().__init__(why)
        self.hopeless = hopeless


@dataclass
class Task:
    """A request that waits or is worked on.

    Attributes:
        request: what `compare.handle` gets.
        future: where its outcome goes.
        retries: how often it may be tried again after its worker died.
        slow: it has been put behind the others because it takes long, and is not interrupted any more.
    """

    request: dict[str, Any]
    future: Future
    retries: int
    slow: bool = False


@dataclass(eq=False)
class Worker:
    """A worker process, or one that is still to come (pid 0)."""

    number: int
    sock: socket.socket
    deadline: float  # by time.monotonic(): of the hello at first, of the task later
    pid: int = 0
    lines: Lines = field(default_factory=Lines)
    task: Task | None = None
    since: float = 0.0  # when the task was dispatched
    cpu_s: float = 0.0  # processor time that it had used by then
    served: int = 0

    @property
    def waited_for(self) -> bool:
        return self.task is not None or not self.pid

    @property
    def long(self) -> bool:
        """Whether it has been at its task for long."""
        return self.task is not None and time.monotonic() >= self.since + LONG_S

    def take(self, task: Task, limit_s: float) -> bool:
        """Hands a task to the process; False where it is gone."""
        self.task, self.since, self.cpu_s = task, time.monotonic(), processor_time(self.pid)[1]
        self.deadline = self.since + limit_s
        line = packed(task.request)
        try:
            return self.sock.send(line) == len(line)
        except OSError:
            return False

    def stalled(self) -> bool:
        """Whether it was stopped and has had no processor for its task: not the answer's fault."""
        state, cpu_s = processor_time(self.pid)
        return state not in ("", "R") and cpu_s <= self.cpu_s

    def starved(self, now: float, limit_s: float, overload_factor: float) -> bool:
        """Whether, at its deadline, it has wanted a processor and not had one; it then gets a later deadline."""
        state, cpu_s = processor_time(self.pid)
        lacking = limit_s - (cpu_s - self.cpu_s)
        last = self.since + limit_s * overload_factor
        if state != "R" or lacking < 0.2 * limit_s or now >= last:
            return False
        self.deadline = min(last, now + lacking)
        return True

    def kill(self) -> None:
        """Ends the process, which the nursery has still to reap: until then the pid is its own."""
        if self.pid:
            script.kill(self.pid)
        self.sock.close()


def processor_time(pid: int) -> tuple[str, float]:
    """(state, processor seconds so far) of a process, as Linux shows them; ('', 0) elsewhere."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return fields[0], (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return "", 0.0


class Nursery:
    """One nursery process and its control socket, registered with the pool's selector."""

    def __init__(self, selector: selectors.BaseSelector, memory_limit_mb: int, start_limit_s: float) -> None:
        """Starts the process; math-verify then loads in it.

        Raises:
            OSError: the process cannot be started.
        """
        self.ready = False
        self.deadline = time.monotonic() + start_limit_s  # of being ready
        self._selector = selector
        self._lines = Lines()
        self._numbers = itertools.count()
        self._control, there = socket.socketpair()
        setup = {"sys_path": [entry for entry in sys.path if entry], "memory_limit_mb": memory_limit_mb}
        # One hash seed, so that sympy orders (and therefore judges) the same in every run; one thread is all it uses.
        environment = {**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
        with there:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-W", "ignore", script.__file__, str(there.fileno()), json.dumps(setup)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[there.fileno()],
                    start_new_session=True,
                    env=environment,
                )
            except OSError:
                self._control.close()
                raise
        self._control.setblocking(False)
        selector.register(self._control, selectors.EVENT_READ, "control")

    @property
    def pid(self) -> int:
        return self._process.pid

    def fork(self) -> Worker:
        """A worker that will say hello."""
        here, there = socket.socketpair()
        here.setblocking(False)
        worker = Worker(next(self._numbers), here, time.monotonic() + _HELLO_LIMIT_S)
        with there:
            self._tell({"fork": worker.number}, there.fileno())
        return worker

    def end(self, worker: Worker) -> None:
        """Ends a worker."""
        worker.kill()
        self._tell({"end": worker.number})

    def read(self) -> None:
        """Reads the control socket.

        Raises:
            NurseryLost: the process has ended or failed.
        """
        try:
            data = self._control.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            raise NurseryLost("the process that loads math-verify ended")
        for message in self._lines.feed(data):
            if "error" in message:
                raise NurseryLost(f"math-verify cannot be loaded\n{message['error']}", hopeless=True)
            self.ready = True

    def stop(self) -> None:
        """Ends the process and, through it, all its workers."""
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(self._control)
        self._control.close()  # lets it end by itself
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.5)
        with contextlib.suppress(OSError):
            self._process.kill()
        self._process.wait()

    def abandon(self) -> None:
        """In a process forked from the pool's: closes the copy of the socket, so that it has one owner."""
        self._control.close()

    def _tell(self, message: dict, *fds: int) -> None:
        with contextlib.suppress(OSError):  # a process that is gone is noticed by its closed socket
            if fds:
                socket.send_fds(self._control, [packed(message)], fds)
            else:
                self._control.sendall(packed(message))
