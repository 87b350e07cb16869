"""Supervised warm start: a tiny policy that solves some problems always, some never and most of them sometimes.

    python -m examples.arithmetic.warm_start --out outputs/arithmetic/start

It imitates chains of an unreliable writer (`task.Habits`), so reinforcement learning has habits to choose among and
mistakes to unlearn. The model folder appears whole or not at all; a second call with the same settings reuses it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from examples.arithmetic import evaluate
from examples.arithmetic.model import build_model
from examples.arithmetic.task import LEVELS, Habits, chain, draw, problems, split_of
from examples.arithmetic.tokenizer import build_tokenizer, chat

RECORD = "warm_start.json"  # stands in the model folder: settings, fingerprint, measured start policy
IGNORED = -100  # label of tokens that are not learned


@dataclass(frozen=True)
class Settings:
    """All that decides the result, but for the number of threads (sums are rounded in another order)."""

    seed: int = 0
    steps: int = 900
    batch: int = 32  # chains a step; many small steps find the task's structure sooner than few large ones
    lr: float = 2e-3
    warmup_steps: int = 50
    levels: tuple[int, ...] = LEVELS
    layers: int = 3
    hidden: int = 128
    intermediate: int = 256
    habits: Habits = field(default_factory=Habits)

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "layers", "hidden", "intermediate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def fingerprint(self) -> str:
        """Changes with the settings, with the code that makes the model, and with the libraries' versions."""
        files = ("task.py", "tokenizer.py", "model.py", "warm_start.py")
        code = "".join((Path(__file__).parent / name).read_text() for name in files)
        parts = [json.dumps(asdict(self), sort_keys=True), code, torch.__version__, transformers.__version__]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def batches(settings: Settings, tokenizer: PreTrainedTokenizerFast) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless (tokens, labels), each [batch, T]; problems come from the split kept for the warm start."""
    rng = random.Random(f"warm start:{settings.seed}")
    pool = 8  # batches drawn at once and sorted by length: less padding
    while True:
        pairs = []
        while len(pairs) < pool * settings.batch:
            problem = draw(rng, rng.choice(settings.levels))
            if split_of(problem) != "warm":
                continue
            prompt = tokenizer.apply_chat_template(chat(problem.text), tokenize=False, add_generation_prompt=True)
            pairs.append((prompt, chain(problem, settings.habits, rng) + tokenizer.eos_token))
        pairs.sort(key=lambda pair: len(pair[1]))
        groups = [pairs[i : i + settings.batch] for i in range(0, len(pairs), settings.batch)]
        rng.shuffle(groups)
        for group in groups:
            prompts = tokenizer([p for p, _ in group], add_special_tokens=False)["input_ids"]
            responses = tokenizer([r for _, r in group], add_special_tokens=False)["input_ids"]
            longest = max(len(p) + len(r) for p, r in zip(prompts, responses, strict=True))
            tokens = torch.full((len(group), longest), tokenizer.pad_token_id)
            labels = torch.full_like(tokens, IGNORED)
            for i, (p, r) in enumerate(zip(prompts, responses, strict=True)):
                tokens[i, : len(p) + len(r)] = torch.tensor(p + r)
                labels[i, len(p) : len(p) + len(r)] = torch.tensor(r)
            yield tokens, labels


def train(
    settings: Settings, tokenizer: PreTrainedTokenizerFast, *, quiet: bool = False
) -> tuple[Qwen2ForCausalLM, list[float]]:
    """Returns the model and the loss of each step (nats a token)."""
    shape = {"layers": settings.layers, "hidden": settings.hidden, "intermediate": settings.intermediate}
    model = build_model(tokenizer, seed=settings.seed, **shape)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, betas=(0.9, 0.98), weight_decay=0.01)

    def rate(step: int) -> float:  # linear warm-up, then a half cosine to zero
        if step < settings.warmup_steps:
            return (step + 1) / settings.warmup_steps
        done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * done))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    losses, began = [], time.monotonic()
    for step, (tokens, labels) in zip(range(settings.steps), batches(settings, tokenizer)):  # noqa: B905
        # Right padding needs no attention mask: under causal attention no real token sees it.
        logits = model(input_ids=tokens).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if not quiet and ((step + 1) % 100 == 0 or step + 1 == settings.steps):
            recent = losses[-100:]
            print(
                f"warm start {step + 1:>5}/{settings.steps}  loss {sum(recent) / len(recent):.3f}"
                f"  {time.monotonic() - began:.0f} s",
                flush=True,
            )
    return model, losses


def make(out: Path, settings: Settings, *, eval_problems: int = 252, quiet: bool = False) -> dict[str, Any]:
    """The start policy's folder at `out`, trained or reused; returns its record."""
    record_path = out / RECORD
    fingerprint = settings.fingerprint()
    if out.exists():
        if not record_path.is_file():
            raise SystemExit(f"{out} exists and is not a start policy (no {RECORD} in it); choose another --out")
        record = json.loads(record_path.read_text())
        if record["fingerprint"] == fingerprint:
            if not quiet:
                print(f"start policy reused: {out}\n{evaluate.table(record['start_policy'])}")
            return record
    tokenizer = build_tokenizer()
    began = time.monotonic()
    model, losses = train(settings, tokenizer, quiet=quiet)
    held_out = problems("validation", eval_problems, settings.levels)
    summary = evaluate.summarize(held_out, evaluate.sample(model, tokenizer, held_out, k=8, seed=settings.seed))
    record = {
        "fingerprint": fingerprint,
        "settings": asdict(settings),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "parameters": sum(p.numel() for p in model.parameters()),
        "threads": torch.get_num_threads(),
        "seconds": round(time.monotonic() - began, 1),
        "loss": {"first": losses[0], "last": losses[-1]},
        "start_policy": summary,
    }
    partial = out.with_name(f".{out.name}.{os.getpid()}")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        (partial / RECORD).write_text(json.dumps(record, indent=2) + "\n")
        if out.exists():
            shutil.rmtree(out)
        os.replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if not quiet:
        print(f"start policy written: {out} ({record['parameters']:,} parameters, {record['seconds']} s)")
        print(evaluate.table(summary))
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/arithmetic/start"))
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves torch's own choice")
    for name in ("seed", "steps", "batch", "lr"):
        default = getattr(Settings, name)
        parser.add_argument(f"--{name}", type=type(default), default=default, help=f"({default})")
    args = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        make(args.out, Settings(seed=args.seed, steps=args.steps, batch=args.batch, lr=args.lr))
    except KeyboardInterrupt:
        raise SystemExit(f"\nstopped; {args.out} is as it was") from None


if __name__ == "__main__":
    main()
