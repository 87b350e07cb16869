"""Runs for the tests of reports: metrics.jsonl with values that are easy to compute by hand."""

from __future__ import annotations

import json
from pathlib import Path

from runs_rows import row

from erpo_verl.runs.record import write_record
from erpo_verl.runs.rollouts import write_rollouts
from erpo_verl.runs.versions import version

ACC = "val-core/arithmetic/acc/mean@2"


def write_run(folder: Path, accuracy: float, erpo: bool = False, steps: int = 4, seed: int = 0, name: str = ACC) -> Path:
    """A run whose accuracy goes from 0.25 to ``accuracy``; ``seed`` shifts reward and entropy so that no two runs are alike."""
    folder.mkdir(parents=True)
    lines = [{"step": 0, "data": {name: 0.25}}]
    for step in range(1, steps + 1):
        data = {
            "critic/score/mean": 0.1 * step + 0.001 * seed, "response_length/mean": 20.0 + step, "prompt_length/mean": 10.0,
            "actor/entropy": 1.0 / step + 0.001 * seed, "perf/total_num_tokens": 8 * (30.0 + step),
        }  # fmt: skip
        if erpo:
            data |= {"erpo/cdp_entropy/mean": 1.2, "erpo/non_cdp_entropy/mean": 0.1, "erpo/cdp_advantage_share/mean": 0.9}
        if step == steps:
            data[name] = accuracy
        lines.append({"step": step, "data": data})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def two_arms(root: Path) -> list[Path]:
    """GRPO and ERPO with three seeds; the differences in accuracy are 0.03, 0.02 and 0.04."""
    grpo = [write_run(root / f"grpo-s{s}", a, seed=s) for s, a in ((1, 0.50), (2, 0.60), (3, 0.70))]
    erpo = [write_run(root / f"erpo-s{s}", a, erpo=True, seed=s + 3) for s, a in ((1, 0.53), (2, 0.62), (3, 0.74))]
    return [*grpo, *erpo]


def record(folder: Path, root: Path, *, arm: str, seed: int, data: str = "problems", model: str = "weights", engine: str = "verl", **config) -> None:
    """A ``run.json`` whose data and model are real files with this content."""
    (root / "files").mkdir(exist_ok=True)
    train = root / "files" / f"{data}.jsonl"
    train.write_text(data + "\n")
    start = root / "files" / model
    start.mkdir(exist_ok=True)
    (start / "model.safetensors").write_text(model)
    settings = {"algorithm": {"adv_estimator": arm}, "data": {"seed": seed, "train_batch_size": 16}, **config}
    write_record(
        folder, engine=engine, arm=arm, seed=seed, config=settings, data_files={"train": [str(train)], "val": None},
        model_path=start, versions={"numpy": version("numpy"), "no-such-package": None},
    )  # fmt: skip


HOSTILE = [
    "</script><script>window.broken = 1</script>", "<img src=x onerror='window.broken=2'>", "\u202eevil\u2066", "\x00\x07\x1b[31m",
    "ĊĊ", "Ġword", "&lt;", '"><svg onload=window.broken=3>', "â", "Ī", "]]>", "<!--", "",
]  # fmt: skip


def hostile_rollouts(path: Path) -> Path:
    """Right and wrong responses with tokens that try to break out of the page."""
    rows = [row("<b>\"'", i, right=i < 2, tokens=HOSTILE * 20, prompt=HOSTILE[0] + "\nnext line", pred=HOSTILE[1], reason=HOSTILE[0]) for i in range(4)]
    return write_rollouts(path, rows)
