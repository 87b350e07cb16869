"""How sure a number is, and when two may be told apart: the one place for ``erpo compare``, ``erpo evaluate --compare`` and robustness.

Intervals. Runs (seeds) are few and their numbers are means already: t intervals. Problems are many and their figures lie on a
grid: bootstrap over problems, seeded. The samples of one problem say little about another problem, so problems are what is
drawn; those that belong together (rewordings of one) are drawn together, as clusters.

Tests. Two sides are compared pair by pair (seed by seed, problem by problem): the paired t test over seeds, the sign-flip test over
problems. No p value comes from fewer than `MIN_PAIRS` pairs, nor from pairs that all differ by the same: such numbers show no
spread to hold a difference against, and a t test would call any of them certain.

Verdicts. A report names one primary endpoint before it looks, and a family of secondary ones; each family's p values are
corrected by Holm, and whatever is in neither is descriptive: a difference and an interval, no p and no verdict.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np

LEVEL = 0.95
ALPHA = 0.05
MIN_PAIRS = 3
RESAMPLES = 10_000
PRIMARY, SECONDARY, DESCRIPTIVE = "primary", "secondary", "descriptive"

# Differences that vary by less than this share of the numbers that were subtracted are equal, and were rounded (float32: 6e-8).
_ROUNDING = 1e-6
_CHUNK = 4_000_000  # resamples x problems held in memory at once
_EXACT_FLIPS = 16  # up to so many differing problems all sign patterns are gone through


@dataclass(frozen=True)
class Interval:
    """A figure with its 95% interval, over ``count`` runs, pairs or problems; ``low`` and ``high`` are None where none can be given."""

    value: float
    low: float | None
    high: float | None
    count: int

    @property
    def half(self) -> float | None:
        """Half of a symmetric interval's width."""
        return None if self.high is None else self.high - self.value


@dataclass(frozen=True)
class Paired:
    """b - a over pairs: mean with its 95% interval, and the two-sided p value of a paired test.

    ``difference`` is NaN without a pair; ``low`` and ``high`` are None without a spread to make an interval of, ``p_value`` where
    there is no test, and ``why`` says the reason. ``a_better`` and ``b_better`` count the pairs (clusters) in which a, or b, is
    larger. ``role`` and ``adjusted`` are set by `judge`.
    """

    difference: float
    low: float | None
    high: float | None
    p_value: float | None
    pairs: int
    a_better: int
    b_better: int
    why: str = ""
    role: str = DESCRIPTIVE
    adjusted: float | None = None

    @property
    def told_apart(self) -> bool:
        """Whether the difference can be told from noise at 5%, after the correction over its family."""
        return self.role != DESCRIPTIVE and self.adjusted is not None and self.adjusted < ALPHA

    @property
    def verdict(self) -> str:
        """What may be said of the difference; nothing of a descriptive one."""
        if self.role == DESCRIPTIVE:
            return ""
        if self.adjusted is None:
            return f"no verdict: {self.why}"
        if self.told_apart:
            return "distinguishable from noise"
        if self.p_value < ALPHA:
            return "not distinguishable after Holm's correction"
        return "not distinguishable from noise"


# ---------------------------------------------------------------- runs: t


def t_interval(values: Sequence[float]) -> Interval:
    """Mean over runs and its t interval; without one where there are fewer than two runs, or all are equal. Empty: NaN."""
    array = _finite(values)
    count = len(array)
    value = float(array.mean()) if count else math.nan
    half = _half(array, np.abs(array).max(initial=0.0))
    return Interval(value, *((None, None) if half is None else (value - half, value + half)), count)


def paired_t(a: Sequence[float], b: Sequence[float]) -> Paired:
    """The paired t test and interval of b - a. [n] numbers of the same seeds in the same order.

    Raises:
        ValueError: lengths differ, or a number is not finite.
    """
    a, b = _pairs(a, b)
    differences = b - a
    count = len(differences)
    if not count:
        return Paired(math.nan, None, None, None, 0, 0, 0, "no pair")
    mean = float(differences.mean())
    rounding = _ROUNDING * max(np.abs(a).max(), np.abs(b).max())
    half = _half(differences, max(np.abs(a).max(), np.abs(b).max()))
    p_value = None
    if half is not None and count >= MIN_PAIRS:
        from scipy.stats import t

        error = float(differences.std(ddof=1)) / math.sqrt(count)
        p_value = float(2 * t.sf(abs(mean) / error, count - 1))
    lower, higher = int((differences < -rounding).sum()), int((differences > rounding).sum())
    low, high = (None, None) if half is None else (mean - half, mean + half)
    return Paired(mean, low, high, p_value, count, lower, higher, _why(count, half is not None, lower + higher))


def _half(values: np.ndarray, scale: float) -> float | None:
    """Half of the t interval's width; None for fewer than two values, or values that are equal but for rounding."""
    count = len(values)
    if count < 2:
        return None
    spread = float(values.std(ddof=1))
    if spread <= _ROUNDING * scale:
        return None
    from scipy.stats import t

    return float(t.ppf(0.5 + LEVEL / 2, count - 1)) * spread / math.sqrt(count)


def _why(count: int, spread: bool, differing: int) -> str:
    if count < MIN_PAIRS:
        return f"{count} pair{'' if count == 1 else 's'}, and it takes {MIN_PAIRS}"
    return "" if spread else f"all {count} pairs {'differ by the same' if differing else 'are equal'}"


def _pairs(a: Sequence[float], b: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    a, b = _finite(a), _finite(b)
    if a.shape != b.shape:
        raise ValueError(f"expected two figures a pair, got shapes {a.shape} and {b.shape}")
    return a, b


def _finite(values: Sequence[float]) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise ValueError("expected finite numbers, one a run or problem")
    return array


# ---------------------------------------------------------------- families


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values, in the order given (Holm 1979)."""
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    adjusted, running = [0.0] * len(ps), 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = running
    return adjusted


def judge(paired: Sequence[Paired], roles: Sequence[str]) -> list[Paired]:
    """Each with its role and, in the two families, its p value corrected by Holm over that family.

    The primary endpoint is one; its family has one member for each arm that is compared.
    """
    found = [replace(one, role=role) for one, role in zip(paired, roles, strict=True)]
    for family in (PRIMARY, SECONDARY):
        tested = [i for i, one in enumerate(found) if one.role == family and one.p_value is not None]
        for i, p in zip(tested, holm([found[i].p_value for i in tested]), strict=True):
            found[i] = replace(found[i], adjusted=p)
    return found


# ---------------------------------------------------------------- problems: bootstrap and sign flips


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
        Intervals; none (low and high are None) where all problems came out alike, or there is one only: that is a lack of
        information and no certainty.

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
        spread = len(drawn) and np.ptp(drawn) > _ROUNDING * np.abs(drawn).max()
        low, high = (float(end) for end in np.quantile(drawn, tails)) if spread else (None, None)
        intervals[name] = Interval(value, low, high, len(top))
    return intervals


def paired_sign_flip(
    a: Sequence[float], b: Sequence[float], *, clusters: Sequence[Any] | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> Paired:
    """Interval and sign-flip test of b - a. [P] figures of the same problems in the same order; with ``clusters`` a pair is a cluster.

    The interval is the BCa bootstrap of the mean difference. The p-value flips the signs of the problems' (clusters')
    differences at random, which is what no difference between the models would allow; all patterns are gone through
    where at most 16 problems differ, else ``resamples`` random ones, counting the observed one, so that p is never 0.

    Raises:
        ValueError: a and b have different lengths, or a number is not finite.
    """
    a, b = _pairs(a, b)
    if not len(a):
        return Paired(math.nan, None, None, None, 0, 0, 0, "no pair")
    difference = b - a
    interval = bootstrap(difference, clusters=clusters, resamples=resamples, seed=seed)
    sums = difference if clusters is None else _cluster_sums(difference, clusters)
    sizes = np.ones_like(sums) if clusters is None else _cluster_sums(np.ones_like(difference), clusters)
    scale = max(np.abs(a).max(), np.abs(b).max())
    sums = np.where(np.abs(sums) <= _ROUNDING * scale, 0.0, sums)
    spread = bool(np.ptp(sums / sizes) > _ROUNDING * scale)
    tested = spread and len(sums) >= MIN_PAIRS
    return Paired(
        difference=interval.value,
        low=interval.low if spread else None,
        high=interval.high if spread else None,
        p_value=_sign_flip(sums[sums != 0], resamples, seed) if tested else None,
        pairs=len(sums),
        a_better=int((sums < 0).sum()),
        b_better=int((sums > 0).sum()),
        why=_why(len(sums), spread, int((sums != 0).sum())),
    )


def interquartile_mean(values: Any) -> Any:
    """Mean of the middle half of [..., n] values, which a single run that broke down cannot move (Agarwal et al. 2021, arXiv 2108.13264)."""
    from scipy.stats import trim_mean

    return trim_mean(np.asarray(values, dtype=float), 0.25, axis=-1)


def crossed_bootstrap(
    values: Any, statistic: Any = interquartile_mean, *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Percentile interval of a statistic of runs that were measured on the same problems; runs and problems are both drawn.

    Args:
        values: [S, P] a figure of each run (seed) on each problem, finite.
        statistic: of the runs' means over problems, [..., S] -> [...].

    Returns:
        The statistic and its interval over S runs; none where there is one run only.

    Raises:
        ValueError: not two axes, nothing in one of them, or a number that is not finite.
    """
    values = np.asarray(values, dtype=float)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"expected finite numbers, one a run and problem, got shape {values.shape}")
    runs, problems = values.shape
    value = float(statistic(values.mean(axis=1)))
    if runs < 2:
        return Interval(value, None, None, runs)
    rng = np.random.default_rng(seed)
    drawn = []
    rows = max(1, _CHUNK // problems)
    for start in range(0, resamples, rows):
        some = min(rows, resamples - start)
        times = rng.multinomial(problems, np.full(problems, 1 / problems), size=some)  # [some, P]
        means = times @ values.T / problems  # [some, S]
        drawn.append(statistic(np.take_along_axis(means, rng.integers(runs, size=(some, runs)), axis=1)))
    tail = (1 - level) / 2
    low, high = (float(end) for end in np.quantile(np.concatenate(drawn), [tail, 1 - tail]))
    return Interval(value, low, high, runs)


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
