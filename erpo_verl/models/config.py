"""The configuration of a model, and its generation settings, as far as a run depends on them; read without weights."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import AutoConfig, GenerationConfig, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils import logging

from erpo_verl.models.errors import ModelError, first_line

GENERATION = "generation_config.json"
# Settings of generate() that act only where it samples.
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
_NOT_A_LANGUAGE_MODEL = re.compile(r"For(MaskedLM|SequenceClassification|TokenClassification|QuestionAnswering|MultipleChoice|PreTraining|RewardModel)$")


def load_config(path: str, told: str, trust: str, trust_remote_code: bool) -> PretrainedConfig:
    """The configuration of a causal language model.

    Args:
        path: folder, or name on the hub.
        told: how a message calls it.
        trust: the setting that lets code of the model run.

    Raises:
        ModelError: it cannot be read, or is of something that is no causal language model of text.
    """
    try:
        raw, _ = PretrainedConfig.get_config_dict(path)
        _check_code(raw, told, trust, trust_remote_code)
        with _quiet():
            config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    except ModelError:
        raise
    except Exception as error:  # OSError, ValueError, KeyError, strict fields of a configuration, and what the model's code raises
        where = "its config.json cannot be used" if Path(path).is_dir() else "no such folder, and no model from the hub"
        raise ModelError(f"{told}: {where}: {first_line(error)}") from error
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(f"{told}: {config.model_type} is an encoder with a decoder; a decoder alone is expected")
    wrong = [name for name in config.architectures or () if _NOT_A_LANGUAGE_MODEL.search(name)]
    if wrong:
        raise ModelError(f"{told}: its weights are of {', '.join(wrong)}, not of a causal language model")
    own = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and not own:
        raise ModelError(f"{told}: transformers has no causal language model of text for the kind {config.model_type}")
    return config


def _check_code(raw: dict[str, Any], told: str, trust: str, trust_remote_code: bool) -> None:
    """A kind that transformers does not know needs code of the model: it must be allowed (and never asked for at a prompt)."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if trust_remote_code or raw.get("model_type") in CONFIG_MAPPING:
        return
    if raw.get("auto_map"):
        raise ModelError(f"{told}: the kind {raw.get('model_type')!r} needs code that comes with the model: read it, then set {trust}")
    if "model_type" not in raw:
        raise ModelError(f"{told}: its config.json has no model_type")
    raise ModelError(f"{told}: this transformers does not know the kind {raw['model_type']!r}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' warnings of what is mended and told here."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def quantisation(config: PretrainedConfig) -> str | None:
    """The way in which the weights are quantised, or None."""
    found = getattr(config, "quantization_config", None)
    if found is None:
        return None
    method = found.get("quant_method") if isinstance(found, dict) else getattr(found, "quant_method", None)
    return str(getattr(method, "value", method) or "quantised")


def vocabulary_size(config: PretrainedConfig) -> int:
    """Rows of the embedding."""
    return int(config.get_text_config(decoder=True).vocab_size)


def context_length(config: PretrainedConfig) -> int | None:
    """The most tokens, prompt and response together, that the model was made for; None where its configuration does not say.

    Rotary positions that are stretched count as stretched: YaRN's ``original_max_position_embeddings * factor``.
    """
    text = config.get_text_config(decoder=True)
    if getattr(text, "alibi", False):
        return None
    names = ("max_position_embeddings", "n_positions", "max_seq_len")
    lengths = [value for value in (getattr(text, name, None) for name in names) if isinstance(value, int) and value > 0]
    if not lengths:
        return None
    length = lengths[0]
    rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    for scaling in [rope, *(value for value in rope.values() if isinstance(value, dict))]:
        factor, kind = scaling.get("factor"), scaling.get("rope_type", scaling.get("type"))
        if kind == "yarn" and factor:
            length = max(length, int((scaling.get("original_max_position_embeddings") or lengths[0]) * factor))
        elif kind in ("linear", "dynamic") and factor:
            length = max(length, int(lengths[0] * factor))
    return length


def is_rate(value: Any) -> bool:
    """Whether it is a rate above 0: a JSON file may have 1 for 1.0."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= 1


def dropouts(config: PretrainedConfig) -> dict[str, float]:
    """The fields of a configuration that make training random, with what they are set to above 0."""
    found = {}
    for part in {id(part): part for part in (config, config.get_text_config(decoder=True))}.values():
        for name, value in vars(part).items():
            if re.search(r"drop|jitter", name) and not re.search(r"summary|classifier", name) and is_rate(value):
                found[name] = value
    return found


def load_generation(path: str, config: PretrainedConfig, told: str) -> tuple[GenerationConfig, list[str]]:
    """The generation settings in a form that can be written again, and what had to be changed for that, in words.

    transformers reads more than it writes: settings of sampling without ``do_sample``, which many published models have, and other
    combinations are warned of at load and refused by ``save_pretrained``. They decide nothing here (a run samples as its own
    settings say), but end tokens are read from them, and the trained model is published with them.

    Raises:
        ModelError: the file is not JSON.
    """
    data = _generation_file(path, told)
    if data is None:
        return mended(GenerationConfig.from_model_config(config).to_diff_dict())
    return mended(data)


def _generation_file(path: str, told: str) -> dict[str, Any] | None:
    from transformers.utils import cached_file

    file = Path(path) / GENERATION
    if not Path(path).is_dir():
        found = cached_file(path, GENERATION, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False)
        if found is None:
            return None
        file = Path(found)
    elif not file.is_file():
        return None
    try:
        data = json.loads(file.read_text())
        if not isinstance(data, dict):
            raise ValueError("not an object")
    except (OSError, ValueError) as error:
        raise ModelError(f"{told}: its {GENERATION} cannot be read: {first_line(error)}") from None
    return data


def _token_ids(value: Any) -> bool:
    """Whether it is a token id, several, or none."""
    return all(one is None or type(one) is int for one in (value if isinstance(value, list) else [value]))


def mended(data: dict[str, Any]) -> tuple[GenerationConfig, list[str]]:
    """``data`` as settings that ``save_pretrained`` accepts, and in words what was added or left out."""
    data, told = dict(data), []
    for name in [name for name in _TOKENS if name in data and not _token_ids(data[name])]:
        told.append(f"{name}={data.pop(name)!r} is no token id and left out")
    while True:
        try:
            with _quiet():
                made = GenerationConfig(**data)
                made.validate(strict=True)
            return made, told
        except Exception as error:  # ValueError for a combination, TypeError and others for a value of the wrong type
            why = first_line(error)
            blamed = re.findall(r"^- `(\w+)`", str(error), re.MULTILINE) or re.findall(r"`(\w+)`", str(error))
            blamed = [name for name in dict.fromkeys(blamed) if name in data and name not in ("do_sample", "num_beams")]
        sampling = [name for name in blamed if name in _SAMPLING]
        if sampling and data.get("do_sample") is None:  # what whoever wrote them meant
            data["do_sample"] = True
            told.append(f"do_sample=true added to {', '.join(f'{name}={data[name]}' for name in sampling)}")
        elif blamed:
            told += [f"{name}={data.pop(name)} left out" for name in blamed]
        else:
            kept = {name: data[name] for name in _TOKENS if name in data}
            if kept == data:  # even these
                told.append(f"{', '.join(f'{name}={value}' for name, value in data.items())} left out")
                return GenerationConfig(), told
            told.append(f"all but the special tokens left out ({why})")
            data = kept
