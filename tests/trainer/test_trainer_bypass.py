"""Old log-probs and entropies from the rollout: those of a pass of their own, wherever the trained weights sample in float32."""

from dataclasses import replace

import pytest
import torch
from trainer_runs import TOKENIZER, gradients, settings_for, sharpen, tiny_model, tiny_policy

from erpo_verl.rollout.hf import HFRollout
from erpo_verl.trainer.advantages import advantages, token_level_rewards
from erpo_verl.trainer.data import Prompt, PromptOrder
from erpo_verl.trainer.metrics import add_mismatch
from erpo_verl.trainer.policy import Policy
from erpo_verl.trainer.processes import Tally
from erpo_verl.trainer.rollout import bypasses
from erpo_verl.trainer.sampler import Sampler
from erpo_verl.trainer.update import update


def lora_policy(config) -> Policy:
    """Adapters that have been trained a little."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(sharpen(tiny_model()), LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear"))
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.1)
    return tiny_policy(config, model=model)


def judge(prompts, texts, lengths, finished):
    """Every other response is right."""
    return torch.tensor([float(i % 2) for i in range(len(texts))]), {}


def sampled(config, policy):
    """A step's batch, as far as the rollout fills it."""
    engine = HFRollout(policy.sampled_model, eos_token_ids=[TOKENIZER.eos_token_id], pad_token_id=TOKENIZER.pad_token_id)
    sampler = Sampler(engine, judge, TOKENIZER, config, with_entropy=True)
    g = torch.Generator().manual_seed(0)
    prompts = [Prompt(torch.randint(8, 20, (n,), generator=g).tolist(), "text", "source", "1", {}) for n in (3, 9, 5, 7)]
    return sampler.training_batch(prompts, PromptOrder(4, seed=1), 1)[0]


def with_advantages(batch, config):
    batch = replace(batch, token_level_rewards=token_level_rewards(batch, config)[0])
    return replace(batch, advantages=advantages(batch, config, 1).advantages)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["actor_rollout_ref.rollout.temperature=0.7"],
        ["actor_rollout_ref.rollout.do_sample=false", "actor_rollout_ref.rollout.temperature=0.6"],
        ["actor_rollout_ref.rollout.top_p=0.8", "actor_rollout_ref.rollout.top_k=9", "actor_rollout_ref.rollout.temperature=1.3"],
        ["actor_rollout_ref.model.lora_rank=4", "algorithm.erpo.buckets.axis=cumulative_entropy"],
        ["algorithm.adv_estimator=grpo"],
    ],
    ids=["plain", "temperature", "greedy", "top-p and top-k", "lora", "grpo"],
)
def test_the_rollout_gives_what_a_pass_gives(overrides):
    config = settings_for(*overrides)
    policy = lora_policy(config) if config.actor_rollout_ref.model.lora_rank else tiny_policy(config, model=sharpen(tiny_model()))
    assert bypasses(config, policy)
    batch = sampled(config, policy)
    reference = tiny_policy(config, model=sharpen(tiny_model(), 1.5)).log_probs(batch, 4)[0]
    passed = replace(batch, ref_log_prob=reference)
    passed = replace(passed, **dict(zip(("old_log_probs", "entropy"), policy.log_probs(batch, 4, with_entropy=True), strict=True)))
    taken = replace(passed, old_log_probs=batch.rollout_log_probs, entropy=batch.rollout_entropy)
    for name in ("old_log_probs", "entropy"):
        torch.testing.assert_close(getattr(taken, name), getattr(passed, name), atol=1e-5, rtol=0)
    assert not torch.equal(taken.old_log_probs, passed.old_log_probs)  # two computations, not one

    passed, taken = with_advantages(passed, config), with_advantages(taken, config)
    torch.testing.assert_close(taken.advantages, passed.advantages, atol=1e-5, rtol=1e-5)
    found = [gradients(policy, some, config) for some in (passed, taken)]
    for a, b in zip(*found, strict=True):
        largest = max(0.1, *(g.abs().max() for g in b))  # greedy responses of a group are the same: their gradients cancel out
        assert all((x - y).abs().max() <= 1e-5 * largest for x, y in zip(a, b, strict=True))


def test_the_mismatch_is_measured_on_the_first_mini_batch():
    """The policy is there still the one that has sampled: what differs is what the rollout computed otherwise."""
    config = settings_for("actor_rollout_ref.actor.optim.lr=1e-2", "algorithm.adv_estimator=grpo")
    policy = tiny_policy(config)
    batch = sampled(config, policy)
    old = policy.log_probs(batch, 4)[0]
    skewed = replace(batch, rollout_log_probs=torch.where(batch.response_mask, batch.rollout_log_probs - 0.1, 0.0))
    filled = with_advantages(replace(skewed, old_log_probs=skewed.rollout_log_probs, entropy=batch.rollout_entropy), config)
    found = update(policy, filled, config, 1, measure_mismatch=True)
    assert found["training/rollout_log_ratio_abs/max"] == pytest.approx(0.1, abs=1e-5)
    add_mismatch(tally := Tally(), old[:8], skewed.rollout_log_probs[:8], batch.response_mask[:8])
    wanted = tally.result(policy.processes)
    assert len(wanted) == 4 and {name: found[name] for name in wanted} == pytest.approx(wanted, rel=1e-4)
    assert not any(name.startswith("training/") for name in update(policy, filled, config, 1))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], True),
        (["algorithm.rollout_correction.bypass_mode=false"], False),
        (["actor_rollout_ref.actor.fsdp_config.dtype=bfloat16"], False),
        (["actor_rollout_ref.actor.fsdp_config.model_dtype=bf16"], False),
        (["actor_rollout_ref.actor.fsdp_config.dtype=bfloat16", "algorithm.rollout_correction.bypass_mode=true"], True),
        (["actor_rollout_ref.rollout.name=vllm"], False),
        (["actor_rollout_ref.rollout.name=vllm", "algorithm.adv_estimator=grpo", "algorithm.rollout_correction.bypass_mode=true"], True),
    ],
)
def test_when_the_pass_is_left_out(overrides, expected):
    config = settings_for(*overrides)
    assert bypasses(config, tiny_policy(config)) is expected
