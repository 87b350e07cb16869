"""Every ERPO setting, declared once: default, allowed range, meaning, source.

The same names are used under ``algorithm.erpo`` in verl's overrides, in the trainer's YAML and as fields of
:class:`ErpoConfig`:

    ErpoConfig.from_mapping({"gate": {"gamma": 3.0}, "progress": {"eta": 0.1}})

Sources: [E] Yu, Li, Zhao, Yang, "ERPO", arXiv 2603.28204; [EP] the same authors' "EP-GRPO", arXiv 2605.04960;
[here] this project's own choice. Neither paper has official code; ``docs/method.md`` says how certain each reading is.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import numbers
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

PREFIX = "algorithm.erpo."


class ErpoConfigError(ValueError):
    """One or more settings are unknown, of the wrong type or out of range; ``problems`` lists every one of them."""

    def __init__(self, problems: list[str]):
        self.problems = list(problems)
        head = "invalid ERPO setting" if len(self.problems) == 1 else f"{len(self.problems)} invalid ERPO settings"
        super().__init__("\n  - ".join([f"{head}:", *self.problems]))


@dataclass(frozen=True)
class Setting:
    """What one setting may be. ``kind`` is bool, int, float or str; bounds are inclusive unless ``above`` is used."""

    kind: type
    help: str
    source: str
    choices: tuple[str, ...] | None = None
    at_least: float | None = None
    above: float | None = None
    nullable: bool = False

    @property
    def allowed(self) -> str:
        """The allowed range, in words."""
        if self.choices is not None:
            return "one of " + ", ".join(self.choices)
        if self.kind is bool:
            return "true or false"
        text = "an integer" if self.kind is int else "a finite number"
        if self.at_least is not None:
            text += f" >= {self.at_least:g}"
        if self.above is not None:
            text += f" > {self.above:g}"
        return f"null or {text}" if self.nullable else text

    def accepts(self, value: Any) -> bool:
        """Whether ``value`` has the right type and lies in the range. Text is never read as a number."""
        if value is None:
            return self.nullable
        if self.choices is not None:
            return isinstance(value, str) and value in self.choices
        if self.kind is bool:
            return isinstance(value, bool)
        # bool is a subclass of int: `count: true` is a mistake, not a 1.
        number = numbers.Integral if self.kind is int else numbers.Real
        if isinstance(value, bool) or not isinstance(value, number) or not math.isfinite(value):
            return False
        return (self.at_least is None or value >= self.at_least) and (self.above is None or value > self.above)

    def convert(self, value: Any) -> Any:
        """An accepted value as a plain Python bool, int, float, str or None."""
        return value if value is None else self.kind(value)

    def problem(self, key: str, value: Any) -> str:
        """The message for a value that is not accepted."""
        text = f"{PREFIX}{key} = {value!r}: must be {self.allowed}"
        if isinstance(value, str) and self.kind is not str:
            text += " (this is text; a number is written without quotes, and YAML needs the dot in 1.0e-3)"
        return text


def _setting(default: Any, kind: type, help: str, source: str, **limits: Any) -> Any:
    return dataclasses.field(default=default, metadata={"setting": Setting(kind, help, source, **limits)})


class _Section:
    """A group of settings; checks itself when it is made, so an invalid one cannot exist."""

    _name = ""

    def __post_init__(self) -> None:
        problems = []
        for field in dataclasses.fields(self):
            setting, value = field.metadata["setting"], getattr(self, field.name)
            if setting.accepts(value):
                object.__setattr__(self, field.name, setting.convert(value))
            else:
                problems.append(setting.problem(f"{self._name}.{field.name}", value))
        if problems:
            raise ErpoConfigError(problems)


@dataclass(frozen=True)
class GateConfig(_Section):
    """Entropy-aware gate W (eq. 8)."""

    _name = "gate"

    enable: bool = _setting(
        True, bool, "Weight tokens by their entropy; false sets W = 1 everywhere, also inside Psi.", "[here] ablation"
    )
    gamma: float = _setting(
        5.0, float, "Steepness of the gate, W = sigmoid(gamma z); 0 gives W = 0.5 everywhere.", "[E] eq. 8", at_least=0
    )
    normalize: str = _setting(
        "none",
        str,
        "mean_one divides W by its mean over the group's valid tokens, so that the gate does not change the step size.",
        "[here] ablation",
        choices=("none", "mean_one"),
    )


@dataclass(frozen=True)
class ProgressConfig(_Section):
    """Implicit progress s (eq. 7), its normalisation (eq. 9) and its strength in the synthesis (eq. 10)."""

    _name = "progress"

    enable: bool = _setting(
        True, bool, "Add the progress term eta Psi; false is the same as eta = 0.", "[here] ablation"
    )
    beta: float = _setting(
        0.1,
        float,
        "Scale of s = beta (log pi_old - log pi_ref); cancels in the z-score but for min_std and eps.",
        "[E] eq. 7",
        above=0,
    )
    eta: float = _setting(
        0.2, float, "Strength of the progress term; 0 switches it off.", "[E] final advantage", at_least=0
    )
    min_std: float = _setting(
        1e-3,
        float,
        "Floor under a bucket's standard deviation, in units of s; with beta 0.1 it counts log-ratios that spread less "
        "than 0.01 nats as noise.",
        "[here] guard",
        at_least=0,
    )
    clip: float | None = _setting(
        None,
        float,
        "Limit on the size of the normalised progress; null for no limit.",
        "[here] guard",
        above=0,
        nullable=True,
    )
    warmup_steps: int = _setting(
        0, int, "Steps over which eta rises linearly from 0; 0 for no warm-up.", "[EP] remark on warm-up", at_least=0
    )
    decay_steps: int | None = _setting(
        None,
        int,
        "Steps over which eta falls linearly to 0; null for no decay.",
        "[here] ablation",
        at_least=1,
        nullable=True,
    )
    anchor: str = _setting(
        "sign",
        str,
        "What ties progress to the outcome: sgn(A_i), sgn(A_i) minus its mean over the group, or A_i itself.",
        "[E] eq. 10 (sign); [here] (the others)",
        choices=("sign", "centered_sign", "advantage"),
    )

    @property
    def active(self) -> bool:
        """Whether the progress term can be non-zero at any step."""
        return self.enable and self.eta > 0

    def eta_at(self, step: int | None) -> float:
        """eta at a training step, counted from 1: ``eta * min(1, step / warmup) * max(0, 1 - step / decay)``.

        ``step`` may be None only where neither warm-up nor decay is set; ValueError otherwise.
        """
        if not self.active:
            return 0.0
        if self.warmup_steps == 0 and self.decay_steps is None:
            return self.eta
        if step is None:
            raise ValueError(
                f"{PREFIX}progress.warmup_steps or decay_steps is set, so erpo_advantages needs `step` (counted from 1); "
                "pass it, or set warmup_steps=0 and decay_steps=null"
            )
        if step < 0:
            raise ValueError(f"step = {step}: must be >= 0 (training steps are counted from 1)")
        eta = self.eta
        if self.warmup_steps:
            eta *= min(1.0, step / self.warmup_steps)
        if self.decay_steps is not None:
            eta *= max(0.0, 1.0 - step / self.decay_steps)
        return eta


@dataclass(frozen=True)
class BucketsConfig(_Section):
    """Progress windows: which tokens share the statistics of eq. 9."""

    _name = "buckets"

    count: int = _setting(10, int, "Number of buckets K along a response.", "[E] progress window", at_least=1)
    axis: str = _setting(
        "position",
        str,
        "Progress tau of a token: its place among the response's valid tokens, or the share of the response's entropy "
        "that has been spent by then.",
        "[E] (position); [EP] (cumulative_entropy)",
        choices=("position", "cumulative_entropy"),
    )
    scope: str = _setting(
        "prompt",
        str,
        "Whose tokens share a bucket's statistics: one prompt's group, or all prompts of one difficulty band.",
        "[E] (prompt); [here] reading of the abstract (difficulty)",
        choices=("prompt", "difficulty"),
    )
    difficulty_bands: int = _setting(
        4, int, "Number of bands of the group's mean outcome; used with scope difficulty.", "[here]", at_least=1
    )


@dataclass(frozen=True)
class ZeroVarianceConfig(_Section):
    """What anchors the progress term in a group whose outcomes are all equal."""

    _name = "zero_variance"

    rule: str = _setting(
        "zero",
        str,
        "zero: no progress term there. threshold: the anchor is sgn(R_i - threshold) there.",
        "[E] eq. 10, sgn(0) = 0 (zero); [EP] (threshold)",
        choices=("zero", "threshold"),
    )
    threshold: float = _setting(
        0.5,
        float,
        "theta: an outcome above it counts as right, in rule threshold and in the metrics.",
        "[EP]; value [here]",
    )


_SECTIONS: dict[str, type[_Section]] = {
    section._name: section for section in (GateConfig, ProgressConfig, BucketsConfig, ZeroVarianceConfig)
}

# What a preset sets differently from the defaults above; any single setting given beside it overrides it.
PRESETS: dict[str, dict[str, Any]] = {
    "erpo": {},
    "ep_grpo": {"buckets.axis": "cumulative_entropy", "zero_variance.rule": "threshold"},
}

_PRESET = Setting(
    str, "A set of settings; any single setting given beside it overrides it.", "[E], [EP]", choices=tuple(PRESETS)
)


@dataclass(frozen=True)
class SettingRow:
    """One line of the settings table; ``presets`` maps a preset's name to its value where it is not the default."""

    key: str
    default: Any
    allowed: str
    help: str
    source: str
    presets: dict[str, Any]


@dataclass(frozen=True)
class ErpoConfig:
    """All settings of ERPO, checked when it is made.

    A section that is not given takes the preset's values; a section given as an object is taken as it is. To override
    single settings of a preset, use :meth:`from_mapping`.
    """

    preset: str = dataclasses.field(default="erpo", metadata={"setting": _PRESET})
    gate: GateConfig = None  # type: ignore[assignment]  # None: the preset's section, see __post_init__
    progress: ProgressConfig = None  # type: ignore[assignment]
    buckets: BucketsConfig = None  # type: ignore[assignment]
    zero_variance: ZeroVarianceConfig = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if not _PRESET.accepts(self.preset):
            raise ErpoConfigError([_PRESET.problem("preset", self.preset)])
        for name, section in _SECTIONS.items():
            given = getattr(self, name)
            if given is None:
                values = {k.split(".")[1]: v for k, v in PRESETS[self.preset].items() if k.startswith(f"{name}.")}
                object.__setattr__(self, name, section(**values))
            elif not isinstance(given, section):
                raise TypeError(
                    f"ErpoConfig.{name} must be a {section.__name__}; use ErpoConfig.from_mapping for a dict"
                )

    @classmethod
    def from_mapping(cls, settings: Mapping[str, Any] | ErpoConfig | None) -> ErpoConfig:
        """Build from a nested mapping (dict or omegaconf DictConfig), None (all defaults) or an ErpoConfig (returned).

        Raises ErpoConfigError, naming every problem at once: the full dotted key, the value, the allowed range, and for
        an unknown key the nearest known one.
        """
        if isinstance(settings, cls):
            return settings
        flat, problems = _flatten(_plain(settings))
        known = _known_settings()
        for key, value in flat.items():
            if key in known:
                if not known[key].accepts(value):
                    problems.append(known[key].problem(key, value))
            elif key in _SECTIONS:
                problems.append(
                    f"{PREFIX}{key} = {value!r}: must be a mapping of "
                    + ", ".join(k.split(".")[1] for k in known if k.startswith(f"{key}."))
                )
            else:
                problems.append(
                    f"{PREFIX}{key} = {value!r}: unknown key; the nearest known key is {PREFIX}{_nearest(key, known)} "
                    f"({known[_nearest(key, known)].allowed})"
                )
        if problems:
            raise ErpoConfigError(problems)
        preset = flat.pop("preset", "erpo")
        values = {**PRESETS[preset], **flat}
        sections = {
            name: section(**{k.split(".")[1]: v for k, v in values.items() if k.startswith(f"{name}.")})
            for name, section in _SECTIONS.items()
        }
        return cls(preset=preset, **sections)

    def to_dict(self) -> dict[str, Any]:
        """All settings as a nested dict of plain values; ``from_mapping(config.to_dict()) == config``."""
        return dataclasses.asdict(self)

    @staticmethod
    def settings() -> Iterator[SettingRow]:
        """The settings table, in order: for the docs, for ``--help`` and for tests."""
        defaults, _ = _flatten(ErpoConfig().to_dict())
        for key, setting in _known_settings().items():
            presets = {name: values[key] for name, values in PRESETS.items() if key in values}
            yield SettingRow(key, defaults[key], setting.allowed, setting.help, setting.source, presets)

    @property
    def needs_entropy(self) -> bool:
        """Whether the settings make use of the per-token entropy."""
        return self.gate.enable or (self.progress.active and self.buckets.axis == "cumulative_entropy")

    @property
    def needs_ref_log_prob(self) -> bool:
        """Whether the settings make use of the old and the reference log-probabilities."""
        return self.progress.active


def _known_settings() -> dict[str, Setting]:
    """Dotted key -> what it may be, for every setting."""
    known = {"preset": _PRESET}
    for name, section in _SECTIONS.items():
        known.update({f"{name}.{field.name}": field.metadata["setting"] for field in dataclasses.fields(section)})
    return known


def _nearest(key: str, known: Mapping[str, Setting]) -> str:
    """The known key most like ``key``, by its whole name or by its last part (``gamma`` means ``gate.gamma``)."""

    def likeness(candidate: str) -> float:
        pairs = ((key, candidate), (key.rsplit(".", 1)[-1], candidate.rsplit(".", 1)[-1]))
        return sum(difflib.SequenceMatcher(None, a.lower(), b).ratio() for a, b in pairs)

    return max(known, key=likeness)


def _plain(settings: Any) -> dict[str, Any]:
    """``settings`` as a plain nested dict; omegaconf interpolations resolved, a missing value ('???') is an error."""
    if settings is None:
        return {}
    if type(settings).__module__.startswith("omegaconf"):
        # Imported only where an omegaconf object proves that it is there: the core itself needs torch alone.
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        try:
            settings = OmegaConf.to_container(settings, resolve=True, throw_on_missing=True)
        except OmegaConfBaseException as error:
            raise ErpoConfigError([f"{PREFIX[:-1]}: {error}"]) from error
    if settings is None:
        return {}
    if not isinstance(settings, Mapping):
        raise ErpoConfigError([f"{PREFIX[:-1]} = {settings!r}: must be a mapping of settings"])
    return dict(settings)


def _flatten(settings: Mapping[Any, Any], prefix: str = "") -> tuple[dict[str, Any], list[str]]:
    """Nested mapping -> {dotted key: value}, and the problems met (a key given twice)."""
    flat: dict[str, Any] = {}
    problems: list[str] = []
    for name, value in settings.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and (value or key in _SECTIONS):
            inner, more = _flatten(value, f"{key}.")
            problems += more
        else:
            inner = {key: value}
        problems += [f"{PREFIX}{k}: given twice" for k in inner if k in flat]
        flat.update(inner)
    return flat, problems
