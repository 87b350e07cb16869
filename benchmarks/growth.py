"""Does the advantage's cost grow with valid tokens, or with padding?

Two series of batches: the same padded size with ever more valid tokens, and the same valid tokens in ever wider padding. An exponent of 1 is
cost in proportion, 0 is none.
"""

from __future__ import annotations

import math
import statistics

from benchmarks.advantage import PRESETS, contenders, make_batch
from benchmarks.result import Result, in_turns

PACKAGES = ("erpo-verl", "verl", "torch")


def exponent(sizes: list[float], seconds: list[float]) -> float:
    """Slope of log seconds over log size, by least squares."""
    return statistics.linear_regression([math.log(x) for x in sizes], [math.log(y) for y in seconds]).slope


def measure(quick: bool = False) -> Result:
    import torch

    torch.set_num_threads(1)
    rows_, width = (64, 512) if quick else (2048, 4096)
    series = {
        f"valid tokens, at {rows_:,} x {width:,}": [(rows_, width, share) for share in (0.05, 0.1, 0.2, 0.4)],
        f"positions, with {round(rows_ * width / 40):,} valid tokens": [(rows_, width // k, 0.025 * k) for k in (8, 4, 2, 1)],
    }
    table, figures = [], {}
    for what, sizes in series.items():
        medians: dict[str, list[float]] = {}
        amounts = []
        for size in sizes:
            batch = make_batch(*size)
            amounts.append(float(batch["response_mask"].sum()) if what.startswith("valid") else float(size[0] * size[1]))
            for name, seconds in in_turns(contenders(batch, PRESETS), 3 if quick else 9).items():
                medians.setdefault(name, []).append(statistics.median(seconds))
        figures[what] = {"amounts": amounts, "seconds": medians}
        names = ("verl", *PRESETS)
        table.append([what, *(f"{exponent(amounts, medians[name]):.2f}" for name in names),
                      *(f"{1e9 * (medians[n][-1] - medians[n][0]) / (amounts[-1] - amounts[0]):.2f}" for n in names)])  # fmt: skip
    return Result(
        title="Growth of the advantage's cost with the batch",
        how="Median processor time of a call while one amount grows and the other stays, one thread; the exponent is the slope in a log-log fit over "
        "four sizes (factor 8), the slope the time of one more token or position.",
        columns=["what grows", *(f"exponent: {n}" for n in ("verl's `grpo`", "`erpo`", "`ep_grpo`")),
                 *(f"ns each: {n}" for n in ("verl's `grpo`", "`erpo`", "`ep_grpo`"))],
        rows=table,
        bound="padding must be read once to know that it is padding (the mask) and written once as zeros (the advantages), since verl's tensors are padded; all "
        "other work is on valid tokens.",
        packages=PACKAGES,
        figures=figures,
    )  # fmt: skip
