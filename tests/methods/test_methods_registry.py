"""The registry, and what the contract refuses."""

import dataclasses

import pytest
import torch
from core_batches import random_batch, same
from memory_method import METHOD, MemorySettings
from method_tools import Entry, install

from erpo_verl import methods
from erpo_verl.methods.contract import Method, MethodError, Metric, Quantity, diagnosed
from erpo_verl.methods.grpo import compute as grpo
from erpo_verl.settings import SettingsError

MEMORY = Entry("memory_method", "memory_method:METHOD")


def given(batch, **fields):
    return methods.TokenBatch(**{**vars(batch), **fields})


def test_the_built_in_methods_are_there_in_order():
    assert methods.names()[: len(methods.BUILT_IN)] == list(methods.BUILT_IN)
    for name in methods.BUILT_IN:
        method = methods.get(name)
        assert method.name == name and method.about
        assert method.configure(method.configure(None).to_dict()) == method.configure(None)


def test_a_method_of_another_package_comes_in(monkeypatch):
    install(monkeypatch, MEMORY)
    assert methods.names() == methods.registered() == [*methods.BUILT_IN, "memory_method"]
    assert methods.get("memory_method") is METHOD
    assert methods.all_methods()[-1] is METHOD


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (Entry("broken", "no_such_module:METHOD"), "No module named 'no_such_module'"),
        (Entry("broken", "memory_method:compute"), "not a Method"),
        (Entry("broken", "memory_method:METHOD"), "is named 'memory_method'"),
        (Entry("grpo", "memory_method:METHOD"), "there is a method 'grpo' already"),
    ],
)
def test_one_that_cannot_be_loaded_is_said_once_with_its_package_and_stops_no_other(monkeypatch, capsys, entry, reason):
    install(monkeypatch, entry, MEMORY)
    assert methods.names() == [*methods.BUILT_IN, "memory_method"]
    methods.all_methods()
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("erpo-verl: ") and "their-package 1.2" in said and reason in said
    if entry.name == "broken":
        with pytest.raises(methods.UnknownMethodError, match=r"could not be loaded.*their-package 1\.2"):
            methods.get("broken")


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(methods.UnknownMethodError, match=r"no method 'erp'.*the nearest is erpo"):
        methods.get("erp")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "My-Method"}, "one word of small letters"),
        ({"metrics": (Metric("memory_method/baseline", "", "", ""),)}, "must be method/name/mean"),
        ({"metrics": (Metric("memory_method/summary/mean", "", "", ""),)}, "verl would take 'sum'"),
        ({"metrics": (Metric("erpo/x/mean", "", "", ""),)}, "must begin with 'memory_method/'"),
        ({"tokens": (Quantity("entropy", "", "", ""),)}, "'entropy': this name is taken"),
        ({"tokens": (Quantity("a", "", "", ""), Quantity("a", "", "", ""))}, "'a': this name is taken"),
        ({"name": "other"}, "prefix='algorithm.other.'"),
    ],
)
def test_a_declaration_that_cannot_work_is_refused_when_it_is_made(change, message):
    with pytest.raises(MethodError, match=message):
        dataclasses.replace(METHOD, **change)


def test_what_is_not_declared_is_refused():
    batch = random_batch(0, 6, 5, 2)
    with pytest.raises(MethodError, match="metric 'memory_method/baseline/mean', which it does not declare"):
        dataclasses.replace(METHOD, metrics=()).credit(given(batch))
    with pytest.raises(MethodError, match="quantity 'shifted', which it does not declare"):
        dataclasses.replace(METHOD, tokens=()).credit(given(batch), keep_tokens=True)
    with pytest.raises(MethodError, match="needs 'values'"):
        Method("x", "x", grpo, needs=lambda settings, step: {"values"}).credit(given(batch))


def test_settings_of_a_method_are_checked_and_one_without_has_none():
    with pytest.raises(SettingsError, match=r"algorithm\.memory_method\.rat = 1: unknown key; the nearest known key is algorithm\.memory_method\.rate"):
        METHOD.configure({"rat": 1})
    with pytest.raises(SettingsError, match=r"algorithm\.memory_method\.rate = 2: must be a finite number > 0 and <= 1"):
        METHOD.configure({"rate": 2})
    with pytest.raises(SettingsError, match=r"algorithm\.grpo\.rate: unknown key; grpo has no settings"):
        methods.get("grpo").configure({"rate": 2})
    assert METHOD.configure({"rate": 1}) == MemorySettings(rate=1.0)


def test_a_memory_is_given_and_returned():
    batch = random_batch(3, 12, 5, 3)
    first = METHOD.credit(given(batch), {"rate": 0.5})
    second = METHOD.credit(given(batch), {"rate": 0.5}, state=first.state)
    mean = batch.token_level_rewards.sum(dim=1).mean().item()
    assert (first.state["batches"], second.state["batches"]) == (1, 2)
    assert second.metrics["memory_method/baseline/mean"] == pytest.approx(0.75 * mean)
    again = METHOD.credit(given(batch), {"rate": 0.5}, state=first.state)
    assert torch.equal(again.advantages, second.advantages)  # what it is given is not changed


@pytest.mark.parametrize("name", methods.BUILT_IN)
def test_a_group_that_could_not_be_judged_is_left_out_and_changes_no_other(name):
    batch = random_batch(5, 30, 9, 6)
    left_out = torch.zeros(30, dtype=torch.bool)
    left_out[[4, 11]] = True
    gone = torch.tensor([x in {batch.index[4], batch.index[11]} for x in batch.index])
    method, kept = methods.get(name), [i for i in range(30) if not gone[i]]
    result = method.credit(given(batch, left_out=left_out, step=1), keep_tokens=True)
    alone = method.credit(given(batch.rows(kept), step=1))
    assert not result.advantages[gone].any() and torch.equal(result.advantages[~gone], alone.advantages)
    assert result.advantages[~gone].any()
    assert torch.equal(result.advantages[result.tokens.row, result.tokens.column], result.tokens.advantages)
    assert result.metrics.pop("erpo/left_out_responses/mean") == pytest.approx(int(gone.sum()) / 30)
    assert alone.metrics.pop("erpo/left_out_responses/mean") == 0
    assert same(result.metrics, alone.metrics)
    nobody = method.credit(given(batch, left_out=torch.ones(30, dtype=torch.bool), step=1))
    assert not nobody.advantages.any() and nobody.metrics == {"erpo/left_out_responses/mean": 1.0}


def test_left_out_means_no_anchor_under_rule_threshold():
    """All answers of a prompt scored 0 because its gold cannot be read: -1 for nobody."""
    batch = random_batch(5, 8, 9, 1, rewards="ones")
    batch.token_level_rewards[:] = 0
    settings = {"preset": "ep_grpo"}
    assert methods.get("erpo").credit(given(batch), settings).advantages.any()
    assert not methods.get("erpo").credit(given(batch, left_out=torch.ones(8)), settings).advantages.any()


def test_the_diagnostics_of_advantages_made_elsewhere_are_those_of_grpo():
    batch = random_batch(9, 40, 12, 8, dtype=torch.float32)
    result = methods.get("grpo").credit(given(batch))
    assert same(diagnosed(given(batch), result.advantages).metrics, result.metrics)
    left_out = torch.arange(40) == 3
    result = methods.get("grpo").credit(given(batch, left_out=left_out))
    assert same(diagnosed(given(batch, left_out=left_out), result.advantages).metrics, result.metrics)
