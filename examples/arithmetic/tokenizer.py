"""A character-level tokenizer with a chat template, as an ordinary Hugging Face fast tokenizer."""

from __future__ import annotations

from tokenizers import AddedToken
from transformers import Qwen2Tokenizer

# transformers 5 loads a folder with a Qwen2 model by Qwen2's tokenizer class, whatever class saved it, so this is one:
# byte-level, with a vocabulary of single characters and no merges. verl 0.9.1 expects of it what Qwen's tokenizers
# have: a token <|im_end|> that ends a turn, and a newline that is one token.
PAD, BOS, EOS, UNK = "<|pad|>", "<|im_start|>", "<|im_end|>", "<|unknown|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
BOXED = "\\boxed{"
CHARACTERS = "0123456789+-*=?;}\n"

# <|im_start|><|user|>3+4*5<|im_end|><|assistant|>   ...   the answer ends with <|im_end|>
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def build_tokenizer() -> Qwen2Tokenizer:
    """One token a character; `\\boxed{` is one token too, and unlike the special ones it is part of the text."""
    special = [PAD, BOS, EOS, UNK, *ROLES]
    byte_level = [character.replace("\n", "Ċ") for character in CHARACTERS]
    tokenizer = Qwen2Tokenizer(
        vocab={token: i for i, token in enumerate([*special, BOXED, *byte_level])},
        merges=[],
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        additional_special_tokens=list(ROLES),
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        model_max_length=256,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.add_tokens([AddedToken(BOXED, special=False, normalized=False)])
    return tokenizer


def chat(problem_text: str) -> list[dict[str, str]]:
    """A problem as the messages that the chat template takes."""
    return [{"role": "user", "content": problem_text}]
