"""Which metrics a comparison shows, in which panels, and what each of them means. Names are verl's and ERPO's own."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

ACCURACY = re.compile(r"^val-(core|aux)/(?P<source>.+)/acc/mean@(?P<n>\d+)$")
"""Accuracy on a validation source: the mean over ``n`` samples of each problem."""

TOKENS = "tokens generated"
"""Name of a run's cumulative number of generated tokens (derived, see `runs.Run.tokens`)."""


@dataclass(frozen=True)
class Curve:
    """One metric in a panel. ``label`` tells it from the panel's other curve; empty where it is alone."""

    name: str
    label: str = ""


@dataclass(frozen=True)
class Panel:
    """One figure: up to two metrics of the same unit over the steps, or over generated tokens (``over_tokens``)."""

    key: str
    section: str
    title: str
    unit: str
    curves: tuple[Curve, ...]
    meaning: str
    over_tokens: bool = False


def accuracy_panels(sources: Iterable[str]) -> list[Panel]:
    """Two panels a validation source: against steps and against generated tokens. ``sources``: metric names of accuracies."""
    panels = []
    for name in sources:
        match = ACCURACY.match(name)
        source, n = match["source"], int(match["n"])
        times = "once" if n == 1 else f"{n} times"
        key = re.sub(r"[^A-Za-z0-9]+", "-", source).strip("-").lower() or "source"
        meaning = f"Share of right answers to the held-out problems of {source}, each sampled {times} ({name})."
        for over_tokens in (False, True):
            panels.append(
                Panel(
                    f"accuracy-{key}-{'tokens' if over_tokens else 'steps'}", "Accuracy", f"{source}: held-out accuracy", "",
                    (Curve(name),), meaning, over_tokens,
                )
            )  # fmt: skip
    return panels


PANELS: tuple[Panel, ...] = (
    Panel("reward", "Learning", "Training reward", "", (Curve("critic/score/mean"),),
          "Mean score of the responses that a step trained on (critic/score/mean)."),
    Panel("mixed-groups", "Learning", "Groups that teach", "", (Curve("erpo/groups_mixed/mean"),),
          "Share of prompts with right and wrong responses; the outcome term of the others is zero (erpo/groups_mixed/mean)."),
    Panel("length", "Length", "Response length", "tokens", (Curve("response_length/mean"),),
          "Mean length of the training responses (response_length/mean)."),
    Panel("length-right-wrong", "Length", "Length, right and wrong", "tokens",
          (Curve("erpo/length_right/mean", "right"), Curve("erpo/length_wrong/mean", "wrong")),
          "Mean length of the training responses that are right and of those that are wrong; 0 where there are none of a kind "
          "(erpo/length_right/mean, erpo/length_wrong/mean)."),
    Panel("cut-off", "Length", "Responses at the length limit", "", (Curve("response_length/clip_ratio"),),
          "Share of training responses that reached the length limit (response_length/clip_ratio)."),
    Panel("entropy", "Entropy and pivots", "Policy entropy", "nats", (Curve("actor/entropy"),),
          "Mean entropy of the policy's next-token distribution over the training responses (actor/entropy)."),
    Panel("pivot-entropy", "Entropy and pivots", "Entropy of pivots and of other tokens", "nats",
          (Curve("erpo/cdp_entropy/mean", "pivots"), Curve("erpo/non_cdp_entropy/mean", "others")),
          "Mean entropy of critical decision pivots (tokens with z > 0: above their group's mean entropy) and of all other "
          "tokens (erpo/cdp_entropy/mean, erpo/non_cdp_entropy/mean)."),
    Panel("pivot-share", "Entropy and pivots", "Share of pivots", "",
          (Curve("erpo/cdp_advantage_share/mean", "of advantage"), Curve("erpo/cdp_share/mean", "of tokens")),
          "How much of the summed size of the token advantages lies on pivots, and how many of the tokens are pivots "
          "(erpo/cdp_advantage_share/mean, erpo/cdp_share/mean)."),
    Panel("top-pivot-entropy", "Entropy and pivots", "Entropy of top pivots", "nats", (Curve("erpo/top_cdp_entropy/mean"),),
          "Mean entropy of the fifth of the tokens with the largest z (erpo/top_cdp_entropy/mean)."),
    Panel("gate", "Entropy and pivots", "Gate", "", (Curve("erpo/gate/mean"),),
          "Mean of the entropy-aware gate W over tokens (erpo/gate/mean)."),
    Panel("sign-flips", "Entropy and pivots", "Advantages turned round", "", (Curve("erpo/sign_flip_share/mean"),),
          "Share of tokens whose advantage has the opposite sign of their response's outcome advantage (erpo/sign_flip_share/mean)."),
    Panel("grad-norm", "Optimisation", "Gradient norm", "", (Curve("actor/grad_norm"),),
          "Norm of the gradient before clipping (actor/grad_norm)."),
    Panel("clip-fraction", "Optimisation", "Clip fraction", "", (Curve("actor/pg_clipfrac"),),
          "Share of tokens whose probability ratio is beyond the clip range on the side where it decides (actor/pg_clipfrac)."),
    Panel("kl", "Optimisation", "Change of the policy in a step", "nats",
          (Curve("actor/ppo_kl", "all responses"), Curve("actor/ppo_kl_live/mean", "those with a gradient")),
          "Mean of log pi_old - log pi over the tokens of a step (actor/ppo_kl), or where only responses with a gradient were run, over "
          "theirs (actor/ppo_kl_live/mean)."),
    Panel("throughput", "Optimisation", "Throughput", "tokens/s", (Curve("perf/throughput"),),
          "Tokens, prompts included, a second and device (perf/throughput). A property of the machine as much as of the method."),
)  # fmt: skip


@dataclass(frozen=True)
class Measure:
    """A number a run that arms are compared in. ``tail``: mean over the last steps, as one training batch alone is noisy."""

    name: str
    title: str
    form: str
    tail: bool


TAIL = 5
"""Steps over which training metrics are averaged."""

MEASURES: tuple[Measure, ...] = (
    Measure("critic/score/mean", "training reward", ".3f", True),
    Measure("response_length/mean", "response length (tokens)", ".1f", True),
    Measure("erpo/length_right/mean", "length of right responses", ".1f", True),
    Measure("erpo/length_wrong/mean", "length of wrong responses", ".1f", True),
    Measure("actor/entropy", "policy entropy (nats)", ".3f", True),
    Measure(TOKENS, "generated tokens", ",.0f", False),
)


def accuracy_measures(sources: Iterable[str]) -> list[Measure]:
    """One measure a validation source."""
    return [Measure(name, f"accuracy on {ACCURACY.match(name)['source']}", ".3f", False) for name in sources]
