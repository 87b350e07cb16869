"""Emphasis on some tokens: when it acts (settings shared by the methods that have one), and how weights become advantages.

    strength = max(0, 1 - step / fade_steps) * clip((target - H) / target, 0, 1)

H is the mean entropy of the step's tokens. At strength 0 a method is GRPO. An emphasis that fades over training, and one that acts only
while the policy is too certain, are what kept entropy and raised accuracy elsewhere (`docs/method.md`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from erpo_verl.methods.batch import Packed
from erpo_verl.methods.credit import Writer
from erpo_verl.methods.grpo import outcome_advantage
from erpo_verl.settings import Settings, setting


@dataclass(frozen=True)
class StrengthSettings(Settings, prefix="strength."):
    """Law of the strength; by default it is 1 throughout."""

    entropy_target: float | None = setting(
        None, float, "Target for the batch's mean entropy, in nats: the emphasis acts with strength (target - H) / target below it and not at all "
        "above; null: always in full.", "[here], after STARE's entropy target", above=0, nullable=True,
    )  # fmt: skip
    fade_steps: int | None = setting(
        None, int, "Steps over which the strength falls linearly to 0; null: it does not.", "[here], after Jinghaoleven/RLVR-Schedule",
        at_least=1, nullable=True,
    )  # fmt: skip

    @property
    def always_full(self) -> bool:
        """Whether the strength is 1 whatever the batch and the step."""
        return self.entropy_target is None and self.fade_steps is None

    @property
    def needs_entropy(self) -> bool:
        """Whether the law looks at the batch's entropy."""
        return self.entropy_target is not None

    def faded(self, step: int | None) -> float:
        """The factor of ``fade_steps`` at a step; 1 for step None, which stands for any step."""
        return 1.0 if self.fade_steps is None or step is None else max(0.0, 1.0 - step / self.fade_steps)

    def at(self, batch: Packed) -> float:
        """The strength for a batch, 0 to 1.

        Raises:
            ValueError: it depends on the step, and the batch has none.
        """
        if self.fade_steps is not None and batch.step is None:
            raise ValueError("strength.fade_steps is set, so the method needs `step` (counted from 1); pass it, or set it to null")
        strength = self.faded(batch.step)
        if self.entropy_target is not None and strength > 0:
            H = batch.mean_entropy  # NaN without a token; then there is nothing to weight either
            strength *= min(1.0, max(0.0, (self.entropy_target - H) / self.entropy_target)) if H == H else 0.0
        return strength


def largest(values: Sequence[Tensor], share: float) -> Tensor:
    """The k-th largest of all ``values`` ([n] of each block), k = floor(share * their number): those not below it are the largest
    ``share``, ties included. inf where k is 0."""
    joined = torch.cat(list(values))
    k = int(share * len(joined) + 1e-9)  # 0.7 * 10 is 6.999...
    if k == 0:
        return joined.new_full((), float("inf"))
    return joined.kthvalue(len(joined) - k + 1).values


def emphasise(
    batch: Packed, out: Writer, chosen: Sequence[Tensor], *, weight: float, rest: float, strength: float, mean_one: bool
) -> None:
    """Writes w A_i, A_i GRPO's: w = 1 + strength (weight - 1) on chosen tokens, and with ``rest`` for ``weight`` on the others.

    Args:
        chosen: [n] bool of each block.
        mean_one: divide w by its mean over the batch's valid tokens, so that the step size stays GRPO's.
    """
    out.outcome = outcome_advantage(batch)
    A = out.outcome.to(batch.dtype)
    high, low = (1 + strength * (w - 1) for w in (weight, rest))
    if mean_one:
        picked, tokens = sum(int(x.sum()) for x in chosen), sum(len(x) for x in chosen)
        mean = low + (high - low) * picked / max(tokens, 1)
        high, low = (w / mean if mean else 0.0 for w in (high, low))
    high, low = A.new_tensor(high), A.new_tensor(low)
    for number, block in enumerate(batch.blocks):
        w = torch.where(chosen[number], high, low)
        out.put(number, w * block.spread(A), weight=w, sums={"chosen": chosen[number].to(batch.dtype).sum()})
