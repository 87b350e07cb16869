"""How a setting is declared, checked, named in an error and written into the docs: once, for every part of the package.

A setting is a `Setting`: name, default, type, range, meaning, source. There are two ways to hold some of them:

- A frozen dataclass over `Settings`, for a part whose code reads them as attributes (a method, the reward). Fields are made
  by `setting` and `section`; an object checks itself when it is made, so an invalid one cannot exist:

      @dataclass(frozen=True)
      class MySettings(Settings, prefix="algorithm.my_method."):
          strength: float = setting(1.0, float, "Factor on surprising tokens.", "[here]", at_least=0)

      MySettings.from_mapping({"strength": 2.0})

- A plain table of `Setting`s, for settings that live in a composed configuration (the trainer's schema).

Needs nothing but Python: it is imported where torch is not.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import numbers
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

REQUIRED = "???"
"""Default of a setting that must be given; omegaconf's mark."""

_OTHER_KINDS = {
    "paths": "a path or a list of paths",
    "names": "a name or a list of names",
    "list": "a list",
    "dict": "a mapping",
}


class SettingsError(ValueError):
    """Settings are unknown, of the wrong type, out of range, or do not fit together; ``problems`` lists every one of them."""

    def __init__(self, problems: str | Iterable[str]):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        head = "invalid setting" if len(self.problems) == 1 else f"{len(self.problems)} invalid settings"
        super().__init__("\n  - ".join([f"{head}:", *self.problems]))


@dataclass(frozen=True)
class Setting:
    """One setting. Bounds are inclusive unless ``above`` is used; with ``choices`` only these are allowed.

    ``kind`` is bool, int, float, str, or in words: ``paths`` or ``names`` (one text or a list of texts), ``list``, ``dict``.
    """

    name: str
    default: Any
    kind: type | str
    help: str
    source: str = ""
    choices: tuple[Any, ...] | None = None
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    nullable: bool = False
    whole_floats: bool = False  # whether 3.0 is an integer, as some writers make of 3

    @property
    def allowed(self) -> str:
        """The allowed values, in words."""
        if self.choices is not None:
            text = "one of " + ", ".join(str(choice) for choice in self.choices)
        elif self.kind is bool:
            text = "true or false"
        elif self.kind in (int, float):
            text = "an integer" if self.kind is int else "a finite number"
            limits = [(">=", self.at_least), (">", self.above), ("<=", self.at_most)]
            text += " and".join(f" {sign} {limit:.10g}" for sign, limit in limits if limit is not None)
        else:
            text = "text" if self.kind is str else _OTHER_KINDS[self.kind]
        return f"{text}, or null" if self.nullable else text

    @property
    def written(self) -> str:
        """The default as YAML writes it; ``required`` where there is none."""
        return "required" if self.default == REQUIRED else as_yaml(self.default)

    def accepts(self, value: Any) -> bool:
        """Whether ``value`` has the right type and lies in the range. Text is never read as a number."""
        if value is None:
            return self.nullable
        if self.kind is bool:
            return isinstance(value, bool)
        if self.kind in (int, float):
            # bool is a subclass of int: `count: true` is a mistake, not a 1.
            number = numbers.Integral if self.kind is int and not self.whole_floats else numbers.Real
            if isinstance(value, bool) or not isinstance(value, number) or not math.isfinite(value):
                return False
            if self.kind is int and value != int(value):
                return False
            within = self.at_least is None or value >= self.at_least
            within = within and (self.above is None or value > self.above)
            within = within and (self.at_most is None or value <= self.at_most)
            return within and (self.choices is None or value in self.choices)
        if self.kind in ("paths", "names"):
            several = isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)
            return several or isinstance(value, str)
        fits = isinstance(value, {str: str, "list": list, "dict": dict}[self.kind])
        return fits and (self.choices is None or value in self.choices)

    def convert(self, value: Any) -> Any:
        """An accepted value as a plain Python bool, int, float or str; anything else as it is."""
        return self.kind(value) if isinstance(self.kind, type) and value is not None else value

    def problem(self, value: Any, given: str | None = None) -> str:
        """The message for a value that is not accepted; ``given`` is how it was written, where not ``name = value``."""
        text = f"{given or f'{self.name} = {value!r}'}: must be {self.allowed}"
        if isinstance(value, str) and self.kind in (int, float, bool):
            return text + " (this is text; a number is written without quotes, and YAML needs the dot in 1.0e-3)"
        if isinstance(value, str) and self.choices is not None:
            return text + f" (the nearest is {nearest(value, [str(choice) for choice in self.choices])})"
        return text


def as_yaml(value: Any) -> str:
    """A plain value as YAML writes it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(as_yaml(item) for item in value)}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name most like ``name``, by its whole and by its last part (``gamma`` means ``gate.gamma``), or a word of that."""
    last = name.rsplit(".", 1)[-1]

    def likeness(candidate: str) -> float:
        other = candidate.rsplit(".", 1)[-1]
        ratios = (difflib.SequenceMatcher(None, a.lower(), b.lower()).ratio() for a, b in ((name, candidate), (last, other)))
        return sum(ratios) + 0.5 * (last in other.split("_"))

    return max(known, key=likeness)


def table(settings: Iterable[Setting], presets: Mapping[str, Mapping[str, Any]] | None = None) -> list[str]:
    """The lines of a Markdown table of settings; beside a default, in parentheses, what a preset sets instead."""
    lines = ["| key | default | allowed | meaning | source |", "|---|---|---|---|---|"]
    for item in settings:
        other = "; ".join(f"{name}: `{as_yaml(values[item.name])}`" for name, values in (presets or {}).items() if item.name in values)
        default = f"`{item.written}`" + (f" ({other})" if other else "")
        lines.append(f"| `{item.name}` | {default} | {item.allowed} | {item.help} | {item.source} |")
    return lines


# --- Settings as attributes of a dataclass ----------------------------------------------------------------------------


def setting(default: Any, kind: type, help: str, source: str = "", **limits: Any) -> Any:
    """A field of a `Settings` class; ``limits`` are those of `Setting`."""
    return dataclasses.field(default=default, metadata={"setting": Setting("", default, kind, help, source, **limits)})


def section(kind: type[Settings]) -> Any:
    """A field of a `Settings` class that holds another one: ``gate: GateSettings = section(GateSettings)``."""
    return dataclasses.field(default=None, metadata={"section": kind})


S = TypeVar("S", bound="Settings")


class Settings:
    """Base of frozen dataclasses of settings; see the module.

    Class arguments:
        prefix: what stands before a name in errors, e.g. ``algorithm.erpo.``; the full key of verl's overrides.
        presets: name -> {dotted name: value}; chosen by a field ``preset``, overridden by any single setting given beside it.
        error: what is raised, a SettingsError.
    """

    prefix: ClassVar[str] = ""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    error: ClassVar[type[SettingsError]] = SettingsError

    def __init_subclass__(
        cls, prefix: str = "", presets: Mapping[str, Mapping[str, Any]] | None = None, error: type[SettingsError] = SettingsError
    ) -> None:
        cls.prefix, cls.presets, cls.error = prefix, presets or {}, error

    def __post_init__(self) -> None:
        problems = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if "section" in field.metadata:
                self._fill_section(field, value)
                continue
            declared = dataclasses.replace(field.metadata["setting"], name=self.prefix + field.name)
            if declared.accepts(value):
                object.__setattr__(self, field.name, declared.convert(value))
            else:
                problems.append(declared.problem(value))
        if problems or (problems := list(self.together())):
            raise self.error(problems)

    def _fill_section(self, field: dataclasses.Field, value: Any) -> None:
        """A section that is not given takes the preset's values."""
        kind = field.metadata["section"]
        if value is None:
            start = f"{field.name}."
            values = self.presets.get(getattr(self, "preset", None), {})
            value = kind(**{name.removeprefix(start): v for name, v in values.items() if name.startswith(start)})
            object.__setattr__(self, field.name, value)
        elif not isinstance(value, kind):
            raise TypeError(f"{type(self).__name__}.{field.name} must be a {kind.__name__}; use from_mapping for a dict")

    def together(self) -> Iterable[str]:
        """Problems of settings that are right one by one and do not fit together; for subclasses to say."""
        return ()

    @classmethod
    def settings(cls) -> list[Setting]:
        """Every setting under its dotted name (without the prefix), in order: for the docs, for help and for tests."""
        found = []
        for field in dataclasses.fields(cls):
            if "section" in field.metadata:
                inner = field.metadata["section"].settings()
                found += [dataclasses.replace(item, name=f"{field.name}.{item.name}") for item in inner]
            else:
                found.append(dataclasses.replace(field.metadata["setting"], name=field.name))
        return found

    @classmethod
    def from_mapping(cls: type[S], settings: Mapping[str, Any] | S | None) -> S:
        """Build from a nested mapping (dict or omegaconf DictConfig; dotted keys do as well), None (all defaults) or one of
        its own objects (returned).

        Raises:
            SettingsError: names every problem at once: the full dotted key, the value, the allowed range, and for an unknown
                key the nearest known one.
        """
        if isinstance(settings, cls):
            return settings
        flat, problems = _flatten(_plain(settings, cls.prefix), cls._sections(), cls.prefix)
        known = {item.name: dataclasses.replace(item, name=cls.prefix + item.name) for item in cls.settings()}
        for name, value in flat.items():
            if name in known:
                if not known[name].accepts(value):
                    problems.append(known[name].problem(value))
            elif name in cls._sections():
                inner = [k.removeprefix(f"{name}.") for k in known if k.startswith(f"{name}.")]
                problems.append(f"{cls.prefix}{name} = {value!r}: must be a mapping of " + ", ".join(inner))
            elif known:
                like = known[nearest(name, known)]
                problems.append(
                    f"{cls.prefix}{name} = {value!r}: unknown key; the nearest known key is {like.name} ({like.allowed})"
                )
            else:
                problems.append(f"{cls.prefix}{name} = {value!r}: unknown key; there are no settings here")
        if problems:
            raise cls.error(problems)
        values = {**cls.presets.get(flat.get("preset", known["preset"].default if "preset" in known else None), {}), **flat}
        return cls._build(values)

    @classmethod
    def _sections(cls) -> set[str]:
        """Dotted names of all sections."""
        found = set()
        for field in dataclasses.fields(cls):
            if "section" in field.metadata:
                found |= {field.name, *(f"{field.name}.{name}" for name in field.metadata["section"]._sections())}
        return found

    @classmethod
    def _build(cls: type[S], flat: Mapping[str, Any]) -> S:
        given = {}
        for field in dataclasses.fields(cls):
            if "section" in field.metadata:
                start = f"{field.name}."
                inner = {name.removeprefix(start): value for name, value in flat.items() if name.startswith(start)}
                given[field.name] = field.metadata["section"]._build(inner)
            elif field.name in flat:
                given[field.name] = flat[field.name]
        return cls(**given)

    def to_dict(self) -> dict[str, Any]:
        """All settings as a nested dict of plain values; ``from_mapping(x.to_dict()) == x``."""
        return dataclasses.asdict(self)


def _plain(settings: Any, prefix: str) -> dict[Any, Any]:
    """``settings`` as a plain nested dict; omegaconf interpolations resolved, a missing value ('???') is an error."""
    where = prefix.rstrip(".") or "settings"
    if type(settings).__module__.startswith("omegaconf"):
        # Imported only where an omegaconf object proves that it is there.
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        try:
            settings = OmegaConf.to_container(settings, resolve=True, throw_on_missing=True)
        except OmegaConfBaseException as error:
            raise SettingsError([f"{where}: {error}"]) from error
    if settings is None:
        return {}
    if not isinstance(settings, Mapping):
        raise SettingsError([f"{where} = {settings!r}: must be a mapping of settings"])
    return dict(settings)


def _flatten(
    settings: Mapping[Any, Any], sections: set[str], prefix: str, start: str = ""
) -> tuple[dict[str, Any], list[str]]:
    """Nested mapping -> {dotted name: value}, and the problems met (a key given twice)."""
    flat: dict[str, Any] = {}
    problems: list[str] = []
    for name, value in settings.items():
        key = f"{start}{name}"
        if isinstance(value, Mapping) and (value or key in sections):
            inner, more = _flatten(value, sections, prefix, f"{key}.")
            problems += more
        else:
            inner = {key: value}
        problems += [f"{prefix}{k}: given twice" for k in inner if k in flat]
        flat.update(inner)
    return flat, problems
