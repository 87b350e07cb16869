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

# First letter of the command, and the rest of each command with what must follow so that it is no English word
# (a form feed may be a page's end before "latter", a tab an indent before "fraction").
_END, _ARGUMENT = "(?![a-z])", r"(?=\s*\{)"
_FRACTION = r"(?=\s*[\d{\\])"
_COMMANDS = {
    "\x07": ("a", ["lpha", "ngle", "pprox", "rcsin", "rccos", "rctan", "st" + _END]),
    "\x08": (
        "b",
        ["egin" + _ARGUMENT, "inom" + _ARGUMENT, "ar" + _ARGUMENT, "oxed" + _FRACTION, "eta" + _END, "ecause", "igcup", "igcap",
         r"ig[lr]?(?=\s*[()\[\]|\\])", "ullet", "mod" + _END, "ot" + _END, "f" + _END, "oldsymbol", "ackslash"],
    ),
    "\x0b": ("v", ["ec" + _ARGUMENT, "ert" + _END, "arphi", "arepsilon", "artheta", "arnothing", "ee" + _END, "dots"]),
    "\x0c": ("f", ["rac" + _FRACTION, "orall" + _END, "loor" + _END, "rown" + _END, "lat" + _END, "box" + _ARGUMENT]),
    "\t": (
        "t",
        ["riangle", "ext(?:bf|it|rm|sf|tt)?" + _ARGUMENT, "extstyle", "imes" + _END, "heta" + _END, "frac" + _FRACTION, "ilde",
         "herefore", "binom" + _ARGUMENT, "au" + _END],
    ),
    "\r": (
        "r",
        [r"ight(?=\s*[()\[\]|.}>]|\s*\\)", "ightarrow", "ceil" + _END, "floor" + _END, "vert" + _END, "brace" + _END],
    ),
}  # fmt: skip
_ESCAPES = [
    (character, re.compile(re.escape(character) + "(?=" + "|".join(rests) + ")"), "\\" + letter)
    for character, (letter, rests) in _COMMANDS.items()
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
