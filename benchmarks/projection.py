"""What would the driver do at 8,192 responses of 32,768 tokens, from slopes measured here, and what would break first?"""

from __future__ import annotations

import statistics

from benchmarks.advantage import PRESETS, contenders, make_batch, peak_mib
from benchmarks.result import Result, in_turns

PACKAGES = ("erpo-verl", "verl", "torch")
RESPONSES, WIDTH = 8192, 32768
INPUTS = 6  # what the estimator is given, in padded float32 tensors: rewards, mask (int64, so it counts twice), entropies, old and reference log-probs
GIB = 2**30
# verl's published fully asynchronous run: Qwen2.5-Math-7B, responses of 28,672 tokens, 32 GPUs (its documentation, advance/fully_async).
STEP_S, OLD_LOG_PROB_S = 790, 108


def measure(quick: bool = False) -> Result:
    import torch

    torch.set_num_threads(1)
    sizes = [(64, 256, 0.3), (64, 512, 0.3)] if quick else [(2048, 4096, 0.3), (4096, 8192, 0.3)]
    slopes: dict[str, list[float]] = {}
    tokens = []
    for size in sizes:
        batch = make_batch(*size)
        tokens.append(float(batch["response_mask"].sum()))
        for name, seconds in in_turns(contenders(batch, PRESETS), 3 if quick else 5).items():
            slopes.setdefault(name, []).append(statistics.median(seconds))
        del batch
    valid = 0.3 * RESPONSES * WIDTH
    seconds = {n: max(0.0, (s[1] - s[0]) / (tokens[1] - tokens[0])) * valid for n, s in slopes.items()}
    extra = {name: peak_mib(*sizes[-1], name) / (sizes[-1][0] * sizes[-1][1] * 4 / 2**20) for name in seconds}
    padded = RESPONSES * WIDTH * 4 / GIB
    rows = [
        [{"verl": "verl's `grpo`"}.get(name, f"`{name}`"), f"{seconds[name]:.1f}", f"{seconds[name] / STEP_S:.1%}",
         f"{(3 if name == 'verl' else INPUTS) * padded:.0f}", f"{extra[name] * padded:.1f}"]
        for name in seconds
    ]  # fmt: skip
    return Result(
        title="Projected: 64 GPUs, 8,192 responses of up to 32,768 tokens",
        how=f"Not measured but computed from the slope between {sizes[0][0]:,} x {sizes[0][1]:,} and {sizes[1][0]:,} x {sizes[1][1]:,} on one thread, at 30 % valid "
        f"({valid / 1e6:.0f} million tokens). The share is of a step of {STEP_S} s, which verl's documentation gives for a 7B model on 32 GPUs; of "
        f"those {OLD_LOG_PROB_S} s are the pass that makes old log-probs and entropies. One padded float32 tensor is {padded:.0f} GiB.",
        columns=["", "driver computes, s", "share of a step", "inputs it holds, GiB (padded)", "beyond them at the peak, the result among them, GiB"],
        rows=rows,
        bound=f"memory before time: with inputs of {INPUTS * padded:.0f} GiB on one driver the padding breaks first, for verl's own estimator as well. Per token "
        f"the entropies add {valid * 4 / GIB:.1f} GiB to what the driver fetches. Beyond this size the advantages belong where the groups are, "
        "as in the Accelerate engine.",
        packages=PACKAGES,
        figures={"seconds": seconds, "extra_padded": extra},
    )  # fmt: skip
