"""Per-token quantities response by response: what dumps hold."""

from __future__ import annotations

import torch

from erpo_verl import methods
from erpo_verl.methods.credit import by_response


def test_each_response_gets_its_own_numbers_and_a_left_out_group_none():
    torch.manual_seed(0)
    lengths = torch.tensor([3, 1, 4, 2, 2, 3])
    mask = torch.arange(4) < lengths[:, None]
    rewards = torch.zeros(6, 4)
    rewards[torch.arange(6), lengths - 1] = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0, 1.0])
    entropy, old = torch.rand(6, 4), -torch.rand(6, 4)
    batch = methods.TokenBatch(
        rewards, mask, ["a", "b", "c", "a", "b", "c"], entropy=entropy, old_log_probs=old, ref_log_prob=old - 0.1, step=1,
        left_out=torch.tensor([False, True, False, False, False, False]),
    )  # fmt: skip
    credit = methods.get("erpo").credit(batch, keep_tokens=True)
    rows = by_response(credit, batch, ["advantage", "entropy", "old_log_prob", "gate", "bucket", "z"])
    for i, row in enumerate(rows):
        n = int(lengths[i])
        assert row["entropy"] == entropy[i, :n].tolist() and row["old_log_prob"] == old[i, :n].tolist()
        assert row["advantage"] == credit.advantages[i, :n].tolist()
        if i in (1, 4):
            assert row["advantage"] == [0.0] * n and row["gate"] is None and row["outcome_advantage"] == 0
        else:
            assert len(row["gate"]) == n and row["bucket"] == [10 * t // n for t in range(n)]
            # The gate is that of the group's own statistics.
            H = torch.cat([entropy[j, : lengths[j]] for j in ((0, 3) if i in (0, 3) else (2, 5))]).double()
            z = (entropy[i, :n].double() - H.mean()) / (H.std(correction=0) + 1e-6)
            torch.testing.assert_close(torch.tensor(row["gate"]).double(), torch.sigmoid(5 * z), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(torch.tensor(row["z"]).double(), z, rtol=1e-4, atol=1e-5)


def test_what_is_off_or_not_given_is_none():
    rewards = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    batch = methods.TokenBatch(rewards, torch.ones(2, 2, dtype=torch.bool), ["a", "a"])
    credit = methods.get("grpo").credit(batch, keep_tokens=True)
    rows = by_response(credit, batch, ["advantage", "entropy", "z", "ref_log_prob"])
    assert [row["entropy"] for row in rows] == [row["z"] for row in rows] == [row["ref_log_prob"] for row in rows] == [None, None]
    assert rows[0]["outcome_advantage"] > 0 > rows[1]["outcome_advantage"]
