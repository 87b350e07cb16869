"""An answer's LaTeX as tokens in one spelling, and what is done with tokens: groups, splitting, writing them out again.

Runs in the workers, on bounded text. `\\dfrac`, `\\left(`, `\\,`, `$`, colours and unicode signs have one spelling afterwards.
Commas, semicolons and the words `and` and `or` part lists: `;` where a blank or a word shows it, `,` where the comma may still
be part of a number. A word (in a text command, or outside where it is certainly none of maths) is a `Word`.
"""

from __future__ import annotations

import re
import unicodedata

from .words import FUNCTIONS, PERCENT, PHRASES, SYNONYMS, is_word, unit_of, word_set


class Word(str):
    """A token that is read as a word and never as variables."""

    __slots__ = ()


Tokens = list[str]

_TOKEN = re.compile(r"\\(?:begin|end) ?\{[A-Za-z]+\*?\}|\\mathbb ?\{[A-Z]\}|\\[A-Za-z]+\*?|\\.|[A-Za-z]+|[^\W\d_a-zA-Z]+|\d+(?:\.\d+)?|(?<!\d)\.\d+|.", re.DOTALL)
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉ₙₖ", "0123456789nk")
_GREEK_NAMES = "alpha beta gamma delta varepsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon varphi chi psi omega"
GREEK = dict(zip("αβγδεζηθικλμνξπρστυφχψω", (rf"\{name}" for name in _GREEK_NAMES.split()), strict=True))
GREEK_CAPITALS = {
    "Γ": r"\Gamma", "Δ": r"\Delta", "Θ": r"\Theta", "Λ": r"\Lambda", "Ξ": r"\Xi", "Σ": r"\Sigma", "Υ": r"\Upsilon", "Φ": r"\Phi",
    "Ψ": r"\Psi", "Ω": r"\Omega",
}  # fmt: skip
_UNICODE = str.maketrans(
    {
        "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "×": r"\cdot ", "·": r"\cdot ", "∙": r"\cdot ", "⋅": r"\cdot ", "÷": "/",
        "⁄": "/", "∕": "/", "∞": r"\infty ", "≤": r"\leq ", "≥": r"\geq ", "≦": r"\leq ", "≧": r"\geq ", "≠": r"\neq ", "≈": r"\approx ",
        "°": r"^\circ ", "º": r"^\circ ", "℃": r"^\circ C", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "±": r"\pm ", "√": r"\sqrt ",
        "∛": r"\sqrt[3] ", "∗": r"\cdot ", "‒": "-", "˚": r"^\circ ", "∘": r"^\circ ", "⟨": "(", "⟩": ")", "⌊": r"\lfloor ", "⌋": r"\rfloor ",
        "⇒": r"\Rightarrow ", "⩽": r"\leq ", "⩾": r"\geq ", "⌈": r"\lceil ", "⌉": r"\rceil ", "。": ".", "，": ",", "、": ",", "：": ":", "；": ";", "∅": r"\emptyset ",
        "〔": "[", "〕": "]", "∠": r"\angle ", "△": r"\triangle ", "…": r"\ldots ", "′": "'", "“": '"', "”": '"',
        **{letter: rf"\mathbb{{{unicodedata.normalize('NFKC', letter)}}}" for letter in "ℝℤℕℚℂ"},
        **{letter: command + " " for letter, command in (GREEK | GREEK_CAPITALS).items()},
    }
)  # fmt: skip


_DROPPED = word_set(
    r"""\left \right \middle \big \Big \bigg \Bigg \bigl \bigr \Bigl \Bigr \biggl \biggr \Biggl \Biggr \mleft \mright \displaystyle
    \textstyle \scriptstyle \limits \nolimits \bf \it \tiny \small \normalsize \large \Large \LARGE \huge \Huge \! \( \) \[ \] $ \ensuremath \mathstrut \strut
    \nonumber \hfill \rm \underline \uline \substack"""
)
_BLANKS = frozenset([*word_set(r"\, \; \: \> \quad \qquad \space \enspace \thinspace ~"), "\\ ", " ", "\t", "\n", "\r", "\\\n"])
_TEXT = word_set(r"\text \textbf \textit \textrm \textnormal \texttt \textsf \textsc \textup \mbox \hbox \mathrm \mathsf \emph \operatorname \operatorname*")
_ALPHABET = word_set(r"\mathbf \boldsymbol \bm \mathit \bold \pmb \mathnormal")
_WITH_ARGUMENT = word_set(r"\color \textcolor \phantom \hphantom \vphantom \tag \label \hspace \vspace")
_LINES = r"aligned|align\*?|gathered|gather|split|equation\*?|multlined|alignedat"  # environments that are layout only
_SPELLING = {
    r"\dfrac": r"\frac", r"\tfrac": r"\frac", r"\cfrac": r"\frac", r"\le": r"\leq", r"\leqslant": r"\leq", r"\ge": r"\geq",
    r"\geqslant": r"\geq", r"\ne": r"\neq", r"\lbrace": r"\{", r"\rbrace": r"\}", r"\lbrack": "[", r"\rbrack": "]", r"\lparen": "(",
    r"\rparen": ")", r"\times": r"\cdot", r"\ast": r"\cdot", "*": r"\cdot", r"\varnothing": r"\emptyset", r"\dots": r"\ldots",
    r"\cdots": r"\ldots", r"\dotsc": r"\ldots", r"\%": "%", r"\lvert": "|", r"\rvert": "|", r"\vert": "|", r"\degree": r"^ \circ",
    r"\lt": "<", r"\gt": ">", r"\simeq": r"\approx", r"\doteq": r"\approx", r"\div": "/", r"\dbinom": r"\binom", r"\tbinom": r"\binom",
    r"\colon": ":", r"\infin": r"\infty", r"\textdollar": r"\$", r"\textdegree": r"^ \circ", r"\lg": r"\log _ { 10 }", r"\tg": r"\tan",
    r"\langle": "(", r"\rangle": ")", r"\coloneqq": "=", r"\prime": "'", r"\mid": "|", r"\minus": "-",
    r"\overrightarrow": r"\vec", r"\epsilon": r"\varepsilon", r"\phi": r"\varphi", r"\imath": "i", r"\cdotp": r"\cdot", r"\infinity": r"\infty",
}  # fmt: skip
_AT_START = word_set(r". \therefore \implies \Rightarrow \rightarrow \Longrightarrow \so \to = : , ;")
_AT_END = word_set(r"^ \blacksquare \square \qed \checkmark . , ; :")
OPENERS, CLOSERS = frozenset({"(", "[", "{", r"\{"}), frozenset({")", "]", "}", r"\}"})
RELATIONS = frozenset({"<", ">", r"\leq", r"\geq", r"\neq"})
PARTING = (";", "||", "&&")  # between the values of a list: certainly no part of a number
_GROUPED = re.compile(r"(?<![\d.])[1-9]\d{0,2}(?:(?:\{,\}|\\[,;: ]|\\thinspace ?|~| )\d{3}(?!\d))+")  # 1 000 and 1{,}000
_BRACKETED = re.compile(r"(?:\\left *)?[\[(] *\\begin\{[pb]?matrix\}([^\[\]()]*?)\\end\{[pb]?matrix\} *(?:\\right *)?[\])]")
_FRENCH = re.compile(r"^\s*(\]|\[)([^\[\]()]*[,;][^\[\]()]*)(\[|\])\s*$")


_DAMAGE = (("\x0c", r"\f"), ("\x08", r"\b"), ("\x07", r"\a"), ("\x0b", r"\v"), ("{}", ""), ("{;}", ";"))
_GLUED = re.compile(r"\\(quad|sin|cos|tan|sec|csc|cot|pi|leq|geq|log|ln|theta)([a-gi-pr-zA-Z])(?![A-Za-z])")
_BARE_UNIT = re.compile(r"(?<=[\d}])\{([A-Za-z][A-Za-z. ]+)\}")


def mended(text: str) -> str:
    """An answer without the damage that published data sets are known to carry.

    That is: control characters in place of a backslash and a letter, rows of a matrix parted by one backslash, a command glued
    to the variable behind it (`\\pir`), units that lost their `\\text`, and empty groups.
    """
    for damage, repaired in _DAMAGE:
        text = text.replace(damage, repaired)
    text = re.sub(r"\t(?=ext|imes|heta|frac|an\b)", r"\\t", text)
    if "matrix" in text:
        text = re.sub(r"(?<!\\)\\(?=[\d-])", r"\\\\", text)
    text = _GLUED.sub(r"\\\1 \2", text)
    text = _BARE_UNIT.sub(lambda match: rf"\text{{ {match[1]}}}" if unit_of(match[1].split()) else match[0], text)
    return re.sub(r"^\{(\w+)\}(?=_)", r"\1", text)  # {A5}_{11}


def spelled(text: str) -> str:
    """`text` with unicode signs, invisible characters, line comments and broken relations in one spelling."""
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+", lambda match: "^{" + match[0].translate(_RAISED) + "}", text)
    text = re.sub("[₀₁₂₃₄₅₆₇₈₉ₙₖ]+", lambda match: "_{" + match[0].translate(_LOWERED) + "}", text)
    text = re.sub(r"^\s*\*\*(.*)\*\*\s*$", r"\1", text).replace("**", "^")
    text = re.sub("[¼-¾⅐-⅞]", lambda match: r"\frac{{{}}}{{{}}}".format(*unicodedata.normalize("NFKC", match[0]).split("⁄")), text)
    text = unicodedata.normalize("NFKC", text.translate(_UNICODE)).translate(_UNICODE)
    text = "".join(str(unicodedata.digit(char)) if char.isdigit() else char for char in text if char in "\n\t\r" or unicodedata.category(char) not in ("Cf", "Cc"))
    text = re.sub(r"=\s*/\s*=|(?<=[^!\s\d)])!=|\s!\s*=|\\not\s*=|<>", r"\\neq ", text)  # 5! = 120 and n! = 120 are factorials
    text = re.sub(r"==+|:=", "=", text)
    text = re.sub(r"<\s*=|=\s*<", r"\\leq ", text)
    text = re.sub(r">\s*=", r"\\geq ", text)
    text = re.sub(r"\.\s?\.\s?\.+", r"\\ldots ", text)
    text = re.sub(r",\\! ?", ",", text)
    text = re.sub(r"\bper\s+cent\b", "percent", text)
    text = re.sub(r"\{([^{}]*)\\over(?![A-Za-z])([^{}]*)\}", r"\\frac{\1}{\2}", text)
    text = re.sub(r"([A-Za-z}]\s*)\\times(?=\s*\\(?:vec|mathbf|boldsymbol|bm|overrightarrow|hat)\b)", r"\1\\wedge ", text)  # of two vectors
    if ":" in text or ".m" in text.replace(" ", "").lower():
        text = re.sub(r"(?<![A-Za-z])([apAP])\.?\s?[mM]\b\.?", lambda match: match[1].lower() + "m", text)
    if "\\\\" in text and r"\begin" not in text:
        text = re.sub(r"\\\\(?=(?:d?frac|sqrt|text|pi|left|right|cdot|infty|times|l[et]q?|g[et]q?|neq?|in|ln|log|sin|cos|tan|pm|cup)\b)", r"\\", text)  # escaped twice
    text = re.sub(r"(\d+)\.(\d*)\\(?:overline|bar|dot) ?(?:\{(\d{1,40})\}|(\d))(?!\s*\d)", _repeating, text)
    text = re.sub(r"(\d+)\.(\d*?)(\d)\3\3+ ?\\[lc]?dots", _repeating, text)
    text = _GROUPED.sub(lambda match: re.sub(r"\D", "", match[0]), text)
    if match := _FRENCH.match(text):  # ]0,1[
        text = {"]": "(", "[": "["}[match[1]] + match[2] + {"[": ")", "]": "]"}[match[3]]
    return text


def _without_lines(text: str) -> str:
    """Without environments that only set lines, in which `&` says nothing and `\\\\` parts a list; an array is a matrix."""
    names = _LINES if "&" in text else _LINES + "|array|cases"
    text = re.sub(r"(\\begin) ?(\{(?:array|alignedat)\}) ?\{[^{}]*\}", r"\1\2", text)
    text = re.sub(rf"\\(?:begin|end) ?\{{(?:{names})\}}", " ", text)
    text = re.sub(r"\\(begin|end) ?\{(?:array|([A-Za-z]+\*?))\}", lambda match: rf"\{match[1]}{{{match[2] or 'matrix'}}}", text)
    return _BRACKETED.sub(r"\\begin{pmatrix}\1\\end{pmatrix}", text)


def _repeating(match: re.Match) -> str:
    """0.1\\overline{6} and 0.333... as a fraction."""
    whole, fixed, period = match[1], match[2], match[match.lastindex]
    if len(whole) + len(fixed) > 60:
        return match[0]
    nines = (10 ** len(period) - 1) * 10 ** len(fixed)
    return rf"\frac{{{int(whole + fixed + period) - int(whole + fixed)}}}{{{nines}}}"


def tokens_of(text: str) -> Tokens:
    """The tokens of an answer."""
    raw = _TOKEN.findall(_without_lines(spelled(mended(text))))
    out: Tokens = []
    closes: list[int] = []  # depths of the braces that belong to a style and go with it
    in_text = depth = tables = index = 0
    while index < len(raw):
        token = raw[index]
        index += 1
        if token in _WITH_ARGUMENT:
            index = _behind_group(raw, index)
            continue
        if token in _TEXT or token in _ALPHABET or token in _DROPPED:
            following = index
            while following < len(raw) and raw[following] in _BLANKS:
                following += 1
            if following < len(raw) and raw[following] == "{" and token not in (r"\left", r"\right", "$"):
                index = following + 1
                depth += 1
                closes.append(depth)
                if token in _TEXT and not in_text:
                    in_text = depth
            continue
        if token in _BLANKS or token in (r"\boxed", r"\fbox"):
            out.append(" ")
            continue
        if token == "{":
            depth += 1
        elif token == "}":
            level, depth = depth, max(0, depth - 1)
            if closes and closes[-1] == level:
                closes.pop()
                if in_text == level:
                    in_text = 0
                continue
        if token.startswith((r"\begin", r"\end")):
            tables += 1 if token[1] == "b" else -1
        elif tables <= 0 and token in ("\\\\", "&"):
            out.append(";" if token != "&" else " ")
            continue
        if token[0].isalpha():
            _add_letters(out, token, in_text > 0)
        else:
            out += _SPELLING.get(token, "0" + token if token[0] == "." and len(token) > 1 else token).split()
    return _phrases(_braced(_separated(_trimmed(out))))


def _behind_group(raw: Tokens, index: int) -> int:
    """The index behind the group that starts at `index`, or `index` where there is none."""
    depth = 0
    for place in range(index, len(raw)):
        depth += (raw[place] == "{") - (raw[place] == "}")
        if depth == 0 and raw[place] not in _BLANKS:
            return place + 1 if raw[place] == "}" else index
    return index


def _add_letters(out: Tokens, run: str, in_text: bool) -> None:
    """Appends a run of letters: as word, function, separator, percent sign, or as variables."""
    low = run.lower()
    if low in PERCENT:
        out.append("%")
    elif low in ("and", "和"):
        out.append("&&")
    elif low in ("or", "或"):
        out.append("||")
    elif not in_text and low in FUNCTIONS:
        out.append("\\" + low)
    elif not in_text and low in ("pi", "infty", "inf", "infinity", "theta"):
        out.append({"inf": r"\infty", "infinity": r"\infty"}.get(low, "\\" + low))
    elif low.startswith("负"):
        out += ["-", *([Word(low[1:])] if low[1:] else [])]
    elif len(run) == 1 and run.isascii():
        before = next((token for token in reversed(out) if token != " "), "")
        is_unit = in_text and low != "e" and (before[-1:].isdigit() or before in ("}", ")", "/") or isinstance(before, Word))
        out.append(Word(run) if is_unit else run)
    elif low in ("am", "pm") and any(token.isdigit() for token in out[-2:]):
        out.append(Word(low))
    elif in_text or is_word(run):
        out.append(Word(run))
    else:
        out += run


def _trimmed(tokens: Tokens) -> Tokens:
    """Without outer blanks, quotes, closing punctuation, leading signs such as `\\therefore`, and braces around the whole."""
    while tokens:
        if tokens[-1] in _AT_END or (tokens[-1] in (" ", '"', "`", "'") and (tokens[-1] == " " or tokens[0] in ('"', "`", "'"))):
            if tokens[-1] == "'":
                tokens = tokens[1:]
            tokens = tokens[:-1]
        elif tokens[0] in _AT_START or tokens[0] in (" ", '"', "`"):
            tokens = tokens[1:]
        elif tokens[0] == "{" and closing(tokens, 0) == len(tokens) - 1:
            tokens = tokens[1:-1]
        else:
            break
    return tokens


def _separated(tokens: Tokens) -> Tokens:
    """`;` for a comma with a blank, one sign between two values, and no other blanks but between figures."""
    out: Tokens = []
    for place, token in enumerate(tokens):
        before, behind = out[-1] if out else "", tokens[place + 1] if place + 1 < len(tokens) else ""
        if token == " ":
            if before == ",":
                out[-1] = ";"
            elif before[-1:].isdigit() and behind[:1].isdigit() and not isinstance(before, Word):
                out.append(" ")
        elif token in (",", *PARTING) and before in (",", *PARTING):
            out[-1] = token if token in PARTING[1:] else before if before in PARTING[1:] else ";"
        elif token == "=" and before == ";":
            out[-1] = "="  # a chain on several lines
        else:
            out.append(token)
    return out


ACCENTS = word_set(r"\bar \hat \vec \tilde \overline \overrightarrow \dot")
_ARGUMENTS = {**dict.fromkeys(ACCENTS | {"^", "_", r"\pmod", r"\sqrt"}, 1), r"\frac": 2, r"\binom": 2}


def _braced(tokens: Tokens) -> Tokens:
    """The arguments of powers, indices, roots and fractions in braces; of bare figures a fraction takes one, a power all."""
    out: Tokens = []
    wanted = 0  # arguments that are still to come
    takes_all = True
    rest = list(reversed(tokens))
    depths: list[int] = []  # how many arguments are wanted behind each open brace
    while rest:
        token = rest.pop()
        if token in _ARGUMENTS:
            out.append(token)
            wanted = max(0, wanted - 1) + _ARGUMENTS[token]  # x^\frac12: an argument that is a command with arguments of its own
            takes_all = token in ("^", r"\sqrt", r"\pmod") or (token == "_" and out[-2:-1] != [r"\log"])
            if token == r"\sqrt" and rest and rest[-1] == "[":
                end = next((place for place in range(len(rest) - 1, -1, -1) if rest[place] == "]"), None)
                if end is not None:
                    out += reversed(rest[end:])
                    del rest[end:]
        elif not wanted:
            out.append(token)
            if token == "{":
                depths.append(0)
            elif token == "}" and depths:
                wanted = depths.pop()
        elif token == "{":
            out.append(token)
            depths.append(wanted - 1)
            wanted = 0
        elif token == " ":
            continue
        elif token.isdigit() and not takes_all and len(token) > 1:
            rest.append(token[1:])
            out += ["{", token[0], "}"]
            wanted -= 1
        elif token == "(" and out[-1] == "^" and (end := closing(rest[::-1], 0, 1)) >= 0:
            inner = [rest.pop() for _ in range(end)]
            rest.pop()
            rest += ["}", *reversed(inner), "{"]
        elif token == "-" and takes_all and rest and rest[-1] not in ("{", "("):
            out += ["{", token, rest.pop(), "}"]
            wanted -= 1
        else:
            out += ["{", token, "}"]
            wanted -= 1
            if rest and rest[-1] == " ":
                rest.pop()  # \\log_2 3: no two numbers side by side
    return out


def _phrases(tokens: Tokens) -> Tokens:
    """Synonyms of words, and the few phrases that are signs."""
    words = (SYNONYMS.get(token.lower(), token).split() if isinstance(token, Word) else [token] for token in tokens)
    tokens = [Word(part) if isinstance(token, Word) else part for token, parts in zip(tokens, words, strict=True) for part in parts]
    for place, token in enumerate(tokens[:-1]):
        if isinstance(token, Word) and token.lower() in FUNCTIONS and tokens[place + 1] == "(":
            tokens[place] = "\\" + token.lower()
    if tokens and all(isinstance(token, Word) for token in tokens):
        sign = PHRASES.get(" ".join(tokens).lower())
        return [sign] if sign else tokens
    return tokens


# ---------------------------------------------------------------------- tokens


def closing(tokens: Tokens, start: int, depth: int = 0) -> int:
    """Place of the bracket that closes the one at `start`, -1 where none does; with a depth of 1 it stands before `start`."""
    for place in range(start, len(tokens)):
        depth += (tokens[place] in OPENERS) - (tokens[place] in CLOSERS)
        if depth == 0:
            return place
    return -1


def split(tokens: Tokens, signs: tuple[str, ...]) -> list[Tokens]:
    """The parts of `tokens` between any of `signs` outside all brackets."""
    parts: list[Tokens] = [[]]
    depth = 0
    for token in tokens:
        depth += (token in OPENERS) - (token in CLOSERS)
        if depth <= 0 and token in signs:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def written(tokens: Tokens) -> str:
    """The tokens as LaTeX again."""
    out = ""
    for token in tokens:
        shown = rf"\text{{{token}}}" if isinstance(token, Word) else {**dict.fromkeys(PARTING, ", "), "%": r"\%"}.get(token, token)
        if out and out[-1].isalpha() and shown[0].isalnum() and "\\" in out and re.search(r"\\[A-Za-z]+$", out[-20:]):
            out += " "
        out += shown
    return out
