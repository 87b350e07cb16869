"""The command ``erpo``: one sub-command a verb, each in a module of its own that is imported only when it is called."""

from __future__ import annotations

import argparse
import importlib
import sys

# verb -> (module with add_arguments(parser) and run(args) -> exit code, one line of help)
COMMANDS = {
    "doctor": ("erpo_verl.doctor", "check versions, the verl plug-in and every symbol of verl that it relies on"),
    "score": ("erpo_verl.reward.score_command", "judge the answers in a JSONL file with math-verify"),
    "prepare": ("erpo_verl.prepare", "convert a problem set to parquet in verl's schema"),
    "evaluate": ("erpo_verl.evaluation.evaluate", "sample a model on problem sets: avg@k, pass@k, maj@k, lengths, intervals"),
    "train": ("erpo_verl.trainer.run", "train with ERPO or GRPO by the Accelerate engine, on one machine"),
    "compare": ("erpo_verl.reports.compare", "page, figures and tables of several runs, and whether they may be compared"),
    "pivots": ("erpo_verl.pivots.command", "replace tokens and let the model go on: do tokens of high entropy decide the outcome?"),
    "inspect": ("erpo_verl.reports.inspection", "responses token by token, coloured by entropy, gate, progress or advantage"),
}


def main(argv: list[str] | None = None) -> int:
    """Entry point of the command ``erpo``; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="erpo", description="ERPO: token-level, entropy-regulated policy optimization.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    for verb, (module, line) in COMMANDS.items():
        sub = verbs.add_parser(verb, help=line, description=line[0].upper() + line[1:] + ".")
        if argv[:1] == [verb]:  # only the command that was asked for is imported
            importlib.import_module(module).add_arguments(sub)
    args = parser.parse_args(argv)
    return importlib.import_module(COMMANDS[args.verb][0]).run(args)


if __name__ == "__main__":
    raise SystemExit(main())
