"""Mends the text of problems and answers where the damage is certain, and says where it is not.

Published sets carry text whose backslash escapes were decoded once too often: `\\frac` became a form feed and `rac`. A
form feed, bell, backspace or vertical tab never stands in a problem on purpose: where the letters behind it complete a
LaTeX command, the command is written out. A tab does stand in text on purpose, and so does a carriage return, so these
are taken for a broken command only before letters that begin no English word. A line end that was `\\ne` or `\\nu`
cannot be told from a real one, and is left alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# First letter of the command -> what follows it, longest first where one is the start of another.
_COMMANDS = {
    "\x07": "a lpha|ngle|pprox|rc(?:sin|cos|tan)|st|lign|rray",
    "\x08": "b egin|eta|inom|ar|oxed|ecause|igcup|igcap|ig[lr]?|ullet|mod|oldsymbol|ot|ackslash|f",
    "\x0b": "v ec|ert|arphi|arepsilon|artheta|arnothing|ee|dots|space|phantom",
    "\x0c": "f rac|orall|loor|rown|lat|box|ootnotesize",
    "\t": "t riangle|ext(?:bf|it|rm|sf|tt)?(?=\\s*\\{)|imes|heta|frac|ilde|herefore|binom|au(?![a-z])|extstyle",
    "\r": "r ight(?=\\s*[()\\[\\]|.}>]|\\s*\\\\)|ightarrow|ceil|floor(?![a-z])|vert|brace",
}  # fmt: skip
_ESCAPES = [
    (character, re.compile(re.escape(character) + "(?=(?:" + rest.partition(" ")[2] + "))"), "\\" + rest[0])
    for character, rest in _COMMANDS.items()
]
_INVISIBLE = re.compile("[\u200b-\u200f\u2060-\u2064\ufeff\u00ad]")
_BLANKS = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_LINES = re.compile("[\u0085\u2028\u2029]")
# What no rule above accounts for. Tab and line end are text.
_BROKEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffd]")


@dataclass(frozen=True)
class Mended:
    """A text, the names of the rules that changed it, and the first character that cannot be mended ('' if none)."""

    text: str
    rules: tuple[str, ...] = ()
    broken: str = ""


def mend_text(text: str) -> Mended:
    """`text` without the damage that is certain. Outer blanks are taken off, which is not counted as a change.

    >>> mend_text("\\x0crac{1}{2}").text
    '\\\\frac{1}{2}'
    """
    rules = []
    for character, pattern, command in _ESCAPES:
        if character in text:
            mended = pattern.sub(lambda _match, command=command: command, text)
            if mended != text and "latex_escape" not in rules:
                rules.append("latex_escape")
            text = mended
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        rules.append("line_ends")
    if not text.isascii():
        mended = _LINES.sub("\n", _BLANKS.sub(" ", _INVISIBLE.sub("", text)))
        if mended != text:
            rules.append("invisible")
        text = mended
    broken = _BROKEN.search(text)
    # A tab at the start of an answer may be all that is left of \text, so only blanks and line ends go.
    return Mended(text.strip(" \n") if broken is None else text, tuple(rules), broken[0] if broken else "")
