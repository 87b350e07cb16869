"""The tokenizer of a model: loaded and checked, its special tokens, and responses as the text that is judged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from erpo_verl.models.errors import ModelError, first_line
from erpo_verl.models.folder import TOKENIZER_FILES


def load_tokenizer(path: str, told: str, elsewhere: str, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or of the hub, with a chat template.

    Args:
        elsewhere: the setting that names another tokenizer.

    Raises:
        ModelError: there is none, or it has no chat template.
    """
    folder = Path(path).expanduser()
    # transformers makes an empty tokenizer out of a model's config.json, without a word.
    if folder.is_dir() and not any(any(folder.glob(pattern)) for pattern in TOKENIZER_FILES):
        raise ModelError(f"{told}: the folder holds no tokenizer; set {elsewhere} to one that does")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder if folder.is_dir() else path, trust_remote_code=trust_remote_code)
    except Exception as error:  # OSError, ValueError, ImportError, and what the model's own code raises
        where = "its tokenizer cannot be used" if folder.is_dir() else "no such folder, and no tokenizer from the hub"
        raise ModelError(f"{told}: {where}: {first_line(error)}") from error
    if not tokenizer.chat_template:
        raise ModelError(
            f"{told}: the tokenizer has no chat template, and prompts are chat messages; take an instruction-tuned model, or set "
            f"{elsewhere} to a tokenizer with a template"
        )
    return tokenizer


def end_tokens(generation: GenerationConfig, config: Any, tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> list[int]:
    """Ids that end a response, rising: those of the generation settings, else of the configuration, and the tokenizer's own.

    Ids that the model does not have are left out; the list may be empty.
    """
    found = generation.eos_token_id
    if found is None:
        found = getattr(config.get_text_config(decoder=True), "eos_token_id", None)
    ids = [] if found is None else [found] if isinstance(found, int) else list(found)
    ids.append(tokenizer.eos_token_id)
    return sorted({i for i in ids if i is not None and 0 <= i < vocabulary})


def padding(tokenizer: PreTrainedTokenizerBase, ends: Sequence[int], vocabulary: int) -> tuple[int, str | None]:
    """The id to pad with, and a word where the tokenizer's own cannot be.

    Padding is masked wherever it stands, so that any id of the model's does; an end token is usual where there is none for it.
    The tokenizer is changed to pad with it too.
    """
    pad = tokenizer.pad_token_id
    if pad is not None and 0 <= pad < vocabulary:
        return pad, None
    known = [i for i in (tokenizer.eos_token_id, *ends) if i in ends and tokenizer.convert_ids_to_tokens(i) is not None]
    instead, word = (known or list(ends))[0], None
    if pad is not None:
        word = f"the padding token {tokenizer.pad_token!r} has id {pad}, outside the model's 0 to {vocabulary - 1}; id {instead} pads in its place"
    if known:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(instead)
    return instead, word


class Decoder:
    """Responses as the text that the reward function sees.

    Special tokens that shape a chat are left out, as usual. Tags stay, whether the tokenizer calls them special or not: ``<think>``
    and ``</think>`` are part of what is judged. A tag is a special token that has a partner, the same with a slash (``[THINK]`` and
    ``[/THINK]``), or one of the first two without it, and is no token with a name of its own (``eos_token``, ``pad_token`` ...).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer
        known = tokenizer.get_vocab()
        named = {tokenizer.convert_tokens_to_ids(t) for t in (tokenizer.special_tokens_map.get(n) for n in _NAMED) if isinstance(t, str)}
        special = set(tokenizer.all_special_ids) | {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        texts = {i: tokenizer.convert_ids_to_tokens(i) for i in special}
        self.tags = frozenset(i for i, text in texts.items() if i not in named and _partner(text, known))
        self.hidden = frozenset(special) - self.tags

    def __call__(self, responses: Sequence[Sequence[int]]) -> list[str]:
        """The text of each response."""
        shown = [[token for token in tokens if token not in self.hidden] for tokens in responses]
        return self.tokenizer.batch_decode(shown, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def doubt(self, responses: Sequence[Sequence[int]], texts: Sequence[str]) -> str | None:
        """What keeps a reward function from ever seeing these answers, in a line; None where nothing does.

        For the first batch of a run: responses without any text, or with special tokens in their midst that are not shown.
        """
        if not texts:
            return None
        empty = sum(not text.strip() for text in texts)
        if empty == len(texts):
            return f"all {empty} responses are empty as text: no reward function can score them (does the tokenizer belong to the model?)"
        inside = [{t for t in tokens[:-1] if t in self.hidden} for tokens in responses]
        count = sum(map(bool, inside))
        if 2 * count <= len(texts):
            return None
        names = sorted({self.tokenizer.convert_ids_to_tokens(t) for some in inside for t in some})
        return f"{count} of {len(texts)} responses hold special tokens that the reward function does not see: {', '.join(map(repr, names[:5]))}"


_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_THINK = ("<think>", "</think>")


def _partner(text: str, known: dict[str, int]) -> bool:
    """Whether the vocabulary has the other one of a pair such as <think> and </think>."""
    if len(text) < 3:
        return False
    if text in _THINK:  # the judge knows these two, one without the other too
        return True
    if text[1] == "/":
        return text[0] + text[2:] in known
    return f"{text[0]}/{text[1:]}" in known
