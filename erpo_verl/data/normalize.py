"""One spelling of a problem's text, for ids, for duplicates and for overlap between sets.

`tokens` lower-cases, and leaves out what changes from copy to copy: blanks, sentence punctuation, dollars and other
math delimiters, LaTeX's spacing and sizing commands, braces around one character, the comma of 1,000. What changes the
problem stays: digits, letters, operators, brackets, `_`, `^`, `!`, a decimal point. Two problems are the same where
their `normal_form`s are equal. An id depends on nothing but the set's name and that form, so it is the same in
every split, order and version of a set; a change of the rules below changes ids and is a breaking change.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

_CHARACTERS = str.maketrans(
    {
        "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "×": r"\times ", "⋅": r"\cdot ", "·": r"\cdot ", "÷": r"\div ",
        "≤": r"\leq ", "≥": r"\geq ", "≠": r"\neq ", "π": r"\pi ", "°": r"^\circ ", "∠": r"\angle ", "△": r"\triangle ",
        "√": r"\sqrt ", "∞": r"\infty ", "’": "'", "‘": "'", "“": '"', "”": '"', "…": " ",
    }
)  # fmt: skip
_SPELLING = {
    "\\dfrac": "\\frac", "\\tfrac": "\\frac", "\\cfrac": "\\frac", "\\le": "\\leq", "\\ge": "\\geq", "\\ne": "\\neq",
    "\\leqslant": "\\leq", "\\geqslant": "\\geq", "\\lbrace": "\\{", "\\rbrace": "\\}", "\\degree": "^\\circ",
    "\\varnothing": "\\emptyset", "\\%": "%", "\\#": "#", "\\&": "&", "\\_": "_", "\\vert": "|", "\\lvert": "|", "\\rvert": "|",
}  # fmt: skip
# Layout only: spacing, sizes, delimiters, fonts, dots.
_DROPPED = frozenset(
    r"""\left \right \middle \big \Big \bigg \Bigg \bigl \bigr \Bigl \Bigr \biggl \biggr \Biggl \Biggr \displaystyle
    \textstyle \limits \nolimits \quad \qquad \, \; \: \! \> \( \) \[ \] \\ \- \text \textbf \textit \textrm \mathrm
    \mathbf \mbox \hbox \rm \bf \it \operatorname \ldots \dots \cdots \noindent \newline \par \hspace \vspace \space
    . , ; : ? ' " ` ~ $ •""".lower().split()
)
_TOKEN = re.compile(r"\\[a-z]+|\\.|[^\W\d_]+|\d+(?:\.\d+)?|[^\w\s]|_", re.DOTALL)
_THOUSANDS = re.compile(r"(?<=\d)(?:,|\{,\}|\\,|\\!)(?=\d{3}(?!\d))")
_ONE_CHARACTER = re.compile(r"(?<!\\)\{\s*(\w|\\[a-z]+)\s*\}")


def tokens(text: str) -> list[str]:
    """The words, numbers, commands and operators of `text` in one spelling, in order."""
    text = unicodedata.normalize("NFKC", text.translate(_CHARACTERS)).lower()
    text = _ONE_CHARACTER.sub(r" \1 ", _THOUSANDS.sub("", text))
    found = (_SPELLING.get(token, token) for token in _TOKEN.findall(text))
    return [token for token in found if token not in _DROPPED]


def normal_form(text: str) -> str:
    """`tokens` without blanks between them; equal for two copies of one problem."""
    return "".join(tokens(text))


def digest(text: str) -> str:
    """SHA-256 of a text's normal form, as hexadecimal digits."""
    return hashlib.sha256(normal_form(text).encode("utf-8", "surrogatepass")).hexdigest()


def problem_id(set_name: str, key: str) -> str:
    """The id of a problem: the set's name and the first 16 digits of `digest(problem)`."""
    return f"{set_name}/{key[:16]}"
