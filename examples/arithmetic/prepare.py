"""Write the task's train, validation and test problems as parquet files in verl's schema.

    python -m examples.arithmetic.prepare --out outputs/arithmetic/data

The same seed gives the same files. A file appears whole or not at all. `beyond` is a test set one step of difficulty past the others.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from erpo_verl.runs.files import whole
from examples.arithmetic.task import LEVELS, Problem, problems
from examples.arithmetic.tokenizer import chat

DATA_SOURCE = "arithmetic"
SIZES = {"train": 4096, "validation": 256, "test": 512, "beyond": 256}


def row(problem: Problem, split: str, index: int) -> dict:
    """One row in verl's schema. `level` is the number of operands; the answer is a digit, as text."""
    return {
        "data_source": DATA_SOURCE,
        "prompt": chat(problem.text),
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": str(problem.answer)},
        "extra_info": {
            "index": index,
            "id": f"{DATA_SOURCE}/{split}/{index}",
            "split": split,
            "level": problem.level,
            "problem": problem.text,
        },
    }


def write(out: Path, sizes: dict[str, int], levels: Sequence[int] = LEVELS, seed: int = 0) -> dict[str, Path]:
    """Write one parquet file a split; returns the path of each. `beyond` has the test split's problems of one level more."""
    paths = {}
    for split, size in sizes.items():
        drawn = ("test", size, [max(levels) + 1], seed) if split == "beyond" else (split, size, levels, seed)
        rows = [row(problem, split, i) for i, problem in enumerate(problems(*drawn))]
        paths[split] = out / f"{split}.parquet"
        with whole(paths[split]) as partial:
            pq.write_table(pa.Table.from_pylist(rows), partial)
    return paths


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/arithmetic/data"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--levels", type=int, nargs="+", default=list(LEVELS), help="numbers of operands")
    for split, size in SIZES.items():
        parser.add_argument(f"--{split}", type=int, default=size, help=f"number of {split} problems ({size})")
    args = parser.parse_args(argv)
    paths = write(args.out, {split: getattr(args, split) for split in SIZES}, args.levels, args.seed)
    for split, path in paths.items():
        print(f"{split:<11}{getattr(args, split):>6} problems  {path}")


if __name__ == "__main__":
    main()
