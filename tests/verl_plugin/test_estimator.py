"""From verl's batch to the core and back: padding rows, sessions of several outputs, trainers that say nothing."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

pytest.importorskip("verl")

from core_batches import same
from omegaconf import OmegaConf
from tensordict import TensorDict
from verl.protocol import DataProto
from verl.trainer.ppo.core_algos import get_adv_estimator_fn
from verl.trainer.ppo.v1.utils import compute_advantage_for_multi_trajectories

from erpo_verl import erpo_advantages, methods
from erpo_verl.verl_plugin import context
from erpo_verl.verl_plugin.estimator import estimator_of, is_ours

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


def through_verl(data, entropy, keys, estimator="erpo", erpo=None, **fields):
    """The batch through verl's own road, announced as the v1 hook announces it. Returns advantages and metrics."""
    config = OmegaConf.create({"adv_estimator": estimator, "erpo": erpo or {}})
    announced = context.BatchContext(entropy=lambda: entropy, step=1, keys=keys, **fields)
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
    assert same(metrics, logged(expected.metrics)) and "erpo/gate/mean" in metrics


def logged(metrics):
    """What is left of metrics in verl's log: those over an empty set are gaps."""
    return {name: value for name, value in metrics.items() if not math.isnan(value)}


def test_a_metric_over_nothing_is_a_gap_in_verls_log():
    """verl's file logger writes a NaN as it is, which is no JSON."""
    data, entropy = made_batch(ONE_OUTPUT)
    data.batch["token_level_rewards"][:] = 0  # nobody is right
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
    assert same(filled_metrics, metrics)


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


def test_the_outputs_of_a_session_are_one_response_to_buckets():
    """A session cut into outputs, in whatever order they come, is credited as the same session in one row."""
    whole, entropy = made_batch(["a_0_0", "a_1_0", "a_2_0"], seed=5, width=8)
    whole.batch["response_mask"][:] = 1
    settings = {"buckets": {"count": 4, "axis": "cumulative_entropy"}}
    for axis in ("position", "cumulative_entropy"):
        settings["buckets"]["axis"] = axis
        expected, _ = through_verl(whole, entropy, ["a_0_0", "a_1_0", "a_2_0"], erpo=settings)
        # Session 1 in three outputs of columns 0-2, 3, 4-7, which come last, first, middle; its last one decides.
        rows = [1, 0, 1, 2, 1]
        keys = ["a_1_2", "a_0_0", "a_1_0", "a_2_0", "a_1_1"]
        cut = DataProto(
            batch=whole.batch[rows].clone(), non_tensor_batch={"uid": np.array(["a"] * 5, dtype=object)}
        )
        parts = {0: slice(4, 8), 2: slice(0, 3), 4: slice(3, 4)}
        for row, part in parts.items():
            mask = torch.zeros(8, dtype=torch.long)
            mask[part] = 1
            cut.batch["response_mask"][row] = mask
        cut.batch["token_level_rewards"][0] = whole.batch["token_level_rewards"][1]
        ours, _ = through_verl(cut, entropy[rows], keys, erpo=settings)
        torch.testing.assert_close(ours[[1, 3]], expected[[0, 2]])
        torch.testing.assert_close(ours[0] + ours[2] + ours[4], expected[1])


@pytest.mark.parametrize("name", [name for name in methods.BUILT_IN if name != "grpo"])
def test_every_method_is_an_estimator_of_verls(name):
    data, entropy = made_batch(ONE_OUTPUT, seed=2)
    ours, metrics = through_verl(data, entropy, ONE_OUTPUT, estimator=name)
    given = methods.TokenBatch(**dict(data.batch.items()), index=data.non_tensor_batch["uid"], entropy=entropy, step=1)
    expected = methods.get(name).credit(given)
    assert torch.equal(ours, expected.advantages) and same(metrics, logged(expected.metrics))


def test_a_name_that_verl_has_is_verls():
    assert is_ours("erpo") and not is_ours("grpo") and not is_ours("gae") and not is_ours("nobody")
    assert get_adv_estimator_fn("grpo").__module__.startswith("verl.")


def test_a_group_that_could_not_be_judged_has_no_advantage():
    data, entropy = made_batch(ONE_OUTPUT, seed=4)
    marks = [key == "b_1_0" for key in ONE_OUTPUT]
    ours, metrics = through_verl(data, entropy, ONE_OUTPUT, erpo={"preset": "ep_grpo"}, ungradeable=lambda: marks)
    group = torch.tensor([key.startswith("b") for key in ONE_OUTPUT])
    assert not ours[group].any() and ours[~group].any()
    assert metrics["erpo/left_out_responses/mean"] == pytest.approx(1 / 3)


def test_a_method_without_needs_works_with_a_trainer_that_announces_nothing():
    data, _ = made_batch(ONE_OUTPUT, seed=4)
    inputs = {"token_level_rewards": data.batch["token_level_rewards"], "response_mask": data.batch["response_mask"]}
    ours, _ = estimator_of("grpo")(**inputs, index=data.non_tensor_batch["uid"], config=OmegaConf.create({}))
    theirs, _ = through_verl(data, None, ONE_OUTPUT, estimator="grpo")
    assert torch.equal(ours, theirs)
