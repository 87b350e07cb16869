"""Tokens a second and peak memory of a training step, beside TRL's GRPOTrainer.

    python benchmarks/trainer_vs_trl.py --model outputs/arithmetic/start --data outputs/arithmetic/data/train.parquet
    python benchmarks/trainer_vs_trl.py --size mid

Both train the same model on the same prompts: the same number of prompts and responses a step, the same longest response, two updates
a step, float32, the same learning rate, sampling with transformers. Each measurement is a process of its own; the engines take
turns, so that whatever else the machine does falls on both, and the ratio is taken within a turn. Tokens are those of prompts and
responses, padding not counted; time is that of whole steps, without start-up and the first step.

Arms: `trl` is GRPO without a reference (TRL's default beta = 0); `grpo` is ours likewise, and computes old log-probs and entropies in a
pass of their own, which TRL leaves out; `erpo` has the pass of the reference policy on top.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ARMS = ("trl", "grpo", "erpo")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="model folder (the arithmetic start policy)")
    parser.add_argument("--data", type=Path, help="parquet file of prompts in verl's schema")
    parser.add_argument("--size", choices=["mid"], help="instead of --model: a random model, mid is 27 million parameters")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--n", type=int, default=8, help="responses a prompt")
    parser.add_argument("--response", type=int, default=80, help="longest response, tokens")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each process")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--micro", type=int, default=128, help="responses in one forward and backward pass (both engines)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--worker", choices=ARMS, help=argparse.SUPPRESS)
    return parser.parse_args()


def make_mid(folder: Path) -> tuple[Path, Path]:
    """A random model of 8 layers, width 512, vocabulary 8,192, and problems for it. It never ends a response by itself."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from examples.arithmetic.prepare import write
    from examples.arithmetic.tokenizer import build_tokenizer

    tokenizer = build_tokenizer()
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    Qwen2ForCausalLM(
        Qwen2Config(vocab_size=8192, hidden_size=512, intermediate_size=1408, num_hidden_layers=8, num_attention_heads=8,
                    num_key_value_heads=2, max_position_embeddings=1024, tie_word_embeddings=True, **ends)
    ).save_pretrained(folder / "mid")  # fmt: skip
    tokenizer.save_pretrained(folder / "mid")
    return folder / "mid", write(folder / "data", {"train": 4096})["train"]


def peak() -> float:
    """Largest resident memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Clock:
    """Wall and processor seconds since the first step's end."""

    def __init__(self) -> None:
        self.wall = self.cpu = None

    def mark(self) -> None:
        if self.wall is None:
            self.wall, self.cpu = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        return {"wall": time.perf_counter() - self.wall, "cpu": time.process_time() - self.cpu}


def ours(args: argparse.Namespace) -> dict:
    """Our trainer's own loop, timed step by step."""
    from erpo_verl.trainer import loop, run

    clock, tokens = Clock(), []
    train_step = loop.Trainer.train_step

    def timed(trainer, step):
        metrics = train_step(trainer, step)
        if clock.wall is not None:
            tokens.append(metrics["perf/total_num_tokens"])
        clock.mark()
        return metrics

    loop.Trainer.train_step = timed
    finished = {}
    save = loop.Trainer._save_model
    loop.Trainer._save_model = lambda trainer: finished.update(clock.read()) or save(trainer)
    with tempfile.TemporaryDirectory() as out:
        reference = "true" if args.worker == "erpo" else "false"
        code = run.train(
            [
                f"data.train_files={args.data}", f"data.train_batch_size={args.prompts}", "data.max_prompt_length=64",
                f"data.max_response_length={args.response}", f"actor_rollout_ref.model.path={args.model}",
                "actor_rollout_ref.model.enable_gradient_checkpointing=false", f"algorithm.adv_estimator={args.worker}",
                f"actor_rollout_ref.actor.ppo_mini_batch_size={args.prompts // 2}", f"actor_rollout_ref.actor.use_kl_loss={reference}",
                f"actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu={args.micro}", "actor_rollout_ref.actor.kl_loss_coef=0.0",
                f"actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu={args.micro}", "actor_rollout_ref.actor.optim.lr=1e-4",
                f"actor_rollout_ref.rollout.n={args.n}", f"actor_rollout_ref.rollout.max_num_seqs={args.prompts * args.n}",
                f"trainer.total_training_steps={args.steps + 1}", f"trainer.default_local_dir={out}", "trainer.device=cpu",
            ]
        )  # fmt: skip
        assert code == 0
    return {"tokens": sum(tokens), **finished, "peak": peak()}


def trls(args: argparse.Namespace) -> dict:
    """TRL's GRPOTrainer with the settings that mean the same."""
    import pyarrow.parquet as pq
    import torch
    from datasets import Dataset
    from erpo_verl.reward import score
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    rows = pq.read_table(args.data).to_pylist()
    data = Dataset.from_list([{"prompt": row["prompt"], "gold": row["reward_model"]["ground_truth"]} for row in rows])

    def reward(completions, gold, **_):
        texts = [c[0]["content"] if isinstance(c, list) else c for c in completions]
        return [score(text, answer)["score"] for text, answer in zip(texts, gold, strict=True)]

    clock, tokens, updates = Clock(), [], 2

    class Watch(TrainerCallback):
        def on_step_end(self, arguments, state, control, **_):
            if state.global_step == updates:
                tokens.append(state.num_input_tokens_seen)
                clock.mark()

    with tempfile.TemporaryDirectory() as out:
        half = args.prompts * args.n // 2  # rows of an update
        config = GRPOConfig(
            output_dir=out, use_cpu=True, bf16=False, num_generations=args.n, max_completion_length=args.response,
            per_device_train_batch_size=min(args.micro, half), gradient_accumulation_steps=half // min(args.micro, half),
            generation_batch_size=2 * half, max_steps=updates * (args.steps + 1), learning_rate=1e-4, lr_scheduler_type="constant",
            temperature=1.0, beta=0.0, max_grad_norm=1.0, report_to=[], save_strategy="no", logging_steps=10_000, disable_tqdm=True,
            gradient_checkpointing=False, seed=1, loss_type="dapo", remove_unused_columns=False, dataloader_num_workers=0,
        )  # fmt: skip
        model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(args.model)
        trainer = GRPOTrainer(
            model=model, reward_funcs=reward, args=config, train_dataset=data, processing_class=tokenizer, callbacks=[Watch()]
        )
        trainer.train()
        finished = clock.read()
        return {"tokens": trainer.state.num_input_tokens_seen - tokens[0], **finished, "peak": peak()}


def quartiles(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.2f}"
    return f"{statistics.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def main() -> None:
    args = parse_arguments()
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    os.environ.update(OMP_NUM_THREADS=str(args.threads), HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", WANDB_MODE="disabled")
    if args.worker:
        import torch
        import transformers

        torch.set_num_threads(args.threads)
        transformers.utils.logging.disable_progress_bar()
        print("RESULT " + json.dumps(trls(args) if args.worker == "trl" else ours(args)), flush=True)
        return
    from importlib.metadata import version

    with tempfile.TemporaryDirectory() as folder:
        if args.size:
            args.model, args.data = make_mid(Path(folder))
        if args.model is None or args.data is None:
            raise SystemExit("give --model and --data, or --size mid")
        names = ", ".join(f"{name} {version(name)}" for name in ("erpo-verl", "trl", "torch", "transformers"))
        print(f"{names}; Python {platform.python_version()}; {args.threads} thread(s)")
        print(f"{args.prompts} prompts x {args.n} responses of at most {args.response} tokens, 2 updates a step, {args.steps} timed steps")
        found: dict[str, list[dict]] = {arm: [] for arm in args.arms}
        for turn in range(args.turns):
            for arm in args.arms if turn % 2 == 0 else reversed(args.arms):
                passed = [f"--{name}={getattr(args, name)}" for name in ("model", "data", "prompts", "n", "response", "steps", "micro", "threads")]
                done = subprocess.run([sys.executable, __file__, "--worker", arm, *passed], capture_output=True, text=True, check=False)
                lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
                if not lines:
                    raise SystemExit(f"{arm} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
                result = json.loads(lines[-1].removeprefix("RESULT "))
                found[arm].append(result)
                print(f"  turn {turn + 1}, {arm:<5} {result['tokens'] / result['wall']:8.0f} tokens/s wall, "
                      f"{result['tokens'] / result['cpu']:8.0f} tokens/s of processor time, peak {result['peak']:6.0f} MiB", flush=True)  # fmt: skip
        if "trl" in found:
            print("ratio to TRL, median [smallest, largest] over turns:")
            for arm in [a for a in args.arms if a != "trl"]:
                for clock in ("wall", "cpu"):
                    ratios = [(a["tokens"] / a[clock]) / (b["tokens"] / b[clock]) for a, b in zip(found[arm], found["trl"], strict=True)]
                    print(f"  {arm:<5} tokens a second, {clock:<4}  {quartiles(ratios)}")
                print(f"  {arm:<5} peak memory           {quartiles([a['peak'] / b['peak'] for a, b in zip(found[arm], found['trl'], strict=True)])}")


if __name__ == "__main__":
    main()
