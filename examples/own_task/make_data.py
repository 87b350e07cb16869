"""A task of one's own, part 1: problems as parquet in verl's schema. Change `problem` and you have yours.

    python -m examples.own_task.make_data --out outputs/own_task/data
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def problem(rng: random.Random) -> tuple[str, str]:
    """(what the model reads, the right answer): here, sort a few words by length, shortest first."""
    words = rng.sample(["a", "or", "cat", "tree", "house", "bridge", "lantern", "mountain"], k=rng.randrange(3, 6))
    question = f"Sort these words by length, shortest first: {', '.join(words)}. Answer with the words alone, joined by spaces."
    return question, " ".join(sorted(words, key=len))


def rows(count: int, split: str, seed: int) -> list[dict]:
    """Rows in verl's schema. The reward function gets data_source, reward_model.ground_truth and extra_info."""
    rng = random.Random(f"{seed}:{split}")
    made = []
    for index in range(count):
        question, answer = problem(rng)
        made.append(
            {
                "data_source": "sort_words",
                "prompt": [{"role": "user", "content": question}],
                "ability": "language",
                "reward_model": {"style": "rule", "ground_truth": answer},
                "extra_info": {"index": index, "split": split, "level": len(answer.split())},
            }
        )
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/own_task/data"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", 2048), ("validation", 128)):
        pq.write_table(pa.Table.from_pylist(rows(count, split, args.seed)), args.out / f"{split}.parquet")
        print(args.out / f"{split}.parquet")


if __name__ == "__main__":
    main()
