"""Problem sets: reading, mending, checking, and writing them as parquet in verl's schema (`erpo prepare`).

    sets.py       where each set stands on the hub, and which column holds what
    source.py     rows of a file or a hub set, one batch at a time
    mend.py       damage in text that can be mended with certainty
    golds.py      reference answers: from what a set stores to one plain text
    rules.py      every rule that changes or drops a row, by name
    convert.py    the road from rows to problems, with its counts
    normalize.py  one spelling of a problem: ids, duplicates, overlap
    overlap.py    problems of one set that stand in another
    templates.py  how a problem becomes a prompt
    output.py     the parquet file and its record

docs/data.md shows each rule with a row of a real file, and the counts a set.
"""

from erpo_verl.data.normalize import normal_form
from erpo_verl.data.overlap import OverlapIndex
from erpo_verl.data.sets import SETS, ProblemSet
from erpo_verl.data.source import PrepareError
from erpo_verl.data.templates import INSTRUCTION, TEMPLATES

__all__ = ["INSTRUCTION", "SETS", "TEMPLATES", "OverlapIndex", "PrepareError", "ProblemSet", "normal_form"]
