"""Settings that cannot work are refused before anything heavy is loaded: on verl's real, composed configuration."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("verl")

from hydra import compose, initialize_config_module
from method_tools import Entry, install

from erpo_verl.settings import SettingsError
from erpo_verl.verl_plugin.checks import check_config

GOOD = [
    "algorithm.adv_estimator=erpo",
    "actor_rollout_ref.actor.use_kl_loss=true",
    "actor_rollout_ref.actor.kl_loss_coef=0",
    "actor_rollout_ref.rollout.n=8",
]


def composed(*overrides: str):
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", overrides=list(overrides))


def test_good_settings_pass_and_come_back():
    erpo = check_config(composed(*GOOD, "+algorithm.erpo.gate.gamma=3", "+algorithm.erpo.preset=ep_grpo"))
    assert erpo.gate.gamma == 3.0 and erpo.buckets.axis == "cumulative_entropy"


def test_defaults_are_the_papers():
    erpo = check_config(composed(*GOOD))
    assert (erpo.gate.gamma, erpo.progress.beta, erpo.progress.eta, erpo.buckets.count) == (5.0, 0.1, 0.2, 10)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["+algorithm.erpo.gate.gama=3"], ["algorithm.erpo.gate.gama", "gamma"]),
        (["+algorithm.erpo.gate.gamma=-1"], ["algorithm.erpo.gate.gamma", "-1", ">= 0"]),
        (["actor_rollout_ref.rollout.n=1"], ["actor_rollout_ref.rollout.n=1", "2 or more"]),
        (
            ["actor_rollout_ref.actor.use_kl_loss=false"],
            ["actor_rollout_ref.actor.use_kl_loss=true", "kl_loss_coef=0", "progress.enable=false"],
        ),
        (["algorithm.rollout_correction.bypass_mode=true"], ["algorithm.rollout_correction.bypass_mode=false", "entropies"]),
        (
            [
                "actor_rollout_ref.actor.policy_loss.loss_mode=erpo",
                "actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-sum-norm",
            ],
            ["actor_rollout_ref.actor.loss_scale_factor"],
        ),
    ],
)
def test_refused(overrides, expected):
    with pytest.raises(SettingsError) as error:
        check_config(composed(*GOOD, *overrides))
    assert all(part in str(error.value) for part in expected), str(error.value)


def test_all_problems_come_at_once():
    with pytest.raises(SettingsError) as error:
        check_config(
            composed(
                "algorithm.adv_estimator=erpo",
                "+algorithm.erpo.progress.eta=-1",
                "+algorithm.erpo.buckets.cuont=5",
                "actor_rollout_ref.rollout.n=1",
                "algorithm.rollout_correction.bypass_mode=true",
            )
        )
    assert len(error.value.problems) == 4


@pytest.mark.parametrize("off", ["+algorithm.erpo.progress.enable=false", "+algorithm.erpo.progress.eta=0"])
def test_no_reference_policy_is_needed_without_the_progress_term(off):
    assert check_config(composed("algorithm.adv_estimator=erpo", "actor_rollout_ref.rollout.n=8", off)) is not None


def test_kl_in_reward_brings_a_reference_policy_too():
    assert check_config(composed("algorithm.adv_estimator=erpo", "actor_rollout_ref.rollout.n=8", "algorithm.use_kl_in_reward=true"))


def test_others_are_left_alone(capsys):
    assert check_config(composed("algorithm.adv_estimator=grpo", "actor_rollout_ref.rollout.n=1")) is None
    assert capsys.readouterr().err == ""
    assert check_config(composed("algorithm.adv_estimator=grpo", "+algorithm.erpo.gate.gamma=3")) is None
    assert "ignored" in capsys.readouterr().err


def test_a_method_of_another_package_is_checked_too(monkeypatch):
    install(monkeypatch, Entry("memory_method", "memory_method:METHOD"))
    run = ["algorithm.adv_estimator=memory_method", "actor_rollout_ref.rollout.n=8"]
    assert check_config(composed(*run, "+algorithm.memory_method.rate=0.1")).rate == 0.1
    with pytest.raises(SettingsError, match=r"algorithm\.memory_method\.rat = 1: unknown key.*memory_method\.rate"):
        check_config(composed(*run, "+algorithm.memory_method.rat=1"))
    # It needs neither entropies nor a reference.
    assert check_config(composed(*run, "algorithm.rollout_correction.bypass_mode=true")) is not None


def test_one_that_cannot_be_loaded_is_refused_with_the_reason(monkeypatch):
    install(monkeypatch, Entry("broken", "no_such_module:METHOD"))
    with pytest.raises(SettingsError, match=r"algorithm\.adv_estimator=broken: .*no_such_module.*their-package"):
        check_config(composed("algorithm.adv_estimator=broken"))


def test_diagnostics_is_a_switch():
    assert check_config(composed("algorithm.adv_estimator=grpo", "+algorithm.diagnostics=true")) is None
    with pytest.raises(SettingsError, match=r"algorithm\.diagnostics = 'all': must be true or false"):
        check_config(composed("algorithm.adv_estimator=grpo", "+algorithm.diagnostics=all"))


def test_main_ppo_refuses_before_it_starts_ray():
    """The road that a user takes: the model path does not even exist, and nobody gets to look."""
    done = subprocess.run(
        [
            *[sys.executable, "-W", "ignore", "-m", "verl.trainer.main_ppo", *GOOD, "+algorithm.erpo.gate.gama=3"],
            "actor_rollout_ref.model.path=/no/such/model",
        ],
        capture_output=True,
        text=True,
        timeout=240,
        cwd="/",
        env={k: v for k, v in os.environ.items() if not k.startswith("ERPO_")},
    )
    assert done.returncode != 0
    assert "algorithm.erpo.gate.gama" in done.stderr and "algorithm.erpo.gate.gamma" in done.stderr
    assert "ray init kwargs" not in done.stdout + done.stderr
