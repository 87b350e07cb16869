"""Everything that only a GPU can show, in under nine minutes, without a network: `bash scripts/gpu_check.sh`.

Needs torch, transformers, accelerate and pytest; packages of ours beside them (omegaconf, math-verify) may lie in `outputs/gpu_check/packages`
(`bash scripts/gpu_check.sh pack` puts them there where there is a registry). Parts run one after the other, each by its share of the
time; one that fails is told and the next goes on. Writes `gpu_check.json` (whole after every part) and `gpu_check.md`.

    python -m benchmarks.gpu_check --out outputs/gpu_check --minutes 9
    python -m benchmarks.gpu_check --out DIR --device cpu --small          # the same parts in a small form, anywhere
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import statistics
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.result import surroundings

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "transformers", "accelerate", "peft", "math-verify", "omegaconf")


@dataclass
class Check:
    """What a part is given. `left()` are the seconds until the whole has to end."""

    device: str
    small: bool
    out: Path
    deadline: float
    found: dict[str, Any] = field(default_factory=dict)

    def left(self) -> float:
        return self.deadline - time.monotonic()


# --- 1 tests ----------------------------------------------------------------------------------------------------------


def tests(check: Check) -> dict[str, Any]:
    """The CUDA tests of core, log-probs, rollout and trainer."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-x" if check.small else "-q", "tests/gpu"],
        cwd=ROOT, capture_output=True, text=True, timeout=max(30.0, check.left()), check=False,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    (check.out / "tests.log").write_text(done.stdout + done.stderr, encoding="utf-8")
    if done.returncode:
        raise RuntimeError(f"pytest ended with {done.returncode}: " + " / ".join(lines[-6:]))
    return {"outcome": lines[-1]}


# --- 2 the same steps on CPU and device -------------------------------------------------------------------------------


def _settings(model: Path, data: Path, out: Path, device: str, **given: Any) -> list[str]:
    values = {
        "data.train_files": data, "data.train_batch_size": 8, "data.max_prompt_length": 64, "data.max_response_length": 48, "data.seed": 1,
        "actor_rollout_ref.model.path": model, "actor_rollout_ref.model.enable_gradient_checkpointing": False,
        "actor_rollout_ref.actor.ppo_mini_batch_size": 4, "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": 32,
        "actor_rollout_ref.actor.use_kl_loss": True, "actor_rollout_ref.actor.kl_loss_coef": 0.0, "actor_rollout_ref.actor.optim.lr": 3e-4,
        "actor_rollout_ref.rollout.n": 8, "algorithm.adv_estimator": "erpo", "trainer.device": device, "trainer.default_local_dir": out,
        "reward.custom_reward_function.path": ROOT / "benchmarks" / "coin.py", "trainer.logger": "[]", "trainer.save_final_model": False,
        "trainer.save_freq": -1,
    }  # fmt: skip
    return [f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in {**values, **given}.items()]


class Replay:
    """A rollout engine that hands out what another one sampled, so that two devices train on the same responses."""

    def __init__(self, engine: Any, recorded: list | None = None):
        self.engine, self.recorded, self.replays = engine, [] if recorded is None else list(recorded), recorded is not None

    def sync(self, model: Any) -> None:
        self.engine.sync(model)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        if self.replays:
            return self.recorded.pop(0)
        self.recorded.append(self.engine.generate(*args, **kwargs))
        return self.recorded[-1]

    def close(self) -> None:
        self.engine.close()


def same_steps(check: Check) -> dict[str, Any]:
    """Ten ERPO steps in float32 on the CPU and on the device, on the same responses: how far the figures drift apart."""
    from erpo_verl.trainer.build import build, load_inputs
    from erpo_verl.trainer.settings import compose

    model, data, _ = random_model(check.out / "same", (3, 128, 256, 4, 2, 48))
    steps, recorded, histories, weights = (2 if check.small else 10), None, {}, {}
    for name, device in (("cpu", "cpu"), ("device", check.device)):
        settings = compose(
            _settings(model, data, check.out / "same" / name, device, **{
                "actor_rollout_ref.actor.fsdp_config.dtype": "float32", "trainer.total_training_steps": steps,
                "algorithm.rollout_correction.bypass_mode": False,  # each device computes its own log-probs
            })
        )  # fmt: skip
        trainer = build(settings, load_inputs(settings))
        trainer.engine = trainer.sampler.engine = Replay(trainer.engine, recorded)
        histories[name] = [trainer.train_step(step) for step in range(1, steps + 1)]
        recorded = trainer.engine.recorded if recorded is None else recorded
        weights[name] = [p.detach().cpu().double() for p in trainer.policy.whole_model().parameters()]
        trainer.engine.close()
    watched = ("actor/pg_loss", "actor/entropy", "actor/grad_norm", "erpo/gate/mean")
    apart = {
        key: max(abs(a[key] - b[key]) / max(abs(a[key]), 1e-8) for a, b in zip(*histories.values(), strict=True))
        for key in watched
        if key in histories["cpu"][0]
    }
    distance = sum(float((a - b).square().sum()) for a, b in zip(*weights.values(), strict=True)) ** 0.5
    size = sum(float(a.square().sum()) for a in weights["cpu"]) ** 0.5
    return {"steps": steps, "largest relative difference": apart, "weights": distance / size}


# --- 3 the core and the log-probs against the memory limit ------------------------------------------------------------


def _timed(check: Check, run: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Median seconds, and the largest memory beyond what was there, MiB (NaN without a GPU)."""
    import torch

    cuda = check.device == "cuda"
    run()
    seconds, peak = [], float("nan")
    for _ in range(repeats):
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        began = time.perf_counter()
        run()
        if cuda:
            torch.cuda.synchronize()
            peak = (torch.cuda.max_memory_allocated() - before) / 2**20
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds), peak


def synchronisations(check: Check, run: Callable[[], Any]) -> int | None:
    """How often the host waits for the device in one call (None without a GPU)."""
    import torch

    if check.device != "cuda":
        return None
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in seen)


def core(check: Check) -> dict[str, Any]:
    """Advantages at growing sizes; log-probs with entropies over a vocabulary of 151,936, forward and backward."""
    import torch

    from benchmarks.advantage import make_batch
    from erpo_verl import ErpoConfig, erpo_advantages
    from erpo_verl.trainer.logprobs import token_log_probs

    rows = []
    for size in ((64, 256),) if check.small else ((512, 1024), (2048, 8192), (8192, 8192), (8192, 16384)):
        batch = {k: v.to(check.device) if isinstance(v, torch.Tensor) else v for k, v in make_batch(*size, 0.3).items()}
        for preset in ("erpo", "ep_grpo"):
            config = ErpoConfig(preset=preset)
            run = functools.partial(erpo_advantages, **batch, config=config)
            seconds, peak = _timed(check, run, 3)
            padded = size[0] * size[1] * 4 / 2**20
            rows.append({"what": f"{preset} {size[0]}x{size[1]}", "ms": 1e3 * seconds, "peak_padded": peak / padded, "syncs": synchronisations(check, run)})
        del batch
    width, vocabulary, dtype = (64, 1024, torch.float32) if check.small else (3584, 151_936, torch.bfloat16)
    head = (0.02 * torch.randn(vocabulary, width, device=check.device, dtype=dtype)).requires_grad_()
    head.grad = torch.zeros_like(head)
    for tokens in (32,) if check.small else (4096, 32768):
        hidden = torch.randn(tokens, width, device=check.device, dtype=dtype, requires_grad=True)
        targets = torch.randint(0, vocabulary, (tokens,), device=check.device)

        def once(hidden=hidden, targets=targets) -> None:
            hidden.grad = None
            token_log_probs(hidden, head, targets, with_entropy=True)[0].sum().backward()

        seconds, peak = _timed(check, once, 3)
        rows.append({"what": f"log-probs {tokens} tokens, whole logits {tokens * vocabulary * 4 / 2**20:,.0f} MiB", "ms": 1e3 * seconds, "peak_mib": peak})
    return {"rows": rows}


# --- 4 the engine -----------------------------------------------------------------------------------------------------


def random_model(folder: Path, shape: tuple[int, ...]) -> tuple[Path, Path, int]:
    """A random model (layers, width, intermediate, heads, key-value heads, vocabulary), problems for it, and its parameters."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from examples.arithmetic.prepare import write
    from examples.arithmetic.tokenizer import build_tokenizer

    tokenizer = build_tokenizer()
    layers, width, intermediate, heads, kv, vocabulary = shape
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model = Qwen2ForCausalLM(
        Qwen2Config(vocab_size=max(vocabulary, len(tokenizer)), hidden_size=width, intermediate_size=intermediate, num_hidden_layers=layers,
                    num_attention_heads=heads, num_key_value_heads=kv, max_position_embeddings=4096, tie_word_embeddings=True, **ends)
    )  # fmt: skip
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder / "model", write(folder / "data", {"train": 4096})["train"], model.num_parameters()


def engine(check: Check) -> dict[str, Any]:
    """Tokens a second and peak memory of training steps of random models in bfloat16, GRPO and ERPO in turns."""
    import torch

    from erpo_verl.trainer import run

    shapes = {"30M": (8, 512, 1408, 8, 2, 16384), "300M": (24, 1024, 2816, 16, 4, 32768)}
    rows = []
    for size, shape in ({"tiny": (2, 64, 128, 2, 1, 64)} if check.small else shapes).items():
        model, data, parameters = random_model(check.out / size, shape)
        for turn, arm in enumerate(("grpo", "erpo") if check.small else ("grpo", "erpo", "erpo", "grpo")):
            out = check.out / size / f"{turn}-{arm}"
            if check.device == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            code = run.train(
                _settings(model, data, out, check.device, **{
                    "algorithm.adv_estimator": arm, "actor_rollout_ref.actor.use_kl_loss": arm != "grpo", "trainer.total_training_steps": 3 if check.small else 5,
                    "data.max_response_length": 16 if check.small else 512, "data.train_batch_size": 8 if check.small else 32,
                    "actor_rollout_ref.actor.ppo_mini_batch_size": 4 if check.small else 16, "actor_rollout_ref.actor.fsdp_config.dtype": "bfloat16",
                    "actor_rollout_ref.rollout.max_num_seqs": 256, "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": 32,
                })
            )  # fmt: skip
            if code:
                raise RuntimeError(f"{arm} at {size} ended with exit code {code}")
            steps = history(out)[1:]
            rows.append({
                "parameters": parameters, "arm": arm,
                "tokens_per_s": statistics.median(s["perf/total_num_tokens"] / s["timing_s/step"] for s in steps),
                "step_s": statistics.median(s["timing_s/step"] for s in steps), "gen_share": statistics.median(s["timing_s/gen"] / s["timing_s/step"] for s in steps),
                "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if check.device == "cuda" else None,
            })  # fmt: skip
    return {"rows": rows}


def history(run: Path) -> list[dict[str, float]]:
    lines = (json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [line["data"] for line in lines if "timing_s/step" in line["data"]]


# --- 5 learning -------------------------------------------------------------------------------------------------------

ARMS = {
    "grpo": {"algorithm.adv_estimator": "grpo"},
    "erpo": {"algorithm.adv_estimator": "erpo"},
    "erpo_mean_one": {"algorithm.adv_estimator": "erpo", "algorithm.erpo.gate.normalize": "mean_one"},
}


def learning(check: Check) -> dict[str, Any]:
    """GRPO and ERPO on the arithmetic task with a larger model: as many paired seeds as the time allows."""
    from erpo_verl.trainer import run
    from examples.arithmetic.prepare import write
    from examples.arithmetic.warm_start import Settings, make

    data = write(check.out / "learning" / "data", {"train": 4096, "validation": 64 if check.small else 512})
    start = check.out / "learning" / "start"
    make(start, Settings(steps=5, hidden=64, layers=1) if check.small else Settings(hidden=256, intermediate=768, layers=6), eval_problems=12, quiet=True)
    steps, rows, longest = (2 if check.small else 60), [], 0.0
    for seed in range(1 if check.small else 20):
        began = time.monotonic()
        if seed and check.left() < 1.2 * longest:
            break
        for arm, given in list(ARMS.items())[: 2 if check.small else None]:
            out = check.out / "learning" / f"{arm}-s{seed}"
            code = run.train(
                _settings(start, data["train"], out, check.device, **{
                    "data.val_files": data["validation"], "data.train_batch_size": 32, "actor_rollout_ref.actor.ppo_mini_batch_size": 16,
                    "data.max_response_length": 80, "data.seed": seed, "trainer.total_training_steps": steps, "trainer.test_freq": steps,
                    "reward.custom_reward_function.path": "pkg://erpo_verl.reward", "actor_rollout_ref.rollout.val_kwargs.n": 2,
                    "actor_rollout_ref.rollout.val_kwargs.do_sample": True, "actor_rollout_ref.rollout.val_kwargs.temperature": 1.0, **given,
                })
            )  # fmt: skip
            if code:
                raise RuntimeError(f"{arm}, seed {seed} ended with exit code {code}")
            last = history(out)[-1]
            rows.append({"arm": arm, "seed": seed, **{k: v for k, v in last.items() if k.startswith("val-core/") or k == "actor/entropy"}})
        longest = max(longest, time.monotonic() - began)
    return {"rows": rows, "seeds": 1 + max(row["seed"] for row in rows), "steps": steps}


PARTS: dict[str, Callable[[Check], dict[str, Any]]] = {
    "tests": tests, "same_steps": same_steps, "core": core, "engine": engine, "learning": learning,
}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu_check"))
    parser.add_argument("--minutes", type=float, default=9.0, help="when the whole has to end (default 9)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="small sizes, for a look whether it works")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    args = parser.parse_args(argv)
    import torch

    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no GPU here (torch.cuda.is_available() is False); --device cpu --small shows whether the check itself works")
    args.out.mkdir(parents=True, exist_ok=True)
    check = Check(args.device, args.small, args.out.resolve(), time.monotonic() + 60 * args.minutes)
    name = torch.cuda.get_device_name() if args.device == "cuda" else "no GPU"
    found: dict[str, Any] = {"card": name, "small": args.small, "where": surroundings(PACKAGES, torch.get_num_threads()), "parts": {}}
    failed = False
    for part in args.parts:
        began = time.monotonic()
        print(f"== {part}: {PARTS[part].__doc__}", flush=True)
        if check.left() < 10:
            found["parts"][part] = {"left_out": "no time left"}
        else:
            try:
                found["parts"][part] = PARTS[part](check)
            except Exception as error:  # the other parts still run
                failed = True
                traceback.print_exc()
                found["parts"][part] = {"failed": f"{type(error).__name__}: {error}"}
        found["parts"][part]["seconds"] = round(time.monotonic() - began, 1)
        write(args.out, found)
    print((args.out / "gpu_check.md").read_text(encoding="utf-8"))
    return 1 if failed else 0


def write(out: Path, found: dict[str, Any]) -> None:
    """JSON and table, whole after every part."""
    new = out / ".gpu_check.new"
    new.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    new.replace(out / "gpu_check.json")
    where = found["where"]
    lines = [
        f"# {found['card']}, {where['date']}", "",
        f"`bash scripts/gpu_check.sh`{' --small' if found['small'] else ''}; " + ", ".join(f"{k} {v}" for k, v in where["versions"].items()), "",
    ]  # fmt: skip
    for part, result in found["parts"].items():
        lines += [f"## {part} ({result['seconds']} s)", ""]
        rows = result.get("rows", [])
        lines += [f"- {key}: {value}" for key, value in result.items() if key not in ("rows", "seconds")]
        if rows:
            columns = list(dict.fromkeys(key for row in rows for key in row))
            lines += ["", "| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
            lines += ["| " + " | ".join(_cell(row.get(key)) for key in columns) + " |" for row in rows]
        lines.append("")
    with contextlib.suppress(OSError):
        (out / "gpu_check.md").write_text("\n".join(lines), encoding="utf-8")


def _cell(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else "" if value is None else str(value)


if __name__ == "__main__":
    sys.exit(main())
