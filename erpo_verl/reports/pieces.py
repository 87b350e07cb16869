"""Tokens as a reader can see them: a tokenizer's own pieces (``Ġthe``, ``Ċ``, ``▁the``, ``<0x0A>``) as text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_SENTENCEPIECE_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_level_alphabet() -> dict[str, int]:
    """The character that byte-level BPE (GPT-2, Qwen, Llama 3) writes for each byte, the other way round.

    Bytes that can be seen in Latin-1 stand for themselves; the other 68 are, in order, U+0100 and up: ``Ġ`` is a blank.
    """
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {chr(0x100 + i): byte for i, byte in enumerate(hidden)}


_BYTES = _byte_level_alphabet()


def is_byte_level(tokens: Iterable[str]) -> bool:
    """Whether pieces are of byte-level BPE: they have its blank or line feed, and SentencePiece's blank nowhere."""
    tokens = list(tokens)
    return any("Ġ" in token or "Ċ" in token for token in tokens) and not any("▁" in token for token in tokens)


def readable(tokens: Sequence[str], byte_level: bool) -> list[str]:
    """The text of each piece. A piece that ends inside a character shows the character's bytes so far, ``⟨E2 88⟩``."""
    return [_byte_level(token) if byte_level else _sentencepiece(token) for token in tokens]


def _byte_level(token: str) -> str:
    if any(character not in _BYTES for character in token):
        return token  # a special token with text of its own
    return _decoded(bytes(_BYTES[character] for character in token))


def _sentencepiece(token: str) -> str:
    if match := _SENTENCEPIECE_BYTE.fullmatch(token):
        return _decoded(bytes([int(match[1], 16)]))
    return token.replace("▁", " ")


def _decoded(data: bytes) -> str:
    """UTF-8, with the bytes that are none shown as ``⟨E2 88⟩``."""
    parts = []
    while data:
        try:
            parts.append(data.decode())
            break
        except UnicodeDecodeError as error:
            parts.append(data[: error.start].decode())
            parts.append(f"⟨{data[error.start : error.end].hex(' ').upper()}⟩")
            data = data[error.end :]
    return "".join(parts)
