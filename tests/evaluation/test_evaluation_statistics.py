"""avg@k, pass@k, maj@k and lengths: by hand, against enumeration of all subsets, and against verl's own figures."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erpo_verl.evaluation.statistics import (
    ProblemSamples,
    best_with_replacement,
    majority_at_k,
    majority_with_replacement,
    pass_at_k,
    powers_of_two,
    problem_values,
    summarize,
    validation_metrics,
)

ANSWERS = st.lists(st.sampled_from(["", "a", "b", "c", "d"]), min_size=1, max_size=8)


def problem(acc, predictions=None, *, lengths=None, finished=None, source="set", level=None, scores=None, id="p"):
    n = len(acc)
    return ProblemSamples(
        id=id,
        source=source,
        level=level,
        acc=acc,
        predictions=predictions or [str(i) for i in range(n)],
        lengths=lengths or [10] * n,
        finished=finished or [True] * n,
        scores=scores,
    )


def vote(answers, right, chosen):
    """The value of the majority of some samples, written as one would say it."""
    votes = {}
    for i in chosen:
        votes.setdefault(answers[i], []).append(i)
    most = max(map(len, votes.values()))
    first = [answer for answer, members in votes.items() if len(members) == most]
    worth = {a: 0.0 if a == "" else np.mean([r for x, r in zip(answers, right, strict=True) if x == a]) for a in first}
    return sum(worth.values()) / len(first)


# ---------------------------------------------------------------- pass@k


def test_pass_at_k_by_hand() -> None:
    # n = 4, c = 1: C(3, 2) / C(4, 2) = 3 / 6. n = 5, c = 2: C(3, 2) / C(5, 2) = 3 / 10.
    assert pass_at_k(4, 1, 2) == pytest.approx(0.5)
    assert pass_at_k([4, 5], [1, 2], 2).tolist() == pytest.approx([0.5, 0.7])
    assert pass_at_k(16, [0, 1, 16], 16).tolist() == [0.0, 1.0, 1.0]
    assert pass_at_k([8, 8], [3, 8], 1).tolist() == [0.375, 1.0]


@given(st.integers(1, 9), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(n, data) -> None:
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    subsets = list(itertools.combinations([True] * c + [False] * (n - c), k))
    assert float(pass_at_k(n, c, k)) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-12)


def test_pass_at_k_stays_exact_where_binomials_overflow() -> None:
    # C(2000, 1000) is about 2e600. With one right sample the probability is k / n.
    assert float(pass_at_k(2000, 1, 1000)) == pytest.approx(0.5, rel=1e-12)
    assert float(pass_at_k(10_000, 3, 100)) == pytest.approx(
        1 - math.comb(9997, 100) / math.comb(10_000, 100), rel=1e-10
    )


@pytest.mark.parametrize(("n", "c", "k"), [(4, 1, 5), (4, 1, 0), ([4, 8], [1, 1], 6), (4, 5, 2), (4, -1, 2)])
def test_pass_at_k_refuses(n, c, k) -> None:
    with pytest.raises(ValueError, match=r"k = |right"):
        pass_at_k(n, c, k)


def test_pass_at_k_is_unbiased_and_best_with_replacement_is_not() -> None:
    # A model that is right with probability 0.2 a sample: 4 fresh samples hold a right one with probability 0.5904.
    rng = np.random.default_rng(0)
    rows = rng.random((20_000, 8)) < 0.2
    counts = rows.sum(1)
    unbiased = pass_at_k(8, counts, 4).mean()
    resampled = np.mean([best_with_replacement(row.astype(float), 4) for row in rows[:4000]])
    assert unbiased == pytest.approx(1 - 0.8**4, abs=0.008)  # standard error 0.0026
    assert resampled < 1 - 0.8**4 - 0.05  # 0.53: low by construction


# ---------------------------------------------------------------- maj@k


def test_majority_by_hand() -> None:
    answers, right = ["7", "7", "3", ""], [1, 1, 0, 0]
    assert majority_at_k(answers, right, 4) == 1.0
    # Three of four: without one 7 a three-way tie (1/3), twice; without 3 or without "" the two 7 win.
    assert majority_at_k(answers, right, 3) == pytest.approx((1 / 3 + 1 / 3 + 1 + 1) / 4)
    assert majority_at_k(answers, right, 1) == pytest.approx(0.5)
    assert majority_at_k(["1", "2"], [1, 0], 2) == 0.5


def test_no_answer_votes_and_is_never_right() -> None:
    assert majority_at_k(["", "", "5"], [0, 0, 1], 3) == 0.0
    assert majority_at_k(["", "", "5"], [1, 1, 1], 3) == 0.0
    assert majority_at_k(["", "5"], [0, 1], 2) == 0.5


@given(ANSWERS, st.data())
@settings(max_examples=150, deadline=None)
def test_majority_is_the_mean_over_all_subsets(answers, data) -> None:
    k = data.draw(st.integers(1, len(answers)))
    right = data.draw(st.lists(st.integers(0, 1), min_size=len(answers), max_size=len(answers)))
    subsets = list(itertools.combinations(range(len(answers)), k))
    expected = np.mean([vote(answers, right, chosen) for chosen in subsets])
    assert majority_at_k(answers, right, k) == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.sampled_from(["", "a", "b", "c"]), min_size=1, max_size=4), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_majority_with_replacement_is_the_mean_over_all_draws(answers, k) -> None:
    right = [float(answer == "a") for answer in answers]
    expected = np.mean([vote(answers, right, chosen) for chosen in itertools.product(range(len(answers)), repeat=k)])
    assert majority_with_replacement(answers, right, k) == pytest.approx(expected, abs=1e-12)


def test_many_samples_are_estimated() -> None:
    rng = np.random.default_rng(1)
    answers = [str(x) for x in rng.choice(5, p=[0.3, 0.28, 0.2, 0.12, 0.1], size=300)]
    right = [answer == "0" for answer in answers]
    estimate = majority_at_k(answers, right, 9)
    drawn = [vote(answers, right, rng.choice(300, 9, replace=False)) for _ in range(4000)]
    assert estimate == pytest.approx(np.mean(drawn), abs=0.035)  # four standard errors of each mean
    assert majority_at_k(answers, right, 9) == estimate  # seeded
    assert majority_at_k(answers, right, 9, seed=1) != estimate
    # k = n is never estimated.
    votes = {a: answers.count(a) for a in answers}
    assert majority_at_k(answers, right, 300) == float(max(votes, key=votes.get) == "0")


@pytest.mark.parametrize("k", [0, 4])
def test_majority_refuses(k) -> None:
    with pytest.raises(ValueError, match=f"k = {k}: must be between 1 and the number of samples, 3"):
        majority_at_k(["1", "2", "3"], [1, 0, 0], k)


# ---------------------------------------------------------------- summaries


def test_summary_by_hand() -> None:
    rows = [
        problem([1, 0, 0, 0], ["5", "6", "6", "7"], lengths=[4, 8, 10, 12], finished=[True, True, True, False]),
        problem([1, 1, 1, 1], ["2"] * 4, lengths=[2, 2, 2, 4], id="q"),
    ]
    found = summarize(rows)
    assert (found["problems"], found["samples"], found["n"]) == (2, 8, 4)
    assert found["avg"] == pytest.approx((0.25 + 1) / 2)
    assert found["pass"] == pytest.approx({1: 0.625, 2: 0.75, 4: 1.0})
    assert found["maj"] == pytest.approx(
        {1: 0.625, 2: 0.5 * (majority_at_k(rows[0].predictions, rows[0].right, 2) + 1), 4: 0.5}
    )
    assert found["length"] == pytest.approx(
        {"mean": 44 / 8, "median": 4.0, "cut_off": 1 / 8, "right": 14 / 5, "wrong": 10.0}
    )
    # Only the first problem has both kinds: its wrong samples are 6 tokens longer, though over all samples it is 7.2.
    assert found["length_within"] == {"problems": 1, "right": 4.0, "wrong": 10.0, "wrong_minus_right": 6.0}
    assert found["tokens_per_solved"] == pytest.approx(44 / 5)


def test_summary_where_nothing_is_right() -> None:
    found = summarize([problem([0, 0], ["", ""])])
    assert found["avg"] == 0 and found["tokens_per_solved"] is None and found["length"]["right"] is None
    assert found["length_within"] == {"problems": 0, "right": None, "wrong": None, "wrong_minus_right": None}


def test_problems_with_different_numbers_of_samples() -> None:
    found = summarize([problem([1, 0, 0, 0]), problem([1, 0])], ks=[1, 2, 4])
    assert list(found["pass"]) == [1, 2] and found["n"] == 2
    assert found["pass"][2] == pytest.approx((0.5 + 1) / 2)
    with pytest.raises(ValueError, match="no problems"):
        summarize([])


def test_powers_of_two() -> None:
    assert [powers_of_two(n) for n in (1, 2, 6, 16)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8, 16]]


@pytest.mark.parametrize("name", ["predictions", "lengths", "finished", "scores"])
def test_sequences_of_different_length_are_refused(name) -> None:
    values = {"acc": [1, 0], "predictions": ["1", "2"], "lengths": [1, 2], "finished": [True, True], "scores": [1, 0]}
    with pytest.raises(ValueError, match=f"problem p7: 1 {name} for 2 samples"):
        ProblemSamples(id="p7", source="s", **{**values, name: values[name][:1]})


def test_problem_values_average_to_the_summary() -> None:
    rng = np.random.default_rng(0)
    rows = [problem(list(rng.integers(0, 2, 8)), [str(x) for x in rng.integers(0, 3, 8)]) for _ in range(20)]
    values, found = problem_values(rows, [2, 4]), summarize(rows, [2, 4])
    assert values["pass@4"].mean() == pytest.approx(found["pass"][4])
    assert values["maj@2"].mean() == pytest.approx(found["maj"][2])


# ---------------------------------------------------------------- under verl's names


def test_validation_metrics_by_hand() -> None:
    rows = [
        problem([1, 0], ["1", "2"], lengths=[3, 5], finished=[True, False], source="x", scores=[1.5, -0.5]),
        problem([0, 0], ["", ""], lengths=[7, 9], source="x", scores=[0, 0]),
    ]
    assert validation_metrics(rows) == pytest.approx(
        {
            "val-core/x/acc/mean@2": 0.25,
            "val-aux/x/acc/std@2": 0.25,
            "val-core/x/acc/best@2/mean": 0.375,  # (1 - (1/2)^2) / 2: verl's, low
            "val-aux/x/acc/worst@2/mean": 0.125,
            "val-core/x/acc/maj@2/mean": 0.25,
            "val-aux/x/reward/mean@2": 0.25,
            "val-aux/x/reward/std@2": 0.5,
            "val-aux/x/reward/best@2/mean": 0.5,
            "val-aux/x/reward/worst@2/mean": 0.0,
            "val-aux/x/reward/maj@2/mean": 0.25,
            "val-aux/x/acc/pass@2": 0.5,
            "val-aux/x/acc/majority@2": 0.25,
            "val-aux/x/response_length/mean": 6.0,
            "val-aux/x/response_length/median": 6.0,
            "val-aux/x/response_length/clip_ratio": 0.25,
            "val-aux/x/response_length_right/mean": 3.0,
            "val-aux/x/response_length_wrong/mean": 7.0,
            "val-aux/x/right_per_1k_tokens": 1000 / 24,
        }
    )


def test_validation_with_one_sample_has_verls_single_name_of_accuracy() -> None:
    found = validation_metrics([problem([1], source="a"), problem([0], source="b")])
    assert {name for name in found if "/acc/" in name} == {"val-core/a/acc/mean@1", "val-core/b/acc/mean@1"}
    empty = {"val-aux/a/response_length_wrong/mean", "val-aux/b/response_length_right/mean"}
    assert {name for name, value in found.items() if math.isnan(value)} == empty  # of no samples there is no mean
    assert found["val-aux/b/right_per_1k_tokens"] == 0.0  # a rate, and it is zero


def test_validation_refuses_unequal_numbers_of_samples() -> None:
    with pytest.raises(ValueError, match=r"s: problems with \[1, 2\] samples"):
        validation_metrics([problem([1], source="s"), problem([1, 0], source="s")])


def test_verl_gives_the_same_names_and_values() -> None:
    """verl estimates best, worst and maj with 1,000 draws a problem; ours are the expectations of those draws."""
    metric_utils = pytest.importorskip("verl.trainer.ppo.metric_utils")
    rng = np.random.default_rng(3)
    rows, sources, uids, infos = [], [], [], {"acc": [], "pred": [], "reward": []}
    for i in range(60):
        predictions = [["", "a", "b", "c"][j] for j in rng.integers(0, 4, 8)]
        acc, scores = [float(p == "a") for p in predictions], rng.normal(size=8).tolist()
        rows.append(problem(acc, predictions, scores=scores, id=str(i), source="s"))
        sources += ["s"] * 8
        uids += [str(i)] * 8
        for name, values in zip(infos, (acc, predictions, scores), strict=True):
            infos[name] += values
    theirs = metric_utils.process_validation_metrics(sources, uids, infos)["s"]
    ours = validation_metrics(rows)
    compared = 0
    for variable, metrics in theirs.items():
        # The rule of verl's `_val_metrics_update`.
        n_max = max(int(name.split("@")[-1].split("/")[0]) for name in metrics)
        for name, value in metrics.items():
            if name.endswith("/std"):
                continue
            core = variable == "acc" and name.startswith(("mean", "maj", "best")) and f"@{n_max}" in name
            mine = ours[f"val-{'core' if core else 'aux'}/s/{variable}/{name}"]
            # Its draws are the same for every problem (one seed), so their noise does not average out over problems.
            assert mine == pytest.approx(value, abs=1e-12 if "/mean" not in name else 0.02), name
            compared += 1
    assert compared == 2 * (2 + 3 * 3)


def test_without_an_accuracy_the_rewards_mean_is_the_core_metric() -> None:
    """verl's choice of the core variable: acc where a reward returns one, else the reward."""
    problems = [
        ProblemSamples("a", "s", None, ["x", "y"], [10, 20], [True, False], scores=[0.25, 0.75]),
        ProblemSamples("b", "s", None, ["x", "x"], [30, 40], [True, True], scores=[1.0, 0.0]),
    ]
    found = validation_metrics(problems)
    assert found["val-core/s/reward/mean@2"] == 0.5 and found["val-core/s/reward/best@2/mean"] == pytest.approx((0.625 + 0.75) / 2)
    assert found["val-aux/s/response_length/mean"] == 25 and found["val-aux/s/response_length/clip_ratio"] == 0.25
    assert not [name for name in found if "/acc/" in name or "right" in name or "wrong" in name]
    both = validation_metrics([ProblemSamples("a", "s", [1, 0], ["x", "y"], [10, 20], [True, True], scores=[0.25, 0.75])])
    assert both["val-core/s/acc/mean@2"] == 0.5 and both["val-aux/s/reward/mean@2"] == 0.5 and "val-core/s/reward/mean@2" not in both
