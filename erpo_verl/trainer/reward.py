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
import numbers
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from erpo_verl.trainer.data import Prompt

DEFAULT = "pkg://erpo_verl.reward"
ARGUMENTS = ("data_source", "solution_str", "ground_truth", "extra_info")


class RewardError(ValueError):
    """The reward function cannot be loaded, or returned something unusable; the message names it and the response."""


def load_reward(path: str | None, name: str) -> Callable[..., Any]:
    """The function ``name`` of a file or of ``pkg://module``.

    Raises:
        RewardError: no such file, module or function, or one that raises while it is loaded.
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
    except RewardError:
        raise
    except Exception as error:  # whatever the user's module raises
        raise RewardError(f"reward.custom_reward_function.path={path}: cannot be imported: {_told(error)}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise RewardError(f"reward.custom_reward_function.name={name}: {path} has no such function")
    return function


class Judge:
    """Scores a batch with a reward function.

    Args:
        function: takes ``ARGUMENTS`` by name, as verl passes them, or four positional arguments in their order.
        settings: further arguments of it, by name (``reward.custom_reward_function.reward_kwargs``).
        concurrency: calls of an ``async def`` that are under way at once.

    Raises:
        RewardError: the function does not take these arguments.
    """

    def __init__(self, function: Callable[..., Any], settings: Mapping[str, Any] | None = None, concurrency: int = 256):
        self.function, self.settings, self.concurrency = function, dict(settings or {}), concurrency
        self.name = getattr(function, "__name__", "the reward function")
        self.by_name = self._takes_names()

    def _takes_names(self) -> bool:
        try:
            signature = inspect.signature(self.function)
        except (TypeError, ValueError):  # a function in C that does not tell
            return False
        try:
            signature.bind(**dict.fromkeys(ARGUMENTS), **self.settings)
            return True
        except TypeError:
            pass
        try:
            signature.bind(*ARGUMENTS, **self.settings)
            return False
        except TypeError as error:
            given = "".join(f", {key}={value!r}" for key, value in self.settings.items())
            raise RewardError(
                f"reward.custom_reward_function: {self.name}{signature} does not take ({', '.join(ARGUMENTS)}{given}): {error}; what "
                "stands after the first four comes from reward.custom_reward_function.reward_kwargs"
            ) from None

    def __call__(
        self, prompts: Sequence[Prompt], texts: Sequence[str], lengths: Sequence[int], finished: Sequence[bool]
    ) -> tuple[Tensor, dict[str, list[Any]]]:
        """Scores [B] float32, and the columns of what else the function returned.

        ``extra_info`` gets ``response_length`` (tokens) and ``truncated`` beside what the data hold.

        Raises:
            RewardError: the function raises, a score is no finite number, or only some results have a key.
        """
        calls = []
        for prompt, text, length, whole in zip(prompts, texts, lengths, finished, strict=True):
            info = {**prompt.extra_info, "response_length": int(length), "truncated": not whole}
            calls.append((prompt.data_source, text, prompt.gold, info))
        if inspect.iscoroutinefunction(self.function):
            results = asyncio.run(self._gather(calls))
        else:
            results = [self._call(number, call) for number, call in enumerate(calls)]
        return self._columns(results)

    def _start(self, call: tuple) -> Any:
        if self.by_name:
            return self.function(**dict(zip(ARGUMENTS, call, strict=True)), **self.settings)
        return self.function(*call, **self.settings)

    def _call(self, number: int, call: tuple) -> Any:
        try:
            return self._start(call)
        except Exception as error:
            raise self._raised(number, call, error) from error

    async def _gather(self, calls: Sequence[tuple]) -> list[Any]:
        gate = asyncio.Semaphore(self.concurrency)

        async def one(number: int, call: tuple) -> Any:
            async with gate:
                try:
                    return await self._start(call)
                except Exception as error:
                    raise self._raised(number, call, error) from error

        return list(await asyncio.gather(*(one(number, call) for number, call in enumerate(calls))))

    def _raised(self, number: int, call: tuple, error: Exception) -> RewardError:
        source, text, gold, _ = call
        return RewardError(
            f"{self.name} raised {_told(error)} for response {number} {text[:80]!r} (data_source {source!r}, ground_truth {gold!r})"
        )

    def _columns(self, results: Sequence[Any]) -> tuple[Tensor, dict[str, list[Any]]]:
        name = self.name
        scores: list[float] = []
        for number, result in enumerate(results):
            score = result.get("score") if isinstance(result, Mapping) else result
            if isinstance(score, bool) or not isinstance(score, numbers.Real) or not math.isfinite(score):
                raise RewardError(f"{name}: the score of response {number} is {score!r}: must be a finite number (or a mapping with 'score')")
            scores.append(float(score))
        rows = [dict(result) if isinstance(result, Mapping) else {} for result in results]
        for number, row in enumerate(rows):
            row.pop("score", None)
            if rows and row.keys() != rows[0].keys():
                odd = sorted(row.keys() ^ rows[0].keys())
                raise RewardError(f"{name}: responses 0 and {number} differ in the keys {', '.join(odd)}: return the same keys every time")
            if "acc" in row and not isinstance(row["acc"], numbers.Real):
                raise RewardError(f"{name}: acc of response {number} is {row['acc']!r}: must be a number (0 or 1), or left out everywhere")
        return torch.tensor(scores), {key: [row[key] for row in rows] for key in (rows[0] if rows else ())}


def _told(error: Exception) -> str:
    """An exception of the user's code with the place that raised it, in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"
