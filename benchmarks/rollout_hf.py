"""Sampling a training step's responses: erpo_verl's decode loop beside ``model.generate`` in one process.

Both get the same random model, prompts (of unequal lengths), n responses a prompt, end tokens and one thread count. The end tokens are
so many of the vocabulary that responses end after ``--mean-length`` tokens on average, as real ones do at very different
lengths. ``generate`` is called as trainers call it: prompts repeated n times, left-padded, one call. Runs alternate; a
rate is sampled tokens (those up to the end token) by second of ``--clock``: wall, or on a busy machine with one thread cpu (this
process's time). The ratio is taken run by run.

    python benchmarks/rollout_hf.py --size tiny --repeats 5
    python benchmarks/rollout_hf.py --size mid --repeats 3 --prompts 8 --n 4
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time

import torch
import transformers
from transformers import Qwen2Config, Qwen2ForCausalLM

from erpo_verl.rollout.hf import HFRollout
from erpo_verl.rollout.types import SamplingParams

SIZES = {  # vocabulary, hidden, intermediate, layers, heads, key-value heads
    "tiny": (48, 128, 256, 3, 4, 2),  # as examples/arithmetic: 0.45 million parameters
    "mid": (32000, 384, 1024, 8, 6, 2),  # 25 million
}


def build(size: str) -> Qwen2ForCausalLM:
    vocabulary, hidden, intermediate, layers, heads, kv = SIZES[size]
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv, tie_word_embeddings=True, pad_token_id=0, eos_token_id=1, bos_token_id=2, dtype="float32",
        initializer_range=0.005,  # a nearly uniform distribution, so that the share of end tokens sets the lengths
    )  # fmt: skip
    return Qwen2ForCausalLM(config).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--prompt-length", type=int, default=64, help="longest; lengths are uniform from half of it")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--mean-length", type=int, default=48)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    clock = time.perf_counter if args.clock == "wall" else time.process_time
    model = build(args.size).to(args.device)
    vocabulary = model.config.vocab_size
    eos = list(range(1, 1 + max(1, round(vocabulary / args.mean_length))))
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(args.prompt_length // 2, args.prompt_length + 1, (args.prompts,), generator=generator).tolist()
    prompts = [torch.randint(len(eos) + 1, vocabulary, (k,), generator=generator).tolist() for k in lengths]
    width, rows = max(lengths), args.prompts * args.n
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts for _ in range(args.n)], device=args.device)
    mask = torch.tensor([[0] * (width - k) + [1] * k for k in lengths for _ in range(args.n)], device=args.device)
    engine = HFRollout(model, eos_token_ids=eos, pad_token_id=0, max_batch=rows)

    def ours(seed: int) -> int:
        found = engine.generate(prompts, SamplingParams(n=args.n, max_tokens=args.max_tokens, seed=seed))
        return sum(len(r.tokens) for responses in found for r in responses)

    def theirs(seed: int, scores: bool) -> int:
        torch.manual_seed(seed)
        out = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=args.max_tokens, do_sample=True, top_k=0, eos_token_id=eos, pad_token_id=0,
            return_dict_in_generate=True, output_logits=scores,
        )  # fmt: skip
        if scores:  # what it takes to have the log-probs as well
            tokens = out.sequences[:, width:]
            torch.stack([z.log_softmax(-1).gather(1, t[:, None])[:, 0] for z, t in zip(out.logits, tokens.T, strict=True)])
        tokens = out.sequences[:, width:]
        ended = torch.isin(tokens, torch.tensor(eos, device=args.device)).long().cumsum(1)
        return int((ended - torch.isin(tokens, torch.tensor(eos, device=args.device)).long() == 0).sum())

    kinds = {"erpo_verl (with log-probs)": ours, "generate": lambda s: theirs(s, False), "generate (with log-probs)": lambda s: theirs(s, True)}
    rates: dict[str, list[float]] = {name: [] for name in kinds}
    for seed in range(args.repeats + 1):
        for name, run in kinds.items():
            start = clock()
            count = run(seed)
            if seed:  # the first is a warm-up
                rates[name].append(count / (clock() - start))
    parameters = sum(p.numel() for p in model.parameters())
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}, {platform.platform()}")
    print(f"{vars(args)}; {parameters / 1e6:.2f} M parameters; {rows} rows")
    first = rates["erpo_verl (with log-probs)"]
    for name, values in rates.items():
        ratios = [a / b for a, b in zip(first, values, strict=True)]
        print(
            f"{name:28s} {statistics.median(values):9.0f} tokens/s [{min(values):.0f} .. {max(values):.0f}]"
            f"   ours is {statistics.median(ratios):.2f} times as fast [{min(ratios):.2f} .. {max(ratios):.2f}]"
        )


if __name__ == "__main__":
    main()
