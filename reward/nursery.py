"""The pool's side of the nursery: starting the process that loads math-verify, and asking it for workers.

See worker.py for the other side. All methods are called by the pool's thread only.
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
from collections.abc import Iterator

_FORK_LIMIT_S = 30.0
_KEPT_ERRORS = 8000  # characters of what the process wrote to stderr


class NurseryLost(Exception):
    """The nursery is gone, or cannot do its work; the message says why.

    Attributes:
        hopeless: it does not heal by starting another one (math-verify cannot be imported).
    """

    def __init__(self, why: str, hopeless: bool = False) -> None:
        super().__init__(why)
        self.hopeless = hopeless


class Nursery:
    """One nursery process and its control socket, registered with the pool's selector as 'control' and 'errors'."""

    def __init__(self, selector: selectors.BaseSelector, memory_limit_mb: int, start_limit_s: float) -> None:
        """Starts the process; math-verify then loads in it.

        Raises:
            OSError: the process cannot be started.
        """
        self.ready = False
        self.errors = bytearray()
        self._selector = selector
        self._buffer = b""
        self._tickets = itertools.count()
        self._forking: dict[int, tuple[socket.socket, float]] = {}  # by ticket: the pool's end, and a deadline
        self._deadline = time.monotonic() + start_limit_s
        here, there = socket.socketpair()
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "worker.py")
        environment = dict(os.environ)
        # One hash seed, so that sympy orders (and therefore judges) the same in every run; one thread is all it uses.
        environment.update(PYTHONHASHSEED="0", OMP_NUM_THREADS="1", PYTHONUNBUFFERED="1")
        try:
            with there:
                self._process = subprocess.Popen(
                    [sys.executable, script, str(there.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    pass_fds=[there.fileno()],
                    start_new_session=True,
                    env=environment,
                )
        except OSError:
            here.close()
            raise
        self._control = here
        self._tell({"sys_path": [entry for entry in sys.path if entry], "memory_limit_mb": memory_limit_mb})
        here.setblocking(False)
        os.set_blocking(self._process.stderr.fileno(), False)
        selector.register(here, selectors.EVENT_READ, "control")
        selector.register(self._process.stderr, selectors.EVENT_READ, "errors")

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def forking(self) -> int:
        """How many workers have been asked for and are not there yet."""
        return len(self._forking)

    def deadlines(self) -> list[float]:
        """The times (monotonic) by which the nursery has to have done something."""
        return [deadline for _sock, deadline in self._forking.values()] + ([] if self.ready else [self._deadline])

    def check(self) -> None:
        """Raises `NurseryLost` where a deadline has passed."""
        if any(time.monotonic() >= deadline for deadline in self.deadlines()):
            raise NurseryLost(
                "the process that loads math-verify does not answer" if self.ready else "it takes too long"
            )

    def fork(self) -> None:
        """Asks for a worker; `arrivals` will hand it out."""
        here, there = socket.socketpair()
        here.setblocking(False)
        ticket = next(self._tickets)
        self._forking[ticket] = (here, time.monotonic() + _FORK_LIMIT_S)
        self._tell({"fork": ticket}, [there.fileno()])
        there.close()

    def reap(self, pid: int) -> None:
        """Tells the nursery that the worker `pid` has been killed. Until then it keeps the pid from being used again."""
        self._tell({"reap": pid})

    def arrivals(self) -> Iterator[tuple[int, socket.socket]]:
        """Reads the control socket: (pid, socket) of the workers that have come.

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
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "error" in message:
                self.errors += message["error"].encode()
                raise NurseryLost("math-verify cannot be loaded", hopeless=True)
            if message.get("ready"):
                self.ready = True
            elif message.get("forked") in self._forking:
                sock, _deadline = self._forking.pop(message["forked"])
                yield message["pid"], sock

    def read_errors(self) -> None:
        """Keeps the last of what the process wrote to stderr."""
        data = os.read(self._process.stderr.fileno(), 65536)
        self.errors = (self.errors + data)[-_KEPT_ERRORS:]
        if not data:
            self._selector.unregister(self._process.stderr)

    def stop(self) -> None:
        """Ends the process and, through it, all its workers."""
        for sock, _deadline in self._forking.values():
            sock.close()
        self._forking.clear()
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(self._control)
        self._control.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.5)  # the closed socket lets it end by itself
        with contextlib.suppress(OSError):
            self._process.kill()
        self._process.wait()
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(self._process.stderr)
        with contextlib.suppress(OSError):
            self.errors += self._process.stderr.read() or b""
        self._process.stderr.close()

    def abandon(self) -> None:
        """In a process forked from the pool's: closes the copies of the sockets, so that each has one owner."""
        for sock in [self._control, *(sock for sock, _deadline in self._forking.values())]:
            sock.close()

    def _tell(self, message: dict, fds: list[int] | None = None) -> None:
        line = json.dumps(message).encode() + b"\n"
        with contextlib.suppress(OSError):  # a process that is gone is noticed by its closed socket
            if fds:
                socket.send_fds(self._control, [line], fds)
            else:
                self._control.sendall(line)
