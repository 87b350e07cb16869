"""Turns the text of an answer (bounded in length) into one spelling: maths, unit, percent sign, words apart.

`\\dfrac`, `\\left(`, `\\,`, `$`, unicode signs and the like have one spelling afterwards; blanks are gone; a comma that
was followed by a blank, a semicolon, and the words `and` and `or` between values all become `;` (a list), while a comma
between digits may still be a thousands separator.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from .units import canonical_unit, is_unit_letter, is_unit_phrase, is_unit_word, word_set
from .verdict import Reason

_TOKEN = re.compile(r"\\(?:begin|end) ?\{[A-Za-z]+\*?\}|\\[A-Za-z]+\*?|\\.|[A-Za-z]+|\d+|.", re.DOTALL)

_UNICODE = str.maketrans(
    {
        "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "×": r"\cdot ", "·": r"\cdot ", "∙": r"\cdot ", "⋅": r"\cdot ",
        "÷": "/", "⁄": "/", "∕": "/", "π": r"\pi ", "∞": r"\infty ", "≤": r"\leq ", "≥": r"\geq ", "≠": r"\neq ",
        "≈": r"\approx ", "°": r"^\circ ", "º": r"^\circ ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "±": r"\pm ",
        "√": r"\sqrt ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "²": "^{2}", "³": "^{3}", "½": r"\frac{1}{2}",
        "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "％": "%", "，": ",", "。": ".", "（": "(", "）": ")", "：": ":",
        "；": ";", "＝": "=", "＋": "+", "－": "-", "∅": r"\emptyset ", "\u2009": " ", "\u202f": " ", "\u00a0": " ",
        "\u200b": "", "\u200c": "", "\u200d": "", "\ufeff": "", "\u2061": "", "\u2062": "", "ℝ": r"\mathbb{R}",
        **{chr(0xFF10 + i): str(i) for i in range(10)},
    }
)  # fmt: skip

_DROPPED = word_set(r"""\left \right \middle \big \Big \bigg \Bigg \bigl \bigr \Bigl \Bigr \biggl \biggr \Biggl \Biggr \mleft \mright
    \displaystyle \textstyle \scriptstyle \limits \nolimits \rm \bf \it \normalsize \large \Large \! \( \) \[ \] $
    \ensuremath \phantom""")
_BLANKS = frozenset(
    ["\\,", "\\;", "\\:", "\\>", "\\ ", "\\quad", "\\qquad", "~", " ", "\t", "\n", "\r", "\\space", "\\\n"]
)
_SPELLING = {
    r"\dfrac": r"\frac", r"\tfrac": r"\frac", r"\cfrac": r"\frac", r"\le": r"\leq", r"\leqslant": r"\leq",
    r"\ge": r"\geq", r"\geqslant": r"\geq", r"\ne": r"\neq", r"\lbrace": r"\{", r"\rbrace": r"\}", r"\lbrack": "[",
    r"\rbrack": "]", r"\lparen": "(", r"\rparen": ")", r"\times": r"\cdot", r"\ast": r"\cdot", "*": r"\cdot",
    r"\varnothing": r"\emptyset", r"\dots": r"\ldots", r"\cdots": r"\ldots", r"\%": "%", r"\lvert": "|",
    r"\rvert": "|", r"\vert": "|", r"\degree": r"^\circ", r"\lt": "<", r"\gt": ">", r"\sim": r"\approx",
    r"\simeq": r"\approx", r"\div": "/", r"\dbinom": r"\binom", r"\tbinom": r"\binom", r"\colon": ":",
    r"\infin": r"\infty", r"\end{array}": r"\end{matrix}", r"\textdollar": r"\$", r"\textdegree": r"^\circ", r"\tg": r"\tan",
}  # fmt: skip
_TEXT = word_set(
    r"\text \textbf \textit \textrm \textnormal \texttt \textsf \textsc \textup \mbox \hbox \mathrm \mathsf \emph \rm"
)
_ALPHABET = word_set(r"\mathbf \boldsymbol \bm \mathit \bold \pmb \mathnormal")
_FUNCTIONS = word_set(
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln exp sqrt max min gcd lcm det lim mod"
)
_GREEK = {"pi": r"\pi", "infinity": r"\infty", "inf": r"\infty", "infty": r"\infty", "theta": r"\theta"}
_PERCENT_WORDS = frozenset({"percent", "percentage", "pct"})
# Two- and three-letter runs are products of variables unless they are one of these.
_SHORT_WORDS = word_set("""no not but can yes the is are was to of in it so if an one two all any for by be as at we i am my its has had
    nor per sum odd even set may who why how out our you he she they min max mod sec hr ft lb oz km cm mm kg mg ml
    dm mi yd hrs hour day ways way""")
_NEUTRAL = word_set("the answer is final are value equals equal to of result therefore thus so hence it")
_GOLD_GLUED = re.compile(r"\\(sin|cos|tan|sec|csc|cot|pi|leq|geq|log|ln|theta)([a-gi-pr-zA-Z])(?![A-Za-z])")
_GOLD_GROUP = re.compile(r"(?<=[\d}])\{([A-Za-z][A-Za-z. ]+)\}")
_GOLD_DAMAGE = (("\x0c", r"\f"), ("\x08", r"\b"), ("\x07", r"\a"), ("\x0b", r"\v"))


_FACTOR = re.compile(r"(?<![\^_A-Za-z\d.{\\])(\d+(?:\.\d+)?)(?=\()")  # but not in \tan^2(x) or \log_2(x)


@dataclass(frozen=True)
class Clean:
    """An answer in one spelling.

    Attributes:
        body: the maths: no blanks, `;` between list items; '' where there is none.
        unit: canonical unit, '' where there is none.
        percent: the answer ends in a percent sign.
        key: the letters and digits of everything, in lower case: what text answers are compared by.
        wordy: it consists of words (perhaps with figures), and is no maths with a unit.
        problem: why it cannot be judged, None where it can.
    """

    body: str
    unit: str = ""
    percent: bool = False
    key: str = ""
    wordy: bool = False
    problem: Reason | None = None

    @property
    def latex(self) -> str:
        """The maths as math-verify shall read it."""
        body = self.body.replace(";", ", ").replace("%", r"\%")
        return _FACTOR.sub(r"\1\\cdot ", body)  # it reads 2(3) as the mixed number 2 + 3


def clean_gold(text: str) -> Clean:
    """A reference answer in one spelling, with the damage repaired that published data sets are known to carry.

    These are: control characters in place of a backslash and a letter, rows of a matrix parted by one backslash, a
    command glued to the variable behind it (`\\pir`), units that lost their `\\text`, and empty groups.
    """
    for damage, repaired in _GOLD_DAMAGE:
        text = text.replace(damage, repaired)
    text = re.sub(r"\t(?=ext|imes|heta|frac|an\b)", r"\\t", text)
    text = re.sub(r"\r(?=ight|ho\b|angle)", r"\\r", text)
    text = text.replace("{}", "").replace("{;}", ";")
    text = _GOLD_GLUED.sub(r"\\\1 \2", text)
    text = _GOLD_GROUP.sub(lambda match: rf"\text{{ {match[1]}}}" if is_unit_phrase(match[1]) else match[0], text)
    text = re.sub(r"^\{(\w+)\}(?=_)", r"\1", text)
    return clean(text, trusted=True)


def clean(text: str, *, trusted: bool = False) -> Clean:
    """`text` in one spelling. A `trusted` text (the gold) may hold words anywhere."""
    text = _THIN_COMMA.sub(",", text)
    if "matrix" in text:  # rows that lost one of their two backslashes
        text = re.sub(r"(?<!\\)\\(?=[\d-])", r"\\\\", text)
    if "\\\\" in text and r"\begin" not in text:
        text = re.sub(r"\\\\(?=[A-Za-z])", r"\\", text)  # \\frac, as JSON that was escaped twice holds it
    text = (_CLOCK if ":" in text else _HALF_DAY).sub(lambda match: match[1].lower() + "m", text.translate(_UNICODE))
    parts = _parts(text, trusted)
    _strip_group(parts)
    parts, unit, percent = _split_unit(parts)
    key = _key(text)
    words = [value for kind, value in parts if kind == "w"]
    maths = any(kind == "m" and value not in _PUNCTUATION for kind, value in parts)
    if words and (trusted or not maths):
        if not maths or all(value.isalpha() or value in _PUNCTUATION for _kind, value in parts):
            return Clean("", unit, percent, key, wordy=True)
        return Clean(_render(parts)[0], unit, percent, key, wordy=True)
    if words:
        parts = _without_neutral(parts)
        if any(kind == "w" for kind, _value in parts):
            return Clean("", unit, percent, key, wordy=True, problem=Reason.PROSE)
    if not maths and (unit or percent):
        return Clean("", "", False, key, wordy=True)  # a unit alone is a word: \text{meters}
    body, problem = _render(parts)
    if body.startswith(r"\approx"):
        body = body[len(r"\approx") :].strip()
    return Clean(body, unit, percent, key, wordy=False, problem=problem)


_THIN_COMMA = re.compile(r",\\! ?")  # 32,\! 349
_HALF_DAY = re.compile(r"(?<![A-Za-z])([ap])\.\s?m\b\.?")  # 6 p.m.
_CLOCK = re.compile(r"(?<![A-Za-z])([apAP])\.?\s?[mM]\b\.?")  # 6:00 PM
_PUNCTUATION = frozenset([" ", ".", ",", ";", ":", "!", "?", "'", '"', "{", "}", "`"])


def _key(text: str) -> str:
    """Letters and digits of the text, with commands and dots gone and in lower case."""
    plain = re.sub(r"\\(?:text\w*|mbox|hbox|math\w+|left|right|quad|,|;|!|:|\s)", " ", text)
    return "".join(char for char in plain.lower() if char.isalnum() or char in "+-*/^=<>\\_")


def _parts(text: str, trusted: bool) -> list[tuple[str, str]]:
    """(kind, value) pairs; kind `m` is a token of maths (a blank is the token ' '), kind `w` a word."""
    tokens = _TOKEN.findall(text)
    parts: list[tuple[str, str]] = []
    text_depth = 0  # depth of braces inside a text command, 0 outside
    skip_closing: list[int] = []
    depth = 0
    index = 0
    while index < len(tokens):
        token = tokens[index]
        index += 1
        if token in _TEXT or token in _ALPHABET or token in (r"\operatorname", r"\operatorname*"):
            following = index
            while following < len(tokens) and tokens[following] in _BLANKS:
                following += 1
            if following < len(tokens) and tokens[following] == "{":
                index = following + 1
                depth += 1
                skip_closing.append(depth)
                if token in _TEXT:
                    text_depth = text_depth or depth
            continue
        if token in _DROPPED:
            continue
        if token == r"\begin{array}" and index < len(tokens) and tokens[index] == "{":
            while index < len(tokens) and tokens[index] != "}":
                index += 1  # the columns' alignment says nothing about the values
            index += 1
            parts.append(("m", r"\begin{matrix}"))
            continue
        if token in _BLANKS:
            parts.append(("m", " "))
            continue
        if token == "{":
            depth += 1
        elif token == "}":
            closes = depth
            depth = max(0, depth - 1)
            if skip_closing and skip_closing[-1] == closes:
                skip_closing.pop()
                if text_depth == closes:
                    text_depth = 0
                continue
        if token == r"\\":
            parts.append(("m", token))
            index = _skip_dimension(tokens, index)
            continue
        token = _SPELLING.get(token, token)
        if token.isalpha() and token.isascii():
            # October30 in a gold is a word with a figure and no product
            capitalised = trusted and len(token) >= 3 and token[0].isupper() and token[1:].islower()
            _add_letters(parts, token, tokens[index] if index < len(tokens) else " ", text_depth > 0 or capitalised)
        elif len(token) == 1 and token.isalpha():
            parts.append(("w", token.lower()))
        else:
            parts.append(("m", token))
    return parts


def _skip_dimension(tokens: list[str], index: int) -> int:
    """The index behind an optional `[6pt]` after a line break."""
    if index < len(tokens) and tokens[index] == "[":
        for end in range(index, min(index + 8, len(tokens))):
            if tokens[end] == "]":
                inside = "".join(tokens[index + 1 : end])
                return end + 1 if re.fullmatch(r"-?[\d.]+ ?(?:pt|em|ex|mm|cm)", inside) else index
    return index


def _add_letters(parts: list[tuple[str, str]], run: str, following: str, in_text: bool) -> None:
    """Appends a run of letters: as word, function, separator, percent sign, or as variables."""
    low = run.lower()
    if low in _PERCENT_WORDS:
        parts.append(("m", "%"))
    elif low in ("and", "or"):
        parts.append(("m", ";"))
    elif not in_text and run in _FUNCTIONS:
        parts.append(("m", "\\" + run))
    elif not in_text and low in _GREEK:
        parts.append(("m", _GREEK[low]))
    elif len(run) == 1:
        number_before = any(kind == "m" and value.isdigit() for kind, value in parts)
        parts.append(("w", run) if in_text and is_unit_letter(run) and number_before else ("m", run))
    elif in_text or _is_word(run, low) or (len(run) >= 4 and not _touches(parts, following)):
        parts.append(("w", low))
    else:
        # Read as a product of variables. A word that touches maths, as in 42maybe, is one too, and then never meets
        # a gold that does not hold these letters.
        parts.extend(("m", letter) for letter in run)


def _is_word(run: str, low: str) -> bool:
    """Whether letters outside of text commands are a word; `NO` and `BE` are points of a drawing."""
    return not (run.isupper() and len(run) <= 3) and (low in _SHORT_WORDS or is_unit_word(low))


def _touches(parts: list[tuple[str, str]], following: str) -> bool:
    """Whether a run of letters stands right beside maths."""
    before = parts[-1][1] if parts else " "
    return before not in _PUNCTUATION or not (following in _BLANKS or following in _PUNCTUATION)


def _strip_group(parts: list[tuple[str, str]]) -> None:
    """Drops outer blanks, closing punctuation, and braces around the whole, in place."""
    while True:
        while parts and parts[-1][1] in (" ", ".", ",", ";", ":", "!") and parts[-1][0] == "m":
            if parts[-1][1] == "!" and len(parts) > 1 and parts[-2][1] not in (" ", "!"):
                break  # a factorial
            parts.pop()
        while parts and parts[0][0] == "m" and parts[0][1] in (" ", ":", ",", ";"):
            parts.pop(0)
        if len(parts) > 2 and parts[0] == ("m", "{") and parts[-1] == ("m", "}"):
            depth = 0
            for place, (_kind, value) in enumerate(parts):
                depth += (value == "{") - (value == "}")
                if depth == 0 and place < len(parts) - 1:
                    return
            del parts[0], parts[-1]
            continue
        return


_UNIT_TOKENS = frozenset([" ", "^", "{", "}", "/", r"\cdot", "-", "1", "2", "3", ".", "(", ")"])


def _split_unit(parts: list[tuple[str, str]]) -> tuple[list[tuple[str, str]], str, bool]:
    """Cuts a unit, a currency or a percent sign off: (rest, canonical unit, percent)."""
    unit = ""
    percent = False
    parts = list(parts)
    while parts and parts[0][1] in ("\\$", "€", "£", "¥"):
        unit = canonical_unit([parts.pop(0)[1]])
    if len(parts) > 1 and parts[0][1] == "-" and parts[1][1] == "\\$":
        del parts[1]
        unit = "dollar"
    first_word = next((place for place, (kind, _value) in enumerate(parts) if kind == "w"), None)
    if first_word:
        before, tail = parts[:first_word], parts[first_word:]
        numeric = any(kind == "m" and (value.isdigit() or value.startswith("\\")) for kind, value in before)
        fits = all(kind == "w" or value in _UNIT_TOKENS for kind, value in tail)
        found = canonical_unit([value for _kind, value in tail]) if numeric and fits else ""
        if found:
            unit = found
            parts = before
    _strip_group(parts)
    # degrees: ...^\circ, ...^{\circ}, perhaps with C or F behind
    values = [value for _kind, value in parts if value != " "]
    scale = values.pop() if values and values[-1] in ("C", "F") and r"\circ" in "".join(values[-4:]) else ""
    for ending in (["^", "{", r"\circ", "}"], ["^", r"\circ"], [r"^\circ"], [r"\circ"]):
        if len(values) > len(ending) and values[-len(ending) :] == ending:
            parts = [("m", value) for value in values[: -len(ending)]]
            unit = "degree" + scale
            break
    while parts and parts[-1][1] in ("%", " "):
        percent = percent or parts[-1][1] == "%"
        parts.pop()
    _strip_group(parts)
    return parts, unit, percent


def _without_neutral(parts: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Without leading words such as `the answer is`."""
    parts = list(parts)
    while parts and ((parts[0][0] == "w" and parts[0][1] in _NEUTRAL) or parts[0][1] in (" ", ":")):
        parts.pop(0)
    return parts


def _render(parts: list[tuple[str, str]]) -> tuple[str, Reason | None]:
    """The parts as one string without blanks, and a problem where removing a blank would fuse two numbers."""
    out: list[str] = []
    problem = None
    values = [f"\\text{{{value}}}" if kind == "w" else value for kind, value in parts]
    for place, value in enumerate(values):
        if value == " ":
            following = next((other for other in values[place + 1 :] if other != " "), "")
            before = out[-1] if out else ""
            if before == ",":
                if following:
                    out[-1] = ";"
            elif before.isdigit() and following.isdigit():
                if len(before) == 1 and len(out) > 1 and (out[-2] in ("_", "^") or out[-2][0] == "\\"):
                    out.append(" ")  # \log_2 3, \frac1 2: the first digit is a whole argument
                elif not _thousands(values, place):
                    problem = Reason.UNREADABLE
            continue
        if value in (";", ",") and out and out[-1] == ";":
            continue
        if value == ";" and out and out[-1] == ",":
            out[-1] = ";"
            continue
        if out and value[0].isalpha() and out[-1][0] == "\\" and out[-1][-1].isalpha():
            out.append(" ")
        out.append(value)
    body = _GROUPED_THOUSANDS.sub(lambda match: match[0].replace(",", ""), "".join(out).replace("{,}", ","))
    return body.strip(",;"), problem


_GROUPED_THOUSANDS = re.compile(r"(?<!\\)\{\d{1,3}(?:,\d{3})+\}")  # \frac{1}{1,000} holds no list


def _thousands(values: list[str], place: int) -> bool:
    """Whether the blank at `place` separates thousands, as in 10 000 (the group before has at most three digits)."""
    before = next((value for value in reversed(values[:place]) if value != " "), "")
    after = next((value for value in values[place:] if value != " "), "")
    return len(after) == 3 and 1 <= len(before) <= 3 and before != "0"


def with_body(clean_: Clean, body: str) -> Clean:
    """The same answer with other maths."""
    return replace(clean_, body=body)
