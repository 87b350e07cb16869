"""Fault injection: killed, stopped, babbling, bloated and orphaned workers."""

from __future__ import annotations

import concurrent.futures
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from conftest import alive
from erpo_verl.reward import MathJudge, RewardConfig, RewardSetupError, nursery
from erpo_verl.reward import pool as pool_module
from erpo_verl.reward.pool import WorkerPool

REWARD = Path(pool_module.__file__).parent


def judging(gold, answer):
    return {"op": "judge", "gold": gold, "answer": answer, "policy": RewardConfig(tasks="compute").policy()}


GOOD = judging(r"\log_2 3", r"\frac{\ln 3}{\ln 2}")
BOMB = judging("42", r"\binom{99999999}{49999999}")


@pytest.fixture(scope="module")
def pool():
    shared = WorkerPool(RewardConfig(workers=2, time_limit_s=1.0, crash_retries=1))
    assert verdict(shared.submit(GOOD), 60) == "right"
    yield shared
    pids = shared.pids()
    shared.close()
    time.sleep(0.2)
    assert not [pid for pid in pids if alive(pid)]


def verdict(future, seconds):
    """What a worker said of a pair, or why it said nothing."""
    return future.result(seconds)["reason"]


def workers(pool):
    return pool.pids()[1:]


def until(condition, seconds=10.0):
    """Waits for a condition; fails the test where it does not come true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)


def test_workers_import_neither_torch_nor_verl(pool):
    modules = pool.submit({"op": "probe"}).result(10)["modules"]
    assert "sympy" in modules and "math_verify" in modules
    for unwanted in ("torch", "verl", "ray", "numpy", "erpo_verl", "config", "pool", "judge"):
        assert unwanted not in modules


def test_killed_idle_worker_costs_nothing(pool):
    os.kill(workers(pool)[0], signal.SIGKILL)
    assert verdict(pool.submit(GOOD), 10) == "right"


def test_all_workers_killed_at_once(pool):
    """The first answers go to workers that are dying and not yet known to be: none of them is lost."""
    for _ in range(5):
        assert {verdict(future, 10) for future in [pool.submit(GOOD) for _ in range(4)]} == {"right"}
        for pid in workers(pool):
            os.kill(pid, signal.SIGKILL)
        assert {verdict(future, 10) for future in [pool.submit(GOOD) for _ in range(4)]} == {"right"}


def test_killed_busy_worker_is_replaced_and_its_task_repeated(pool):
    before = pool.counts["retries"]
    slow = judging("42", r"\lim_{x\to 0} \frac{\sin(\tan x)-\tan(\sin x)}{x^7}")
    future = pool.submit(slow)
    time.sleep(0.05)
    for pid in workers(pool):
        os.kill(pid, signal.SIGKILL)
    assert verdict(future, 10) in ("wrong", "timeout", "unreadable")
    assert pool.counts["retries"] == before + 1
    assert verdict(pool.submit(GOOD), 10) == "right"


def test_interrupted_bombs_are_cut_off_in_the_end():
    busy = WorkerPool(RewardConfig(workers=1, time_limit_s=0.8))
    try:
        bombs = [busy.submit(BOMB) for _ in range(4)]
        assert verdict(busy.submit(GOOD), 60) == "right"
        assert {verdict(bomb, 60) for bomb in bombs} == {"timeout"}
        assert busy.counts["interrupted"] and busy.counts["timeouts"] == 4
    finally:
        busy.close()


def test_bomb_is_cut_off_at_the_limit_and_neighbours_go_on(pool):
    started = time.monotonic()
    bomb = pool.submit(BOMB)
    goods = [pool.submit(GOOD) for _ in range(20)]
    assert {verdict(good, 10) for good in goods} == {"right"}
    assert verdict(bomb, 10) == "timeout"
    assert 0.9 < time.monotonic() - started < 1.5 * 4.0  # the later, the busier the machine


def test_the_clock_starts_at_dispatch_and_not_in_the_queue(pool):
    """Ten bombs on two workers (four at the most): the last is dispatched late, and still gets its own limit."""
    started = time.monotonic()
    bombs = [pool.submit(BOMB) for _ in range(10)]
    good = pool.submit(GOOD)
    assert verdict(good, 20) == "right"
    assert {verdict(bomb, 20) for bomb in bombs} == {"timeout"}
    assert time.monotonic() - started > 2.0


def test_quick_answers_do_not_wait_for_slow_ones():
    single = WorkerPool(RewardConfig(workers=1, time_limit_s=5.0))
    try:
        assert verdict(single.submit(GOOD), 60) == "right"
        bomb = single.submit(BOMB)
        assert verdict(single.submit(GOOD), 10) == "right"
        assert not bomb.done() and len(workers(single)) == 2
        assert verdict(bomb, 30) == "timeout"
        assert verdict(single.submit(GOOD), 10) == "right"
        until(lambda: len(workers(single)) == 1)
    finally:
        single.close()


def test_a_worker_without_a_processor_gets_its_time_later(pool, monkeypatch):
    """At the deadline it wants to run and has had no processor: it is not given up before the last moment."""
    monkeypatch.setattr(nursery, "processor_time", lambda pid: ("R", 0.0))
    before = pool.counts["starved"]
    started = time.monotonic()
    assert verdict(pool.submit(BOMB), 20) == "timeout"
    assert 3.9 < time.monotonic() - started < 6.0
    assert pool.counts["starved"] > before


def test_an_answer_whose_worker_was_stopped_is_tried_elsewhere(pool):
    assert verdict(pool.submit(GOOD), 10) == "right"
    for pid in workers(pool):
        os.kill(pid, signal.SIGSTOP)
    stopped = workers(pool)
    futures = [pool.submit(GOOD) for _ in stopped]
    assert {verdict(future, 10) for future in futures} == {"right"}
    until(lambda: not any(alive(pid) for pid in stopped))


def test_a_good_answer_behind_many_bombs_waits_a_limit_and_its_share():
    """Sixteen bombs on two workers would hold it for eight limits; they are interrupted, put behind it, and get their limit later."""
    fair = WorkerPool(RewardConfig(workers=2, time_limit_s=30.0))
    try:
        assert verdict(fair.submit(GOOD), 60) == "right"
        bombs = [fair.submit(BOMB) for _ in range(16)]
        goods = [fair.submit(GOOD) for _ in range(4)]
        assert {verdict(good, 29) for good in goods} == {"right"}
        assert not any(bomb.done() for bomb in bombs)
        assert fair.counts["interrupted"] >= 8 and fair.counts["timeouts"] == 0
    finally:
        fair.close()


def test_killed_nursery_is_replaced(pool):
    before = pool.counts["nursery_restarts"]
    old = pool.pids()
    os.kill(old[0], signal.SIGKILL)
    until(lambda: pool.counts["nursery_restarts"] == before + 1)
    assert verdict(pool.submit(GOOD), 60) == "right"
    until(lambda: not any(alive(pid) for pid in old))  # its workers went with it


def test_garbage_on_the_line_kills_the_worker_only(pool):
    """A worker that writes what is no answer is replaced; its task is tried again."""
    assert verdict(pool.submit(GOOD), 10) == "right"
    for garbage in (
        b"\xff" * 64,
        b"\x00\x00\x00\x05hello",
        b"\x00\x00\x00\x02{}",
        b'\x00\x00\x00\x14{"outcome": "right"}',
    ):
        worker = pool._workers[0]
        before = pool.counts["crashes"]
        assert worker.task is None
        _write_as_worker(worker.pid, garbage)
        until(lambda before=before: pool.counts["crashes"] > before)
        assert verdict(pool.submit(GOOD), 10) == "right"


def _write_as_worker(pid, data):
    """Writes into a worker's socket from outside, through a duplicate of its file descriptor."""
    code = textwrap.dedent(
        """
        import ctypes, os, sys
        libc = ctypes.CDLL(None, use_errno=True)
        pid, data = int(sys.argv[1]), bytes.fromhex(sys.argv[2])
        pidfd = os.pidfd_open(pid)
        for name in os.listdir(f"/proc/{pid}/fd"):
            if os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:"):
                fd = libc.syscall(438, pidfd, int(name), 0)
                if fd >= 0:
                    os.write(fd, data)
                    sys.exit(0)
        sys.exit(3)
        """
    )
    done = subprocess.run([sys.executable, "-c", code, str(pid), data.hex()])
    if done.returncode == 3:
        pytest.skip("this system does not let a process duplicate another's file descriptors")
    assert done.returncode == 0


def test_memory_is_limited():
    small = WorkerPool(RewardConfig(workers=1, memory_limit_mb=400))
    try:
        assert small.submit({"op": "probe", "allocate_mb": 100}).result(60)["allocated"] == 100 << 20
        first = small.pids()[-1]
        assert verdict(small.submit({"op": "probe", "allocate_mb": 500}), 10) == "memory"
        assert verdict(small.submit(GOOD), 20) == "right"
        assert small.pids()[-1] != first  # a worker that ran out of memory is not used again
        assert small.counts["memory"] == 1
    finally:
        small.close()


def test_workers_are_recycled_and_leave_no_core(pool):
    short = WorkerPool(RewardConfig(workers=1, recycle_after=5))
    try:
        seen = set()
        for _ in range(12):
            assert verdict(short.submit(GOOD), 60) == "right"
            seen |= set(short.pids()[1:])
        assert short.counts["recycled"] == 2 and len(seen) >= 2
        pid = short.pids()[-1]
        with open(f"/proc/{pid}/limits") as file:
            limits = file.read()
        assert re.search(r"Max core file size +0 ", limits)
    finally:
        short.close()


def test_several_pools_side_by_side():
    pools = [WorkerPool(RewardConfig(workers=1)) for _ in range(3)]
    try:
        futures = [pool.submit(GOOD) for pool in pools for _ in range(5)]
        assert {verdict(future, 90) for future in futures} == {"right"}
        assert len({pid for pool in pools for pid in pool.pids()}) == 6
        pools[0].close()
        assert verdict(pools[1].submit(GOOD), 10) == "right"
        with pytest.raises(RewardSetupError):
            pools[0].submit(GOOD)
    finally:
        for pool in pools:
            pool.close()


def test_closing_answers_everybody():
    doomed = WorkerPool(RewardConfig(workers=1, time_limit_s=30.0))
    assert verdict(doomed.submit(GOOD), 60) == "right"
    futures = [doomed.submit(BOMB) for _ in range(3)]
    time.sleep(0.1)
    doomed.close()
    for future in futures:
        with pytest.raises(RewardSetupError):
            future.result(5)


def test_many_threads_share_one_pool(pool):
    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        outcomes = list(threads.map(lambda k: verdict(pool.submit(judging(str(k), f"{k}.")), 30), range(200)))
    assert set(outcomes) == {"right"}


def test_missing_math_verify_is_an_error_that_says_so(monkeypatch, tmp_path):
    """A broken installation must stop a run, and not score everything 0."""
    (tmp_path / "math_verify").mkdir()
    (tmp_path / "math_verify" / "__init__.py").write_text("raise ImportError('no such thing here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    broken = WorkerPool(RewardConfig(workers=1))
    try:
        with pytest.raises(RewardSetupError, match=r"erpo-verl\[reward\](.|\n)*no such thing here"):
            broken.submit(GOOD).result(60)
    finally:
        broken.close()


def test_workers_that_cannot_start_are_an_error(monkeypatch):
    fork = nursery.Nursery.fork

    def strangled(self):
        worker = fork(self)
        worker.sock.close()  # whatever it manages to say is not heard
        worker.sock, there = socket.socketpair()
        there.close()
        return worker

    monkeypatch.setattr(nursery.Nursery, "fork", strangled)
    starved = WorkerPool(RewardConfig(workers=1))
    try:
        with pytest.raises(RewardSetupError, match="die as they start"):
            starved.submit(GOOD).result(90)
    finally:
        starved.close()


@pytest.mark.parametrize("possible", [0, 1])
def test_where_no_more_can_be_forked_those_that_there_are_go_on(monkeypatch, possible):
    fork = nursery.Nursery.fork
    forked = []

    def limited(self):
        if len(forked) == possible:
            raise OSError(24, "Too many open files")
        forked.append(fork(self))
        return forked[-1]

    monkeypatch.setattr(nursery.Nursery, "fork", limited)
    small = WorkerPool(RewardConfig(workers=3))
    try:
        futures = [small.submit(GOOD) for _ in range(6)]
        if possible:
            assert {verdict(future, 60) for future in futures} == {"right"} and len(forked) == 1
        else:
            with pytest.raises(RewardSetupError, match="Too many open files"):
                futures[0].result(60)
    finally:
        small.close()


SCRIPT = textwrap.dedent(
    """
    import sys, threading, time
    from erpo_verl.reward import MathJudge, RewardConfig
    from erpo_verl.reward.pool import shared_pool
    judge = MathJudge(RewardConfig(time_limit_s=60.0))
    def work():
        assert judge.judge(r"\\frac{\\ln 3}{\\ln 2}", r"\\log_2 3").right
    thread = threading.Thread(target=work)   # the thread that started the pool ends long before the pool does
    thread.start(); thread.join()
    threading.Thread(target=lambda: judge.judge(r"\\binom{99999999}{49999999}", "42"), daemon=True).start()
    time.sleep(0.5)
    print(*judge._pool().pids(), flush=True)
    if sys.argv[1] == "exit":
        sys.exit(0)
    if sys.argv[1] == "raise":
        raise SystemError("as if")
    time.sleep(60)
    """
)


@pytest.mark.parametrize("how", ["exit", "raise", "sigkill", "sigterm"])
def test_nothing_is_left_running(how):
    """Also not where a worker is in the middle of a bomb, and where the parent is killed with SIGKILL."""
    parent = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, how], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) >= 2
    if how.startswith("sig"):
        assert all(alive(pid) for pid in pids)
        parent.send_signal(signal.SIGKILL if how == "sigkill" else signal.SIGTERM)
    parent.wait(15)
    until(lambda: not any(alive(pid) for pid in pids), 5.0)


def test_a_forked_child_of_the_caller_gets_its_own_pool():
    """A process that was forked (as data loaders do) must not disturb its parent's workers."""
    code = textwrap.dedent(
        """
        import os, warnings
        warnings.simplefilter("ignore")
        from erpo_verl.reward import score
        hard = (r"\\boxed{\\frac{\\ln 3}{\\ln 2}}", r"\\log_2 3")
        assert score(*hard, cache_size=0)["acc"] == 1.0
        pid = os.fork()
        if pid == 0:
            ok = score(*hard, cache_size=0)["acc"] == 1.0
            from erpo_verl.reward import close_all
            close_all()
            os._exit(0 if ok else 1)
        assert score(*hard, cache_size=0)["acc"] == 1.0
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert score(*hard, cache_size=0)["acc"] == 1.0
        """
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=90).returncode == 0


def test_importing_the_reward_starts_nothing_and_loads_no_sympy():
    code = (
        "import sys, threading; import erpo_verl.reward as r; "
        "from erpo_verl.reward.pool import _POOLS; "
        "assert not {'sympy', 'math_verify'} & set(sys.modules); assert len(_POOLS) == 0; "
        "assert r.score(r'\\boxed{1}', '1')['acc'] == 1.0; assert 'sympy' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_timeouts_are_not_remembered_and_verdicts_are(pool):
    judge = MathJudge(RewardConfig(time_limit_s=0.5))
    bomb = (r"\boxed{\binom{99999999}{49999999}}", "42")
    assert judge.score(*bomb)["timed_out"] == 1.0
    assert judge.score(*bomb)["cached"] == 0.0
    hard = (r"\boxed{\frac{\ln 5}{\ln 2}}", r"\log_2 5")
    first, second = judge.score(*hard), judge.score(*hard)
    assert (first["cached"], second["cached"]) == (0.0, 1.0)
    assert first["acc"] == second["acc"] == 1.0 and first["fast_path"] == second["fast_path"] == 0.0


def test_equal_questions_in_flight_are_asked_once():
    judge = MathJudge(RewardConfig(time_limit_s=0.7))
    assert judge.score(r"\boxed{\log_2 3}", r"\frac{\ln 3}{\ln 2}")["acc"] == 1.0
    bomb = (r"\boxed{\binom{99999999}{49999999}}", "42")
    before = judge._pool().counts.get("timeouts", 0)
    threads = [threading.Thread(target=judge.score, args=bomb) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert judge._pool().counts["timeouts"] == before + 1
