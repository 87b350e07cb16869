"""What the model thought at each token of a response: entropy, surprisal, its second choice and another draw. One forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from erpo_verl.rollout.hf import draw, uniforms

PIECE = 256  # tokens whose logits over the vocabulary are in memory at once


@dataclass(frozen=True)
class Annotation:
    """Of a response with T tokens; lists of T. Entropies and log-probs in nats, at the sampling temperature, over the whole vocabulary."""

    entropy: list[float]
    log_prob: list[float]  # of the token that was drawn
    second: list[int]  # the likeliest token other than it
    second_log_prob: list[float]
    other: list[int]  # a draw from the same distribution without it
    other_log_prob: list[float]  # under the whole distribution


class Annotator(Protocol):
    """Makes annotations."""

    def annotate(self, prompt: Sequence[int], tokens: Sequence[int], *, temperature: float, seed: int) -> Annotation:
        """Of one response; the seed decides the other draws."""
        ...


class ModelAnnotator:
    """With a transformers model in this process, a piece of the response at a time over its cache of keys and values.

    Args:
        model: a causal LM on any device, in eval mode.
    """

    def __init__(self, model: nn.Module):
        self.model = model

    @torch.no_grad()
    def annotate(self, prompt: Sequence[int], tokens: Sequence[int], *, temperature: float, seed: int) -> Annotation:
        """See `Annotator`."""
        device = self.model.get_input_embeddings().weight.device
        ids = torch.tensor([[*prompt, *tokens]], device=device)
        noise = torch.from_numpy(uniforms(seed, 0, 0, len(tokens))).to(device)
        first, parts, cache, done = len(prompt) - 1, [], None, 0
        while done < len(prompt) + len(tokens) - 1:  # the last token's own distribution is not wanted
            end = min(len(prompt) + len(tokens) - 1, max(len(prompt), done + PIECE))
            output = self.model(input_ids=ids[:, done:end], past_key_values=cache, use_cache=True)
            wanted = max(first - done, 0)
            logits = output.logits[0, wanted:]
            at = done + wanted - first  # of the response, from 0
            chosen = ids[0, done + wanted + 1 : end + 1]
            parts.append(look(logits, chosen, noise[at : at + len(chosen)], temperature))
            cache, done = output.past_key_values, end
        columns = [torch.cat(column).tolist() for column in zip(*parts, strict=True)]
        return Annotation(*columns)


def look(logits: Tensor, chosen: Tensor, noise: Tensor, temperature: float) -> tuple[Tensor, ...]:
    """`Annotation`'s columns [T] of tokens ``chosen`` [T] under logits [T, V]; ``noise`` [T] float64 in [0, 1) decides the other draws."""
    log_p = torch.log_softmax(logits.float() / temperature, dim=-1)
    p = log_p.exp()
    entropy = -(p * log_p.clamp(min=torch.finfo(log_p.dtype).min)).sum(-1)
    rest = log_p.scatter(1, chosen[:, None], float("-inf"))
    second = rest.argmax(-1)
    # What is left may be too little to draw from by its own size: it is scaled up.
    share = torch.exp(rest - rest.gather(1, second[:, None]))
    other = draw(share, noise)

    def of(token: Tensor) -> Tensor:
        return log_p.gather(1, token[:, None])[:, 0]

    return entropy, of(chosen), second, of(second), other, of(other)


def seed_of(seed: int, problem: str, response: int) -> int:
    """A seed for one response."""
    import hashlib

    return int.from_bytes(hashlib.sha256(repr((seed, problem, response)).encode()).digest()[:7], "big")


def generator(seed: int, problem: str) -> np.random.Generator:
    """The random numbers of one problem."""
    return np.random.default_rng(seed_of(seed, problem, -1))
