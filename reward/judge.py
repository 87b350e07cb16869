"""The judge: one road from a response to a verdict, the same for verl, the trainer, evaluation and files.

Road: text after the last </think> -> last balanced box -> verdict cache -> identical text, plain numbers -> bounds -> a worker, where
words, units, labels, lists and math-verify are. What runs here is linear in the response, makes no long numbers, and cannot raise:
an exception inside is the verdict `failed`. The road is written once, as a generator that yields a future where it needs a worker;
`score` waits for the future in its thread, `ascore` awaits it.
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
from dataclasses import replace
from typing import Any

from .config import RewardConfig, RewardConfigError
from .gold import gold_answers
from .metrics import Counters
from .plain import equal_numbers, read_number
from .pool import RewardSetupError, WorkerPool, shared_pool
from .scanner import Found, find_answer, unwrap
from .verdict import NOT_CACHED, Reason, Verdict, as_dict

_log = logging.getLogger(__name__)
_MAX_WARNINGS = 20
_MAX_QUESTIONS = 200  # that grouping one problem's answers may ask the workers
_DIFFER = (Reason.WRONG, Reason.UNITS_DIFFER, Reason.CHAIN, Reason.GOLD_UNREADABLE)
_REASONS = {reason.name.lower(): reason for reason in Reason}
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
        self._proved = False  # whether the workers have ever answered
        self._policy = self.config.policy()
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
            RewardSetupError: the workers cannot be started and never could. Nothing that a model can write raises.
            RewardConfigError: overlong_unit=tokens and no `response_length`.
        """
        started = time.perf_counter()
        found = self._find(solution)
        verdict = _drive(self._road(found, gold))
        return self._result(found, verdict, solution, gold, extra_info, started)

    async def ascore(self, solution: Any, gold: Any, extra_info: Mapping | None = None) -> dict[str, float | str]:
        """As `score`, awaiting the worker: no thread is held meanwhile."""
        started = time.perf_counter()
        found = self._find(solution)
        verdict = await _adrive(self._road(found, gold))
        return self._result(found, verdict, solution, gold, extra_info, started)

    def score_many(self, rows: Sequence[tuple[Any, Any]]) -> list[dict[str, float | str]]:
        """The results of many (solution, gold) pairs, in order; the workers are kept busy side by side."""
        results: list[Any] = []
        for solution, gold in rows:
            started = time.perf_counter()
            found = self._find(solution)
            road = self._road(found, gold)
            try:
                results.append((found, road, next(road), solution, gold, started))
            except StopIteration as stop:
                results.append(self._result(found, stop.value, solution, gold, None, started))
        for place, waiting in enumerate(results):
            if isinstance(waiting, tuple):
                found, road, future, solution, gold, started = waiting
                results[place] = self._result(found, _drive(road, future), solution, gold, None, started)
        return results

    def judge(self, answer: str, gold: Any) -> Verdict:
        """The verdict on an answer that is already out of its box."""
        return _drive(self._road(Found(unwrap(answer), None, format_ok=True), gold))

    def group_answers(self, answers: Sequence[Any]) -> list[int]:
        """The class number of each answer (out of its box, or a result's `pred`), for votes: answers of one value share a number.

        Equality of answers is not transitive (by a gold of 50% both 50 and 0.5 are right), so that classes have representatives: the
        different answers are gone through from short to long (of one length by the alphabet); one that is right by an earlier
        representative as the gold joins its class, any other represents a new one. Percent signs and bases count by their value here.
        So the classes depend neither on the order of the answers nor on their number. They are numbered from 0 in the order of their
        first answers. Never raises for any text; asks the workers at most 200 times, and leaves what is then undecided in classes of its own.
        """
        texts = [" ".join(answer.split()) if isinstance(answer, str) else "" for answer in answers]
        by_value = shared_judge(replace(self.config, percent="strict", bases="strict"))
        representative: dict[str, str] = {"": ""}
        questions = 0
        for text in sorted(set(texts) - {""}, key=lambda text: (len(text), text)):
            for other in dict.fromkeys(representative.values()):
                if other and text not in representative and questions < _MAX_QUESTIONS:
                    verdict = by_value.judge(text, other)
                    questions += not verdict.fast
                    if verdict.right:
                        representative[text] = other
                    elif verdict.reason not in _DIFFER:
                        break  # refused or cut off, whatever it is held against
            representative.setdefault(text, text)
        numbers = {other: number for number, other in enumerate(dict.fromkeys(representative[text] for text in texts))}
        return [numbers[representative[text]] for text in texts]

    # ---------------------------------------------------------------- the road

    def _find(self, solution: Any) -> Found:
        if not isinstance(solution, str):
            return Found(None, Reason.BAD_INPUT)
        try:
            return find_answer(solution, self.config)
        except Exception:
            self._warn("scanning this response failed, it scores 0: %.200r", solution[-200:], exc_info=True)
            return Found(None, Reason.FAILED)

    def _road(self, found: Found, gold: Any) -> Road:
        """The verdict on what was found in a response; whatever goes wrong here is one too."""
        try:
            return (yield from self._golds_road(found, gold))
        except (RewardSetupError, RewardConfigError):
            if not self._proved:
                raise
            self._warn("the workers of the maths reward cannot be started any more; what needs them is ungradeable", exc_info=True)
        except Exception:
            self._warn("comparing failed, the response is ungradeable: answer %.200r, gold %.200r", found.answer, gold, exc_info=True)
        return Verdict(Reason.FAILED)

    def _golds_road(self, found: Found, gold: Any) -> Road:
        if self.config.prestart:
            self._pool().start()
        golds = [text for text in gold_answers(gold) if text.strip() and len(text) <= self.config.max_gold_chars]
        if not golds:
            return Verdict(Reason.GOLD_UNREADABLE)
        if found.answer is None:
            return Verdict(found.reason or Reason.NO_BOX)
        verdict = Verdict(Reason.GOLD_UNREADABLE)
        for text in golds:
            if found.joined is not None:
                verdict = yield from self._pair(text, found.joined)
                if verdict.right:
                    return verdict
                if found.hedged:
                    verdict = Verdict(Reason.SEVERAL_BOXES, verdict.pred)
                    continue
            verdict = yield from self._pair(text, found.answer)
            if verdict.right:
                return verdict
        return verdict

    def _pair(self, gold: str, answer: str) -> Road:
        """The verdict on one accepted answer and the given one, from the cache if it is there."""
        key = (gold, answer)
        with self._lock:
            known = self._cache.get(key)
            if known is not None:
                self._cache.move_to_end(key)
                return known
        verdict = self._certain(gold, answer)
        if verdict is None:
            outcome = yield self._ask(gold, answer)
            self._proved = True
            verdict = Verdict(_REASONS.get(outcome["reason"], Reason.FAILED), outcome.get("pred", answer), fast=False)
        if verdict.reason not in NOT_CACHED:
            with self._lock:
                self._cache[key] = replace(verdict, cached=True)
                while len(self._cache) > self.config.cache_size:
                    self._cache.popitem(last=False)
        return verdict

    def _certain(self, gold: str, answer: str) -> Verdict | None:
        """What is certain without a worker: bounds, identical text, and two plain numbers."""
        config = self.config
        if not answer:
            return Verdict(Reason.EMPTY)
        if len(answer) > config.max_answer_chars:
            return Verdict(Reason.TOO_LONG)
        if _nesting(answer) > config.max_nesting:
            return Verdict(Reason.TOO_DEEP)
        number = read_number(answer)
        pred = str(number) if number else answer
        if " ".join(gold.replace("$", " ").split()) == " ".join(answer.replace("$", " ").split()):
            return Verdict(Reason.RIGHT, pred)
        gold_number = read_number(gold) if number else None
        if gold_number is None:
            return None
        same = equal_numbers(gold_number, number, config.rel_tol, config.percent == "lenient")
        return Verdict(Reason.RIGHT if same else Reason.WRONG, pred)

    def _ask(self, gold: str, answer: str) -> Future:
        """The worker's outcome; pairs that are the same at the same time share one request."""
        key = (gold, answer)
        with self._lock:
            future = self._in_flight.get(key)
            if future is not None:
                return future
            future = self._pool().submit({"op": "judge", "gold": gold, "answer": answer, "policy": self._policy})
            self._in_flight[key] = future
        future.add_done_callback(lambda _done: self._in_flight.pop(key, None))
        return future

    def _pool(self) -> WorkerPool:
        return shared_pool(self.config)

    def _warn(self, message: str, *arguments: Any, exc_info: bool = False) -> None:
        self._warnings += 1
        if self._warnings <= _MAX_WARNINGS:
            _log.warning(message, *arguments, exc_info=exc_info)

    # ---------------------------------------------------------------- what a verdict is worth

    def _result(self, found: Found, verdict: Verdict, solution: Any, gold: Any, extra_info: Mapping | None, started: float) -> dict[str, float | str]:
        config = self.config
        if verdict.reason is Reason.GOLD_UNREADABLE and not verdict.cached:
            self._warn("the maths reward cannot read this reference answer: %.200r", gold)
        score = config.score_right if verdict.right else config.score_wrong
        if found.format_ok:
            score += config.format_bonus
        penalty = overlong_penalty(solution, extra_info, config) if config.overlong_limit else 0.0
        result = as_dict(
            verdict,
            score=score - penalty,
            truncated=found.truncated or bool(isinstance(extra_info, Mapping) and extra_info.get("truncated")),
            format_ok=found.format_ok,
            overlong_penalty=penalty,
            latency_s=time.perf_counter() - started,
        )
        self.counters.add(result)
        return result

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        self._in_flight.clear()
        self.counters.after_fork()


def _nesting(answer: str) -> int:
    """The deepest nesting of brackets and braces."""
    depth = deepest = 0
    for char in answer:
        depth = max(0, depth + (char in "{([") - (char in "})]"))
        deepest = max(deepest, depth)
    return deepest


def overlong_penalty(solution: Any, extra_info: Mapping | None, config: RewardConfig) -> float:
    """The soft penalty for length: 0 up to limit - buffer, then rising linearly to overlong_penalty at the limit.

    Raises:
        RewardConfigError: overlong_unit is 'tokens' and extra_info holds no `response_length`.
    """
    length = len(solution) if isinstance(solution, str) else 0
    if config.overlong_unit == "tokens":
        length = extra_info.get("response_length") if isinstance(extra_info, Mapping) else None
        if length is None:
            raise RewardConfigError(
                "overlong_unit=tokens needs extra_info['response_length']; verl does not give it: use overlong_unit=chars, "
                "or verl's own dapo reward manager"
            )
    over = float(length) - (config.overlong_limit - config.overlong_buffer)
    if over <= 0:
        return 0.0
    return config.overlong_penalty * (min(1.0, over / config.overlong_buffer) if config.overlong_buffer else 1.0)


def _next(road: Road, future: Future) -> Future:
    """Hands a future's outcome, or its exception, to the road that waits for it."""
    try:
        outcome = future.result()
    except Exception as error:
        return road.throw(error)
    return road.send(outcome)


def _drive(road: Road, future: Future | None = None) -> Verdict:
    """Runs a road to its end in this thread; `future` is what it already waits for."""
    try:
        future = future or next(road)
        while True:
            future = _next(road, future)
    except StopIteration as stop:
        return stop.value


async def _adrive(road: Road) -> Verdict:
    """Runs a road to its end in this event loop."""
    try:
        future = next(road)
        while True:
            # The shield: who is cancelled here must not cancel a request that others wait for.
            await asyncio.wait([asyncio.shield(asyncio.wrap_future(future))])
            future = _next(road, future)
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


def group_answers(answers: Sequence[str], config: RewardConfig | None = None) -> list[int]:
    """The class number of each answer, by the shared judge's own equality; see `MathJudge.group_answers`."""
    return shared_judge(config).group_answers(answers)


def _after_fork_in_child() -> None:
    global _SHARED_LOCK
    _SHARED_LOCK = threading.Lock()
    for judge in list(_JUDGES):
        judge._after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
