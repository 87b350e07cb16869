"""Sampling by transformers' own ``generate``, for models whose cache the decode loop of ``rollout.hf`` cannot take rows from.

The tokens are chosen by the same function and from the same random numbers as in that loop: a logits processor chooses, and leaves
``generate`` no other token. What is lost is speed: every row is run to the end of the longest one, and a prompt is run for each of its
responses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from erpo_verl.rollout.caches import evaluating, plain_logits
from erpo_verl.rollout.types import SamplingParams


class _Chooser(LogitsProcessor):
    def __init__(self, width: int, rows: int, params: SamplingParams, noise: Tensor | None, choose: Callable, device: torch.device):
        self.width, self.params, self.noise, self.choose = width, params, noise, choose
        self.tokens = torch.zeros(rows, params.max_tokens, dtype=torch.long, device=device)
        self.log_probs = torch.zeros(rows, params.max_tokens, device=device)
        self.entropies = torch.zeros(rows, params.max_tokens, device=device) if params.with_entropy else None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        t = input_ids.shape[1] - self.width
        token, log_prob, entropy = self.choose(scores, self.params, None if self.noise is None else self.noise[:, t])
        self.tokens[:, t], self.log_probs[:, t] = token, log_prob
        if self.entropies is not None:
            self.entropies[:, t] = entropy
        return torch.full_like(scores, -torch.inf).scatter_(1, token[:, None], 0.0)


def generate_rows(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    noise: Tensor | None,
    *,
    choose: Callable[[Tensor, SamplingParams, Tensor | None], tuple[Tensor, Tensor, Tensor | None]],
    eos_token_ids: Sequence[int],
    pad_token_id: int,
    autocast: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """One response a row: tokens, log-probs and perhaps entropies [B, max_tokens]; what stands behind a row's end is of no meaning.

    Args:
        prompts: B prompts of one length.
        noise: [B, max_tokens] uniform numbers, or None where the likeliest token is taken.
        choose: (logits [B, V], params, uniform numbers [B]) -> tokens, their log-probs and perhaps entropies [B].
    """
    ids = torch.tensor([list(prompt) for prompt in prompts], device=model.get_input_embeddings().weight.device)
    chooser = _Chooser(ids.shape[1], len(ids), params, noise, choose, ids.device)
    # None but these settings: the model's own (penalties, suppressed tokens) would change the distribution before it is seen.
    plain = GenerationConfig(max_new_tokens=params.max_tokens, do_sample=False, eos_token_id=list(eos_token_ids), pad_token_id=pad_token_id)
    owner = model.get_base_model() if hasattr(model, "get_base_model") else model
    before, owner.generation_config = owner.generation_config, plain
    try:
        with torch.autocast(ids.device.type, autocast or torch.float32, enabled=autocast is not None):
            model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=plain, logits_processor=LogitsProcessorList([chooser])
            )
    finally:
        owner.generation_config = before
    return chooser.tokens, chooser.log_probs, chooser.entropies


def check_generate(model: nn.Module, **options) -> None:
    """Sample two rows of a few tokens and compare their log-probs with plain forward passes.

    Raises:
        ValueError: ``generate`` fails, or gives other probabilities than the model's forward pass (some old architectures).
    """
    vocabulary = model.get_input_embeddings().weight.shape[0]
    prompts = [[i % vocabulary for i in range(start, start + 5)] for start in (3, 11)]
    with evaluating(model), torch.no_grad():
        try:
            tokens, log_probs, _ = generate_rows(model, prompts, SamplingParams(max_tokens=3, do_sample=False), None, **options)
        except Exception as error:  # whatever a model raises that cannot generate
            raise ValueError(f"transformers cannot generate with it: {type(error).__name__}: {str(error).splitlines()[0]}") from error
        for prompt, row, found in zip(prompts, tokens.tolist(), log_probs.tolist(), strict=True):
            for t, token in enumerate(row):
                plain = plain_logits(model, [*prompt, *row[:t]], options["autocast"]).log_softmax(dim=0)
                if plain.isfinite().all() and abs(plain[token].item() - found[t]) > 0.1 * max(1.0, plain.std().item()):
                    raise ValueError("transformers' generate() gives other probabilities than the model's forward pass")
                if token in options["eos_token_ids"]:
                    break
