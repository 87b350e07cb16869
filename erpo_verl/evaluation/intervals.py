"""How sure a figure is: bootstrap intervals over problems, and paired tests of two models on the same problems.

Problems, not samples, are what is drawn: the samples of one problem say little about another problem. Where problems
belong together (variants of one, rewordings of one) they are drawn together, as clusters. All draws are seeded;
numpy only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def bootstrap(numerator: Any, denominator: Any = None, **options: Any) -> Interval:
    """Interval of a mean over problems, or of a ratio of two sums over problems; `bootstrap_all` for one figure."""
    return bootstrap_all({"figure": (numerator, denominator)}, **options)["figure"]


def bootstrap_all(
    figures: Mapping[str, tuple[Any, Any]],
    *,
    clusters: Sequence[Any] | None = None,
    level: float = 0.95,
    method: str = "bca",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Interval]:
    """Intervals of several figures of the same problems, all from the same draws.

    Args:
        figures: name -> (numerator, denominator), [P] values each, one a problem; the figure is sum(numerator) /
            sum(denominator), or the mean of the numerator where the denominator is None. Resamples whose denominators
            sum to 0 are left out.
        clusters: [P] labels; problems with the same label are drawn together. None: each by itself.
        level: share of the time that the interval holds the true figure, in (0, 1).
        method: ``percentile``, or ``bca`` (Efron 1987: corrected for bias and skewness).
        resamples: draws, >= 1.

    Returns:
        Intervals. One without width means that all problems came out alike (or that there is one only): a lack of
        information.

    Raises:
        ValueError: no problems, denominators that sum to 0, lengths that differ, or an argument out of its range.
    """
    if method not in ("percentile", "bca"):
        raise ValueError(f"method = {method!r}: must be percentile or bca")
    if not 0 < level < 1:
        raise ValueError(f"level = {level}: must be between 0 and 1")
    if resamples < 1:
        raise ValueError(f"resamples = {resamples}: must be >= 1")
    columns = []
    for name, (numerator, denominator) in figures.items():
        top = np.asarray(numerator, dtype=float)
        bottom = np.ones_like(top) if denominator is None else np.asarray(denominator, dtype=float)
        if top.ndim != 1 or top.shape != bottom.shape or not len(top):
            raise ValueError(
                f"{name}: expected one numerator and denominator a problem, got shapes {top.shape}, {bottom.shape}"
            )
        if clusters is not None:
            top, bottom = _cluster_sums(top, clusters), _cluster_sums(bottom, clusters)
        if bottom.sum() == 0:
            raise ValueError(f"{name}: the denominators sum to 0")
        columns.append((top, bottom))
    tops, bottoms = (np.stack(side, axis=1) for side in zip(*columns, strict=True))  # [P, figures]
    drawn_tops, drawn_bottoms = _resample(tops, bottoms, resamples, seed)  # [resamples, figures]
    tail = (1 - level) / 2
    intervals = {}
    for name, top, bottom, above, below in zip(figures, tops.T, bottoms.T, drawn_tops.T, drawn_bottoms.T, strict=True):
        value = float(top.sum() / bottom.sum())
        drawn = above[below != 0] / below[below != 0]
        tails = _bca_tails(value, drawn, top, bottom, tail) if method == "bca" else (tail, 1 - tail)
        low, high = np.quantile(drawn, tails)
        intervals[name] = Interval(value, float(low), float(high))
    return intervals


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

    The interval is the BCa bootstrap of the mean difference. The p-value flips the signs of the problems' (clusters')
    differences at random, which is what no difference between the models would allow; all patterns are gone through
    where at most 16 problems differ, else ``resamples`` random ones, counting the observed one, so that p is never 0.

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


def _resample(tops: np.ndarray, bottoms: np.ndarray, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """[resamples, figures] sums of the numerators and denominators of as many problems, drawn with replacement."""
    rng = np.random.default_rng(seed)
    size = len(tops)
    above, below = [], []
    rows = max(1, _CHUNK // size)
    for start in range(0, resamples, rows):
        some = min(rows, resamples - start)
        places = rng.integers(size, size=(some, size)) + size * np.arange(some)[:, None]
        times = np.bincount(places.ravel(), minlength=some * size).reshape(some, size).astype(float)
        above.append(times @ tops)
        below.append(times @ bottoms)
    return np.concatenate(above), np.concatenate(below)


def _bca_tails(
    value: float, drawn: np.ndarray, top: np.ndarray, bottom: np.ndarray, tail: float
) -> tuple[float, float]:
    """The two quantiles to read off, in place of tail and 1 - tail."""
    normal = NormalDist()
    # Ties count half: figures of few problems lie on a grid, and the observed one is often drawn again.
    same = np.isclose(drawn, value, rtol=1e-9, atol=1e-12)
    below = float(((drawn < value) & ~same).mean() + same.mean() / 2)
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
