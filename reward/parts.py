"""Parts of an answer: the values of a list, what is in brackets, what labels and conditions leave. Runs in the workers."""

from __future__ import annotations

import re

from .guard import is_choice, is_label
from .latex import PARTING, RELATIONS, Tokens, Word, closing, split, written
from .plain import Number, read_number

SET_SIGNS = (r"\cup", r"\cap", r"\setminus")


def trimmed(tokens: Tokens) -> Tokens:
    """Without outer blanks, a leading plus, and brackets around the whole that hold one value."""
    while tokens:
        if tokens[0] in (" ", "+"):
            tokens = tokens[1:]
        elif tokens[-1] == " ":
            tokens = tokens[:-1]
        elif tokens[0] in ("(", "{") and closing(tokens, 0) == len(tokens) - 1 and tokens[-1] in (")", "}") and (
            len(split(tokens[1:-1], (",", *PARTING))) == 1 and not is_choice(tokens)
        ):
            tokens = tokens[1:-1]
        else:
            break
    return tokens


def items_of(tokens: Tokens) -> list[Tokens]:
    """The values of a bare list; one for a number with thousands separators."""
    parts = split(tokens, PARTING)
    items: list[Tokens] = []
    for part in parts:
        number = thousands(part)
        items += [number] if number and (len(parts) > 1 or len(number) > 1 + (number[0] == "-")) else split(part, (",",))
    return [one for item in items for one in both_signs(item)]


def both_signs(tokens: Tokens) -> list[Tokens]:
    """A plus-minus sign stands for two values."""
    if tokens.count(r"\pm") != 1 or tokens.count(r"\mp") > 1:
        return [tokens]
    return [[{r"\pm": plus, r"\mp": minus}.get(token, token) for token in tokens] for plus, minus in ("+-", "-+")]


def labelled(item: Tokens) -> bool:
    sides = split(item, ("=",))
    return len(sides) == 2 and is_label(sides[0])


def thousands(tokens: Tokens) -> Tokens | None:
    """`1,234,567.8` (perhaps with a sign, a currency or a unit around it) with the number as one token, None for anything else."""
    places = [place for place, token in enumerate(tokens) if token == ","]
    if not places or not 0 < places[0] < places[-1] + 1 < len(tokens):
        return None
    text = "".join(tokens[places[0] - 1 : places[-1] + 2])
    if not re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d+)?|\d{1,2}(,\d\d)+,\d{3}(\.\d+)?", text) or len(split(tokens, (",",))) <= len(places):
        return None
    return [*tokens[: places[0] - 1], text.replace(",", ""), *tokens[places[-1] + 2 :]]


def as_number(tokens: Tokens, other: Number | None) -> list[Tokens]:
    """What a list without blanks may be as one number: thousands, or (where the other side is that decimal) a decimal comma."""
    number = thousands(tokens)
    comma = re.fullmatch(r"(-?\d+),(\d+)", written(tokens)) if other and other.places and not {*PARTING} & {*tokens} else None
    return ([number] if number else []) + ([[f"{comma[1]}.{comma[2]}"]] if comma else [])


def solutions_of(items: list[Tokens]) -> list[Tokens]:
    """`x=1,y=2,x=3,y=4` as tuples, `x=1,y=2` as itself: labelled values whose labels repeat are solutions."""
    sides = [split(item, ("=",)) for item in items]
    if len(items) < 2 or not all(len(pair) == 2 and is_label(pair[0]) for pair in sides):
        return items
    labels = [written(pair[0]) for pair in sides]
    period = labels.index(labels[0], 1) if labels[0] in labels[1:] else len(labels)
    if period == 1 or period == len(labels) or len(labels) % period or labels != labels[:period] * (len(labels) // period):
        return items
    return [
        ["(", *[token for pair in sides[start : start + period] for token in [*pair[1], ";"]][:-1], ")"]
        for start in range(0, len(items), period)
    ]


def bracket_of(tokens: Tokens) -> tuple[str, list[Tokens]] | None:
    """('()', items) and the like for one pair of brackets around several values (or a set of one), else None."""
    if len(tokens) < 3 or tokens[0] not in ("(", "[", r"\{") or closing(tokens, 0) != len(tokens) - 1:
        return None
    inner = tokens[1:-1]
    items = split(inner, (",", *PARTING))
    kind = {r"\{": "{", "[": "[", "(": "("}[tokens[0]] + {r"\}": "}"}.get(tokens[-1], tokens[-1])
    if not all(items) or any(len(item) == 1 and re.fullmatch(r"0\d\d", item[0]) for item in items[1:]) or (len(items) == 1 and kind != "{}") or ("|" in inner and kind == "{}" and len(items) == 1):
        return None
    if kind == "{}":
        items = items_of(inner)
    return kind, items


def without_braces(tokens: Tokens) -> Tokens:
    """The value of a set of one."""
    bracketed = bracket_of(tokens)
    plain = bracketed and len(bracketed[1]) == 1 and {"|", ":", r"\emptyset", r"\{"}.isdisjoint(tokens[1:])
    return bracketed[1][0] if plain else tokens


def column_of(tokens: Tokens) -> list[Tokens] | None:
    """The entries of a column vector."""
    if tokens and re.fullmatch(r"\\begin\{[pbv]?matrix\}", tokens[0]) and tokens[-1].startswith(r"\end") and "&" not in tokens:
        return split(tokens[1:-1], ("\\\\",))
    return None


def without_builder(tokens: Tokens) -> Tokens:
    """The condition of `\\{x | ...\\}`."""
    if tokens[:1] == [r"\{"] and tokens[-1:] == [r"\}"] and closing(tokens, 0) == len(tokens) - 1:
        head, *rest = split(tokens[1:-1], ("|", ":"))
        if len(rest) == 1 and head and (is_label(head) or is_label(split(head, (r"\in",))[0])):
            return rest[0]
    return tokens


def without_membership(tokens: Tokens) -> Tokens:
    """Without `x \\in` and `x \\to`."""
    left, *rest = split(tokens, (r"\in", r"\to"))
    return rest[0] if len(rest) == 1 and is_label(left) else tokens


def without_choice(answer: Tokens) -> Tokens:
    """`(C) 42` as 42."""
    if len(answer) > 3 and answer[0] == "(" and answer[2] == ")" and is_choice(answer[:3]) and (answer[3][0].isdigit() or answer[3] in ("\\frac", "\\sqrt", "-", "\\$")):
        return answer[3:]
    return answer


def without_scope(answer: Tokens) -> Tokens:
    """`f(x)=1 for all x` as `f(x)=1`."""
    for place, token in enumerate(answer[:-1]):
        if place and token == "for" and isinstance(token, Word) and answer[place + 1] in ("all", "every", "any", "each"):
            return answer[:place]
    return answer


def without_modulus(gold: Tokens, answer: Tokens) -> tuple[Tokens, Tokens]:
    """`2 \\pmod 5` as 2 where the gold is a value; `19 \\bmod 5` computed."""
    if r"\pmod" in answer and r"\pmod" not in gold:
        answer = trimmed(answer[: answer.index(r"\pmod")])
    for sign in (r"\bmod", r"\mod"):
        if sign in answer and sign not in gold:
            left, right = (read_number(written(part)) for part in [answer[: answer.index(sign)], answer[answer.index(sign) + 1 :]])
            if left and right and right.value > 0 and right.places == left.places == 0:
                answer = [str(left.value % right.value)]
    return gold, answer




def ratios(gold: Tokens, answer: Tokens) -> bool:
    """3:4 against 6:8 or 3/4, but no time of day: that is met by the same text."""
    parts = [split(one, (":",)) for one in (gold, answer)]
    numbers = [[read_number(written(part)) for part in side] for side in parts]
    if not all(number for side in numbers for number in side):
        return False
    if len(parts[0]) == 2 and len(parts[0][1][0]) == 2:
        return False  # a time of day
    sizes = len(parts[0]), len(parts[1])
    if sizes[0] == sizes[1]:
        left, right = [[number.value for number in side] for side in numbers]
        return all(a * right[0] == b * left[0] for a, b in zip(left, right, strict=True)) and any(left) and any(right)
    if sorted(sizes) != [1, 2]:
        return False
    ratio, single = numbers if sizes[0] == 2 else numbers[::-1]
    return single[0].places is None and ratio[1].value != 0 and ratio[0].value / ratio[1].value == single[0].value


def renamed_sides(gold_label: Tokens, label: Tokens, sides: list[Tokens]) -> list[Tokens] | None:
    """`f(m)=2m` for the gold f(n)=...: with the gold's variable."""
    if len(gold_label) == len(label) == 4 and gold_label[0] == label[0] and label[1] == "(" and label[2].isalpha():
        old, new = label[2], gold_label[2]
        if not any(new in side for side in sides):
            return [[new if token == old else token for token in side] for side in sides]
    return None


_ARTICLES = frozenset({"a", "an", "the"})


def same_text(gold: Tokens, answer: Tokens) -> bool:
    """The same words in the same order, and the same signs between them; case, articles and a plural s are left out of account."""

    def key(tokens: Tokens) -> list[str]:
        kept = [";" if token in (",", "&&") else token for token in tokens if token not in _ARTICLES and token != '"']
        kept = [token.lower() for token in kept]
        while kept and kept[-1] in (".", "!", ";") and len(kept) > 1 and kept[-1] != "!":
            kept.pop()
        return [word[:-1] if len(word) > 3 and word.isalpha() and word.endswith("s") else word for word in kept]

    return "".join(key(gold)) == "".join(key(answer))








def side_by_side(tokens: Tokens) -> bool:
    return any(token == " " and tokens[place - 1][-1:].isdigit() for place, token in enumerate(tokens) if place)


def as_parsed(tokens: Tokens) -> Tokens:
    """As math-verify reads it rightly: 2(3) with the sign of the product (it takes it for 2 + 3), E_1 with another letter."""
    out: Tokens = []
    for place, token in enumerate(tokens):
        if token in ("E", "e") and tokens[place + 1 : place + 2] == ["_"]:
            token = {"E": r"\Xi", "e": r"\xi"}[token]
        out += [r"\cdot", token] if token == "(" and out and out[-1][-1].isdigit() else [token]
    return out


def plus_only(tokens: Tokens) -> Tokens:
    return [{r"\pm": "+", r"\mp": "-"}.get(token, token) for token in tokens]


def has_letters(tokens: Tokens) -> bool:
    return any(token.isalpha() for token in tokens)


def is_relation(tokens: Tokens) -> bool:
    return len(split(tokens, tuple(RELATIONS))) > 1


def is_set(tokens: Tokens) -> bool:
    """Whether an answer is an interval, a union, a named set, or a set by its condition."""
    if len(items_of(tokens)) > 1:
        return False
    tokens = without_membership(tokens)
    bracketed = bracket_of(tokens)
    if bracketed:
        return (len(bracketed[1]) == 2 and bracketed[0] != "{}") or bracketed[0] == "{}"
    return any(sign in tokens for sign in (*SET_SIGNS, r"\mathbb{R}", r"\emptyset")) or without_builder(tokens) != tokens
