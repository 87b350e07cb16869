"""Log-probs and entropies over a vocabulary of 151,936, beside TRL's and verl's helpers.

    python -m benchmarks.log_probs --worker ours --tokens 512        # one measurement
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.result import Result, quartiles, ratios

PACKAGES = ("erpo-verl", "torch", "verl", "trl")
VOCABULARY, WIDTH = 151_936, 896  # Qwen2.5-0.5B
TRL = """as TRL's `selective_log_softmax` and `entropy_from_logits`"""


def parts(arm: str):
    """(log-probs, entropies) of hidden states [N, D], head [V, D], targets [N], with gradients of the log-probs."""
    import torch

    if arm == "ours":
        from erpo_verl.trainer.logprobs import token_log_probs

        return lambda hidden, head, targets: token_log_probs(hidden, head, targets, with_entropy=True)
    if arm == "verl":
        from verl.utils.torch_functional import entropy_from_logits, logprobs_from_logits_v2

        def verl(hidden, head, targets):
            logits = hidden @ head.T
            with torch.no_grad():
                entropy = entropy_from_logits(logits)
            return logprobs_from_logits_v2(logits[None], targets[None])[0], entropy

        return verl
    from trl.trainer.utils import entropy_from_logits, selective_log_softmax

    def trl(hidden, head, targets):
        logits = hidden @ head.T
        with torch.no_grad():
            entropy = entropy_from_logits(logits)
        return selective_log_softmax(logits, targets), entropy

    return trl


def work(arm: str, tokens: int, vocabulary: int) -> dict[str, float]:
    """Seconds and peak memory (MiB beyond the inputs) of one forward and backward pass, after a small one."""
    import torch

    def memory(key: str) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))

    run = parts(arm)
    torch.manual_seed(0)

    def inputs(n: int, v: int):
        head = (0.02 * torch.randn(v, WIDTH)).requires_grad_()
        return torch.randn(n, WIDTH, requires_grad=True), head, torch.randint(0, v, (n,))

    run(*inputs(8, 64))[0].sum().backward()
    given = inputs(tokens, vocabulary)
    given[1].grad = torch.zeros_like(given[1])  # gradients of the weights exist in training: no arm pays for them here
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    wall, cpu = time.perf_counter(), time.process_time()
    log_probs, entropy = run(*given)
    log_probs.sum().backward()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "peak": memory("VmHWM") - before,
            "check": float(log_probs.sum()), "entropy": float(entropy.sum())}  # fmt: skip


def measure(quick: bool = False) -> Result:
    tokens, vocabulary, turns = (64, 4096, 1) if quick else (1024, VOCABULARY, 3)
    arms = ["ours"] + [name for name in ("verl", "trl") if importlib.util.find_spec(name)]
    found: dict[str, list[dict]] = {arm: [] for arm in arms}
    for turn in range(turns):
        for arm in arms if turn % 2 == 0 else arms[::-1]:
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.log_probs", "--worker", arm, "--tokens", str(tokens), "--vocabulary", str(vocabulary)],
                cwd=Path(__file__).resolve().parents[1], capture_output=True, text=True, check=True,
            )  # fmt: skip
            found[arm].append(json.loads(done.stdout.splitlines()[-1]))
    same = [abs(found[arm][0][key] / found["ours"][0][key] - 1) for arm in arms for key in ("check", "entropy")]
    if max(same) > 1e-4:
        raise RuntimeError(f"the arms do not compute the same: {found}")
    rows = [
        [
            {"ours": "erpo-verl", "verl": "verl's helpers", "trl": "TRL's helpers"}[arm],
            quartiles(ratios([f["cpu"] for f in found[arm]], [f["cpu"] for f in found["ours"]])),
            f"{max(f['peak'] for f in found[arm]):,.0f}",
        ]
        for arm in arms
    ]
    whole = tokens * vocabulary * 4 / 2**20
    hidden, piece = tokens * WIDTH * 4 / 2**20, (1 << 24) * 4 / 2**20
    return Result(
        title="Log-probs and entropies",
        how=f"Forward and backward of {tokens:,} tokens with a hidden width of {WIDTH} and a vocabulary of {vocabulary:,}, float32, one thread, each in a process of "
        f"its own, in turns. The whole logits are {whole:,.0f} MiB, the hidden states {hidden:,.1f} MiB, one piece of logits {piece:,.0f} MiB. Peak is beyond the inputs and "
        "the weights' gradient. TRL and verl take the logits, so the product with the head is theirs too; all compute the same numbers (checked).",
        columns=["", "processor time / ours", "peak, MiB"],
        rows=rows,
        bound="three products of [tokens, width] with [width, vocabulary] (four here: the backward pass makes the logits of a piece again), and memory for a few pieces "
        "of logits. The aim is a peak of 1.2 times hidden states plus one piece.",
        packages=PACKAGES,
        figures={"found": found, "piece_mib": piece, "hidden_mib": hidden},
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--worker", required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY)
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    print(json.dumps(work(args.worker, args.tokens, args.vocabulary)))
