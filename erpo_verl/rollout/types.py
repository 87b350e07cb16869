"""What goes into a rollout engine and what comes out of it. Token ids are plain lists of int: nothing here is padded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import nn


@dataclass(frozen=True)
class SamplingParams:
    """How to sample. Names and meanings are those of verl's ``actor_rollout_ref.rollout``.

    Raises:
        ValueError: a value out of its range (said in the message).
    """

    n: int = 1  # responses a prompt, >= 1
    max_tokens: int = 512  # longest response, in tokens, the end token included; >= 1
    temperature: float = 1.0  # > 0; where do_sample is False it only counts for log-probs and entropies
    top_k: int = -1  # >= 1, or -1 for the whole vocabulary
    top_p: float = 1.0  # in (0, 1]
    do_sample: bool = True  # False: greedy
    seed: int = 0  # the same seed, weights and prompts give the same responses
    with_entropy: bool = False  # whether each token's entropy is wanted

    def __post_init__(self) -> None:
        for name in ("n", "max_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must be >= 1")
        if not self.temperature > 0:
            raise ValueError(f"temperature = {self.temperature}: must be > 0 (do_sample=False is greedy)")
        if self.top_k != -1 and self.top_k < 1:
            raise ValueError(f"top_k = {self.top_k}: must be >= 1, or -1 for the whole vocabulary")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p = {self.top_p}: must be in (0, 1]")


@dataclass(frozen=True)
class Response:
    """One sampled response."""

    tokens: list[int]  # 1 .. max_tokens ids, the end token included where the response ended by itself
    log_probs: list[float]  # nats, of each token under softmax(logits / temperature) over the whole vocabulary
    finished: bool  # False: cut off at max_tokens
    entropies: list[float] | None = None  # nats, of the distributions that log_probs are of; None unless with_entropy


class RolloutEngine(Protocol):
    """Samples from the weights of the last ``sync``."""

    def sync(self, model: nn.Module) -> None:
        """Take over the weights of ``model`` (a Hugging Face causal LM, already unwrapped and gathered), exactly."""
        ...

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Response]]:
        """``params.n`` responses for each prompt (token ids), in the prompts' order.

        ``progress`` is called now and then with the number of responses that are complete so far.
        """
        ...

    def close(self) -> None:
        """Give back memory and processes. Nothing may be generated afterwards."""
        ...
