"""Units as answers carry them: which words are units, and one spelling for each."""

from __future__ import annotations


def word_set(text: str) -> frozenset[str]:
    """The set of the words of a text."""
    return frozenset(text.split())


_SPELLINGS = {
    "dollar": "dollars usd \\$ bucks", "cent": "cents ¢", "euro": "euros €", "pound": "pounds £ lb lbs", "yen": "¥",
    "mm": "millimeter millimeters millimetre millimetres", "cm": "centimeter centimeters centimetre centimetres cms",
    "dm": "decimeter decimeters", "m": "meter meters metre metres", "km": "kilometer kilometers kilometre kilometres kms",
    "inch": "inches in", "foot": "feet ft", "yard": "yards yd yds", "mile": "miles mi",
    "second": "seconds sec secs s", "minute": "minutes min mins", "hour": "hours hr hrs h", "day": "days",
    "week": "weeks", "month": "months", "year": "years yr yrs", "degree": "degrees deg", "radian": "radians rad",
    "mg": "milligram milligrams", "g": "gram grams gm", "kg": "kilogram kilograms kgs", "ton": "tons tonne tonnes",
    "ounce": "ounces oz", "ml": "milliliter milliliters millilitre", "liter": "liters litre litres l L",
    "gallon": "gallons gal", "acre": "acres", "mph": "", "rpm": "", "unit": "units", "square": "squared sq",
    "cubic": "cu cubed", "joule": "joules J", "watt": "watts W", "volt": "volts V", "newton": "newtons N",
    "kelvin": "kelvins K", "ampere": "amperes amps A", "hertz": "Hz hz", "mole": "moles mol", "knot": "knots",
    "way": "ways", "point": "points", "student": "students", "person": "persons people", "page": "pages",
    "apple": "apples", "side": "sides", "integer": "integers", "solution": "solutions", "digit": "digits",
    "erg": "ergs", "angstrom": "angstroms", "parsec": "parsecs pc", "arcsec": "arcsecond arcseconds", "am": "", "pm": "",
}  # fmt: skip
_CANONICAL = {spelling: unit for unit, others in _SPELLINGS.items() for spelling in (unit, *others.split())}
# Written plainly (not as \text{...}) these are variables or function words far more often than units.
_NEVER_PLAIN = frozenset({"in", "s", "h", "l", "L", "J", "W", "V", "N", "K", "A", "m", "g", "pc", "deg", "rad"})
_UNIT_LETTERS = word_set("m s h g l L J W V N K A")
# Words that say something else than a unit; after a number they make the answer a hedge.
_NEVER_UNITS = word_set("""not no maybe perhaps possibly probably or but if unless guess likely either neither approximately about around
    nearly almost roughly error wrong false true undefined none unknown cannot could can might may would should least
    most more less than i we you they it this that is are was were be been have has had do does did solve sure unsure
    think believe considered assume assuming instead rather incorrect correct right other another also both all any
    when where while because since answer otherwise except and nor yes okay ok please wait""")


def is_unit_word(word: str) -> bool:
    """Whether a lower-case word of two letters or more is a unit wherever it stands."""
    return word in _CANONICAL and word not in _NEVER_PLAIN


def is_unit_letter(letter: str) -> bool:
    """Whether a single letter inside `\\text{}` behind a number is a unit."""
    return letter in _UNIT_LETTERS


def is_unit_phrase(text: str) -> bool:
    """Whether a text of at least two letters consists of known units only, as `square inches`."""
    words = text.split()
    return len(text) > 1 and bool(words) and all(word in _CANONICAL for word in words)


def canonical_unit(tokens: list[str]) -> str:
    """One spelling of a unit, '' where the tokens are no unit (prose, or more than four words).

    `square cm`, `cm^2` and `cm^{2}` become `cm^2`; `km/h`, `km per hour` and `\\text{km}/\\text{h}` become `km/hour`.
    A word that is not in the list is its own unit (`12 marbles`), unless it says something else (`42 maybe`).
    """
    out: list[str] = []
    power = ""
    words = 0
    for token in tokens:
        low = token if token in _CANONICAL else token.lower()
        if token in (" ", "{", "}", "(", ")", ".", "^", r"\cdot"):
            continue
        if token in ("2", "3", "-", "1"):
            if not out:
                return ""
            out[-1] += ("^" if "^" not in out[-1] else "") + token
            continue
        if token == "/" or low == "per":
            out.append("/")
            continue
        if low in ("the", "of"):
            continue
        if low in _NEVER_UNITS or (low.isalpha() and len(low) > 20):
            return ""
        words += 1
        unit = _CANONICAL.get(low, low[:-1] if low.endswith("s") and len(low) > 3 else low)
        if unit in ("square", "cubic"):
            exponent = "^2" if unit == "square" else "^3"
            if out and out[-1] != "/" and low in ("squared", "cubed"):
                out[-1] += exponent
            else:
                power = exponent
            continue
        out.append(unit + power)
        power = ""
    if power:
        out.append("unit" + power)
    if not out or words > 4:
        return ""
    if out == ["mile", "/", "hour"]:
        return "mph"
    return "".join(out)
