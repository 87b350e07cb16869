"""What a model remembers of a prompt, row by row, and which of three ways of sampling a model allows.

The decode loop of ``rollout.hf`` takes rows out of a cache and repeats rows in it. Keys and values of attention allow that; so do
the convolution and recurrent states of transformers' linear-attention layers (Qwen3-Next, Qwen3.5, LFM2, Granite-hybrid, Falcon-H1).
Some models keep a cache class of their own, or states in their modules. :func:`way_of` finds out by trying it, on a few tokens:

- ``ROWS``: rows may be taken out and repeated, and prompts of unlike lengths may share a batch;
- ``EQUAL``: the same, with prompts of one length in a batch (a model whose states see the padding on the left);
- ``GENERATE``: neither, so transformers' own ``generate`` samples, with prompts of one length in a batch (``rollout.generate``).
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

ROWS, EQUAL, GENERATE = "rows", "equal", "generate"
GROW = 64  # columns by which a cache's memory grows at least
# How far logits of a cached row may be from those of a plain forward pass, as a share of their spread. A wrong row or state gives
# about 1; rounding gives 1e-5 in float32, and some hundredths in bfloat16.
ALLOWED = {torch.float32: 1e-2, torch.float64: 1e-2}
ALLOWED_ROUGH = 0.2


class GrowingLayer(DynamicLayer):
    """A layer's keys and values [B, H, S, D] in memory that has room for more columns than are in use."""

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states) if _LAZY_TAKES_VALUES else self.lazy_initialization(key_states)
            self.keys, self.values = key_states, value_states
            self._room = None
            return self.keys, self.values
        used, new = self.keys.shape[-2], key_states.shape[-2]
        if self._room is None or self._room[0].shape[0] != self.keys.shape[0] or used + new > self._room[0].shape[-2]:
            columns = used + new + max(GROW, used // 4)
            self._room = tuple(t.new_empty(*t.shape[:2], columns, t.shape[-1]) for t in (self.keys, self.values))
            self._room[0][:, :, :used] = self.keys
            self._room[1][:, :, :used] = self.values
        self._room[0][:, :, used : used + new] = key_states
        self._room[1][:, :, used : used + new] = value_states
        self.keys, self.values = (t[:, :, : used + new] for t in self._room)
        return self.keys, self.values


_LAZY_TAKES_VALUES = len(inspect.signature(DynamicLayer.lazy_initialization).parameters) > 2


def new_cache(model: nn.Module) -> DynamicCache:
    """An empty cache as the model wants it (sliding windows, linear attention ...), whose ordinary layers grow in place."""
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def select_rows(cache: DynamicCache, rows: Tensor) -> None:
    """Keep these rows of all layers, in this order; a row may come several times.

    ``reorder_cache`` is the one method that every kind of layer has for it: the ``batch_select_indices`` of a layer with attention
    and states together leaves the states as they were.
    """
    cache.reorder_cache(rows)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """No dropout and, as a consequence, no gradient checkpointing, which would switch the cache off."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def forward(
    model: nn.Module, ids: Tensor, mask: Tensor | None, positions: Tensor, cache: DynamicCache, autocast: torch.dtype | None
) -> Tensor:
    """Logits [B, V] after the last column of ``ids``."""
    with torch.autocast(ids.device.type, autocast) if autocast else contextlib.nullcontext():
        output = model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return output.logits[:, -1]


def way_of(model: nn.Module, *, pad_token_id: int, autocast: torch.dtype | None = None) -> str:
    """``ROWS``, ``EQUAL`` or ``GENERATE``: how responses of this model can be sampled. A dozen forward passes of a few tokens."""
    with evaluating(model), torch.no_grad():
        for way, lengths in ((ROWS, (6, 4)), (EQUAL, (4, 4))):
            try:
                if _deviation(model, lengths, pad_token_id, autocast) <= ALLOWED.get(autocast or model.dtype, ALLOWED_ROUGH):
                    return way
            except Exception:  # whatever a model raises that wants another cache, or none
                continue
    return GENERATE


def _deviation(model: nn.Module, lengths: tuple[int, int], pad_token_id: int, autocast: torch.dtype | None) -> float:
    """Largest share by which logits of the cached loop deviate from plain forward passes: two prompts, of which the second is
    repeated, then the first one taken out."""
    weight = model.get_input_embeddings().weight
    device, vocabulary, width = weight.device, weight.shape[0], max(lengths)
    generator = torch.Generator().manual_seed(0)

    def tokens(count: int) -> list[int]:
        return torch.randint(vocabulary, (count,), generator=generator).tolist()

    sequences = [tokens(length) for length in lengths]
    ids = torch.tensor([[pad_token_id] * (width - len(s)) + s for s in sequences], device=device)
    mask = (torch.arange(width, device=device) >= (width - torch.tensor(lengths, device=device))[:, None]).long()
    padded = len(set(lengths)) > 1
    counts = torch.tensor(lengths, device=device)
    cache = new_cache(model)
    found = [(sequences, forward(model, ids, mask if padded else None, (mask.cumsum(dim=1) - 1).clamp_(min=0), cache, autocast))]
    for step, rows in enumerate(([0, 1, 1], [1, 2], [0, 1])):
        keep = torch.tensor(rows, device=device)
        select_rows(cache, keep)
        mask, counts = torch.cat((mask[keep], mask.new_ones(len(rows), 1)), dim=1), counts[keep]
        added = tokens(len(rows))
        sequences = [[*sequences[row], token] for row, token in zip(rows, added, strict=True)]
        column = torch.tensor(added, device=device)[:, None]
        found.append((sequences, forward(model, column, mask if padded else None, counts[:, None] + step, cache, autocast)))
        # ``counts`` are the prompts' lengths: a row's next position is its length and the steps so far.
    worst = 0.0
    for rows, logits in found:
        for row, cached in zip(rows, logits, strict=True):
            plain = plain_logits(model, row, autocast)
            plain, cached = plain - plain.mean(), cached.double() - cached.double().mean()
            spread = plain.norm().item()
            if spread > 0 and plain.isfinite().all():  # what is not finite is not this probe's to find
                worst = max(worst, (cached - plain).norm().item() / spread)
    return worst


def plain_logits(model: nn.Module, tokens: Sequence[int], autocast: torch.dtype | None = None) -> Tensor:
    """[V] float64: logits after some tokens, by a forward pass without a cache."""
    device = model.get_input_embeddings().weight.device
    with torch.autocast(device.type, autocast) if autocast else contextlib.nullcontext():
        ids = torch.tensor([list(tokens)], device=device)
        return model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0, -1].double()
