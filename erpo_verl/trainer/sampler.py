"""From prompts to a scored batch: sampling, decoding, judging, dynamic sampling; and sharing all this among processes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from omegaconf import DictConfig
from transformers import PreTrainedTokenizerBase

from erpo_verl.models.tokenizer import Decoder
from erpo_verl.rollout import RolloutEngine, SamplingParams
from erpo_verl.trainer.batch import Batch, assemble, concatenate
from erpo_verl.trainer.data import Prompt, PromptOrder
from erpo_verl.trainer.reward import Judge

SCORES = ("reward", "score", "seq_reward", "seq_final_reward")  # names that verl's recipes give the score; it has one here


class SamplingError(RuntimeError):
    """Dynamic sampling did not find enough groups."""


class SamplingStopped(Exception):
    """A stop was asked for while a step did not have all its groups."""


class Sampler:
    """Samples and judges responses. One in each process; each works on its share of the prompts."""

    def __init__(
        self, engine: RolloutEngine, judge: Judge, tokenizer: PreTrainedTokenizerBase, settings: DictConfig, rank: int = 0, processes: int = 1,
        *, with_entropy: bool = False,
    ):  # fmt: skip
        self.engine, self.judge, self.tokenizer, self.settings = engine, judge, tokenizer, settings
        self.rank, self.processes = rank, processes
        self.decode, self._told = Decoder(tokenizer), False
        self.say: Callable[[str], None] | None = None  # takes what there is to say of the first batch
        rollout = settings.actor_rollout_ref.rollout
        self.train_params = SamplingParams(
            n=rollout.n, max_tokens=settings.data.max_response_length, temperature=rollout.temperature,
            top_k=rollout.top_k, top_p=rollout.top_p, do_sample=rollout.do_sample, with_entropy=with_entropy,
        )  # fmt: skip
        val = rollout.val_kwargs
        self.val_params = SamplingParams(
            n=val.n, max_tokens=settings.data.max_response_length, temperature=val.temperature or 1.0,
            top_k=val.top_k, top_p=val.top_p, do_sample=val.do_sample,
        )  # fmt: skip

    def seed(self, *what: Any) -> int:
        """A seed that depends on the settings' seeds, on what is sampled, and on the process."""
        parts = (self.settings.actor_rollout_ref.rollout.seed, self.settings.data.seed, self.rank, *what)
        return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:7], "big")

    def sample(self, prompts: Sequence[Prompt], uids: Sequence[str], params: SamplingParams) -> Batch:
        """Responses to the prompts, judged: n rows a prompt."""
        responses = self.engine.generate([prompt.tokens for prompt in prompts], params)
        tokens = [response.tokens for some in responses for response in some]
        texts = self.decode(tokens)
        if not self._told and (doubt := self.decode.doubt(tokens, texts)) and self.rank == 0:
            print(f"first batch: {doubt}")
        self._told = True
        batch = assemble(prompts, responses, uids, texts, self.tokenizer.pad_token_id)
        scores, info = self.judge(batch.prompts, texts, batch.lengths.tolist(), batch.finished)
        if self.say is not None:  # of the first batch alone
            say, self.say = self.say, None
            for line in self.judge.hints(texts, [prompt.gold for prompt in batch.prompts], scores, info, batch.finished):
                say(line)
        return replace(batch, scores=scores, reward_info=info)

    def training_batch(
        self, prompts: Sequence[Prompt], order: PromptOrder, step: int, between: Callable[[str], bool] = lambda told: False
    ) -> tuple[Batch, dict[str, float]]:
        """This process's rows of a training step, whole groups; moves ``order`` on by as many prompts as were used.

        With ``algorithm.filter_groups`` batches of prompts are sampled until there are enough groups whose metric differs.

        Args:
            between: called between two batches of a step with a line on how far it is; true (in every process alike) stops it.

        Raises:
            SamplingError: ``max_num_gen_batches`` batches did not hold enough of them, or ``max_empty_batches`` in a row none.
            SamplingStopped: ``between`` said so; ``order`` is where it was before the step.
        """
        size = self.settings.data.train_batch_size
        wanted = size // self.processes
        filters = self.settings.algorithm.filter_groups
        parts: list[Batch] = []
        found = kept = batches = empty = 0
        began = order.position
        while True:
            mine = self._share(order.take(size))
            params = replace(self.train_params, seed=self.seed("train", step, batches))
            uids = [f"{step}-{batches}-{self.rank}-{i}" for i in range(len(mine))]
            part = sampled = self.sample([prompts[i] for i in mine], uids, params)
            batches += 1
            if filters.enable:
                part = part.rows(self._differing(part, filters.metric))
            if len(part):
                parts.append(part)
            before = kept
            counts = self._of_all(sum(len(p) for p in parts) // self.train_params.n)
            found, kept = min(counts), sum(counts)
            if found >= wanted:
                break
            empty = empty + 1 if kept == before else 0
            if 0 < filters.max_empty_batches <= empty:
                raise SamplingError(self._nothing_differs(step, empty, sampled))
            if 0 < filters.max_num_gen_batches <= batches:
                raise SamplingError(
                    f"step {step}: {batches} batches of {size} prompts held too few groups whose {filters.metric} differs "
                    f"({found * self.processes} of {size}): raise algorithm.filter_groups.max_num_gen_batches, or take data of "
                    "another difficulty"
                )
            if between(f"{batches} {'batch' if batches == 1 else 'batches'} sampled, {found * self.processes} of {size} groups found"):
                order.position = began
                raise SamplingStopped
        batch = concatenate(parts, self.tokenizer.pad_token_id)
        metrics = {}
        if filters.enable:
            metrics = {"training/num_gen_batches": float(batches), "training/filter_groups/kept_share/mean": kept / (batches * size)}
        return batch.rows(range(wanted * self.train_params.n)), metrics

    def _share(self, numbers: Sequence[int]) -> list[int]:
        """This process's prompts: an equal share of every mini-batch, so that mini-batches do not depend on processes."""
        size = self.settings.actor_rollout_ref.actor.ppo_mini_batch_size
        own = size // self.processes
        return [i for start in range(0, len(numbers), size) for i in numbers[start + self.rank * own : start + (self.rank + 1) * own]]

    def _differing(self, batch: Batch, metric: str) -> list[int]:
        """Rows of the groups whose metric is not the same in all responses, and in which the judge could grade every one."""
        values, missed = _values(batch, metric), batch.reward_info.get("ungradeable", [0.0] * len(batch))
        n = self.train_params.n
        starts = [start for start in range(0, len(batch), n) if len(set(values[start : start + n])) > 1 and not any(map(float, missed[start : start + n]))]
        return [row for start in starts for row in range(start, start + n)]

    def _nothing_differs(self, step: int, batches: int, last: Batch) -> str:
        filters, size = self.settings.algorithm.filter_groups, self.settings.data.train_batch_size
        values = _values(last, filters.metric)
        same = f"the {filters.metric} is {values[0]} for every response of the last" if len(set(values)) == 1 else "each group is of one mind"
        return (
            f"step {step}: {batches} batches of {size} prompts in a row ({batches * size * self.train_params.n} responses) held no group "
            f"whose {filters.metric} differs: {same}. Look at some responses (trainer.val_only=true trainer.validation_data_dir=...), at "
            "the reward, and at the data's difficulty; algorithm.filter_groups.max_empty_batches is how many batches are tried"
        )

    def _of_all(self, count: int) -> list[int]:
        """The count of every process."""
        if self.processes == 1:
            return [count]
        counts: list[Any] = [None] * self.processes
        torch.distributed.all_gather_object(counts, count)
        return counts


def _values(batch: Batch, metric: str) -> list[Any]:
    """Of each response what ``algorithm.filter_groups.metric`` names."""
    return batch.scores.tolist() if metric in SCORES else batch.reward_info[metric]
