"""How sure a figure is: bootstrap intervals over problems, and paired tests of two models on the same problems. numpy only.

Problems, not samples, are what is drawn: the samples of one problem say little about another problem. Where problems belong
together (variants of one, rewordings of one) they are drawn together, as clusters. All draws are seeded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

RESAMPLES = 10_000
_CHUNK = 4_000_000  # resamples x problems held in memory at once
_EXACT_FLIPS = 16  # up to so many differing problems all sign patterns are gone through


@dataclass(frozen=True)
class Interval:
    """A figure with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Paired:
    """Difference b - a over the same problems: mean, interval, and the two-sided p-value of the sign-flip test."""

    difference: float
    low: float
    high: float
    p_value: float
    problems: int
    a_better: int  # problems (clusters) where a is better, b is better; the rest are ties
    b_better: int


def bootstrap(
    numerator: Any,
    denominator: Any = None,
    *,
    clusters: Sequence[Any] | None = None,
    level: float = 0.95,
    method: str = "bca",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Interval of a mean over problems, or of a ratio of two sums over problems.

    Args:
        numerator: [P] values, one a problem.
        denominator: [P] weights; the figure is sum(numerator) / sum(denominator). None: the mean of `numerator`. A resample whose
            denominators sum to 0 is left out.
        clusters: [P] labels; problems with the same label are drawn together. None: each by itself.
        level: share of the time that the interval holds the true figure, in (0, 1).
        method: ``percentile``, or ``bca`` (Efron 1987: corrected for bias and skewness).
        resamples: draws, >= 1.

    Returns:
        An interval without width where all problems came out alike (or there is one only): that is a lack of information.

    Raises:
        ValueError: no problems, denominators that sum to 0, lengths that differ, or an argument out of its range.
    """
    if method not in ("percentile", "bca"):
        raise ValueError(f"method = {method!r}: must be percentile or bca")
    if not 0 < level < 1:
        raise ValueError(f"level = {level}: must be between 0 and 1")
    if resamples < 1:
        raise ValueError(f"resamples = {resamples}: must be >= 1")
    top = np.asarray(numerator, dtype=float)
    bottom = np.ones_like(top) if denominator is None else np.asarray(denominator, dtype=float)
    if top.ndim != 1 or top.shape != bottom.shape or not len(top):
        raise ValueError(f"expected one numerator and denominator a problem, got shapes {top.shape} and {bottom.shape}")
    if clusters is not None:
        top, bottom = _cluster_sums(top, clusters), _cluster_sums(bottom, clusters)
    if bottom.sum() == 0:
        raise ValueError("the denominators sum to 0")
    value = float(top.sum() / bottom.sum())
    drawn = _resample(top, bottom, resamples, seed)
    tail = (1 - level) / 2
    tails = _bca_tails(value, drawn, top, bottom, tail) if method == "bca" else (tail, 1 - tail)
    low, high = np.quantile(drawn, tails)
    return Interval(value, float(low), float(high))


def compare_paired(
    a: Any,
    b: Any,
    *,
    clusters: Sequence[Any] | None = None,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Paired:
    """Is b better than a? [P] figures of the same problems in the same order.

    The interval is the BCa bootstrap of the mean difference. The p-value flips the signs of the problems' (clusters') differences at
    random, which is what no difference between the models would allow; all patterns are gone through where at most 16 problems
    differ, else ``resamples`` random ones, counting the observed one, so that p is never 0.

    Raises:
        ValueError: a and b have different lengths, or are empty.
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise ValueError(f"expected two figures a problem, got shapes {a.shape} and {b.shape}")
    difference = b - a
    interval = bootstrap(difference, clusters=clusters, level=level, resamples=resamples, seed=seed)
    sums = difference if clusters is None else _cluster_sums(difference, clusters)
    sums = np.where(np.abs(sums) < 1e-12, 0.0, sums)
    return Paired(
        difference=interval.value,
        low=interval.low,
        high=interval.high,
        p_value=_sign_flip(sums[sums != 0], resamples, seed),
        problems=len(a),
        a_better=int((sums < 0).sum()),
        b_better=int((sums > 0).sum()),
    )


def _cluster_sums(values: np.ndarray, clusters: Sequence[Any]) -> np.ndarray:
    if len(clusters) != len(values):
        raise ValueError(f"{len(clusters)} cluster labels for {len(values)} problems")
    places = {label: i for i, label in enumerate(dict.fromkeys(clusters))}
    sums = np.zeros(len(places))
    np.add.at(sums, [places[label] for label in clusters], values)
    return sums


def _resample(top: np.ndarray, bottom: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """[resamples] figures, each of as many problems drawn with replacement."""
    rng = np.random.default_rng(seed)
    size = len(top)
    parts = []
    rows = max(1, _CHUNK // size)
    for start in range(0, resamples, rows):
        chosen = rng.integers(size, size=(min(rows, resamples - start), size))
        sums = bottom[chosen].sum(1)
        parts.append((top[chosen].sum(1)[sums != 0]) / sums[sums != 0])
    return np.concatenate(parts)


def _bca_tails(value: float, drawn: np.ndarray, top: np.ndarray, bottom: np.ndarray, tail: float) -> tuple[float, float]:
    """The two quantiles to read off, in place of tail and 1 - tail."""
    normal = NormalDist()
    # Ties count half: figures of few problems lie on a grid, and the observed one is often drawn again.
    below = float((drawn < value).mean() + (drawn == value).mean() / 2)
    rest = bottom.sum() - bottom
    if not 0 < below < 1 or (rest == 0).any():
        return tail, 1 - tail
    left_out = (top.sum() - top) / rest  # jackknife
    centred = left_out.mean() - left_out
    spread = (centred**2).sum()
    acceleration = float((centred**3).sum() / (6 * spread**1.5)) if spread > 0 else 0.0
    bias = normal.inv_cdf(below)

    def shifted(probability: float) -> float:
        z = bias + normal.inv_cdf(probability)
        return normal.cdf(bias + z / (1 - acceleration * z))

    return shifted(tail), shifted(1 - tail)


def _sign_flip(differences: np.ndarray, resamples: int, seed: int) -> float:
    """Two-sided p-value of the sum of differences, none of which is 0, under random signs."""
    size = len(differences)
    if not size:
        return 1.0
    observed = abs(differences.sum()) - 1e-9 * np.abs(differences).sum()  # sums in another order round differently
    if size <= _EXACT_FLIPS:
        signs = 1 - 2 * ((np.arange(2**size)[:, None] >> np.arange(size)) & 1)  # [2^size, size]
        return float((np.abs(signs @ differences) >= observed).mean())
    rng = np.random.default_rng(seed)
    as_large, rows = 0, max(1, _CHUNK // size)
    for start in range(0, resamples, rows):
        signs = 1 - 2 * rng.integers(2, size=(min(rows, resamples - start), size), dtype=np.int8)
        as_large += int((np.abs(signs @ differences) >= observed).sum())
    return (1 + as_large) / (1 + resamples)
