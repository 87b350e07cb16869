"""Supervised warm start: a tiny policy that searches a little and reaches the target in 10 to 30% of its samples.

    python -m examples.countdown.warm_start --out outputs/countdown/start --threads 1

It imitates the writer of `task.Habits`. The model folder appears whole or not at all; a second call with the same settings reuses it.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from erpo_verl.evaluation.statistics import ProblemSamples, summarize
from erpo_verl.rollout import SamplingParams
from erpo_verl.rollout.hf import HFRollout
from examples.countdown.reward import compute_score
from examples.countdown.task import LEVELS, Habits, Problem, chain, draw, problems, split_of
from examples.countdown.tokenizer import build_tokenizer, chat
from examples.tiny import imitation
from examples.tiny.imitation import Recipe

MAX_RESPONSE = 96  # tokens


@dataclass(frozen=True)
class Settings(Recipe):
    """All that decides the result, but for the number of threads."""

    steps: int = 1200
    levels: tuple[int, ...] = LEVELS
    habits: Habits = field(default_factory=Habits)

    def fingerprint(self) -> str:
        """Changes with the settings, with the code that makes the model, and with the libraries' versions."""
        here = Path(__file__).parent
        files = [here / name for name in ("task.py", "tokenizer.py", "warm_start.py", "reward.py")]
        return self.fingerprint_of([*files, here.parent / "arithmetic" / "tokenizer.py"])


def train(settings: Settings, tokenizer: PreTrainedTokenizerFast, *, quiet: bool = False) -> tuple[Qwen2ForCausalLM, list[float]]:
    """Returns the model and the loss of each step (nats a token)."""

    def pair(rng: random.Random) -> tuple[list[dict[str, str]], str]:
        while split_of(problem := draw(rng, rng.choice(settings.levels))) != "warm":
            pass
        return chat(problem.text), chain(problem, settings.habits, rng)

    return imitation.train(settings, tokenizer, pair, quiet=quiet)


def measure(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, asked: Sequence[Problem], *, k: int = 8, seed: int = 0
) -> dict[str, Any]:
    """Figures of k samples a problem at temperature 1, of all problems and by level."""
    engine = HFRollout(model, eos_token_ids=[tokenizer.eos_token_id], pad_token_id=tokenizer.pad_token_id, max_batch=512)
    texts = [tokenizer.apply_chat_template(chat(problem.text), tokenize=False, add_generation_prompt=True) for problem in asked]
    prompts = tokenizer(texts, add_special_tokens=False)["input_ids"]
    found = []
    answered = engine.generate(prompts, SamplingParams(n=k, max_tokens=MAX_RESPONSE, seed=seed))
    for problem, responses in zip(asked, answered, strict=True):
        judged = [compute_score("", tokenizer.decode(r.tokens, skip_special_tokens=True), problem.text) for r in responses]
        found.append(
            ProblemSamples(
                problem.text, "countdown", [j["acc"] for j in judged], [j["pred"] for j in judged],
                [len(r.tokens) for r in responses], [r.finished for r in responses], str(problem.level),
            )
        )  # fmt: skip

    def figures(some: list[ProblemSamples]) -> dict[str, Any]:
        summary = summarize(some, [k])
        return {"problems": len(some), "accuracy": summary["avg"], "pass": summary["pass"][k], "length": summary["length"]["mean"]}

    levels = sorted({p.level for p in found})
    return {"k": k, **figures(found), "levels": {level: figures([p for p in found if p.level == level]) for level in levels}}


def table(summary: dict[str, Any]) -> str:
    """The summary as a table with one line a level."""
    coverage = f"pass@{summary['k']}"
    lines = [f"{'numbers':<9}{'problems':>9}{'accuracy':>9}{coverage:>8}{'length':>8}"]
    for name, f in [*summary["levels"].items(), ("all", summary)]:
        lines.append(f"{name:<9}{f['problems']:>9}{f['accuracy']:>9.3f}{f['pass']:>8.3f}{f['length']:>8.1f}")
    return "\n".join(lines)


def make(out: Path, settings: Settings, *, eval_problems: int = 256, quiet: bool = False) -> dict[str, Any]:
    """The start policy's folder at `out`, trained or reused; returns its record."""
    fingerprint = settings.fingerprint()
    if (record := imitation.reusable(out, fingerprint)) is None:
        tokenizer = build_tokenizer()
        began = time.monotonic()
        model, losses = train(settings, tokenizer, quiet=quiet)
        summary = measure(model, tokenizer, problems("validation", eval_problems, settings.levels), seed=settings.seed)
        seconds = round(time.monotonic() - began, 1)
        record = imitation.record_of(settings, fingerprint, model, losses, seconds=seconds, start_policy=summary)
        imitation.write(out, model, tokenizer, record)
    if not quiet:
        print(f"start policy: {out} ({record['parameters']:,} parameters)\n{table(record['start_policy'])}")
    return record


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/countdown/start"))
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves torch's own choice")
    for name in ("seed", "steps", "batch", "lr"):
        default = getattr(Settings, name)
        parser.add_argument(f"--{name}", type=type(default), default=default, help=f"({default})")
    args = parser.parse_args(argv)
    transformers.utils.logging.disable_progress_bar()
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        make(args.out, Settings(seed=args.seed, steps=args.steps, batch=args.batch, lr=args.lr))
    except KeyboardInterrupt:
        raise SystemExit(f"\nstopped; {args.out} is as it was") from None


if __name__ == "__main__":
    main()
