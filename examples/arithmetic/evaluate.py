"""Sampled accuracy of a model folder on one of the task's parquet files.

python -m examples.arithmetic.evaluate --model outputs/arithmetic/start --data outputs/arithmetic/data/test.parquet
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
import transformers
from erpo_verl.reward import score
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from erpo_verl.tables import number
from examples.arithmetic.task import STEP_END, Problem
from examples.arithmetic.tokenizer import chat

MAX_RESPONSE = 80  # tokens


@dataclass
class Sample:
    """One sampled response: its text, its length in tokens (with the end token) and entropies in nats."""

    text: str
    right: bool
    length: int
    entropy: float  # mean over the response's tokens
    fork_entropies: list[float]  # at each token that begins a step


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    *,
    k: int = 8,
    temperature: float = 1.0,
    seed: int = 0,
    batch: int = 512,
    max_new_tokens: int = MAX_RESPONSE,
) -> list[list[Sample]]:
    """k samples a problem, in the problems' order. `batch` is the number of responses generated at once."""
    model.eval()
    torch.manual_seed(seed)
    step_end = tokenizer.convert_tokens_to_ids(STEP_END)
    # Like lengths together, so that little is generated behind a batch's longest response.
    order = sorted(range(len(problems)), key=lambda i: problems[i].level)
    results: list[list[Sample]] = [[] for _ in problems]
    for start in range(0, len(order), max(1, batch // k)):
        chosen = order[start : start + max(1, batch // k)]
        texts = [
            tokenizer.apply_chat_template(chat(problems[i].text), tokenize=False, add_generation_prompt=True)
            for i in chosen
            for _ in range(k)
        ]
        prompt = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        out = model.generate(
            input_ids=prompt["input_ids"],
            attention_mask=prompt["attention_mask"],
            do_sample=True,
            temperature=temperature,
            top_k=0,
            top_p=1.0,
            max_new_tokens=max_new_tokens,
            output_logits=True,
            return_dict_in_generate=True,
        )
        responses = out.sequences[:, prompt["input_ids"].shape[1] :]  # [rows, T]
        log_probs = torch.log_softmax(torch.stack(out.logits, 1) / temperature, -1)  # [rows, T, vocabulary]
        entropies = -(log_probs.exp() * log_probs).sum(-1)  # [rows, T]
        ended = responses == tokenizer.eos_token_id
        lengths = torch.where(ended.any(1), ended.int().argmax(1) + 1, responses.shape[1])
        for r, tokens in enumerate(responses):
            i, length = chosen[r // k], int(lengths[r])
            text = tokenizer.decode(tokens[:length], skip_special_tokens=True)
            forks = [0] + [t + 1 for t in range(length - 1) if tokens[t] == step_end]
            results[i].append(
                Sample(
                    text=text,
                    right=score(text, str(problems[i].answer))["acc"] == 1.0,
                    length=length,
                    entropy=entropies[r, :length].mean().item(),
                    fork_entropies=entropies[r, forks].tolist(),
                )
            )
    return results


def summarize(problems: Sequence[Problem], results: Sequence[Sequence[Sample]]) -> dict[str, Any]:
    """Means over samples, over the problems as a whole and by level; None over no samples. Lengths in tokens, entropies in nats."""

    def figures(rows: Sequence[Sequence[Sample]]) -> dict[str, float | None]:
        samples = [s for row in rows for s in row]
        right = [s for s in samples if s.right]
        forks = [h for s in samples for h in s.fork_entropies]
        solved = [sum(s.right for s in row) for row in rows]
        return {
            "problems": len(rows),
            "accuracy": len(right) / len(samples),
            "pass": sum(n > 0 for n in solved) / len(rows),
            "never": sum(n == 0 for n in solved) / len(rows),
            "sometimes": sum(0 < n < len(row) for n, row in zip(solved, rows, strict=True)) / len(rows),
            "always": sum(n == len(row) for n, row in zip(solved, rows, strict=True)) / len(rows),
            "length": sum(s.length for s in samples) / len(samples),
            "length_right": sum(s.length for s in right) / len(right) if right else None,
            "entropy": sum(s.entropy * s.length for s in samples) / sum(s.length for s in samples),
            "fork_entropy": sum(forks) / len(forks) if forks else None,
        }

    by_level = defaultdict(list)
    for problem, row in zip(problems, results, strict=True):
        by_level[problem.level].append(row)
    levels = {str(level): figures(rows) for level, rows in sorted(by_level.items())}
    return {"k": len(results[0]), **figures(results), "levels": levels}


def table(summary: dict[str, Any]) -> str:
    """The summary as a table with one line a level."""
    k = summary["k"]
    lines = [
        f"{'operands':<9}{'problems':>9}{'accuracy':>9}{f'pass@{k}':>8}"
        f"{'never':>8}{'sometimes':>10}{'always':>8}{'length':>8}{'entropy':>9}{'at forks':>9}"
    ]
    for name, f in [*summary["levels"].items(), ("all", summary)]:
        lines.append(
            f"{name:<9}{f['problems']:>9}{f['accuracy']:>9.3f}{f['pass']:>8.3f}{f['never']:>8.3f}"
            f"{f['sometimes']:>10.3f}{f['always']:>8.3f}{f['length']:>8.1f}{f['entropy']:>9.3f}{number(f['fork_entropy'], '.3f'):>9}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="model folder")
    parser.add_argument("--data", type=Path, required=True, help="parquet file written by prepare")
    parser.add_argument("--k", type=int, default=8, help="samples a problem")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves torch's own choice")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    if args.threads:
        torch.set_num_threads(args.threads)
    for path in (args.model, args.data):
        if not path.exists():
            parser.error(f"{path} does not exist")
    problems = [Problem(info["problem"]) for info in pq.read_table(args.data)["extra_info"].to_pylist()]
    model = AutoModelForCausalLM.from_pretrained(args.model)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    results = sample(model, tokenizer, problems, k=args.k, temperature=args.temperature, seed=args.seed)
    summary = summarize(problems, results)
    print(table(summary))
    if args.json:
        args.json.write_text(json.dumps(summary, indent=2) + "\n")


if __name__ == "__main__":
    main()
