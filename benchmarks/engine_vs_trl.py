"""Tokens a second and peak memory of a training step of the Accelerate engine, beside TRL's GRPOTrainer.

    python -m benchmarks.engine_vs_trl --sizes small mid --turns 2

TRL 1.16 and verl 0.9.1 do not live in one environment: TRL_PYTHON names the interpreter of one with `pip install 'erpo-verl[bench]'`, in which
both engines of this comparison then run.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.coin import compute_score
from benchmarks.result import NotHere, Result

PACKAGES = ("erpo-verl", "torch", "transformers", "accelerate")
ROOT = Path(__file__).resolve().parents[1]
ARMS = ("trl", "grpo", "erpo")
# name -> layers, width, intermediate, heads, key-value heads, vocabulary; prompts, responses a prompt, response tokens, micro-batch, steps
SIZES = {
    "small": ((3, 128, 256, 4, 2, 48), (32, 8, 80, 64, 6)),
    "mid": ((8, 512, 1408, 8, 2, 8192), (4, 8, 64, 16, 3)),
    "large": ((12, 768, 2048, 12, 4, 16384), (4, 4, 64, 16, 2)),
}


def make(folder: Path, size: str) -> tuple[Path, Path, int]:
    """A random model of the Qwen2 architecture, problems for it, and its parameters. It hardly ever ends a response by itself."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from examples.arithmetic.prepare import write
    from examples.arithmetic.tokenizer import build_tokenizer

    tokenizer = build_tokenizer()
    layers, width, intermediate, heads, kv, vocabulary = SIZES[size][0]
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model = Qwen2ForCausalLM(
        Qwen2Config(vocab_size=max(vocabulary, len(tokenizer)), hidden_size=width, intermediate_size=intermediate, num_hidden_layers=layers,
                    num_attention_heads=heads, num_key_value_heads=kv, max_position_embeddings=1024, tie_word_embeddings=True, **ends)
    )  # fmt: skip
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder / "model", write(folder / "data", {"train": 4096})["train"], model.num_parameters()


class Clock:
    """Wall and processor seconds since the first step's end."""

    def __init__(self) -> None:
        self.wall = self.cpu = None

    def mark(self) -> None:
        if self.wall is None:
            self.wall, self.cpu = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        return {"wall": time.perf_counter() - self.wall, "cpu": time.process_time() - self.cpu}


def ours(model: Path, data: Path, size: str, arm: str) -> dict:
    """Our trainer's own loop, timed step by step."""
    from erpo_verl.trainer import loop, run

    prompts, n, response, micro, steps = SIZES[size][1]
    clock, tokens, rows = Clock(), [], []
    train_step = loop.Trainer.train_step

    def timed(trainer, step):
        metrics = train_step(trainer, step)
        if clock.wall is not None:
            tokens.append(metrics["perf/total_num_tokens"])
            rows.append(metrics["actor/rows_run/mean"])
        clock.mark()
        return metrics

    loop.Trainer.train_step = timed
    finished = {}
    save = loop.Trainer._save_model
    loop.Trainer._save_model = lambda trainer: finished.update(clock.read()) or save(trainer)
    with tempfile.TemporaryDirectory() as out:
        code = run.train(
            [
                f"data.train_files={data}", f"data.train_batch_size={prompts}", "data.max_prompt_length=64",
                f"data.max_response_length={response}", f"actor_rollout_ref.model.path={model}",
                "actor_rollout_ref.model.enable_gradient_checkpointing=false", f"algorithm.adv_estimator={arm}",
                f"actor_rollout_ref.actor.ppo_mini_batch_size={prompts // 2}", f"actor_rollout_ref.actor.use_kl_loss={str(arm == 'erpo').lower()}",
                f"actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu={micro}", "actor_rollout_ref.actor.kl_loss_coef=0.0",
                f"actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu={micro}", "actor_rollout_ref.actor.optim.lr=1e-4",
                f"actor_rollout_ref.rollout.n={n}", f"actor_rollout_ref.rollout.max_num_seqs={prompts * n}",
                f"reward.custom_reward_function.path={ROOT / 'benchmarks' / 'coin.py'}",
                f"trainer.total_training_steps={steps + 1}", f"trainer.default_local_dir={out}", "trainer.device=cpu",
            ]
        )  # fmt: skip
        if code != 0:
            raise RuntimeError(f"erpo train ended with exit code {code}")
    return {"tokens": sum(tokens), "rows": sum(rows) / len(rows), **finished}


def trls(model: Path, data: Path, size: str) -> dict:
    """TRL's GRPOTrainer with the settings that mean the same."""
    import pyarrow.parquet as pq
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    prompts, n, response, micro, steps = SIZES[size][1]
    rows = pq.read_table(data).to_pylist()
    dataset = Dataset.from_list([{"prompt": row["prompt"], "gold": row["reward_model"]["ground_truth"]} for row in rows])

    def reward(completions, gold, **_):
        texts = [c[0]["content"] if isinstance(c, list) else c for c in completions]
        return [compute_score("", text, answer) for text, answer in zip(texts, gold, strict=True)]

    clock, tokens, updates = Clock(), [], 2

    class Watch(TrainerCallback):
        def on_step_end(self, arguments, state, control, **_):
            if state.global_step == updates:
                tokens.append(state.num_input_tokens_seen)
                clock.mark()

    with tempfile.TemporaryDirectory() as out:
        half = prompts * n // 2  # rows of an update
        config = GRPOConfig(
            output_dir=out, use_cpu=True, bf16=False, num_generations=n, max_completion_length=response,
            per_device_train_batch_size=min(micro, half), gradient_accumulation_steps=half // min(micro, half),
            generation_batch_size=2 * half, max_steps=updates * (steps + 1), learning_rate=1e-4, lr_scheduler_type="constant",
            temperature=1.0, beta=0.0, max_grad_norm=1.0, report_to=[], save_strategy="no", logging_steps=10_000, disable_tqdm=True,
            gradient_checkpointing=False, seed=1, loss_type="dapo", remove_unused_columns=False, dataloader_num_workers=0,
        )  # fmt: skip
        trainer = GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), reward_funcs=reward, args=config, train_dataset=dataset,
            processing_class=AutoTokenizer.from_pretrained(model), callbacks=[Watch()],
        )  # fmt: skip
        trainer.train()
        return {"tokens": trainer.state.num_input_tokens_seen - tokens[0], **clock.read()}


def worker(arguments: argparse.Namespace) -> None:
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    given = (arguments.model, arguments.data, arguments.size)
    found = trls(*given) if arguments.worker == "trl" else ours(*given, arguments.worker)
    found["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print("RESULT " + json.dumps(found), flush=True)


def one(python: str, arm: str, model: Path, data: Path, size: str) -> dict:
    """One measurement, in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "WANDB_MODE": "disabled"}
    command = [python, "-m", "benchmarks.engine_vs_trl", "--worker", arm, "--model", model, "--data", data, "--size", size]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise RuntimeError(f"{arm} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return json.loads(lines[-1].removeprefix("RESULT "))


def measure(quick: bool = False, sizes: tuple[str, ...] | None = None, turns: int | None = None, arms: tuple[str, ...] = ARMS) -> Result:
    python = os.environ.get("TRL_PYTHON", sys.executable)
    if "trl" in arms and subprocess.run([python, "-c", "import trl"], capture_output=True, check=False).returncode:
        raise NotHere("trl is not installed: make an environment with pip install 'erpo-verl[bench]' and set TRL_PYTHON=.../bin/python")
    turns = turns or (1 if quick else 3)
    rows, figures = [], {}
    for size in sizes or (("small",) if quick else tuple(SIZES)):
        with tempfile.TemporaryDirectory() as folder:
            model, data, parameters = make(Path(folder), size)
            found: dict[str, list[dict]] = {arm: [] for arm in arms}
            for turn in range(turns):
                for arm in arms if turn % 2 == 0 else arms[::-1]:
                    found[arm].append(one(python, arm, model, data, size))
                    print(f"   {size}, turn {turn + 1}, {arm}: {found[arm][-1]['tokens'] / found[arm][-1]['wall']:.0f} tokens/s", flush=True)
        figures[size] = {"parameters": parameters, **found}
        if "trl" not in arms:
            continue
        for arm in [a for a in arms if a != "trl"]:
            pairs = list(zip(found[arm], found["trl"], strict=True))
            speed = {clock: sorted((a["tokens"] / a[clock]) / (b["tokens"] / b[clock]) for a, b in pairs) for clock in ("wall", "cpu")}
            memory = sorted(a["peak"] / b["peak"] for a, b in pairs)
            rows.append([f"{parameters / 1e6:.3g} M", arm, *(f"{s[len(s) // 2]:.2f} [{s[0]:.2f}, {s[-1]:.2f}]" for s in (*speed.values(), memory)),
                         f"{sum(a['rows'] for a, _ in pairs) / len(pairs):.0%}"])  # fmt: skip
    return Result(
        title="The Accelerate engine beside TRL",
        how="Whole training steps without start-up and the first one: TRL's GRPOTrainer with transformers' `generate` and the Accelerate engine with GRPO and "
        "ERPO, float32, one thread, two updates a step, the same random model, prompts and rewards, each measurement a process of its own, in turns. "
        "The reward makes groups uniform or half right by their reference answer alone; the last column is the share of rows in groups with a gradient, "
        "which our update runs (TRL's runs all). Tokens are those of prompts and responses without padding. TRL is "
        "GRPO without a reference; cells are median [smallest, largest] over turns.",
        columns=["parameters", "arm", "tokens/s, ratio to TRL's", "by processor time", "peak memory, ratio", "rows with a gradient"],
        rows=rows,
        bound="matrix products of the model: a token costs one forward pass in the rollout and, where its group has a gradient, one forward and one "
        "backward pass (as two) in the update.",
        packages=PACKAGES,
        figures=figures,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--turns", type=int)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    for name, kind in (("worker", str), ("model", Path), ("data", Path), ("size", str)):
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return worker(arguments)
    for row in measure(sizes=tuple(arguments.sizes), turns=arguments.turns, arms=tuple(arguments.arms)).rows:
        print(" | ".join(row))


if __name__ == "__main__":
    main()
