"""Methods in the Accelerate engine: another package's, one with a memory, and answers that nobody could judge."""

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from memory_method import METHOD
from method_tools import Entry, install
from trainer_runs import command, metrics, random_batch, run_here, same_weights, save_tiny, settings_for, write_task

from erpo_verl import methods
from erpo_verl.runs.rollouts import read_quantities
from erpo_verl.trainer.advantages import advantages, token_level_rewards

MEMORY = ["algorithm.adv_estimator=memory_method", "+algorithm.memory_method.rate=0.3"]


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return write_task(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture
def memory_method(monkeypatch):
    """The test's method among the registered ones, also in the schema, which is made when it is imported."""
    install(monkeypatch, Entry("memory_method", "memory_method:METHOD"))
    from erpo_verl.trainer import schema
    from erpo_verl.trainer import settings as composed

    keys = []
    for key in schema.KEYS:
        if key.name == "algorithm.adv_estimator":
            key = replace(key, choices=tuple(methods.registered()))
        keys.append(key)
    keys.append(schema.Key("algorithm.memory_method", {}, "dict", "Settings of memory_method."))
    for module in (schema, composed):
        monkeypatch.setattr(module, "KEYS", tuple(keys))
    monkeypatch.setattr(composed, "_BY_NAME", {key.name: key for key in keys})
    monkeypatch.setattr(composed, "_OPEN", tuple(key.name for key in keys if key.kind == "dict"))


def test_a_memory_is_kept_over_a_resume_bit_for_bit(memory_method, task, model, tmp_path):
    saving = ["trainer.save_freq=2", *MEMORY]
    run_here(command(tmp_path / "whole", model, task, *saving))
    run_here(command(tmp_path / "cut", model, task, *saving, "trainer.total_training_steps=2"))
    output = run_here(command(tmp_path / "cut", model, task, *saving))
    assert "resumed from" in output
    whole, cut = (metrics(tmp_path / name) for name in ("whole", "cut"))
    name = "memory_method/baseline/mean"
    assert [line["data"][name] for line in cut] == [line["data"][name] for line in whole]
    assert len({line["data"][name] for line in whole}) > 1
    assert same_weights(tmp_path / "whole" / "model", tmp_path / "cut" / "model")
    # Another method's checkpoint has no memory for it.
    run_here(command(tmp_path / "other", model, task, "trainer.save_freq=2", "trainer.total_training_steps=2", "algorithm.adv_estimator=grpo"))
    refused = run_here(command(tmp_path / "other", model, task, *saving), code=1)
    assert "holds no memory of the method 'memory_method' (it is of grpo)" in refused


def test_a_rollouts_file_has_the_methods_own_quantities_and_what_they_are(memory_method, task, model, tmp_path):
    out = tmp_path / "run"
    run_here(command(out, model, task, *MEMORY, f"trainer.rollout_data_dir={out / 'rollouts'}", "trainer.total_training_steps=1"))
    path = out / "rollouts" / "step_000001.parquet"
    assert [item.name for item in read_quantities(path)][-1] == "shifted" and read_quantities(path)[-1] == METHOD.tokens[0]
    for row in pq.read_table(path).to_pylist():
        assert row["shifted"] == pytest.approx([a - 1 for a in row["advantage"]], abs=1e-6)
        assert len(row["entropy"]) == len(row["z"]) == row["length"]
    assert "memory_method" in (out / "model" / "README.md").read_text()


def test_a_wrong_value_is_refused_before_a_model_is_loaded(memory_method, task, tmp_path):
    output = run_here(command(tmp_path / "run", Path("/no/such/model"), task, *MEMORY[:1], "+algorithm.memory_method.rat=1"), code=1)
    assert "algorithm.memory_method.rat = 1: unknown key; the nearest known key is algorithm.memory_method.rate" in output
    assert "no/such/model" not in output and not (tmp_path / "run").exists()
    assert "  algorithm.memory_method.rate = 0.5\n" in keys_text()


def keys_text():
    from erpo_verl.trainer.settings import help_text

    return help_text()


@pytest.mark.parametrize("name", methods.BUILT_IN)
def test_every_method_trains(name, task, model, tmp_path):
    """One step of each: it changes the weights, and its metrics are those it declares."""
    run_here(command(tmp_path / name, model, task, f"algorithm.adv_estimator={name}", "trainer.total_training_steps=1"))
    (line,) = (line["data"] for line in metrics(tmp_path / name) if line["step"] == 1)
    assert {metric.name for metric in methods.get(name).metrics} - {"erpo/bound_share/mean", "erpo/strength/mean"} <= line.keys()
    assert not same_weights(model, tmp_path / name / "model")


def test_groups_that_nobody_could_judge_have_no_advantage():
    settings = settings_for("algorithm.erpo.preset=ep_grpo")
    batch = random_batch(prompts=3)
    g = torch.Generator().manual_seed(0)
    some = {name: torch.rand(batch.response_mask.shape, generator=g) for name in ("entropy", "old_log_probs", "ref_log_prob")}
    batch = replace(batch, scores=torch.zeros(12), reward_info={"ungradeable": [0.0] * 5 + [1.0] + [0.0] * 6}, **some)
    batch = replace(batch, token_level_rewards=token_level_rewards(batch, settings)[0])
    credit = advantages(batch, settings, 1)
    assert not credit.advantages[4:8].any() and credit.advantages[:4].any() and credit.advantages[8:].any()
    assert credit.metrics["erpo/left_out_responses/mean"] == pytest.approx(1 / 3)
