"""Which tokens of a prompt's responses are looked at: pivots, surprising tokens, their partners of the same place, tokens of low entropy.

A group is the responses to one prompt, as in training. Everything is drawn from a seeded generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WINDOWS = 10  # of progress: tau = t / T in tenths, as ERPO's buckets
TOP = 0.1  # share of a group's tokens that count as top, and as lowest
GAMMA = 5.0  # of the gate
EPS = 1e-6

PIVOT, SURPRISING, LOW, RANDOM, SHOWN = "pivot", "surprising", "low", "random", "shown"
PARTNER = {PIVOT: "beside a pivot", SURPRISING: "beside a surprising token"}
"""Names of the tokens that are matched by place."""

KINDS = {
    PIVOT: "entropy above the group's mean (z > 0, where the gate is above one half) and in its highest tenth",
    PARTNER[PIVOT]: "drawn at random from the same window of progress, no pivot",
    SURPRISING: "surprisal -log p of the token that was drawn in the group's highest tenth",
    PARTNER[SURPRISING]: "drawn at random from the same window of progress, not surprising",
    LOW: "entropy in the group's lowest tenth",
    RANDOM: "drawn at random from all tokens of the group",
    SHOWN: "every token of a response that the page shows",
}


@dataclass(frozen=True)
class Site:
    """One token of a group: ``position`` counts the tokens of response ``response`` from 0."""

    kind: str
    response: int
    position: int
    pair: int = -1  # a marked token and its partner have the same number


@dataclass(frozen=True)
class Group:
    """The tokens of a prompt's responses, one array a response in each list; [T_i] float64 but for ``window`` (int64)."""

    entropy: list[np.ndarray]  # nats
    surprisal: list[np.ndarray]  # nats
    z: list[np.ndarray]  # entropy in standard deviations from the group's mean
    gate: list[np.ndarray]  # sigmoid(GAMMA z), in (0, 1)
    window: list[np.ndarray]  # 0 .. WINDOWS - 1

    @classmethod
    def of(cls, entropy: Sequence[Sequence[float]], surprisal: Sequence[Sequence[float]]) -> Group:
        """From entropies and surprisals; a group has at least one token."""
        H, S = ([np.asarray(row, dtype=float) for row in rows] for rows in (entropy, surprisal))
        whole = np.concatenate(H)
        z = [(row - whole.mean()) / (whole.std() + EPS) for row in H]
        gate = [1 / (1 + np.exp(-GAMMA * row)) for row in z]
        window = [np.minimum(np.arange(len(row)) * WINDOWS // max(1, len(row)), WINDOWS - 1) for row in H]
        return cls(H, S, z, gate, window)

    def flat(self, name: str) -> np.ndarray:
        """[N] all tokens, response by response."""
        return np.concatenate(getattr(self, name))

    def places(self) -> list[tuple[int, int]]:
        """(response, position) of each of them."""
        return [(i, t) for i, row in enumerate(self.entropy) for t in range(len(row))]


def top_share(values: np.ndarray, share: float = TOP) -> np.ndarray:
    """[N] bool: the round(share * N) largest, at least one; of equal values those that come first."""
    count = max(1, round(share * len(values)))
    found = np.zeros(len(values), dtype=bool)
    found[np.argsort(-values, kind="stable")[:count]] = True
    return found


def choose(group: Group, count: int, rng: np.random.Generator, shown: Sequence[int] = (), every: int = 1) -> list[Site]:
    """Sites of one group.

    Args:
        count: of each kind, >= 1; fewer where the group has fewer. A marked token without a partner in its window is left out.
        shown: responses all of whose tokens (every ``every``-th) are looked at.

    Returns:
        sites; a token may be in several kinds.
    """
    places, H, window = group.places(), group.flat("entropy"), group.flat("window")
    marked = {PIVOT: top_share(H) & (group.flat("z") > 0), SURPRISING: top_share(group.flat("surprisal"))}
    sites: list[Site] = []
    pair = 0
    for kind, mark in marked.items():
        found = 0
        taken = np.zeros(len(H), dtype=bool)
        for i in rng.permutation(np.flatnonzero(mark)):
            partners = np.flatnonzero(~mark & ~taken & (window == window[i]))
            if found == count or not len(partners):
                continue
            j = rng.choice(partners)
            taken[j] = True
            sites += [Site(kind, *places[i], pair), Site(PARTNER[kind], *places[j], pair)]
            pair, found = pair + 1, found + 1
    lowest = np.flatnonzero(top_share(-H))
    anywhere = np.arange(len(H))
    for kind, pool in ((LOW, lowest), (RANDOM, anywhere)):
        sites += [Site(kind, *places[i]) for i in rng.choice(pool, size=min(count, len(pool)), replace=False)]
    sites += [Site(SHOWN, i, t) for i in shown for t in range(0, len(group.entropy[i]), every)]
    return sites
