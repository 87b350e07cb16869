"""The reward function: loaded by verl's two keys, called with verl's arguments, checked as to what it returns.

``reward.custom_reward_function.path`` is a file or ``pkg://module``, ``.name`` the function in it; it may be an ordinary function or an
``async def``, and return a number or a mapping with ``score``. Without a path it is the maths reward of this package.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from erpo_verl.trainer.data import Prompt

DEFAULT = "pkg://erpo_verl.reward"


class RewardError(ValueError):
    """The reward function cannot be loaded, or returned something unusable; the message names it and the response."""


def load_reward(path: str | None, name: str) -> Callable[..., Any]:
    """The function ``name`` of a file or of ``pkg://module``.

    Raises:
        RewardError: no such file, module or function.
    """
    path = path or DEFAULT
    try:
        if path.startswith("pkg://"):
            module = importlib.import_module(path.removeprefix("pkg://"))
        else:
            file = Path(path).expanduser()
            if not file.is_file():
                raise RewardError(f"reward.custom_reward_function.path={path}: no such file")
            spec = importlib.util.spec_from_file_location(f"erpo_custom_reward_{file.stem}", file)
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module
            spec.loader.exec_module(module)
    except ImportError as error:
        raise RewardError(f"reward.custom_reward_function.path={path}: cannot be imported: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise RewardError(f"reward.custom_reward_function.name={name}: {path} has no such function")
    return function


class Judge:
    """Scores a batch with a reward function."""

    def __init__(self, function: Callable[..., Any], settings: Mapping[str, Any] | None = None, concurrency: int = 256):
        self.function, self.settings, self.concurrency = function, dict(settings or {}), concurrency

    def __call__(
        self, prompts: Sequence[Prompt], texts: Sequence[str], lengths: Sequence[int], finished: Sequence[bool]
    ) -> tuple[Tensor, dict[str, list[Any]]]:
        """Scores [B] float32, and the columns of what else the function returned.

        ``extra_info`` gets ``response_length`` (tokens) and ``truncated`` beside what the data hold.

        Raises:
            RewardError: a score that is no finite number, or a key that only some results have.
        """
        calls = []
        for prompt, text, length, whole in zip(prompts, texts, lengths, finished, strict=True):
            info = {**prompt.extra_info, "response_length": int(length), "truncated": not whole}
            calls.append((prompt.data_source, text, prompt.gold, info))
        if inspect.iscoroutinefunction(self.function):
            results = asyncio.run(self._gather(calls))
        else:
            results = [self.function(*call, **self.settings) for call in calls]
        return self._columns(results)

    async def _gather(self, calls: Sequence[tuple]) -> list[Any]:
        gate = asyncio.Semaphore(self.concurrency)

        async def one(call: tuple) -> Any:
            async with gate:
                return await self.function(*call, **self.settings)

        return list(await asyncio.gather(*(one(call) for call in calls)))

    def _columns(self, results: Sequence[Any]) -> tuple[Tensor, dict[str, list[Any]]]:
        name = getattr(self.function, "__name__", "the reward function")
        scores: list[float] = []
        for number, result in enumerate(results):
            score = result.get("score") if isinstance(result, Mapping) else result
            if isinstance(score, bool) or not isinstance(score, (int, float)) or not math.isfinite(score):
                raise RewardError(f"{name}: the score of response {number} is {score!r}: must be a finite number (or a mapping with 'score')")
            scores.append(float(score))
        rows = [dict(result) if isinstance(result, Mapping) else {} for result in results]
        for number, row in enumerate(rows):
            row.pop("score", None)
            if rows and row.keys() != rows[0].keys():
                odd = sorted(row.keys() ^ rows[0].keys())
                raise RewardError(f"{name}: responses 0 and {number} differ in the keys {', '.join(odd)}: return the same keys every time")
        return torch.tensor(scores), {key: [row[key] for row in rows] for key in (rows[0] if rows else ())}
