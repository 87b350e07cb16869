"""Rewordings of a prompt that leave its answer alone: how much of a model's accuracy hangs on the phrasing?

Each is a plain function of (the problem's text, the instruction that stood after it) to chat messages. The problem's
text itself is never touched, only what stands around it; an instruction is only ever replaced by another that asks for
the same boxed answer. Where a prompt is not understood well enough for a rewording, it is left out of that rewording
and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from erpo_verl.data.templates import INSTRUCTION

Messages = list[dict[str, str]]
ORIGINAL = "original"

# Instructions that are recognised at the end of a user's message: ours, and those of widespread recipes.
INSTRUCTIONS = (
    INSTRUCTION,
    "Please reason step by step, and put your final answer within \\boxed{}.",
    "Let's think step by step and output the final answer within \\boxed{}.",
)
OTHER_PHRASING = INSTRUCTIONS[1]
OTHER_PHRASING_2 = "Solve the problem. Explain each step, and write only the final answer in \\boxed{}."


def _user(text: str) -> Messages:
    return [{"role": "user", "content": text}]


def _replaced(problem: str, instruction: str, by: str) -> Messages | None:
    """Only a known instruction is replaced: another may say something that the answer hangs on."""
    return _user(f"{problem} {by}") if instruction in INSTRUCTIONS else None


# name -> the messages from problem and instruction ("" where there is none), or None where the rewording does not apply
REWORDINGS: dict[str, Callable[[str, str], Messages | None]] = {
    "phrasing": lambda p, i: _replaced(p, i, OTHER_PHRASING if i != OTHER_PHRASING else INSTRUCTION),
    "phrasing_2": lambda p, i: _replaced(p, i, OTHER_PHRASING_2),
    "instruction_first": lambda p, i: _user(f"{i}\n\n{p}") if i else None,
    "instruction_in_system": lambda p, i: [{"role": "system", "content": i}, *_user(p)] if i else None,
    "blank_line": lambda p, i: _user(f"{p}\n\n{i}") if i else None,
    "heading": lambda p, i: _user(f"Problem:\n{p}\n\n{i}".rstrip()),
    "newline_before": lambda p, i: _user(f"\n{p} {i}".rstrip()),
    "newline_after": lambda p, i: _user(f"{p} {i}".rstrip() + "\n"),
}


def parts(messages: Sequence[Mapping[str, str]], extra_info: Mapping[str, Any]) -> tuple[str, str] | None:
    """(problem, instruction) of a prompt, or None where it is neither one user's message nor that behind a known system
    message.

    The problem is ``extra_info.problem`` where the message begins with it, else what stands before a known instruction,
    else the whole message, with an empty instruction.
    """
    roles = [message["role"] for message in messages]
    content = (messages[-1].get("content") or "").strip()
    if roles == ["system", "user"] and messages[0]["content"].strip() in INSTRUCTIONS:
        return content, messages[0]["content"].strip()
    if roles != ["user"]:
        return None
    raw = extra_info.get("problem") or extra_info.get("question")
    if isinstance(raw, str) and raw.strip() and content.startswith(raw.strip()):
        return raw.strip(), content.removeprefix(raw.strip()).strip()
    for instruction in INSTRUCTIONS:
        if content.endswith(instruction) and content != instruction:
            return content.removesuffix(instruction).strip(), instruction
    return content, ""


def reword(name: str, messages: Sequence[Mapping[str, str]], extra_info: Mapping[str, Any]) -> Messages | None:
    """The prompt under a rewording, or None where it does not apply or would change nothing.

    Raises:
        KeyError: no rewording of this name.
    """
    if name == ORIGINAL:
        return [dict(message) for message in messages]
    build, found = REWORDINGS[name], parts(messages, extra_info)
    changed = build(*found) if found else None
    return None if changed == [dict(message) for message in messages] else changed
