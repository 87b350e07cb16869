"""Frames between the pool and its processes: four bytes of length, then JSON. Nothing is ever unpickled.

Used by both sides; imports the standard library only.
"""

from __future__ import annotations

import json
import struct
from typing import Any

_HEAD = struct.Struct(">I")
MAX_FRAME = 1 << 20  # bytes; anything longer is garbage on the line


class ProtocolError(Exception):
    """What arrived is no frame."""


def pack(message: dict[str, Any]) -> bytes:
    """One frame. Lone surrogates and control characters survive (JSON escapes them)."""
    body = json.dumps(message).encode("ascii")
    return _HEAD.pack(len(body)) + body


class FrameReader:
    """Collects bytes and gives back whole messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """The messages that `data` completes.

        Raises:
            ProtocolError: the bytes are no frame, or a frame is longer than MAX_FRAME.
        """
        self._buffer += data
        messages = []
        while len(self._buffer) >= _HEAD.size:
            (length,) = _HEAD.unpack_from(self._buffer)
            if length > MAX_FRAME:
                raise ProtocolError(f"a frame of {length} bytes")
            if len(self._buffer) < _HEAD.size + length:
                break
            body = bytes(self._buffer[_HEAD.size : _HEAD.size + length])
            del self._buffer[: _HEAD.size + length]
            try:
                message = json.loads(body)
            except ValueError as error:
                raise ProtocolError("a frame that is no JSON") from error
            if not isinstance(message, dict):
                raise ProtocolError("a frame that is no object")
            messages.append(message)
        return messages
