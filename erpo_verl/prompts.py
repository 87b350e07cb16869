"""A row of the data becomes the prompt that a model sees: one way, for training, evaluation and verl (``verl_plugin.rows``).

1. The messages are checked. A field that is null is absent: parquet fills in what other rows have, and templates would print
   ``None`` or refuse. Content in parts of text becomes text.
2. A prompt that ends in an assistant's message is refused, or continued where ``continue_final_message`` asks for it. It would
   otherwise be closed, and a second answer asked for; and rows of supervised data, with the solution inside, would pass.
3. The chat template is applied, with the mark of the assistant's turn. A template that prints the date is given the date of the run,
   so that a run that goes on later asks with the same prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONTINUE = "continue_final_message"
_ANSWERING = ("assistant", "model", "gpt", "bot")  # an assistant's role, by the names that data sets give it


class PromptError(ValueError):
    """A row cannot become a prompt; the message says why, and the caller which row."""


def chat_messages(row: Mapping[str, Any], key: str = "prompt") -> list[dict[str, Any]]:
    """The messages of a row, checked, without null fields, their contents as text.

    Raises:
        PromptError: they cannot be used.
    """
    given = row.get(key)
    if isinstance(given, str):
        raise PromptError(f'{key} is text, and must be a list of chat messages such as [{{"role": "user", "content": "..."}}]')
    given = given.tolist() if hasattr(given, "tolist") else given
    if not isinstance(given, Sequence) or not given:
        raise PromptError(f"{key} must be a list of chat messages")
    for column in ("images", "videos", "audios"):
        if row.get(column) is not None and len(row[column]):
            raise PromptError(f"it has {column}; prompts of text alone are supported")
    return [_message(_without_nulls(message), key) for message in given]


def is_answer(message: Mapping[str, Any]) -> bool:
    """Whether an assistant says it."""
    return message["role"].strip().lower() in _ANSWERING


def _message(message: Any, key: str) -> dict[str, Any]:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str) or not message["role"]:
        raise PromptError(f"{key} must hold messages with role and content")
    content = message.get("content")
    if content is None and message.get("tool_calls"):
        return message
    if isinstance(content, list):
        odd = [part for part in content if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str)]
        if odd:
            kind = odd[0].get("type") if isinstance(odd[0], dict) else type(odd[0]).__name__
            raise PromptError(f"{key} holds a part of the kind {kind!r}; prompts of text alone are supported")
        return {**message, "content": "".join(part["text"] for part in content)}
    if not isinstance(content, str):
        raise PromptError(f"{key} must hold messages with role and content")
    return message


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [_without_nulls(inner) for inner in value]
    return value


class Prompter:
    """Messages to prompts.

    Args:
        tokenizer: with a chat template.
        template: further arguments of the template (``data.apply_chat_template_kwargs``).
        date: what the template sees as today, as 2026-01-31; None: today. ``self.date`` is what it is.

    Raises:
        PromptError: ``date`` is none.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: Mapping[str, Any] | None = None, date: str | None = None):
        self.tokenizer, self.template = tokenizer, dict(template or {})
        try:
            # A day, not a moment: runs that begin at other hours of a day should ask with the same prompts.
            self._now = datetime.combine(datetime.fromisoformat(date) if date else datetime.now(), time())
        except ValueError:
            raise PromptError(f"{date!r} is no date such as 2026-01-31") from None
        self.dated = False  # whether a template has printed the date

    @property
    def date(self) -> str:
        """As 2026-01-31."""
        return self._now.date().isoformat()

    def _strftime_now(self, form: str) -> str:
        self.dated = True
        return self._now.strftime(form)

    def __call__(self, messages: Sequence[Mapping[str, Any]]) -> tuple[str, list[int]]:
        """(text, token ids) of the prompt.

        Raises:
            PromptError: it ends in an assistant's message that is not to be continued, or the template refuses it.
        """
        options = {"add_generation_prompt": True, **self.template, "tokenize": False}
        go_on = options.pop(CONTINUE, False)
        if is_answer(messages[-1]):
            self._check_end(messages[-1], go_on)
            options |= {"add_generation_prompt": False, CONTINUE: True}
        try:
            # The template's own arguments stand before transformers' function of the same name.
            text = self.tokenizer.apply_chat_template([dict(m) for m in messages], strftime_now=self._strftime_now, **options)
        except Exception as error:  # jinja's errors, and whatever a template raises
            roles = ", ".join(str(message["role"]) for message in messages)
            first = str(error).strip().splitlines() or [""]
            raise PromptError(f"with the roles {roles}: the chat template refuses it: {type(error).__name__}: {first[0]}") from error
        return text, list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    @staticmethod
    def _check_end(message: Mapping[str, Any], go_on: Any) -> None:
        if not go_on:
            raise PromptError(
                "it ends in an assistant's message: cut that off (rows of supervised data hold the solution there), or let the model go on "
                f"from it with {CONTINUE}: true among the arguments of the chat template"
            )
        if "\\boxed" in (message.get("content") or ""):
            raise PromptError("it ends in an assistant's message that holds a boxed answer already: cut that off")
