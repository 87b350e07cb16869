"""Rollouts of a verl run token by token, for ``erpo inspect``: beside verl's own JSONL, wherever ``trainer.rollout_data_dir`` is set.

verl's file holds prompts, responses and scores. What the method made of each token, and the entropies that it worked with, are known
only while the advantages are computed: the estimator leaves them in the batch's context, and here they are joined with the texts
before verl clears its queue.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from erpo_verl.methods.contract import Credit, Quantity, TokenBatch
from erpo_verl.methods.credit import by_response
from erpo_verl.runs.rollouts import write_rollouts


def write_step(
    folder: str | Path,
    step: int,
    *,
    keys: Sequence[str],
    batch: TokenBatch,
    credit: Credit,
    quantities: Sequence[Quantity],
    prompts: Iterable[torch.Tensor],
    responses: Iterable[torch.Tensor],
    golds: Sequence[Any],
    extras: Sequence[dict[str, Any]],
    tokenizer: Any,
) -> Path:
    """Write ``folder/step_<step>.parquet``; returns its path.

    Args:
        keys: of the R rows, ``{uid}_{session}_{output}``.
        batch: what the method saw of them.
        credit: what it made of them, computed with ``keep_tokens``.
        quantities: what is written of each token.
        prompts, responses: [R] of token ids [P_i] and [T] (right-padded); of a response its valid tokens are written, which are those
            that the policy sampled.
        golds: [R] right answers, or None.
        extras: [R] what the reward returned beside the score; ``acc``, ``pred`` and ``reason`` are written.
        tokenizer: the model's.
    """
    numbers = by_response(credit, batch, [quantity.name for quantity in quantities])
    masks = batch.response_mask.bool().cpu()
    scores = batch.token_level_rewards.sum(dim=1).tolist()
    rows = []
    for i, (key, prompt, response) in enumerate(zip(keys, prompts, responses, strict=True)):
        ids = response[: masks.shape[1]][masks[i][: len(response)]].tolist()
        uid, session, output = key.rsplit("_", 2)
        extra = extras[i]
        rows.append(
            {
                "step": step,
                "uid": uid,
                "sample": int(session) if output == "0" else i,
                "data_source": "",
                "prompt": tokenizer.decode(prompt.tolist(), skip_special_tokens=False),
                "response": tokenizer.decode(ids, skip_special_tokens=True),
                "gold": "" if golds[i] is None else str(golds[i]),
                "score": scores[i],
                "acc": float(extra["acc"]) if extra.get("acc") is not None else scores[i],
                "reason": str(extra.get("reason", "")),
                "pred": str(extra.get("pred", "")),
                "length": len(ids),
                "finished": None,
                "token_ids": ids,
                "tokens": [tokenizer.convert_ids_to_tokens(token) or "" for token in ids],
                **numbers[i],
            }
        )
    return write_rollouts(Path(folder) / f"step_{step:06d}.parquet", rows, quantities)
