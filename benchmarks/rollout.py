"""Sampling a training step's responses: the decode loop of erpo_verl beside `model.generate`.

Both get the same random model, prompts (of unequal lengths), n responses a prompt, end tokens and one thread. The end tokens are
so many of the vocabulary that responses end after 48 tokens on average, as real ones do at very different lengths. ``generate`` is called
as trainers call it: prompts repeated n times, left-padded, one call.
"""
from __future__ import annotations

import statistics
import time

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from benchmarks.result import Result, in_turns, quartiles
from erpo_verl.rollout.hf import HFRollout
from erpo_verl.rollout.types import SamplingParams

PACKAGES = ("erpo-verl", "torch", "transformers")
# name -> vocabulary, hidden, intermediate, layers, heads, key-value heads; prompts, responses a prompt
SIZES = {
    "0.45 M (as examples/arithmetic)": ((48, 128, 256, 3, 4, 2), (16, 8)),
    "25 M": ((32000, 384, 1024, 8, 6, 2), (8, 4)),
}
PROMPT_LENGTH, MAX_TOKENS, MEAN_LENGTH = 64, 128, 48


def build(vocabulary: int, hidden: int, intermediate: int, layers: int, heads: int, kv: int) -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv, tie_word_embeddings=True, pad_token_id=0, eos_token_id=1, bos_token_id=2, dtype="float32",
        initializer_range=0.005,  # a nearly uniform distribution, so that the share of end tokens sets the lengths
    )  # fmt: skip
    return Qwen2ForCausalLM(config).eval()


def rates(model: Qwen2ForCausalLM, prompt_count: int, n: int, repeats: int) -> dict[str, list[float]]:
    """Sampled tokens (those up to the end token) by second of processor time, in turns."""
    vocabulary = model.config.vocab_size
    eos = list(range(1, 1 + max(1, round(vocabulary / MEAN_LENGTH))))
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(PROMPT_LENGTH // 2, PROMPT_LENGTH + 1, (prompt_count,), generator=generator).tolist()
    prompts = [torch.randint(len(eos) + 1, vocabulary, (k,), generator=generator).tolist() for k in lengths]
    width, rows = max(lengths), prompt_count * n
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts for _ in range(n)])
    mask = torch.tensor([[0] * (width - k) + [1] * k for k in lengths for _ in range(n)])
    engine = HFRollout(model, eos_token_ids=eos, pad_token_id=0, max_batch=rows)
    sampled: dict[str, list[int]] = {}
    seed = iter(range(10**6))

    def ours() -> None:
        found = engine.generate(prompts, SamplingParams(n=n, max_tokens=MAX_TOKENS, seed=next(seed)))
        sampled.setdefault("erpo_verl", []).append(sum(len(r.tokens) for responses in found for r in responses))

    def theirs(name: str, scores: bool) -> None:
        torch.manual_seed(next(seed))
        out = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=MAX_TOKENS, do_sample=True, top_k=0, eos_token_id=eos, pad_token_id=0,
            return_dict_in_generate=True, output_logits=scores,
        )  # fmt: skip
        tokens = out.sequences[:, width:]
        if scores:  # what it takes to have the log-probs as well
            torch.stack([z.log_softmax(-1).gather(1, t[:, None])[:, 0] for z, t in zip(out.logits, tokens.T, strict=True)])
        ends = torch.isin(tokens, torch.tensor(eos)).long()
        sampled.setdefault(name, []).append(int((ends.cumsum(1) - ends == 0).sum()))

    plain, with_scores = "generate", "generate with log-probs"
    seconds = in_turns({"erpo_verl": ours, plain: lambda: theirs(plain, False), with_scores: lambda: theirs(with_scores, True)}, repeats, time.process_time)
    return {name: [count / s for count, s in zip(sampled[name][-repeats:], seconds[name], strict=True)] for name in seconds}


def measure(quick: bool = False) -> Result:
    torch.set_num_threads(1)
    rows, figures = [], {}
    for size, (shape, (prompts, n)) in list(SIZES.items())[: 1 if quick else None]:
        found = rates(build(*shape), *((2, 2, 1) if quick else (prompts, n, 5)))
        figures[size] = found
        for name in list(found)[1:]:
            rows.append([size, name, f"{statistics.median(found[name]):,.0f}", quartiles([a / b for a, b in zip(found["erpo_verl"], found[name], strict=True)])])
    return Result(
        title="Sampling with transformers",
        how=f"Sampled tokens by second of processor time, one thread, float32, prompts of up to {PROMPT_LENGTH} tokens, responses of {MEAN_LENGTH} on average and "
        f"{MAX_TOKENS} at most; 16 prompts x 8 responses (small) and 8 x 4. Ours records the log-prob of each token; `generate` once without and once with.",
        columns=["parameters", "beside", "its tokens/s", "ours / it"],
        rows=rows,
        bound="one forward pass a token for every response that has not ended; a prompt runs once for its n responses, and a response that has ended leaves the batch.",
        packages=PACKAGES,
        figures=figures,
    )
