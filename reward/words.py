"""What words in an answer may mean: a closed list of units, magnitudes, number words, phrases. All else is no unit.

Runs in the workers.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


def word_set(text: str) -> frozenset[str]:
    """The set of the words of a text."""
    return frozenset(text.split())


# Of each dimension its units: size in the dimension's first unit, and spellings (a plural s is understood).
_UNITS = r"""
length: 1 m meter metre 米, 1/1000 mm millimeter millimetre, 1/100 cm cms centimeter centimetre 厘米, 1/10 dm decimeter decimetre,
    1000 km kms kilometer kilometre 千米 公里, 127/5000 inch inches in, 381/1250 foot feet ft, 1143/1250 yard yd, 201168/125 mile mi
mass: 1 g gram gm 克, 1/1000 mg milligram, 1000 kg kgs kilogram 千克 公斤, 1000000 tonne
time: 1 second sec s 秒, 60 minute minutes min 分钟, 3600 hour hr h 小时, 86400 day 天, 604800 week
money: 1 dollar usd \$ buck, 1/100 cent ¢
degree: 1 degree deg \circ ° 度
volume: 1 liter litre l, 1/1000 ml milliliter millilitre
speed: 1397/3125 mph
"""
# Dimensions of one unit each, with its other spellings.
_SINGLE = r"""month; year yr 岁; euro €; sterling £; yuan 元; rupee rs ₹; pound lb; ounce oz; ton; celsius; fahrenheit; radian rad; gallon gal;
    acre; rpm; unit; joule j; watt w; volt v; newton n; kelvin k; ampere amp a; hertz hz; ohm \omega; pascal pa; mole mol; knot; erg; angstrom;
    parsec pc; arcsecond arcsec; am; pm"""
# Counted nouns: what is counted says nothing about the number. `counted_nouns` decides about others.
_NOUNS = """way point student person people page side integer solution digit root triangle number term element edge
    vertex vertices face zero pair case step time times child children boy girl man men woman women player game coin card ball
    book apple orange marble ticket sheep car bag box boxes item piece customer friend team pupil question problem
    percentage-point 个 人 种 只 条 本 次 页 名 棵 块 件 辆"""
_NEVER_PLAIN = word_set("in s h l j w v n k a m g pc rad am pm pa rs time zero")
_CAPITALS = word_set("L mL ML J W V N K A Hz HZ Pa Rs C F KM Km CM Cm KG Kg AM PM Am Pm In Ft FT Hr HR Mi MI Yd YD Lb LB")
MAGNITUDES = {
    "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "quadrillion": 10**15, "dozen": 12,
    "gross": 144, "lakh": 10**5, "crore": 10**7, "hundredth": Fraction(1, 100), "thousandth": Fraction(1, 1000),
    **{word: Fraction(1, part) for part, word in enumerate(["third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"], 3)},
    "百": 100, "千": 1000, "万": 10**4, "亿": 10**8,
}  # fmt: skip
_NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
NUMBER_WORDS = {
    **{word: number for number, word in enumerate(_NUMBERS.split())}, **{word: 20 + 10 * k for k, word in enumerate(_TENS.split())},
    **{word: number for number, word in enumerate("零一二三四五六七八九十")},
}  # fmt: skip
PERCENT = frozenset({"percent", "percentage", "pct"})
NEUTRAL = word_set("exactly we find that get have obtain which gives the answer is final are value equals equal to of therefore thus so hence result it 答案是 答案 答案为 是 为")
PHRASES = {
    "all real numbers": r"\mathbb{R}", "all reals": r"\mathbb{R}", "infinitely many": r"\infty", "infinity": r"\infty",
    "empty set": r"\emptyset", "the empty set": r"\emptyset",
}  # fmt: skip
SYNONYMS = {
    "无解": "no solution", "是": "yes", "否": "no", "正确": "true", "错误": "false", "doesn't exist": "does not exist",
    "dne": "does not exist", "solutions": "solution",
}  # fmt: skip
# Runs of two or three letters outside of text commands that are words and no products of variables.
_SHORT = word_set("""no not but can yes the is are was to of it so if an one two six ten all any for by be as at we my its has had
    nor per sum odd even set may who why how out our you he she they hr ft lb oz km cm mm kg mg ml dm mi yd hrs day ways
    way nan dne pct kmh mph rpm via non inf th st nd rd usd""")
FUNCTIONS = word_set("""sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln lg exp sqrt max min gcd lcm det lim mod""")
# Words that are never taken for a counted noun, whatever the setting says.
_NO_NOUNS = word_set("""minus plus over choose squared cubed factorial doubled tripled halved halves half inverse squares cubes divided
    multiplied below above under mod modulo maybe perhaps possibly probably likely about around nearly almost roughly
    error wrong false true undefined none nope unknown impossible except never thousand million billion trillion hundred dozen
    incorrect correct other instead rather approximately unless otherwise if when whenever where for all every each any only or and
    not but the than less more least most both either neither are was were has have can cannot out off per times time negative
    positive plus once twice mil zillion score""")


@dataclass(frozen=True)
class Unit:
    """A unit reduced to dimensions: `5 km/h` is 5 times `scale` of the unit `name`."""

    name: str
    scale: Fraction = Fraction(1)


def _table() -> dict[str, tuple[str, Fraction]]:
    """(dimension, size) of each spelling."""
    table = {noun: (noun, Fraction(1)) for noun in _NOUNS.split()}
    for spellings in map(str.split, _SINGLE.split(";")):
        table.update(dict.fromkeys(spellings, (spellings[0], Fraction(1))))
    for line in _UNITS.strip().replace(",\n", ",").split("\n"):
        dimension, units = line.split(":")
        for size, *spellings in map(str.split, units.split(",")):
            table.update(dict.fromkeys(spellings, (dimension, Fraction(size))))
    return table


_TABLE = _table()


def is_word(run: str) -> bool:
    """Whether letters outside of text commands are a word: units, function words, and anything of four letters and more."""
    low = run.lower()
    if not run.isascii():
        return True
    if run.isupper() and len(run) <= 6 and low != "usd":
        return False  # points of a drawing
    return len(run) >= 4 or (low in _SHORT or (low in _TABLE and low not in _NEVER_PLAIN))


def unit_of(words: list[str], any_noun: bool = False) -> Unit | None:
    """The unit that the tokens behind a number are, None where any of them is no part of a unit.

    `square cm`, `cm^2`, `cm^{2}` and `km per hour`, `km/h` are read. `any_noun`: up to three words that say nothing else may be what
    is counted.
    """
    words = [word for word in words if word not in (" ", "{", "}", "(", ")", ".", r"\cdot")]
    unit = _measured(words)
    if unit is None and any_noun and len(words) <= 3:
        lows = [word.lower() for word in words]
        if all(low.isalpha() and len(low) > 2 and low not in _NO_NOUNS and low not in NUMBER_WORDS for low in lows):
            return Unit("noun " + " ".join(low.removesuffix("s") for low in lows))
    return unit


def _measured(words: list[str]) -> Unit | None:
    """The unit that the words are by the table."""
    name: dict[str, int] = {}
    scale, sign, power = Fraction(1), 1, 0
    last: tuple[str, Fraction] | None = None
    for chinese, english in (("平方", "square"), ("立方", "cubic")):
        words = [part for word in words for part in ([english, word[2:]] if word.startswith(chinese) else [word])]
    words = [part for word in words for part in {"squared": ("^", "2"), "cubed": ("^", "3")}.get(word, (word,))]
    place = 0
    while place < len(words):
        low = words[place].lower()
        place += 1
        if low in ("/", "per"):
            sign = -1
        elif low in ("square", "sq", "cubic", "cu"):
            power = 2 if low[0] == "s" else 3
        elif low == "^":
            exponent = "".join(words[place : place + 1 + (words[place : place + 1] == ["-"])])
            place += len(exponent)
            if last is None or exponent not in ("2", "3", "-1", "-2"):
                return None
            extra = sign * (int(exponent) - 1)
            name[last[0]] += extra
            scale *= last[1] ** extra
            last = None
        else:
            last = _TABLE.get(low) or (_TABLE.get(low[:-1]) if low.endswith("s") and len(low) > 3 else None)
            symbol = words[place - 1]
            if last is None or (len(symbol) < 3 and symbol not in _CAPITALS and (symbol != low or symbol in "jwvnka")):
                return None  # 15k and 15M are magnitudes
            if power and last[0] not in ("length", "unit"):
                return None
            name[last[0]] = name.get(last[0], 0) + sign * (power or 1)
            scale *= last[1] ** (sign * (power or 1))
            power = 0
    if power or not name:
        return None
    shown = "*".join(f"{dimension}^{count}" for dimension, count in sorted(name.items()) if count)
    return Unit("speed^1" if shown == "length^1*time^-1" else shown, scale)
