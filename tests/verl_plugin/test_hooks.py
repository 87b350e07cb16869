"""What is planted into verl's trainers, on trainers of the same shape: no Ray, no model, no TransferQueue."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("verl")

from core_batches import same
from method_tools import Entry, install
from omegaconf import OmegaConf
from test_estimator import ONE_OUTPUT, logged, made_batch
from verl.trainer.ppo import core_algos
from verl.trainer.ppo.ray_trainer import compute_advantage
from verl.trainer.ppo.v1.utils import compute_advantage_for_multi_trajectories

from erpo_verl import methods
from erpo_verl.methods.contract import diagnosed
from erpo_verl.verl_plugin import context, estimator, hooks


@pytest.fixture
def memory_method(monkeypatch):
    install(monkeypatch, Entry("memory_method", "memory_method:METHOD"))
    monkeypatch.setitem(core_algos.ADV_ESTIMATOR_REGISTRY, "memory_method", estimator.estimator_of("memory_method"))


@pytest.fixture(autouse=True)
def no_batch_of_another_test():
    context.announce(None)
    yield
    context.announce(None)


def settings(name, folder="", **algorithm):
    return OmegaConf.create(
        {
            "algorithm": {"adv_estimator": name, **algorithm},
            "actor_rollout_ref": {"rollout": {"n": 4}, "actor": {"use_kl_loss": True}},
            "reward": {"custom_reward_function": {"path": "pkg://erpo_verl.reward"}},
            "trainer": {"default_local_dir": str(folder), "resume_mode": "auto", "resume_from_path": None},
        }
    )


# --- The legacy trainer


def legacy(monkeypatch):
    """A module as verl's legacy trainer is one, with the hooks on it."""

    class RayPPOTrainer:
        def __init__(self, config):
            self.config, self.global_steps = config, 1

        def _compute_old_log_prob(self, batch):
            data, entropy = batch
            return SimpleNamespace(batch={"entropys": entropy, "old_log_probs": data.batch["old_log_probs"]}), 0.0

        def _update_actor(self, batch):
            return SimpleNamespace(meta_info={"metrics": {}})

        def _save_checkpoint(self):
            return "saved"

        def _load_checkpoint(self):
            return "loaded"

    module = SimpleNamespace(compute_advantage=compute_advantage.__wrapped__, RayPPOTrainer=RayPPOTrainer)
    hooks.legacy_trainer(module)
    return module


def test_the_legacy_road_gives_the_methods_credit_and_logs_its_metrics(monkeypatch):
    module = legacy(monkeypatch)
    trainer = module.RayPPOTrainer(settings("erpo"))
    data, entropy = made_batch(ONE_OUTPUT)
    trainer._compute_old_log_prob((data, entropy))
    result = module.compute_advantage(data, "erpo", config=trainer.config.algorithm)
    given = {k: v for k, v in data.batch.items() if k not in ("advantages", "returns")}
    expected = methods.get("erpo").credit(methods.TokenBatch(**given, index=data.non_tensor_batch["uid"], entropy=entropy, step=1))
    assert torch.equal(result.batch["advantages"], expected.advantages)
    assert same(trainer._update_actor(data).meta_info["metrics"], logged(expected.metrics))
    assert context.current() is None


def test_a_trainer_that_skips_old_log_probs_does_not_get_the_entropies_of_the_step_before(monkeypatch):
    module = legacy(monkeypatch)
    trainer = module.RayPPOTrainer(settings("erpo"))
    first, entropy = made_batch(ONE_OUTPUT)
    second, _ = made_batch(ONE_OUTPUT, seed=9)
    trainer._compute_old_log_prob((first, entropy))
    with pytest.raises(RuntimeError, match="did not announce its batch"):
        module.compute_advantage(second, "erpo", config=trainer.config.algorithm)
    # Nor does the same batch a second time, where the actor was not updated in between.
    trainer._compute_old_log_prob((first, entropy))
    module.compute_advantage(first, "erpo", config=trainer.config.algorithm)
    with pytest.raises(RuntimeError, match="did not announce its batch"):
        module.compute_advantage(first, "erpo", config=trainer.config.algorithm)
    assert trainer._update_actor(first).meta_info["metrics"] == {}


def test_the_legacy_trainer_leaves_out_what_could_not_be_judged(monkeypatch):
    module = legacy(monkeypatch)
    trainer = module.RayPPOTrainer(settings("erpo"))
    data, entropy = made_batch(ONE_OUTPUT)
    data.non_tensor_batch["ungradeable"] = np.array([float(key == "c_0_0") for key in ONE_OUTPUT])
    trainer._compute_old_log_prob((data, entropy))
    advantages = module.compute_advantage(data, "erpo", config=trainer.config.algorithm).batch["advantages"]
    group = torch.tensor([key.startswith("c") for key in ONE_OUTPUT])
    assert not advantages[group].any() and advantages[~group].any()


@pytest.mark.parametrize("wanted", [True, False])
def test_verls_own_grpo_gets_the_diagnostics_if_asked(monkeypatch, wanted):
    module = legacy(monkeypatch)
    trainer = module.RayPPOTrainer(settings("grpo", diagnostics=wanted))
    data, entropy = made_batch(ONE_OUTPUT)
    plain = module.compute_advantage(data, "grpo", config=trainer.config.algorithm).batch["advantages"].clone()
    trainer._compute_old_log_prob((data, entropy))
    result = module.compute_advantage(data, "grpo", config=trainer.config.algorithm)
    assert torch.equal(result.batch["advantages"], plain)
    given = {k: v for k, v in data.batch.items() if k not in ("advantages", "returns")}
    given = methods.TokenBatch(**given, index=data.non_tensor_batch["uid"], entropy=entropy, step=1)
    expected = diagnosed(given, plain).metrics if wanted else {}
    assert same(trainer._update_actor(data).meta_info["metrics"], logged(expected))
    assert not wanted or {"erpo/cdp_share/mean", "erpo/length_right/mean", "erpo/groups_mixed/mean"} <= set(expected)


def test_a_memory_survives_a_checkpoint_bit_for_bit(monkeypatch, memory_method, tmp_path):
    module = legacy(monkeypatch)
    batches = [made_batch(ONE_OUTPUT, seed=seed) for seed in range(4)]

    def steps(trainer, some):
        found = []
        for data, entropy in some:
            trainer._compute_old_log_prob((data, entropy))
            found.append(module.compute_advantage(data, "memory_method", config=trainer.config.algorithm).batch["advantages"].clone())
            trainer._update_actor(data)
        return found

    straight = steps(module.RayPPOTrainer(settings("memory_method", tmp_path)), batches)
    first = module.RayPPOTrainer(settings("memory_method", tmp_path))
    steps(first, batches[:2])
    first.global_steps = 2
    assert first._save_checkpoint() == "saved"
    again = module.RayPPOTrainer(settings("memory_method", tmp_path))
    again.global_steps = 2
    assert again._load_checkpoint() == "loaded"
    assert all(torch.equal(a, b) for a, b in zip(steps(again, batches[2:]), straight[2:], strict=True))
    assert not torch.equal(steps(module.RayPPOTrainer(settings("memory_method", tmp_path)), batches[2:])[0], straight[2])

    other = module.RayPPOTrainer(settings("memory_method", tmp_path / "elsewhere"))
    other.global_steps = 2
    with pytest.raises(RuntimeError, match="holds no memory of the method 'memory_method'"):
        other._load_checkpoint()


def test_a_method_without_memory_writes_nothing_beside_the_checkpoint(monkeypatch, tmp_path):
    module = legacy(monkeypatch)
    trainer = module.RayPPOTrainer(settings("erpo", tmp_path))
    data, entropy = made_batch(ONE_OUTPUT)
    trainer._compute_old_log_prob((data, entropy))
    module.compute_advantage(data, "erpo", config=trainer.config.algorithm)
    trainer._save_checkpoint()
    trainer._load_checkpoint()
    assert list(tmp_path.iterdir()) == []


# --- verl's default trainer


class Queue:
    """The TransferQueue, as far as the hooks read from it."""

    def __init__(self, **fields):
        self.fields, self.asked = fields, []

    def kv_batch_get(self, keys, partition_id, select_fields):
        self.asked.append((tuple(keys), *select_fields))
        if select_fields[0] not in self.fields:
            raise KeyError(f"no field {select_fields[0]}")
        return self.fields


def v1(monkeypatch, queue):
    import sys

    class PPOTrainer:
        def __init__(self, config, data):
            self.config, self.global_steps, self.data = config, 3, data

        def _log_rollout_data(self, batch, timing_raw, rollout_data_dir):
            pass

        def _compute_advantage(self, batch, metrics):
            algorithm = self.config.algorithm
            road = module.compute_advantage_for_multi_trajectories
            return road(self.data, batch_keys=batch.keys, adv_estimator=algorithm.adv_estimator, config=algorithm).batch["advantages"]

        def _compute_metrics(self, batch, metrics, *args):
            return "computed"

        def _save_checkpoint(self):
            pass

        def _load_checkpoint(self):
            pass

    monkeypatch.setitem(sys.modules, "transfer_queue", queue)
    module = SimpleNamespace(PPOTrainer=PPOTrainer, compute_advantage_for_multi_trajectories=compute_advantage_for_multi_trajectories)
    hooks.v1_trainer(module)
    hooks.v1_reward_metrics(module)
    return module.PPOTrainer


def v1_batch(keys):
    return SimpleNamespace(keys=keys, partition_id="train", tags=[{"is_padding": False} for _ in keys])


def extras(marks):
    return [{"reward_extra_info": {"ungradeable": mark, "acc": 1.0}} for mark in marks]


def test_the_v1_trainer_leaves_out_what_could_not_be_judged(monkeypatch):
    data, entropy = made_batch(ONE_OUTPUT)
    nested = SimpleNamespace(to_padded_tensor=lambda value: entropy)
    queue = Queue(entropy=nested, extra_fields=extras([float(key == "b_2_0") for key in ONE_OUTPUT]))
    trainer, metrics = v1(monkeypatch, queue)(settings("erpo"), data), {}
    advantages = trainer._compute_advantage(v1_batch(ONE_OUTPUT), metrics)
    group = torch.tensor([key.startswith("b") for key in ONE_OUTPUT])
    assert not advantages[group].any() and advantages[~group].any()
    assert metrics["erpo/left_out_responses/mean"] == pytest.approx(1 / 3)


def test_a_reward_that_does_not_say_so_leaves_nothing_out(monkeypatch):
    data, entropy = made_batch(ONE_OUTPUT)
    nested = SimpleNamespace(to_padded_tensor=lambda value: entropy)
    for found in (extras([None] * 12), [{}] * 12, [None] * 12, ["text"] * 12, [{"reward_extra_info": None}] * 12):
        trainer, metrics = v1(monkeypatch, Queue(entropy=nested, extra_fields=found))(settings("erpo"), data), {}
        trainer._compute_advantage(v1_batch(ONE_OUTPUT), metrics)
        assert metrics["erpo/left_out_responses/mean"] == 0


def test_a_reward_that_leaves_nothing_in_the_queue_is_said_and_stops_no_run(monkeypatch, capsys):
    monkeypatch.delenv("ERPO_VERL_ANNOUNCED", raising=False)
    data, entropy = made_batch(ONE_OUTPUT)
    queue = Queue(entropy=SimpleNamespace(to_padded_tensor=lambda value: entropy))
    trainer, metrics = v1(monkeypatch, queue)(settings("erpo"), data), {}
    assert trainer._compute_advantage(v1_batch(ONE_OUTPUT), metrics).any() and metrics["erpo/left_out_responses/mean"] == 0
    assert "no group is left out: KeyError" in capsys.readouterr().err


def test_grpo_of_the_v1_trainer_gets_the_diagnostics_over_whole_sessions(monkeypatch):
    keys = ["a_0_0", "a_1_0", "a_0_1", "b_0_0", "a_2_0", "b_1_0"]
    data, entropy = made_batch(keys)
    nested = SimpleNamespace(to_padded_tensor=lambda value: entropy)
    trainer, metrics = v1(monkeypatch, Queue(entropy=nested, extra_fields=[{}] * 6))(settings("grpo", diagnostics=True), data), {}
    advantages = trainer._compute_advantage(v1_batch(keys), metrics)
    size = advantages.abs().sum() / data.batch["response_mask"].sum()
    assert metrics["erpo/advantage_abs/mean"] == pytest.approx(size.item())
    assert 0 < metrics["erpo/cdp_share/mean"] < 1
    plain, nothing = v1(monkeypatch, Queue())(settings("grpo"), made_batch(keys)[0]), {}
    assert torch.equal(plain._compute_advantage(v1_batch(keys), nothing), advantages) and nothing == {}


@pytest.mark.parametrize("found", [None, [3], [{"reward_extra_info": {"fast_path": object(), "reason": "x"}}] * 12, [{}]])
def test_the_rewards_counters_stop_nobodys_run(monkeypatch, capsys, found):
    """Whatever another package's reward leaves in the TransferQueue, or nothing at all."""
    monkeypatch.delenv("ERPO_VERL_ANNOUNCED", raising=False)
    queue = Queue() if found is None else Queue(extra_fields=found)
    trainer, metrics = v1(monkeypatch, queue)(settings("gae"), None), {"mine": 1.0}
    for _ in range(2):
        assert trainer._compute_metrics(v1_batch(ONE_OUTPUT), metrics, {}, 1, 1) == "computed"
    assert metrics["mine"] == 1.0
    assert capsys.readouterr().err.count("the run goes on") <= 1
    tagless = SimpleNamespace(keys=["a"], partition_id="train", tags=None)
    assert trainer._compute_metrics(tagless, metrics, {}, 1, 1) == "computed"


