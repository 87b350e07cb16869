"""Responses with the numbers of each token, as parquet: what `erpo inspect` shows. One file a step or validation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from transformers import PreTrainedTokenizerBase

from erpo_verl import methods
from erpo_verl.methods.credit import Credit, by_response
from erpo_verl.methods.declarations import COMMON, Quantity
from erpo_verl.reward import Reason
from erpo_verl.runs.rollouts import write_rollouts
from erpo_verl.trainer.advantages import token_batch
from erpo_verl.trainer.batch import Batch
from erpo_verl.trainer.processes import ALONE, Processes


def write_step(
    folder: Path, step: int, batch: Batch, credit: Credit, settings: DictConfig, tokenizer: PreTrainedTokenizerBase, processes: Processes = ALONE
) -> None:
    """Write ``folder/step_<step>.parquet``: a training batch, all processes' rows, and what the method made of each token.

    A collective call; the main process writes.
    """
    rows = _rows(batch, step, tokenizer)
    quantities = (*COMMON, *methods.get(settings.algorithm.adv_estimator).tokens)
    for row, numbers in zip(rows, by_response(credit, token_batch(batch, settings, step), [q.name for q in quantities]), strict=True):
        row.update(numbers)
    parts = processes.gather(rows)
    if processes.rank == 0:
        _write(folder / f"step_{step:06d}.parquet", [row for part in parts for row in part], quantities)


def write_validation(file: Path, step: int, batches: Sequence[Batch], tokenizer: PreTrainedTokenizerBase) -> Path:
    """Write this process's validation responses, without token numbers."""
    return _write(file, [row for batch in batches for row in _rows(batch, step, tokenizer)], COMMON)


def _write(file: Path, rows: list[dict[str, Any]], quantities: Sequence[Quantity]) -> Path:
    try:
        return write_rollouts(file, rows, quantities)
    except OSError as error:  # pyarrow's do not name the file
        raise OSError(f"cannot write {file}: {error}") from error


def _rows(batch: Batch, step: int, tokenizer: PreTrainedTokenizerBase) -> list[dict[str, Any]]:
    info, scores, lengths = batch.reward_info, batch.scores.tolist(), batch.lengths.tolist()
    seen: dict[str, int] = {}
    rows = []
    for i, (uid, prompt) in enumerate(zip(batch.uid, batch.prompts, strict=True)):
        ids = batch.responses[i, : lengths[i]].tolist()
        seen[uid] = seen.get(uid, -1) + 1
        rows.append(
            {
                "step": step,
                "uid": uid,
                "sample": seen[uid],
                "data_source": prompt.data_source,
                "prompt": prompt.text,
                "response": batch.texts[i],
                "gold": str(prompt.gold),
                "score": scores[i],
                "acc": float(info["acc"][i]) if "acc" in info else scores[i],
                "reason": _reason(info["reason"][i]) if "reason" in info else "",
                "pred": str(info["pred"][i]) if "pred" in info else "",
                "length": lengths[i],
                "finished": batch.finished[i],
                "token_ids": ids,
                "tokens": [tokenizer.convert_ids_to_tokens(token) or "" for token in ids],
            }
        )
    return rows


def _reason(code: Any) -> str:
    """The maths reward's reason by name; another function's as it gave it."""
    try:
        return Reason(int(code)).name.lower()
    except (TypeError, ValueError):
        return str(code)
