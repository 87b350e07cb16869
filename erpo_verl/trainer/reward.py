"""The reward function: loaded by verl's two keys, called with verl's arguments, checked as to what it returns.

``reward.custom_reward_function.path`` is a file or ``pkg://module``, ``.name`` the function in it; it may be an ordinary function or an
``async def``, and return a number or a mapping with ``score``. A number is Python's, numpy's or torch's, a bool too, or an array or tensor
of one. Without a path it is the maths reward of this package. What is wrong with a function is found by `Judge.probe`, before a model is
loaded.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import math
import numbers
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from erpo_verl import hints
from erpo_verl.reward import RewardConfig, shared_judge
from erpo_verl.trainer.data import Prompt

DEFAULT = "pkg://erpo_verl.reward"
ARGUMENTS = ("data_source", "solution_str", "ground_truth", "extra_info")
PROBE_SECONDS = 5.0
_KIND = {True: "a bare number", False: "a mapping"}
Call = tuple[str, str, Any, dict[str, Any]]  # ARGUMENTS


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
        maths: whether it is the maths reward of this package.

    Raises:
        RewardError: the function does not take these arguments.
    """

    def __init__(
        self, function: Callable[..., Any], settings: Mapping[str, Any] | None = None, concurrency: int = 256, *, maths: bool = False
    ):
        self.function, self.settings, self.concurrency, self.maths = function, dict(settings or {}), concurrency, maths
        self.name = getattr(function, "__name__", "the reward function")
        self.by_name = self._takes_names()
        self.keys: frozenset[str] | None = None  # of the first result, and then of every one
        self.bare = False  # whether they are numbers; these have the keys score and acc
        self._loop: asyncio.AbstractEventLoop | None = None

    def votes(self, predictions: Sequence[Any]) -> list[str]:
        """What the answers to one problem vote for: of the maths reward by its own equality, of another as they are spelled."""
        texts = [str(prediction) for prediction in predictions]
        if not self.maths:
            return texts
        classes = iter(shared_judge(RewardConfig.from_mapping(self.settings)).group_answers([text for text in texts if text]))
        return [str(next(classes)) if text else "" for text in texts]

    def hints(self, texts: Sequence[str], golds: Sequence[Any], scores: Tensor, info: Mapping[str, list[Any]], finished: Sequence[bool]) -> list[str]:
        """What to look at where nothing of a first batch is right."""
        return hints.first_batch(
            texts, golds, info.get("acc", scores.tolist()), finished, judge=self.settings if self.maths else None,
            reasons=info.get("reason", ()), forms_key="reward.custom_reward_function.reward_kwargs.answer_forms", length_key="data.max_response_length",
        )  # fmt: skip

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
        """Scores [B] float32, and the columns of what else the function returned; a bare number is its ``acc`` too, as in verl.

        ``extra_info`` gets ``response_length`` (tokens) and ``truncated`` beside what the data hold.

        Raises:
            RewardError: the function raises, a score is no finite number, or only some results have a key.
        """
        calls = [
            (prompt.data_source, text, prompt.gold, {**prompt.extra_info, "response_length": int(length), "truncated": not whole})
            for prompt, text, length, whole in zip(prompts, texts, lengths, finished, strict=True)
        ]
        return self._columns(self._results(calls))

    def probe(self, prompts: Sequence[Prompt]) -> None:
        """Try the function on made-up responses, so that what is wrong with it is said before a model is loaded.

        For a prompt of each data source it judges an empty response and one with the gold in a box; an ordinary function then judges
        the latter for the other prompts too, as many as ``PROBE_SECONDS`` allow, since it may fail for the golds of some rows only.

        Raises:
            RewardError: as for a batch.
        """
        first: dict[str, Prompt] = {}
        for prompt in prompts:
            first.setdefault(prompt.data_source, prompt)
        for prompt in first.values():
            self._probe_one(prompt, "")
            self._probe_one(prompt)
        if self._loop is not None:  # it awaits something, perhaps a service that costs money
            return
        deadline = time.monotonic() + PROBE_SECONDS
        for prompt in prompts:
            if time.monotonic() > deadline:
                return
            self._probe_one(prompt)

    def _probe_one(self, prompt: Prompt, text: str | None = None) -> None:
        text = f"\\boxed{{{prompt.gold}}}" if text is None else text
        info = {**prompt.extra_info, "response_length": max(1, len(text)), "truncated": False}
        call = (prompt.data_source, text, prompt.gold, info)
        try:
            self._columns(self._results([call]))
        except RewardError as error:
            row = f"the row with id {prompt.id}" if prompt.id else "a row"
            raise RewardError(f"{error}; seen with a made-up response to {row}, before training") from error.__cause__

    def _results(self, calls: Sequence[Call]) -> list[Any]:
        results: list[Any] = []
        try:
            for number, call in enumerate(calls):
                try:
                    results.append(self._start(call))
                except Exception as error:
                    raise self._raised(number, call, error) from error
            if not any(map(inspect.isawaitable, results)):
                return results
            if self._loop is None:  # one for the whole run: a client of a service is bound to the loop that it was first used in
                self._loop = asyncio.new_event_loop()
            whole = self._loop.create_task(self._gather(calls, results))
            try:
                return self._loop.run_until_complete(whole)
            finally:
                if not whole.done():  # Ctrl-C
                    whole.cancel()
                    self._loop.run_until_complete(asyncio.wait([whole]))
        finally:
            for result in results:
                if inspect.iscoroutine(result):
                    result.close()  # nothing where it has run

    def _start(self, call: Call) -> Any:
        if self.by_name:
            return self.function(**dict(zip(ARGUMENTS, call, strict=True)), **self.settings)
        return self.function(*call, **self.settings)

    async def _gather(self, calls: Sequence[Call], results: Sequence[Any]) -> list[Any]:
        gate = asyncio.Semaphore(self.concurrency)

        async def one(number: int, call: Call, result: Any) -> Any:
            if not inspect.isawaitable(result):
                return result
            async with gate:
                try:
                    return await result
                except Exception as error:
                    raise self._raised(number, call, error) from error

        tasks = [asyncio.ensure_future(one(number, *pair)) for number, pair in enumerate(zip(calls, results, strict=True))]
        try:
            return list(await asyncio.gather(*tasks))
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    def _raised(self, number: int, call: Call, error: Exception) -> RewardError:
        source, text, gold, _ = call
        return RewardError(
            f"{self.name} raised {_told(error)} for response {number} {text[:80]!r} (data_source {source!r}, ground_truth {gold!r})"
        )

    def _columns(self, results: Sequence[Any]) -> tuple[Tensor, dict[str, list[Any]]]:
        """Scores and columns of plain Python values."""
        scores: list[float] = []
        rows: list[dict[str, Any]] = []
        for number, result in enumerate(results):
            row = dict(result) if isinstance(result, Mapping) else {"score": result, "acc": result}  # as in verl
            bare, keys = not isinstance(result, Mapping), frozenset(map(str, row))
            score = as_number(row.pop("score", None))
            if score is None or not math.isfinite(score):
                given = result.get("score") if isinstance(result, Mapping) else result
                raise RewardError(
                    f"{self.name}: the score of response {number} is {given!r}: must be a finite number (or a mapping with 'score')"
                )
            if self.keys is None:
                self.keys, self.bare = keys, bare
            if (keys, bare) != (self.keys, self.bare):
                words = _KIND[bare], _KIND[self.bare]
                told = "is {}, and the first result was {}".format(*words) if bare != self.bare else _difference(self.keys, keys)
                raise RewardError(f"{self.name}: response {number} {told}: return the same keys every time")
            if "acc" in row:
                told, row["acc"] = row["acc"], as_number(row["acc"])
                if row["acc"] is None or not math.isfinite(row["acc"]):
                    raise RewardError(f"{self.name}: acc of response {number} is {told!r}: must be a number (0 or 1), or left out everywhere")
            scores.append(score)
            rows.append({key: _plain(value) for key, value in row.items()})
        return torch.tensor(scores), {key: [row[key] for row in rows] for key in (rows[0] if rows else ())}


def as_number(value: Any) -> float | None:
    """A number of Python, numpy or torch as a float: bool, int, float, Decimal, Fraction, or an array or tensor of one; else None."""
    value = _plain(value)
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    try:
        return float(value) if isinstance(value, (numbers.Real, Decimal)) else None
    except (OverflowError, ValueError):  # 10**400, a signalling NaN
        return math.nan


def _plain(value: Any) -> Any:
    """Scalars, arrays and tensors of numpy and torch as Python's numbers and lists; anything else as it is."""
    if hasattr(value, "tolist") and hasattr(value, "dtype"):
        return value.tolist()
    return value


def _difference(first: frozenset[str], other: frozenset[str]) -> str:
    """In what a result differs from the first one."""
    lacking, added = sorted(first - other), sorted(other - first)
    parts = [f"lacks {', '.join(lacking)}"] * bool(lacking) + [f"adds {', '.join(added)}"] * bool(added)
    return f"{' and '.join(parts)} (the keys of the first result were {', '.join(sorted(first))})"


def _told(error: Exception) -> str:
    """An exception of the user's code with the place that raised it, in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"
