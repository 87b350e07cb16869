"""What an answer may not be, and what of a text must be kept: refusals and comparisons of signs before math-verify is asked.

Runs in the workers. math-verify drops or equates much that changes a value (ellipses, primes, letters' order, an index); what
it is given is therefore made of tokens that it reads in full, and the signs of gold and answer are held against each other first.
"""

from __future__ import annotations

import itertools
import re
import zlib

from .latex import ACCENTS, CLOSERS, GREEK, GREEK_CAPITALS, OPENERS, PARTING, Tokens, Word, closing, split, written
from .words import MAGNITUDES, NEUTRAL, NUMBER_WORDS, word_set

_ALPHABET = [*GREEK.values()]
_GREEK = frozenset([*_ALPHABET, *GREEK_CAPITALS.values(), r"\ell"]) - {r"\pi"}  # letters that may be a name
TRIGONOMETRY = word_set(r"\sin \cos \tan \cot \sec \csc")
_FUNCTIONS = TRIGONOMETRY | word_set(r"\arcsin \arccos \arctan \sinh \cosh \tanh \log \ln \lg \exp \max \min \gcd \lcm \det \lim")
_KNOWN = (
    _GREEK | _FUNCTIONS
    | word_set(r"""+ - / \cdot ^ _ ( ) [ ] { } \{ \} , ; = < > \leq \geq \neq | ! & \\ \frac \sqrt \pi \infty \binom \cup \cap \setminus
    \in \emptyset \lfloor \rfloor \lceil \rceil \sum \prod \int \to \pm \mp \circ \begin{matrix} \end{matrix} \begin{pmatrix} \end{pmatrix}
    \begin{bmatrix} \end{bmatrix} \begin{vmatrix} \end{vmatrix} \mathbb{R} \mathbb{N} \mathbb{Z} \mathbb{Q} \mathbb{C}""")
)  # fmt: skip
_TASKS = word_set(r"\int \iint \iiint \oint \sum \prod \lim")
_MAX_FACTORIAL = 1000
_MAX_POWERS = 40
_MAX_COMMANDS = 12


class Refused(Exception):
    """The answer is refused; the message is the name of a `verdict.Reason` in lower case."""


def known(tokens: Tokens) -> bool:
    """Whether math-verify reads every one of these tokens, drops none, the bars are in pairs, and no bracket is around one value."""
    doubled = any(pair == ("|", "|") for pair in itertools.pairwise(tokens))
    alone = tokens[:1] == ["["] and closing(tokens, 0) == len(tokens) - 1 and len(split(tokens[1:-1], (",", ";"))) == 1
    return not doubled and not alone and tokens.count("|") % 2 == 0 and all(
        token in _KNOWN or (not isinstance(token, Word) and (token[0].isdigit() or (len(token) == 1 and token.isalpha() and token.isascii())))
        for token in tokens
    )


def answer_problem(tokens: Tokens, max_digits: int, max_exponent: int) -> str | None:
    """Why an answer is not computed with: digits without end, huge powers, towers of powers, factorials; or a hedge's sign."""
    if any(len(token) > max_digits for token in tokens if token[0].isdigit()):
        return "too_many_digits"
    text = written(tokens)
    for pattern, limit in ((r"\^\{-?(\d+)\}", max_exponent), (r"(\d+)\}?\)?!", min(_MAX_FACTORIAL, max_exponent))):
        if any(int(run) > limit for run in re.findall(pattern, text)):
            return "too_large_power"
    commands = sum(token in (r"\sum", r"\prod", r"\int", r"\binom", "!") for token in tokens)
    if tokens.count("^") > _MAX_POWERS or "!!" in text or _tower(tokens) > 2 or commands > _MAX_COMMANDS:
        return "too_large_power"
    return "prose" if "?" in tokens else None


def _tower(tokens: Tokens) -> int:
    """The deepest nesting of exponents in exponents."""
    stack: list[bool] = []
    level = deepest = 0
    for place, token in enumerate(tokens):
        if token == "{":
            stack.append(place > 0 and tokens[place - 1] == "^")
            level += stack[-1]
            deepest = max(deepest, level)
        elif token == "}" and stack:
            level -= stack.pop()
    return deepest


def side_by_side(tokens: Tokens) -> bool:
    """Whether two numbers stand side by side."""
    return any(token == " " and tokens[place - 1][-1:].isdigit() for place, token in enumerate(tokens) if place)


def as_parsed(tokens: Tokens) -> Tokens:
    """As math-verify reads it rightly: 2(3) with the sign of the product (it takes it for 2 + 3), E_1 with another letter, and
    gcd and lcm of letters as names of their own (it computes them, as if no two letters had a factor in common)."""
    out: Tokens = []
    place = 0
    while place < len(tokens):
        token = tokens[place]
        place += 1
        if token in ("E", "e") and tokens[place : place + 1] == ["_"]:
            token = {"E": r"\Xi", "e": r"\xi"}[token]
        elif token in (r"\gcd", r"\lcm") and tokens[place : place + 1] == ["("] and (end := closing(tokens, place)) > 0:
            arguments = split(tokens[place + 1 : end], (",", ";"))
            if any(part.isalpha() for argument in arguments for part in argument):
                name = [r"\Upsilon", "_", "{", str(zlib.crc32(repr(sorted(map(written, arguments))).encode())), "}"]
                if token == r"\lcm" and len(arguments) == 2:
                    name = ["(", "(", *arguments[0], ")", r"\cdot", "(", *arguments[1], ")", "/", *name, ")"]
                elif token == r"\lcm":
                    name[0] = r"\Xi"
                out += name
                place = end + 1
                continue
        out += [r"\cdot", token] if token == "(" and out and out[-1][-1].isdigit() else [token]
    return out


def task_left(tokens: Tokens) -> bool:
    """Whether an integral, sum, product, limit or derivative is left to be done: on every side of an equation."""
    return all(map(is_task, split(tokens, ("=",))))


def begins_with_task(tokens: Tokens) -> bool:
    """Whether a side is a task that is done on the other side: no unknown stands before it."""
    start = next((place for place, token in enumerate(tokens) if token not in ("-", r"\cdot", "(") and not token[0].isdigit()), 0)
    return is_task(tokens) and (tokens[start] in _TASKS or tokens[start] == r"\frac")


def is_task(tokens: Tokens) -> bool:
    """Whether there is one in a side."""
    return any(token in _TASKS for token in tokens) or r"\frac{d}{d" in written(tokens).replace(" ", "")


def signature(tokens: Tokens) -> tuple:
    """What math-verify may lose: the indexed names, and the signs of inequality that are no order."""
    names = set()
    for place, token in enumerate(tokens):
        if token == "_" and place and tokens[place - 1] not in (r"\log", r"\sum", r"\prod", r"\int", r"\lim", r"\max", r"\min"):
            end = closing(tokens, place + 1)
            names.add((tokens[place - 1], "".join(tokens[place + 1 : end + 1])))
    return names, tokens.count(r"\neq")


def letters_differ(gold: Tokens, answer: Tokens) -> bool:
    """Whether letters settle that two texts differ: names of points and words keep their order, and R is not r."""
    for one, other in ((gold, answer), (answer, gold)):
        if len(one) == 1 and one[0].isalpha() and len(other) == 1:
            return one != other
        letters = "".join(one)
        if len(one) > 1 and all(token.isalpha() for token in one) and (len(one) > 2 or letters != letters.lower()):
            return True  # the same text has been found equal before
    integral = gold[-2:] == ["+", "C"] or any(pair[0] in "cC" and pair[1] in "ext" for pair in itertools.pairwise(gold))
    constant = {"c"} if integral else set()
    for lower in {token.lower() for token in gold if token.isalpha() or token in _GREEK} - constant:
        used = [{token for token in one if token.lower() == lower} for one in (gold, answer)]
        if all(used) and used[0].isdisjoint(used[1]):
            return True
    return False


def _letters_of_choices(token: str) -> bool:
    return token != "a" and token.isalpha() and len(token) <= 5 and set(token.upper()) <= set("ABCDEFGHIJ")


def is_choice(tokens: Tokens, leading: bool = False) -> str:
    """The letter of a multiple choice, '' for anything else; `leading`: also of `(C) 42` and `Option C`."""
    while leading and tokens and isinstance(tokens[0], Word) and tokens[0].lower() in ("option", "choice", "选", *NEUTRAL):
        tokens = tokens[1:]
    if leading and len(tokens) > 2 and tokens[0] in "ABCDEFGHIJ" and tokens[1] in (")", ".", ":"):
        tokens = ["(", tokens[0], ")", *tokens[2:]]  # A. 12
    letters = [token for token in tokens if token not in (" ", ".", ":")]
    if len(letters) == 1 and len(letters[0]) == 1 and letters[0] in "ABCDEFGHIJ":
        return letters[0]
    if letters[:1] == ["("] and letters[2:3] == [")"] and len(letters[1]) == 1 and letters[1] in "ABCDEFGHIJ":
        rest = letters[3:]
        doubt = any(token in (",", "/", *PARTING) or token.lower() in _NOT_THIS or _letters_of_choices(token) for token in rest)
        if not rest or (leading and not doubt):
            return letters[1]
    return ""


# ---------------------------------------------------------------------- labels

_NOT_THIS = word_set("not wrong incorrect false except never cannot eliminated ruled out probably maybe perhaps possibly")
# Words that make of what stands behind them another value, alone or before one of the second set; and those that do it anywhere.
_TURNING = word_set("""twice thrice half double triple quarter negative negation opposite reciprocal inverse square cube root minus""")
_TURNED = word_set("the of that this it a an my answer root value result number total")
_TURNING_ANYWHERE = word_set("not never cannot except excluding but wrong incorrect false squared cubed doubled tripled halved plus minus divided multiplied")
_VARIABLES = frozenset("xyznkmij")


def is_label(tokens: Tokens) -> bool:
    """Whether a side of an equation only names what stands on the other: x, f(2), x_max, f^{-1}(x), \\angle ABC, P(odd), Area."""
    tokens = [token for token in tokens if token != " "]
    if not tokens or tokens == [r"\pi"]:
        return False
    if all(isinstance(token, Word) for token in tokens):
        return len(tokens) <= 6 and not _turns([token.lower() for token in tokens])
    if tokens[0] in (r"\angle", r"\triangle", r"\max", r"\min", r"\sup", r"\inf") or tokens[:2] == ["m", r"\angle"]:
        outside = [token for place, token in enumerate(tokens) if tokens[place - 1] != r"\angle" and not _depth(tokens, place)]
        return not any(token in ("=", "-", "+", "/", r"\cdot", "^") or token[0].isdigit() for token in outside)
    if tokens[0] == "(" and closing(tokens, 0) == len(tokens) - 1:
        names = split(tokens[1:-1], (",", ";"))
        return all(map(is_label, names)) and in_order(names) == list(range(len(names)))
    if tokens[0] in ("[", "|") and len(tokens) > 3 and all(token.isalpha() and token.isupper() for token in tokens[1:-1]):
        return tokens[-1] == {"[": "]", "|": "|"}[tokens[0]]
    if all(token.isalpha() and token.isupper() for token in tokens):
        return True
    return _name(tokens) == len(tokens)


def _depth(tokens: Tokens, place: int) -> int:
    """How many brackets are open before a place."""
    return sum((token in OPENERS) - (token in CLOSERS) for token in tokens[:place])


def _turns(words: list[str]) -> bool:
    """Whether words make of a quantity another one: half of it, one more than the answer."""
    words = [word for place, word in enumerate(words) if place or word not in ("a", "an", "the")] or words
    first = words[0] in NUMBER_WORDS or (words[0] in MAGNITUDES and words[1:2] == ["of"]) or (words[0] in _TURNING and (len(words) == 1 or words[1] in _TURNED))
    compared = any(word in ("more", "less", "times") and words[place + 1 : place + 2] == ["than"] for place, word in enumerate(words))
    return first or compared or not _TURNING_ANYWHERE.isdisjoint(words) or ("times" in words and not NUMBER_WORDS.keys().isdisjoint(words))


def in_order(labels: list[Tokens]) -> list[int]:
    """The places of labels in their order in a tuple: x, y, z and a, b, c and \\alpha, \\beta by the alphabet, x_1, x_2 by index, any others
    as they stand."""
    keys = [_key(label) for label in labels]
    ordered = sorted(range(len(labels)), key=keys.__getitem__)
    row = all(keys[after] == (keys[before][0], keys[before][1] + 1) for before, after in itertools.pairwise(ordered))
    return ordered if row else list(range(len(labels)))


def _key(label: Tokens) -> tuple[str, int]:
    """What letter or index a label is of its kind; labels of other kinds are no neighbours of any."""
    if len(label) == 1 and len(label[0]) == 1:
        return "", ord(label[0])
    if len(label) == 1 and label[0] in _ALPHABET:
        return "greek", _ALPHABET.index(label[0])
    if len(label) == 5 and label[1:3] == ["_", "{"] and label[3].isdecimal():
        return label[0], int(label[3])
    return "".join(label), 0


def _is_argument(name: str, inner: Tokens) -> bool:
    """Whether what is in brackets behind a name is its argument, and no factor: f(2), f(x+1), P(A); not x(x+1), x(2), f(1+1)."""
    factor = name in inner or (name in _VARIABLES and all(token[0].isdigit() or token in ("-", "+", r"\cdot") for token in inner))
    return not factor and (any(token.isalpha() or token in _GREEK for token in inner) or not {"+", "-", r"\cdot", "/"} & {*inner[1:]})


def _name(tokens: Tokens) -> int:
    """The length of the name at the start: a letter or word with accent, index, primes, -1 and arguments; 0 where there is none."""
    place = 1
    if tokens[:1] and tokens[0] in ACCENTS:
        place = closing(tokens, 1) + 1
        if not all(token.isalpha() or token in _GREEK for token in tokens[2 : place - 1]):
            return 0
    else:
        named = bool(tokens) and (isinstance(tokens[0], Word) or (len(tokens[0]) == 1 and tokens[0].isalpha()) or tokens[0] in _GREEK)
        if not named or tokens[0].lower() in _TURNING:
            return 0
    while place < len(tokens):
        token = tokens[place]
        end = closing(tokens, place + 1) if token in ("_", "^") else 0
        raised = "".join(tokens[place + 1 : end + 1]) if token == "^" else ""
        if end < 0:
            return 0
        if token == "_" or raised in (r"{\cdot}", "{'}", "{''}") or (raised == "{-1}" and (tokens[0].isupper() or tokens[end + 1 : end + 2] == ["("])):
            place = end + 1
        elif token == "'":
            place += 1
        elif token == "(" and (end := closing(tokens, place)) > 0:
            return end + 1 if _is_argument(tokens[0], tokens[place + 1 : end]) else place
        else:
            return place
    return place


def is_quantity(tokens: Tokens) -> bool:
    """Whether a side asks for the value of an expression of several unknowns (a + b, x^2 + y^2, f(1) + f(2), \\log_a b) or of an angle's
    sine, cosine, ...: then the other side is the value. With one unknown it would be an equation that hides the unknown's value."""
    tokens = [token for token in tokens if token != " "]
    if is_task(tokens) or (tokens[:1] == ["("] and closing(tokens, 0) == len(tokens) - 1):
        return False
    if tokens[:1] and tokens[0] in TRIGONOMETRY:
        rest = tokens[1:]
        if rest[:1] == ["^"]:
            return False
        if rest[:1] and rest[0].isdigit():
            rest = rest[1:]
        return bool(rest) and (is_label(rest) or (rest[0] == "(" and closing(rest, 0) == len(rest) - 1))
    names, place = set(), 0
    while place < len(tokens):
        if tokens[place] == "-" and (not place or tokens[place - 1] in ("(", "{", r"\cdot", "+", "|", "/")):
            return False
        size = _name(tokens[place:]) if not isinstance(tokens[place], Word) else 0
        while size and tokens[place].isupper() and tokens[place + size : place + size + 1] and tokens[place + size].isupper():
            size += 1  # AB is one length
        if size and tokens[place] not in ("e", "i"):
            names.add("".join(tokens[place : place + size]))
        elif tokens[place] not in _KNOWN and not tokens[place][0].isdigit() and tokens[place] != ":":
            return False
        place += size or 1
    return len(names) > 1
