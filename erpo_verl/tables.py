"""Numbers, intervals and tables as text, alike in every report."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

DASH = "–"
"""In a table, where there is no number."""


def plain(text: str) -> str:
    """Text that cannot break a Markdown table or become markup."""
    text = "".join(character if character.isprintable() else " " for character in text)
    text = re.sub(r"[\\|`*]|<(?=[A-Za-z/!?])", lambda found: "\\" + found[0], text)
    return text.replace("](", "]\\(")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; its cells are taken as text."""
    lines = [header, *rows]
    first, *rest = ["| " + " | ".join(plain(cell) for cell in line) + " |" for line in lines]
    return "\n".join([first, "|" + "---|" * len(header), *rest]) + "\n"


def number(value: float | None, form: str = ".1f") -> str:
    """A number in a format; a dash for None and NaN."""
    return DASH if value is None or math.isnan(value) else format(value, form)


def signed(value: float | None, form: str) -> str:
    """With its sign; none where it is rounded to zero."""
    shown = number(value, "+" + form)
    return shown if any(digit in shown for digit in "123456789") else shown.lstrip("+-")


def interval(low: float | None, high: float | None, form: str, sign: bool = False) -> str:
    """``[0.380, 0.445]``; a dash where there is none."""
    show = signed if sign else number
    return DASH if low is None or high is None else f"[{show(low, form)}, {show(high, form)}]"


def with_interval(value: float | None, low: float | None, high: float | None, form: str = ".3f", sign: bool = False) -> str:
    """``0.412 [0.380, 0.445]``; without brackets where there is no interval."""
    shown = (signed if sign else number)(value, form)
    return shown if low is None or high is None else f"{shown} {interval(low, high, form, sign)}"


def p_value(value: float | None) -> str:
    """A p value for a table."""
    return DASH if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"
