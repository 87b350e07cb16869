"""The result on disk: one parquet file in verl's schema and its record, each whole or not at all.

The schema is the same for every set and written out here, so that verl can put several files together, and the bytes depend on
the rows and the version of pyarrow only: no path, no time, no order of a dict or set.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from erpo_verl.data.convert import Problem
from erpo_verl.data.normalize import problem_id
from erpo_verl.data.source import PrepareError
from erpo_verl.data.templates import Template
from erpo_verl.runs.files import remove_partials, whole_together

FORMAT = 1  # of the record


def verl_rows(
    problems: Sequence[Problem], set_name: str, split: str, template: Template, answer_forms: str | None = None
) -> Iterator[dict[str, Any]]:
    """The problems as rows in verl's schema. `extra_info.row` is the place in the source, `index` the one in the result;
    `answer_forms` (None: those that the template asks for) tells the reward how a final answer may be given."""
    for index, problem in enumerate(problems):
        yield {
            "data_source": set_name,
            "prompt": template.messages(problem.text),
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": problem.gold},
            "extra_info": {
                "id": problem_id(set_name, problem.key),
                "index": index,
                "split": split,
                "row": problem.row,
                "level": problem.level,
                "type": problem.type,
                "unit": problem.unit,
                "source_id": problem.source_id,
                "problem": problem.text,
                "answer_forms": answer_forms or template.answer_forms,
            },
        }


def parquet_bytes(rows: Sequence[dict[str, Any]]) -> bytes:
    """Rows of `verl_rows` as the bytes of a parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    text, whole = pa.string(), pa.int64()
    schema = pa.schema(
        {
            "data_source": text,
            "prompt": pa.list_(pa.struct({"role": text, "content": text})),
            "ability": text,
            "reward_model": pa.struct({"style": text, "ground_truth": text}),
            "extra_info": pa.struct(
                {
                    "id": text, "index": whole, "split": text, "row": whole, "level": text, "type": text, "unit": text,
                    "source_id": text, "problem": text, "answer_forms": text,
                }
            ),
        }
    )  # fmt: skip
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def check_target(out: Path, name: str, set_name: str) -> None:
    """Refuse a file name that already holds another set.

    Raises:
        PrepareError: it does; or `name` is no file name.
    """
    if not re.fullmatch(r"[\w][\w.-]*", name):
        raise PrepareError(f"--name {name!r}: letters, digits, '.', '_' and '-' only")
    there = _set_of(out / f"{name}.json", out / f"{name}.parquet")
    if there not in (None, set_name):
        raise PrepareError(f"{out / name}.parquet holds the set {there!r}: choose another --out, or a --name")


def _set_of(record: Path, data: Path) -> str | None:
    """The set that a record names, or else the first row of a parquet file; None where neither says."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return json.loads(record.read_text(encoding="utf-8")).get("set")
    if data.exists():
        import pyarrow.parquet as pq

        with contextlib.suppress(Exception):  # whatever is there, it is no set of ours
            return next(pq.ParquetFile(data).iter_batches(1, columns=["data_source"])).to_pylist()[0]["data_source"]
        return "unknown"
    return None


def write(out: Path, name: str, rows: Sequence[dict[str, Any]], record: dict[str, Any]) -> tuple[Path, Path]:
    """Write ``name.parquet`` and ``name.json``; returns their paths.

    Both are complete on disk under temporary names before either gets its own. The record holds the other's hash, so that
    a pair that was parted by a power cut can be told.

    Raises:
        PrepareError: the folder or the disk does not take them; nothing of them is left then.
    """
    data = parquet_bytes(rows)
    record = {"format": FORMAT, **record, "file": f"{name}.parquet", "file_sha256": hashlib.sha256(data).hexdigest()}
    text = json.dumps(record, indent=1, ensure_ascii=True) + "\n"
    made = not out.exists()
    targets = [(out / f"{name}.parquet", data), (out / f"{name}.json", text.encode())]
    try:
        remove_partials(out)
        with whole_together([target for target, _content in targets], sync=True) as partials:
            for partial, (_target, content) in zip(partials, targets, strict=True):
                partial.write_bytes(content)
    except OSError as error:
        raise PrepareError(f"{out}: cannot be written: {error.strerror or error}") from None
    finally:
        if made:
            with contextlib.suppress(OSError):
                out.rmdir()  # only where it is empty
    return targets[0][0], targets[1][0]
