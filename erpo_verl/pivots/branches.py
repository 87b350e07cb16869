"""From sites to branches: the token as it was, another draw, the second choice; each continued n times and judged.

A branch is the response up to a site, a token in the site's place, and n continuations by the model. With ``keep`` the token is the
response's own: what the others are compared with. Continuations share their prefix (an engine runs a prompt once for its n responses).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from erpo_verl.pivots.annotate import Annotation
from erpo_verl.pivots.positions import Site
from erpo_verl.rollout import RolloutEngine, SamplingParams

KEEP, OTHER, SECOND = "keep", "other draw", "second choice"
KINDS = (KEEP, OTHER, SECOND)


@dataclass(frozen=True)
class Branch:
    """What is continued: ``prefix`` are the response's tokens up to the site, the branch's token included."""

    response: int
    position: int
    kind: str
    token: int
    log_prob: float  # of the token, nats
    prefix: list[int]

    @property
    def key(self) -> tuple[int, int, int]:
        """Branches with the same key are the same, whatever kind of site and of replacement they came from."""
        return self.response, self.position, self.token


@dataclass(frozen=True)
class Outcome:
    """How the continuations of a branch ended: [n] each."""

    right: list[float]  # 1 or 0
    answers: list[str]  # as the judge read them; "" where there is none
    lengths: list[int]  # of the whole response, in tokens


def branches_of(site: Site, tokens: Sequence[int], annotation: Annotation) -> list[Branch]:
    """The three branches of a site."""
    t = site.position
    found = []
    for kind, token, log_prob in (
        (KEEP, tokens[t], annotation.log_prob[t]),
        (OTHER, annotation.other[t], annotation.other_log_prob[t]),
        (SECOND, annotation.second[t], annotation.second_log_prob[t]),
    ):
        found.append(Branch(site.response, t, kind, token, log_prob, [*tokens[:t], token]))
    return found


Whole = tuple[list[int], bool]
"""A whole response, and whether it ended by itself."""


def continue_all(
    work: Sequence[tuple[Sequence[int], Branch]],
    engine: RolloutEngine,
    *,
    ends: Sequence[int],
    n: int,
    max_tokens: int,
    params: SamplingParams,
    progress: Callable[[int], None] | None = None,
) -> list[list[Whole]]:
    """The n whole responses of each (prompt's tokens, branch), in their order; one only where the branch has ended with its token.

    Args:
        ends: tokens that end a response.
        n: continuations of each branch.
        max_tokens: longest response as a whole.
        params: temperature, top_p, top_k and seed of the continuations.
    """
    rows: list[list[Whole]] = [[(branch.prefix, branch.token in ends)] for _, branch in work]
    open_ones = [i for i, (_, branch) in enumerate(work) if branch.token not in ends and len(branch.prefix) < max_tokens]
    if open_ones:
        # One length limit for the whole call: rows that have ended leave the batch, and what runs past its own limit is cut here.
        longest = max(max_tokens - len(work[i][1].prefix) for i in open_ones)
        prompts = [[*work[i][0], *work[i][1].prefix] for i in open_ones]
        answered = engine.generate(prompts, replace(params, n=n, max_tokens=longest), progress)
        for i, responses in zip(open_ones, answered, strict=True):
            prefix, room = work[i][1].prefix, max_tokens - len(work[i][1].prefix)
            rows[i] = [([*prefix, *r.tokens[:room]], r.finished and len(r.tokens) <= room) for r in responses]
    return rows


def record(site: Site, branch: Branch, outcome: Outcome) -> dict[str, Any]:
    """A branch as a mapping of plain values, as it is kept."""
    return {
        "site": site.kind, "pair": site.pair, "response": site.response, "position": site.position, "branch": branch.kind,
        "token": branch.token, "log_prob": branch.log_prob, "right": outcome.right, "answers": outcome.answers, "lengths": outcome.lengths,
    }  # fmt: skip
