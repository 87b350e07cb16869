"""A verl run's dump of rollouts: tokens, texts and numbers belong together, whatever rows verl made up or reordered."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("verl")

from omegaconf import OmegaConf

from erpo_verl import methods
from erpo_verl.methods.declarations import COMMON
from erpo_verl.runs.rollouts import read_head, read_quantities, read_rows
from erpo_verl.verl_plugin import context
from erpo_verl.verl_plugin.dump import write_step
from erpo_verl.verl_plugin.estimator import estimator_of


class Letters:
    """A tokenizer whose tokens are letters."""

    def decode(self, ids, skip_special_tokens):
        return "".join(chr(97 + i) for i in ids)

    def convert_ids_to_tokens(self, i):
        return chr(97 + i)


def test_the_dump_holds_what_the_estimator_worked_with(tmp_path):
    torch.manual_seed(0)
    keys = ["p_0_0", "q_0_0", "pad_0_0", "p_1_0", "q_1_0"]
    lengths = torch.tensor([3, 2, 0, 4, 1])
    mask = (torch.arange(4) < lengths[:, None]).long()
    rewards = torch.zeros(5, 4)
    rewards[0, 2] = rewards[4, 0] = 1.0
    entropy, old = torch.rand(5, 4), -torch.rand(5, 4)
    announced = context.BatchContext(
        entropy=lambda: entropy, step=7, keys=keys, is_padding=[False, False, True, False, False], old_log_probs=old, ref_log_prob=old - 0.2, keep_tokens=True
    )
    with context.working_on(announced):
        advantages, _ = estimator_of("erpo")(rewards, mask, index=["p", "q", "pad", "p", "q"], config=OmegaConf.create({}))
    given, rows, credit = announced.seen
    assert rows.tolist() == [0, 1, 3, 4]
    responses = torch.arange(20).reshape(5, 4)
    path = write_step(
        tmp_path, 7, keys=[keys[row] for row in rows], batch=given, credit=credit, quantities=(*COMMON, *methods.get("erpo").tokens),
        prompts=[torch.tensor([0, 1])] * 4, responses=[responses[row, : lengths[row]] for row in rows], golds=["42", None, "42", None],
        extras=[{"acc": 1.0, "pred": "42", "reason": 3}, {}, {"acc": 0.0}, {}], tokenizer=Letters(),
    )  # fmt: skip
    assert path.name == "step_000007.parquet" and "gate" in [quantity.name for quantity in read_quantities(path)]
    found = read_rows(path, range(len(read_head(path))))
    for row, number in zip(found, rows.tolist(), strict=True):
        n = int(lengths[number])
        assert row["token_ids"] == responses[number, :n].tolist()
        assert row["advantage"] == pytest.approx(advantages[number, :n].tolist())
        assert row["entropy"] == pytest.approx(entropy[number, :n].tolist()) and row["ref_log_prob"] == pytest.approx((old - 0.2)[number, :n].tolist())
        assert (row["uid"], row["sample"]) == (keys[number].split("_")[0], int(keys[number].split("_")[1]))
    assert found[0]["response"] == "abc" and found[0]["tokens"] == ["a", "b", "c"] and found[0]["prompt"] == "ab"
    assert [row["acc"] for row in found] == [1.0, 0.0, 0.0, 1.0] and found[0]["gold"] == "42" and found[1]["gold"] == ""
