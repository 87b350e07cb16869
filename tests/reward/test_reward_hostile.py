"""Hostile answers: never right, never an exception, never longer than the clock allows - wherever the caller runs."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from erpo_verl.reward import KEYS, Reason, RewardConfig, compute_score
from erpo_verl.reward.judge import MathJudge
from reward_hostile import BOMBS, GOLD, HEDGES, RESPONSES

LIMIT_S = 1.0


def check(result):
    """A result of a hostile answer: the full set of keys, all floats but one, and not right."""
    assert tuple(result) == KEYS
    assert all(isinstance(value, float) for key, value in result.items() if key != "pred")
    assert isinstance(result["pred"], str)
    assert result["acc"] == 0.0 and result["score"] == 0.0
    assert Reason(int(result["reason"])) not in (Reason.RIGHT, Reason.GOLD_UNREADABLE, Reason.FAILED)


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_in_the_main_thread(impatient, name):
    result = impatient.score(rf"\boxed{{{BOMBS[name]}}}", GOLD)
    check(result)
    assert result["latency_s"] < 4 * LIMIT_S + 1.0  # 4: where the machine is overloaded


@pytest.mark.parametrize("name", HEDGES)
def test_hedges(impatient, name):
    check(impatient.score(rf"\boxed{{{HEDGES[name]}}}", GOLD))


@pytest.mark.parametrize("name", RESPONSES)
def test_responses(impatient, name):
    check(impatient.score(RESPONSES[name], GOLD))


@pytest.mark.parametrize("thing", [None, 42, 4.2, b"\\boxed{42}", ["\\boxed{42}"], {"a": 1}, object()])
def test_responses_that_are_no_strings(impatient, thing):
    result = impatient.score(thing, GOLD)
    check(result)
    assert result["reason"] == Reason.BAD_INPUT


SLOW = ["power of a power", "factorial of factorial", "binomial", "expansion of sums", "limit", "integral"]


def test_bombs_in_threads_harm_nobody(impatient):
    """Good answers beside bombs, from eight threads: all right, and none waits for more than its share of the queue."""
    results: dict[str, dict] = {}

    def score(key, response, gold):
        results[key] = impatient.score(response, gold)

    threads = [
        threading.Thread(target=score, args=(f"bomb {name}", rf"\boxed{{{BOMBS[name]}}}", GOLD)) for name in SLOW[:4]
    ]
    threads += [
        threading.Thread(target=score, args=(f"good {k}", rf"\boxed{{\log_{{{k}}}(8)}}", rf"\frac{{\ln 8}}{{\ln {k}}}"))
        for k in range(3, 7)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for key, result in results.items():
        if key.startswith("bomb"):
            check(result)
        else:
            assert result["acc"] == 1.0
            # Four bombs on two workers hold them for two time limits (four each on an overloaded machine) at most.
            assert result["latency_s"] < 2 * 4 * LIMIT_S + 1.0
    assert len(results) == 8


def test_bombs_in_asyncio_hold_no_thread_and_no_loop(impatient):
    """While bombs burn, the event loop turns and no executor thread is taken."""

    async def main():
        before = threading.active_count()
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                await asyncio.sleep(0.02)
                ticks += 1

        clock = asyncio.create_task(tick())
        bombs = [impatient.ascore(rf"\boxed{{{BOMBS[name]}}}", GOLD) for name in SLOW[:2]]
        goods = [impatient.ascore(rf"\boxed{{{k}+\log_2(8)-3}}", str(k)) for k in range(20)]
        started = time.monotonic()
        results = await asyncio.gather(*bombs, *goods)
        clock.cancel()
        assert threading.active_count() <= before + 1  # the pool's own
        assert ticks > 10 * (time.monotonic() - started)
        return results

    results = asyncio.run(main())
    for result in results[:2]:
        check(result)
    assert all(result["acc"] == 1.0 for result in results[2:])


def test_compute_score_is_a_coroutine_function_with_the_same_keys_always():
    assert asyncio.iscoroutinefunction(compute_score)

    async def main():
        responses = [r"\boxed{42}", "", r"\boxed{41}", r"\boxed{\log_2 8}", None, r"\boxed{9^{9^{9^9}}}"]
        return await asyncio.gather(
            *(compute_score(data_source="x", solution_str=r, ground_truth=GOLD, extra_info=None) for r in responses)
        )

    for result in asyncio.run(main()):
        assert tuple(result) == KEYS


def test_settings_of_verl_reach_the_judge():
    async def main(**settings):
        return await compute_score("x", r"\boxed{10\text{ m}}", r"10\text{ cm}", {}, **settings)

    assert asyncio.run(main())["acc"] == 0.0
    assert asyncio.run(main(units="ignore"))["acc"] == 1.0
    assert asyncio.run(main(units="ignore", reward_router_address="x", reward_model_tokenizer=None))["acc"] == 1.0
    with pytest.raises(ValueError, match="the nearest known key is units"):
        asyncio.run(main(unit="ignore"))


def test_cancelled_callers_do_not_cancel_others(impatient):
    async def main():
        bomb = rf"\boxed{{{BOMBS['binomial']}}}"
        first = asyncio.create_task(impatient.ascore(bomb, GOLD))
        second = asyncio.create_task(impatient.ascore(bomb, GOLD))
        await asyncio.sleep(0.1)
        first.cancel()
        result = await second
        assert first.cancelled()
        return result

    assert asyncio.run(main())["timed_out"] == 1.0


def test_the_same_pair_gets_the_same_verdict_every_time():
    pairs = [(rf"\boxed{{\sin^2({k}x)+\cos^2({k}x)+{k}}}", str(k + k % 2)) for k in range(1, 12)]
    judges = [MathJudge(RewardConfig(cache_size=0)) for _ in range(2)]
    verdicts = [[judge.score(*pair)["reason"] for pair in pairs] for judge in judges for _ in range(2)]
    assert all(row == verdicts[0] for row in verdicts)
    assert len(set(verdicts[0])) == 2
