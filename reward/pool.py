"""A pool of worker processes that cannot be hung, starved or left behind.

One background thread owns everything: the nursery and the workers (nursery.py, worker.py), the queue and the clock. Callers, in
whatever thread or event loop, hand over a request and get a `concurrent.futures.Future`.

What holds, whatever a worker does (docs/reward.md, "The workers"): a request is answered within `time_limit_s` of its dispatch, or
later where its worker had no processor; a killed, crashed, stopped or babbling worker is replaced at once and harms no other request;
quick requests do not wait for slow ones; every future ends, with an outcome or with `RewardSetupError`; nothing is left running once
this process is gone, be it by `SIGKILL`.
"""

from __future__ import annotations

import atexit
import collections
import contextlib
import os
import selectors
import socket
import threading
import time
import weakref
from concurrent.futures import Future
from typing import Any

from .config import RewardConfig
from .nursery import LONG_S, Nursery, NurseryLost, Task, Worker

_LOSSES_ALLOWED = 3  # nurseries in a row that were lost before any answer
_STILLBORN_ALLOWED = 20  # workers in a row that died before they said hello
_SETTINGS = (
    "workers", "time_limit_s", "overload_factor", "memory_limit_mb", "recycle_after", "recycle_rss_mb", "start_limit_s", "crash_retries",
)  # fmt: skip


class RewardSetupError(RuntimeError):
    """The workers cannot be started: a fault of the installation or the machine, never of an answer."""


class WorkerPool:
    """Answers requests of `compare.handle` in worker processes. All public methods may be called from any thread."""

    def __init__(self, settings: RewardConfig) -> None:
        self.settings = settings
        self.counts: collections.Counter[str] = collections.Counter()
        self.closed = False
        self._lock = threading.Lock()
        self._queue: collections.deque[Task] = collections.deque()
        self._thread: threading.Thread | None = None
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        # owned by the thread
        self._slow: collections.deque[Task] = collections.deque()  # tasks that were interrupted; `workers` of them run at a time
        self._selector: selectors.BaseSelector | None = None
        self._nursery: Nursery | None = None
        self._workers: list[Worker] = []
        self._losses = 0
        self._stillborn = 0
        _POOLS.add(self)

    # ---------------------------------------------------------------- for callers

    def start(self) -> None:
        """Begins to load math-verify in the background, if that has not been begun. Returns at once."""
        if self._thread is None:
            with self._lock:
                self._start_locked()

    def submit(self, request: dict[str, Any]) -> Future:
        """The future outcome of `request`: what `compare.handle` says, or its `reason` alone: memory, failed, timeout, crashed.

        The future cannot be cancelled; it raises `RewardSetupError` where no worker can be started.
        """
        future: Future = Future()
        future.set_running_or_notify_cancel()
        with self._lock:  # in one step: a thread that is about to end takes what is queued with it
            self._start_locked()
            self._queue.append(Task(request, future, self.settings.crash_retries))
        self._wake()
        return future

    def close(self) -> None:
        """Ends all processes of this pool; whatever still waits gets `RewardSetupError`. May be called twice."""
        with self._lock:
            self.closed = True
            thread = self._thread
        self._wake()
        if thread is not None:
            thread.join(5.0)

    def pids(self) -> list[int]:
        """Process ids of the nursery and the workers, for tests and diagnosis."""
        nursery = self._nursery
        return ([nursery.pid] if nursery else []) + [worker.pid for worker in list(self._workers) if worker.pid]

    # ---------------------------------------------------------------- the thread

    def _start_locked(self) -> None:
        if self.closed:
            raise RewardSetupError("this pool is closed")
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="erpo-reward-pool", daemon=True)
            self._thread.start()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # a full pipe has woken it already
            self._wake_write.send(b"x")

    def _run(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake_read, selectors.EVENT_READ, "wake")
        error = RewardSetupError("the reward pool was closed")
        try:
            self._start_nursery()
            while not self.closed:
                try:
                    self._step()
                except NurseryLost as lost:
                    self._nursery_lost(lost)
        except RewardSetupError as raised:
            error = raised
        except BaseException as raised:
            error = RewardSetupError(f"the reward pool's own thread failed: {raised!r}")
            raise
        finally:
            self._queue.extend(worker.task for worker in self._workers if worker.task)
            for worker in self._workers:
                worker.task = None
            with contextlib.suppress(Exception):
                self._stop_processes()
            self._selector.close()
            with self._lock:
                left = [*self._queue, *self._slow]
                self._queue.clear()
                self._slow.clear()
                self._thread = None
            for task in left:
                if not task.future.done():
                    task.future.set_exception(error)

    def _step(self) -> None:
        """Hands out work, then waits for the next event or deadline and sees to it."""
        self._fill()
        deadlines = [worker.deadline for worker in self._workers if worker.waited_for]
        if not self._nursery.ready:
            deadlines.append(self._nursery.deadline)
        if self._queue or self._slow:
            deadlines += [worker.since + LONG_S for worker in self._workers if worker.task and not worker.long]
        patience = max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
        for key, _events in self._selector.select(patience):
            if key.data == "wake":
                with contextlib.suppress(BlockingIOError):
                    self._wake_read.recv(4096)
            elif key.data == "control":
                self._nursery.read()
            elif key.data in self._workers:
                self._on_worker(key.data)
        now = time.monotonic()
        if not self._nursery.ready and now >= self._nursery.deadline:
            raise NurseryLost("it takes too long")
        for worker in list(self._workers):
            if worker in self._workers and worker.waited_for and now >= worker.deadline:
                self._overdue(worker, now)
        self._interrupt()

    def _overdue(self, worker: Worker, now: float) -> None:
        if worker.task is None:
            raise NurseryLost("the process that loads math-verify does not answer")
        if worker.stalled():
            self._crashed(worker)
        elif worker.starved(now, self.settings.time_limit_s, self.settings.overload_factor):
            self.counts["starved"] += 1
        else:
            self.counts["timeouts"] += 1
            self._discard(worker, "timeout")

    def _interrupt(self) -> None:
        """Puts slow tasks behind the others, where all processes that there may be are held up and quick ones may wait."""
        waiting = len(self._queue)
        if waiting and len(self._workers) >= 2 * self.settings.workers:
            held_up = [worker for worker in self._workers if worker.long and not worker.task.slow]
            for worker in held_up[:waiting]:
                self.counts["interrupted"] += 1
                worker.task.slow = True
                self._slow.append(worker.task)
                worker.task = None
                self._discard(worker)

    def _next_task(self) -> Task | None:
        """What is to be done next: quick tasks before slow ones, but one slow one at least is always under way."""
        running = sum(worker.task is not None and worker.task.slow for worker in self._workers)
        if self._slow and (running == 0 or (running < self.settings.workers and not self._queue)):
            return self._slow.popleft()
        with contextlib.suppress(IndexError):
            return self._queue.popleft()
        return None

    def _fill(self) -> None:
        """Hands the queue to idle workers, and asks for as many workers as there is work for."""
        if not self._nursery.ready:
            return
        idle = [worker for worker in self._workers if not worker.waited_for]
        while idle and (task := self._next_task()):
            worker = idle.pop()
            if not worker.take(task, self.settings.time_limit_s):
                self._crashed(worker)
                idle = []  # they went with it
        # One worker is kept at hand from the start on, the others come with the work.
        coming = sum(not worker.pid for worker in self._workers)
        wanted = max(len(self._queue) + len(self._slow) - coming, 1 - len(self._workers))
        held_up = min(self.settings.workers, sum(worker.long for worker in self._workers))
        room = self.settings.workers + held_up - len(self._workers)
        for _ in range(min(wanted, room)):
            try:
                worker = self._nursery.fork()
            except OSError as error:  # no more open files
                if self._workers:
                    break  # those that there are go on
                raise RewardSetupError(f"cannot start the processes of the maths reward: {error}") from error
            self.counts["forks"] += 1
            self._workers.append(worker)
            self._selector.register(worker.sock, selectors.EVENT_READ, worker)
        for worker in idle[: max(0, -room)]:
            self._discard(worker)  # came to help out, and is not needed any more

    def _on_worker(self, worker: Worker) -> None:
        try:
            data = worker.sock.recv(65536)
            messages = worker.lines.feed(data)
        except BlockingIOError:
            return
        except (OSError, ValueError, RecursionError):
            data = b""
        if not data or not worker.waited_for:  # gone, or babbling
            self._crashed(worker)
            return
        for message in messages:
            outcome = message.get("outcome")
            if not worker.pid and "hello" in message:
                worker.pid, self._stillborn = message["hello"], 0
            elif worker.task is None or not isinstance(outcome, dict):
                self._crashed(worker)
                return
            else:
                self._answered(worker, outcome, message.get("rss_mb", 0) > self.settings.recycle_rss_mb)
                return

    def _answered(self, worker: Worker, outcome: dict[str, Any], grown: bool) -> None:
        task, worker.task = worker.task, None
        worker.served += 1
        self._losses = 0
        task.future.set_result(outcome)
        memory = outcome.get("reason") == "memory"
        if memory or grown or worker.served >= self.settings.recycle_after:
            self.counts["memory" if memory else "recycled"] += 1
            self._discard(worker)

    def _crashed(self, worker: Worker) -> None:
        self.counts["crashes"] += 1
        if worker.task is not None:
            # Whatever killed it may have killed the idle ones too, which are not known to be dead yet: the second try
            # goes to a worker that is born after the crash.
            for other in [other for other in self._workers if not other.waited_for]:
                self._discard(other)
        self._discard(worker)
        if not worker.pid:
            self._stillborn += 1
            if self._stillborn >= _STILLBORN_ALLOWED:
                raise RewardSetupError(
                    f"the maths reward's workers die as they start (memory_limit_mb={self.settings.memory_limit_mb})"
                )

    def _discard(self, worker: Worker, reason: str = "crashed") -> None:
        """Ends a worker; its task is tried again after a crash, and gets `reason` otherwise."""
        self._workers.remove(worker)
        self._selector.unregister(worker.sock)
        self._nursery.end(worker)
        task, worker.task = worker.task, None
        if task is None:
            return
        if reason == "crashed" and task.retries > 0:
            task.retries -= 1
            self.counts["retries"] += 1
            (self._slow if task.slow else self._queue).appendleft(task)
        else:
            task.future.set_result({"reason": reason})

    # ---------------------------------------------------------------- the nursery

    def _start_nursery(self) -> None:
        try:
            self._nursery = Nursery(self._selector, self.settings.memory_limit_mb, self.settings.start_limit_s)
        except OSError as error:
            raise RewardSetupError(f"cannot start the processes of the maths reward: {error}") from error

    def _nursery_lost(self, lost: NurseryLost) -> None:
        """Starts a new nursery, and gives up after a few that never answered anything."""
        self._losses += 1
        self._stop_processes()
        if lost.hopeless or self._losses >= _LOSSES_ALLOWED:
            raise RewardSetupError(
                f"the maths reward cannot start its workers, which need math-verify (pip install 'erpo-verl[reward]'): {lost}"
            )
        self.counts["nursery_restarts"] += 1
        self._start_nursery()

    def _stop_processes(self) -> None:
        for worker in list(self._workers):
            self._discard(worker)
        if self._nursery is not None:
            self._nursery.stop()

    def abandon(self) -> None:
        """In a process forked from this one: drops what belongs to the parent."""
        self.closed = True
        if self._nursery is not None:
            self._nursery.abandon()
        for worker in self._workers:
            worker.sock.close()


_POOLS: weakref.WeakSet[WorkerPool] = weakref.WeakSet()
_SHARED: dict[tuple, WorkerPool] = {}
_SHARED_LOCK = threading.Lock()


def shared_pool(settings: RewardConfig) -> WorkerPool:
    """This process's pool with these settings of processes; made on first use, closed at interpreter exit."""
    key = tuple(getattr(settings, name) for name in _SETTINGS)
    with _SHARED_LOCK:
        pool = _SHARED.get(key)
        if pool is None or pool.closed:
            pool = _SHARED[key] = WorkerPool(settings)
        return pool


def close_all() -> None:
    """Closes every pool of this process; the next answer that needs one starts a new one. Runs at interpreter exit."""
    for pool in list(_POOLS):
        pool.close()


def _after_fork_in_child() -> None:
    global _SHARED_LOCK
    _SHARED_LOCK = threading.Lock()
    for pool in list(_POOLS):
        pool.abandon()
    _POOLS.clear()
    _SHARED.clear()


atexit.register(close_all)
os.register_at_fork(after_in_child=_after_fork_in_child)
