"""How fast, and how sturdy, is the maths reward? Side by side with plain math-verify and with verl's own pool.

    python benchmarks/reward_throughput.py            # everything, about six minutes on two cores
    python benchmarks/reward_throughput.py --pairs 600 --skip memory
    python benchmarks/reward_throughput.py --labelled PAIRS.jsonl     # hard pairs too, apart (files as for reward_accuracy.py)

All contenders score the same synthesised pairs (reward_pairs.py) in turn, block by block, so that a busy machine slows all
of them alike; compare the ratios and not the absolute numbers. Nobody may use a cache: the pairs differ, and ours is off.

    plain   math-verify in the main thread, as its README calls it (alarm-based limits)
    verl    verl's math_verify pool (four processes), called from eight threads as verl's executor does
    ours    erpo_verl.reward.compute_score with two workers, in one event loop, 64 responses at a time
    single  the same, one response after the other: its latencies are the ones to hold against plain's, which queues nothing
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import logging
import os
import platform
import signal
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

from erpo_verl.reward import MathJudge, RewardConfig, close_all
from reward_accuracy import labelled
from reward_pairs import Pair, synthesise

BLOCK = 150
BOMBS = (
    r"\binom{99999999}{49999999}",
    "((9!)!)!",
    "(x+y+z+1)^{9999}",
    r"\lim_{x\to 0} \frac{\sin(\tan x)-\tan(\sin x)}{x^7+x^9}",
)


def plain(pairs: list[Pair]) -> list[dict]:
    """math-verify as its documentation calls it."""
    from math_verify import parse, verify

    found = []
    for pair in pairs:
        started = time.perf_counter()
        try:
            right = bool(verify(parse(f"\\boxed{{{pair.gold}}}"), parse(pair.response)))
        except Exception:
            right = False
        found.append({"acc": right, "latency_s": time.perf_counter() - started})
    return found


def verls(pairs: list[Pair], timeout: float = 30.0) -> list[bool]:
    """verl's pool, from as many threads as an executor would use."""
    from verl.utils.reward_score.math_verify import compute_score

    with ThreadPoolExecutor(8) as threads:
        return [
            bool(s) for s in threads.map(lambda pair: compute_score(pair.response, pair.gold, timeout=timeout), pairs)
        ]


def ours(pairs: list[Pair], judge: MathJudge) -> list[dict]:
    """The reward in an event loop, at most 64 responses at a time, as a reward worker of verl would see them."""

    async def main() -> list[dict]:
        gate = asyncio.Semaphore(64)

        async def one(pair: Pair) -> dict:
            async with gate:
                return await judge.ascore(pair.response, pair.gold)

        return await asyncio.gather(*(one(pair) for pair in pairs))

    return asyncio.run(main())


def quality(pairs: list[Pair], verdicts: list[bool]) -> dict[str, float]:
    """Share of right answers that were accepted, and of wrong answers that were accepted."""
    right = [verdict for pair, verdict in zip(pairs, verdicts, strict=True) if pair.right]
    wrong = [verdict for pair, verdict in zip(pairs, verdicts, strict=True) if not pair.right]
    return {"recall": sum(right) / len(right), "false_positives": sum(wrong) / len(wrong)}


def speed(pairs: list[Pair], contenders: dict[str, Callable[[list[Pair]], list]]) -> dict:
    """Answers per second of each contender, their verdicts and latencies."""
    seconds = dict.fromkeys(contenders, 0.0)
    verdicts: dict[str, list] = {name: [] for name in contenders}
    names = list(contenders)
    for start in range(0, len(pairs), BLOCK):
        block = pairs[start : start + BLOCK]
        names = names[1:] + names[:1]  # nobody is always first
        for name in names:
            started = time.perf_counter()
            verdicts[name] += contenders[name](block)
            seconds[name] += time.perf_counter() - started
    report = {}
    for name, found in verdicts.items():
        accepted = [bool(verdict["acc"]) if isinstance(verdict, dict) else verdict for verdict in found]
        report[name] = {"per_second": len(pairs) / seconds[name], **quality(pairs, accepted)}
        if isinstance(found[0], dict):
            latencies = sorted(1e3 * verdict["latency_s"] for verdict in found)
            report[name] |= {"median_ms": statistics.median(latencies), "p99_ms": latencies[int(0.99 * len(latencies))], "max_ms": latencies[-1]}
    fast = [(pair, result) for pair, result in zip(pairs, verdicts["ours"], strict=True) if result["fast_path"]]
    report["ours"] |= {"fast_share": len(fast) / len(pairs), "fast_wrong": sum(bool(result["acc"]) != pair.right for pair, result in fast)}
    for name in contenders:
        report["ours"][f"times_{name}"] = report["ours"]["per_second"] / report[name]["per_second"]
    return report


def bombs(pairs: list[Pair], limit_s: float) -> dict:
    """One per cent bombs among the good: what becomes of the good ones?"""
    judge = MathJudge(RewardConfig(workers=2, time_limit_s=limit_s, cache_size=0))
    judge.judge(r"\ln 2", r"\ln 3")
    mixed: list[Pair] = []
    for place, pair in enumerate(pairs):
        mixed.append(pair)
        if place % 100 == 50:
            mixed.append(Pair("bomb", "42", BOMBS[place // 100 % len(BOMBS)], False))
    results = ours(mixed, judge)
    good = [(pair, result) for pair, result in zip(mixed, results, strict=True) if pair.kind != "bomb"]
    bad = [result for pair, result in zip(mixed, results, strict=True) if pair.kind == "bomb"]
    return {
        "good": len(good),
        "bombs": len(bad),
        "wrong_on_good": sum(bool(result["acc"]) != pair.right for pair, result in good),
        "bombs_accepted": sum(result["acc"] for result in bad),
        "limit_s": limit_s,
        "longest_good_s": max(result["latency_s"] for _pair, result in good),
        "p99_good_ms": 1e3 * sorted(result["latency_s"] for _pair, result in good)[int(0.99 * len(good))],
        "timed_out": sum(result["timed_out"] for result in results),
    }


def after_a_kill(with_verl: bool) -> dict:
    """A worker is killed with SIGKILL: how many of the next ten right answers are scored right?"""
    report = {}
    judge = MathJudge(RewardConfig(cache_size=0))
    judge.judge(r"\ln 2", r"\ln 3")
    for pid in judge._pool().pids()[1:]:
        os.kill(pid, signal.SIGKILL)
    report["ours"] = sum(judge.judge(rf"\log_{{{k}}} 3", rf"\frac{{\ln 3}}{{\ln {k}}}").right for k in range(2, 12))
    if with_verl:
        from verl.utils.reward_score import math_verify as pool

        os.kill(next(iter(pool._pool._processes)), signal.SIGKILL)
        time.sleep(0.2)
        with contextlib.redirect_stdout(io.StringIO()):
            report["verl"] = sum(pool.compute_score(rf"\boxed{{{k}}}", str(k)) for k in range(10))
    return report


def memory(count: int) -> list[dict]:
    """Resident MiB of this process and of the worker processes while `count` different hard answers pass."""
    judge = MathJudge(RewardConfig(workers=2, cache_size=2048))
    rows = []

    def resident(pid: int) -> float:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
        return 0.0

    for start in range(0, count, 1000):
        judge.score_many(
            [(rf"\boxed{{{k}+\ln({k + 2}x)-\ln x}}", rf"{k}+\ln({k + 2 + k % 2})") for k in range(start, start + 1000)]
        )
        pids = judge._pool().pids()
        rows.append(
            {
                "answers": start + 1000,
                "own_mb": resident(os.getpid()),
                "workers_mb": max(map(resident, pids[1:]), default=0.0),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=2400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--skip", nargs="*", default=[], choices=["verl", "plain", "bombs", "kill", "memory"])
    parser.add_argument("--labelled", type=Path, nargs="*", default=[], help="files of hard pairs, measured apart")
    parser.add_argument("--json", help="also write the report here")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    pairs = synthesise(args.pairs, args.seed)
    judge = MathJudge(RewardConfig(workers=2, cache_size=0))
    contenders: dict[str, Callable[[list[Pair]], list]] = {
        "ours": lambda block: ours(block, judge),
        "single": lambda block: [judge.score(pair.response, pair.gold) for pair in block],
    }
    if "plain" not in args.skip:
        contenders["plain"] = plain
    if "verl" not in args.skip:
        contenders["verl"] = verls
    for score in contenders.values():  # load and warm everybody before the clock starts
        score(synthesise(60, seed=args.seed + 1))
    versions = {name: metadata.version(name) for name in ("math-verify", "sympy", "antlr4-python3-runtime")}
    with contextlib.suppress(metadata.PackageNotFoundError):
        versions["verl"] = metadata.version("verl")
    report: dict = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "versions": versions,
    }
    report["load_before"] = os.getloadavg()[0]
    report["speed"] = speed(pairs, contenders)
    for path in args.labelled:
        report["speed of " + path.name] = speed(labelled(path), contenders)
    if "kill" not in args.skip:
        report["right_of_ten_after_kill"] = after_a_kill("verl" in contenders)
    if "bombs" not in args.skip:
        report["bombs"] = bombs(pairs[:1000], limit_s=3.0)
    if "memory" not in args.skip:
        report["memory"] = memory(10_000)
    print(json.dumps(report, indent=1))
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)
    close_all()
    sys.stdout.flush()


if __name__ == "__main__":
    main()
