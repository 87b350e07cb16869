"""Settings: every wrong one is an error that names the right one."""

from __future__ import annotations

from pathlib import Path

import pytest
from erpo_verl.reward import RewardConfig, RewardConfigError


def test_defaults_are_valid_and_scalar():
    for item in RewardConfig.settings():
        assert type(item.default) is item.kind and item.kind in (bool, int, float, str), item.name
        assert item.help and item.accepts(item.default) and getattr(RewardConfig(), item.name) == item.default


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"time_limit": 3}, "time_limit_s"),
        ({"workerz": 3}, "workers"),
        ({"percent": "lenint"}, "lenient"),
        ({"percent": None}, "one of"),
        ({"workers": 0}, ">= 1 and <= 256"),
        ({"workers": 1.5}, "an integer"),
        ({"workers": "2"}, "an integer"),
        ({"workers": True}, "an integer"),
        ({"rel_tol": float("nan")}, "finite number"),
        ({"rel_tol": 0.5}, ">= 0 and <= 0.1"),
        ({"require_think": 1}, "true or false"),
        ({"overlong_limit": 10, "overlong_buffer": 20}, "must not exceed"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(RewardConfigError, match=message):
        RewardConfig.from_mapping(settings)


def test_whole_floats_pass_as_integers():
    config = RewardConfig.from_mapping({"workers": 3.0, "rel_tol": 0})
    assert config.workers == 3 and isinstance(config.workers, int)
    assert config.rel_tol == 0.0 and isinstance(config.rel_tol, float)


def test_the_documentation_lists_every_setting_with_its_default():
    text = (Path(__file__).resolve().parents[2] / "docs" / "reward.md").read_text(encoding="utf-8")
    for item in RewardConfig.settings():
        assert f"| `{item.name}` | `{item.written}` | {item.allowed} | {item.help} |" in text, item.name
