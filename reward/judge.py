"""The judge: one road from a response to a verdict, the same for verl, the trainer, evaluation and files.

Road: size limit -> text after the last </think> -> last balanced box -> bounds -> one spelling -> verdict cache ->
words, units, equations -> fast path -> math-verify in a worker. Everything up to the worker is synchronous and takes
microseconds. The road is written once, as a generator that yields a future where it needs a worker; `score` waits for
the future in its thread, `ascore` awaits it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from . import comparison
from .bounds import answer_problem
from .config import RewardConfig
from .fastpath import canonical
from .gold import gold_answers
from .metrics import Counters
from .normalize import Clean, clean
from .pool import PoolSettings, WorkerPool, shared_pool
from .scanner import Found, find_answer, unwrap
from .verdict import NOT_CACHED, Reason, Verdict, as_dict

_log = logging.getLogger(__name__)
_MAX_WARNINGS = 20
Road = Generator[Future, Any, Verdict]


class MathJudge:
    """Judges responses under one `RewardConfig`. Safe to use from any number of threads and event loops."""

    def __init__(self, config: RewardConfig | None = None) -> None:
        self.config = config or RewardConfig()
        self.counters = Counters()
        self._cache: OrderedDict[tuple[str, str], Verdict] = OrderedDict()
        self._in_flight: dict[tuple[str, str], Future] = {}
        self._lock = threading.Lock()
        self._warnings = 0
        names = PoolSettings.__dataclass_fields__
        self._pool_settings = PoolSettings(**{name: getattr(self.config, name) for name in names})
        _JUDGES.add(self)

    # ---------------------------------------------------------------- whole responses

    def score(self, solution: Any, gold: Any, extra_info: Mapping | None = None) -> dict[str, float | str]:
        """The result of one response (keys: `verdict.KEYS`). Waits for a worker where it must.

        Args:
            solution: the response; anything but a string is scored as bad input.
            gold: a string, a number, a list of accepted answers, or a mapping that holds one under `target`,
                `ground_truth`, `answer` or `final_answer`.
            extra_info: may hold `response_length` (tokens) and `truncated`.

        Raises:
            RewardSetupError: the workers cannot be started. Nothing that a model can write raises.
            RewardConfigError: overlong_unit=tokens and no `response_length`.
        """
        started = time.perf_counter()
        found = self._find(solution)
        verdict = _drive(self._road(found, gold))
        return self._result(found, verdict, solution, extra_info, started)

    async def ascore(self, solution: Any, gold: Any, extra_info: Mapping | None = None) -> dict[str, float | str]:
        """As `score`, awaiting the worker: no thread is held meanwhile."""
        started = time.perf_counter()
        found = self._find(solution)
        verdict = await _adrive(self._road(found, gold))
        return self._result(found, verdict, solution, extra_info, started)

    def score_many(self, rows: Sequence[tuple[Any, Any]]) -> list[dict[str, float | str]]:
        """The results of many (solution, gold) pairs, in order; the workers are kept busy side by side."""
        started = time.perf_counter()
        open_roads: list[tuple[int, Found, Generator, Future]] = []
        results: list[dict[str, float | str] | None] = [None] * len(rows)
        for place, (solution, gold) in enumerate(rows):
            begun = time.perf_counter()
            found = self._find(solution)
            road = self._road(found, gold)
            try:
                open_roads.append((place, found, road, next(road)))
            except StopIteration as stop:
                results[place] = self._result(found, stop.value, solution, None, begun)
        for place, found, road, future in open_roads:
            verdict = _drive(road, future)
            results[place] = self._result(found, verdict, rows[place][0], None, started)
        return results  # type: ignore[return-value]

    def judge(self, answer: str, gold: Any) -> Verdict:
        """The verdict on an answer that is already out of its box."""
        return _drive(self._answer_road(unwrap(answer), gold))

    def start(self) -> None:
        """Begins to load math-verify in the background, so that the first hard answer need not wait for it."""
        self._pool().start()

    def pool_counts(self) -> dict[str, int]:
        """How often workers were forked, timed out, crashed, were recycled or ran out of memory so far."""
        return dict(self._pool().counts)

    # ---------------------------------------------------------------- the road

    def _find(self, solution: Any) -> Found:
        if not isinstance(solution, str):
            return Found(None, Reason.BAD_INPUT, False, False)
        return find_answer(solution, self.config)

    def _road(self, found: Found, gold: Any) -> Road:
        if self.config.prestart:
            self.start()
        if not any(text.strip() for text in gold_answers(gold)):
            self._warn_gold(gold)
            return Verdict(Reason.GOLD_UNREADABLE)
        if found.answer is None:
            return Verdict(found.reason or Reason.NO_BOX)
        if found.joined is None:
            return (yield from self._answer_road(found.answer, gold))
        verdict = Verdict(Reason.GOLD_UNREADABLE)
        for text in gold_answers(gold):
            answer = found.joined if comparison.is_list(text, self.config.max_gold_chars) else found.answer
            verdict = yield from self._answer_road(answer, text)
            if verdict.right:
                break
        return verdict

    def _answer_road(self, answer: str, gold: Any) -> Road:
        problem = answer_problem(answer, self.config)
        if problem:
            return Verdict(problem)
        verdict = Verdict(Reason.GOLD_UNREADABLE)
        for text in gold_answers(gold):
            verdict = yield from self._pair(text, answer)
            if verdict.right:
                break
        return verdict

    def _pair(self, gold_text: str, answer: str) -> Road:
        """The verdict on one accepted answer and the given one, from the cache if it is there."""
        key = (gold_text, answer)
        with self._lock:
            known = self._cache.get(key)
            if known is not None:
                self._cache.move_to_end(key)
                return known
        gold = comparison.cleaned_gold(gold_text, self.config.max_gold_chars)
        if gold is not None and gold_text == answer:
            # The very text of the gold is right even where it is damaged beyond reading.
            verdict = Verdict(Reason.RIGHT, canonical(clean(answer)))
        elif gold is None:
            verdict = Verdict(Reason.GOLD_UNREADABLE)
        else:
            verdict = yield from self._compare(gold, clean(answer))
        if verdict.reason is Reason.GOLD_UNREADABLE:
            self._warn_gold(gold_text)
        if verdict.reason not in NOT_CACHED and self.config.cache_size:
            with self._lock:
                self._cache[key] = Verdict(verdict.reason, verdict.pred, verdict.fast, cached=True)
                while len(self._cache) > self.config.cache_size:
                    self._cache.popitem(last=False)
        return verdict

    def _compare(self, gold: Clean, answer: Clean) -> Road:
        plan = comparison.plan(gold, answer, self.config)
        if isinstance(plan, comparison.Decided):
            return Verdict(plan.reason, plan.pred)
        # Any of the alternatives, in each of which every pair must be right.
        reason = Reason.WRONG
        for alternative in plan.alternatives:
            for pair_gold, pair_answer in alternative:
                outcome = yield self._ask(pair_gold, pair_answer, plan.policy)
                reason = comparison.OUTCOMES.get(outcome, Reason.FAILED)
                if reason is not Reason.RIGHT:
                    break
            if reason is Reason.RIGHT or reason in NOT_CACHED:
                break
        if reason is Reason.WRONG:
            reason = plan.failing
        return Verdict(reason, plan.pred, fast=False)

    def _ask(self, gold: str, answer: str, policy: dict[str, Any]) -> Future:
        """The worker's outcome; pairs that are the same at the same time share one request."""
        key = (gold, answer)
        with self._lock:
            future = self._in_flight.get(key)
            if future is not None:
                return future
            future = self._pool().submit({"op": "judge", "gold": gold, "answer": answer, "policy": policy})
            self._in_flight[key] = future
        future.add_done_callback(lambda done: self._landed(key, done))
        return future

    def _landed(self, key: tuple[str, str], future: Future) -> None:
        with self._lock:
            if self._in_flight.get(key) is future:
                del self._in_flight[key]

    def _pool(self) -> WorkerPool:
        return shared_pool(self._pool_settings)

    def _warn_gold(self, gold: Any) -> None:
        self._warnings += 1
        if self._warnings <= _MAX_WARNINGS:
            _log.warning("the maths reward cannot read this reference answer, it scores 0: %.200r", gold)

    # ---------------------------------------------------------------- what a verdict is worth

    def _result(
        self, found: Found, verdict: Verdict, solution: Any, extra_info: Mapping | None, started: float
    ) -> dict[str, float | str]:
        config = self.config
        score = config.score_right if verdict.right else config.score_wrong
        if found.format_ok:
            score += config.format_bonus
        penalty = 0.0
        if config.overlong_limit:
            penalty = comparison.overlong_penalty(solution, extra_info, config)
        result = as_dict(
            verdict,
            score=score - penalty,
            truncated=found.truncated or bool(_get(extra_info, "truncated")),
            format_ok=found.format_ok,
            overlong_penalty=penalty,
            latency_s=time.perf_counter() - started,
        )
        self.counters.add(result)
        return result

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        self._in_flight.clear()
        self.counters.reinit_lock()


def _get(mapping: Any, key: str) -> Any:
    return mapping.get(key) if isinstance(mapping, Mapping) else None


def _drive(road: Road, future: Future | None = None) -> Verdict:
    """Runs a road to its end in this thread; `future` is what it already waits for."""
    try:
        future = future or next(road)
        while True:
            future = road.send(future.result())
    except StopIteration as stop:
        return stop.value


async def _adrive(road: Road) -> Verdict:
    """Runs a road to its end in this event loop."""
    try:
        future = next(road)
        while True:
            # The shield: who is cancelled here must not cancel a request that others wait for.
            future = road.send(await asyncio.shield(asyncio.wrap_future(future)))
    except StopIteration as stop:
        return stop.value


_JUDGES: weakref.WeakSet[MathJudge] = weakref.WeakSet()
_SHARED: dict[RewardConfig, MathJudge] = {}
_SHARED_LOCK = threading.Lock()


def shared_judge(config: RewardConfig | None = None) -> MathJudge:
    """This process's judge with these settings; made on first use."""
    config = config or RewardConfig()
    with _SHARED_LOCK:
        judge = _SHARED.get(config)
        if judge is None:
            judge = _SHARED[config] = MathJudge(config)
        return judge


def _after_fork_in_child() -> None:
    global _SHARED_LOCK
    _SHARED_LOCK = threading.Lock()
    for judge in list(_JUDGES):
        judge._after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
