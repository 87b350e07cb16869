"""Models as users bring them, in whole runs of a step or two: adapters, dropout, linear attention, special think tokens, dates."""

from __future__ import annotations

import datetime
import json

import pytest
import torch
import transformers
from trainer_runs import TOKENIZER, command, metrics, run_here, same_weights, save_tiny, weights, write_task

from erpo_verl import prompts
from erpo_verl.rollout import Response
from erpo_verl.rollout.hf import HFRollout
from examples.arithmetic.tokenizer import build_tokenizer

MODEL = "actor_rollout_ref.model."
ONE_STEP = ("trainer.total_training_steps=1", "actor_rollout_ref.actor.ppo_mini_batch_size=4")


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return write_task(tmp_path_factory.mktemp("task"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("models") / "plain")


@pytest.fixture(scope="module")
def adapter(model, tmp_path_factory):
    """(folder of a LoRA adapter, folder of its base with it merged in)."""
    peft = pytest.importorskip("peft")
    folder = tmp_path_factory.mktemp("adapter")
    made = peft.get_peft_model(
        transformers.AutoModelForCausalLM.from_pretrained(model), peft.LoraConfig(task_type="CAUSAL_LM", r=3, target_modules=["q_proj", "up_proj"])
    )
    torch.manual_seed(2)
    for name, weight in made.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    made.save_pretrained(folder / "adapter")
    made.merge_and_unload().save_pretrained(folder / "merged")
    return folder / "adapter", folder / "merged"


def changed(model, folder, **entries):
    save_tiny(folder)
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))
    return folder


@pytest.mark.parametrize("overrides", [(), (MODEL + "adapter=train",), (MODEL + "lora_rank=2", MODEL + "target_modules=[v_proj]")])
def test_an_adapter_is_start_policy_and_reference(task, adapter, tmp_path, overrides):
    """With a learning rate of 0 what is written is the merged model; the reference is it too, so that its KL is 0."""
    folder, merged = adapter
    # A weight above 0 has every row run, so that the KL is known for all.
    still = ("actor_rollout_ref.actor.kl_loss_coef=0.01", "actor_rollout_ref.actor.optim.lr=0", "actor_rollout_ref.actor.optim.weight_decay=0")
    output = run_here(command(tmp_path / "run", folder, task, *ONE_STEP, *still, *overrides))
    assert f"the adapter at {folder} is " in output
    wanted, found = weights(merged), weights(tmp_path / "run" / "model")
    assert wanted.keys() == found.keys()
    assert all(torch.allclose(wanted[name], found[name], atol=1e-6) for name in wanted)
    [line] = [line["data"] for line in metrics(tmp_path / "run") if "actor/pg_loss" in line["data"]]
    assert abs(line["actor/kl_loss"]) < 1e-9


def test_the_adapter_itself_is_trained_and_goes_on(task, adapter, tmp_path):
    folder, merged = adapter
    train = (MODEL + "adapter=train", "trainer.save_freq=1")
    run_here(command(tmp_path / "run", folder, task, *train, *ONE_STEP))
    first = weights(tmp_path / "run" / "model")
    before = weights(merged)
    moved = {name for name in first if not torch.allclose(first[name], before[name], atol=1e-7)}
    assert moved and all("q_proj" in name or "up_proj" in name for name in moved)
    state = torch.load(tmp_path / "run" / "global_step_1" / "model.pt", weights_only=True)
    assert state and all("lora_" in name for name in state)
    output = run_here(command(tmp_path / "run", folder, task, *train, *ONE_STEP, "trainer.total_training_steps=2"))
    assert "resumed from" in output and not same_weights(tmp_path / "run" / "model", merged)
    refused = run_here(command(tmp_path / "other", folder, task, *train, MODEL + "lora_rank=4"), 1)
    assert "lora_rank=4: the adapter at" in refused and "(rank 3); set lora_rank=0, or adapter=merge" in refused


def test_dropout_is_off_in_the_update(task, model, tmp_path):
    folder = changed(model, tmp_path / "m", attention_dropout=0.4)
    # Every row is run, and compared with log-probs from a pass without dropout.
    settings = (*ONE_STEP, "algorithm.rollout_correction.bypass_mode=false", "actor_rollout_ref.actor.kl_loss_coef=1e-9")
    output = run_here(command(tmp_path / "off", folder, task, *settings))
    assert f"config.json: attention_dropout=0.4 is off in training ({MODEL}disable_dropout)" in output
    run_here(command(tmp_path / "on", folder, task, *settings, MODEL + "disable_dropout=false"))
    off, on = (metrics(tmp_path / name)[-1]["data"]["actor/ppo_kl"] for name in ("off", "on"))
    assert abs(off) < 1e-6 < 1e-4 < abs(on)
    assert json.loads((tmp_path / "off" / "model" / "config.json").read_text())["attention_dropout"] == 0.4


def test_linear_attention_is_trained_on_what_was_sampled(task, tmp_path):
    config = transformers.Lfm2Config(
        vocab_size=len(TOKENIZER), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        layer_types=["conv", "full_attention"], pad_token_id=TOKENIZER.pad_token_id, eos_token_id=TOKENIZER.eos_token_id, dtype="float32",
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.Lfm2ForCausalLM(config).save_pretrained(tmp_path / "m")
    TOKENIZER.save_pretrained(tmp_path / "m")
    run_here(command(tmp_path / "run", tmp_path / "m", task, *ONE_STEP, "algorithm.rollout_correction.bypass_mode=false"))
    assert metrics(tmp_path / "run")[-1]["data"]["training/rollout_probs_diff_max"] < 1e-6


def test_the_reward_sees_think_as_a_special_token(task, model, tmp_path, monkeypatch):
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    larger = transformers.AutoModelForCausalLM.from_pretrained(model)
    larger.resize_token_embeddings(len(tokenizer))
    larger.save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    rest = tokenizer("\\boxed{7}", add_special_tokens=False)["input_ids"]
    answer = [tokenizer.convert_tokens_to_ids("<think>"), *rest, tokenizer.eos_token_id]

    def generate(self, asked, params, progress=None):
        return [[Response(answer, [-1.0] * len(answer), True, [0.0] * len(answer))] * params.n for _ in asked]

    monkeypatch.setattr(HFRollout, "generate", generate)
    (tmp_path / "reward.py").write_text("def seen(data_source, solution_str, ground_truth, extra_info):\n    return float('<think>' in solution_str)\n")
    reward = (f"reward.custom_reward_function.path={tmp_path / 'reward.py'}", "reward.custom_reward_function.name=seen")
    run_here(command(tmp_path / "run", tmp_path / "m", task, *ONE_STEP, *reward))
    assert metrics(tmp_path / "run")[-1]["data"]["critic/score/mean"] == 1.0


def test_a_run_that_goes_on_another_day_asks_with_the_same_prompts(task, model, tmp_path, monkeypatch):
    folder = tmp_path / "m"
    save_tiny(folder)
    dated = build_tokenizer()
    dated.chat_template = "{{ strftime_now('%d')[:1] }}" + dated.chat_template
    dated.save_pretrained(folder)
    settings = (*ONE_STEP, "trainer.save_freq=1")

    class Then(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2025, 3, 4, 15)

    monkeypatch.setattr(prompts, "datetime", Then)
    output = run_here(command(tmp_path / "run", folder, task, *settings))
    assert "the chat template prints the date: 2025-03-04 in all prompts of this run" in output
    monkeypatch.undo()
    output = run_here(command(tmp_path / "run", folder, task, *settings, "trainer.total_training_steps=2"))
    assert "resumed from" in output and "prints the date: 2025-03-04" in output
    assert json.loads((tmp_path / "run" / "run.json").read_text())["config"]["data"]["template_date"] == "2025-03-04"
    refused = run_here(command(tmp_path / "run", folder, task, *settings, "trainer.total_training_steps=3", "data.template_date=2025-03-31"), 1)
    assert "data.template_date was 2025-03-04 and is 2025-03-31" in refused
    assert "data.template_date: 'soon' is no date" in run_here(command(tmp_path / "new", folder, task, "data.template_date=soon"), 1)


def test_a_response_beyond_the_models_positions_is_one_line(task, model, tmp_path):
    folder = changed(model, tmp_path / "m", max_position_embeddings=16)
    output = run_here(command(tmp_path / "run", folder, task), 1)
    assert f"{MODEL}path={folder}: the longest prompt (11) and data.max_response_length=12: together 23 tokens, and the model was made for 16" in output
    run_here(command(tmp_path / "run", folder, task, *ONE_STEP, "data.max_response_length=5"))  # as it advises
