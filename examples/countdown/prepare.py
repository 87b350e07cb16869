"""Write countdown's train, validation and test problems as parquet files in verl's schema.

    python -m examples.countdown.prepare --out outputs/countdown/data

The same seed gives the same files. A file appears whole or not at all. `beyond` is a test set of problems with one number more.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from erpo_verl.runs.files import whole
from examples.countdown.task import LEVELS, Problem, problems, solutions
from examples.countdown.tokenizer import chat

DATA_SOURCE = "countdown"
SIZES = {"train": 1536, "validation": 256, "test": 512, "beyond": 256}


def row(problem: Problem, split: str, index: int) -> dict:
    """One row in verl's schema. `level` is how many numbers are given, `solutions` how many tries reach the target."""
    return {
        "data_source": DATA_SOURCE,
        "prompt": chat(problem.text),
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": problem.text},
        "extra_info": {
            "index": index,
            "id": f"{DATA_SOURCE}/{split}/{index}",
            "split": split,
            "level": problem.level,
            "problem": problem.text,
            "solutions": len(solutions(tuple(problem.numbers), problem.target)),
        },
    }


def write(out: Path, sizes: dict[str, int], levels: Sequence[int] = LEVELS, seed: int = 0) -> dict[str, Path]:
    """Write one parquet file a split; returns the path of each. `beyond` has the test split's problems of one number more."""
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
    parser.add_argument("--out", type=Path, default=Path("outputs/countdown/data"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--levels", type=int, nargs="+", default=list(LEVELS), help="how many numbers are given")
    for split, size in SIZES.items():
        parser.add_argument(f"--{split}", type=int, default=size, help=f"number of {split} problems ({size})")
    args = parser.parse_args(argv)
    for split, path in write(args.out, {split: getattr(args, split) for split in SIZES}, args.levels, args.seed).items():
        print(f"{split:<11}{getattr(args, split):>6} problems  {path}")


if __name__ == "__main__":
    main()
