"""Exact arithmetic for plain answers, without sympy: rationals, square roots, pi, i, and polynomials over them.

A number is a sum of terms: a fraction times powers of atoms. Atoms are variables, `\\pi`, `i` and the square roots of
primes. Powers of roots and of `i` are reduced as they arise, so that two such sums are equal if and only if their terms
are: square roots of distinct square-free numbers are linearly independent over the rationals, pi is transcendental,
and variables are free. What does not fit this form raises `Unsupported`, and math-verify decides.
"""

from __future__ import annotations

import cmath
import math
from fractions import Fraction
from functools import lru_cache

_MAX_TERMS = 200
_MAX_POWER = 64
_MAX_BITS = 4000
_ROOT = "root"  # an atom (_ROOT, p) is the square root of the prime p
Atom = str | tuple[str, int]
Monomial = tuple[tuple[Atom, int], ...]


class Unsupported(Exception):
    """The text is no number of this kind; that says nothing about whether it is right."""


class Exact:
    """A sum of terms; immutable.

    Attributes:
        terms: fraction by monomial, without zeros.
        decimal: a decimal fraction was part of it, so that it may be rounded.
    """

    __slots__ = ("decimal", "terms")

    def __init__(self, terms: dict[Monomial, Fraction], decimal: bool = False) -> None:
        self.terms = {monomial: value for monomial, value in terms.items() if value}
        self.decimal = decimal
        if len(self.terms) > _MAX_TERMS:
            raise Unsupported("too many terms")

    @classmethod
    def number(cls, value: Fraction | int, decimal: bool = False) -> Exact:
        return cls({(): Fraction(value)}, decimal)

    @classmethod
    def atom(cls, name: Atom) -> Exact:
        return cls({((name, 1),): Fraction(1)})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Exact) and self.terms == other.terms

    def __hash__(self) -> int:
        return hash(frozenset(self.terms.items()))

    def __add__(self, other: Exact) -> Exact:
        terms = dict(self.terms)
        for monomial, value in other.terms.items():
            terms[monomial] = terms.get(monomial, Fraction(0)) + value
        return Exact(terms, self.decimal or other.decimal)

    def __neg__(self) -> Exact:
        return Exact({monomial: -value for monomial, value in self.terms.items()}, self.decimal)

    def __sub__(self, other: Exact) -> Exact:
        return self + (-other)

    def __mul__(self, other: Exact) -> Exact:
        if len(self.terms) * len(other.terms) > 4 * _MAX_TERMS:
            raise Unsupported("too many terms")
        terms: dict[Monomial, Fraction] = {}
        for left, left_value in self.terms.items():
            for right, right_value in other.terms.items():
                monomial, factor = _merged(left, right)
                value = left_value * right_value * factor
                if max(value.numerator.bit_length(), value.denominator.bit_length()) > _MAX_BITS:
                    raise Unsupported("too large a number")
                terms[monomial] = terms.get(monomial, Fraction(0)) + value
        return Exact(terms, self.decimal or other.decimal)

    def __truediv__(self, other: Exact) -> Exact:
        top, bottom = self, other
        for _ in range(4):  # numbers such as 1 + sqrt(2): times the conjugate until one term is left
            if len(bottom.terms) <= 1:
                break
            if not bottom.is_number or len(bottom.terms) > 4:
                raise Unsupported("division by a sum")
            conjugate = _conjugate(bottom)
            top, bottom = top * conjugate, bottom * conjugate
        if len(bottom.terms) != 1:
            raise Unsupported("division by zero or by a sum")
        ((monomial, value),) = bottom.terms.items()
        inverse = Exact({(): 1 / value}, bottom.decimal)
        for atom, power in monomial:
            inverse = inverse * _inverse_atom(atom, power)
        return top * inverse

    def power(self, exponent: Fraction) -> Exact:
        """To a whole power of small size, or the square root of a rational."""
        if exponent == Fraction(1, 2):
            return self.root()
        if exponent.denominator != 1:
            raise Unsupported("a broken exponent")
        count = int(exponent)
        base = self
        if count < 0:
            base, count = Exact.number(1) / self, -count
        if base.rational is not None:
            value = base.rational
            bits = max(value.numerator.bit_length(), value.denominator.bit_length())
            if count * bits > _MAX_BITS or (count == 0 and not value):
                raise Unsupported("too large a power")
            return Exact.number(value**count, self.decimal)
        if count > _MAX_POWER:
            raise Unsupported("too large a power")
        result = Exact.number(1)
        for _ in range(count):
            result = result * base
        return result

    def root(self) -> Exact:
        """The square root of a rational number."""
        value = self.rational
        if value is None:
            raise Unsupported("the root of a sum")
        if value < 0:
            return Exact.number(-value, self.decimal).root() * Exact.atom("i")
        if value == 0:
            return Exact.number(0, self.decimal)
        if self.decimal:
            # A rounded radicand has no exact root worth the name, unless it is a square.
            top, bottom = math.isqrt(value.numerator), math.isqrt(value.denominator)
            if top * top != value.numerator or bottom * bottom != value.denominator:
                raise Unsupported("the root of a decimal")
        outside, primes = _square_free(value.numerator * value.denominator)
        result = Exact.number(Fraction(outside, value.denominator), self.decimal)
        for prime in primes:
            result = result * Exact.atom((_ROOT, prime))
        return result

    @property
    def atoms(self) -> set[Atom]:
        return {atom for monomial in self.terms for atom, _power in monomial}

    @property
    def variables(self) -> set[str]:
        return {atom for atom in self.atoms if isinstance(atom, str) and atom not in (r"\pi", "i")}

    @property
    def is_number(self) -> bool:
        return not self.variables

    @property
    def rational(self) -> Fraction | None:
        """The value where it is a plain fraction, else None."""
        if not self.terms:
            return Fraction(0)
        return self.terms.get(()) if len(self.terms) == 1 else None

    def value(self) -> complex:
        """The number in floating point.

        Raises:
            Unsupported: it holds variables, overflows, or loses its digits in a cancellation.
        """
        total, size = 0j, 0.0
        try:
            for monomial, factor in self.terms.items():
                term = complex(float(factor))
                for atom, power in monomial:
                    if atom == r"\pi":
                        term *= math.pi**power
                    elif atom == "i":
                        term *= 1j**power
                    elif isinstance(atom, tuple):
                        term *= math.sqrt(atom[1]) ** power
                    else:
                        raise Unsupported("variables have no value")
                total += term
                size += abs(term)
        except OverflowError as error:
            raise Unsupported("too large for floating point") from error
        if cmath.isnan(total) or cmath.isinf(total) or abs(total) < 1e-4 * size:
            raise Unsupported("cancellation")
        return total

    def __str__(self) -> str:
        value = self.rational
        if value is not None:
            return str(value)
        shown = []
        for monomial, factor in sorted(self.terms.items(), key=lambda item: str(item[0])):
            names = [f"sqrt({a[1]})" if isinstance(a, tuple) else a.lstrip("\\") for a, _p in monomial]
            powers = [f"^{p}" if p != 1 else "" for _a, p in monomial]
            factors = [n + p for n, p in zip(names, powers, strict=True)]
            if factor != 1 or not factors:
                factors.insert(0, str(factor))
            shown.append("*".join(factors))
        return " + ".join(shown)


def _merged(left: Monomial, right: Monomial) -> tuple[Monomial, Fraction]:
    """The product of two monomials in reduced form, and the fraction that the reduction yields."""
    powers: dict[Atom, int] = dict(left)
    factor = Fraction(1)
    for atom, power in right:
        total = powers.get(atom, 0) + power
        if atom == "i":
            factor *= -1 if total % 4 in (2, 3) else 1
            total %= 2
        elif isinstance(atom, tuple):
            factor *= Fraction(atom[1]) ** (total // 2)
            total %= 2
        if abs(total) > 4 * _MAX_POWER:
            raise Unsupported("too large a power")
        powers[atom] = total
    return tuple(sorted(((a, p) for a, p in powers.items() if p), key=str)), factor


def _inverse_atom(atom: Atom, power: int) -> Exact:
    if atom == "i":
        return -Exact.atom("i")
    if isinstance(atom, tuple):
        return Exact({((atom, 1),): Fraction(1, atom[1])})
    return Exact({((atom, -power),): Fraction(1)})


def _conjugate(number: Exact) -> Exact:
    """The number with the sign of one of its roots (or of i) changed."""
    for atom in sorted(number.atoms, key=str):
        if atom == "i" or isinstance(atom, tuple):
            flipped = {m: -v if any(a == atom for a, _p in m) else v for m, v in number.terms.items()}
            return Exact(flipped, number.decimal)
    raise Unsupported("division by a sum")


@lru_cache(maxsize=4096)
def _square_free(value: int) -> tuple[int, tuple[int, ...]]:
    """(outside, primes) with value = outside**2 * product(primes)."""
    outside, primes = 1, []
    prime = 2
    while prime * prime <= value:
        while value % (prime * prime) == 0:
            value //= prime * prime
            outside *= prime
        if value % prime == 0:
            value //= prime
            primes.append(prime)
        prime += 1
        if prime > 3000:
            root = math.isqrt(value)
            if root * root == value:
                return outside * root, tuple(primes)
            if value > 9_000_000:
                raise Unsupported("a radicand that is too large to factor")
    if value > 1:
        primes.append(value)
    return outside, tuple(primes)
