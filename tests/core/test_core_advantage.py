"""ERPO's token advantages: against the plain reference, the invariants, hand-computed cases, and the errors."""

import math

import pytest
import torch
from core_batches import Batch, any_settings, batches, close, examples, random_batch
from hypothesis import given
from hypothesis import strategies as st

from erpo_verl import ErpoConfig, TokenBatch, erpo_advantages
from erpo_verl.methods.erpo import METHOD

MANY = examples(150)
SOME = examples(50)
GRIDS = (None, 0.25)  # with 0.25, tokens fall exactly on bucket edges of the cumulative-entropy axis


# --- Against the reference --------------------------------------------------------------------------------------------


@MANY
@given(batches(grids=GRIDS), any_settings(), st.booleans())
def test_equals_the_reference(batch, options, std):
    result = batch.advantages(options, norm_adv_by_std_in_grpo=std).advantages
    assert result.dtype == torch.float64
    assert close(result, batch.reference(options, std=std))


@SOME
@given(batches(dtype=torch.float32, rewards=("binary", "ones", "few")), any_settings(progress__min_std=1e-3))
def test_float32_is_within_1e5_of_the_reference(batch, options):
    result = batch.advantages(options).advantages
    assert result.dtype == torch.float32
    assert close(result, batch.reference(options), 1e-5)


@pytest.mark.parametrize("preset", ["erpo", "ep_grpo"])
def test_a_realistic_batch_in_float32(preset):
    rows, width = 256, 2048
    batch = random_batch(0, rows, width, 32, dtype=torch.float32, grid=2.0**-12)
    short = torch.arange(width) < 1365 * torch.rand(rows, 1, generator=torch.Generator().manual_seed(1))
    batch = Batch(**{**vars(batch), "response_mask": batch.response_mask & short})
    options = {"buckets.axis": "cumulative_entropy", "zero_variance.rule": "threshold"} if preset == "ep_grpo" else {}
    expected = batch.reference(options)
    worst = (batch.advantages(options).advantages.double() - expected).abs().max() / expected.abs().max()
    assert worst < 1e-5


@SOME
@given(batches(), st.integers(0, 30), st.sampled_from([0, 5, 20]), st.sampled_from([None, 1, 10]))
def test_eta_follows_warm_up_and_decay(batch, step, warmup, decay):
    options = {"progress.warmup_steps": warmup, "progress.decay_steps": decay}
    result = batch.advantages(options, step=step)
    assert close(result.advantages, batch.reference(options, step=step))
    ramp = min(1.0, step / warmup) if warmup else 1.0
    fall = max(0.0, 1 - step / decay) if decay else 1.0
    assert result.metrics["erpo/eta/mean"] == pytest.approx(0.2 * ramp * fall)


def test_a_batch_larger_than_one_block_is_the_same_as_its_groups_alone(monkeypatch):
    batch = random_batch(3, 40, 33, 6)
    whole = batch.advantages({"gate.normalize": "mean_one", "buckets.axis": "cumulative_entropy"})
    monkeypatch.setattr("erpo_verl.packing._CPU_BLOCK", 100)  # a group or two
    cut = batch.advantages({"gate.normalize": "mean_one", "buckets.axis": "cumulative_entropy"}, keep_tokens=True)
    assert close(cut.advantages, whole.advantages, 1e-13)
    assert cut.metrics == pytest.approx(whole.metrics, nan_ok=True)
    assert torch.equal(cut.advantages[cut.tokens.row, cut.tokens.column], cut.tokens.advantages)


@SOME
@given(batches(grids=GRIDS), any_settings(), st.sampled_from([0, 3, 10**6]))
def test_blocks_of_single_groups_equal_the_reference(batch, options, run):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("erpo_verl.packing._CPU_BLOCK", 1)
        patch.setattr("erpo_verl.packing._LONG_RUN", run)  # whether runs of tokens are copied as such
        result = batch.advantages(options).advantages
    assert close(result, batch.reference(options))


# --- Invariants -------------------------------------------------------------------------------------------------------


@SOME
@given(batches(dtype=torch.float32, rewards=("binary", "ones", "few")), st.booleans())
def test_gate_off_and_eta_0_is_the_outcome_broadcast(batch, std):
    result = batch.advantages({"gate.enable": False, "progress.eta": 0.0}, norm_adv_by_std_in_grpo=std).advantages
    for row, valid in zip(result, batch.response_mask, strict=True):
        assert len(set(row[valid].tolist())) <= 1
        assert not row[~valid].any()
    assert close(result, batch.reference({"gate.enable": False, "progress.eta": 0.0}, std=std), 1e-4)


@SOME
@given(batches(), any_settings(progress__eta=0.0))
def test_without_progress_every_token_keeps_the_sign_of_its_outcome(batch, options):
    result = batch.advantages(options).advantages
    outcome = batch.advantages({"gate.enable": False, "progress.eta": 0.0}).advantages
    # sigmoid underflows to 0 only far outside the range of any z that these batches have.
    assert torch.equal(result.sign(), outcome.sign())
    if options["gate.normalize"] == "none":
        assert (result.abs() <= outcome.abs()).all()


@SOME
@given(batches(), any_settings(synthesis__bound=0.5))
def test_a_bound_below_1_keeps_every_sign_and_how_far_it_moves(batch, options):
    result = batch.advantages(options).advantages
    outcome = batch.advantages({"gate.enable": False, "progress.eta": 0.0}).advantages
    assert torch.equal(result.sign(), outcome.sign())
    assert ((result - outcome).abs() <= 0.5 * outcome.abs() * (1 + 1e-12)).all()


@SOME
@given(batches(dtype=torch.float32), any_settings(synthesis__bound=None), st.sampled_from(["target", "fade"]))
def test_strength_0_is_grpo_bit_for_bit(batch, options, law):
    H = batch.entropy[batch.response_mask]
    target = float(H.mean()) * 0.9 if len(H) and H.mean() > 0 else 1e-6
    options = {**options, "strength.entropy_target": target} if law == "target" else {**options, "strength.fade_steps": 7}
    result = batch.advantages(options, step=7)
    assert torch.equal(result.advantages, batch.advantages({"gate.enable": False, "progress.eta": 0.0}).advantages)
    acts = options["gate.enable"] or (options["progress.enable"] and options["progress.eta"])
    assert result.metrics["erpo/strength/mean"] == 0 or not acts


def test_strength_falls_with_the_mean_entropy_and_over_the_steps():
    # H = 1/2 on average. Rewards 1, 0: A = +-1/sqrt(2); W by hand as in test_by_hand_one_bucket, without progress.
    batch = one_group([1.0, 0.0], entropy=[[0.0, 1.0], [0.0, 1.0]])
    high, A = 1 / (1 + math.exp(-5)), math.sqrt(0.5)
    for options, step, strength in (
        ({"strength.entropy_target": 2.0}, None, 0.75),
        ({"strength.entropy_target": 0.5}, None, 0.0),
        ({"strength.fade_steps": 10}, 4, 0.6),
        ({"strength.fade_steps": 10, "strength.entropy_target": 1.0}, 4, 0.3),
        ({"strength.fade_steps": 10}, 12, 0.0),
    ):
        result = batch.advantages({"progress.enable": False, **options}, step=step)
        assert result.metrics["erpo/strength/mean"] == pytest.approx(strength)
        assert result.advantages[0, 1].item() == pytest.approx(A * (1 + strength * (high - 1)), abs=1e-4)
    # The engine may know better than the rows at hand.
    given = TokenBatch(**vars(batch), mean_entropy=1.5)
    assert METHOD.credit(given, {"strength": {"entropy_target": 2.0}}).metrics["erpo/strength/mean"] == pytest.approx(0.25)
    with pytest.raises(ValueError, match="needs `step`"):
        batch.advantages({"strength.fade_steps": 10})


def test_the_gate_may_act_on_right_responses_alone_with_mean_one():
    batch = random_batch(12, 20, 15, 3)
    tokens = batch.advantages({"gate.side": "positive", "gate.normalize": "mean_one"}, keep_tokens=True).tokens
    assert (tokens.gate[tokens.outcome <= 0] == 1).all()
    for group in set(batch.index):
        rows = torch.tensor([name == group for name in batch.index])[tokens.row]
        assert tokens.gate[rows & (tokens.outcome > 0)].mean() == pytest.approx(1.0)


@SOME
@given(batches(), any_settings(), st.integers(0, 4), st.integers(0, 4), st.randoms(use_true_random=False))
def test_padding_order_and_mask_dtype_change_nothing(batch, options, left, right, random):
    expected = batch.advantages(options).advantages
    width = expected.shape[1]

    padded = Batch(
        index=batch.index, **{n: torch.nn.functional.pad(x, (left, right)) for n, x in batch.tensors().items()}
    )
    assert close(padded.advantages(options).advantages[:, left : left + width], expected)
    assert not padded.advantages(options).advantages[:, :left].any()

    order = list(range(len(batch.index)))
    random.shuffle(order)
    assert close(batch.rows(order).advantages(options).advantages, expected[order])

    for dtype in (torch.int64, torch.float32, torch.uint8):
        cast = Batch(**{**vars(batch), "response_mask": batch.response_mask.to(dtype)})
        assert torch.equal(cast.advantages(options).advantages, expected)


@SOME
@given(batches(grids=GRIDS), any_settings(buckets__scope="prompt", strength__entropy_target=None))
def test_a_group_does_not_depend_on_the_others(batch, options):
    whole = batch.advantages(options).advantages
    for group in set(batch.index):
        rows = [i for i, name in enumerate(batch.index) if name == group]
        assert close(batch.rows(rows).advantages(options).advantages, whole[rows], 1e-12)


def test_difficulty_scope_pools_buckets_over_prompts_but_not_the_gate():
    batch = random_batch(5, 24, 12, 6)
    alone = batch.advantages({"buckets.scope": "difficulty"}, keep_tokens=True).tokens
    prompt = batch.advantages({}, keep_tokens=True).tokens
    assert torch.equal(alone.gate, prompt.gate)
    assert not torch.allclose(alone.progress_normalised, prompt.progress_normalised)


@SOME
@given(batches(), any_settings(buckets__axis="position", strength__entropy_target=None), st.floats(-2, 2), st.floats(0.5, 4))
def test_shift_and_scale_of_a_groups_entropy_change_nothing(batch, options, shift, scale):
    first = torch.tensor([name == batch.index[0] for name in batch.index])[:, None]
    moved = Batch(**{**vars(batch), "entropy": torch.where(first, batch.entropy * scale + shift, batch.entropy)})
    # eps makes a difference of up to eps / sigma, and these sigmas may be as small as 1e-3.
    assert close(moved.advantages(options).advantages, batch.advantages(options).advantages, 0.02)


@SOME
@given(batches(grids=(None, 8.0)), any_settings(), st.sampled_from([math.nan, math.inf, -math.inf, 1e30]))
def test_masked_tokens_are_exactly_0_and_what_they_hold_is_ignored(batch, options, junk):
    expected = batch.advantages(options).advantages
    assert not expected[~batch.response_mask].any()
    assert expected.isfinite().all()
    masked = ~batch.response_mask
    spoilt = Batch(
        **{
            **vars(batch),
            **{
                n: x.masked_fill(masked, junk)
                for n, x in batch.tensors().items()
                if x.dtype != torch.bool and n != "token_level_rewards"
            },
        }
    )
    assert torch.equal(spoilt.advantages(options).advantages, expected)


def test_rewards_at_masked_tokens_count_but_not_if_they_are_not_finite():
    batch = random_batch(1, 6, 5, 2)
    batch.response_mask[:, 0] = False
    rewards = batch.token_level_rewards.clone()
    rewards[:, 0] = math.nan
    assert torch.equal(
        Batch(**{**vars(batch), "token_level_rewards": rewards}).advantages().advantages, batch.advantages().advantages
    )
    rewards[:, 0] = batch.token_level_rewards[:, -1]
    rewards[:, -1] = 0
    moved = Batch(**{**vars(batch), "token_level_rewards": rewards})
    assert torch.equal(moved.advantages().advantages, batch.advantages().advantages)


@pytest.mark.parametrize("name", ["token_level_rewards", "entropy", "old_log_probs", "ref_log_prob"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("off", [False, True])
def test_not_finite_at_a_valid_token_names_tensor_row_and_token(name, value, off):
    batch = random_batch(2, 8, 9, 2)
    batch.response_mask[5] = torch.tensor([1, 0, 1, 1, 0, 1, 1, 1, 0], dtype=torch.bool)
    getattr(batch, name)[5, 6] = value
    options = {"gate.enable": False, "progress.enable": False} if off else {}
    with pytest.raises(ValueError, match=f"{name} is -?(nan|inf) at row 5, column 6"):
        batch.advantages(options)


def test_the_place_of_a_bad_token_is_counted_in_valid_tokens_too():
    batch = random_batch(2, 8, 9, 2)
    batch.response_mask[5] = torch.tensor([1, 0, 1, 1, 0, 1, 1, 1, 0], dtype=torch.bool)
    batch.entropy[5, 6] = math.nan
    with pytest.raises(ValueError, match="valid token 4 of the response"):
        batch.advantages({"buckets.axis": "cumulative_entropy"})


def test_inputs_are_not_changed_and_no_gradient_flows():
    batch = random_batch(4, 8, 9, 2)
    before = {name: x.clone() for name, x in batch.tensors().items()}
    for name, x in batch.tensors().items():
        if name != "response_mask":
            x.requires_grad_()
    result = batch.advantages({"progress.clip": 1.0}, keep_tokens=True)
    assert not result.advantages.requires_grad and not result.tokens.advantages.requires_grad
    for name, x in batch.tensors().items():
        assert torch.equal(x, before[name])


# --- Corners ----------------------------------------------------------------------------------------------------------


def one_group(rewards, entropy=None, log_ratio=None, index=None):
    """Rows of valid tokens only; reward on the last one. Log-ratios are given as they are (nats)."""
    rows = len(rewards)
    width = len((entropy or log_ratio)[0])
    level = torch.zeros(rows, width, dtype=torch.float64)
    level[:, -1] = torch.tensor(rewards, dtype=torch.float64)
    zeros = torch.zeros(rows, width, dtype=torch.float64)
    as_tensor = lambda x: zeros if x is None else torch.tensor(x, dtype=torch.float64)  # noqa: E731
    return Batch(level, torch.ones(rows, width), index or ["g"] * rows, as_tensor(entropy), as_tensor(log_ratio), zeros)


def test_constant_entropy_gives_a_gate_of_one_half():
    for dtype in (torch.float32, torch.float64):
        batch = one_group([1.0, 0.0], entropy=[[0.7] * 50, [0.7] * 50]).map(lambda x: x.to(dtype))  # noqa: B023
        gate = batch.advantages({}, keep_tokens=True).tokens.gate
        assert torch.allclose(gate, torch.full_like(gate, 0.5), atol=1e-6)


@pytest.mark.parametrize("reward", [1.0, 0.0, 0.1, 1 / 3])
@pytest.mark.parametrize("anchor", ["sign", "centered_sign", "advantage"])
def test_an_all_equal_group_has_no_progress_term_under_rule_zero(reward, anchor):
    batch = random_batch(9, 7, 11, 1)
    level = torch.zeros_like(batch.token_level_rewards)
    level[:, -1] = reward
    batch = Batch(**{**vars(batch), "token_level_rewards": level}).map(lambda x: x.float())
    assert len(set(batch.index)) == 1
    result = batch.advantages({"progress.anchor": anchor}, keep_tokens=True)
    assert not result.tokens.anchor.any()
    # What is left is the outcome part, which may hold the rounding residue of verl's own A_i.
    neutral = batch.advantages({"progress.anchor": anchor, "progress.eta": 0.0}).advantages
    assert torch.equal(result.advantages, neutral)
    assert neutral.abs().max() < 0.05


@pytest.mark.parametrize("anchor", ["sign", "centered_sign", "advantage"])
@pytest.mark.parametrize(("reward", "expected"), [(1.0, 1.0), (0.0, -1.0), (0.5, 0.0), (0.1, -1.0)])
def test_rule_threshold_anchors_an_all_equal_group_whatever_the_anchor(anchor, reward, expected):
    batch = one_group([reward] * 3, log_ratio=[[0.1, 0.5], [0.2, -0.4], [0.9, 0.0]])
    tokens = batch.advantages({"progress.anchor": anchor, "zero_variance.rule": "threshold"}, keep_tokens=True).tokens
    assert (tokens.anchor == expected).all()


def test_a_lone_response_follows_verl_and_is_not_a_zero_variance_group():
    batch = one_group([0.75], log_ratio=[[0.1, 0.5, 0.2]])
    options = {"zero_variance.rule": "threshold", "zero_variance.threshold": 0.9}
    result = batch.advantages(options, keep_tokens=True)
    assert result.tokens.outcome[0].item() == pytest.approx(0.75 / (1 + 1e-6))
    assert (result.tokens.anchor == 1).all()
    assert result.metrics["erpo/zero_variance_responses/mean"] == 0


def test_a_response_without_a_valid_token_counts_in_the_outcome_only():
    batch = one_group([1.0, 0.0, 0.0], log_ratio=[[0.1, 0.5], [0.2, -0.4], [0.9, 0.0]])
    batch.response_mask[2] = 0
    result = batch.advantages({}).advantages
    assert not result[2].any() and result.isfinite().all()
    assert close(result, batch.reference({}))
    batch.response_mask[:] = 0
    assert not batch.advantages({"gate.normalize": "mean_one"}).advantages.any()


def test_min_std_turns_numerical_noise_into_nothing():
    noise = (1e-7 * torch.randn(4, 50, generator=torch.Generator().manual_seed(0))).tolist()
    batch = one_group([1.0, 0.0, 1.0, 0.0], log_ratio=noise)
    assert batch.advantages({}, keep_tokens=True).tokens.progress_normalised.abs().max() < 1e-4
    unguarded = batch.advantages({"progress.min_std": 0.0}, keep_tokens=True)
    assert unguarded.tokens.progress_normalised.abs().max() > 1e-3
    assert batch.advantages({}).metrics["erpo/bucket_floor_share/mean"] == 1


# --- By hand ----------------------------------------------------------------------------------------------------------


def test_by_hand_one_bucket():
    # Entropies 0, 2 | 0, 2: mean 1, population std 1, z = -1, +1. Log-ratios 1, 3 | 1, 3: s = .1, .3, mean .2, std .1.
    # Rewards 1, 0: mean 1/2, sample std sqrt(1/2), A = +-1/sqrt(2).
    batch = one_group([1.0, 0.0], entropy=[[0.0, 2.0], [0.0, 2.0]], log_ratio=[[1.0, 3.0], [1.0, 3.0]])
    result = batch.advantages({"buckets.count": 1}, keep_tokens=True)
    low, high = 1 / (1 + math.exp(5)), 1 / (1 + math.exp(-5))
    A = math.sqrt(0.5)
    expected = [[low * (A - 0.2), high * (A + 0.2)], [low * (-A + 0.2), high * (-A - 0.2)]]
    assert torch.allclose(result.advantages, torch.tensor(expected, dtype=torch.float64), atol=1e-4)
    assert result.tokens.z.tolist() == pytest.approx([-1, 1, -1, 1], abs=1e-5)
    assert result.tokens.progress_normalised.tolist() == pytest.approx([-1, 1, -1, 1], abs=1e-4)


def test_by_hand_buckets_by_position_with_a_hole_in_the_mask():
    # T_i counts valid tokens: 4 here, so that with K = 2 the columns 0, 2 are in bucket 0 and 3, 5 in bucket 1.
    batch = random_batch(0, 1, 6, 1)
    batch.response_mask[0] = torch.tensor([1, 0, 1, 1, 0, 1], dtype=torch.bool)
    tokens = batch.advantages({"buckets.count": 2}, keep_tokens=True).tokens
    assert tokens.column.tolist() == [0, 2, 3, 5]
    assert tokens.position.tolist() == [0, 1, 2, 3]
    assert tokens.bucket.tolist() == [0, 0, 1, 1]


def test_by_hand_more_buckets_than_tokens():
    batch = random_batch(0, 1, 3, 1)
    batch.response_mask[0] = True
    tokens = batch.advantages({"buckets.count": 10}, keep_tokens=True).tokens
    assert tokens.bucket.tolist() == [0, 3, 6]  # floor(10 t / 3)


def test_by_hand_buckets_by_cumulative_entropy():
    # S = 1, 1, 2, 4, 4 of 4, K = 4: tau K = 1, 1, 2, 4, 4 -> the last bucket is 3.
    batch = one_group([1.0], entropy=[[1.0, 0.0, 1.0, 2.0, 0.0]])
    tokens = batch.advantages({"buckets.count": 4, "buckets.axis": "cumulative_entropy"}, keep_tokens=True).tokens
    assert tokens.bucket.tolist() == [1, 1, 2, 3, 3]
    # A value below 0 (rounding) counts as 0: S = 1, 1, 1.5, 2 of 2.
    batch = one_group([1.0], entropy=[[1.0, -0.5, 0.5, 0.5]])
    tokens = batch.advantages({"buckets.count": 4, "buckets.axis": "cumulative_entropy"}, keep_tokens=True).tokens
    assert tokens.bucket.tolist() == [2, 2, 3, 3]
    # Without any entropy the cut is by position; a rounding residue below 0 is no entropy.
    for value in (0.0, -1e-9):
        batch = one_group([1.0], entropy=[[value] * 4])
        tokens = batch.advantages({"buckets.count": 4, "buckets.axis": "cumulative_entropy"}, keep_tokens=True).tokens
        assert tokens.bucket.tolist() == [0, 1, 2, 3]


def test_by_hand_anchors():
    batch = one_group([1.0, 0.0, 0.0, 0.0], log_ratio=[[0.1, 0.5]] * 4)
    anchors = {}
    for anchor in ("sign", "centered_sign", "advantage"):
        tokens = batch.advantages({"progress.anchor": anchor}, keep_tokens=True).tokens
        anchors[anchor] = tokens.anchor[::2].tolist()
    assert anchors["sign"] == [1, -1, -1, -1]
    assert anchors["centered_sign"] == [1.5, -0.5, -0.5, -0.5]
    assert anchors["advantage"] == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-5)  # sample std is 1/2


def test_by_hand_difficulty_bands():
    # Group means 0, .25, .5, 1 over outcomes in [0, 1], four bands: 0, 1, 2, 3.
    rewards = [0, 0, 0, 0, 1, 0, 0, 0, 1, 1, 0, 0, 1, 1, 1, 1]
    index = [g for g in "abcd" for _ in range(4)]
    log_ratio = [[float(i)] for i in range(16)]
    batch = one_group([float(r) for r in rewards], log_ratio=log_ratio, index=index)
    options = {"buckets.count": 1, "buckets.scope": "difficulty"}
    four = batch.advantages(options, keep_tokens=True).tokens.progress_normalised
    assert close(four, batch.advantages({"buckets.count": 1}, keep_tokens=True).tokens.progress_normalised)
    two = batch.advantages({**options, "buckets.difficulty_bands": 2}, keep_tokens=True).tokens.progress_normalised
    s = 0.1 * torch.arange(16, dtype=torch.float64)
    expected = torch.cat([(x - x.mean()) / (x.std(correction=0) + 1e-6) for x in (s[:8], s[8:])])
    assert close(two, expected)


# --- Errors -----------------------------------------------------------------------------------------------------------


def call(batch, **changes):
    return erpo_advantages(**{**vars(batch), "config": ErpoConfig(), **changes})


def test_missing_inputs_say_what_to_set():
    batch = random_batch(0, 4, 5, 2)
    with pytest.raises(ValueError, match=r"entropy is None.*gate\.enable=false.*buckets\.axis=position"):
        call(batch, entropy=None)
    with pytest.raises(ValueError, match=r"ref_log_prob is None.*progress\.enable=false"):
        call(batch, ref_log_prob=None)
    with pytest.raises(ValueError, match="old_log_probs is None"):
        call(batch, old_log_probs=None)
    off = {"gate": {"enable": False}, "progress": {"eta": 0.0}}
    result = call(batch, entropy=None, ref_log_prob=None, old_log_probs=None, config=off)
    assert close(result.advantages, batch.reference({"gate.enable": False, "progress.eta": 0.0}))
    call(batch, entropy=None, config={"gate": {"enable": False}})
    with pytest.raises(ValueError, match="entropy is None"):
        call(batch, entropy=None, config={"gate": {"enable": False}, "buckets": {"axis": "cumulative_entropy"}})
    for schedule in ({"warmup_steps": 3}, {"decay_steps": 3}):
        with pytest.raises(ValueError, match="needs `step`"):
            call(batch, config={"progress": schedule})
        call(batch, config={"progress": schedule}, step=1)


def test_shapes_that_differ_are_refused_by_name():
    batch = random_batch(0, 4, 5, 2)
    for name in ("response_mask", "entropy", "old_log_probs", "ref_log_prob"):
        with pytest.raises(ValueError, match=rf"{name} has shape \(4, 4\)"):
            call(batch, **{name: getattr(batch, name)[:, :4]})
    with pytest.raises(ValueError, match="index has 3 group ids for 4 responses"):
        call(batch, index=batch.index[:3])
    with pytest.raises(ValueError, match="must be \\[responses, tokens\\]"):
        call(batch, token_level_rewards=batch.token_level_rewards[0])


def test_group_ids_may_be_anything_hashable():
    import numpy as np

    batch = random_batch(0, 6, 5, 2)
    expected = batch.advantages().advantages
    numbers = [sorted(set(batch.index)).index(x) for x in batch.index]
    for index in (
        np.array(batch.index, dtype=object),
        numbers,
        np.array(numbers),
        torch.tensor(numbers),
        tuple(batch.index),
    ):
        assert torch.equal(call(batch, index=index).advantages, expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("preset", ["erpo", "ep_grpo"])
def test_cuda_gives_the_same_as_the_cpu_and_the_same_twice(preset):
    batch = random_batch(7, 64, 257, 9, dtype=torch.float32, grid=2.0**-10)
    moved = Batch(index=batch.index, **{n: x.cuda() for n, x in batch.tensors().items()})
    config = {"preset": preset, "gate": {"normalize": "mean_one"}}
    first, second, expected = call(moved, config=config), call(moved, config=config), call(batch, config=config)
    assert first.advantages.is_cuda and torch.equal(first.advantages, second.advantages)
    assert close(first.advantages.cpu(), expected.advantages, 1e-5)
    assert first.metrics == pytest.approx(expected.metrics, rel=1e-3, abs=1e-5)
