"""verl's data set with the prompts of this project: ``data.custom_cls.path=pkg://erpo_verl.verl_plugin.rows data.custom_cls.name=Rows``.

verl hands the messages of a row to the chat template as they come from the file, with a null for every field that only other rows have;
templates print ``None``, or refuse the row, which verl then leaves out. Here they go through ``erpo_verl.prompts`` first.
"""

from __future__ import annotations

from typing import Any

from verl.utils.dataset.rl_dataset import RLHFDataset

from erpo_verl.prompts import PromptError, chat_messages, is_answer


class Rows(RLHFDataset):
    """See the module. Rows with images, videos or audios are verl's own matter.

    Raises:
        ValueError: a row cannot become a prompt (named).
    """

    def maybe_filter_out_long_prompts(self, dataframe: Any = None) -> Any:
        """As verl's, of the cleaned messages; with ``filter_overlong_prompts=false`` every row is still looked at."""
        if not self.filter_overlong_prompts or self.processor is not None:
            for number in range(len(dataframe)):
                self._messages(dataframe[number], number)
            return super().maybe_filter_out_long_prompts(dataframe)
        options = {"add_generation_prompt": True, "tokenize": False, **self.apply_chat_template_kwargs}
        if self.tool_schemas is not None:
            options["tools"] = self.tool_schemas

        def short(row: dict[str, Any], number: int) -> bool:
            text = self.tokenizer.apply_chat_template(self._messages(row, number), **options)
            return len(self.tokenizer(text, add_special_tokens=False)["input_ids"]) <= self.max_prompt_length

        kept = [number for number in range(len(dataframe)) if short(dataframe[number], number)]
        print(f"filter dataset len: {len(kept)}")
        return dataframe.select(kept)

    def _messages(self, row: dict[str, Any], number: int) -> list[dict[str, Any]]:
        try:
            messages = chat_messages(row, self.prompt_key)
        except PromptError as error:
            raise ValueError(f"row {number} of {', '.join(map(str, self.original_data_files))}: {error}") from error
        if is_answer(messages[-1]):
            raise ValueError(f"row {number} of {', '.join(map(str, self.original_data_files))}: it ends in an assistant's message: cut that off")
        return messages

    def _build_messages(self, example: dict[str, Any], key: str) -> list[dict[str, Any]]:
        if any(example.get(name) for name in (self.image_key, self.video_key, self.audio_key)):
            return super()._build_messages(example, key)
        return chat_messages(example, key)
