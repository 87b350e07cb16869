"""Finds the answer in a response, in time linear in the response.

No regular expression touches the response here: it may be megabytes of whatever a model wrote. `str.find` and one pass
over the braces do all the work; everything behind this module sees bounded text only.
"""

from __future__ import annotations

from dataclasses import dataclass

from .config import RewardConfig
from .verdict import Reason

_OPENERS = ("\\boxed", "\\fbox", "\\framebox")
# What two boxes side by side may have between them, beside signs.
_JOINTS = (
    "\\textbf", "\\text", "\\qquad", "\\quad", "\\to", "\\rightarrow", "\\Rightarrow", "and", "either", "or", "maybe", "perhaps", "possibly",
    "probably", "alternatively", "else",
)  # fmt: skip
_BARE_STOP = frozenset(" \t\r\n$\\{}")
_MARKERS = ("####", "answer is", "answer:", "answer**:", "answer:**")


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
    truncated: bool
    format_ok: bool
    joined: str | None = None
    hedged: bool = False


NOTHING_FOUND = Found(None, Reason.BAD_INPUT, False, False)


def find_answer(text: str, config: RewardConfig) -> Found:
    """The answer of the response `text` under the policy of `config`. Never raises for any string."""
    close, behind = max((text.rfind(tag), text.rfind(tag) + len(tag)) for tag in ("</think>", "</thinking>"))
    open_ = max(text.rfind("<think>"), text.rfind("<thinking>"))
    left_open = open_ > close
    if (left_open and config.unclosed_think == "zero") or (config.require_think and close < 0):
        return Found(None, Reason.UNCLOSED_THINK, True, False)
    start = behind if close >= 0 else 0
    start = max(start, len(text) - config.max_scan_chars)
    boxes, unclosed = find_boxes(text, start)
    format_ok = bool(boxes) and not unclosed and not left_open
    truncated = unclosed or left_open

    if config.answer_forms != "boxed" and not (boxes and config.answer_forms == "any"):
        marked = _after_marker(text, start)
        if marked:
            return Found(marked, None, truncated, not left_open)
    if not boxes or config.answer_forms == "marked":
        return Found(None, Reason.TRUNCATED if unclosed else Reason.NO_BOX, truncated, False)
    picked, reason = _pick(text, boxes, config)
    joined = join_adjacent(text, boxes, config.max_answer_chars) if config.several_boxes == "auto" else None
    hedged = bool(joined) and "\n" not in text[boxes[-2][3] : boxes[-1][0]]
    return Found(picked, reason, truncated, format_ok, joined, hedged)


def find_boxes(text: str, start: int = 0) -> tuple[list[tuple[int, int, int, int]], bool]:
    """All outermost closed boxes of `text[start:]`.

    Returns:
        A list of (begin, content begin, content end, end) in order, and whether a box that was opened stays open.
        A box inside another box is a part of the outer one. `\\boxed 7` (no braces) holds the run of characters up to
        a blank, a dollar, a backslash or a brace.
    """
    boxes: list[tuple[int, int, int, int]] = []
    stack: list[tuple[int, int] | None] = []  # per open brace: (begin of the box, its content), None for a plain brace
    open_boxes = 0
    # Braces before the first box cannot matter to any box.
    cursor = min((at for name in _OPENERS if (at := text.find(name, start)) >= 0), default=len(text))
    base = cursor
    # The next place of each needle at or after the cursor. Each is searched onward only once it is passed, so that all
    # searches together read the text a constant number of times.
    needles = ("{", "}", *_OPENERS)
    ahead = [_find(text, needle, cursor) for needle in needles]
    while True:
        at = min(ahead)
        if at >= len(text):
            return boxes, open_boxes > 0
        which = ahead.index(at)
        cursor = at + 1
        if which >= 2:
            after = at + len(needles[which])
            content = _skip_blanks(text, after)
            if after < len(text) and text[after].isalpha():
                pass  # another command, e.g. \boxedtext
            elif content < len(text) and text[content] == "{":
                stack.append((at, content + 1))
                open_boxes += 1
                cursor = content + 1
            else:
                end = content
                while end < len(text) and text[end] not in _BARE_STOP:
                    end += 1
                if end > content and open_boxes == 0:
                    boxes.append((at, content, end, end))
                cursor = max(end, at + 1)
        elif not _escaped(text, at, base):
            if which == 0:
                stack.append(None)
            elif stack:
                closed = stack.pop()
                if closed is not None:
                    open_boxes -= 1
                    while boxes and boxes[-1][0] > closed[0]:
                        boxes.pop()  # it lies inside the box that just closed
                    boxes.append((closed[0], closed[1], at, at + 1))
        # A run of backslashes is looked back upon by one brace only: nothing before this place is read again.
        base = cursor
        for index, needle in enumerate(needles):
            if ahead[index] < cursor:
                ahead[index] = _find(text, needle, cursor)


def _find(text: str, needle: str, start: int) -> int:
    """Position of the next `needle`, or the length of the text."""
    at = text.find(needle, start)
    return at if at >= 0 else len(text)


def _pick(text: str, boxes: list[tuple[int, int, int, int]], config: RewardConfig) -> tuple[str | None, Reason | None]:
    """The answer among the closed boxes, or the reason why none counts."""
    limit = config.max_answer_chars
    last = boxes[-1]
    if last[2] - last[1] > 2 * limit + 100:  # never copy a book; the factor leaves room for blanks to strip
        return None, Reason.TOO_LONG
    answer = unwrap(text[last[1] : last[2]])
    if config.several_boxes == "same":
        for box in boxes[:-1]:
            if box[2] - box[1] > 2 * limit + 100 or _squeezed(text[box[1] : box[2]]) != _squeezed(answer):
                return None, Reason.SEVERAL_BOXES
    elif config.several_boxes == "join":
        answer = join_adjacent(text, boxes, limit) or answer
    if not answer:
        return None, Reason.EMPTY
    if len(answer) > limit:
        return None, Reason.TOO_LONG
    return answer, None


def join_adjacent(text: str, boxes: list[tuple[int, int, int, int]], limit: int) -> str | None:
    """The last boxes as one list, as far back as only commas, `and` and `or` part them; None where that is one answer.

    An answer that is said again counts once. Gives up (None) once the list is longer than `limit` characters.
    """
    parts: list[str] = []
    seen: set[str] = set()
    size = 0
    for place in range(len(boxes) - 1, -1, -1):
        begin, content, end, _after = boxes[place]
        size += end - content + 2
        if size > limit:
            return None
        part = unwrap(text[content:end])
        if _squeezed(part) not in seen:
            parts.append(part)
        seen.add(_squeezed(part))
        gap = begin - boxes[place - 1][3] if place else 0
        if place == 0 or gap > 60 or not _is_joint(text[begin - gap : begin]):
            break
    return ", ".join(reversed(parts)) if len(parts) > 1 else None


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


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _is_joint(between: str) -> bool:
    """Whether the text between two boxes only lists them: signs, `and`, `or`, and words of doubt."""
    for noise in _JOINTS:
        between = between.replace(noise, "")
    return not any(map(str.isalnum, between))


def _after_marker(text: str, start: int) -> str:
    """The line after the last `####`, `answer is` or `Answer:` of `text[start:]`, without markup; '' where none is."""
    tail = text[start:].lower()
    best = -1
    for marker in _MARKERS:
        at = tail.rfind(marker)
        if at >= 0:
            best = max(best, at + len(marker))
    # `lower` may change the length of exotic letters; then positions would not fit and no marker is trusted
    if best < 0 or len(tail) != len(text) - start:
        return ""
    line = text[start + best :].lstrip(": \t\r\n")[:4000]
    return unwrap(line.split("\n", 1)[0].strip("*. \t\r"))


def _escaped(text: str, at: int, start: int) -> bool:
    """Whether an odd number of backslashes stands before `at` (looking back no further than `start`)."""
    back = at
    while back > start and text[back - 1] == "\\":
        back -= 1
    return (at - back) % 2 == 1


def _skip_blanks(text: str, start: int) -> int:
    while start < len(text) and text[start] in " \t\r\n":
        start += 1
    return start
