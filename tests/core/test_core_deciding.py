"""Sessions of several rows: one outcome each, counted once."""

import pytest
import torch
from core_batches import same

from erpo_verl import erpo_advantages

NEUTRAL = {"gate.enable": False, "progress.eta": 0.0}


def advantages(rewards, index, deciding, config=NEUTRAL):
    rewards = torch.tensor(rewards)[:, None].expand(-1, 2) / 2
    return erpo_advantages(
        token_level_rewards=rewards,
        response_mask=torch.ones_like(rewards),
        index=index,
        entropy=None,
        old_log_probs=None,
        ref_log_prob=None,
        config=config,
        deciding=None if deciding is None else torch.tensor(deciding),
    )


def test_a_session_counts_once_and_its_last_row_decides():
    # One group, three sessions: rows 0 and 3 are one (row 3 decides), rows 1 and 2 stand alone. What row 0 carries is not used.
    shared = advantages([9.0, 1.0, 0.0, 2.0], "gggg", [3, 1, 2, 3]).advantages[:, 0]
    alone = advantages([1.0, 0.0, 2.0], "ggg", None).advantages[:, 0]
    assert torch.equal(shared[1:], alone)
    assert shared[0] == shared[3]


def test_each_row_its_own_is_the_same_as_none():
    rewards, index = [0.0, 1.0, 1.0, 0.5], [0, 0, 1, 1]
    own, none = advantages(rewards, index, [0, 1, 2, 3]), advantages(rewards, index, None)
    assert torch.equal(own.advantages, none.advantages) and same(own.metrics, none.metrics)


@pytest.mark.parametrize(
    ("deciding", "expected"),
    [
        ([0, 1], "each of the 3 rows"),
        ([0, 1, 3], "each of the 3 rows"),
        ([0, 1, -1], "each of the 3 rows"),
        ([1, 2, 2], "decide for itself"),
        ([2, 1, 2], "its own group"),
    ],
)
def test_wrong_deciding_is_named(deciding, expected):
    with pytest.raises(ValueError, match=expected):
        advantages([0.0, 1.0, 0.0], ["a", "a", "b"], deciding)
