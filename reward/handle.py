"""What the pool keeps of a request and of a worker process."""

from __future__ import annotations

import os
import socket
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from .protocol import FrameReader

LONG_S = 0.3  # a request that takes longer than this gets company: another worker may start in the meantime


@dataclass
class Task:
    """A request that waits or is worked on.

    Attributes:
        request: what `mathverify.handle` gets.
        future: where its outcome goes.
        retries: how often it may be tried again after its worker died.
        slow: it has been put behind the others because it takes long, and is not interrupted any more.
    """

    request: dict[str, Any]
    future: Future
    retries: int
    slow: bool = False


@dataclass
class Worker:
    """A worker process as the pool sees it."""

    pid: int
    sock: socket.socket
    deadline: float  # by time.monotonic(): of the hello at first, of the task later
    reader: FrameReader = field(default_factory=FrameReader)
    ready: bool = False  # has said hello
    task: Task | None = None
    since: float = 0.0  # when the task was dispatched
    cpu_s: float = 0.0  # processor time that it had used by then
    ticket: int = -1  # of the request that it works on
    served: int = 0

    @property
    def waited_for(self) -> bool:
        return self.task is not None or not self.ready

    @property
    def long(self) -> bool:
        """Whether it has been at its task for long."""
        return self.task is not None and time.monotonic() >= self.since + LONG_S

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


def processor_time(pid: int) -> tuple[str, float]:
    """(state, processor seconds so far) of a process, as Linux shows them; ('', 0) elsewhere."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return fields[0], (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return "", 0.0
