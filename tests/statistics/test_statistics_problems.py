"""Bootstrap intervals and sign-flip tests: by hand, against scipy, and coverage on data whose truth is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erpo_verl.statistics import (
    PRIMARY,
    Interval,
    bootstrap,
    bootstrap_all,
    crossed_bootstrap,
    interquartile_mean,
    judge,
    paired_sign_flip,
)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_as_scipy_gives_it(method) -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    x, y = rng.exponential(size=40), rng.exponential(size=40) + 1

    def ratio(a, b, axis):
        return a.sum(axis) / b.sum(axis)

    mine = bootstrap(x, y, method=method)
    theirs = stats.bootstrap(
        (x, y), ratio, paired=True, method=method.replace("bca", "BCa"), n_resamples=10_000, rng=1
    ).confidence_interval
    assert mine.value == pytest.approx(x.sum() / y.sum())
    assert mine.low == pytest.approx(
        theirs.low, abs=0.015
    )  # the draws differ: quantiles of 10,000 are good to about 0.004
    assert mine.high == pytest.approx(theirs.high, abs=0.025)
    assert bootstrap(x, y, method=method) == mine  # seeded
    assert bootstrap(x, y, method=method, seed=1) != mine


def test_all_ways_to_draw_two_problems() -> None:
    # Means of two draws from {0, 1}: 0 with 1/4, 0.5 with 1/2, 1 with 1/4.
    assert bootstrap([0, 1], method="percentile", level=0.4) == Interval(0.5, 0.5, 0.5, 2)
    assert bootstrap([0, 1], method="percentile", level=0.6) == Interval(0.5, 0.0, 1.0, 2)


@pytest.mark.parametrize(("method", "problems"), [("percentile", 120), ("bca", 120), ("bca", 30)])
def test_coverage(method, problems) -> None:
    """A 95% interval holds the true accuracy about 95 times of 100."""
    rng = np.random.default_rng(7)
    held = 0
    for i in range(300):
        difficulty = rng.beta(0.5, 0.8, size=problems)
        values = rng.binomial(4, difficulty) / 4
        found = bootstrap(values, method=method, resamples=1000, seed=i)
        held += found.low <= 0.5 / 1.3 <= found.high
    assert 0.90 <= held / 300 <= 0.99  # three standard errors are 0.038


def test_symmetric_figures_have_symmetric_intervals() -> None:
    """Draws equal to the observed figure count half, so that no bias is seen where there is none."""
    found = bootstrap([0, 1] * 10, method="bca")
    assert found.low + found.high == pytest.approx(1.0, abs=0.051)  # one step of the grid
    assert found.low > 0.2 and found.high < 0.8


def test_clusters_widen_the_interval_to_what_it_should_be() -> None:
    """Four copies of each problem say no more than one: the interval must be that of the 50 problems."""
    values = np.random.default_rng(0).random(50)
    copies, labels = np.repeat(values, 4), np.repeat(np.arange(50), 4)
    single, clustered, naive = bootstrap(values), bootstrap(copies, clusters=labels.tolist()), bootstrap(copies)
    assert (clustered.low, clustered.high) == pytest.approx((single.low, single.high), abs=1e-12)
    assert naive.high - naive.low < 0.6 * (single.high - single.low)


def test_several_figures_share_their_draws() -> None:
    values = np.random.default_rng(0).random(30)
    both = bootstrap_all({"a": (values, None), "twice": (2 * values, None), "one": (values, values)})
    alone = bootstrap(values)
    assert (both["a"].low, both["a"].high) == pytest.approx((alone.low, alone.high))
    assert (both["twice"].low, both["twice"].high) == pytest.approx((2 * both["a"].low, 2 * both["a"].high))
    assert both["one"] == Interval(1.0, None, None, 30)


def test_without_spread_there_is_no_interval() -> None:
    """All problems alike, or one alone, say nothing of how sure the figure is."""
    assert bootstrap([1, 1, 1]) == Interval(1.0, None, None, 3)
    assert bootstrap([0.25]) == Interval(0.25, None, None, 1)
    assert bootstrap([0.1] * 7).low is None and bootstrap([0.3 - 0.2, 0.1, 0.4 - 0.3]).low is None  # equal but for rounding


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "one numerator and denominator a problem"),
        (([1, 2], [1]), "shapes"),
        (([1, 2], [0, 0]), "denominators sum to 0"),
    ],
)
def test_refuses(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "normal"}, "percentile or bca"),
        ({"level": 1.0}, "level = 1.0"),
        ({"resamples": 0}, "resamples = 0"),
        ({"clusters": ["a"]}, "1 cluster labels for 2 problems"),
    ],
)
def test_refuses_options(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap([1, 2], **options)


# ---------------------------------------------------------------- paired


def test_paired_by_hand() -> None:
    # Differences 1, 1, 1, 0: of the 8 sign patterns of three, two (all +, all -) are as large as what was seen.
    found = paired_sign_flip([0, 0, 0, 1], [1, 1, 1, 1])
    assert (found.difference, found.p_value) == (0.75, 0.25)
    assert (found.pairs, found.a_better, found.b_better) == (4, 0, 3)
    assert found.low < 0.75 < found.high <= 1.0


@given(st.lists(st.integers(-4, 4), min_size=3, max_size=8).filter(lambda found: len(set(found)) > 1))
@settings(max_examples=60, deadline=None)
def test_few_differences_are_gone_through_exactly(differences) -> None:
    signs = list(itertools.product([-1, 1], repeat=len(differences)))
    expected = np.mean([abs(np.dot(s, differences)) >= abs(sum(differences)) for s in signs])
    found = paired_sign_flip(np.zeros(len(differences)), np.array(differences) / 4, resamples=10)
    assert found.p_value == pytest.approx(expected)


def test_many_differences_are_drawn_and_agree_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    a = rng.random(60)
    b = a + rng.normal(0.05, 0.2, size=60)
    theirs = stats.permutation_test((b - a,), np.mean, permutation_type="samples", n_resamples=10_000, rng=1).pvalue
    assert paired_sign_flip(a, b).p_value == pytest.approx(theirs, abs=0.02)


def test_no_difference_is_rarely_called_one() -> None:
    rng = np.random.default_rng(5)
    p_values = []
    for i in range(300):
        difficulty = rng.beta(0.6, 0.6, size=40)
        a, b = (rng.binomial(4, difficulty) / 4 for _ in range(2))
        p_values.append(paired_sign_flip(a, b, resamples=500, seed=i).p_value)
    assert np.mean(np.array(p_values) < 0.05) <= 0.09  # 0.05 and three standard errors
    assert 0.4 < np.mean(p_values) < 0.65


def test_drawn_p_values_are_never_zero() -> None:
    """The observed signs are one of the patterns: 1 of 51 here."""
    assert paired_sign_flip(np.zeros(30), np.arange(1, 31), resamples=50).p_value == 1 / 51


def test_same_figures_and_one_problem() -> None:
    same = paired_sign_flip([0.5, 1, 0], [0.5, 1, 0])
    assert (same.difference, same.low, same.p_value, same.why) == (0.0, None, None, "all 3 pairs are equal")
    assert paired_sign_flip([0], [1]).why == "1 pair, and it takes 3"
    two = paired_sign_flip([0, 0], [1, 0.5])
    assert (two.p_value, two.why, two.pairs) == (None, "2 pairs, and it takes 3", 2) and two.low is not None


def test_problems_that_all_differ_by_the_same_give_no_verdict() -> None:
    for shift in (0.1, 0.3 - 0.2):
        a = np.array([0.1, 0.2, 0.3, 0.6, 0.7])
        found = paired_sign_flip(a, a + shift)
        assert (found.low, found.p_value, found.why) == (None, None, "all 5 pairs differ by the same")
        assert judge([found], [PRIMARY])[0].verdict == "no verdict: all 5 pairs differ by the same"


def test_pairing_sees_what_two_intervals_do_not() -> None:
    rng = np.random.default_rng(0)
    a = rng.random(100)
    b = a + 0.03 + rng.normal(0, 0.02, size=100)
    assert bootstrap(a).high > bootstrap(b).low  # the two models' own intervals overlap
    found = paired_sign_flip(a, b)
    assert found.low > 0.02 and found.p_value < 0.001


def test_clustered_test_counts_clusters() -> None:
    a, b = np.zeros(40), np.linspace(0.1, 0.2, 40)
    assert paired_sign_flip(a, b).p_value < 0.001
    clustered = paired_sign_flip(a, b, clusters=[i % 3 for i in range(40)])
    assert clustered.pairs == 3 and paired_sign_flip(a, b, clusters=[i % 2 for i in range(40)]).p_value is None
    assert clustered.p_value == 0.25  # three clusters: 2 of 8 patterns
    assert clustered.b_better == 3
    with pytest.raises(ValueError, match="two figures a pair"):
        paired_sign_flip([1], [1, 2])


def test_the_interquartile_mean_is_that_of_the_middle_half() -> None:
    values = [9.0, 1.0, 2.0, 3.0, 4.0, -50.0, 5.0, 6.0]
    assert interquartile_mean(values) == pytest.approx((2 + 3 + 4 + 5) / 4)
    assert interquartile_mean([values, [1.0] * 8]).tolist() == pytest.approx([3.5, 1.0])


def test_the_crossed_bootstrap_draws_runs_and_problems() -> None:
    rng = np.random.default_rng(3)
    runs, problems = rng.normal(0.1, 0.05, size=(10, 1)), rng.normal(0.0, 0.4, size=(1, 80))
    found = crossed_bootstrap(runs + problems, lambda means: means.mean(axis=-1), seed=1)
    # mean of a sum of independent parts: its variance is that of both means
    spread = np.sqrt(runs.var() / 10 + problems.var() / 80)
    assert found.value == pytest.approx(runs.mean() + problems.mean()) and found.count == 10
    assert (found.high - found.low) / (2 * 1.96 * spread) == pytest.approx(1.0, abs=0.05)
    assert crossed_bootstrap([[0.5, 0.25]]).low is None
    for wrong in ([], [[]], [0.5], [[0.5, np.nan]]):
        with pytest.raises(ValueError, match="one a run and problem"):
            crossed_bootstrap(wrong)
