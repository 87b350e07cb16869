"""ErpoConfig: defaults, presets, and errors that name the key, the value, the range and the nearest key."""

import dataclasses
import math

import pytest
from core_batches import examples, nest
from hypothesis import given
from hypothesis import strategies as st

from erpo_verl import ErpoConfig, ErpoConfigError
from erpo_verl.methods.erpo_settings import GateConfig, ProgressConfig
from erpo_verl.settings import Setting, Settings, SettingsError, nearest, setting

KEYS = [row.name for row in ErpoConfig.settings()]


def problems_of(settings):
    with pytest.raises(ErpoConfigError) as error:
        ErpoConfig.from_mapping(settings)
    assert all(problem in str(error.value) for problem in error.value.problems)
    return error.value.problems


def test_the_defaults_are_the_papers_reading():
    assert ErpoConfig.from_mapping(None) == ErpoConfig.from_mapping({}) == ErpoConfig()
    assert ErpoConfig().to_dict() == {
        "preset": "erpo",
        "gate": {"enable": True, "gamma": 5.0, "normalize": "none", "measure": "entropy", "side": "all"},
        "progress": {
            "enable": True,
            "beta": 0.1,
            "eta": 0.2,
            "min_std": 1e-3,
            "clip": None,
            "warmup_steps": 0,
            "decay_steps": None,
            "anchor": "sign",
        },
        "buckets": {"count": 10, "axis": "position", "scope": "prompt", "difficulty_bands": 4},
        "zero_variance": {"rule": "zero", "threshold": 0.5},
        "synthesis": {"bound": None},
        "strength": {"entropy_target": None, "fade_steps": None},
    }


def test_a_single_setting_overrides_its_preset():
    ep_grpo = ErpoConfig.from_mapping({"preset": "ep_grpo"})
    assert ep_grpo == ErpoConfig(preset="ep_grpo")
    assert (ep_grpo.buckets.axis, ep_grpo.zero_variance.rule) == ("cumulative_entropy", "threshold")
    assert ep_grpo.progress == ErpoConfig().progress
    mixed = ErpoConfig.from_mapping({"preset": "ep_grpo", "buckets": {"axis": "position", "count": 3}})
    assert (mixed.buckets.axis, mixed.buckets.count, mixed.zero_variance.rule) == ("position", 3, "threshold")


def test_it_is_frozen_and_can_be_changed_by_replace():
    config = ErpoConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.gate.gamma = 1.0
    changed = dataclasses.replace(config, progress=dataclasses.replace(config.progress, eta=0.0))
    assert not changed.progress.active and config.progress.active
    with pytest.raises(ErpoConfigError):
        dataclasses.replace(config.gate, gamma=-1.0)
    with pytest.raises(TypeError, match="from_mapping"):
        ErpoConfig(gate={"gamma": 1.0})


valid = {
    "preset": st.sampled_from(["erpo", "ep_grpo"]),
    "gate.enable": st.booleans(),
    "gate.gamma": st.floats(0, 1e6),
    "gate.normalize": st.sampled_from(["none", "mean_one"]),
    "progress.enable": st.booleans(),
    "progress.beta": st.floats(0, 10, exclude_min=True),
    "progress.eta": st.floats(0, 10) | st.integers(0, 3),
    "progress.min_std": st.floats(0, 10),
    "progress.clip": st.none() | st.floats(0, 10, exclude_min=True),
    "progress.warmup_steps": st.integers(0, 10**6),
    "progress.decay_steps": st.none() | st.integers(1, 10**6),
    "progress.anchor": st.sampled_from(["sign", "centered_sign", "advantage"]),
    "buckets.count": st.integers(1, 1000),
    "buckets.axis": st.sampled_from(["position", "cumulative_entropy"]),
    "buckets.scope": st.sampled_from(["prompt", "difficulty"]),
    "buckets.difficulty_bands": st.integers(1, 100),
    "zero_variance.rule": st.sampled_from(["zero", "threshold"]),
    "zero_variance.threshold": st.floats(-10, 10),
    "gate.measure": st.sampled_from(["entropy", "surprisal"]),
    "gate.side": st.sampled_from(["all", "positive"]),
    "synthesis.bound": st.none() | st.floats(0, 10, exclude_min=True),
    "strength.entropy_target": st.none() | st.floats(0, 10, exclude_min=True),
    "strength.fade_steps": st.none() | st.integers(1, 10**6),
}
common = [math.nan, math.inf, -math.inf, "5", "0.1", [], (1,), object()]
invalid = {
    key: common + extra
    for key, extra in {
        "gate.gamma": [True, None, -0.1],
        "progress.beta": [False, None, 0, -1],
        "progress.eta": [True, None, -1e-9],
        "progress.min_std": [None, -1e-9],
        "progress.clip": [True, 0, -1.0],
        "progress.warmup_steps": [None, -1, 1.0, True],
        "progress.decay_steps": [0, 2.5, True],
        "buckets.count": [None, 0, 10.0, True],
        "buckets.difficulty_bands": [None, 0, 4.0],
        "zero_variance.threshold": [None, True],
        "gate.enable": [None, 1, 0, "true"],
        "progress.enable": [None, 1, "false"],
        "preset": [None, True, "ERPO", "grpo"],
        "gate.normalize": [None, True, "mean"],
        "progress.anchor": [None, "Sign"],
        "buckets.axis": [None, "entropy"],
        "buckets.scope": [None, "group"],
        "zero_variance.rule": [None, 0],
        "gate.measure": [None, "surprise"],
        "gate.side": [None, True, "negative"],
        "synthesis.bound": [True, 0, -0.5],
        "strength.entropy_target": [True, 0, -1.0],
        "strength.fade_steps": [0, 2.5, True],
    }.items()
}


def test_the_strategies_know_every_setting():
    assert set(valid) == set(invalid) == set(KEYS)


@examples(100)
@given(st.fixed_dictionaries({}, optional=valid))
def test_what_is_valid_is_taken_and_survives_the_round_trip(flat):
    config = ErpoConfig.from_mapping(nest(flat))
    written = config.to_dict()
    assert ErpoConfig.from_mapping(written) == config
    assert ErpoConfig.from_mapping(flat) == config  # dotted keys do as well
    for key, value in flat.items():
        node = written
        for name in key.split("."):
            node = node[name]
        assert node == value and type(node) in (type(value), float)  # an integer is a fine float


@pytest.mark.parametrize("key", KEYS)
def test_what_is_invalid_is_named_with_its_range(key):
    allowed = {row.name: row.allowed for row in ErpoConfig.settings()}
    for value in invalid[key]:
        (problem,) = problems_of(nest({key: value}))
        assert problem.startswith(f"algorithm.erpo.{key} = {value!r}: must be {allowed[key]}")


def test_text_that_looks_like_a_number_gets_a_hint():
    (problem,) = problems_of({"progress": {"eta": "1e-3"}})
    assert "this is text" in problem and "1.0e-3" in problem


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("gama", "gate.gamma"),
        ("gamma", "gate.gamma"),
        ("gate.gama", "gate.gamma"),
        ("gate.eta", "progress.eta"),
        ("progress.warmup", "progress.warmup_steps"),
        ("buckets.K", "buckets.count"),
        ("progres.eta", "progress.eta"),
        ("zero_variance.treshold", "zero_variance.threshold"),
        ("progress.min_sd", "progress.min_std"),
        ("bands", "buckets.difficulty_bands"),
    ],
)
def test_an_unknown_key_gets_the_nearest_known_one(key, nearest):
    (problem,) = problems_of(nest({key: 1}))
    assert problem.startswith(f"algorithm.erpo.{key} = 1: unknown key")
    if key != "buckets.K":  # nothing in that name points to `count`; some key of the section is near enough
        assert f"nearest known key is algorithm.erpo.{nearest} (" in problem


def test_all_problems_are_reported_at_once():
    problems = problems_of(
        {
            "preset": "x",
            "gate": {"gamma": -1, "gama": 2},
            "progress": {"eta": math.nan, "beta": "a"},
            "buckets": 3,
            7: 1,
        }
    )
    assert len(problems) == 7
    assert any("algorithm.erpo.buckets = 3: must be a mapping of count, axis" in p for p in problems)


def test_a_key_given_twice_is_an_error():
    (problem,) = problems_of({"gate": {"gamma": 1.0}, "gate.gamma": 2.0})
    assert problem == "algorithm.erpo.gate.gamma: given twice"


@pytest.mark.parametrize("value", [3, "erpo", [1], True])
def test_something_that_is_no_mapping_is_refused(value):
    (problem,) = problems_of(value)
    assert "must be a mapping of settings" in problem


def test_omegaconf():
    omegaconf = pytest.importorskip("omegaconf")
    tree = omegaconf.OmegaConf.create({"x": 3.0, "erpo": {"gate": {"gamma": "${x}"}, "progress": {"clip": None}}})
    assert ErpoConfig.from_mapping(tree.erpo).gate.gamma == 3.0
    assert ErpoConfig.from_mapping(omegaconf.OmegaConf.create({})) == ErpoConfig()
    with pytest.raises(ErpoConfigError, match=r"gate\.gama"):
        ErpoConfig.from_mapping(omegaconf.OmegaConf.create({"gate": {"gama": 1}}))
    with pytest.raises(ErpoConfigError, match="gamma"):
        ErpoConfig.from_mapping(omegaconf.OmegaConf.create({"gate": {"gamma": "???"}}))
    with pytest.raises(ErpoConfigError):
        ErpoConfig.from_mapping(omegaconf.OmegaConf.create({"gate": {"gamma": "${nowhere}"}}))


def test_numpy_numbers_become_plain_ones():
    import numpy as np

    config = ErpoConfig.from_mapping({"gate": {"gamma": np.float32(2.5)}, "buckets": {"count": np.int64(3)}})
    assert type(config.gate.gamma) is float and type(config.buckets.count) is int
    assert type(GateConfig(gamma=2).gamma) is float


def test_eta_schedule_by_hand():
    schedule = ProgressConfig(eta=0.4, warmup_steps=4, decay_steps=8)
    assert [schedule.eta_at(step) for step in (0, 1, 4, 6, 8, 20)] == pytest.approx(
        [0, 0.4 / 4 * 7 / 8, 0.2, 0.1, 0, 0]
    )
    assert ProgressConfig().eta_at(None) == 0.2
    assert ProgressConfig(enable=False, warmup_steps=3).eta_at(None) == 0
    with pytest.raises(ValueError, match="needs `step`"):
        schedule.eta_at(None)
    with pytest.raises(ValueError, match="counted from 1"):
        schedule.eta_at(-1)


def test_what_is_needed():
    def needs(**settings):
        config = ErpoConfig.from_mapping({k.replace("__", "."): v for k, v in settings.items()})
        return config.needs_entropy, config.needs_ref_log_prob

    assert needs() == (True, True)
    assert needs(gate__enable=False) == (False, True)
    assert needs(gate__enable=False, buckets__axis="cumulative_entropy") == (True, True)
    assert needs(gate__enable=False, buckets__axis="cumulative_entropy", progress__eta=0) == (False, False)
    assert needs(progress__enable=False) == (True, False)


def test_an_integer_may_be_written_as_a_whole_float_only_where_it_says_so():
    plain, loose = (Setting("x", 1, int, "", whole_floats=loose) for loose in (False, True))
    assert not plain.accepts(3.0) and loose.accepts(3.0) and loose.convert(3.0) == 3 and type(loose.convert(3.0)) is int
    assert not loose.accepts(3.5) and not loose.accepts(True) and not loose.accepts(math.nan)


def test_a_class_may_have_an_error_of_its_own_and_rules_over_several_settings():
    class OwnError(SettingsError):
        pass

    @dataclasses.dataclass(frozen=True)
    class Own(Settings, prefix="own.", error=OwnError):
        low: int = setting(1, int, "", at_least=0)
        high: int = setting(2, int, "", at_least=0)

        def together(self):
            if self.low > self.high:
                yield "own.low must not exceed own.high"

    for values, message in (({"low": 3}, r"own\.low must not exceed"), ({"lo": 3}, r"nearest known key is own\.low"), ({"low": -1}, r"own\.low = -1")):
        with pytest.raises(OwnError, match=message):
            Own.from_mapping(values)
    with pytest.raises(OwnError, match="exceed"):
        dataclasses.replace(Own(), low=5)


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [("gama", ["gate.gamma", "eta"], "gate.gamma"), ("bands", ["bound", "buckets.difficulty_bands"], "buckets.difficulty_bands"), ("x", ["y"], "y")],
)
def test_the_nearest_name(name, known, expected):
    assert nearest(name, known) == expected
