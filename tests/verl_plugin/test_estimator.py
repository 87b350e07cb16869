"""From verl's batch to the core and back: padding rows, sessions of several outputs, trainers that say nothing."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

pytest.importorskip("verl")

from omegaconf import OmegaConf
from tensordict import TensorDict
from verl.protocol import DataProto
from verl.trainer.ppo.core_algos import get_adv_estimator_fn
from verl.trainer.ppo.v1.utils import compute_advantage_for_multi_trajectories

from erpo_verl import erpo_advantages
from erpo_verl.verl_plugin import context

NEUTRAL = {"gate": {"enable": False}, "progress": {"eta": 0.0}}


def made_batch(keys: list[str], seed: int = 0, width: int = 7):
    """A DataProto as verl's v1 trainer makes it, with entropies beside it. Each session has one reward."""
    generator = torch.Generator().manual_seed(seed)
    rows = len(keys)
    sessions = [key.rsplit("_", 1)[0] for key in keys]
    reward_of = {s: float(torch.randint(0, 4, (), generator=generator)) / 3 for s in sorted(set(sessions))}
    lengths = torch.randint(1, width + 1, (rows,), generator=generator)
    mask = (torch.arange(width)[None] < lengths[:, None]).long()
    rewards = torch.zeros(rows, width)
    rewards[torch.arange(rows), lengths - 1] = torch.tensor([reward_of[s] for s in sessions])
    old = -torch.rand(rows, width, generator=generator)
    ref = old + 0.3 * torch.randn(rows, width, generator=generator)
    data = DataProto(
        batch=TensorDict(
            {"token_level_rewards": rewards, "response_mask": mask, "old_log_probs": old, "ref_log_prob": ref},
            batch_size=rows,
        ),
        non_tensor_batch={"uid": np.array([key.split("_")[0] for key in keys], dtype=object)},
    )
    return data, 2 * torch.rand(rows, width, generator=generator)


def through_verl(data, entropy, keys, estimator="erpo", erpo=None, is_padding=None):
    """The batch through verl's own road, announced as the v1 hook announces it. Returns advantages and metrics."""
    config = OmegaConf.create({"adv_estimator": estimator, "erpo": erpo or {}})
    announced = context.BatchContext(entropy=lambda: entropy, step=1, keys=keys, is_padding=is_padding)
    with context.working_on(announced):
        data = compute_advantage_for_multi_trajectories(
            DataProto(batch=data.batch.clone(), non_tensor_batch=data.non_tensor_batch),
            batch_keys=keys,
            adv_estimator=estimator,
            config=config,
        )
    return data.batch["advantages"], announced.metrics


ONE_OUTPUT = [f"{uid}_{session}_0" for uid in "abc" for session in range(4)]
SEVERAL = ["a_0_0", "a_1_0", "a_0_1", "b_0_0", "a_2_0", "b_1_1", "b_1_0", "a_0_2", "b_2_0", "a_2_1"]


def test_the_core_gets_what_verl_has():
    data, entropy = made_batch(ONE_OUTPUT)
    ours, metrics = through_verl(data, entropy, ONE_OUTPUT, erpo={"gate": {"gamma": 3}})
    expected = erpo_advantages(
        **{k: v for k, v in data.batch.items()},
        index=data.non_tensor_batch["uid"],
        entropy=entropy,
        config={"gate": {"gamma": 3}},
    )
    assert torch.equal(ours, expected.advantages)
    assert metrics == {name: value for name, value in expected.metrics.items() if value == value} and "erpo/gate/mean" in metrics


def test_a_metric_over_nothing_is_a_gap_in_verls_log(monkeypatch):
    """verl's file logger writes a NaN as it is, which is no JSON."""
    from erpo_verl.verl_plugin import estimator

    original = estimator.erpo_advantages

    def with_an_empty_set(**arguments):
        result = original(**arguments)
        result.metrics["erpo/length_right/mean"] = math.nan
        return result

    monkeypatch.setattr(estimator, "erpo_advantages", with_an_empty_set)
    data, entropy = made_batch(ONE_OUTPUT)
    _, metrics = through_verl(data, entropy, ONE_OUTPUT)
    assert "erpo/length_right/mean" not in metrics and "erpo/length_wrong/mean" in metrics
    json.loads(json.dumps(metrics, allow_nan=False))


@pytest.mark.parametrize("keys", [ONE_OUTPUT, SEVERAL])
def test_neutral_settings_are_verls_grpo(keys):
    data, entropy = made_batch(keys, seed=3)
    ours, _ = through_verl(data, entropy, keys, erpo=NEUTRAL)
    theirs, _ = through_verl(data, entropy, keys, estimator="grpo")
    torch.testing.assert_close(ours, theirs, rtol=0 if keys is ONE_OUTPUT else 1e-6, atol=0)
    assert ours.abs().sum() > 1


def test_every_output_of_a_session_carries_its_outcome():
    """With the gate alone, the rows of a session have the sign of the session's advantage at every token."""
    data, entropy = made_batch(SEVERAL, seed=3)
    ours, _ = through_verl(data, entropy, SEVERAL, erpo={"progress": {"eta": 0.0}})
    outcome, _ = through_verl(data, entropy, SEVERAL, estimator="grpo")
    assert torch.equal(ours.sign(), outcome.sign())
    assert (ours.abs() <= outcome.abs()).all()


def test_rows_that_verl_made_up_change_nothing():
    """verl fills a batch with rows of no token; they must reach neither the statistics nor the metrics."""
    data, entropy = made_batch(ONE_OUTPUT)
    ours, metrics = through_verl(data, entropy, ONE_OUTPUT)
    padding = DataProto(batch=torch.zeros_like(data.batch[:2]), non_tensor_batch={"uid": np.array(["pad"] * 2, dtype=object)})
    filled = DataProto.concat([padding, data])
    keys = ["pad_0_0", "pad_1_0", *ONE_OUTPUT]
    theirs, filled_metrics = through_verl(
        filled, torch.cat([torch.zeros(2, 7), entropy]), keys, is_padding=[True, True] + [False] * len(data)
    )
    assert torch.equal(theirs[2:], ours) and not theirs[:2].any()
    assert filled_metrics == metrics


def test_a_trainer_that_announces_nothing_is_refused():
    data, _ = made_batch(ONE_OUTPUT)
    with pytest.raises(RuntimeError, match="not supported"):
        get_adv_estimator_fn("erpo")(
            token_level_rewards=data.batch["token_level_rewards"],
            response_mask=data.batch["response_mask"],
            index=data.non_tensor_batch["uid"],
            config=OmegaConf.create({}),
        )


def test_bad_numbers_are_named():
    data, entropy = made_batch(ONE_OUTPUT)
    entropy[5, 0] = float("nan")
    with pytest.raises(ValueError, match=r"entropy.*row 5"):
        through_verl(data, entropy, ONE_OUTPUT)
