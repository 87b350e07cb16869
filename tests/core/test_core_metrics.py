"""The metrics of erpo_advantages: names, values, stability."""

import math

import pytest
import torch
from core_batches import any_settings, batches, examples, random_batch
from hypothesis import given
from test_core_advantage import one_group

ALL = {"progress.clip": 1.0}


@examples(50)
@given(batches(dtype=torch.float32), any_settings())
def test_the_same_names_come_back_whatever_the_batch(batch, options):
    metrics = batch.advantages(options).metrics
    assert set(metrics) == set(random_batch(0, 4, 5, 2).advantages(options).metrics)
    assert all(type(value) is float and not math.isinf(value) for value in metrics.values())
    for name, value in metrics.items():
        if math.isnan(value):
            continue  # an empty set, see test_an_empty_set_has_no_mean
        if "share" in name or name.split("/")[1].startswith(("groups_", "responses_", "zero_variance", "gate")):
            assert 0 <= value <= (1 if options["gate.normalize"] == "none" or "gate" not in name else math.inf)


def test_names_end_in_their_reduction_and_hold_no_other():
    # verl looks for these words anywhere in a name, in this order, and takes the first as the reduction.
    words = ("max", "min", "sum", "total", "avg", "average", "timing", "mean")
    for name in random_batch(0, 4, 5, 2).advantages(ALL).metrics:
        head, _, reduction = name.rpartition("/")
        assert head.startswith("erpo/") and reduction in ("mean", "max", "min")
        assert not [word for word in words if word in head], name
        assert not name.endswith(("/lr", "_lr"))


def test_values_of_a_batch_by_definition():
    batch = random_batch(11, 30, 40, 6)
    result = batch.advantages({"progress.clip": 1.0, "progress.eta": 1.5}, keep_tokens=True)
    m, t = {k.removeprefix("erpo/"): v for k, v in result.metrics.items()}, result.tokens
    size, pivot = t.advantages.abs(), t.z > 0
    expected = {
        "advantage/mean": t.advantages.mean(),
        "advantage_abs/mean": size.mean(),
        "advantage_abs/max": size.max(),
        "gate/mean": t.gate.mean(),
        "gate/min": t.gate.min(),
        "gate/max": t.gate.max(),
        "gate_std/mean": t.gate.std(correction=0),
        "cdp_share/mean": pivot.double().mean(),
        "cdp_entropy/mean": t.entropy[pivot].mean(),
        "non_cdp_entropy/mean": t.entropy[~pivot].mean(),
        "cdp_advantage_share/mean": size[pivot].sum() / size.sum(),
        "top_cdp_z/mean": t.z.sort().values[int(0.8 * (len(t.z) - 1))],
        "eta/mean": torch.tensor(1.5),
        "progress/mean": t.progress.mean(),
        "progress_std/mean": t.progress.std(correction=0),
        "progress_normalised_std/mean": t.progress_normalised.std(correction=0),
        "progress_normalised_abs/max": t.progress_normalised.abs().max(),
        "progress_clip_share/mean": (t.progress_normalised.abs() == 1).double().mean(),
        "sign_flip_share/mean": (t.advantages * t.outcome < 0).double().mean(),
    }
    top = t.z > expected["top_cdp_z/mean"]
    expected["top_cdp_entropy/mean"] = t.entropy[top].mean()
    expected["top_cdp_advantage_share/mean"] = size[top].sum() / size.sum()
    for name, value in expected.items():
        assert m[name] == pytest.approx(value.item()), name
    assert 0 < m["sign_flip_share/mean"] < 1 and 0 < m["progress_clip_share/mean"] < 1
    assert top.double().mean() == pytest.approx(0.2, abs=0.02)


def test_right_wrong_mixed_and_lengths_by_hand():
    index = list("aabbccd")
    batch = one_group([1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0], log_ratio=[[0.1, 0.2, 0.3]] * 7, index=index)
    batch.response_mask[0, 1:] = 0
    batch.response_mask[5, 2] = 0
    m = batch.advantages({}).metrics
    assert m["erpo/groups_right/mean"] == 2 / 4
    assert m["erpo/groups_wrong/mean"] == m["erpo/groups_mixed/mean"] == 1 / 4
    assert m["erpo/responses_right/mean"] == 4 / 7
    assert m["erpo/length_right/mean"] == (1 + 3 + 3 + 3) / 4
    assert m["erpo/length_wrong/mean"] == (3 + 3 + 2) / 3
    assert m["erpo/zero_variance_responses/mean"] == 4 / 7
    assert m["erpo/zero_variance_alive/mean"] == 0 and m["erpo/left_out_responses/mean"] == 0
    assert batch.advantages({"zero_variance.rule": "threshold"}).metrics["erpo/zero_variance_alive/mean"] == 1


def test_buckets_under_the_floor_by_hand():
    # Bucket 0: s = 0, 0. Bucket 1: s = .1, .3, so that its standard deviation is .1.
    batch = one_group([1.0, 0.0], log_ratio=[[1.0, 1.0], [1.0, 3.0]])
    for floor, share in ((0.05, 0.5), (0.2, 1.0), (0.0, 0.0)):
        m = batch.advantages({"buckets.count": 2, "progress.min_std": floor}).metrics
        assert m["erpo/bucket_floor_share/mean"] == share


def test_the_largest_size_of_normalised_progress_may_be_negative():
    batch = one_group([1.0, 0.0], log_ratio=[[0.0, 0.0], [0.0, -8.0]])
    m = batch.advantages({"buckets.count": 1}).metrics
    assert m["erpo/progress_normalised_abs/max"] == pytest.approx(3**0.5, rel=1e-4)  # -.6 from the mean, std .2 sqrt(3)


def test_an_empty_set_has_no_mean():
    batch = random_batch(0, 4, 5, 2)
    batch.response_mask[:] = False
    batch.token_level_rewards[:] = 0
    m = batch.advantages(ALL).metrics
    for name in ("length_right", "gate", "gate_std", "cdp_entropy", "advantage_abs", "progress", "progress_std", "top_cdp_z", "sign_flip_share"):
        assert math.isnan(m[f"erpo/{name}/mean"]), name
    assert math.isnan(m["erpo/gate/min"]) and math.isnan(m["erpo/progress_normalised_abs/max"])
    # What is over responses is there; no response is right, and all are of no token.
    assert m["erpo/responses_right/mean"] == 0 and m["erpo/length_wrong/mean"] == 0
