"""A tokenizer whose tokens are the numbers 0 to 99 and single signs, as an ordinary Hugging Face fast tokenizer."""

from __future__ import annotations

from tokenizers import AddedToken
from transformers import Qwen2Tokenizer

from examples.arithmetic.tokenizer import BOS, BOXED, CHAT_TEMPLATE, EOS, PAD, ROLES, UNK

CHARACTERS = "0123456789+-*/=;:,()}\n"
TENS = [str(number) for number in range(10, 100)]


def build_tokenizer() -> Qwen2Tokenizer:
    """One token a number below 100 and a sign; `\\boxed{` is one token too."""
    special = [PAD, BOS, EOS, UNK, *ROLES]
    byte_level = [character.replace("\n", "Ċ") for character in CHARACTERS]
    tokenizer = Qwen2Tokenizer(
        vocab={token: i for i, token in enumerate([*special, BOXED, *byte_level, *TENS])},
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
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in (BOXED, *TENS)])
    return tokenizer


def chat(problem_text: str) -> list[dict[str, str]]:
    """A problem as the messages that the chat template takes."""
    return [{"role": "user", "content": problem_text}]
