"""What runs in the caller is linear, bounded and total: former hangs and exceptions, faults that are injected, and grouping."""

from __future__ import annotations

import itertools
import logging
import time
from concurrent.futures import Future

import pytest
from erpo_verl.reward import MathJudge, Reason, RewardConfig, RewardSetupError, group_answers
from erpo_verl.reward import judge as judge_module

# Responses that once hung the caller, took seconds there, or made `score` raise.
FORMER_FAULTS = [
    (r"\boxed{" + "a_{n}+" * 16 + "5=42}", "42"),
    (r"\boxed{" + "a_{n}+" * 150 + "5=42}", "42"),
    (r"\boxed{" + "a_{n};" * 24 + "5=42}", "C"),
    (r"\boxed{\overline{x_1}+\e{x_1}{x_1}{x_1}e{_1}e{_1}+{x_1}+{_1}+{x_1}+{x_1}+{x_1}+{x_1}ve{x_1}+{x_1}+5=42}", r"50\%"),
    (r"\boxed{10^{400}}", "2.5"),
    (r"\boxed{2.5}", "10^{400}"),
    (r"\boxed{1e999999999}", "2.5"),
    (r"\boxed{" + "+".join(rf"\frac{{1}}{{{p}^{{1999}}}}" for p in (3, 7, 11, 13, 5)) + "}", "42"),
    (r"\boxed{" + "+".join(f"(x+{k})^{{60}}" for k in range(30)) + "}", "42"),
    (r"\boxed{\{" + ",".join(f"(x+{k})^{{60}}" for k in range(24)) + r"\}}", r"\{1,2\}"),
    (r"\boxed{" + "9" * 900 + "}", "1/3"),
    (r"\boxed{\frac{" + "1" * 400 + "}{" + "7" * 400 + "}}", "0.5"),
    (r"\boxed{" + "1," * 400 + "}", "1"),
    (r"\boxed{" + "0.3333333333" * 80 + "}", "1/3"),
]


def without_workers(config: RewardConfig | None = None) -> MathJudge:
    """A judge whose workers say `wrong` at once, so that all time is the caller's own."""

    class StandIn:
        def submit(self, _request):
            future: Future = Future()
            future.set_result({"reason": "wrong", "pred": "x"})
            return future

        def start(self):
            pass

    judge = MathJudge(config or RewardConfig(cache_size=0))
    judge._pool = StandIn
    return judge


@pytest.mark.parametrize(("response", "gold"), FORMER_FAULTS)
def test_former_hangs_and_exceptions(response, gold):
    judge = without_workers()
    started = time.process_time()
    result = judge.score(response, gold)
    assert time.process_time() - started < 0.1
    assert result["acc"] == 0.0 and result["reason"] != Reason.FAILED and len(result["pred"]) <= 200


@pytest.mark.parametrize(("response", "gold"), FORMER_FAULTS)
def test_the_workers_bear_them_too(impatient, response, gold):
    result = impatient.score(response, gold)
    assert result["acc"] == 0.0 and result["ungradeable"] == 0.0


@pytest.mark.parametrize("place", ["find_answer", "gold_answers", "read_number"])
def test_an_exception_inside_is_a_verdict_and_logged_with_the_answer(monkeypatch, caplog, place):
    def broken(*_arguments):
        raise ValueError("a fault that was injected")

    monkeypatch.setattr(judge_module, place, broken)
    judge = without_workers()
    with caplog.at_level(logging.WARNING):
        results = judge.score_many([(r"\boxed{43}", "42")] * 3)
    for result in results:
        assert result["reason"] == Reason.FAILED and result["ungradeable"] == 1.0 and result["score"] == 0.0
    assert judge.counters.snapshot()["reward/ungradeable/mean"] == 1.0
    assert "43" in caplog.text and "a fault that was injected" in caplog.text


def test_what_is_ungradeable_and_what_is_not(impatient):
    assert impatient.score(r"\boxed{42}", "")["ungradeable"] == 1.0
    assert impatient.score(r"\boxed{42}", r"\frac{1}{")["ungradeable"] == 1.0
    for response in (r"\boxed{43}", "42", r"\boxed{\frac{1}{}", r"\boxed{42?}", None):
        assert impatient.score(response, "42")["ungradeable"] == 0.0
    bomb = impatient.score(r"\boxed{\binom{99999999}{49999999}}", "42")
    assert bomb["timed_out"] == 1.0 and bomb["ungradeable"] == 0.0  # a time-out is wrong


def test_workers_that_cannot_be_started_any_more_are_ungradeable_and_at_first_an_error():
    judge = without_workers()
    broken: Future = Future()
    broken.set_exception(RewardSetupError("no more processes"))
    standing = judge._pool
    judge._pool = lambda: type("Broken", (), {"submit": staticmethod(lambda _request: broken), "start": staticmethod(lambda: None)})
    with pytest.raises(RewardSetupError):
        judge.score(r"\boxed{x}", "42")
    hopeless, judge._pool = judge._pool, standing
    assert judge.score(r"\boxed{x}", "42")["ungradeable"] == 0.0
    judge._pool = hopeless
    result = judge.score(r"\boxed{y}", "42")
    assert result["ungradeable"] == 1.0 and result["reason"] == Reason.FAILED
    assert judge.score(r"\boxed{42}", "42")["acc"] == 1.0  # what needs no worker is judged on


def test_a_response_is_judged_by_its_marked_answer_where_that_is_asked_for():
    def score(text, **settings):
        return without_workers(RewardConfig(**settings)).score(text, "42")

    dapo = "Let us see, \\boxed{41}.\n\nAnswer: 42\n"
    assert score(dapo)["acc"] == 0.0
    assert score(dapo, answer_forms="any")["acc"] == 0.0  # a box goes before
    assert score(dapo, answer_forms="marked")["acc"] == 1.0
    assert score("Answer: $42$", answer_forms="any")["acc"] == 1.0
    assert score("**Answer:** 42", answer_forms="marked")["acc"] == 1.0
    assert score(r"Answer: \boxed{42}", answer_forms="marked")["acc"] == 1.0
    assert score(r"\boxed{42}", answer_forms="marked")["reason"] == Reason.NO_BOX
    assert score("42", answer_forms="any")["reason"] == Reason.NO_BOX


def test_answers_are_grouped_by_the_judges_own_equality(judge):
    assert judge.group_answers(["1/2", "0.5", "2", r"\frac{2}{4}", "2.0", ""]) == [0, 0, 1, 0, 1, 2]
    assert judge.group_answers(["(x-1)(x+1)", "x^2-1", "x^2+1", "x^2 - 1"]) == [0, 0, 1, 0]
    assert judge.group_answers([r"\text{Monday}", "monday", "Tuesday"]) == [0, 0, 1]
    assert judge.group_answers(["1, 2", "2,1", r"\{1,2\}", "(1,2)"])[:3] == [0, 0, 0]
    assert judge.group_answers(["42?", "42", "41 or 42", "42?"]) == [0, 1, 2, 0]
    assert judge.group_answers(["", "1", "1.0", None, "2"]) == [0, 1, 1, 0, 2]
    assert judge.group_answers([]) == [] and group_answers(["7", "7."]) == [0, 0]


def test_a_reference_answer_that_cannot_be_read_is_said_and_an_answer_in_a_vote_is_no_reference(caplog):
    judge = MathJudge(RewardConfig())
    with caplog.at_level(logging.WARNING):
        assert judge.group_answers(["x^{", r"\frac", "2", "2.0"]) == [0, 1, 2, 2]
        assert not caplog.records
        assert judge.score(r"\boxed{2}", "x^{")["reason"] == Reason.GOLD_UNREADABLE
    assert "cannot read this reference answer: 'x^{'" in caplog.text


@pytest.mark.parametrize(
    ("answers", "classes"),
    [
        (["50", r"50\%", "0.5"], [{"50"}, {r"50\%", "0.5"}]),
        (["101", "101_2", "101_3", "5"], [{"101"}, {"101_2", "5"}, {"101_3"}]),
        (["10", r"10\text{ cm}", "0.1", r"0.1\text{ m}"], [{"10", r"10\text{ cm}"}, {"0.1", r"0.1\text{ m}"}]),
    ],
)
def test_classes_do_not_depend_on_the_order(judge, answers, classes):
    """Being right is not transitive (by 50% both 50 and 0.5 are); the classes are, whoever comes first."""
    for order in itertools.permutations(answers):
        numbers = judge.group_answers([*order, order[0]])
        found = [{answer for answer, other in zip(order, numbers, strict=False) if other == number} for number in sorted(set(numbers))]
        assert sorted(map(sorted, found)) == sorted(map(sorted, classes))
        assert numbers[0] == 0 and numbers[-1] == 0


def test_grouping_never_raises_and_is_bounded(impatient, monkeypatch):
    hostile = [r"\binom{99999999}{49999999}", "\ud800", "", None, "9" * 5000, "{" * 300, r"\frac{1}{" * 50]
    assert sorted(set(impatient.group_answers(hostile))) == list(range(6))  # the empty text and None are one
    asked = []
    many = without_workers()
    monkeypatch.setattr(judge_module, "shared_judge", lambda _config: many)
    ask = many._ask
    many._ask = lambda gold, answer: asked.append(1) or ask(gold, answer)
    assert many.group_answers([f"x^{{{k}}}" for k in range(100)]) == list(range(100))
    assert len(asked) <= 200
