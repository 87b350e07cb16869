"""Supervised warm start: a tiny policy that solves some problems always, some never and most of them sometimes.

    python -m examples.arithmetic.warm_start --out outputs/arithmetic/start

It imitates chains of an unreliable writer (`task.Habits`), so reinforcement learning has habits to choose among and
mistakes to unlearn. Another writer: `--habits examples/arithmetic/bad_habits.yaml`. The model folder appears whole or not at
all; a second call with the same settings reuses it.
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
import yaml
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from examples.arithmetic import evaluate
from examples.arithmetic.task import LEVELS, Habits, chain, draw, problems, split_of
from examples.arithmetic.tokenizer import build_tokenizer, chat
from examples.tiny import imitation
from examples.tiny.imitation import RECORD, Recipe

__all__ = ["RECORD", "Settings", "load_habits", "make", "train"]


@dataclass(frozen=True)
class Settings(Recipe):
    """All that decides the result, but for the number of threads."""

    levels: tuple[int, ...] = LEVELS
    habits: Habits = field(default_factory=Habits)

    def fingerprint(self) -> str:
        """Changes with the settings, with the code that makes the model, and with the libraries' versions."""
        return self.fingerprint_of([Path(__file__).parent / name for name in ("task.py", "tokenizer.py", "warm_start.py")])


def load_habits(path: Path) -> Habits:
    """The writer's habits from a YAML file: {restated, concise, jump, recheck}, each {share, error}; the rest as they are.

    Raises:
        ValueError: unknown names, or values that are none; the message names the file.
    """
    try:
        return Habits.from_mapping(yaml.safe_load(path.read_text()))
    except (OSError, yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None


def train(settings: Settings, tokenizer: PreTrainedTokenizerFast, *, quiet: bool = False) -> tuple[Qwen2ForCausalLM, list[float]]:
    """Returns the model and the loss of each step (nats a token)."""

    def pair(rng: random.Random) -> tuple[list[dict[str, str]], str]:
        while split_of(problem := draw(rng, rng.choice(settings.levels))) != "warm":
            pass
        return chat(problem.text), chain(problem, settings.habits, rng)

    return imitation.train(settings, tokenizer, pair, quiet=quiet)


def make(out: Path, settings: Settings, *, eval_problems: int = 252, quiet: bool = False) -> dict[str, Any]:
    """The start policy's folder at `out`, trained or reused; returns its record."""
    fingerprint = settings.fingerprint()
    if (record := imitation.reusable(out, fingerprint)) is not None:
        if not quiet:
            print(f"start policy reused: {out}\n{evaluate.table(record['start_policy'])}")
        return record
    tokenizer = build_tokenizer()
    began = time.monotonic()
    model, losses = train(settings, tokenizer, quiet=quiet)
    held_out = problems("validation", eval_problems, settings.levels)
    summary = evaluate.summarize(held_out, evaluate.sample(model, tokenizer, held_out, k=8, seed=settings.seed))
    seconds = round(time.monotonic() - began, 1)
    record = imitation.record_of(settings, fingerprint, model, losses, seconds=seconds, start_policy=summary)
    imitation.write(out, model, tokenizer, record)
    if not quiet:
        print(f"start policy written: {out} ({record['parameters']:,} parameters, {seconds} s)")
        print(evaluate.table(summary))
    return record


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/arithmetic/start"))
    parser.add_argument("--habits", type=Path, metavar="FILE.yaml", help="the writer's shares and errors (task.Habits)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves torch's own choice")
    for name in ("seed", "steps", "batch", "lr"):
        default = getattr(Settings, name)
        parser.add_argument(f"--{name}", type=type(default), default=default, help=f"({default})")
    args = parser.parse_args(argv)
    transformers.utils.logging.disable_progress_bar()
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        habits = load_habits(args.habits) if args.habits else Habits()
        make(args.out, Settings(seed=args.seed, steps=args.steps, batch=args.batch, lr=args.lr, habits=habits))
    except ValueError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        raise SystemExit(f"\nstopped; {args.out} is as it was") from None


if __name__ == "__main__":
    main()
