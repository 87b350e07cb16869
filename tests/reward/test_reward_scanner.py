"""The scanner finds the last balanced box, in linear time, in whatever text."""

from __future__ import annotations

import time

import pytest
from erpo_verl.reward import Reason, RewardConfig
from erpo_verl.reward.scanner import find_answer, find_boxes
from hypothesis import given, settings
from hypothesis import strategies as st
from reward_hostile import RESPONSES

DEFAULT = RewardConfig()


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{1} or \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{\boxed{42}}", "42"),
        (r"\boxed{ \boxed{ 42 } }", "42"),
        (r"\boxed{41 \boxed{42}}", r"41 \boxed{42}"),
        (r"\boxed{\frac{1}{\boxed{2}}}", r"\frac{1}{\boxed{2}}"),
        (r"\boxed 7$", "7"),
        (r"\boxed{7", None),
        (r"\boxed{6} then \boxed{7", "6"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{\text{a \} b}}", r"\text{a \} b}"),
        (r"\boxed{1 \\}", "1 \\\\"),
        (r"\boxed{a}}}", "a"),
        (r"{{{ \boxed{a}", "a"),
        (r"\fbox{3}", "3"),
        (r"\boxed {3}", "3"),
        (r"\boxedx{3}", None),
        (r"\boxed{}", None),
        ("nothing", None),
        (r"<think>\boxed{1}</think>\boxed{2}", "2"),
        (r"<think>\boxed{1}</think> no box", None),
        (r"<think>a</think>\boxed{1}<think>\boxed{2}", None),
        (r"no opening tag \boxed{1}</think>\boxed{2}", "2"),
    ],
)
def test_the_last_box_counts(text, answer):
    assert find_answer(text, DEFAULT).answer == answer


def test_reasons_and_flags():
    def found(text, **settings):
        return find_answer(text, RewardConfig(**settings))

    assert found(r"\boxed{7").reason is Reason.TRUNCATED and found(r"\boxed{7").truncated
    assert found("7").reason is Reason.NO_BOX and not found("7").truncated
    assert found(r"<think>\boxed{7}").reason is Reason.UNCLOSED_THINK
    assert found(r"<think>\boxed{7}", unclosed_think="ignore").answer == "7"
    assert found(r"\boxed{7}", require_think=True).reason is Reason.UNCLOSED_THINK
    assert found(r"a</think>\boxed{7}", require_think=True).answer == "7"
    assert found(r"\boxed{}").reason is Reason.EMPTY
    assert found(r"\boxed{" + "7" * 1001 + "}").reason is Reason.TOO_LONG
    assert found(r"\boxed{7}").format_ok and not found(r"\boxed{6}\boxed{7").format_ok


def test_several_boxes_by_policy():
    scattered = r"first \boxed{1}, which gives in the end \boxed{2}"
    listed = r"either \boxed{1} or $\boxed{2}$"
    assert find_answer(scattered, DEFAULT).answer == "2" and find_answer(scattered, DEFAULT).joined is None
    assert find_answer(listed, DEFAULT).answer == "2" and find_answer(listed, DEFAULT).joined == "1 or 2"
    assert find_answer(listed, RewardConfig(several_boxes="last")).joined is None
    assert find_answer(r"\boxed{2} so \boxed{ 2 }", DEFAULT).joined is None


def test_markers_only_where_allowed():
    text = "so it is\n#### 1,234\n"
    assert find_answer(text, DEFAULT).reason is Reason.NO_BOX
    marked = RewardConfig(answer_forms="any")
    assert find_answer(text, marked).answer == "1,234"
    assert find_answer("The answer is: **17**.", marked).answer == "17"
    assert find_answer(r"#### 5 but \boxed{6}", marked).answer == "6"


@pytest.mark.parametrize("name", RESPONSES)
def test_hostile_responses_take_linear_time(name):
    started = time.perf_counter()
    find_answer(RESPONSES[name], DEFAULT)
    assert time.perf_counter() - started < 1.0


def _boxes_by_definition(text: str) -> list[tuple[int, int]]:
    """Slow and obvious: for every `\\boxed{`, walk to the brace that closes it; keep those inside no other."""
    spans = []
    at = text.find("\\boxed{")
    while at >= 0:
        depth, place = 1, at + len("\\boxed{")
        while place < len(text) and depth:
            if text[place] == "\\":
                place += 2
                continue
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            place += 1
        if not depth:
            spans.append((at, place))
        at = text.find("\\boxed{", at + 1)
    return [span for span in spans if not any(o[0] < span[0] and span[1] <= o[1] for o in spans if o != span)]


PIECES = st.sampled_from(["\\boxed{", "{", "}", "\\{", "\\}", "\\\\", "a", "$", "\n", "1", "\\frac{", " "])


@settings(max_examples=400, deadline=None)
@given(st.lists(PIECES, max_size=40).map("".join))
def test_agrees_with_the_definition(text):
    boxes, _unclosed = find_boxes(text)
    assert [(box[0], box[3]) for box in boxes] == _boxes_by_definition(text)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200))
def test_never_raises(text):
    for settings_ in ({}, {"several_boxes": "last", "answer_forms": "any"}, {"answer_forms": "marked"}):
        find_answer(text + "\\boxed{" + text, RewardConfig(**settings_))
        find_answer("\\boxed{" + text + "}" + text, RewardConfig(**settings_))
