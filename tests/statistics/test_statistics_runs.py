"""t intervals, paired t tests, Holm and verdicts: by hand, against independent references, and on data without any difference."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from erpo_verl.statistics import (
    ALPHA,
    DESCRIPTIVE,
    MIN_PAIRS,
    PRIMARY,
    SECONDARY,
    Paired,
    holm,
    judge,
    paired_t,
    t_interval,
)

NUMBERS = st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=3, max_size=12)


# ---------------------------------------------------------------- intervals and tests


def test_paired_difference_by_hand():
    found = paired_t([0.50, 0.60, 0.70], [0.53, 0.62, 0.74])
    # Differences .03 .02 .04: mean .03, sd .01, error .01/sqrt(3); t(0.975, 2) = 4.302653; t = 5.196152.
    assert (found.pairs, found.a_better, found.b_better) == (3, 0, 3) and found.difference == pytest.approx(0.03)
    half = 4.302653 * 0.01 / math.sqrt(3)
    assert (found.low, found.high) == (pytest.approx(0.03 - half, rel=1e-6), pytest.approx(0.03 + half, rel=1e-6))
    # With two degrees of freedom the two-sided p is 1 - t / sqrt(t^2 + 2).
    t = math.sqrt(27)
    assert found.p_value == pytest.approx(1 - t / math.sqrt(t * t + 2), rel=1e-9) and found.why == ""


@given(NUMBERS)
def test_as_scipy_gives_it(pairs):
    a, b = (np.array(side) for side in zip(*pairs, strict=True))
    assume(np.std(b - a, ddof=1) > 1e-3)
    found, theirs = paired_t(a, b), stats.ttest_rel(b, a)
    low, high = theirs.confidence_interval(0.95)
    assert found.p_value == pytest.approx(theirs.pvalue, rel=1e-9, abs=1e-15)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))
    back = paired_t(b, a)
    assert back.difference == pytest.approx(-found.difference) and back.p_value == pytest.approx(found.p_value)
    assert (back.low, back.high) == (pytest.approx(-found.high), pytest.approx(-found.low))
    # The interval holds 0 exactly where the test does not reject.
    assume(abs(found.p_value - 0.05) > 1e-9)
    assert (found.low <= 0 <= found.high) == (found.p_value > 0.05)


def test_interval_by_hand():
    found = t_interval([1.0, 3.0])  # sd sqrt(2), error 1, t(0.975, 1) = 12.706205
    assert (found.value, found.half, found.count) == (2.0, pytest.approx(12.706205, rel=1e-6), 2)
    assert (found.low, found.high) == (pytest.approx(2 - 12.706205, rel=1e-6), pytest.approx(2 + 12.706205, rel=1e-6))
    for values in ([4.0], [4.0] * 5, [0.1 + 0.2, 0.3]):
        assert t_interval(values).half is None and t_interval(values).count == len(values)
    assert math.isnan(t_interval([]).value) and t_interval([]).low is None


# ---------------------------------------------------------------- what says nothing


@pytest.mark.parametrize(("a", "b", "why"), [
    ([], [], "no pair"),
    ([0.5], [0.9], "1 pair, and it takes 3"),
    ([0.5, 0.6], [0.9, 0.95], "2 pairs, and it takes 3"),
    ([0.5, 0.6, 0.7], [0.53, 0.63, 0.73], "all 3 pairs differ by the same"),
    ([0.1, 0.2, 0.3, 0.4], [0.4, 0.5, 0.6, 0.7], "all 4 pairs differ by the same"),
    ([0.5, 0.6, 0.7], [0.5, 0.6, 0.7], "all 3 pairs are equal"),
    ([1e9, 2e9, 3e9], [1e9 + 1, 2e9 + 2, 3e9 + 1.5], "all 3 pairs are equal"),
])  # fmt: skip
def test_pairs_that_give_no_verdict(a, b, why):
    found = paired_t(a, b)
    assert (found.p_value, found.why) == (None, why)
    for role in (PRIMARY, SECONDARY):
        (judged,) = judge([found], [role])
        assert judged.verdict == f"no verdict: {why}" and not judged.told_apart and judged.adjusted is None


def test_two_pairs_have_an_interval_and_equal_pairs_have_none():
    assert paired_t([0.5, 0.6], [0.6, 0.65]).low < -0.1
    assert paired_t([0.5, 0.6], [0.6, 0.7]).low is None and paired_t([0.5, 0.6, 0.7], [0.6, 0.7, 0.8]).low is None


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=8), st.integers(-1000, 1000), st.sampled_from([np.float32, np.float64]))
def test_a_shift_is_never_a_verdict_however_it_is_rounded(counts, shift, kind):
    """The same difference in every pair, as a float32 metric or a division leaves it."""
    a = [float(kind(count / 1000)) for count in counts]
    b = [float(kind((count + shift) / 1000)) for count in counts]
    found = paired_t(a, b)
    assert found.p_value is None and found.low is None and judge([found], [PRIMARY])[0].verdict.startswith("no verdict")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_none_are_refused(bad):
    with pytest.raises(ValueError, match="finite"):
        paired_t([0.1, bad, 0.2], [0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="shapes"):
        paired_t([0.1, 0.2], [0.1])


# ---------------------------------------------------------------- without a difference


def normal(rng, size):
    return rng.normal(0.5, 0.03, size=size)


def validation(rng, size):
    """Accuracy on 60 problems: on a grid."""
    return rng.binomial(60, 0.3, size=size) / 60


def lopsided(rng, size):
    return rng.lognormal(0, 1, size=size)


@pytest.mark.parametrize("draw", [normal, validation, lopsided])
@pytest.mark.parametrize("pairs", range(MIN_PAIRS, 11))
def test_no_difference_is_called_one_at_most_one_time_in_twenty(draw, pairs):
    rng, tries = np.random.default_rng([pairs, 1]), 1500
    found = [paired_t(draw(rng, pairs), draw(rng, pairs)) for _ in range(tries)]
    rate = np.mean([judge([one], [PRIMARY])[0].told_apart for one in found])
    assert rate <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / tries)


def test_a_family_without_a_difference_is_called_one_at_most_one_time_in_twenty():
    """Six secondary endpoints, half of them the same numbers again, as accuracies at a step and at a budget nearly are."""
    rng, tries, hits = np.random.default_rng(3), 1500, 0
    for _ in range(tries):
        found = [paired_t(normal(rng, 5), normal(rng, 5)) for _ in range(3)]
        hits += any(one.told_apart for one in judge([*found, *found], [SECONDARY] * 6))
    assert hits / tries <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / tries)


def test_a_real_difference_is_found():
    rng = np.random.default_rng(0)
    a = rng.normal(0.5, 0.1, size=8)
    assert judge([paired_t(a, a + rng.normal(0.05, 0.01, size=8))], [PRIMARY])[0].verdict == "distinguishable from noise"


# ---------------------------------------------------------------- Holm and families


def test_holm_by_hand():
    # In order .01 x 4, .02 x 3, .03 x 2, .20 x 1, each at least the one before.
    assert holm([0.03, 0.01, 0.20, 0.02]) == pytest.approx([0.06, 0.04, 0.20, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=7))
@settings(max_examples=60, deadline=None)
def test_holm_is_bonferroni_over_every_subset(ps):
    """Closed testing: a hypothesis falls where Bonferroni rejects every intersection that it is part of."""
    expected = [
        max(
            min(1.0, len(chosen) * min(ps[j] for j in chosen))
            for size in range(1, len(ps) + 1)
            for chosen in itertools.combinations(range(len(ps)), size)
            if i in chosen
        )
        for i in range(len(ps))
    ]
    assert holm(ps) == pytest.approx(expected)


@given(st.lists(st.floats(0, 1), max_size=10), st.randoms())
def test_holm_depends_on_no_order_and_only_raises(ps, random):
    adjusted = holm(ps)
    assert all(p <= q <= 1 for p, q in zip(ps, adjusted, strict=True))
    order = list(range(len(ps)))
    random.shuffle(order)
    assert holm([ps[i] for i in order]) == pytest.approx([adjusted[i] for i in order])


def one(p: float | None) -> Paired:
    return Paired(0.1, 0.0, 0.2, p, 5, 0, 5, "" if p is not None else "no pair")


def test_each_family_is_corrected_for_itself_and_the_rest_is_only_described():
    roles = [PRIMARY, SECONDARY, DESCRIPTIVE, SECONDARY, SECONDARY]
    found = judge([one(0.04), one(0.02), one(0.001), one(0.03), one(None)], roles)
    assert [x.adjusted for x in found] == [0.04, 0.04, None, 0.04, None]
    assert [x.role for x in found] == roles
    assert [x.verdict for x in found] == [
        "distinguishable from noise", "distinguishable from noise", "", "distinguishable from noise", "no verdict: no pair",
    ]  # fmt: skip
    assert not found[2].told_apart
    found = judge([one(0.03), one(0.04), one(0.06)], [PRIMARY] * 3)  # three arms in the primary endpoint
    assert [x.adjusted for x in found] == pytest.approx([0.09, 0.09, 0.09])
    assert [x.verdict for x in found] == ["not distinguishable after Holm's correction"] * 2 + ["not distinguishable from noise"]
    with pytest.raises(ValueError):
        judge([one(0.1)], [])
