"""How long ERPO's advantages take, beside verl's own `grpo` estimator.

    python benchmarks/advantage_vs_verl_grpo.py [--threads 1] [--repeats 15] [--preset erpo]

Both work on the same tensors, in one process, one after the other in each repeat, so that whatever else the machine does
falls on both. ERPO is complete: outcome, gate, progress, synthesis and all metrics. One third of the positions are valid.
One thread is what verl's driver has (Ray sets OMP_NUM_THREADS to the task's CPUs, which is 1).

Printed for each size: median and quartiles of the time of each, wall clock and CPU time, and of the ratio within a repeat.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from pathlib import Path


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="torch's threads (default 1)")
    parser.add_argument("--repeats", type=int, default=15, help="timed repeats of each size (default 15)")
    parser.add_argument("--preset", default="erpo", choices=["erpo", "ep_grpo"], help="ERPO's settings (default erpo)")
    parser.add_argument(
        "--sizes",
        nargs="+",
        default=["512x1024", "8192x2048"],
        help="responses x positions (default 512x1024 8192x2048)",
    )
    return parser.parse_args()


def make_batch(rows: int, width: int, group_size: int = 8) -> dict:
    """Random responses, one third of the positions valid on average; outcomes 0 and 1; ids as verl makes them."""
    import uuid

    import numpy as np
    import torch

    g = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 2 * width // 3, (rows,), generator=g)
    rewards = torch.zeros(rows, width)
    rewards[torch.arange(rows), lengths - 1] = (torch.rand(rows, generator=g) < 0.5).float()
    old = -torch.rand(rows, width, generator=g)
    return {
        "token_level_rewards": rewards,
        "response_mask": (torch.arange(width) < lengths[:, None]).long(),
        "index": np.array([str(uuid.uuid4()) for _ in range(rows // group_size)], dtype=object).repeat(group_size),
        "entropy": 3 * torch.rand(rows, width, generator=g).square(),
        "old_log_probs": old,
        "ref_log_prob": old + 0.1 * torch.randn(rows, width, generator=g),
    }


def quartiles(values: list[float], digits: int = 2) -> str:
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    arguments = parse_arguments()
    from importlib.metadata import version

    import torch
    from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

    import erpo_verl

    torch.set_num_threads(arguments.threads)
    print(
        f"erpo-verl {erpo_verl.__version__}, verl {version('verl')}, torch {torch.__version__}, Python "
        f"{platform.python_version()}; {processor()}, {arguments.threads} thread(s); preset {arguments.preset}"
    )
    print(f"median [quartiles] of {arguments.repeats} repeats; milliseconds")
    print(f"{'size':>10}  {'clock':>5}  {'verl grpo':>24}  {'ERPO':>24}  {'ERPO / verl':>20}")
    config = erpo_verl.ErpoConfig(preset=arguments.preset)
    for size in arguments.sizes:
        batch = make_batch(*map(int, size.split("x")))
        grpo_inputs = [batch[name] for name in ("token_level_rewards", "response_mask", "index")]
        runs = {
            "verl": lambda inputs=grpo_inputs: compute_grpo_outcome_advantage(*inputs),
            "erpo": lambda inputs=batch: erpo_verl.erpo_advantages(**inputs, config=config),
        }
        times: dict[tuple[str, str], list[float]] = {}
        for repeat in range(arguments.repeats + 1):
            for name, run in runs.items():
                wall, cpu = time.perf_counter(), time.process_time()
                run()
                wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
                if repeat:  # the first round warms up
                    times.setdefault((name, "wall"), []).append(1e3 * wall)
                    times.setdefault((name, "cpu"), []).append(1e3 * cpu)
        for clock in ("wall", "cpu"):
            verl, erpo = times["verl", clock], times["erpo", clock]
            ratios = [b / a for a, b in zip(verl, erpo, strict=True)]
            print(
                f"{size:>10}  {clock:>5}  {quartiles(verl, 1):>24}  {quartiles(erpo, 1):>24}  {quartiles(ratios):>20}"
            )


if __name__ == "__main__":
    main()
