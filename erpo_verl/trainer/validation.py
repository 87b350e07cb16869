"""Validation during training: avg@n, unbiased pass@k, maj@k, lengths and the share cut off, by data source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from erpo_verl.evaluation.statistics import ProblemSamples, validation_metrics
from erpo_verl.trainer.batch import Batch
from erpo_verl.trainer.data import Prompt
from erpo_verl.trainer.sampler import Sampler

PROMPTS_AT_ONCE = 256


def validate(sampler: Sampler, prompts: Sequence[Prompt]) -> tuple[dict[str, float], list[Batch]]:
    """Sample and judge all validation prompts; returns metrics (the same in every process) and this process's batches.

    The seed is the same at every step, so that two validations differ by the policy alone.
    """
    mine = range(sampler.rank, len(prompts), sampler.processes)
    batches, problems = [], []
    for start in range(0, len(mine), PROMPTS_AT_ONCE):
        numbers = mine[start : start + PROMPTS_AT_ONCE]
        params = replace(sampler.val_params, seed=sampler.seed("validation", start))
        batch = sampler.sample([prompts[i] for i in numbers], [f"val-{i}" for i in numbers], params)
        batches.append(batch)
        problems += as_problems(batch, params.n, sampler.judge.votes)
    if sampler.processes > 1:
        parts: list[Any] = [None] * sampler.processes
        torch.distributed.all_gather_object(parts, problems)
        problems = [problem for part in parts for problem in part]
    return validation_metrics(problems), batches


def as_problems(batch: Batch, n: int, votes: Callable[[Sequence[Any]], list[str]]) -> list[ProblemSamples]:
    """One entry a group of n rows, without the groups of which the judge could not grade every response. Accuracy is the reward's ``acc``,
    if it returns one."""
    accuracy = batch.reward_info.get("acc")
    missed = batch.reward_info.get("ungradeable", [0.0] * len(batch))
    predictions = batch.reward_info.get("pred", batch.texts)
    scores, lengths = batch.scores.tolist(), batch.lengths.tolist()
    problems = []
    for start in range(0, len(batch), n):
        rows = slice(start, start + n)
        if any(map(float, missed[rows])):
            continue
        prompt = batch.prompts[start]
        problems.append(
            ProblemSamples(
                id=prompt.id or batch.uid[start],
                source=prompt.data_source,
                acc=None if accuracy is None else accuracy[rows],
                predictions=votes(predictions[rows]) if n > 1 else [str(predictions[start])],
                lengths=lengths[rows],
                finished=batch.finished[rows],
                level=prompt.level,
                scores=scores[rows],
            )
        )
    return problems
