"""Reads one expression of plain maths as an exact number: sums, products, fractions, powers, square roots."""

from __future__ import annotations

import re
from fractions import Fraction

from .exact import Exact, Unsupported
from .units import word_set

_TOKEN = re.compile(r"\\(?:begin|end)\{[a-zA-Z]+\*?\}|\\[A-Za-z]+|\\.|\d*\.\d+|\d+\.?|.", re.DOTALL)
_GREEK = word_set(
    r"\alpha \beta \gamma \delta \epsilon \varepsilon \theta \lambda \mu \nu \rho \sigma \tau \phi \varphi \omega"
)
# A letter before a bracket is a factor only for these: f(x), P(A), g(2) are functions.
_FACTORS = frozenset("xyzabcnkmrt")


class PlusMinus(Exception):
    """A plus-minus sign was met: two values, which only a list can hold."""


def decimal(text: str) -> Exact:
    """A plain decimal; one with places behind the point counts as rounded."""
    value = Fraction(text.rstrip("."))
    return Exact.number(value, value.denominator != 1)


class ExpressionReader:
    """Recursive descent over the tokens of one cleaned answer; every method raises `Unsupported` where it gives up."""

    def __init__(self, body: str) -> None:
        self.tokens = [token for token in _TOKEN.findall(body) if token != " "]
        self.at = 0
        self.levels = 0  # of sums within sums

    def peek(self) -> str:
        """The token at hand, '' at the end."""
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def next(self) -> str:
        """The token at hand, which is passed."""
        token = self.peek()
        self.at += 1
        return token

    def sum(self) -> Exact:
        """Terms with their signs, up to something that is no part of them."""
        self.levels += 1
        if self.levels > 30:
            raise Unsupported("deeply nested")
        total: Exact | None = None
        while True:
            sign = 1
            if self.peek() in ("+", "-"):
                sign = -1 if self.next() == "-" else 1
            elif self.peek() == r"\pm":
                raise PlusMinus
            elif total is not None:
                self.levels -= 1
                return total
            term = self.product()
            term = -term if sign < 0 else term
            total = term if total is None else total + term

    def product(self) -> Exact:
        """Factors, also without a sign between them."""
        value, literal = self._factor()
        divided = False
        while True:
            token = self.peek()
            if token == r"\cdot":
                self.at += 1
                factor, literal = self._factor()
                value = value * factor
                if literal and self.peek() == r"\frac":
                    raise Unsupported("a mixed number in a product")
                literal = False
            elif token == "/":
                self.at += 1
                factor, _literal = self._factor()
                value, divided, literal = value / factor, True, False
            elif token and (token.isalpha() or token in ("(", r"\sqrt", r"\pi", r"\frac", "{") or token in _GREEK):
                if divided:
                    raise Unsupported("1/2x may mean two things")
                if token == r"\frac" and literal:
                    value, literal = self._mixed(value), False
                    continue
                factor, _literal = self._factor()
                value, literal = value * factor, False
            elif token[:1].isdigit():
                raise Unsupported("a number behind a factor")
            else:
                return value

    def _mixed(self, whole: Exact) -> Exact:
        """A whole number right before a fraction: 2\\frac{1}{2} is a mixed number, 2\\frac{\\sqrt{3}}{2} a product."""
        top, bottom = self._fraction()
        number, part = whole.rational, (top / bottom).rational
        plain = top.rational is not None and bottom.rational is not None
        if not plain:
            return whole * (top / bottom)
        if number is None or number.denominator != 1 or not 0 < part < 1 or top.rational <= 0:
            raise Unsupported("an odd mixed number")
        return Exact.number(number + part)

    def _factor(self) -> tuple[Exact, bool]:
        """A factor with its powers, and whether it is a bare whole number."""
        base, literal = self._base()
        while True:
            token = self.peek()
            if token == "^":
                self.at += 1
                if self._degrees():
                    continue
                base, literal = base.power(self._exponent()), False
                if self.peek() == "^":
                    raise Unsupported("a tower of powers")
            elif token == "!":
                self.at += 1
                number = base.rational
                if not literal or not 0 <= number <= 20 or self.peek() == "!":
                    raise Unsupported("a factorial")
                product = 1
                for factor in range(2, int(number) + 1):
                    product *= factor
                base, literal = Exact.number(product), False
            elif token == "_":
                raise Unsupported("an index")
            else:
                return base, literal

    def _degrees(self) -> bool:
        """Skips a degree sign behind the caret: angles are compared by their figures, as units may be left out."""
        for sign in ([r"\circ"], ["{", r"\circ", "}"]):
            if self.tokens[self.at : self.at + len(sign)] == sign:
                self.at += len(sign)
                return True
        return False

    def _exponent(self) -> Fraction:
        token = self.peek()
        if token == "{":
            self.at += 1
            value = self.sum()
            self._expect("}")
        elif len(token) == 1 and token.isdigit():
            self.at += 1
            value = Exact.number(int(token))
        else:
            raise Unsupported("an exponent of another form")
        if value.rational is None:
            raise Unsupported("a symbolic exponent")
        return value.rational

    def _base(self) -> tuple[Exact, bool]:
        token = self.next()
        if token[:1].isdigit() or (token[:1] == "." and len(token) > 1):
            if token.isascii():
                if "." in token and self.peek() in (r"\overline", r"\bar", r"\dot"):
                    return self._repeating(token), False
                number = decimal(token)
                return number, token.isdigit()
            raise Unsupported("other digits")
        if token == "(":
            value = self.sum()
            self._expect(")")
            return value, False
        if token == "{":
            value = self.sum()
            self._expect("}")
            return value, False
        if token == r"\frac":
            self.at -= 1
            top, bottom = self._fraction()
            return top / bottom, False
        if token == r"\sqrt":
            return self._root(), False
        if token == r"\pi":
            return Exact.atom(token), False
        if token in _GREEK or (len(token) == 1 and token.isascii() and token.isalpha()):
            if self.peek() == "(" and token not in _FACTORS:
                raise Unsupported("a function call")
            return Exact.atom(token + self._index()), False
        if token == r"\infty":
            if self.peek() not in ("", ",", ";", ")", "]", r"\cup"):
                raise Unsupported("infinity in a sum")
            return Exact.atom(token), False
        raise Unsupported(f"unknown {token!r}")

    def _repeating(self, start: str) -> Exact:
        """`0.1\\overline{6}`: a decimal whose last digits repeat for ever, which is an exact fraction."""
        self.at += 1
        self._expect("{")
        digits = self.next()
        self._expect("}")
        if not (digits.isdigit() and digits.isascii()) or len(digits) > 30:
            raise Unsupported("a repeating decimal of another form")
        whole, _dot, places = start.partition(".")
        shift = Fraction(1, 10 ** len(places))
        value = Fraction(int((whole + places) or "0")) * shift + Fraction(int(digits), 10 ** len(digits) - 1) * shift
        return Exact.number(value)

    def _index(self) -> str:
        """The index behind a variable, as a part of its name."""
        if self.peek() != "_":
            return ""
        self.at += 1
        token = self.next()
        if token == "{":
            inside = []
            while (token := self.next()) != "}":
                if not token.isalnum():
                    raise Unsupported("an index of another form")
                inside.append(token)
            return "_" + "".join(inside)
        if len(token) == 1 and token.isalnum():
            return "_" + token
        raise Unsupported("an index of another form")

    def _fraction(self) -> tuple[Exact, Exact]:
        self._expect(r"\frac")
        return self._argument(), self._argument()

    def _argument(self) -> Exact:
        """A braced expression, or one digit or letter: \\frac12 is one half."""
        token = self.peek()
        if token == "{":
            self.at += 1
            value = self.sum()
            self._expect("}")
            return value
        if token.isdigit():
            if len(token) > 1:
                self.tokens[self.at : self.at + 1] = list(token)
            return Exact.number(int(self.next()))
        if len(token) == 1 and token.isalpha():
            return Exact.atom(self.next())
        raise Unsupported("an argument of another form")

    def _root(self) -> Exact:
        if self.peek() == "[":
            raise Unsupported("a root that is not square")
        if self.peek() == "(":
            self.at += 1
            value = self.sum()
            self._expect(")")
        elif self.peek().isdigit() and len(self.peek()) > 1:
            raise Unsupported(r"\sqrt12 may mean two things")
        else:
            value = self._argument()
        return value.root()

    def _expect(self, token: str) -> None:
        if self.next() != token:
            raise Unsupported(f"{token} is missing")
