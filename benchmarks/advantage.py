"""How long do ERPO's advantages take, beside verl's own `grpo` estimator?

Both work on the same tensors in one process, in turns. ERPO is complete: outcome, gate, progress, synthesis and all metrics. One
thread is what verl's driver has (Ray sets OMP_NUM_THREADS to the task's CPUs, which is 1).

    python -m benchmarks.advantage --sizes 512x1024x0.3 --repeats 31 --presets erpo
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import subprocess
import sys
import uuid
from pathlib import Path

from benchmarks.result import NotHere, Result, in_turns, quartiles, ratios

PACKAGES = ("erpo-verl", "verl", "torch", "numpy")
PRESETS = ("erpo", "ep_grpo")
SIZES = tuple((rows, width, valid) for rows, width in ((512, 1024), (2048, 4096), (8192, 2048), (8192, 16384)) for valid in (0.1, 0.3, 0.6))
QUICK = ((64, 256, 0.3),)
GROUP = 8


def make_batch(rows: int, width: int, valid: float, seed: int = 0) -> dict:
    """Random responses of which a share `valid` of the positions is valid on average; outcomes 0 and 1; ids as verl makes them."""
    import numpy as np
    import torch

    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, max(2, min(width, round(2 * valid * width))) + 1, (rows,), generator=g)
    if valid > 0.5:  # twice the mean would be more than the width: from the upper part alone
        lengths = torch.randint(round((2 * valid - 1) * width), width + 1, (rows,), generator=g).clamp_(min=1)
    rewards = torch.zeros(rows, width)
    rewards[torch.arange(rows), lengths - 1] = (torch.rand(rows, generator=g) < 0.5).float()
    old = torch.rand(rows, width, generator=g).neg_()
    return {
        "token_level_rewards": rewards,
        "response_mask": (torch.arange(width) < lengths[:, None]).long(),
        "index": np.array([str(uuid.UUID(int=i)) for i in range(rows // GROUP)], dtype=object).repeat(GROUP),
        "entropy": torch.rand(rows, width, generator=g).square_().mul_(3),
        "old_log_probs": old,
        "ref_log_prob": torch.randn(rows, width, generator=g).mul_(0.1).add_(old),
    }


def moving_alone(batch: dict) -> None:
    """What any method on these inputs must do before and after its arithmetic: read the mask and the rewards, take the valid tokens of three
    inputs, write one number for each and zeros elsewhere."""
    from erpo_verl import TokenBatch
    from erpo_verl.methods.batch import Packed
    from erpo_verl.segments import zeros_like

    packed = Packed(TokenBatch(**batch))
    advantages = zeros_like(batch["token_level_rewards"])
    for number, block in enumerate(packed.blocks):
        block.put(packed.entropy[number].add_(packed.log_ratio[number]), advantages)


def waits(presets: tuple[str, ...]) -> dict[str, int]:
    """How often each waits for a device, on a batch of 64 responses."""
    from benchmarks.pretended_device import pretended

    batch, found = make_batch(64, 64, 0.3), {}
    for name in ("verl", *presets):
        with pretended() as (to_device, seen):
            contenders({key: to_device(value) for key, value in batch.items()}, presets)[name]()
            found[name] = len(seen)
    return found


def contenders(batch: dict, presets: tuple[str, ...]) -> dict:
    try:
        from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage
    except ImportError:
        raise NotHere("verl is not installed: pip install 'erpo-verl[verl]'") from None
    from erpo_verl import ErpoConfig, erpo_advantages

    grpo = [batch[name] for name in ("token_level_rewards", "response_mask", "index")]
    runs = {"verl": lambda: compute_grpo_outcome_advantage(*grpo)}
    for preset in presets:
        runs[preset] = functools.partial(erpo_advantages, **batch, config=ErpoConfig(preset=preset))
    return runs


def peak_mib(rows: int, width: int, valid: float, name: str) -> float:
    """Memory that one call takes beyond its inputs at the most, MiB; in a process of its own, by the kernel's high-water mark."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.advantage", "--peak", name, "--sizes", f"{rows}x{width}x{valid}"],
        cwd=Path(__file__).resolve().parents[1], capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def _peak(size: tuple[int, int, float], name: str) -> float:
    def memory(key: str) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))

    contenders(make_batch(64, 64, 0.3), PRESETS)[name]()  # libraries load what they need
    batch = make_batch(*size)
    run = contenders(batch, PRESETS)[name]
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts here
    before = memory("VmRSS")
    run()
    return memory("VmHWM") - before


def measure(quick: bool = False, sizes=None, repeats: int | None = None, presets: tuple[str, ...] = PRESETS) -> Result:
    import torch

    torch.set_num_threads(1)
    rows, figures = [], []
    counted = waits(presets)
    for size in sizes or (QUICK if quick else SIZES):
        batch = make_batch(*size)
        tokens, padded = int(batch["response_mask"].sum()), size[0] * size[1] * 4 / 2**20
        runs = {**contenders(batch, presets), "moving": functools.partial(moving_alone, batch)}
        seconds = in_turns(runs, repeats or (3 if quick else max(5, min(31, 10**8 // (size[0] * size[1])))))
        found = {name: ratios(seconds[name], seconds["verl"]) for name in ("moving", *presets)}
        del batch, runs
        memory = {name: peak_mib(*size, name) for name in ("verl", *presets)}
        rows.append(
            [
                f"{size[0]:,} x {size[1]:,}", f"{tokens / (size[0] * size[1]):.0%}", f"{1e3 * statistics.median(seconds['verl']):.3g}",
                *(quartiles(found[name]) for name in presets), f"{statistics.median(found['moving']):.2f}",
                *(f"{memory[name] / padded:.2f}" for name in memory),
            ]
        )  # fmt: skip
        figures.append({"size": size, "tokens": tokens, "seconds": seconds, "peak_mib": memory, "padded_mib": padded})
        print("   " + " | ".join(rows[-1]), flush=True)
    return Result(
        title="The advantage beside verl's GRPO",
        how="ERPO with all its metrics and verl's own `grpo` estimator on the same random batch (groups of 8, outcomes 0 and 1), in turns in "
        "one process on one thread; processor time. `moving / verl` is what is spent on reading the mask, the rewards and three inputs' valid tokens and on writing "
        "the result, without any arithmetic. Memory is what a call takes beyond its inputs, in padded float32 inputs (1.00 = "
        "[responses, positions] x 4 bytes), in a process of its own. On a GPU a call waits for the device "
        + ", ".join(f"{counted[p]} times (`{p}`)" for p in presets)
        + f", verl's {counted['verl']} times (it starts some ten operations for each response instead): counted on tensors that pretend to be on one.",
        columns=["responses x positions", "valid", "verl's `grpo`, ms", *(f"`{p}` / verl" for p in presets), "moving / verl", "memory: verl",
                 *(f"memory: `{p}`" for p in presets)],
        rows=rows,
        bound=_bound(figures, presets),
        packages=PACKAGES,
        figures={"sizes": figures, "waits": counted},
    )  # fmt: skip


def _bound(figures: list[dict], presets: tuple[str, ...]) -> str:
    """What the time goes to at the largest share of valid tokens, from this run's medians."""
    densest = max(figures, key=lambda entry: (entry["tokens"] / (entry["size"][0] * entry["size"][1]), entry["tokens"]))
    middle = {name: 1e9 * statistics.median(values) / densest["tokens"] for name, values in densest["seconds"].items()}
    rows, width, _ = densest["size"]
    return (
        "verl's estimator reads two inputs, multiplies [responses, positions] once and loops over responses in Python; ERPO reads five inputs and does its "
        f"arithmetic on valid tokens. At {rows:,} x {width:,} with {densest['tokens'] / (rows * width):.0%} valid, verl takes {middle['verl']:.1f} ns for each valid token; "
        f"moving alone takes {middle['moving']:.1f}, "
        + ", ".join(f"`{p}` {middle[p]:.1f}" for p in presets)
        + ". What is left for some sixty passes over the tokens is arithmetic in the cache, about 0.15 ns each. Two waits for a device are the least: the number of valid tokens "
        "must be known before they can be packed, and metrics come last."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["512x1024x0.3"], help="responses x positions x share that is valid")
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--presets", nargs="+", default=list(PRESETS), choices=PRESETS)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    args = parser.parse_args()
    sizes = [(int(a), int(b), float(c)) for a, b, c in (size.split("x") for size in args.sizes)]
    if args.peak:
        print(json.dumps(_peak(sizes[0], args.peak)))
        return
    measure(sizes=sizes, repeats=args.repeats, presets=tuple(args.presets))


if __name__ == "__main__":
    main()
