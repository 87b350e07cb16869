"""Sampling with transformers, from the very model that is being trained, in a decode loop of its own.

``model.generate`` would do; the loop is here because a batch of a training step has a known shape, and this saves work:

1. A prompt is run once; its keys and values are then repeated for its ``n`` responses.
2. Rows that have ended leave the batch, so that a batch costs its tokens, not its rows times its longest response.
3. Prompts of like lengths share a batch: little padding, and none at all where lengths are equal.
4. The keys' and values' memory grows in blocks; transformers' DynamicCache copies all of it with each token (``rollout.caches``).
5. Only the sampled token's log-prob and the entropy are kept of each step's logits.

A model that does not allow 1 to 3 (a cache class of its own, states in its modules) is sampled by ``model.generate`` after all, with
the same random numbers; the engine's ``note`` says so.

Randomness: row by row, a Philox stream whose key is (seed, prompt's position, sample's number) gives one uniform number a token,
and the token is where the cumulative distribution passes it. What a row draws does not depend on the other rows, on ``max_batch`` or
on the device. (Logits still differ in the last bits with the shape of a batch, so that once in a long while a token differs.)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from erpo_verl.models.errors import ModelError
from erpo_verl.rollout.caches import EQUAL, GENERATE, ROWS, evaluating, forward, new_cache, select_rows, way_of
from erpo_verl.rollout.generate import check_generate, generate_rows
from erpo_verl.rollout.types import Response, SamplingParams
from erpo_verl.rollout.weights import plain_weights

CHECK_EVERY = 8  # tokens between two looks at which rows have ended, off the CPU (each look waits for the device)
BLOCK = 512  # tokens of a block in which the cumulative distribution is first looked up


def uniforms(seed: int, prompt: int, sample: int, count: int) -> np.ndarray:
    """[count] float64 in [0, 1): the random numbers of one response; a longer request begins with the same numbers."""
    key = (seed % 2**64) | ((prompt % 2**32) << 96) | ((sample % 2**32) << 64)
    return np.random.Generator(np.random.Philox(key=key)).random(count)


def draw(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """[B] int64: where each row's cumulative distribution passes its uniform number.

    Args:
        probabilities: [B, V] float32, >= 0; rows need not sum to 1.
        uniform: [B] float64 in [0, 1).

    The sum runs in float64 over blocks, then over the tokens of one block: in float32 over a whole vocabulary rare tokens would
    be drawn too often or never.
    """
    B, V = probabilities.shape
    size = min(BLOCK, V)
    padded = torch.nn.functional.pad(probabilities, (0, -V % size)) if V % size else probabilities
    blocks = padded.view(B, -1, size)
    ends = blocks.sum(dim=2).double().cumsum(dim=1)
    target = (uniform * ends[:, -1])[:, None]
    block = torch.searchsorted(ends, target, right=True).clamp_(max=ends.shape[1] - 1)
    rows = torch.arange(B, device=block.device)
    inside = blocks[rows, block[:, 0]].double().cumsum(dim=1)
    before = torch.where(block > 0, ends.gather(1, (block - 1).clamp_(min=0)), 0.0)
    # Rounding may leave a target at or past the block's own sum: the last token with a probability is meant.
    target = torch.minimum((target - before).clamp_(min=0.0), torch.nextafter(inside[:, -1:], inside.new_zeros(1)))
    return (block * size + torch.searchsorted(inside, target, right=True))[:, 0].clamp_(max=V - 1)


def choose(logits: Tensor, params: SamplingParams, uniform: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Next tokens [B], from logits [B, V]; their log-probs and, if asked for, entropies [B] float32, under the whole distribution."""
    log_p = logits.float()
    log_p = log_p / params.temperature if params.temperature != 1.0 else log_p
    log_p = log_p - log_p.logsumexp(dim=1, keepdim=True)
    p = entropy = None
    if params.with_entropy:
        log_p.clamp_(min=torch.finfo(log_p.dtype).min)  # a logit of -inf has a share of 0, and 0 * inf would make the entropy nan
        p = log_p.exp()
        entropy = -torch.linalg.vecdot(p, log_p)
    token = _sample(log_p, p, params, uniform) if params.do_sample else log_p.argmax(dim=1)
    return token, log_p.gather(1, token[:, None])[:, 0], entropy


def _sample(log_p: Tensor, p: Tensor | None, params: SamplingParams, uniform: Tensor) -> Tensor:
    V = log_p.shape[1]
    k = V if params.top_k == -1 else min(params.top_k, V)
    if k == V and params.top_p == 1.0:
        return draw(log_p.exp() if p is None else p, uniform)
    best, ids = log_p.topk(k, dim=1)  # sorted from the highest
    p = (best - best.logsumexp(dim=1, keepdim=True)).exp_()
    if params.top_p < 1.0:  # the smallest set whose probabilities sum to top_p or more, after top_k as in transformers and vLLM
        p = p.masked_fill(p.double().cumsum(dim=1) - p >= params.top_p, 0.0)
    return ids.gather(1, draw(p, uniform)[:, None])[:, 0]


class HFRollout:
    """A rollout engine (see :class:`erpo_verl.rollout.RolloutEngine`) that samples with a transformers model in this process.

    Args:
        model: a causal LM or peft's wrapper of one, on any device. It is used as it is, not copied, and while responses are
            sampled it is in eval mode.
        eos_token_ids: tokens that end a response.
        pad_token_id: what fills rows on the left; any id of the vocabulary.
        max_batch: responses at a time, >= 1.
        autocast: type of the arithmetic (torch.bfloat16 ...); None: as the weights are.

    Raises:
        ValueError: no end token or ``max_batch`` < 1.
        ModelError: transformers can sample from this model in no way.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        eos_token_ids: Sequence[int],
        pad_token_id: int,
        max_batch: int = 256,
        autocast: torch.dtype | None = None,
    ):
        if not eos_token_ids:
            raise ValueError("eos_token_ids is empty: without an end token every response runs to max_tokens")
        if max_batch < 1:
            raise ValueError(f"max_batch = {max_batch}: must be >= 1")
        self.model: nn.Module | None = model
        self.eos_token_ids, self.pad_token_id, self.max_batch, self.autocast = tuple(eos_token_ids), pad_token_id, max_batch, autocast
        self.way = way_of(model, pad_token_id=pad_token_id, autocast=autocast)
        if self.way == GENERATE:
            try:
                check_generate(model, **self._generation)
            except ValueError as error:
                raise ModelError(f"no responses can be sampled from a {self._kind} with transformers: {error}; take vllm to sample") from error

    @property
    def _kind(self) -> str:
        return getattr(getattr(self.model, "config", None), "model_type", type(self.model).__name__)

    @property
    def _generation(self) -> dict[str, Any]:
        return {"choose": choose, "eos_token_ids": self.eos_token_ids, "pad_token_id": self.pad_token_id, "autocast": self.autocast}

    @property
    def note(self) -> str | None:
        """What a user should know of how this model is sampled, or None."""
        return {
            ROWS: None,
            EQUAL: f"rollout: the states of a {self._kind} see padding, so that only prompts of one length share a batch; this is slower",
            GENERATE: f"rollout: a {self._kind} keeps its states in a way of its own, and transformers' generate() samples from it; this is slower",
        }[self.way]

    def sync(self, model: nn.Module) -> None:
        """Copy the weights of ``model``; nothing to do where it is the model that is sampled from.

        If ``model`` has adapters and the engine's has none, they are merged in a copy first.

        Raises:
            RuntimeError: other names or shapes of weights (from torch; it lists them).
        """
        own = self._open()
        if model is not own:
            own.load_state_dict(model.state_dict() if hasattr(own, "peft_config") else plain_weights(model))

    def close(self) -> None:
        """Forget the model."""
        self.model = None

    def _open(self) -> nn.Module:
        if self.model is None:
            raise RuntimeError("this rollout engine is closed")
        return self.model

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Response]]:
        """See :meth:`erpo_verl.rollout.RolloutEngine.generate`.

        Raises:
            ValueError: an empty prompt, or one with an id that the model does not know.
        """
        model = self._open()
        vocabulary = model.get_input_embeddings().weight.shape[0]
        for i, prompt in enumerate(prompts):
            if not prompt or not 0 <= min(prompt) <= max(prompt) < vocabulary:
                raise ValueError(f"prompt {i} (of {len(prompts)}) is empty or has a token outside 0 .. {vocabulary - 1}")
        found: list[list[Response | None]] = [[None] * params.n for _ in prompts]
        done = 0
        with evaluating(model), torch.no_grad():
            for rows in batches([len(prompt) for prompt in prompts], params.n, self.max_batch, equal=self.way != ROWS):
                for (prompt, sample), response in zip(rows, self._batch(prompts, rows, params), strict=True):
                    found[prompt][sample] = response
                done += len(rows)
                if progress:
                    progress(done)
        return found

    def _batch(self, prompts: Sequence[Sequence[int]], rows: list[tuple[int, int]], params: SamplingParams) -> list[Response]:
        """Responses to (prompt, sample) pairs; a prompt's samples are neighbours."""
        model = self.model
        device = model.get_input_embeddings().weight.device
        T, ends = params.max_tokens, torch.tensor(self.eos_token_ids, device=device)
        noise = None
        if params.do_sample:
            noise = torch.from_numpy(np.stack([uniforms(params.seed, i, sample, T) for i, sample in rows])).to(device)
        if self.way == GENERATE:
            tokens, log_probs, entropies = generate_rows(model, [prompts[i] for i, _ in rows], params, noise, **self._generation)
            ended = torch.isin(tokens, ends)
            count = torch.where(ended.any(dim=1), ended.int().argmax(dim=1) + 1, T)
            return self._responses(tokens, log_probs, entropies, count)
        distinct = list(dict.fromkeys(prompt for prompt, _ in rows))
        width = max(len(prompts[i]) for i in distinct)
        ids = torch.tensor([[self.pad_token_id] * (width - len(prompts[i])) + list(prompts[i]) for i in distinct], device=device)
        lengths = torch.tensor([len(prompts[i]) for i in distinct], device=device)
        mask = (torch.arange(width, device=device) >= (width - lengths)[:, None]).long()
        padded = bool((lengths < width).any())
        cache = new_cache(model)
        logits = forward(model, ids, mask if padded else None, (mask.cumsum(dim=1) - 1).clamp_(min=0), cache, self.autocast)
        counts = torch.tensor([sum(1 for prompt, _ in rows if prompt == i) for i in distinct], device=device)
        repeat = torch.repeat_interleave(torch.arange(len(distinct), device=device), counts)
        if len(rows) > len(distinct):
            select_rows(cache, repeat)
        logits, lengths = logits[repeat], lengths[repeat]
        mask = torch.cat((mask[repeat], mask.new_ones(len(rows), T)), dim=1) if padded else None

        tokens = torch.full((len(rows), T), self.pad_token_id, device=device)
        log_probs = torch.zeros(len(rows), T, device=device)
        entropies = torch.zeros(len(rows), T, device=device) if params.with_entropy else None
        row = torch.arange(len(rows), device=device)  # which response each row of the batch is
        ended = torch.zeros(len(rows), dtype=torch.bool, device=device)
        count = torch.full((len(rows),), T, device=device)
        every = 1 if device.type == "cpu" else CHECK_EVERY
        for t in range(T):
            token, log_prob, entropy = choose(logits, params, None if noise is None else noise[row, t])
            tokens[row, t], log_probs[row, t] = token, log_prob
            if entropies is not None:
                entropies[row, t] = entropy
            now = torch.isin(token, ends) & ~ended
            count[row] = torch.where(now, t + 1, count[row])
            ended |= now
            if t + 1 == T:
                break
            if (t + 1) % every == 0:
                left = int((~ended).sum())
                if left == 0:
                    break
                if left <= 0.9 * len(row):
                    keep = (~ended).nonzero()[:, 0]
                    select_rows(cache, keep)
                    token, row, ended, lengths = token[keep], row[keep], ended[keep], lengths[keep]
                    mask = None if mask is None else mask[keep]
            seen = None if mask is None else mask[:, : width + t + 1]
            logits = forward(model, token[:, None], seen, (lengths + t)[:, None], cache, self.autocast)
        return self._responses(tokens, log_probs, entropies, count)

    def _responses(self, tokens: Tensor, log_probs: Tensor, entropies: Tensor | None, count: Tensor) -> list[Response]:
        """[B, T] tokens, log-probs and perhaps entropies, of which the first ``count`` [B] of a row are its response."""
        counts, tokens, log_probs = count.tolist(), tokens.tolist(), log_probs.tolist()
        entropies = [None] * len(counts) if entropies is None else [H[:c] for H, c in zip(entropies.tolist(), counts, strict=True)]
        return [
            Response(t[:c], p[:c], t[c - 1] in self.eos_token_ids, H)
            for t, p, c, H in zip(tokens, log_probs, counts, entropies, strict=True)
        ]


def batches(lengths: Sequence[int], n: int, max_batch: int, *, equal: bool = False) -> Iterator[list[tuple[int, int]]]:
    """(prompt, sample) pairs of each batch: the longest prompts first, a prompt's samples side by side, ``max_batch`` at most.

    Args:
        equal: prompts of one length in each batch.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    for _, some in itertools.groupby(order, key=lambda i: lengths[i] if equal else None):
        pairs = [(i, sample) for i in some for sample in range(n)]
        for start in range(0, len(pairs), max_batch):
            yield pairs[start : start + max_batch]
