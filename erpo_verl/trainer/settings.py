"""A run's settings: defaults, then a YAML file, then ``key=value`` overrides, checked as a whole before anything is loaded.

    settings = compose(["examples/arithmetic/erpo.yaml", "trainer.total_training_steps=20"])
    settings.data.train_batch_size

Overrides are written as for ``verl.trainer.main_ppo`` (``+key=value`` and ``++key=value`` mean ``key=value`` here). All problems
are reported at once, each with the key, the value, what is allowed, and for an unknown key the nearest known one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from erpo_verl import methods
from erpo_verl.settings import REQUIRED, Setting, SettingsError, nearest
from erpo_verl.trainer.schema import KEYS

DEFAULT_SEED = 1  # of data.seed
_BY_NAME = {key.name: key for key in KEYS}
_OPEN = tuple(key.name for key in KEYS if key.kind == "dict")  # what is below them is not ours to know


def compose(arguments: Sequence[str]) -> DictConfig:
    """Settings from command-line arguments: YAML files and overrides, in order.

    Returns:
        A read-only DictConfig with every key of the schema, interpolations resolved, ``data.seed`` a number; ``algorithm.<name>``
        holds the settings of the method in use in full, and of any other for which some are given.

    Raises:
        SettingsError: see its ``problems``.
    """
    given = OmegaConf.create({})
    problems: list[str] = []
    for argument in arguments:
        try:
            given = OmegaConf.merge(given, _read(argument))
        except SettingsError as error:
            problems += error.problems
        except YAMLError as error:
            problems.append(f"{argument}: not YAML: {' '.join(str(error).split())}")
        except (OmegaConfBaseException, ValueError) as error:
            problems.append(f"{argument}: {str(error).splitlines()[0]}")
    if problems:
        raise SettingsError(problems)
    defaults = OmegaConf.create({})
    for key in KEYS:
        OmegaConf.update(defaults, key.name, None if key.default == REQUIRED else key.default, force_add=True)
    problems = [_unknown(name, value) for name, value in _leaves(OmegaConf.to_container(given)) if not _known(name)]
    settings = OmegaConf.merge(defaults, given)
    if OmegaConf.is_dict(settings.data) and settings.data.seed is None:
        settings.data.seed = DEFAULT_SEED  # before ${data.seed} in the run's name becomes text
    try:
        OmegaConf.resolve(settings)
    except OmegaConfBaseException as error:
        raise SettingsError([*problems, str(error).splitlines()[0]]) from None
    problems += dict.fromkeys(p for key in KEYS if (p := _check(key, settings)) is not None)
    if problems:
        raise SettingsError(problems)
    problems += _methods(settings)
    if problems or (problems := _together(settings)):
        raise SettingsError(problems)
    OmegaConf.set_struct(settings, True)
    OmegaConf.set_readonly(settings, True)
    return settings


def _methods(settings: DictConfig) -> list[str]:
    """Fills in the settings of the method in use, and of any other that has some; returns what is wrong with them.

    Only now is a method's module loaded, and torch with it: a wrong key elsewhere is answered before.
    """
    problems = []
    for name in methods.registered():
        given = settings.algorithm.pop(name)
        if name != settings.algorithm.adv_estimator and not given:
            continue
        try:
            settings.algorithm[name] = methods.get(name).configure(given).to_dict()
        except methods.UnknownMethodError as error:
            problems.append(f"algorithm.adv_estimator={name}: {error}")
        except SettingsError as error:
            problems += error.problems
    return problems


def _read(argument: str) -> DictConfig:
    """One argument: a YAML file, or ``key=value``."""
    if argument.endswith((".yaml", ".yml")) and "=" not in argument:
        if not Path(argument).is_file():
            raise SettingsError([f"{argument}: no such file"])
        loaded = OmegaConf.load(argument)
        if not isinstance(loaded, DictConfig):
            raise SettingsError([f"{argument}: must hold a mapping of settings"])
        return OmegaConf.create(dict(_nested(OmegaConf.to_container(loaded))))
    name, sign, value = argument.lstrip("+").partition("=")
    if not sign or argument.startswith(("-", "~")):
        raise SettingsError([f"{argument!r}: expected a YAML file or key=value (options of Hydra's own are not supported)"])
    return OmegaConf.from_dotlist([f"{name}={value}"])


def _nested(tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """A YAML file may write ``data.seed: 1`` for ``data: {seed: 1}``."""
    out = OmegaConf.create({})
    for name, value in tree.items():
        value = dict(_nested(value)) if isinstance(value, Mapping) else value
        piece = OmegaConf.create({})
        OmegaConf.update(piece, str(name), value, force_add=True)
        out = OmegaConf.merge(out, piece)
    yield from OmegaConf.to_container(out).items()


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        full = f"{prefix}{name}"
        if isinstance(value, Mapping) and value and full not in _OPEN:
            yield from _leaves(value, f"{full}.")
        else:
            yield full, value


def _known(name: str) -> bool:
    return name in _BY_NAME or any(key.startswith(f"{name}.") for key in _BY_NAME)


def _unknown(name: str, value: Any) -> str:
    like = _BY_NAME[nearest(name, _BY_NAME)]
    return f"{name}={value}: not supported by this engine; the nearest supported key is {like.name} ({like.allowed})"


def _check(key: Setting, settings: DictConfig) -> str | None:
    parent, _, last = key.name.rpartition(".")
    section = OmegaConf.select(settings, parent)
    if not isinstance(section, DictConfig) or last not in section:
        return f"{parent}={section}: must be a mapping"
    if key.default == REQUIRED and (OmegaConf.is_missing(section, last) or section[last] is None):
        return f"{key.name} is not given ({key.help})"
    value = section[last]
    value = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    return None if key.accepts(value) else key.problem(value, f"{key.name}={value!r}")


def _together(s: DictConfig) -> list[str]:
    """Settings that are right one by one and do not fit together."""
    problems = []
    actor, rollout = s.actor_rollout_ref.actor, s.actor_rollout_ref.rollout
    if s.data.train_batch_size % actor.ppo_mini_batch_size:
        problems.append(
            f"actor_rollout_ref.actor.ppo_mini_batch_size={actor.ppo_mini_batch_size}: must divide "
            f"data.train_batch_size={s.data.train_batch_size}"
        )
    if rollout.n < 2 and not s.trainer.val_only:
        problems.append(
            f"actor_rollout_ref.rollout.n={rollout.n}: {s.algorithm.adv_estimator} compares the responses of a group; "
            "set it to 2 or more (8 is usual)"
        )
    method = methods.get(s.algorithm.adv_estimator)
    needed = method.inputs(method.configure(s.algorithm[method.name]))
    if "ref_log_prob" in needed and not needs_reference(s):
        otherwise = method.without.get("ref_log_prob")
        problems.append(
            f"{method.name} compares the policy with a reference policy and there is none: set "
            "actor_rollout_ref.actor.use_kl_loss=true (actor_rollout_ref.actor.kl_loss_coef=0 is fine and adds no KL "
            "loss)" + (f", or {otherwise}" if otherwise else "")
        )
    if s.algorithm.rollout_correction.bypass_mode and s.algorithm.rollout_correction.rollout_is is not None:
        problems.append(
            f"algorithm.rollout_correction.rollout_is={s.algorithm.rollout_correction.rollout_is}: has no effect with bypass_mode=true, where "
            "the rollout's log-probs are the old ones (PPO's ratio corrects already); set one of them"
        )
    if s.algorithm.rollout_correction.bypass_mode and rollout.name == "vllm" and "entropy" in needed:
        problems.append(
            f"algorithm.rollout_correction.bypass_mode=true: {method.name} needs each token's entropy, which vllm does not give: leave it at "
            "false, or take actor_rollout_ref.rollout.name=hf"
        )
    if rollout.val_kwargs.do_sample and not rollout.val_kwargs.temperature > 0:
        problems.append(
            "actor_rollout_ref.rollout.val_kwargs.temperature=0: must be > 0 where val_kwargs.do_sample=true"
        )
    if rollout.val_kwargs.n > 1 and not rollout.val_kwargs.do_sample:
        problems.append(
            f"actor_rollout_ref.rollout.val_kwargs.n={rollout.val_kwargs.n}: greedy responses are all the same; set "
            "val_kwargs.do_sample=true and a temperature"
        )
    for where, section in (("rollout", rollout), ("rollout.val_kwargs", rollout.val_kwargs)):
        if section.top_k == 0:
            problems.append(f"actor_rollout_ref.{where}.top_k=0: must be >= 1, or -1 for the whole vocabulary")
    betas = list(actor.optim.betas)
    if len(betas) != 2 or not all(isinstance(b, (int, float)) and 0 <= b < 1 for b in betas):
        problems.append(f"actor_rollout_ref.actor.optim.betas={betas}: must be two numbers in [0, 1)")
    parts = {str(part) for part in actor.checkpoint.save_contents}
    if not {"model", "optimizer", "extra"} <= parts <= {"model", "optimizer", "extra", "hf_model"}:
        problems.append(
            f"actor_rollout_ref.actor.checkpoint.save_contents={sorted(parts)}: model, optimizer and extra belong "
            "together (a run resumes from all of them); hf_model may be added"
        )
    if (s.trainer.resume_mode == "resume_path") != (s.trainer.resume_from_path is not None):
        problems.append(
            f"trainer.resume_mode={s.trainer.resume_mode}, trainer.resume_from_path={s.trainer.resume_from_path}: "
            "resume_path wants a path, and a path wants resume_path"
        )
    if (s.trainer.val_only or s.trainer.test_freq > 0) and not s.data.val_files:
        problems.append("data.val_files is null, and trainer.val_only or trainer.test_freq asks for validation")
    if rollout.max_model_len is not None and rollout.max_model_len < s.data.max_prompt_length + s.data.max_response_length:
        problems.append(
            f"actor_rollout_ref.rollout.max_model_len={rollout.max_model_len}: must be at least data.max_prompt_length + "
            f"data.max_response_length = {s.data.max_prompt_length + s.data.max_response_length}"
        )
    return problems


def needs_reference(s: DictConfig) -> bool:
    """Whether a reference policy is asked for (as in verl: exactly where a KL term is switched on)."""
    return bool(s.actor_rollout_ref.actor.use_kl_loss or s.algorithm.use_kl_in_reward)


def reads_reference(s: DictConfig, step: int | None = None) -> bool:
    """Whether anything reads the log-probs of a reference policy at a training step; step None: at any."""
    actor, method = s.actor_rollout_ref.actor, methods.get(s.algorithm.adv_estimator)
    by_method = "ref_log_prob" in method.inputs(method.configure(s.algorithm[method.name]), step)
    return needs_reference(s) and bool((actor.use_kl_loss and actor.kl_loss_coef) or s.algorithm.use_kl_in_reward or by_method)


def reads_reference_of_equal_outcomes(s: DictConfig) -> bool:
    """Whether that holds also in a group whose outcomes are all equal."""
    actor, method = s.actor_rollout_ref.actor, methods.get(s.algorithm.adv_estimator)
    by_method = not method.ignores_reference(method.configure(s.algorithm[method.name]))
    return bool((actor.use_kl_loss and actor.kl_loss_coef) or s.algorithm.use_kl_in_reward or by_method)


def as_list(value: Any) -> list[str]:
    """A path or a list of paths as a list of absolute paths; ~ expanded, none for null."""
    values = [] if value is None else [value] if isinstance(value, str) else list(value)
    return [os.path.abspath(os.path.expanduser(v)) for v in values]


def help_text() -> str:
    """The schema and the settings of all methods as text, one section after the other."""
    lines, section = [], None
    own = {method.name: method for method in methods.all_methods()}
    for key in KEYS:
        head = key.name.split(".")[0]
        if head != section:
            section = head
            lines.append(f"\n{section}")
        name = key.name.removeprefix("algorithm.")
        inner = [replace(item, name=f"{key.name}.{item.name}") for item in own[name].settings.settings()] if name in own else [key]
        lines += [f"  {item.name} = {item.written}\n      {item.help} [{item.allowed}]" for item in inner]
    return "\n".join(lines)


_DECIDING = ("algorithm.", "actor_rollout_ref.", "data.", "reward.")
_NOT_DECIDING = ("actor_rollout_ref.model.path", "data.train_files", "data.val_files", "data.val_max_samples", "actor_rollout_ref.rollout.val_kwargs.", "actor_rollout_ref.actor.checkpoint.")  # fmt: skip


ADAPTER_KEYS = tuple(f"actor_rollout_ref.model.{name}" for name in ("lora_rank", "target_modules", "exclude_modules", "adapter"))


def deciding(settings: DictConfig) -> dict[str, str]:
    """What decides how a policy is trained, for a checkpoint: key -> value as text. Model and data are told apart by their content."""
    leaves = _leaves(OmegaConf.to_container(settings))
    return {name: str(value) for name, value in leaves if value != {} and name.startswith(_DECIDING) and not name.startswith(_NOT_DECIDING)}


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """In words, which settings are others than before; none where nothing is known of before."""
    names = [name for name in now if before and before.get(name) != now[name]]
    return [f"{name} was {before.get(name, 'not set')} and is {now[name]}" for name in names]
