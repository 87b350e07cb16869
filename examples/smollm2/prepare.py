"""Write the word problems as parquet files in verl's schema.

    python -m examples.smollm2.prepare --out outputs/smollm2/data

The same seed gives the same files. `beyond` has problems of two steps.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from erpo_verl.runs.files import whole
from examples.smollm2.task import problems, rows

SIZES = {"train": 1024, "validation": 64, "test": 256, "beyond": 128}


def write(out: Path, sizes: dict[str, int], seed: int = 0) -> dict[str, Path]:
    """Write one parquet file a split; returns the path of each."""
    paths = {}
    for split, size in sizes.items():
        chosen = problems("test", size, 2, seed) if split == "beyond" else problems(split, size, 1, seed)
        paths[split] = out / f"{split}.parquet"
        with whole(paths[split]) as partial:
            pq.write_table(pa.Table.from_pylist(rows(split, chosen)), partial)
    return paths


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/smollm2/data"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    for split, path in write(args.out, SIZES, args.seed).items():
        print(f"{split:<11}{SIZES[split]:>6} problems  {path}")


if __name__ == "__main__":
    main()
