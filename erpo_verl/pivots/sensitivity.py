"""From branches to figures: how much a token decides, without the bias that few continuations would bring.

The change of a chance p of a right answer between two branches is estimated from n continuations each. The square of the
difference of two shares is too large by their own noise: where nothing changes at all, n = 8 would show 0.25 in the mean. So what is
reported is built on unbiased estimates, which may be negative for a single token and are right in the mean:

    distance(a, b) = P(x != y) - [P(x != x') + P(y != y')] / 2      x, x' from a and y, y' from b, all different continuations

Of right and wrong it is exactly (p_a - p_b)^2; of answers half the squared distance of their distributions, 0 where they are the
same and 1 where each is always another single one. For lengths: (m_a - m_b)^2 less the variances of both means.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from erpo_verl.pivots.branches import KEEP, OTHER, SECOND
from erpo_verl.pivots.positions import KINDS, LOW, PARTNER, PIVOT, RANDOM, SHOWN, SURPRISING, WINDOWS
from erpo_verl.statistics import bootstrap_all, paired_sign_flip

FEWEST = 5  # problems with pairs in a window, below which nothing is said of it

MEASURES = {
    "right": "squared change of the chance of a right answer",
    "answer": "distance of the distributions of answers",
    "length": "squared change of the mean length (tokens)",
    "drop": "fall of the chance of a right answer, in responses that were right",
}


def distance(a: Sequence[Any], b: Sequence[Any]) -> float:
    """The unbiased distance of two samples of labels (see the module); at least two of each.

    In [-1, 1]; its mean over samples is in [0, 1].
    """
    n, m = len(a), len(b)
    if n < 2 or m < 2:
        raise ValueError(f"distance needs two of each, got {n} and {m}")
    left, right = Counter(a), Counter(b)
    same = sum(left[label] * right[label] for label in left) / (n * m)
    within_a = sum(c * (c - 1) for c in left.values()) / (n * (n - 1))
    within_b = sum(c * (c - 1) for c in right.values()) / (m * (m - 1))
    return (within_a + within_b) / 2 - same


def squared_change(a: Sequence[float], b: Sequence[float]) -> float:
    """Unbiased square of the difference of two means; at least two of each."""
    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    return float((x.mean() - y.mean()) ** 2 - x.var(ddof=1) / len(x) - y.var(ddof=1) / len(y))


def changes(keep: Mapping[str, Any], branch: Mapping[str, Any]) -> dict[str, float]:
    """What replacing the token changed: `MEASURES` without drop, and ``delta``, the signed change of the chance of a right answer."""
    a, b = keep["right"], branch["right"]
    return {
        "right": distance([x > 0.5 for x in a], [x > 0.5 for x in b]),
        "answer": distance(keep["answers"], branch["answers"]),
        "length": squared_change(keep["lengths"], branch["lengths"]),
        "delta": float(np.mean(b) - np.mean(a)),
        "longer": float(np.mean(branch["lengths"]) - np.mean(keep["lengths"])),
    }


def site_rows(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row a site and replacement, of all problems: where it is, what the model thought there, and `changes`."""
    rows = []
    for line in lines:
        by_site: dict[tuple, dict[str, Mapping[str, Any]]] = defaultdict(dict)
        for branch in line["branches"]:
            by_site[branch["site"], branch["pair"], branch["response"], branch["position"]][branch["branch"]] = branch
        for (kind, pair, response, position), found in by_site.items():
            numbers = line["responses"][response]
            shared = {
                "problem": line["id"], "site": kind, "pair": pair, "response": response, "position": position,
                "tau": position / len(numbers["tokens"]), "window": min(position * WINDOWS // len(numbers["tokens"]), WINDOWS - 1),
                "was_right": numbers["right"], **{name: numbers[name][position] for name in ("entropy", "z", "gate")},
                "surprisal": -numbers["log_prob"][position], "is_pivot": numbers["pivot"][position],
                "is_surprising": numbers["surprising"][position],
                "chance": float(np.mean(found[KEEP]["right"])),
            }  # fmt: skip
            for replacement in (OTHER, SECOND):
                moved = found[replacement]
                changed = changes(found[KEEP], moved)
                part = (1 - math.exp(-shared["surprisal"])) / 2 * changed["right"] if replacement == OTHER else None
                rows.append({**shared, "branch": replacement, "new_log_prob": moved["log_prob"], **changed, "part": part})
    return rows


def figures(rows: Sequence[Mapping[str, Any]], *, seed: int = 0) -> dict[str, Any]:
    """All figures by replacement: means by kind of site, ratios with intervals over problems, windows, and what marks what."""
    out: dict[str, Any] = {}
    for branch in (OTHER, SECOND):
        mine = [row for row in rows if row["branch"] == branch]
        out[branch] = {
            "kinds": {kind: _means([r for r in mine if r["site"] == kind], seed) for kind in KINDS if kind != SHOWN},
            "ratios": {
                f"{top} / {bottom}": {measure: _ratio(mine, top, bottom, measure, seed) for measure in MEASURES}
                for top, bottom in ((PIVOT, PARTNER[PIVOT]), (PIVOT, LOW), (SURPRISING, PARTNER[SURPRISING]), (PIVOT, SURPRISING))
            },
            "windows": [
                {"window": w, "ratio": _ratio([r for r in mine if r["window"] == w], PIVOT, PARTNER[PIVOT], "right", seed, least=FEWEST),
                 "pairs": sum(r["site"] == PIVOT and r["window"] == w for r in mine)}
                for w in range(WINDOWS)
            ],
            "test": _paired(mine, seed),
        }  # fmt: skip
    out["marks"] = _marks([r for r in rows if r["site"] == RANDOM and r["branch"] == OTHER], seed)
    return out


def value(row: Mapping[str, Any], measure: str) -> float:
    """A row's value of a measure; NaN where it has none (drop, of a response that was wrong)."""
    if measure == "drop":
        return -row["delta"] if row["was_right"] else math.nan
    return row[measure]


def _means(rows: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any]:
    """Means over sites with intervals over problems, and roots of the means that are squares."""
    told: dict[str, Any] = {"sites": len(rows)}
    for name in (*MEASURES, "longer", "chance", "entropy", "surprisal"):
        sums = _sums(rows, lambda row, name=name: value(row, name))
        told[name] = _interval(sums, seed)
    for name in ("right", "length"):
        if told[name] is not None:
            told[f"{name}_root"] = math.sqrt(max(0.0, told[name]["value"]))
    return told


def _sums(rows: Sequence[Mapping[str, Any]], of: Any) -> dict[str, tuple[float, int]]:
    """problem -> (sum, count) of the values that are numbers."""
    found: dict[str, tuple[float, int]] = {}
    for row in rows:
        v = of(row)
        if not math.isnan(v):
            total, count = found.get(row["problem"], (0.0, 0))
            found[row["problem"]] = (total + v, count + 1)
    return found


def _interval(sums: Mapping[str, tuple[float, int]], seed: int) -> dict[str, float] | None:
    if not sums:
        return None
    top, bottom = zip(*sums.values(), strict=True)
    found = bootstrap_all({"m": (list(top), list(bottom))}, seed=seed, method="percentile")["m"]
    return {"value": found.value, "low": found.low, "high": found.high, "problems": len(sums)}


def _ratio(
    rows: Sequence[Mapping[str, Any]], top: str, bottom: str, measure: str, seed: int, *, least: int = 1, resamples: int = 4000
) -> dict[str, Any] | None:
    """Mean of one kind of site over that of another, with a percentile interval over problems; None with fewer than ``least`` problems.

    Where the lower mean is not above 0 the ratio is not a number, and an interval that such resamples would belong to is open (None).
    """
    a, b = (_sums([r for r in rows if r["site"] == kind], lambda row: value(row, measure)) for kind in (top, bottom))
    problems = sorted({*a, *b})
    if not a or not b or len(problems) < least:
        return None
    table = np.array([[*a.get(p, (0.0, 0)), *b.get(p, (0.0, 0))] for p in problems])  # [P, 4]
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(problems), np.full(len(problems), 1 / len(problems)), size=resamples).astype(float)
    drawn = counts @ table
    with np.errstate(divide="ignore", invalid="ignore"):
        above, below = drawn[:, 0] / drawn[:, 1], drawn[:, 2] / drawn[:, 3]
        ratios = np.where(below > 0, above / below, np.inf)
    ratios = ratios[~np.isnan(above) & ~np.isnan(below)]
    mean_a, mean_b = table[:, 0].sum() / table[:, 1].sum(), table[:, 2].sum() / table[:, 3].sum()
    low, high = np.sort(ratios)[[int(0.025 * len(ratios)), min(len(ratios) - 1, int(0.975 * len(ratios)))]]
    finite = lambda v: float(v) if math.isfinite(v) else None  # noqa: E731
    return {"value": float(mean_a / mean_b) if mean_b > 0 else None, "low": finite(low), "high": finite(high), "problems": len(problems)}


def _paired(rows: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any] | None:
    """Squared change at pivots less that beside them, over problems that have both: difference, interval, p of sign flips."""
    top, beside = (_sums([r for r in rows if r["site"] == kind], lambda row: row["right"]) for kind in (PIVOT, PARTNER[PIVOT]))
    problems = sorted({*top} & {*beside})
    if not problems:
        return None
    means = [[sums[p][0] / sums[p][1] for p in problems] for sums in (beside, top)]
    found = paired_sign_flip(*means, seed=seed)
    return {"difference": found.difference, "low": found.low, "high": found.high, "p": found.p_value, "problems": found.pairs}


def _marks(rows: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any] | None:
    """How well entropy, surprisal and the gate's weight tell the tokens that decide, over tokens drawn at random.

    A token's part in the outcome's variance is (1 - p) / 2 times the squared change by another draw, p the drawn token's probability: in the
    mean that is the variance of the chance of a right answer over the draw at that place. Summed over a response's tokens the parts give, in
    the mean, the whole variance of right and wrong.
    """
    if not rows:
        return None
    part = np.array([row["part"] for row in rows])
    problems = [row["problem"] for row in rows]
    columns = {name: np.array([row[name] for row in rows]) for name in ("entropy", "surprisal", "gate")}
    pivots, surprising = (np.array([row[name] for row in rows]) for name in ("is_pivot", "is_surprising"))
    weight = columns["gate"] / columns["gate"].mean()
    told = {
        "tokens": len(rows),
        "mean_gate": _interval(_of(problems, columns["gate"]), seed),
        "part": _interval(_of(problems, part), seed),
        # What uniform weights would cover is 1: the share of the variance that lies where the gate's mass is.
        "gate_lift": _weighted(problems, weight * part, part, seed),
        "on_pivots": _weighted(problems, np.where(pivots, part, 0.0), part, seed),
        "on_surprising": _weighted(problems, np.where(surprising, part, 0.0), part, seed),
        "pivots": _interval(_of(problems, pivots.astype(float)), seed),
        "surprising": _interval(_of(problems, surprising.astype(float)), seed),
    }
    for name, column in columns.items():
        told[f"r2_{name}"] = _r2(column, part)
    return told


def _of(problems: Sequence[str], values: np.ndarray) -> dict[str, tuple[float, int]]:
    return _sums([{"problem": p, "v": float(v)} for p, v in zip(problems, values, strict=True)], lambda row: row["v"])


def _weighted(problems: Sequence[str], top: np.ndarray, bottom: np.ndarray, seed: int) -> dict[str, Any] | None:
    rows = [{"problem": p, "site": "a", "right": float(t)} for p, t in zip(problems, top, strict=True)]
    rows += [{"problem": p, "site": "b", "right": float(b)} for p, b in zip(problems, bottom, strict=True)]
    return _ratio(rows, "a", "b", "right", seed)


def _r2(x: np.ndarray, y: np.ndarray) -> float | None:
    """Share of y's variance (its own noise included) that a straight line in x explains."""
    if len(x) < 3 or x.std() == 0 or y.std() == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1] ** 2)
