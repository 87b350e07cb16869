"""Parts of an answer: the values of a list, what is in brackets, what labels and conditions leave. Runs in the workers."""

from __future__ import annotations

import re

from .guard import in_order, is_choice, is_label
from .latex import PARTING, RELATIONS, Tokens, Word, closing, split, written
from .plain import Number, read_number
from .words import word_set

_ARROWS = (r"\implies", r"\Rightarrow", r"\Longrightarrow", r"\iff", r"\Leftrightarrow", r"\Longleftrightarrow")
_SOME_ONLY = {",", *PARTING, *RELATIONS, *word_set("but otherwise except unless if when even odd not only rational irrational prime negative")}
SET_SIGNS = (r"\cup", r"\cap", r"\setminus")


def trimmed(tokens: Tokens) -> Tokens:
    """Without outer blanks, a leading plus, and brackets around the whole that hold one value."""
    while tokens:
        whole = tokens[0] in ("(", "{") and tokens[-1] in (")", "}") and closing(tokens, 0) == len(tokens) - 1
        if tokens[0] in (" ", "+"):
            tokens = tokens[1:]
        elif tokens[-1] == " ":
            tokens = tokens[:-1]
        elif whole and len(split(tokens[1:-1], (",", *PARTING))) == 1 and not is_choice(tokens):
            tokens = tokens[1:-1]
        else:
            break
    return tokens


def items_of(tokens: Tokens) -> list[Tokens]:
    """The values of a bare list; one for a number with thousands separators; two for one with a plus-minus sign."""
    parts = split(tokens, PARTING)
    items: list[Tokens] = []
    for part in parts:
        number = thousands(part)
        items += [number] if number and (len(parts) > 1 or len(number) > 1 + (number[0] == "-")) else split(part, (",",))
    return [one for item in items for one in ([item] if item[:1] == [r"\{"] else _both_signs(item))]


def _both_signs(tokens: Tokens) -> list[Tokens]:
    if r"\pm" not in tokens:
        tokens = [r"\pm" if token == r"\mp" else token for token in tokens]
    if tokens.count(r"\pm") != 1 or tokens.count(r"\mp") > 1:
        return [tokens]
    return [[{r"\pm": plus, r"\mp": minus}.get(token, token) for token in tokens] for plus, minus in ("+-", "-+")]


def value_behind_label(tokens: Tokens) -> Tokens | None:
    """The 5 of `x=5`, None where there is no label."""
    sides = split(tokens, ("=",))
    return sides[1] if len(sides) == 2 and is_label(sides[0]) else None


def labels_of(items: list[Tokens]) -> list[str]:
    """The labels of those that have one."""
    return [written(split(item, ("=",))[0]) for item in items if value_behind_label(item)]


def thousands(tokens: Tokens) -> Tokens | None:
    """`1,234,567.8` (perhaps with a sign, a currency or a unit around it) with the number as one token, None for anything else."""
    places = [place for place, token in enumerate(tokens) if token == ","]
    if not places or not 0 < places[0] < places[-1] + 1 < len(tokens):
        return None
    text = "".join(tokens[places[0] - 1 : places[-1] + 2])
    if not re.fullmatch(r"[1-9]\d{0,2}(,\d{3})+(\.\d+)?|\d{1,2}(,\d\d)+,\d{3}(\.\d+)?", text) or len(split(tokens, (",",))) <= len(places):
        return None
    return [*tokens[: places[0] - 1], text.replace(",", ""), *tokens[places[-1] + 2 :]]


def as_number(tokens: Tokens, other: Number | None, is_gold: bool) -> list[Tokens]:
    """What a list without blanks may be as one number: thousands, or (where the other side is that decimal) a decimal comma; of a gold
    only 0,125 and the like, as 1,5 may well be two values."""
    number = thousands(tokens)
    pattern = r"(-?0),(\d{3,})" if is_gold else r"(-?\d+),(\d+)"
    comma = re.fullmatch(pattern, written(tokens)) if other and other.places and not {*PARTING} & {*tokens} else None
    return [number] if number else [[f"{comma[1]}.{comma[2]}"]] if comma else []


def solutions_of(items: list[Tokens]) -> list[Tokens]:
    """`x=1,y=2,x=3,y=4` as tuples, `y=2,x=1` as `x=1,y=2`: labelled values whose labels repeat are solutions."""
    if len(items) < 2 or not all(map(value_behind_label, items)):
        return items
    items = [items[place] for place in in_order([split(item, ("=",))[0] for item in items])]
    labels, values = labels_of(items), [value_behind_label(item) for item in items]
    period = labels.index(labels[0], 1) if labels[0] in labels[1:] else len(labels)
    if period == 1 or labels != labels[:period] * (len(labels) // period) or period == len(labels):
        return items
    return [
        ["(", *[token for value in values[start : start + period] for token in [*value, ";"]][:-1], ")"]
        for start in range(0, len(items), period)
    ]


def bracket_of(tokens: Tokens) -> tuple[str, list[Tokens]] | None:
    """('()', items) and the like for one pair of brackets around several values (or a set of one), else None."""
    if len(tokens) < 3 or tokens[0] not in ("(", "[", r"\{") or closing(tokens, 0) != len(tokens) - 1:
        return None
    inner = tokens[1:-1]
    items = split(inner, (",", *PARTING))
    kind = (tokens[0] + tokens[-1]).replace("\\", "")
    if not all(items) or any(len(item) == 1 and re.fullmatch(r"0\d\d", item[0]) for item in items[1:]):
        return None  # (1,000,2) is no tuple of three
    if len(items) == 1 and (kind != "{}" or "|" in inner):
        return None
    return kind, items_of(inner) if kind == "{}" else items


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


def builder(tokens: Tokens) -> tuple[Tokens, Tokens] | None:
    """Domain and condition of `\\{x \\in D | ...\\}`; without a domain that of the reals."""
    if tokens[:1] == [r"\{"] and tokens[-1:] == [r"\}"] and closing(tokens, 0) == len(tokens) - 1:
        head, *rest = split(tokens[1:-1], ("|", ":"))
        name, *domain = split(head, (r"\in",))
        if len(rest) == 1 and is_label(name) and len(domain) < 2:
            return domain[0] if domain else [r"\mathbb{R}"], rest[0]
    return None


def without_builder(tokens: Tokens) -> Tokens:
    """The condition of `\\{x | ...\\}`, a set of reals."""
    found = builder(tokens)
    return found[1] if found and found[0] == [r"\mathbb{R}"] else tokens


def without_membership(tokens: Tokens) -> Tokens:
    """Without `x \\in` and `x \\to`."""
    left, *rest = split(tokens, (r"\in", r"\to"))
    return rest[0] if len(rest) == 1 and is_label(left) else tokens


def without_choice(answer: Tokens) -> Tokens:
    """`(C) 42` as 42."""
    chosen = len(answer) > 3 and answer[0] == "(" and answer[2] == ")" and is_choice(answer[:3])
    return answer[3:] if chosen and (answer[3][0].isdigit() or isinstance(answer[3], Word) or answer[3] in (r"\frac", r"\sqrt", "-", "\\$")) else answer


def concluded(answer: Tokens) -> Tokens:
    """`2x=14 \\implies x=7` as `x=7`, `Area: 8` as `8`."""
    *steps, last = split(answer, () if r"\not" in answer else _ARROWS)
    numbers = [number.value for part in (*steps, last) if (number := read_number(written(part)))]
    if steps and len(set(numbers)) > 1:
        return answer  # 41 \\implies 42
    head, *rest = split(last, (":", "is"))
    if len(rest) == 1 and all(isinstance(token, Word) for token in head) and is_label(head):
        last = rest[0]
    return trimmed(last) or answer


def without_scope(answer: Tokens) -> Tokens:
    """`f(x)=1 for all x` as `f(x)=1`, where nothing behind it says of which x only."""
    for place, token in enumerate(answer[:-1]):
        if place and token == "for" and isinstance(token, Word) and answer[place + 1] in ("all", "every", "any", "each"):
            said = {token.lower() for token in answer[place:]}
            return answer if said & _SOME_ONLY else answer[:place]
    return answer


def renamed(gold_label: Tokens, label: Tokens, sides: list[Tokens]) -> list[Tokens] | None:
    """`f(m)=2m` for the gold f(n)=...: with the gold's variable."""
    if len(gold_label) == len(label) == 4 and gold_label[0] == label[0] and label[1] == "(" and label[2].isalpha() and gold_label[2].isalpha():
        old, new = label[2], gold_label[2]
        if not any(new in side for side in sides):
            return [[new if token == old else token for token in side] for side in sides]
    return None


def has_letters(tokens: Tokens) -> bool:
    return any(token.isalpha() for token in tokens)


def is_solved(tokens: Tokens) -> bool:
    """Whether a relation of one unknown has it alone: 1<x<2, -x>3 and |x|>3, not x^2<4 nor 2x>6. What is no such relation is."""
    sides = split(without_membership(without_builder(trimmed(tokens))), tuple(RELATIONS))
    unknowns = {token for side in sides for token in side if token.isalpha()} - {"e", "i"}
    alone = [side for side in sides if is_label([token for token in trimmed(side) if token not in ("|", "-")])]
    return len(sides) == 1 or len(unknowns) != 1 or (len(alone) == 1 and not any(unknowns & {*side} for side in sides if side not in alone))


def is_relation(tokens: Tokens) -> bool:
    return len(split(tokens, tuple(RELATIONS))) > 1


def is_set(tokens: Tokens) -> bool:
    """Whether an answer is an interval, a union, a named set, or a set by its condition."""
    tokens = without_membership(tokens)
    bracketed = bracket_of(tokens)
    if bracketed:
        return len(bracketed[1]) == 2 or bracketed[0] == "{}"
    if len(items_of(tokens)) > 1:
        return False
    return any(sign in tokens for sign in (*SET_SIGNS, r"\mathbb{R}", r"\emptyset")) or without_builder(tokens) != tokens
