"""Samples a plan of problems under several conditions, judges the responses and keeps them, chunk by chunk.

A chunk is as many problems as are generated together. Its seed is a hash of the evaluation's seed, the condition and
the ids in it: it depends on nothing that was sampled before, so an interrupted evaluation ends up the same.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erpo_verl.evaluation import store
from erpo_verl.evaluation.problems import EvaluationError, Problem, Prompt, build_prompts
from erpo_verl.evaluation.rewording import ORIGINAL
from erpo_verl.prompts import Prompter
from erpo_verl.reward import MathJudge
from erpo_verl.rollout import RolloutEngine, SamplingParams

if TYPE_CHECKING:
    from erpo_verl.models.tokenizer import Decoder


@dataclass(frozen=True)
class Condition:
    """How the problems are asked. Temperature 0 is greedy: one sample a problem."""

    temperature: float
    rewording: str = ORIGINAL

    @property
    def label(self) -> str:
        return f"temperature {self.temperature:g}" + ("" if self.rewording == ORIGINAL else f", {self.rewording}")


@dataclass(frozen=True)
class Chunk:
    """Problems that are generated together."""

    condition: Condition
    prompts: list[Prompt]

    @property
    def keys(self) -> list[tuple[str, float, str]]:
        return [(self.condition.rewording, self.condition.temperature, prompt.problem.id) for prompt in self.prompts]

    def seed(self, seed: int) -> int:
        """In 0 .. 2^31 - 1."""
        digest = hashlib.sha256(json.dumps([seed, self.keys]).encode()).digest()
        return int.from_bytes(digest[:4], "big") >> 1


@dataclass(frozen=True)
class Plan:
    """What is to be sampled, in order."""

    chunks: list[Chunk]
    prompts: dict[tuple[str, str], Prompt]  # (rewording, problem's id) -> what the model sees
    left_out: dict[str, dict[str, list[str]]]  # rewording -> reason -> ids


def conditions(temperatures: Sequence[float], rewordings: Sequence[str]) -> list[Condition]:
    """The original wording at every temperature, then each rewording at the first one."""
    return [*(Condition(t) for t in temperatures), *(Condition(temperatures[0], name) for name in rewordings)]


def build_plan(
    problems: Sequence[Problem],
    asked: Sequence[Condition],
    prompter: Prompter,
    *,
    k: int,
    batch: int,
    max_prompt_tokens: int,
) -> Plan:
    """The plan for some problems.

    Args:
        k: samples a problem.
        batch: responses that are generated together.

    Raises:
        EvaluationError: a prompt cannot be built, or none is short enough.
    """
    chunks, known, left_out = [], {}, {}
    built: dict[str, list[Prompt]] = {}
    for condition in asked:
        name = condition.rewording
        if name not in built:
            built[name], left_out[name] = build_prompts(problems, prompter, name, max_prompt_tokens)
            known |= {(name, prompt.problem.id): prompt for prompt in built[name]}
        prompts = built[name]
        size = max(1, batch // samples_at(condition, k))
        chunks += [Chunk(condition, prompts[start : start + size]) for start in range(0, len(prompts), size)]
    if not built[ORIGINAL]:
        raise EvaluationError(
            f"all {len(problems)} prompts are longer than {max_prompt_tokens} tokens; raise --max-prompt-tokens"
        )
    return Plan(chunks, known, {name: reasons for name, reasons in left_out.items() if any(reasons.values())})


def samples_at(condition: Condition, k: int) -> int:
    """Samples a problem under a condition."""
    return k if condition.temperature > 0 else 1


def collect(
    folder: Path,
    plan: Plan,
    make_engine: Callable[[], RolloutEngine],
    decode: Decoder,
    judge: MathJudge,
    *,
    k: int,
    seed: int,
    max_tokens: int,
    top_p: float = 1.0,
    top_k: int = -1,
    quiet: bool = False,
) -> None:
    """Sample what of the plan is not yet in ``folder``. The engine is made only where something is missing.

    What makes the first batch of responses unreadable for any judge is said on stderr.
    """
    from tqdm import tqdm

    done = store.resume(folder, [chunk.keys for chunk in plan.chunks])
    if done == len(plan.chunks):
        return
    sizes = [len(chunk.prompts) * samples_at(chunk.condition, k) for chunk in plan.chunks]
    engine = make_engine()
    if getattr(engine, "note", None):
        print(f"erpo evaluate: {engine.note}", file=sys.stderr)
    bar = tqdm(total=sum(sizes), initial=sum(sizes[:done]), unit="response", disable=quiet or None, smoothing=0.1)
    try:
        with bar:
            for chunk, size in zip(plan.chunks[done:], sizes[done:], strict=True):
                bar.set_description(chunk.condition.label)
                base = bar.n

                def progress(complete: int, base: int = base) -> None:
                    bar.update(base + complete - bar.n)

                temperature = chunk.condition.temperature
                params = SamplingParams(
                    n=samples_at(chunk.condition, k),
                    max_tokens=max_tokens,
                    temperature=temperature or 1.0,
                    top_k=top_k,
                    top_p=top_p,
                    do_sample=temperature > 0,
                    seed=chunk.seed(seed),
                )
                first = chunk is plan.chunks[done]
                store.append(folder, _lines(chunk, params, engine, decode, judge, progress, doubt=first))
                bar.update(base + size - bar.n)
    finally:
        engine.close()


def _lines(
    chunk: Chunk,
    params: SamplingParams,
    engine: RolloutEngine,
    decode: Decoder,
    judge: MathJudge,
    progress: Callable[[int], None],
    doubt: bool = False,
) -> list[dict[str, Any]]:
    """One line a problem, with its n samples."""
    answered = engine.generate([prompt.tokens for prompt in chunk.prompts], params, progress)
    texts = [decode([r.tokens for r in responses]) for responses in answered]
    if doubt and (
        word := decode.doubt([r.tokens for row in answered for r in row], [text for row in texts for text in row])
    ):
        print(f"erpo evaluate: {word}", file=sys.stderr)
    pairs = [(text, prompt.problem.gold) for prompt, row in zip(chunk.prompts, texts, strict=True) for text in row]
    verdicts = iter(judge.score_many(pairs))
    lines = []
    for prompt, responses, row in zip(chunk.prompts, answered, texts, strict=True):
        problem = prompt.problem
        judged = [next(verdicts) for _ in row]
        lines.append(
            {
                "rewording": chunk.condition.rewording,
                "temperature": chunk.condition.temperature,
                "id": problem.id,
                "source": problem.source,
                "level": problem.level,
                "gold": problem.gold_text,
                "acc": [int(v["acc"]) for v in judged],
                "pred": [v["pred"] for v in judged],
                "reason": [int(v["reason"]) for v in judged],
                "length": [len(r.tokens) for r in responses],
                "finished": [r.finished for r in responses],
                "response": row,
            }
        )
    return lines
