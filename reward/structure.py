"""Reads a cleaned answer as exact numbers in lists, tuples, sets, intervals, unions and matrices."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from .exact import Exact, Unsupported
from .expression import ExpressionReader, PlusMinus, decimal

THOUSANDS = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_SCIENTIFIC = re.compile(r"(-?\d+(?:\.\d+)?)[eE]([+-]?\d{1,3})")
_HIDDEN_THOUSANDS = re.compile(r"\d,\d{3}(?!\d)")
_CLOSING = {"(": ")]", "[": "])", r"\{": (r"\}",)}
_MATRICES = ("matrix", "pmatrix", "bmatrix", "smallmatrix")


@dataclass(frozen=True)
class Seq:
    """Several values in order.

    Attributes:
        kind: 'list' (bare), '()', '[]', '[)', '(]', '{}', 'union' or 'matrix' (then the items are rows of kind 'row').
        items: the values.
    """

    kind: str
    items: tuple[Value, ...]

    def __str__(self) -> str:
        inner = ", ".join(sorted(map(str, self.items)) if self.kind in ("list", "{}") else map(str, self.items))
        if self.kind == "list":
            return inner
        ends = self.kind if len(self.kind) == 2 else f"{self.kind}()"
        return f"{ends[:-1]}{inner}{ends[-1]}"


Value = Exact | Seq


def read(body: str) -> Value:
    """The value of a cleaned answer.

    Raises:
        Unsupported: it is not of the plain kind that this module reads.
    """
    if THOUSANDS.fullmatch(body):
        return decimal(body.replace(",", ""))
    scientific = _SCIENTIFIC.fullmatch(body)
    if scientific:
        number = decimal(scientific[1])
        return Exact.number(number.rational * Fraction(10) ** int(scientific[2]), number.decimal)
    if len(body) > 400:
        raise Unsupported("long")
    return _Reader(body).whole()


def is_ambiguous(body: str) -> bool:
    """Whether a comma may be a thousands separator or part a list: `(1,000,2)`. It is read as a list."""
    return bool(_HIDDEN_THOUSANDS.search(body)) and not THOUSANDS.fullmatch(body)


def read_as_list(body: str) -> Value | None:
    """`100,200` as a list and not as a number; None where it is no such case."""
    return _Reader(body.replace(",", ";")).whole() if THOUSANDS.fullmatch(body) else None


class _Reader(ExpressionReader):
    """Recursive descent over the tokens of one answer."""

    def __init__(self, body: str) -> None:
        super().__init__(body)
        self.depth = 0  # of brackets that hold lists
        self.ordered = 0  # of brackets, other than those of sets, around the place

    # ---------------------------------------------------------------- structure

    def whole(self) -> Value:
        items = self._items(())
        if self.at < len(self.tokens):
            raise Unsupported("something is left over")
        return items[0] if len(items) == 1 else Seq("list", tuple(items))

    def _items(self, ends: tuple[str, ...] | str) -> list[Value]:
        """Values separated by commas, up to one of `ends` (which stays)."""
        items: list[Value] = []
        while True:
            items.extend(self._item())
            if self.peek() in (",", ";"):
                self.at += 1
                continue
            if self.peek() in ends or (not ends and self.at == len(self.tokens)):
                return items
            raise Unsupported(f"unexpected {self.peek()!r}")

    def _item(self) -> list[Value]:
        """One item; two where it holds a plus-minus sign."""
        start, levels = self.at, self.levels
        try:
            value = self._union()
        except PlusMinus:
            if self.ordered:
                raise Unsupported("plus-minus inside a tuple") from None
            values = []
            for sign in "+-":
                place = self.tokens.index(r"\pm", start)
                both, self.tokens[place], self.at = self.tokens[place], sign, start
                self.levels = levels
                try:
                    values.append(self._union())
                except PlusMinus:
                    raise Unsupported("several plus-minus signs") from None
                finally:
                    self.tokens[place] = both
            return values
        return [value]

    def _union(self) -> Value:
        value = self._bracketed()
        if self.peek() != r"\cup":
            return value
        parts = [value]
        while self.peek() == r"\cup":
            self.at += 1
            parts.append(self._bracketed())
        if not all(isinstance(part, Seq) for part in parts):
            raise Unsupported("a union of numbers")
        return Seq("union", tuple(parts))

    def _bracketed(self) -> Value:
        """A tuple, an interval, a set, a matrix, or an expression."""
        token = self.peek()
        if token.startswith(r"\begin{"):
            return self._matrix(token[7:-1])
        if token not in _CLOSING:
            return self.sum()
        start, depth, levels, ordered = self.at, self.depth, self.levels, self.ordered
        self.ordered += token != r"\{"
        self.at += 1
        self.depth += 1
        if self.depth > 8:
            raise Unsupported("deeply nested")
        try:
            items = self._items(_CLOSING[token])
        except Unsupported:
            self.ordered = ordered
            if token == "(":  # (x+1)(x+2) has more behind its first bracket
                self.at, self.depth, self.levels = start, depth, levels
                return self.sum()
            raise
        self.depth, self.ordered = depth, ordered
        close = self.next()
        if token == "(" and close == ")" and len(items) == 1:
            self.at = start
            return self.sum()
        if token == r"\{":
            return Seq("{}", tuple(items))
        if len(items) == 1 or (token + close in ("(]", "[)") and len(items) != 2):
            raise Unsupported("brackets of another meaning")
        return Seq(token + close, tuple(items))

    def _matrix(self, name: str) -> Value:
        if name not in _MATRICES:
            raise Unsupported(name)
        self.at += 1
        rows: list[Value] = []
        row: list[Value] = []
        end = rf"\end{{{name}}}"
        while True:
            row.append(self.sum())
            token = self.next()
            if token == "&":
                continue
            rows.append(Seq("row", tuple(row)))
            row = []
            if token == r"\\" and self.peek() == end:
                token = self.next()
            if token == end:
                break
            if token != r"\\":
                raise Unsupported("a matrix of another form")
        if len({len(item.items) for item in rows}) != 1:
            raise Unsupported("rows of different lengths")
        return Seq("matrix", tuple(rows))
