"""A folder becomes a checked model: all that can be known of it before its weights are read, in one place for every command.

``erpo train --check``, ``erpo evaluate`` and the dry run of verl call :func:`read_model`; ``load.py`` then reads the weights.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass

from transformers import GenerationConfig, PretrainedConfig, PreTrainedTokenizerBase

from erpo_verl.models import config as configs
from erpo_verl.models import folder as folders
from erpo_verl.models import tokenizer as tokenizers
from erpo_verl.models.errors import VERL, ModelError, Names, first_line
from erpo_verl.models.folder import Adapter
from erpo_verl.models.shapes import check_shapes
from erpo_verl.models.tokenizer import Decoder


@dataclass(frozen=True)
class ModelParts:
    """A model without its weights, read and checked."""

    told: str  # how messages call it
    base: str  # folder of the weights, or name on the hub
    adapter: Adapter | None
    config: PretrainedConfig
    generation: GenerationConfig
    tokenizer: PreTrainedTokenizerBase
    end_token_ids: list[int]  # at least one
    pad_token_id: int  # of the model's vocabulary
    vocabulary: int  # rows of the embedding
    context: int | None  # most tokens of prompt and response together; None: not known
    dropout: dict[str, float]  # fields of the configuration that would make training random
    notes: list[str]  # what was changed or should be known, in words
    trust_remote_code: bool = False
    generation_changes: tuple[str, ...] = ()  # what the generation settings lacked to be saved again, in words

    @property
    def decoder(self) -> Decoder:
        """Turns responses into the text that is judged."""
        return Decoder(self.tokenizer)


def read_model(
    path: str,
    *,
    tokenizer_path: str | None = None,
    trust_remote_code: bool = False,
    names: Names = VERL,
    training: bool = True,
) -> ModelParts:
    """Read and check a model's folder but for its weights, of which the headers alone are looked at.

    Args:
        path: a folder with a model or an adapter (peft), or a name on the hub.
        tokenizer_path: the tokenizer, where it is not the model's.
        training: whether the weights are to be trained and written again.

    Raises:
        ModelError: it cannot be used; one line that says what to do.
    """
    told = names.told(path)
    base, adapter = folders.find(path, told)
    if adapter is not None:
        told = f"{told} (an adapter of {base})"
        _check_adapter(adapter, told)
    config = configs.load_config(base, told, names.trust, trust_remote_code)
    quantised = configs.quantisation(config)
    if quantised and training:
        raise ModelError(f"{told}: its weights are quantised ({quantised}), and those cannot be trained and written; take the model as it was before")
    folders.check_weights(base, told)
    if not quantised:
        check_shapes(base, adapter, config, told, trust_remote_code)
    vocabulary = configs.vocabulary_size(config)
    notes = []
    for part in {id(part): part for part in (config, config.get_text_config(decoder=True))}.values():
        # torch's embedding refuses such an index, or takes -1 for the last row and keeps it from learning.
        if getattr(part, "pad_token_id", None) is not None and not 0 <= part.pad_token_id < vocabulary:
            notes.append(f"config.json: pad_token_id={part.pad_token_id} is outside the embedding (0 to {vocabulary - 1}) and left out")
            part.pad_token_id = None
    generation, changes = configs.load_generation(base, config, told)
    notes += [f"{configs.GENERATION}: {', '.join(changes)} (as it stands it could not be saved again)"] if changes else []
    if tokenizer_path is None:
        tokenizer = tokenizers.load_tokenizer(folders.tokenizer_folder(base, adapter), told, names.tokenizer, trust_remote_code)
    else:
        called = f"{names.tokenizer}{names.joined}{tokenizer_path}"
        tokenizer = tokenizers.load_tokenizer(tokenizer_path, called, names.tokenizer, trust_remote_code)
    ends = tokenizers.end_tokens(generation, config, tokenizer, vocabulary)
    if not ends:
        raise ModelError(
            f"{told}: neither {configs.GENERATION} nor config.json nor the tokenizer names an end token (eos_token_id) of the model's 0 to "
            f"{vocabulary - 1}; without one every response runs to its limit: write it into {configs.GENERATION}"
        )
    pad, word = tokenizers.padding(tokenizer, ends, vocabulary)
    notes += [word] if word else []
    dropout = configs.dropouts(config)
    if training:
        _rehearse(config, generation, tokenizer, told)
    return ModelParts(
        told, base, adapter, config, generation, tokenizer, ends, pad, vocabulary, configs.context_length(config), dropout, notes,
        trust_remote_code, tuple(changes),
    )  # fmt: skip


def _check_adapter(adapter: Adapter, told: str) -> None:
    try:
        from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
        from peft.tuners.tuners_utils import BaseTuner
    except ImportError:
        raise ModelError(f"{told}: peft is not installed: pip install peft") from None
    tuner = {kind.value: tuner for kind, tuner in PEFT_TYPE_TO_TUNER_MAPPING.items()}.get(adapter.kind)
    if tuner is None or not issubclass(tuner, BaseTuner):
        raise ModelError(f"{told}: a {adapter.kind} adapter has no weights that could be merged into the model")
    folders.check_weights(adapter.path, told)


def _rehearse(config: PretrainedConfig, generation: GenerationConfig, tokenizer: PreTrainedTokenizerBase, told: str) -> None:
    """Write all but the weights, as is done at the end of a run."""
    with tempfile.TemporaryDirectory() as folder:
        for what, part in (("configuration", config), ("generation settings", generation), ("tokenizer", tokenizer)):
            try:
                part.save_pretrained(folder)
            except Exception as error:  # whatever a library or the model's code finds wrong with it
                raise ModelError(f"{told}: its {what} can be read but not written, so that the trained model could not be saved: {first_line(error)}") from error


def too_long(context: int | None, prompt: int, prompt_words: str, response: int, response_words: str) -> str | None:
    """Why a prompt and a response of these many tokens do not fit the model, or None."""
    if context is None or prompt + response <= context:
        return None
    return f"{prompt_words} and {response_words}: together {prompt + response} tokens, and the model was made for {context} (its config.json): choose fewer"


def check_tokens(parts: ModelParts, prompts: Iterable[tuple[list[int], str]]) -> None:
    """Whether the model knows every token of the prompts (ids, text).

    Raises:
        ModelError: it does not; the tokenizer is another model's.
    """
    for tokens, text in prompts:
        if max(tokens, default=0) >= parts.vocabulary:
            raise ModelError(
                f"{parts.told}: the model knows the tokens 0 to {parts.vocabulary - 1}, and the tokenizer makes {max(tokens)} of a prompt "
                f"({text[:80]!r}): it is another model's"
            )
