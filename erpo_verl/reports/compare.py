"""``erpo compare RUN... --out DIR``: do these runs differ, and may they be compared at all?

Runs of one arm (``erpo-s1``, ``erpo-s2``) are averaged; differences between arms are paired by seed, and one endpoint, named before
the runs are looked at, is judged first. Written are a page
(``comparison.html``), figures (PNG and SVG) and the tables (``comparison.md``). With ``--wandb`` also a report in W&B.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from erpo_verl.reports.comparable import issues
from erpo_verl.reports.endpoints import compare
from erpo_verl.reports.runs import by_arm, read_runs
from erpo_verl.reports.words import Report, markdown
from erpo_verl.runs.files import write_whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``erpo compare``."""
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN",
        help="folder with metrics.jsonl (and run.json), or with W&B's offline files; named ARM-sSEED where it has no run.json. "
        "The arm that comes first is what the others are compared with",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("comparison"), help="folder of the report (comparison)")
    parser.add_argument(
        "--primary", metavar="NAME",
        help="the one endpoint that is judged first: a metric, 'held-out' (mean over the validation sources), or either after 'tokens:', at equal "
        "generated tokens (tokens:held-out)",
    )  # fmt: skip
    parser.add_argument(
        "--secondary", metavar="NAME", action="append",
        help="an endpoint of the secondary family, whose p values are corrected together; may be given several times; 'none' for an empty family",
    )  # fmt: skip
    parser.add_argument("--wandb", action="store_true", help="make a W&B report of the same runs too; needs an account")
    parser.add_argument("--project", help="with --wandb: [entity/]project of the runs (that of the runs' settings)")


def run(args: argparse.Namespace) -> int:
    """Write the report and print the tables; returns the exit code."""
    try:
        import matplotlib  # noqa: F401  (said before anything is written)

        report = read_report(args.runs, args.primary, args.secondary)
        paths = write_report(report, args.out)
    except (ValueError, OSError) as error:
        print(f"erpo compare: {error}", file=sys.stderr)
        return 1
    except ImportError as error:
        print(f'erpo compare: {error}; pip install "erpo-verl[reports]"', file=sys.stderr)
        return 1
    print(markdown(report))
    for path in paths:
        print(path)
    if args.wandb:
        from erpo_verl.reports.wandb_report import WandbError, save

        try:
            print(save(report, args.project))
        except WandbError as error:
            print(f"erpo compare: {error}", file=sys.stderr)
            return 1
    return 0


def read_report(folders: list[Path], primary: str | None = None, secondary: list[str] | None = None) -> Report:
    """Read the runs and compare them; ``primary`` and ``secondary`` as `endpoints.compare` takes them.

    Raises:
        ValueError: a run cannot be read, an arm has a seed twice, or no run has such an endpoint.
    """
    ordered = [run for members in by_arm(read_runs(folders)).values() for run in members]
    return Report(ordered, compare(ordered, primary, secondary), issues(ordered))


def write_report(report: Report, out: Path) -> list[Path]:
    """Write page, tables and figures into ``out``; returns their paths."""
    from erpo_verl.reports.charts import write_figures
    from erpo_verl.reports.page import page

    paths = [write_whole(out / "comparison.html", page(report)), write_whole(out / "comparison.md", markdown(report))]
    return [*paths, *write_figures(report, out)]
