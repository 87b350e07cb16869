"""Finds the answer in a response, in time linear in the response, which may be megabytes of whatever a model wrote.

Behind this module everything sees bounded text only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .config import RewardConfig
from .verdict import Reason

# A box with its brace or with a bare run (\boxed 7), an escaped sign, a brace. No alternative can be tried again: linear.
_NAMES = "boxed|fbox|framebox"
_SIGN = re.compile(rf"\\(?:{_NAMES})(?![A-Za-z])[ \t\r\n]*(?:(\{{)|([^ \t\r\n$\\{{}}]*))|\\[{{}}]|\\\\(?!{_NAMES})|([{{}}])")
# What two boxes side by side may have between them, beside signs.
_JOINTS = (
    "\\textbf", "\\text", "\\qquad", "\\quad", "\\to", "\\rightarrow", "and", "either", "or", "maybe", "perhaps", "possibly",
    "probably", "alternatively", "else", "\\neq", "\\ne", "but", "it could also be", "could also be",
)
_OR = re.compile(r"^[\s$]*=|^[^\\]{0,20}\bor\b|^[^\\]*\\text\{ *or\b")
_DOUBT = re.compile(r"\b(?:or|maybe|perhaps|possibly|probably|alternatively|could|might|vs|versus|unless|otherwise|another)\b", re.IGNORECASE)  # fmt: skip
_MARKERS = ("####", "answer is", "answer:", "answer**:", "answer:**")
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Found:
    """What a response holds.

    Attributes:
        answer: the text to judge, None where there is none (then `reason` says why).
        reason: why there is no answer, None where there is one.
        truncated: the response ends inside an open box or an open <think>.
        format_ok: no <think> left open and at least one closed box behind it.
        joined: the boxes that stand side by side at the end, as one list; None where there is only one.
        hedged: they stand on one line, so that they are several answers if they are no list.
    """

    answer: str | None
    reason: Reason | None
    truncated: bool = False
    format_ok: bool = False
    joined: str | None = None
    hedged: bool = False


def find_answer(text: str, config: RewardConfig) -> Found:
    """The answer of the response `text` under the policy of `config`. Never raises for any string."""
    close, behind = max((text.rfind(tag), text.rfind(tag) + len(tag)) for tag in ("</think>", "</thinking>"))
    left_open = max(text.rfind("<think>"), text.rfind("<thinking>")) > close
    if (left_open and config.unclosed_think == "zero") or (config.require_think and close < 0):
        return Found(None, Reason.UNCLOSED_THINK, True)
    start = max(behind if close >= 0 else 0, len(text) - config.max_scan_chars)
    boxes, unclosed = find_boxes(text, start)
    truncated = unclosed or left_open
    if config.answer_forms != "boxed" and not (boxes and config.answer_forms == "any"):
        marked = _after_marker(text, start)
        if marked:
            return Found(marked, None, truncated, not left_open)
    if not boxes or config.answer_forms == "marked":
        return Found(None, Reason.TRUNCATED if unclosed else Reason.NO_BOX, truncated)
    format_ok = not truncated
    limit = config.max_answer_chars
    _begin, content, end, _after = boxes[-1]
    # Never copy a book; the factor leaves room for blanks to strip.
    answer = unwrap(text[content:end]) if end - content <= 2 * limit + 100 else None
    if not answer or len(answer) > limit:
        return Found(None, Reason.EMPTY if answer == "" else Reason.TOO_LONG, truncated, format_ok)
    joined = join_adjacent(text, boxes, limit, doubt=True) if config.several_boxes == "auto" else None
    between = text[boxes[-2][3] : boxes[-1][0]] if joined is not None else ""
    hedged = joined is not None and ("\n" not in between or _DOUBT.search(between) is not None)
    return Found(answer, None, truncated, format_ok, joined, hedged)


def find_boxes(text: str, start: int = 0) -> tuple[list[Box], bool]:
    """All outermost closed boxes of `text[start:]`.

    Returns:
        A list of (begin, content begin, content end, end) in order, and whether a box that was opened stays open.
        A box inside another box is a part of the outer one. `\\boxed 7` (no braces) holds the run of characters up to
        a blank, a dollar, a backslash or a brace.
    """
    boxes: list[Box] = []
    stack: list[tuple[int, int] | None] = []  # per open brace: (begin of the box, its content), None for a plain brace
    open_boxes = 0
    # Braces before the first box cannot matter to any box.
    first = min((at for name in _NAMES.split("|") if (at := text.find("\\" + name, start)) >= 0), default=len(text))
    for match in _SIGN.finditer(text, first):
        opened, bare, brace = match.groups()
        if opened:
            stack.append((match.start(), match.end()))
            open_boxes += 1
        elif bare and not open_boxes:
            boxes.append((match.start(), *match.span(2), match.end()))
        elif brace == "{":
            stack.append(None)
        elif brace and stack and (closed := stack.pop()) is not None:
            open_boxes -= 1
            while boxes and boxes[-1][0] > closed[0]:
                boxes.pop()  # it lies inside the box that just closed
            boxes.append((*closed, match.start(), match.end()))
    return boxes, open_boxes > 0


def join_adjacent(text: str, boxes: list[Box], limit: int, doubt: bool = False) -> str | None:
    """The last boxes as one list, as far back as only commas, `and` and `or` part them; None where that is one answer.

    `doubt`, for what a model wrote: words of doubt part them too, and an `or` or `=` between two is kept as `or`, so that all have to be
    right where one answer is wanted. An answer that is said again counts once. '' once the list is longer than `limit` characters: several, and too long to be read.
    """
    parts: list[str] = []
    seen: set[str] = set()
    size = 0
    for place in range(len(boxes) - 1, -1, -1):
        begin, content, end, _after = boxes[place]
        size += end - content + 2
        if size > limit:
            return "" if parts else None
        part = unwrap(text[content:end])
        squeezed = "".join(part.split())
        if squeezed not in seen:
            parts += [" or " if doubt and _OR.search(text[_after : _after + 60]) else ", ", part]
        seen.add(squeezed)
        gap = begin - boxes[place - 1][3] if place else 0
        if place == 0 or gap > 60 or not (_is_joint(between := text[begin - gap : begin]) or (doubt and _DOUBT.search(between))):
            break
    return "".join(reversed(parts[1:])) if len(parts) > 2 else None


def unwrap(answer: str) -> str:
    """`answer` without outer blanks and without a box that holds all of it (`\\boxed{\\boxed{3}}` has the answer 3)."""
    for _ in range(5):
        answer = answer.strip()
        boxes, _unclosed = find_boxes(answer)
        if len(boxes) == 1 and boxes[0][0] == 0 and boxes[0][3] == len(answer):
            answer = answer[boxes[0][1] : boxes[0][2]]
        else:
            break
    return answer


def _is_joint(between: str) -> bool:
    """Whether the text between two boxes only lists them: signs, `and`, `or`, and words of doubt."""
    between = between.lower()
    for noise in _JOINTS:
        between = between.replace(noise, "")
    return not any(map(str.isalnum, between))


def _after_marker(text: str, start: int) -> str:
    """The line after the last `####`, `answer is` or `Answer:` of `text[start:]`, without markup; '' where none is."""
    tail = text[start:].lower()
    best = max((at + len(marker) for marker in _MARKERS if (at := tail.rfind(marker)) >= 0), default=-1)
    # `lower` may change the length of exotic letters; then positions would not fit and no marker is trusted
    if best < 0 or len(tail) != len(text) - start:
        return ""
    line = text[start + best :].lstrip(": \t\r\n")[:4000]
    return unwrap(line.split("\n", 1)[0].strip("*. \t\r"))
