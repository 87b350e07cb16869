"""A batch on its way through a training step: one typed object, whose fields are filled in the order of the method.

B rows are responses; the n rows of one prompt (its group) follow each other. Responses are padded on the right to T tokens,
prompts on the left to L, so that prompt and response join without a gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from erpo_verl.rollout import Response
from erpo_verl.trainer.data import Prompt


@dataclass(frozen=True)
class Batch:
    """See the module. Tensors are on the CPU; ``rows`` and ``to`` select and move."""

    # rollout
    uid: list[str]  # B, the group of each row
    prompts: list[Prompt]  # B
    input_ids: Tensor  # [B, L + T] int64
    attention_mask: Tensor  # [B, L + T] int64
    response_mask: Tensor  # [B, T] bool, valid tokens
    finished: list[bool]  # B, False: cut off at data.max_response_length
    rollout_log_probs: Tensor  # [B, T] float32, nats, as the rollout engine computed them
    rollout_entropy: Tensor | None  # [B, T] float32, nats, likewise, where it was asked for them
    texts: list[str]  # B, responses without special tokens
    # reward
    scores: Tensor | None = None  # [B] float32
    reward_info: dict[str, list[Any]] = field(default_factory=dict)  # what the reward function returns beside the score
    # log-probs, nats, at sampling temperature; 0 at masked tokens
    old_log_probs: Tensor | None = None  # [B, T] float32, under the policy before the update
    entropy: Tensor | None = None  # [B, T] float32
    ref_log_prob: Tensor | None = None  # [B, T] float32
    without_reference: Tensor | None = None  # [B] bool, rows for which no ref_log_prob was computed (what stands there does not matter); None: none
    rollout_is_weights: Tensor | None = None  # [B, T] float32, importance weights pi_old / pi_rollout, where they are asked for
    # advantages
    token_level_rewards: Tensor | None = None  # [B, T] float32
    advantages: Tensor | None = None  # [B, T] float32

    def __len__(self) -> int:
        return len(self.uid)

    @property
    def response_length(self) -> int:
        """T."""
        return self.response_mask.shape[1]

    @property
    def responses(self) -> Tensor:
        """[B, T] int64."""
        return self.input_ids[:, -self.response_length :]

    @property
    def lengths(self) -> Tensor:
        """[B] int64, valid tokens of each response."""
        return self.response_mask.sum(dim=1)

    def differs(self) -> list[bool]:
        """For each row whether the scores of its group, if it has two or more, are not all equal."""
        scores: dict[str, list[float]] = {}
        for uid, score in zip(self.uid, self.scores.tolist(), strict=True):
            scores.setdefault(uid, []).append(score)
        return [len(scores[uid]) == 1 or len(set(scores[uid])) > 1 for uid in self.uid]

    def rows(self, order: Sequence[int]) -> Batch:
        """The rows of the given numbers, in that order."""
        index = torch.as_tensor(list(order), dtype=torch.long)
        changes: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                changes[name] = value[index]
            elif isinstance(value, list):
                changes[name] = [value[i] for i in order]
        changes["reward_info"] = {key: [column[i] for i in order] for key, column in self.reward_info.items()}
        return replace(self, **changes)

    def trim(self) -> Batch:
        """Without columns that hold padding in every row: shorter prompts and responses compute less."""
        T = self.response_length
        width = max(1, int(self.lengths.max()))
        L = self.input_ids.shape[1] - T
        skip = int((self.attention_mask[:, :L].sum(dim=0) == 0).sum())
        changes = {name: getattr(self, name)[:, skip : L + width] for name in ("input_ids", "attention_mask")}
        changes["response_mask"] = self.response_mask[:, :width]
        for name in _TOKEN_FIELDS:
            if getattr(self, name) is not None:
                changes[name] = getattr(self, name)[:, :width]
        return replace(self, **changes)


_TOKEN_FIELDS = ("rollout_log_probs", "rollout_entropy", "old_log_probs", "entropy", "ref_log_prob", "rollout_is_weights", "token_level_rewards", "advantages")


def assemble(
    prompts: Sequence[Prompt], responses: Sequence[Sequence[Response]], uids: Sequence[str], texts: Sequence[str], pad_token_id: int
) -> Batch:
    """Pad prompts and responses into a batch.

    Args:
        prompts: P prompts.
        responses: n responses for each of them.
        uids: P group ids.
        texts: P * n decoded responses.
        pad_token_id: what stands at masked places.
    """
    rows = [(prompt, response, uid) for prompt, some, uid in zip(prompts, responses, uids, strict=True) for response in some]
    L = max(len(prompt.tokens) for prompt, _, _ in rows)
    T = max(len(response.tokens) for _, response, _ in rows)
    input_ids = torch.full((len(rows), L + T), pad_token_id, dtype=torch.long)
    attention_mask = torch.zeros(len(rows), L + T, dtype=torch.long)
    log_probs = torch.zeros(len(rows), T)
    entropy = torch.zeros(len(rows), T) if rows[0][1].entropies is not None else None
    for i, (prompt, response, _) in enumerate(rows):
        start, end = L - len(prompt.tokens), L + len(response.tokens)
        input_ids[i, start:end] = torch.tensor(prompt.tokens + response.tokens)
        attention_mask[i, start:end] = 1
        log_probs[i, : len(response.tokens)] = torch.tensor(response.log_probs)
        if entropy is not None:
            entropy[i, : len(response.tokens)] = torch.tensor(response.entropies)
    return Batch(
        uid=[uid for _, _, uid in rows],
        prompts=[prompt for prompt, _, _ in rows],
        input_ids=input_ids,
        attention_mask=attention_mask,
        response_mask=attention_mask[:, L:].bool(),
        finished=[response.finished for _, response, _ in rows],
        rollout_log_probs=log_probs,
        rollout_entropy=entropy,
        texts=list(texts),
    )


def concatenate(parts: Sequence[Batch], pad_token_id: int) -> Batch:
    """All rows of all parts, in order; prompts are padded on the left and responses on the right to the longest."""
    if len(parts) == 1:
        return parts[0]
    T = max(part.response_length for part in parts)
    L = max(part.input_ids.shape[1] - part.response_length for part in parts)

    def widened(part: Batch, name: str, value: Tensor) -> Tensor:
        if value.ndim == 1:
            return value
        behind = T - part.response_length
        before = 0 if name in (*_TOKEN_FIELDS, "response_mask") else L - (part.input_ids.shape[1] - part.response_length)
        return torch.nn.functional.pad(value, (before, behind), value=pad_token_id if name == "input_ids" else 0)

    merged: dict[str, Any] = {}
    for name, first in vars(parts[0]).items():
        values = [getattr(part, name) for part in parts]
        if isinstance(first, Tensor):
            merged[name] = torch.cat([widened(part, name, value) for part, value in zip(parts, values, strict=True)])
        elif isinstance(first, list):
            merged[name] = [item for value in values for item in value]
    merged["reward_info"] = {
        key: [item for part in parts for item in part.reward_info[key]] for key in parts[0].reward_info
    }
    return replace(parts[0], **merged)
