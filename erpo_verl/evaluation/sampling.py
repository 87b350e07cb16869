"""Samples a plan of problems under several conditions, judges the responses and keeps them, chunk by chunk.

A chunk is as many problems as are generated together. Its seed is a hash of the evaluation's seed, the condition and
the ids in it: it depends on nothing that was sampled before, so an interrupted evaluation ends up the same.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erpo_verl import hints
from erpo_verl.evaluation import store
from erpo_verl.evaluation.problems import EvaluationError, Problem, Prompt, build_prompts
from erpo_verl.evaluation.rewording import ORIGINAL
from erpo_verl.prompts import Prompter
from erpo_verl.reward import MathJudge, shared_judge
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
    more_room: str = "raise --max-prompt-tokens",
) -> Plan:
    """The plan for some problems.

    Args:
        k: samples a problem.
        batch: responses that are generated together.
        more_room: how longer prompts would fit, for the message where none does.

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
        raise EvaluationError(f"all {len(problems)} prompts are longer than {max_prompt_tokens} tokens; {more_room}")
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
    answer_forms: str | None = None,
    k: int,
    seed: int,
    max_tokens: int,
    top_p: float = 1.0,
    top_k: int = -1,
    quiet: bool = False,
) -> None:
    """Sample what of the plan is not yet in ``folder``. The engine is made only where something is missing.

    What makes the first batch of responses unreadable for any judge is said on stderr.

    Args:
        judge: its settings are those of all judging but for the forms of a final answer.
        answer_forms: these forms; None: those that each problem names.
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
                lines = _lines(chunk, params, engine, decode, judge, answer_forms, progress, doubt=first)
                store.append(folder, lines)
                if first:
                    _hint(lines, judge)
                bar.update(base + size - bar.n)
    finally:
        engine.close()


def _lines(
    chunk: Chunk,
    params: SamplingParams,
    engine: RolloutEngine,
    decode: Decoder,
    judge: MathJudge,
    answer_forms: str | None,
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
    verdicts = _judged(chunk.prompts, texts, judge, answer_forms)
    with ThreadPoolExecutor(max_workers=2 * judge.config.workers) as threads:  # each problem's answers wait for one another
        grouped = list(threads.map(lambda results: votes(judge, [r["pred"] for r in results]), verdicts))
    lines = []
    for prompt, responses, row, judged, voted in zip(chunk.prompts, answered, texts, verdicts, grouped, strict=True):
        problem = prompt.problem
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
                "vote": voted,
                "reason": [int(v["reason"]) for v in judged],
                "ungradeable": [int(v["ungradeable"]) for v in judged],
                "length": [len(r.tokens) for r in responses],
                "finished": [r.finished for r in responses],
                "response": row,
            }
        )
    return lines


def _judged(prompts: Sequence[Prompt], texts: Sequence[Sequence[str]], judge: MathJudge, answer_forms: str | None) -> list[list[dict[str, Any]]]:
    """The result of each response to each prompt; problems that ask for their answer in the same forms are judged together."""
    by_forms: dict[str, list[int]] = {}
    for number, prompt in enumerate(prompts):
        by_forms.setdefault(prompt.problem.answer_forms(answer_forms), []).append(number)
    results: list[list[dict[str, Any]]] = [[] for _ in prompts]
    for forms, numbers in by_forms.items():
        of_forms = judge if forms == judge.config.answer_forms else shared_judge(replace(judge.config, answer_forms=forms))
        found = iter(of_forms.score_many([(text, prompts[number].problem.gold) for number in numbers for text in texts[number]]))
        for number in numbers:
            results[number] = [next(found) for _ in texts[number]]
    return results


def votes(judge: MathJudge, predictions: Sequence[str]) -> list[int]:
    """For majority votes: the class of each answer by the judge's own equality, from 0; -1 where there is no answer."""
    given = [prediction for prediction in predictions if prediction]
    classes = iter(judge.group_answers(given))
    return [next(classes) if prediction else -1 for prediction in predictions]


def _hint(lines: Sequence[Mapping[str, Any]], judge: MathJudge) -> None:
    """What to look at, on stderr, where nothing of the first chunk is right."""
    flat = [(text, line["gold"], acc, whole, reason) for line in lines
            for text, acc, whole, reason in zip(line["response"], line["acc"], line["finished"], line["reason"], strict=True)]  # fmt: skip
    texts, golds, right, finished, reasons = zip(*flat, strict=True)
    for line in hints.first_batch(
        texts, golds, right, finished, judge=asdict(judge.config), reasons=reasons, forms_key="--answer-forms", length_key="--max-tokens"
    ):  # fmt: skip
        print(f"erpo evaluate: {line}", file=sys.stderr)
