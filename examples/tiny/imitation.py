"""Supervised warm start: a tiny policy that imitates a writer's chains of thought, in a folder that appears whole or not at all."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from examples.tiny.model import build_model

RECORD = "warm_start.json"  # stands in the model folder: settings, fingerprint, measured start policy
IGNORED = -100  # label of tokens that are not learned

# Draws one problem of the warm start's own split: (its messages, the response to imitate).
Draw = Callable[[random.Random], tuple[list[dict[str, str]], str]]


@dataclass(frozen=True)
class Recipe:
    """How a warm start learns: all that decides the result beside the task, but for the number of threads (sums are rounded in
    another order)."""

    seed: int = 0
    steps: int = 900
    batch: int = 32  # chains a step; many small steps find a task's structure sooner than few large ones
    lr: float = 2e-3
    warmup_steps: int = 50
    layers: int = 3
    hidden: int = 128
    intermediate: int = 256

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "layers", "hidden", "intermediate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def fingerprint_of(self, files: Sequence[Path]) -> str:
        """Changes with the settings, with the code in ``files`` and here, and with the libraries' versions."""
        here = Path(__file__).parent
        code = "".join(path.read_text() for path in (*files, here / "model.py", here / "imitation.py"))
        parts = [json.dumps(asdict(self), sort_keys=True), code, torch.__version__, transformers.__version__]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def batches(draw: Draw, tokenizer: PreTrainedTokenizerFast, *, seed: int, batch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless (tokens, labels), each [batch, T]."""
    rng = random.Random(f"warm start:{seed}")
    pool = 8  # batches drawn at once and sorted by length: less padding
    while True:
        pairs = []
        while len(pairs) < pool * batch:
            messages, response = draw(rng)
            prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            pairs.append((prompt, response + tokenizer.eos_token))
        pairs.sort(key=lambda pair: len(pair[1]))
        groups = [pairs[i : i + batch] for i in range(0, len(pairs), batch)]
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


def train(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, draw: Draw, *, quiet: bool = False) -> tuple[Qwen2ForCausalLM, list[float]]:
    """Returns the model and the loss of each step (nats a token)."""
    shape = {"layers": recipe.layers, "hidden": recipe.hidden, "intermediate": recipe.intermediate}
    model = build_model(tokenizer, seed=recipe.seed, **shape)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, betas=(0.9, 0.98), weight_decay=0.01)

    def rate(step: int) -> float:  # linear warm-up, then a half cosine to zero
        if step < recipe.warmup_steps:
            return (step + 1) / recipe.warmup_steps
        done = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * done))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    losses, began = [], time.monotonic()
    endless = batches(draw, tokenizer, seed=recipe.seed, batch=recipe.batch)
    for step, (tokens, labels) in zip(range(recipe.steps), endless):  # noqa: B905
        # Right padding needs no attention mask: under causal attention no real token sees it.
        logits = model(input_ids=tokens).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if not quiet and ((step + 1) % 100 == 0 or step + 1 == recipe.steps):
            recent = losses[-100:]
            print(
                f"warm start {step + 1:>5}/{recipe.steps}  loss {sum(recent) / len(recent):.3f}  {time.monotonic() - began:.0f} s",
                flush=True,
            )
    return model, losses


def reusable(out: Path, fingerprint: str) -> dict[str, Any] | None:
    """The record of the start policy at ``out`` if it is the one asked for; None where one has to be made.

    Raises:
        SystemExit: something else is there.
    """
    if not out.exists():
        return None
    if not (out / RECORD).is_file():
        raise SystemExit(f"{out} exists and is not a start policy (no {RECORD} in it); choose another --out")
    record = json.loads((out / RECORD).read_text())
    return record if record["fingerprint"] == fingerprint else None


def record_of(recipe: Recipe, fingerprint: str, model: Qwen2ForCausalLM, losses: Sequence[float], **more: Any) -> dict[str, Any]:
    """What is written beside the weights."""
    return {
        "fingerprint": fingerprint,
        "settings": asdict(recipe),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "parameters": sum(p.numel() for p in model.parameters()),
        "threads": torch.get_num_threads(),
        "loss": {"first": losses[0], "last": losses[-1]},
        **more,
    }


def write(out: Path, model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, record: dict[str, Any]) -> None:
    """The folder of a start policy, in place of an older one."""
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
