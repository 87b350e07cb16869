"""Every rule by which a row is mended or dropped: its name, as the record beside the data gives it, and what it does.

docs/data.md shows each with a row of a real file.
"""

from __future__ import annotations

MENDS = {
    "latex_escape": "a control character that is the start of a decoded LaTeX command (form feed + rac) is written out: \\frac",
    "invisible": "zero-width characters are taken out, no-break and other wide blanks become blanks, U+2028 a line end",
    "line_ends": "CR LF and CR become LF",
    "instruction": "a prompt's known instruction is taken off; the template puts its own",
    "box_over_target": "the box of the worked solution replaces an answer column that is empty or has another value",
    "two_boxes": "boxes side by side at a solution's end are one list where the problem asks for all; of two spellings of one value the last counts",
    "thousands": "separators of thousands are taken out: 1,234 becomes 1234",
    "float_integer": "a whole number that is stored as a float: 27.0 becomes 27",
    "leading_zeros": "025 becomes 25",
    "unit": "the degree or percent sign, dollars or word behind (before) a number that the set wants bare: 336^\\circ becomes 336",
    "dollars": "the math delimiters around an answer, and a full stop behind it, are taken off: $\\frac{1}{2}$",
    "several_answers": "several answers in one text are parted by comma and blank: $69$,$84$ becomes 69, 84",
    "number_word": "one number word becomes figures: \\mbox{four} becomes 4",
    "numpy": "np.arcsin becomes \\arcsin",
    "frac_arguments": "braces around the arguments of \\frac: \\frac\\pi 2 becomes \\frac{\\pi}{2}",
    "level_unknown": "a level without a number (Level ?) becomes empty",
}
DROPS = {
    "no_problem": "no problem in the columns where the set has it",
    "broken_text": "a control or replacement character that no rule can mend",
    "level": "another level than those asked for",
    "type": "another type than those asked for",
    "no_gold": "no reference answer, or an empty one",
    "not_a_number": "the set's answers are numbers, and this one is none",
    "several_golds": "several reference answers, and either one is right, or the source does not say so",
    "duplicate": "the same problem as an earlier row, with the same answer (texts compared in their normal form)",
    "conflicting_golds": "the same problem stands in the source with different answers; every copy is dropped",
    "overlap": "the problem stands in a set that it must not share problems with (--against)",
    "near_overlap": "a rewording of the problem stands in such a set (--against with --on-overlap drop-near)",
    "unreadable_gold": "the reward cannot read the reference answer",
    "sample": "not among those drawn (--sample)",
}
