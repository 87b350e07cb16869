"""The update: its gradient does not depend on how the batch is cut, and what is not finite does not reach the weights."""

import math
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st
from trainer_runs import gradients, random_batch, settings_for, tiny_model, tiny_policy

from erpo_verl.trainer.advantages import advantages, token_level_rewards
from erpo_verl.trainer.policy import Policy, fingerprint, micro_batches
from erpo_verl.trainer.settings import reads_reference, reads_reference_of_equal_outcomes
from erpo_verl.trainer.update import mini_batches, rows_with_gradient, update

GRPO = "algorithm.adv_estimator=grpo"


def ready(config, policy, batch=None, **kwargs):
    batch = batch or random_batch(**kwargs)
    old, entropy = policy.log_probs(batch, 4, with_entropy=True)
    reference = policy.log_probs(batch, 4, reference=True)[0] if policy.has_reference else None
    batch = replace(batch, old_log_probs=old, entropy=entropy, ref_log_prob=reference)
    batch = replace(batch, token_level_rewards=token_level_rewards(batch, config)[0])
    return replace(batch, advantages=advantages(batch, config, 1).advantages)


def after_update(*overrides, seed=0):
    config = settings_for(*overrides)
    policy = tiny_policy(config)
    found = update(policy, ready(config, policy, seed=seed), config, 1)
    return torch.cat([p.detach().flatten() for p in policy.parameters]), found


@pytest.mark.parametrize("mode", ["token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"])
def test_micro_batches_do_not_change_the_update(mode):
    """Eight rows at once, one at a time, or cut by tokens: the same weights, and the same metrics, up to rounding."""
    # SGD-like: Adam's first step is the sign of the gradient, which would hide or blow up differences of rounding.
    common = [f"actor_rollout_ref.actor.loss_agg_mode={mode}", "actor_rollout_ref.actor.optim.lr=1e-3", "actor_rollout_ref.actor.grad_clip=0.01",
              "actor_rollout_ref.actor.kl_loss_coef=0.1", "actor_rollout_ref.actor.entropy_coeff=0.01"]  # fmt: skip
    cuts = (
        ["actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=8"],
        ["actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=1"],
        ["actor_rollout_ref.actor.use_dynamic_bsz=true", "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=40"],
    )
    (first, metrics), *others = [after_update(*common, *cut) for cut in cuts]
    for weights, found in others:
        # AdamW amplifies rounding where a gradient is nearly 0: compare the bulk of the step.
        assert (weights - first).abs().median() < 1e-7 and ((weights - first).abs() < 1e-5).float().mean() > 0.999
        for name in ("actor/pg_loss", "actor/kl_loss", "actor/entropy_loss", "actor/grad_norm", "actor/pg_clipfrac", "actor/ppo_kl"):
            assert found[name] == pytest.approx(metrics[name], rel=1e-4, abs=1e-7), name


MODES = ["token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"]


def uniform_groups(config, policy, groups=(1, 3), **kwargs):
    """A batch whose named groups are all right."""
    batch = random_batch(prompts=6, **kwargs)
    scores = batch.scores.clone()
    for group in groups:
        scores[4 * group : 4 * group + 4] = 1.0
    return ready(config, policy, replace(batch, scores=scores))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("estimator", ["erpo", "grpo"])
@pytest.mark.parametrize("cut", ["ppo_micro_batch_size_per_gpu=3", "use_dynamic_bsz=true"])
def test_rows_without_a_gradient_are_left_out_and_still_count(mode, estimator, cut, monkeypatch):
    config = settings_for(
        f"algorithm.adv_estimator={estimator}", f"actor_rollout_ref.actor.loss_agg_mode={mode}", f"actor_rollout_ref.actor.{cut}",
        "data.train_batch_size=6", "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=60",
    )  # fmt: skip
    policy = tiny_policy(config)
    batch = uniform_groups(config, policy)
    assert rows_with_gradient(batch, config) == [row // 4 not in (1, 3) for row in range(24)]
    rows = []
    forward = type(policy).__call__
    monkeypatch.setattr(type(policy), "__call__", lambda self, micro, **kw: rows.append(len(micro)) or forward(self, micro, **kw))
    ours = gradients(policy, batch, config)
    assert sum(rows) == 16
    monkeypatch.setattr("erpo_verl.trainer.update.rows_with_gradient", lambda batch, _: [True] * len(batch))
    whole = gradients(policy, batch, config)
    assert sum(rows) == 16 + 24 and len(ours) == len(whole) == 3
    for a, b in zip(ours, whole, strict=True):
        largest = max(g.abs().max() for g in b)
        assert all((x - y).abs().max() <= 1e-6 * largest for x, y in zip(a, b, strict=True))


def test_a_mini_batch_without_a_gradient_is_a_step_with_a_gradient_of_zero(monkeypatch):
    """AdamW's momentum and weight decay act there too: the weights are those of a run over all rows."""
    config = settings_for(GRPO, "data.train_batch_size=6", "actor_rollout_ref.actor.optim.lr=1e-3", "actor_rollout_ref.actor.ppo_epochs=2")
    ours, whole = tiny_policy(config), tiny_policy(config)
    batch = uniform_groups(config, ours, groups=(2, 3))
    found = update(ours, batch, config, 1)
    monkeypatch.setattr("erpo_verl.trainer.update.rows_with_gradient", lambda batch, _: [True] * len(batch))
    wanted = update(whole, batch, config, 1)
    for a, b in zip(ours.parameters, whole.parameters, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-7)
    assert {int(state["step"]) for state in ours.optimizer.state.values()} == {6}
    # Where a row without an advantage adds nothing, verl's names keep verl's value; the others say whose tokens they are of.
    for name in ("actor/pg_loss", "actor/pg_clipfrac", "actor/pg_clipfrac_lower", "actor/grad_norm"):
        assert found[name] == pytest.approx(wanted[name], rel=1e-4, abs=1e-7), name
    assert found["actor/rows_run/mean"] == pytest.approx(16 / 24) and wanted["actor/rows_run/mean"] == 1.0
    assert "actor/ppo_kl" not in found and "actor/ppo_kl" in wanted and found["actor/ppo_kl_live/mean"] != 0


def test_a_step_without_any_gradient():
    config = settings_for(GRPO, "data.train_batch_size=6")
    policy = tiny_policy(config)
    found = update(policy, uniform_groups(config, policy, groups=range(6)), config, 1)
    assert (found["actor/grad_norm"], found["actor/pg_loss"], found["actor/rows_run/mean"], found["actor/skipped_updates/sum"]) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("overrides", "step", "reads", "of_equal_outcomes"),
    [
        ([], 3, True, False),
        (["algorithm.erpo.progress.decay_steps=4"], 3, True, False),
        (["algorithm.erpo.progress.decay_steps=4"], 4, False, False),
        (["algorithm.erpo.progress.decay_steps=4"], None, True, False),
        (["algorithm.erpo.progress.decay_steps=4", "actor_rollout_ref.actor.kl_loss_coef=0.1"], 4, True, True),
        (["algorithm.erpo.progress.enable=false"], None, False, False),
        (["algorithm.erpo.buckets.scope=difficulty"], 3, True, True),
        (["algorithm.erpo.preset=ep_grpo"], 3, True, True),
        ([GRPO], None, False, True),
        ([GRPO, "algorithm.use_kl_in_reward=true"], 3, True, True),
    ],
)
def test_a_reference_that_nothing_reads_is_not_kept_or_run(overrides, step, reads, of_equal_outcomes):
    config = settings_for(*overrides)
    assert reads_reference(config, step) is reads
    assert not reads or reads_reference_of_equal_outcomes(config) is of_equal_outcomes
    assert tiny_policy(config).has_reference is reads_reference(config)


@pytest.mark.parametrize("anchor", ["sign", "centered_sign", "advantage"])
def test_groups_of_equal_outcomes_need_no_reference(anchor):
    """The same advantages, bit for bit, with nothing but NaN where the reference was not run, and so the same update."""
    config = settings_for(f"algorithm.erpo.progress.anchor={anchor}", "data.train_batch_size=6")
    policy = tiny_policy(config)
    batch = uniform_groups(config, policy)
    moved = replace(batch, ref_log_prob=tiny_policy(config, seed=1).log_probs(batch, 4)[0])
    whole = advantages(moved, config, 1)
    without = ~torch.tensor(batch.differs())
    assert without.tolist() == [row // 4 in (1, 3) for row in range(24)]
    holes = replace(moved, ref_log_prob=torch.where(without[:, None], torch.nan, moved.ref_log_prob), without_reference=without)
    found = advantages(holes, config, 1)
    assert torch.equal(found.advantages, whole.advantages) and (found.advantages[~without] != 0).any()
    others = advantages(moved.rows([row for row in range(24) if not without[row]]), config, 1)
    for name in ("erpo/progress/mean", "erpo/progress_std/mean", "erpo/bucket_floor_share/mean", "erpo/progress_normalised_std/mean"):
        assert found.metrics[name] == pytest.approx(others.metrics[name], rel=1e-5), name
    assert found.metrics["erpo/gate/mean"] == whole.metrics["erpo/gate/mean"]


@pytest.mark.parametrize("term", ["kl_loss_coef=0.1", "entropy_coeff=0.01"])
def test_with_a_kl_or_entropy_term_every_row_is_run(term):
    config = settings_for(f"actor_rollout_ref.actor.{term}", "data.train_batch_size=6")
    policy = tiny_policy(config)
    found = update(policy, uniform_groups(config, policy), config, 1)
    assert found["actor/rows_run/mean"] == 1.0 and "actor/ppo_kl" in found and "actor/ppo_kl_live/mean" not in found


@settings(max_examples=80, derandomize=True, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=30),
    rows=st.integers(1, 9),
    tokens=st.integers(1, 200),
    at_least=st.integers(1, 40),
)
def test_cuts_hold_every_row_once_within_their_bounds(lengths, rows, tokens, at_least):
    by_rows = micro_batches(lengths, rows_at_once=rows)
    assert all(len(cut) <= rows for cut in by_rows)
    more = micro_batches(lengths, rows_at_once=rows, at_least=at_least)
    assert len(more) == max(len(by_rows), min(at_least, len(lengths))) and all(len(cut) <= rows for cut in more)
    by_tokens = micro_batches(lengths, tokens_at_once=tokens, at_least=at_least)
    assert all(len(cut) == 1 or len(cut) * max(lengths[i] for i in cut) <= tokens for cut in by_tokens)
    assert len(by_tokens) >= min(at_least, len(lengths))
    for cut in (by_rows, more, by_tokens):
        assert sorted(i for part in cut for i in part) == list(range(len(lengths))) and all(cut)


def test_a_micro_batch_is_as_wide_as_its_longest_prompt_and_response_together():
    """One long prompt beside one long response are padded to 18 columns, though each row has 10 tokens."""
    assert micro_batches([1, 9, 5], prompts=[9, 1, 2], tokens_at_once=22) == [[0], [1, 2]]
    assert micro_batches([1, 9, 5], prompts=[9, 1, 2], tokens_at_once=54) == [[0, 1, 2]]
    g = torch.Generator().manual_seed(0)
    for _ in range(200):
        responses, prompts = (torch.randint(1, 40, (12,), generator=g).tolist() for _ in range(2))
        for cut in micro_batches(responses, prompts=prompts, tokens_at_once=120):
            width = max(prompts[i] for i in cut) + max(responses[i] for i in cut)
            assert len(cut) == 1 or len(cut) * width <= 120


def test_a_resumed_policy_follows_the_settings_of_the_new_command():
    """Learning rate, schedule, betas and weight decay are those of the settings; without a change they are what they were."""
    def policy_with(*overrides, steps=10):
        return tiny_policy(settings_for(GRPO, "actor_rollout_ref.actor.optim.lr_scheduler_type=cosine", *overrides), total_steps=steps)

    first = policy_with("actor_rollout_ref.actor.optim.lr=1e-3")
    for _ in range(3):
        update(first, ready(first.settings, first), first.settings, 1)
    same, other = policy_with("actor_rollout_ref.actor.optim.lr=1e-3"), policy_with(
        "actor_rollout_ref.actor.optim.lr=5e-4", "actor_rollout_ref.actor.optim.weight_decay=0.5", "actor_rollout_ref.actor.optim.betas=[0.5,0.7]", steps=30
    )  # fmt: skip
    for policy in (same, other):
        policy.load_state(first.state())
    assert same.lr == first.lr == same.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * (1 + math.cos(math.pi * 3 / 10)) / 2)
    assert other.lr == other.optimizer.param_groups[0]["lr"] == pytest.approx(5e-4 * (1 + math.cos(math.pi * 3 / 30)) / 2)
    assert (other.optimizer.param_groups[0]["weight_decay"], other.optimizer.param_groups[0]["betas"]) == (0.5, (0.5, 0.7))
    found = update(other, ready(other.settings, other), other.settings, 4)
    assert found["actor/lr"] == pytest.approx(5e-4 * (1 + math.cos(math.pi * 3 / 30)) / 2)
    assert other.lr == pytest.approx(5e-4 * (1 + math.cos(math.pi * 4 / 30)) / 2)


def test_another_start_model_is_told_apart_whatever_the_type_of_its_weights():
    assert fingerprint(tiny_model(0)) == fingerprint(tiny_model(0)) == fingerprint(tiny_model(0).bfloat16()) != fingerprint(tiny_model(1))


def test_mini_batches_hold_whole_groups():
    config = settings_for("actor_rollout_ref.actor.shuffle=true")
    batch = random_batch(prompts=4, n=4)
    found = mini_batches(batch, config, 1, epoch=0, step=3)
    assert [len(rows) for rows in found] == [8, 8] and sorted(row for rows in found for row in rows) == list(range(16))
    for rows in found:
        assert all(len({batch.uid[i] for i in rows[j : j + 4]}) == 1 for j in range(0, 8, 4))
    assert found == mini_batches(batch, config, 1, epoch=0, step=3)
    orders = {str(mini_batches(batch, config, 1, epoch=e, step=s)) for e in range(3) for s in range(3)}
    assert len(orders) > 3


def test_right_answers_become_likelier_and_wrong_ones_less_likely():
    config = settings_for(GRPO, "actor_rollout_ref.actor.optim.lr=1e-2", "actor_rollout_ref.actor.ppo_epochs=3")
    policy = tiny_policy(config)
    batch = ready(config, policy)
    update(policy, batch, config, 1)
    now, _ = policy.log_probs(batch, 16)
    change = ((now - batch.old_log_probs) * batch.response_mask).sum(1) / batch.lengths
    right = batch.scores > 0.5
    assert change[right].mean() > 0.05 > change[~right].mean()


def test_epochs_and_minibatches_count():
    config = settings_for(GRPO, "actor_rollout_ref.actor.ppo_epochs=3", "actor_rollout_ref.actor.ppo_mini_batch_size=1")
    policy = tiny_policy(config)
    update(policy, ready(config, policy), config, 1)
    assert {int(state["step"]) for state in policy.optimizer.state.values()} == {12}


def test_a_gradient_that_is_not_finite_is_skipped_and_counted():
    config = settings_for(GRPO)
    policy = tiny_policy(config)
    batch = ready(config, policy)
    batch.advantages[0, 0] = math.inf
    before = [p.detach().clone() for p in policy.parameters]
    found = update(policy, batch, config, 1)
    assert found["actor/skipped_updates/sum"] == 1.0 and math.isfinite(found["actor/grad_norm"])
    assert any(not torch.equal(a, b) for a, b in zip(before, policy.parameters, strict=True))  # the other mini-batch was applied
    assert all(p.isfinite().all() for p in policy.parameters)


def test_a_lora_policy_has_its_start_as_reference_and_trains_adapters_only():
    from peft import LoraConfig, get_peft_model

    config = settings_for("actor_rollout_ref.model.lora_rank=4", "actor_rollout_ref.actor.optim.lr=1e-2")
    torch.manual_seed(0)
    model = get_peft_model(tiny_model(), LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear"))
    policy = Policy(model, config, Accelerator(cpu=True), 10)
    batch = ready(config, policy)
    assert torch.equal(batch.old_log_probs, batch.ref_log_prob)  # new adapters change nothing
    base = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    update(policy, batch, config, 1)
    assert all(torch.equal(p, base[n]) for n, p in model.named_parameters() if n in base)
    now, _ = policy.log_probs(batch, 4)
    again, _ = policy.log_probs(batch, 4, reference=True)
    assert (now - batch.old_log_probs).abs().max() > 1e-3
    assert torch.equal(again, batch.ref_log_prob)


def test_gradient_checkpointing_changes_nothing():
    config = settings_for(GRPO)
    plain, checkpointed = tiny_policy(config), tiny_policy(config)
    checkpointed.module.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for policy in (plain, checkpointed):
        update(policy, ready(config, policy), config, 1)
    for a, b in zip(plain.parameters, checkpointed.parameters, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_bf16_arithmetic_follows_float32():
    """Weights stay float32; log-probs of a bf16 pass are near those of float32, and the update goes the same way."""
    a, b = (settings_for(GRPO, f"actor_rollout_ref.actor.fsdp_config.dtype={d}") for d in ("float32", "bfloat16"))
    exact, half = tiny_policy(a), tiny_policy(b)
    batch, rough = ready(a, exact), ready(b, half)
    assert {p.dtype for p in half.parameters} == {torch.float32}
    difference = (batch.old_log_probs - rough.old_log_probs).abs().max()
    assert 0 < difference < 0.05
    for policy, config in ((exact, a), (half, b)):
        update(policy, replace(batch, advantages=batch.advantages), config, 1)
    start = tiny_policy(a)
    moved = [torch.cat([(p - q).detach().flatten() for p, q in zip(x.parameters, start.parameters, strict=True)]) for x in (exact, half)]
    assert torch.nn.functional.cosine_similarity(*moved, dim=0) > 0.8
