"""One run of the study: start policy, training to the bed's token budget, evaluation; what is kept of it is small.

In ``work/<bed>/``: data, ``start-<seed>`` (made once a seed, reused by its content), ``runs/<name>`` with checkpoint and model. In
``keep/<bed>/<name>/``, which appears whole and last: ``run.json``, ``metrics.jsonl`` (every tenth step, the metrics that the study
reads), ``evaluation.json`` (figures, and for each problem how many of its samples are right).
"""

from __future__ import annotations

import fcntl
import importlib
import json
import math
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.study.protocol import ROOT, Bed, Protocol, Run, StudyError, arm_overrides

EVALUATION, RECORD, METRICS = "evaluation.json", "run.json", "metrics.jsonl"
FIRST_STEPS = 10  # after these a run's tokens a step are known
KEEP_EVERY = 10  # steps between two lines of what is kept
# What is kept of metrics.jsonl: names that end so.
KEPT = (
    "critic/score/mean", "response_length/mean", "prompt_length/mean", "actor/entropy", "actor/grad_norm", "actor/pg_clipfrac",
    "actor/ppo_kl", "actor/ppo_kl_live/mean", "groups_mixed/mean", "length_right/mean", "length_wrong/mean", "cdp_advantage_share/mean", "sign_flip_share/mean",
    "gate/mean", "num_gen_batches", "perf/total_num_tokens", "perf/time_per_step",
)  # fmt: skip


def execute(run: Run, protocol: Protocol, work: Path, keep: Path, dump: Path | None = None) -> Path:
    """Do what of the run is not done yet; returns its folder under ``keep``. ``dump``: where every tenth step's rollouts go.

    Raises:
        StudyError: the arm does not exist in this version, the training failed other than by its arithmetic, or rollouts are asked of a run
            that has begun without.
    """
    kept = keep / run.bed / run.name
    begun = next((f for f in (kept / EVALUATION, work / run.bed / "runs" / run.name / METRICS) if f.is_file()), None)
    if dump is not None and begun and not any(dump.glob("*.parquet")):
        raise StudyError(f"{begun} is there, so rollouts of its steps would be missing; give --dump with a --work and a --keep of its own")
    if (kept / EVALUATION).is_file():
        return kept
    bed = protocol.beds[run.bed]
    overrides = arm_overrides(run.arm)
    if overrides is None:
        raise StudyError(f"{run.arm}: neither scripts/ablations.txt nor benchmarks/study/peers.txt has such an arm")
    place = work / run.bed
    folder = place / "runs" / run.name
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(place / "runs" / f".{run.name}.lock"):
        data = _data(bed, place)
        start = _start(bed, place, run.seed)
        failure = _train(run, bed, [*overrides, *_dumped(dump)], data, start, folder)
        figures = {"failure": failure} if failure else _evaluate(protocol, bed, data, folder / "model")
        figures["generated_tokens"] = _generated(_lines(folder))[-1] if (folder / METRICS).is_file() else 0.0
        usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        figures["cpu_minutes"] = round(sum(u.ru_utime + u.ru_stime for u in usage) / 60, 2)
        _keep(run, folder, kept, figures, dump)
        for checkpoint in folder.glob("global_step_*"):
            shutil.rmtree(checkpoint)
    return kept


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Waits where another process makes the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _data(bed: Bed, place: Path) -> Path:
    folder = place / "data"
    with _locked(place / ".data.lock"):
        if not (folder / "whole").is_file():
            importlib.import_module(f"{bed.task}.prepare").main(["--out", str(folder)])
            (folder / "whole").touch()
    return folder


def _start(bed: Bed, place: Path, seed: int) -> Path:
    folder = place / f"start-{seed}"
    with _locked(place / f".start-{seed}.lock"):
        arguments = ["--seed", str(seed), "--threads", "1", "--out", str(folder), *bed.warm_start]
        importlib.import_module(f"{bed.task}.warm_start").main(arguments)
    return folder


# --- training


def _train(run: Run, bed: Bed, overrides: list[str], data: Path, start: Path, folder: Path) -> str | None:
    """Train to the budget, in stretches that each go on from the last one's checkpoint; returns why it could not, or None."""
    from erpo_verl.trainer.run import STOPPED, train

    command = [
        bed.config, "algorithm.adv_estimator=erpo", *overrides, *bed.overrides,
        f"actor_rollout_ref.model.path={start}", f"data.train_files={data / 'train.parquet'}", f"data.val_files={data / 'validation.parquet'}",
        f"actor_rollout_ref.actor.optim.lr={run.rate}", f"data.seed={run.seed}", f"actor_rollout_ref.rollout.seed={run.seed}",
        f"actor_rollout_ref.actor.data_loader_seed={run.seed}", f"trainer.experiment_name={run.name}",
        f"trainer.default_local_dir={folder}", "trainer.test_freq=25", "trainer.save_freq=50", "trainer.max_actor_ckpt_to_keep=1",
    ]  # fmt: skip
    steps = _next_stretch(folder, bed)
    while steps is not None:
        code = train([*command, f"trainer.total_training_steps={steps}"])
        if code == STOPPED:
            raise KeyboardInterrupt
        if code:
            if (folder / METRICS).is_file() and _not_finite(folder):
                return "no gradient of the last steps was finite"
            raise StudyError(f"{run.bed}/{run.name}: training ended with exit code {code}")
        steps = _next_stretch(folder, bed)
    return None


def _dumped(dump: Path | None) -> list[str]:
    return [] if dump is None else [f"trainer.rollout_data_dir={dump.absolute()}", f"trainer.rollout_data_freq={KEEP_EVERY}"]


def _next_stretch(folder: Path, bed: Bed) -> int | None:
    """The step to train to next, or None where the budget is spent: where another step would end further from it."""
    if not (folder / METRICS).is_file() or not (folder / "model").is_dir():
        return FIRST_STEPS
    lines = _lines(folder)
    generated = _generated(lines)
    done, left = int(lines[-1]["step"]), bed.tokens - generated[-1]
    last = generated[-1] - generated[-min(6, len(generated))]
    a_step = last / min(5, len(generated) - 1)
    if done >= bed.max_steps or left < a_step / 2:
        return None
    ahead = left / a_step
    # Responses may grow: some steps are left for a last stretch.
    return min(bed.max_steps, done + max(1, math.floor(ahead if ahead < 5 else 0.9 * ahead)))


def _lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]


def _generated(lines: list[dict[str, Any]]) -> list[float]:
    """Tokens generated in training up to each line, 0 first; those that dynamic sampling threw away too, taken as long as those kept."""
    total = [0.0]
    for line in lines:
        data = line["data"]
        if "perf/total_num_tokens" not in data:  # validation of the start
            continue
        response, prompt = data["response_length/mean"], data["prompt_length/mean"]
        kept = data["perf/total_num_tokens"] * response / (response + prompt)
        share = data.get("training/filter_groups/kept_share/mean", 1.0)
        total.append(total[-1] + kept / max(share, 1e-9))
    return total


def _not_finite(folder: Path) -> bool:
    last = _lines(folder)[-1]["data"].get("actor/grad_norm", 0.0)
    return last is None or not math.isfinite(last)


# --- evaluation


def _evaluate(protocol: Protocol, bed: Bed, data: Path, model: Path) -> dict[str, Any]:
    """Figures of each set of samples that the protocol asks for."""
    from omegaconf import OmegaConf

    from erpo_verl.evaluation import models
    from erpo_verl.evaluation.statistics import summarize
    from erpo_verl.models.parts import read_model
    from erpo_verl.prompts import Prompter
    from erpo_verl.rollout import SamplingParams
    from erpo_verl.trainer.build import load_judge
    from erpo_verl.trainer.data import read_table, tokenize
    from erpo_verl.trainer.sampler import Sampler
    from erpo_verl.trainer.settings import compose
    from erpo_verl.trainer.validation import as_problems

    settings = compose([bed.config, *bed.overrides, f"actor_rollout_ref.model.path={model}"])
    parts = read_model(str(model), training=False)
    engine = models.hf_engine(parts, {"dtype": "float32", "device": "cpu", "batch": 512})
    sampler = Sampler(engine, load_judge(settings), parts.tokenizer, settings)
    prompter = Prompter(parts.tokenizer, OmegaConf.to_container(settings.data.apply_chat_template_kwargs))
    found: dict[str, Any] = {}
    for name, asked in protocol.evaluation.items():
        table = read_table([str(data / f"{asked['file']}.parquet")], limit=asked["problems"])
        prompts, _ = tokenize(table, prompter, max_length=settings.data.max_prompt_length)
        params = SamplingParams(n=asked["k"], max_tokens=settings.data.max_response_length, temperature=asked["temperature"], seed=1)
        batch = sampler.sample(prompts, [str(i) for i in range(len(prompts))], params)
        problems = as_problems(batch, params.n, sampler.judge.votes)
        if len(problems) < len(prompts):  # pairs by problem need all of them
            raise StudyError(f"{model}: {len(prompts) - len(problems)} of {len(prompts)} problems could not be judged")
        levels = sorted({p.level for p in problems}, key=lambda level: (len(str(level)), level))
        found[name] = {
            "k": params.n,
            **_figures(summarize(problems)),
            "levels": {level: _figures(summarize([p for p in problems if p.level == level])) for level in levels},
            "right": "".join(f"{int(p.right.sum()):x}" for p in problems) if params.n < 16 else [int(p.right.sum()) for p in problems],
        }
    return found


def _figures(summary: Mapping[str, Any]) -> dict[str, Any]:
    k = max(summary["pass"], key=int)
    length = summary["length"]
    told = {"accuracy": summary["avg"], "pass": summary["pass"][k], "majority": summary["maj"][k], "length": length["mean"],
            "length_right": length["right"], "cut_off": length["cut_off"], "tokens_per_solved": summary["tokens_per_solved"]}  # fmt: skip
    return {name: None if value is None else round(float(value), 5) for name, value in told.items()}


# --- what is kept


def _keep(run: Run, folder: Path, kept: Path, figures: dict[str, Any], dump: Path | None) -> None:
    partial = kept.with_name(f".{kept.name}.{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        record = json.loads((folder / RECORD).read_text())
        record |= {"arm": run.label, "seed": run.seed, "study": {"bed": run.bed, "arm": run.arm, "rate": run.rate, "commit": commit()}}
        # Where the run was made is nobody's business and not the same elsewhere: paths are told as below the default of --work.
        told = json.dumps(record, separators=(",", ":")).replace(str(folder.parents[2]), "outputs/study")
        if dump is not None:
            told = told.replace(str(dump.absolute()), dump.name)
        (partial / RECORD).write_text(told + "\n")
        (partial / METRICS).write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in thinned(_lines(folder))))
        (partial / EVALUATION).write_text(json.dumps(figures, indent=1) + "\n")
        os.replace(partial, kept)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def thinned(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every tenth line, the first and the last, and those with a validation, of the metrics that are kept, with five digits.

    ``perf/total_num_tokens`` is written so that the generated tokens that `erpo compare` works out of it are those since the line before.
    """
    out: list[dict[str, Any]] = []
    generated, before = _generated(lines), 0.0
    trained = 0
    for i, line in enumerate(lines):
        trained += "perf/total_num_tokens" in line["data"]
        validated = any(name.startswith("val-core/") for name in line["data"])
        if line["step"] % KEEP_EVERY and not validated and i not in (0, len(lines) - 1):
            continue
        data = {name: value for name, value in line["data"].items() if name.endswith(KEPT) and not name.startswith("val-")}
        data |= {name: v for name, v in line["data"].items() if name.startswith("val-") and ("/acc/mean@" in name or "/acc/pass@" in name)}
        data = {name: float(f"{v:.5g}") if isinstance(v, float) else v for name, v in data.items()}
        if "perf/total_num_tokens" in data:
            response, prompt = data["response_length/mean"], data["prompt_length/mean"]
            data["perf/total_num_tokens"] = round((generated[trained] - before) * (response + prompt) / response, 1)
            before = generated[trained]
        out.append({"step": line["step"], "data": data})
    return out


def commit() -> str | None:
    """The commit of this checkout, with + where tracked files differ from it; None outside a checkout."""
    try:
        head = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(["git", "-C", ROOT, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changed.strip() else "")
