"""Measures the sites of a list of problems, a chunk at a time, and keeps what is found: it can be stopped anywhere and gone on with.

``problems.jsonl`` has a line a problem, in the order of the problems: its responses with the numbers of each token, and its branches. A chunk's
seed depends on the problems in it alone, so that an interrupted measurement ends up the same.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from erpo_verl import ErpoConfig, erpo_advantages
from erpo_verl.evaluation.problems import Prompt
from erpo_verl.pivots import branches as branching
from erpo_verl.pivots.annotate import Annotation, Annotator, generator, seed_of
from erpo_verl.pivots.branches import Branch, Outcome, Whole
from erpo_verl.pivots.positions import PIVOT, SURPRISING, TOP, Group, Site, choose, top_share
from erpo_verl.rollout import Response, RolloutEngine, SamplingParams

LINES = "problems.jsonl"


class PivotsError(ValueError):
    """Something that the user gave cannot be used; the message names it and says what to do."""


@dataclass(frozen=True)
class Asked:
    """A problem as a reward function is asked about it."""

    data_source: str
    gold: Any
    extra_info: dict[str, Any]


# (problems, texts, lengths, finished) -> (right or wrong, answers); one entry a text.
JudgeAll = Callable[[Sequence[Asked], Sequence[str], Sequence[int], Sequence[bool]], tuple[list[float], list[str]]]


@dataclass(frozen=True)
class Plan:
    """How problems are measured."""

    responses: int  # to each problem; a group
    sites: int  # of each kind, a problem
    n: int  # continuations of each branch, >= 2
    max_tokens: int  # longest response
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    seed: int = 0
    shown: frozenset[int] = frozenset()  # numbers of the problems of which a right and a wrong response are measured at every token
    shown_tokens: int = 96  # at most so many of them, evenly spread
    at_once: int = 8  # problems of a chunk

    def params(self, seed: int, **more: Any) -> SamplingParams:
        return SamplingParams(max_tokens=self.max_tokens, temperature=self.temperature, top_p=self.top_p, top_k=self.top_k, seed=seed, **more)


class Measurer:
    """What measuring needs: an engine that samples, a model that annotates, a judge, and the tokenizer's decoding.

    Args:
        decode: token ids of several responses -> the texts that are judged.
        pieces: token ids -> the tokenizer's own pieces, for the page.
        ends: tokens that end a response.
    """

    def __init__(
        self,
        plan: Plan,
        engine: RolloutEngine,
        annotator: Annotator,
        judge: JudgeAll,
        *,
        decode: Callable[[Sequence[Sequence[int]]], list[str]],
        pieces: Callable[[Sequence[int]], list[str]],
        ends: Sequence[int],
    ):
        self.plan, self.engine, self.annotator, self.judge = plan, engine, annotator, judge
        self.decode, self.pieces, self.ends = decode, pieces, tuple(ends)

    def chunk(self, prompts: Sequence[Prompt], first: int, progress: Callable[[int], None] | None = None) -> list[dict[str, Any]]:
        """The lines of some problems; ``first`` is the number of the first among all, which decides what is shown."""
        plan = self.plan
        seed = seed_of(plan.seed, "/".join(prompt.problem.id for prompt in prompts), 0)
        answered = self.engine.generate([p.tokens for p in prompts], plan.params(seed, n=plan.responses))
        asked = [Asked(p.problem.source, p.problem.gold, p.problem.extra_info) for p in prompts]
        flat = [(i, r) for i, some in enumerate(answered) for r in some]
        right, answers = self._judge([asked[i] for i, _ in flat], [(r.tokens, r.finished) for _, r in flat])
        verdicts = iter(zip(right, answers, strict=True))
        lines, work = [], []
        for number, (prompt, responses) in enumerate(zip(prompts, answered, strict=True)):
            judged = [next(verdicts) for _ in responses]
            line, sites, annotations = self._annotated(prompt, responses, judged, shown=first + number in plan.shown)
            found = [(s, b) for s in sites for b in branching.branches_of(s, responses[s.response].tokens, annotations[s.response])]
            lines.append(line)
            work.append(found)
        self._branch(prompts, asked, lines, work, seed + 1, progress)
        return lines

    def _judge(self, asked: Sequence[Asked], whole: Sequence[Whole]) -> tuple[list[float], list[str]]:
        return self.judge(asked, self.decode([t for t, _ in whole]), [len(t) for t, _ in whole], [finished for _, finished in whole])

    def _annotated(
        self, prompt: Prompt, responses: Sequence[Response], judged: Sequence[tuple[float, str]], *, shown: bool
    ) -> tuple[dict[str, Any], list[Site], list[Annotation]]:
        plan, name = self.plan, prompt.problem.id
        annotations = [
            self.annotator.annotate(prompt.tokens, r.tokens, temperature=plan.temperature, seed=seed_of(plan.seed, name, i))
            for i, r in enumerate(responses)
        ]
        group = Group.of([a.entropy for a in annotations], [[-x for x in a.log_prob] for a in annotations])
        right = [verdict for verdict, _ in judged]
        on_page = [i for wanted in (1.0, 0.0) for i in range(len(right)) if right[i] == wanted][:1] if shown else []
        if shown and 0 < sum(right) < len(right):
            on_page.append(right.index(0.0))
        longest = max((len(responses[i].tokens) for i in on_page), default=1)
        sites = choose(group, plan.sites, generator(plan.seed, name), on_page, every=-(-longest // plan.shown_tokens))
        pivots = top_share(group.flat("entropy"), TOP) & (group.flat("z") > 0)
        surprising = top_share(group.flat("surprisal"), TOP)
        advantage = _advantages(right, annotations)
        rows, at = [], 0
        for i, (response, note) in enumerate(zip(responses, annotations, strict=True)):
            T = len(response.tokens)
            rows.append(
                {
                    "tokens": response.tokens, "pieces": self.pieces(response.tokens), "finished": response.finished, "right": bool(right[i]),
                    "answer": judged[i][1], "entropy": _short(note.entropy), "log_prob": _short(note.log_prob), "second": note.second,
                    "second_log_prob": _short(note.second_log_prob), "z": _short(group.z[i]), "gate": _short(group.gate[i]),
                    PIVOT: pivots[at : at + T].tolist(), SURPRISING: surprising[at : at + T].tolist(), "advantage": _short(advantage[i]),
                }
            )  # fmt: skip
            at += T
        problem = prompt.problem
        line = {"id": name, "source": problem.source, "level": problem.level, "gold": problem.gold_text, "prompt": prompt.text,
                "shown": on_page, "responses": rows}  # fmt: skip
        return line, sites, annotations

    def _branch(
        self,
        prompts: Sequence[Prompt],
        asked: Sequence[Asked],
        lines: Sequence[dict[str, Any]],
        work: Sequence[Sequence[tuple[Site, Branch]]],
        seed: int,
        progress: Callable[[int], None] | None,
    ) -> None:
        """Continue and judge each different branch once, and write them into the lines."""
        distinct: dict[tuple, tuple[int, Branch]] = {}
        for i, found in enumerate(work):
            for _, branch in found:
                distinct.setdefault((i, *branch.key), (i, branch))
        ended = branching.continue_all(
            [(prompts[i].tokens, branch) for i, branch in distinct.values()], self.engine, ends=self.ends, n=self.plan.n,
            max_tokens=self.plan.max_tokens, params=self.plan.params(seed), progress=progress,
        )  # fmt: skip
        flat = [(i, whole) for (i, _), rows in zip(distinct.values(), ended, strict=True) for whole in rows]
        right, answers = self._judge([asked[i] for i, _ in flat], [whole for _, whole in flat])
        outcomes, at = {}, 0
        for key, rows in zip(distinct, ended, strict=True):
            times = self.plan.n // len(rows)  # a branch that has ended has one outcome, however often it is continued
            span = slice(at, at + len(rows))
            outcomes[key] = Outcome(right[span] * times, answers[span] * times, [len(tokens) for tokens, _ in rows] * times)
            at += len(rows)
        for i, found in enumerate(work):
            lines[i]["branches"] = [branching.record(site, branch, outcomes[(i, *branch.key)]) for site, branch in found]


def _short(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]


def _advantages(right: Sequence[float], annotations: Sequence[Annotation]) -> list[list[float]]:
    """ERPO's token advantages without the progress term (it needs a reference policy): gate times outcome."""
    longest = max(len(a.entropy) for a in annotations)
    entropy, mask = torch.zeros(len(right), longest), torch.zeros(len(right), longest)
    rewards = torch.zeros(len(right), longest)
    for i, a in enumerate(annotations):
        T = len(a.entropy)
        entropy[i, :T], mask[i, :T], rewards[i, T - 1] = torch.tensor(a.entropy), 1.0, right[i]
    config = ErpoConfig.from_mapping({"progress": {"enable": False}})
    found = erpo_advantages(
        token_level_rewards=rewards, response_mask=mask, index=["problem"] * len(right), entropy=entropy, old_log_probs=torch.zeros_like(mask),
        ref_log_prob=None, config=config,
    ).advantages  # fmt: skip
    return [found[i, : len(a.entropy)].tolist() for i, a in enumerate(annotations)]


# --- keeping


def read_lines(folder: Path) -> list[dict[str, Any]]:
    """The whole lines of ``problems.jsonl``; a torn one at the end is left away.

    Raises:
        PivotsError: another line is damaged.
    """
    return [line for line, _ in _whole_lines(folder / LINES)]


def _whole_lines(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """(line, the byte at which it ends)."""
    data, at, number = path.read_bytes() if path.is_file() else b"", 0, 0
    while (end := data.find(b"\n", at)) >= 0:
        number += 1
        try:
            line = json.loads(data[at:end])
        except ValueError as error:
            raise PivotsError(f"{path}, line {number}: damaged ({error}); choose another --out") from None
        at = end + 1
        yield line, at


def resume(folder: Path, prompts: Sequence[Prompt], at_once: int) -> int:
    """Cut ``problems.jsonl`` back to whole chunks; returns how many problems are done.

    Raises:
        PivotsError: it holds other problems.
    """
    path = folder / LINES
    found = list(_whole_lines(path))
    for i, (line, _) in enumerate(found):
        if i >= len(prompts) or line["id"] != prompts[i].problem.id:
            raise PivotsError(f"{path}, line {i + 1}: holds problem {line['id']}, which is not the plan's; choose another --out")
    done = len(found) if len(found) == len(prompts) else len(found) - len(found) % at_once
    if path.is_file():
        os.truncate(path, found[done - 1][1] if done else 0)
    return done


def append(folder: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Append a chunk, and wait until it is on the disk."""
    with open(folder / LINES, "ab") as file:
        file.write("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines).encode())
        file.flush()
        os.fsync(file.fileno())
