"""Estimates of how much a token decides: unbiased by exact enumeration, and found in a model whose truth is known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from pivots_model import BAD, GOOD, LENGTH, ScriptedAnnotator, ScriptedEngine, decode, judge  # noqa: E402

from erpo_verl.evaluation.problems import Problem, Prompt  # noqa: E402
from erpo_verl.pivots.branches import KEEP, OTHER, SECOND  # noqa: E402
from erpo_verl.pivots.measure import Measurer, Plan  # noqa: E402
from erpo_verl.pivots.positions import PARTNER, PIVOT, RANDOM, SHOWN  # noqa: E402
from erpo_verl.pivots.sensitivity import _ratio, distance, figures, site_rows, squared_change  # noqa: E402

# Unbiased, exactly


@pytest.mark.parametrize(("n", "m"), [(2, 2), (2, 3), (3, 3)])
def test_the_distance_is_right_in_the_mean_over_all_samples(n: int, m: int) -> None:
    labels, p, q = "abc", (0.5, 0.3, 0.2), (0.1, 0.6, 0.3)
    mean = 0.0
    for left in itertools.product(range(3), repeat=n):
        for right in itertools.product(range(3), repeat=m):
            weight = math.prod(p[i] for i in left) * math.prod(q[i] for i in right)
            mean += weight * distance([labels[i] for i in left], [labels[i] for i in right])
    assert mean == pytest.approx(sum((a - b) ** 2 for a, b in zip(p, q, strict=True)) / 2)


def test_of_right_and_wrong_the_distance_is_the_squared_change_of_the_chance() -> None:
    p, q, n = 0.7, 0.2, 3
    mean = 0.0
    for left in itertools.product((1, 0), repeat=n):
        for right in itertools.product((1, 0), repeat=n):
            weight = math.prod(p if x else 1 - p for x in left) * math.prod(q if x else 1 - q for x in right)
            assert distance(left, right) == pytest.approx(squared_change(left, right))
            mean += weight * distance(left, right)
    assert mean == pytest.approx((p - q) ** 2)


def test_distances_by_hand() -> None:
    assert distance("aaaa", "aaaa") == 0
    assert distance("aaaa", "bbbb") == 1
    assert distance("ab", "ab") == pytest.approx(-0.5)  # nothing changed, and two samples cannot show it: right in the mean alone
    assert squared_change([10, 10], [13, 13]) == 9
    with pytest.raises(ValueError, match="two of each"):
        distance("a", "ab")


# A model whose truth is known


@pytest.fixture(scope="module")
def lines() -> list[dict]:
    plan = Plan(responses=8, sites=6, n=8, max_tokens=LENGTH, seed=3, shown=frozenset(range(40)), at_once=10)
    measurer = Measurer(
        plan, ScriptedEngine(), ScriptedAnnotator(), judge, decode=decode, pieces=lambda tokens: [str(t) for t in tokens], ends=[0]
    )
    prompts = [Prompt(Problem(f"p{i}", "scripted", [], "1", None), "text", [5]) for i in range(40)]
    return [line for first in range(0, 40, 10) for line in measurer.chunk(prompts[first : first + 10], first)]


@pytest.fixture(scope="module")
def rows(lines) -> list[dict]:
    return site_rows(lines)


def decisions(lines, rows, branch: str, kinds=None) -> list[dict]:
    tokens = {(line["id"], i): r["tokens"] for line in lines for i, r in enumerate(line["responses"])}
    return [
        row
        for row in rows
        if row["branch"] == branch
        and (kinds is None or row["site"] in kinds)
        and tokens[row["problem"], row["response"]][row["position"]] in (*GOOD, *BAD)
    ]


def test_it_finds_the_token_that_decides_and_by_how_much(lines, rows) -> None:
    """Another of the 8 draws is on the other side in 4 of 7 cases, and then the chance goes from .9 to .1 or back."""
    found = decisions(lines, rows, OTHER, (PIVOT, SHOWN))
    assert len(found) > 150
    assert np.mean([row["right"] for row in found]) == pytest.approx(0.64 * 4 / 7, abs=0.04)
    assert np.mean([row["part"] for row in found]) == pytest.approx(0.16, abs=0.02)  # the variance of .9 or .1, half each
    assert {round(row["entropy"], 4) for row in found} == {round(math.log(8), 4)}


def test_tokens_that_decide_nothing_show_nothing_though_their_entropy_is_high(lines, rows) -> None:
    first = [row for row in rows if row["branch"] == OTHER and row["position"] == 0]
    assert len(first) > 50 and {round(row["entropy"], 3) for row in first} == {round(math.log(4), 3)}
    assert np.mean([row["right"] for row in first]) == pytest.approx(0.0, abs=0.03)
    beside = [row for row in rows if row["site"] == PARTNER[PIVOT] and row["branch"] == OTHER and row["position"] < LENGTH - 2]
    assert np.mean([row["right"] for row in beside]) == pytest.approx(0.0, abs=0.03)


def test_a_responses_parts_add_up_to_the_variance_of_right_and_wrong(rows) -> None:
    sums: dict[tuple, float] = {}
    for row in rows:
        if row["site"] == SHOWN and row["branch"] == OTHER:
            key = row["problem"], row["response"]
            sums[key] = sums.get(key, 0.0) + row["part"]
    # Shown are one right and one wrong response of each problem, half each as in the whole: .16 of the decision, .09 of the answer's own.
    assert len(sums) > 70 and np.mean(list(sums.values())) == pytest.approx(0.25, abs=0.04)


def test_figures_say_so(lines, rows) -> None:
    found = figures(rows, seed=0)
    pivots = found[OTHER]["kinds"][PIVOT]
    assert pivots["right"]["value"] > 0.2 and pivots["right"]["low"] > 0.1
    ratio = found[OTHER]["ratios"][f"{PIVOT} / {PARTNER[PIVOT]}"]["right"]
    assert ratio["low"] is None or ratio["low"] > 3
    assert found[SECOND]["kinds"][PIVOT]["right"]["value"] > 0.1
    marks = found["marks"]
    assert marks["tokens"] == sum(row["site"] == RANDOM for row in rows) / 2
    # .16 of .25 lies on the decisions, which are all of them pivots.
    assert marks["on_pivots"]["value"] == pytest.approx(0.64, abs=0.25)
    assert marks["gate_lift"]["value"] > 2 and marks["r2_entropy"] > 0.05
    assert marks["r2_entropy"] > marks["r2_surprisal"]  # every draw at the decision is as likely as another
    assert 0.05 < marks["pivots"]["value"] < 0.15


def test_the_branches_of_a_site_share_everything_but_the_token(lines) -> None:
    for line in lines[:5]:
        for branch in line["branches"]:
            response = line["responses"][branch["response"]]
            if branch["branch"] == KEEP:
                assert branch["token"] == response["tokens"][branch["position"]]
            else:
                assert branch["token"] != response["tokens"][branch["position"]]
            assert len(branch["right"]) == len(branch["answers"]) == len(branch["lengths"]) == 8
            assert max(branch["lengths"]) <= LENGTH


def test_the_same_seed_gives_the_same_and_another_does_not() -> None:
    prompts = [Prompt(Problem("p0", "scripted", [], "1", None), "text", [5])]

    def measured(seed: int) -> list[dict]:
        plan = Plan(responses=2, sites=1, n=2, max_tokens=LENGTH, seed=seed)
        return Measurer(plan, ScriptedEngine(), ScriptedAnnotator(), judge, decode=decode, pieces=lambda t: [""] * len(t), ends=[0]).chunk(prompts, 0)

    assert measured(1) == measured(1) != measured(2)


# Ratios and ranks


def test_a_ratio_and_its_interval() -> None:
    rows = [{"problem": f"p{i}", "site": site, "right": value} for i in range(30) for site, value in (("a", 0.4 + 0.01 * (i % 3)), ("b", 0.1))]
    ratio = _ratio(rows, "a", "b", "right", 0)
    assert ratio["value"] == pytest.approx(4.1) and ratio["low"] < 4.1 < ratio["high"] and ratio["high"] - ratio["low"] < 0.1
    nothing = [{**row, "right": 0.0} if row["site"] == "b" else row for row in rows]
    assert _ratio(nothing, "a", "b", "right", 0)["value"] is None
    assert _ratio([row for row in rows if row["site"] == "a"], "a", "b", "right", 0) is None
    assert _ratio(rows[:4], "a", "b", "right", 0, least=5) is None
