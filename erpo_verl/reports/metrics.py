"""Which metrics a comparison shows, in which panels, and what each of them means. Names are verl's and ERPO's own."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from erpo_verl.methods.declarations import Metric

_HELD_OUT = re.compile(r"val-(core|aux)/(?P<source>.+)/(?P<kind>acc|reward)/mean@(?P<n>[0-9]+)")

TOKENS = "tokens generated"
"""Name of a run's cumulative number of generated tokens (derived, see `runs.Run.tokens`)."""


@dataclass(frozen=True)
class HeldOut:
    """The number of a validation source: accuracy, or the mean reward where a run logs none; the mean over ``n`` samples a problem."""

    name: str
    source: str
    kind: str
    n: int

    @classmethod
    def parse(cls, name: str) -> HeldOut | None:
        """From a metric's name; None for another metric."""
        match = _HELD_OUT.fullmatch(name)
        return match and cls(name, match["source"], match["kind"], int(match["n"]))

    @property
    def title(self) -> str:
        """``accuracy`` or ``held-out reward``."""
        return "accuracy" if self.kind == "acc" else "held-out reward"

    @property
    def full_title(self) -> str:
        """With the source's name."""
        return f"{self.title} on {self.source}"


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


def held_out_panels(sources: Iterable[HeldOut]) -> list[Panel]:
    """Two panels a validation source: against steps and against generated tokens."""
    panels = []
    for one in sources:
        times = "once" if one.n == 1 else f"{one.n} times"
        key = _slug(one.source) or "source"
        what, word = ("Share of right answers", "accuracy") if one.kind == "acc" else ("Mean reward of the answers", "reward")
        meaning = f"{what} to the held-out problems of {one.source}, each sampled {times} ({one.name})."
        for over_tokens in (False, True):
            panels.append(
                Panel(
                    f"{word}-{key}-{'tokens' if over_tokens else 'steps'}", "Accuracy", f"{one.source}: held-out {word}", "",
                    (Curve(one.name),), meaning, over_tokens,
                )
            )  # fmt: skip
    return panels


def method_panels() -> list[Panel]:
    """What methods declare charts for: of every method, then of each one; metrics with the same title share a panel."""
    from erpo_verl import methods
    from erpo_verl.methods.diagnostics import METRICS

    charts: dict[tuple[str, str], list[Metric]] = {}
    for owner, metrics in (("", METRICS), *((method.name, method.metrics) for method in methods.all_methods())):
        for metric in metrics:
            if metric.chart:
                charts.setdefault((owner, metric.chart), []).append(metric)
    return [
        Panel(
            _slug(f"{owner} {title}"), "Token-level credit", title, unit if (unit := metrics[0].unit.partition(",")[0]) in ("nats", "tokens") else "",
            tuple(Curve(metric.name, metric.label) for metric in metrics), "; ".join(f"{metric.meaning[:1].upper()}{metric.meaning[1:]} ({metric.name})" for metric in metrics) + ".",
        )
        for (owner, title), metrics in charts.items()
    ]  # fmt: skip


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-").lower()


PANELS: tuple[Panel, ...] = (
    Panel("reward", "Learning", "Training reward", "", (Curve("critic/score/mean"),),
          "Mean score of the responses that a step trained on (critic/score/mean)."),
    Panel("length", "Length", "Response length", "tokens", (Curve("response_length/mean"),),
          "Mean length of the training responses (response_length/mean)."),
    Panel("cut-off", "Length", "Responses at the length limit", "", (Curve("response_length/clip_ratio"),),
          "Share of training responses that reached the length limit (response_length/clip_ratio)."),
    Panel("entropy", "Entropy and pivots", "Policy entropy", "nats", (Curve("actor/entropy"),),
          "Mean entropy of the policy's next-token distribution over the training responses (actor/entropy)."),
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


TAIL = 5
"""Steps over which training metrics are averaged, as one batch alone is noisy."""

MEASURES: tuple[tuple[str, str, str], ...] = (
    ("critic/score/mean", "training reward", ".3f"),
    ("response_length/mean", "response length (tokens)", ".1f"),
    ("erpo/length_right/mean", "length of right responses", ".1f"),
    ("erpo/length_wrong/mean", "length of wrong responses", ".1f"),
    ("actor/entropy", "policy entropy (nats)", ".3f"),
    (TOKENS, "generated tokens", ",.0f"),
)
"""Numbers in which arms are described beside the held-out ones: metric, title, format."""
