"""first_tokens: more credit for the first tokens of a response, where its course is set. An example, not a claim.

    w_{i,t} = strength    if t < share * T_i
              1           else
    A_{i,t} = w_{i,t} A_i,  A_i GRPO's

Train with it in either engine:

    erpo train examples/arithmetic/grpo.yaml algorithm.adv_estimator=first_tokens algorithm.first_tokens.strength=1.5
    python -m verl.trainer.main_ppo algorithm.adv_estimator=first_tokens +algorithm.first_tokens.strength=1.5 ...
"""

from dataclasses import dataclass

import torch

from erpo_verl.methods.contract import Method, Metric, Packed, Quantity, Settings, Writer
from erpo_verl.methods.grpo import outcome_advantage
from erpo_verl.settings import setting

SHARE = 0.25


@dataclass(frozen=True)
class FirstTokensSettings(Settings, prefix="algorithm.first_tokens."):
    strength: float = setting(1.2, float, "Weight of the first quarter of a response's tokens.", "this example", at_least=0)


def compute(batch: Packed, settings: FirstTokensSettings, out: Writer) -> None:
    out.outcome = outcome_advantage(batch)  # [B]
    for number, block in enumerate(batch.blocks):  # n valid tokens of some responses, one after the other
        A = block.spread(out.outcome.to(batch.dtype))  # [n]
        early = block.position < SHARE * block.spread(batch.lengths)  # [n]
        weight = torch.where(early, settings.strength, 1.0).to(batch.dtype)
        out.put(number, weight * A, weight=weight, sums={"early": early.to(batch.dtype).sum()})
    out.metrics = {"first_tokens/early_share/mean": out.pooled.mean("early")}


METHOD = Method(
    "first_tokens",
    "more credit for the first quarter of a response's tokens",
    compute,
    settings=FirstTokensSettings,
    metrics=(Metric("first_tokens/early_share/mean", "share of tokens that get the weight", "0 to 1", "this example", chart="First tokens"),),
    tokens=(Quantity("weight", "weight", "What the outcome's advantage is multiplied by.", "", "this example"),),
)
