"""What n samples a problem say about a model: avg@n, unbiased pass@k, maj@k, lengths. Plain numpy, no files.

Two families of figures, which are easily confused, stand side by side:

- drawn without replacement (`pass_at_k`, `majority_at_k`): what k of the n samples would give, averaged over all
  subsets of k. Unbiased for "what k fresh samples give". Named ``pass@k`` and ``majority@k``.
- drawn with replacement (`best_with_replacement`, `majority_with_replacement`): what verl's validation estimates with
  1,000 bootstrap draws, here as the exact expectation of those draws. Named as in verl, ``best@k/mean`` and
  ``maj@k/mean``, so that runs of both engines share a chart. Biased: with n = 8 samples of which one is right, best@8
  is 0.656, pass@8 is 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import comb, factorial, nan
from typing import Any

import numpy as np

EXACT_LIMIT = 128  # samples a problem up to which majorities are counted exactly; beyond, they are estimated
ESTIMATE_DRAWS = 4096
NO_ANSWER = ""  # a response without an answer: it votes, and is never right


@dataclass(frozen=True)
class ProblemSamples:
    """The n samples of one problem. The sequences have n >= 1 entries each, in one order.

    Raises:
        ValueError: there is no sample, or the lengths of the sequences differ.
    """

    id: str
    source: str  # data set
    acc: Sequence[float] | None  # 1 right, 0 wrong; None where the reward gives no accuracy (validation alone takes that)
    predictions: Sequence[str]  # the answer as the judge spells it; "" where there is none
    lengths: Sequence[int]  # response length in tokens, the end token included
    finished: Sequence[bool]  # False: cut off at the limit
    level: str | None = None  # difficulty, where the data say one
    scores: Sequence[float] | None = None  # the reward, where it is not the accuracy

    def __post_init__(self) -> None:
        if not self.n:
            raise ValueError(f"problem {self.id}: no samples")
        for name in ("predictions", "lengths", "finished", "scores"):
            values = getattr(self, name)
            if values is not None and len(values) != self.n:
                raise ValueError(f"problem {self.id}: {len(values)} {name} for {self.n} samples")

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.lengths if self.acc is None else self.acc)

    @cached_property
    def right(self) -> np.ndarray:
        """[n] bool: acc above 0.5."""
        return np.asarray(self.acc, dtype=float) > 0.5


# ---------------------------------------------------------------- estimators


def pass_at_k(n: Any, right: Any, k: int) -> np.ndarray:
    """Probability that at least one of k samples drawn without replacement is right: 1 - C(n-c, k) / C(n, k).

    The unbiased estimator of Chen et al. 2021 (arXiv 2107.03374, eq. 1), as a product of k factors in 0..1, so that no
    binomial coefficient is ever formed.

    Args:
        n: samples a problem, [P] ints or one int.
        right: how many of them are right, c, [P] ints, 0 <= c <= n.
        k: size of the draw, 1 <= k <= n.

    Returns:
        [P] float64 in 0..1 (a 0-d array for scalars).

    Raises:
        ValueError: k is below 1 or above the smallest n, or a c is not in 0..n.
    """
    n, c = np.broadcast_arrays(np.asarray(n), np.asarray(right))
    _check_k(k, int(n.min()) if n.size else k)
    if ((c < 0) | (c > n)).any():
        raise ValueError("right: expected counts between 0 and n")
    draws = np.arange(k)  # with fewer than k wrong samples one of the factors is 0
    return 1.0 - np.prod(((n - c)[..., None] - draws) / (n[..., None] - draws), axis=-1)


def majority_at_k(answers: Sequence[str], right: Sequence[float], k: int, *, seed: int = 0) -> float:
    """Probability that the most frequent answer of k samples drawn without replacement is right. Ties split evenly.

    Exact up to 128 samples, beyond that the mean over 4,096 seeded draws. With k = n it is the plain majority vote.

    Args:
        answers: [n] answers, equal where they are spelled alike. "" is no answer: all of those together are one answer
            that votes like any other and is never right.
        right: [n] 1 or 0. Samples with the same answer normally agree; where they do not, the answer counts as right by
            their share.
        k: size of the draw, 1 <= k <= n.
        seed: of the estimate.

    Raises:
        ValueError: k is below 1 or above n.
    """
    n = len(answers)
    _check_k(k, n)
    votes = _votes(answers, right)
    if n <= EXACT_LIMIT:
        return _curve(votes)[k]
    counts, values = _arrays(votes)
    if k == n:
        return float(_winners_value(counts[None], values)[0])
    rng = np.random.default_rng(seed)
    drawn = rng.multivariate_hypergeometric(counts, k, size=ESTIMATE_DRAWS, method="marginals")  # [draws, answers]
    return float(_winners_value(drawn, values).mean())


def best_with_replacement(values: Sequence[float], k: int) -> float:
    """Expected maximum of k draws with replacement: what verl's ``best@k/mean`` estimates. [n] values, k >= 1."""
    x = np.sort(np.asarray(values, dtype=float))
    reached = (np.arange(len(x) + 1) / len(x)) ** k  # probability that all k draws are among the i smallest
    return float((x * np.diff(reached)).sum())


def majority_with_replacement(answers: Sequence[str], values: Sequence[float], k: int) -> float:
    """Expected value of the most frequent of k answers drawn with replacement: what verl's ``maj@k/mean`` estimates.

    verl breaks ties by the first answer drawn: in expectation an even split. Arguments as in `majority_at_k`.
    """
    if k < 1:
        raise ValueError(f"k = {k}: must be >= 1")
    votes, n = _votes(answers, values, no_answer_counts=True), len(answers)
    if max(n, k) <= EXACT_LIMIT:
        return _curve_with_replacement(votes, max(n, k))[k]
    counts, means = _arrays(votes)
    drawn = np.random.default_rng(0).multinomial(k, counts / n, size=ESTIMATE_DRAWS)
    return float(_winners_value(drawn, means).mean())


def _check_k(k: int, n: int) -> None:
    if not 1 <= k <= n:
        raise ValueError(f"k = {k}: must be between 1 and the number of samples, {n}")


Votes = tuple[tuple[int, float], ...]  # each different answer's number of votes and mean value, sorted


def _votes(answers: Sequence[str], values: Sequence[float], no_answer_counts: bool = False) -> Votes:
    """No answer is worth 0, unless `no_answer_counts`."""
    count: dict[str, int] = {}
    worth: dict[str, float] = {}
    for answer, value in zip(answers, values, strict=True):
        count[answer] = count.get(answer, 0) + 1
        worth[answer] = worth.get(answer, 0.0) + float(value)
    if not no_answer_counts and NO_ANSWER in worth:
        worth[NO_ANSWER] = 0.0
    return tuple(sorted((count[answer], worth[answer] / count[answer]) for answer in count))


def _arrays(votes: Votes) -> tuple[np.ndarray, np.ndarray]:
    return np.array([count for count, _ in votes]), np.array([value for _, value in votes])


@lru_cache(maxsize=2**16)  # few patterns of votes occur, and each is asked for at several k and in several tables
def _curve(votes: Votes) -> tuple[float, ...]:
    """Value of the majority of k samples drawn without replacement, for k = 0 (0.0) to n."""
    counts, values = _arrays(votes)
    n = int(counts.sum())
    if len(votes) == 1:
        return (0.0,) + (votes[0][1],) * n
    total = _majorities(counts, values, comb, draws=None)
    return tuple(float(total[k] / comb(n, k)) for k in range(n + 1))


@lru_cache(maxsize=2**16)
def _curve_with_replacement(votes: Votes, draws: int) -> tuple[float, ...]:
    """The same of k samples drawn with replacement, for k = 0 (0.0) to ``draws``."""
    counts, values = _arrays(votes)
    n = counts.sum()
    total = _majorities(counts, values, lambda m, u: (m / n) ** u / factorial(u), draws=draws)
    return tuple(float(total[k] * factorial(k)) for k in range(draws + 1))


def _winners_value(drawn: np.ndarray, values: np.ndarray) -> np.ndarray:
    """[draws, answers] votes -> [draws] mean value of the answers with the most votes."""
    first = drawn == drawn.max(axis=1, keepdims=True)
    return (first * values).sum(1) / first.sum(1)


def _majorities(
    counts: np.ndarray, values: np.ndarray, ways: Callable[[int, int], float], draws: int | None
) -> np.ndarray:
    """[draws + 1]: for each size of draw s, the value of the majority summed over all draws, weighted by their ways.

    For each number of votes t that the winner may have, one pass over the answers keeps two tables over (samples drawn
    so far, answers with exactly t votes so far): the ways to get there with no answer above t, and the same weighted by
    the summed value of the answers at t. Only positive terms are added, so nothing cancels.

    Args:
        ways: (votes that an answer has among the n, votes drawn of it) -> weight of drawing them.
        draws: largest size of draw; None: n.
    """
    without_replacement = draws is None
    size = int(counts.sum()) if draws is None else draws
    total = np.zeros(size + 1)
    for t in range(1, (int(counts.max()) if without_replacement else size) + 1):
        most = size // t  # answers that can have t votes each
        reach, worth = np.zeros((size + 1, most + 1)), np.zeros((size + 1, most + 1))
        reach[0, 0] = 1.0
        for m, value in zip(counts.tolist(), values.tolist(), strict=True):
            next_reach, next_worth = np.zeros_like(reach), np.zeros_like(worth)
            for u in range(min(t - 1, m if without_replacement else size) + 1):
                weight = float(ways(m, u))
                next_reach[u:] += weight * reach[: size + 1 - u]
                next_worth[u:] += weight * worth[: size + 1 - u]
            if m >= t or not without_replacement:
                weight = float(ways(m, t))
                next_reach[t:, 1:] += weight * reach[: size + 1 - t, :-1]
                next_worth[t:, 1:] += weight * (worth + value * reach)[: size + 1 - t, :-1]
            reach, worth = next_reach, next_worth
        total += (worth[:, 1:] / np.arange(1, most + 1)).sum(1)
    return total


# ---------------------------------------------------------------- summaries


def powers_of_two(n: int) -> list[int]:
    """1, 2, 4, ... below n, and n itself: the k at which curves are drawn."""
    return sorted({2**i for i in range(n.bit_length()) if 2**i <= n} | {n})


def summarize(problems: Sequence[ProblemSamples], ks: Sequence[int] | None = None, *, seed: int = 0) -> dict[str, Any]:
    """All figures of some problems, means over problems unless said otherwise.

    Args:
        problems: at least one; they may have different numbers of samples.
        ks: at which k; None: powers of two up to the smallest n, and that n. A k above it is left out.
        seed: of majorities that are estimated.

    Returns:
        ``problems``, ``samples``, ``n`` (smallest number of samples a problem), ``avg`` (avg@n, 0..1), ``pass`` and
        ``maj`` ({k: 0..1}), ``length`` (tokens, over samples: mean, median, right, wrong; ``cut_off``, share; None over
        no samples), ``length_within`` (over problems with right and wrong samples: how many, the problem's mean length
        of right and of wrong ones, and wrong - right: difficulty is held fixed), ``tokens_per_solved`` (all tokens /
        right samples: what a solved problem costs at one sample each; None if nothing is right).

    Raises:
        ValueError: no problems.
    """
    if not problems:
        raise ValueError("no problems to summarize")
    n = min(p.n for p in problems)
    ks = [k for k in (ks or powers_of_two(n)) if k <= n]
    lengths = np.concatenate([np.asarray(p.lengths, dtype=float) for p in problems])
    right = np.concatenate([p.right for p in problems])
    cut = ~np.concatenate([np.asarray(p.finished, dtype=bool) for p in problems])
    values = problem_values(problems, ks, seed=seed)
    within = [(np.mean(lr), np.mean(lw)) for lr, lw in (_by_outcome(p) for p in problems) if len(lr) and len(lw)]
    mean_right, mean_wrong = (float(np.mean(x)) for x in zip(*within, strict=True)) if within else (None, None)
    return {
        "problems": len(problems),
        "samples": len(right),
        "n": n,
        "avg": float(values["avg"].mean()),
        "pass": {k: float(values[f"pass@{k}"].mean()) for k in ks},
        "maj": {k: float(values[f"maj@{k}"].mean()) for k in ks},
        "length": {
            "mean": float(lengths.mean()),
            "median": float(np.median(lengths)),
            "cut_off": float(cut.mean()),
            "right": _mean_or_none(lengths[right]),
            "wrong": _mean_or_none(lengths[~right]),
        },
        "length_within": {
            "problems": len(within),
            "right": mean_right,
            "wrong": mean_wrong,
            "wrong_minus_right": mean_wrong - mean_right if within else None,
        },
        "tokens_per_solved": float(lengths.sum() / right.sum()) if right.any() else None,
    }


def problem_values(problems: Sequence[ProblemSamples], ks: Sequence[int], *, seed: int = 0) -> dict[str, np.ndarray]:
    """Each problem's own avg, pass@k and maj@k, [P] each: what intervals and paired tests are computed from."""
    n, c = np.array([p.n for p in problems]), np.array([int(p.right.sum()) for p in problems])
    values = {"avg": c / n}
    for k in ks:
        values[f"pass@{k}"] = pass_at_k(n, c, k)
        values[f"maj@{k}"] = np.array([majority_at_k(p.predictions, p.right, k, seed=seed) for p in problems])
    return values


def validation_metrics(problems: Sequence[ProblemSamples]) -> dict[str, float]:
    """Validation metrics under verl's names (``val-core/...``, ``val-aux/...``), so that both engines share a chart.

    As in verl 0.9.1: per source and variable (``acc``, and ``reward`` where scores are given) ``mean@n``, ``std@n``,
    and for k = 2, 4, ... n ``best@k/mean``, ``worst@k/mean`` and ``maj@k/mean``; ``acc``'s mean, best and maj at n are
    core, the rest is aux; where there is no ``acc`` the ``reward``'s are core. Best, worst and maj are the exact
    expectations of what verl estimates with 1,000 draws. Besides: ``acc/pass@k`` and ``acc/majority@k`` (without replacement), ``response_length/mean``, ``median`` and
    ``clip_ratio``, ``response_length_right/mean`` and ``response_length_wrong/mean`` (NaN over no samples),
    ``right_per_1k_tokens``.

    Raises:
        ValueError: the problems of one source have different numbers of samples.
    """
    metrics: dict[str, float] = {}
    for source in dict.fromkeys(p.source for p in problems):
        mine = [p for p in problems if p.source == source]
        n = mine[0].n
        if any(p.n != n for p in mine):
            raise ValueError(
                f"{source}: problems with {sorted({p.n for p in mine})} samples; metrics named @n need one n"
            )
        accurate, scored = (all(getattr(p, name) is not None for p in mine) for name in ("acc", "scores"))
        variables = ["acc"] * accurate + ["reward"] * scored
        for variable in variables:
            for name, value in _verl_metrics(mine, variable, n).items():
                core = variable == variables[0] and name.startswith(("mean", "maj", "best")) and f"@{n}" in name
                metrics[f"val-{'core' if core else 'aux'}/{source}/{variable}/{name}"] = value
        aux = f"val-aux/{source}"
        lengths = np.concatenate([np.asarray(p.lengths, dtype=float) for p in mine])
        metrics[f"{aux}/response_length/mean"] = float(lengths.mean())
        metrics[f"{aux}/response_length/median"] = float(np.median(lengths))
        metrics[f"{aux}/response_length/clip_ratio"] = float(1 - np.concatenate([p.finished for p in mine]).mean())
        if not accurate:
            continue
        figures = summarize(mine)
        for k in figures["pass"]:
            if k > 1:  # at 1 both are the mean
                metrics[f"{aux}/acc/pass@{k}"] = figures["pass"][k]
                metrics[f"{aux}/acc/majority@{k}"] = figures["maj"][k]
        metrics[f"{aux}/response_length_right/mean"] = _or_nan(figures["length"]["right"])
        metrics[f"{aux}/response_length_wrong/mean"] = _or_nan(figures["length"]["wrong"])
        solved = figures["tokens_per_solved"]
        metrics[f"{aux}/right_per_1k_tokens"] = 1000.0 / solved if solved else 0.0
    return metrics


def _verl_metrics(problems: Sequence[ProblemSamples], variable: str, n: int) -> dict[str, float]:
    rows = [np.asarray(p.acc if variable == "acc" else p.scores, dtype=float) for p in problems]
    metrics = {f"mean@{n}": float(np.mean([r.mean() for r in rows]))}
    if n > 1:
        metrics[f"std@{n}"] = float(np.mean([r.std() for r in rows]))
    for k in powers_of_two(n)[1:]:
        metrics[f"best@{k}/mean"] = float(np.mean([best_with_replacement(r, k) for r in rows]))
        metrics[f"worst@{k}/mean"] = float(np.mean([-best_with_replacement(-r, k) for r in rows]))
        majorities = [majority_with_replacement(p.predictions, r, k) for p, r in zip(problems, rows, strict=True)]
        metrics[f"maj@{k}/mean"] = float(np.mean(majorities))
    return metrics


def _by_outcome(problem: ProblemSamples) -> tuple[np.ndarray, np.ndarray]:
    """Lengths of the right and of the wrong samples."""
    lengths = np.asarray(problem.lengths, dtype=float)
    return lengths[problem.right], lengths[~problem.right]


def _or_nan(value: float | None) -> float:
    return nan if value is None else value


def _mean_or_none(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None
