"""Every recipe composes against verl's configuration, passes the checks, fits its GPUs, and differs from its twins in
the algorithm alone.

About half a minute: bash prints each recipe's command, and all are composed in this one process.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("verl")

from omegaconf import OmegaConf
from recipe_tools import ARMS, MODELS, ROOT, SCRIPTS, clean_environment, command, write_problems

from erpo_verl import ErpoConfig
from erpo_verl.recipes import dry_run, memory
from erpo_verl.recipes.architectures import find
from erpo_verl.reports.comparable import NOT_COMPARABLE, issues
from erpo_verl.reports.runs import read_run
from examples.arithmetic.tokenizer import build_tokenizer
from examples.tiny.model import build_model

DOCS = (ROOT / "docs" / "recipes.md").read_text()
ALGORITHMS = ("grpo", "erpo")
NAMED_AFTER_THE_RUN = {
    "trainer.experiment_name",
    "trainer.default_local_dir",
    "ray_kwargs.ray_init.runtime_env.env_vars.VERL_FILE_LOGGER_PATH",
    "ray_kwargs.ray_init.runtime_env.env_vars.WANDB_DIR",
    # verl interpolates the experiment's name here.
    "actor_rollout_ref.rollout.trace.experiment_name",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    """Small problems and a small model whose context is as long as a recipe may want it."""
    folder = tmp_path_factory.mktemp("files")
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, seed=0, layers=1)
    model.config.max_position_embeddings = 32768
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    train = write_problems(folder / "train.parquet", 256)
    held_out = [write_problems(folder / f"held out {i}.parquet", 3) for i in range(2)]
    return {
        "MODEL_PATH": str(folder / "model"),
        "TRAIN_FILES": str(train),
        "VAL_FILES": ",".join(map(str, held_out)),
        "HOME": str(folder),
    }


@functools.cache
def composed(script: str, arguments: tuple[str, ...] = (), variables: tuple[tuple[str, str], ...] = ()):
    return dry_run.compose(command(script, *arguments, **dict(variables)))


def flat(config) -> dict[str, object]:
    out: dict[str, object] = {}

    def walk(prefix: str, value) -> None:
        if isinstance(value, dict) and value:
            for name, inner in value.items():
                walk(f"{prefix}.{name}" if prefix else str(name), inner)
        else:
            out[prefix] = value

    walk("", OmegaConf.to_container(config, resolve=False))
    out["trainer.experiment_name"] = config.trainer.experiment_name
    return out


def card(model: str) -> float:
    """Memory of a GPU that the recipes of a model are made for."""
    source = (
        f'source "{SCRIPTS}/recipes/{model}.sh"; source "{SCRIPTS}/recipes/defaults.sh"; echo "$GPU_MEMORY_GB $GPUS"'
    )
    done = subprocess.run(["bash", "-euc", source], env=clean_environment(), capture_output=True, text=True, check=True)
    return float(done.stdout.split()[0])


def recipe(algorithm: str, model: str, files: dict[str, str]):
    return composed("run.sh", (algorithm, model), tuple(files.items()))


def differences(one: dict[str, object], other: dict[str, object]) -> dict[str, tuple[object, object]]:
    """Keys in which two runs differ, but for those that carry the run's name."""
    keys = (one.keys() | other.keys()) - NAMED_AFTER_THE_RUN
    return {key: (one.get(key), other.get(key)) for key in keys if repr(one.get(key)) != repr(other.get(key))}


@pytest.mark.parametrize("model", MODELS)
def test_a_pair_differs_in_the_estimator_alone(model, files):
    grpo, erpo = (flat(recipe(algorithm, model, files)) for algorithm in ALGORITHMS)
    assert differences(grpo, erpo) == {"algorithm.adv_estimator": ("grpo", "erpo")}
    assert [s["trainer.experiment_name"] for s in (grpo, erpo)] == [f"grpo_{model}-s1", f"erpo_{model}-s1"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_named_recipes_are_run_sh(algorithm, files):
    named = command(f"run_{algorithm}_qwen7b.sh", "data.seed=9", **files)
    assert named == command("run.sh", algorithm, "qwen7b", "data.seed=9", **files)


def test_any_registered_estimator_has_recipes_and_no_other(files):
    problems, _ = dry_run.check(recipe("rloo", "qwen1.5b", files), 80)
    assert problems == []
    problems, _ = dry_run.check(recipe("erop", "qwen1.5b", files), 80)
    (problem,) = problems
    assert "algorithm.adv_estimator=erop: not registered; the nearest is erpo" in problem


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("erpo", "qwen9b"), "no model 'qwen9b'; the models: qwen1.5b"),
        (("erpo", "defaults"), "no model 'defaults'"),
        (("erpo", "../sweep"), "no model '../sweep'"),
        (("erpo",), "bash scripts/run.sh ALGORITHM MODEL"),
        (("erpo", "data.seed=1"), "bash scripts/run.sh ALGORITHM MODEL"),
    ],
)
def test_a_call_that_names_no_recipe(arguments, expected):
    done = subprocess.run(
        ["bash", str(SCRIPTS / "run.sh"), *arguments], env=clean_environment(DRY_RUN="print"), capture_output=True, text=True
    )
    assert done.returncode == 2 and expected in done.stderr and done.stdout == ""


@pytest.mark.parametrize("model", MODELS)
def test_recipes_fit_the_gpus_that_they_name(model, files):
    """With the sizes of the real model, from the table; only the problems are stand-ins."""
    stand_in = {name: value for name, value in files.items() if name != "MODEL_PATH"}
    config = recipe("erpo", model, stand_in)
    problems, notes = dry_run.check(config, card(model))
    assert problems == []
    (table,) = notes
    assert "DOES NOT FIT" not in table and table.count("fits") == 4


@pytest.mark.parametrize("model", MODELS)
def test_the_docs_have_each_recipe_with_its_sizes_and_its_estimate(model, files):
    stand_in = {name: value for name, value in files.items() if name != "MODEL_PATH"}
    config = recipe("erpo", model, stand_in)
    (row,) = (line for line in DOCS.splitlines() if line.startswith(f"| `{model}` |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    data, role = config.data, config.actor_rollout_ref
    assert cells[1].startswith(role.model.path.split("/")[1])
    assert cells[2] == f"{config.trainer.n_gpus_per_node} x {card(model):g} GB"
    assert cells[3] == f"{data.train_batch_size} x {role.rollout.n}, {role.actor.ppo_mini_batch_size}"
    assert cells[4] == f"{data.max_prompt_length} + {data.max_response_length}"
    result = memory.estimate(find(role.model.path), memory.Sizes.from_config(config), card(model))
    phase = max(result.phases, key=lambda phase: phase.gib)
    assert cells[5] == f"{phase.gib:.0f} GiB, {phase.name}"


def test_the_docs_name_the_variables_that_there_are():
    section = DOCS[DOCS.index("| variable | default | meaning |") : DOCS.index("W&B: `WANDB_MODE`")]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`([A-Z][A-Z_]+)`", row)}
    text = "".join(path.read_text() for path in [SCRIPTS / "run.sh", *(SCRIPTS / "recipes").glob("*.sh")])
    used = set(re.findall(r"\$\{([A-Z][A-Z_]+):-", text)) - {
        "HOME",
        "NETRC",
        "RAY_ADDRESS",
        "WANDB_MODE",
        "WANDB_API_KEY",
    }
    assert named == used


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_recipe_passes_with_a_model_on_the_disk(algorithm, model, files):
    problems, notes = dry_run.check(recipe(algorithm, model, files), 80)
    assert problems == []
    assert "Memory of one GPU of 80 GiB" in notes[0]


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_composes_and_passes(arm, files):
    problems, _ = dry_run.check(composed("run_ablation.sh", (arm, "qwen1.5b"), tuple(files.items())), 80)
    assert problems == []


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_differs_from_grpo_in_the_algorithm_alone(arm, files):
    """... or in the loss, where its line says so."""
    grpo = flat(recipe("grpo", "qwen1.5b", files))
    keys = differences(grpo, flat(composed("run_ablation.sh", (arm, "qwen1.5b"), tuple(files.items()))))
    others = {key for key in keys if not key.startswith("algorithm.")}
    (line,) = (line for line in (SCRIPTS / "ablations.txt").read_text().splitlines() if line.split("|")[0].strip() == arm)
    assert all(key.startswith("actor_rollout_ref.actor.policy_loss.") and f"{key}=" in line for key in others)


def test_arms_are_erpo_and_what_their_line_says(files):
    erpo = flat(recipe("erpo", "qwen1.5b", files))
    for arm, expected in {
        "erpo": {"algorithm.erpo.preset": "erpo"},
        "gate_mean_one_only": {"algorithm.erpo.gate.normalize": "mean_one", "algorithm.erpo.progress.enable": False},
        "decay_200": {"algorithm.erpo.progress.decay_steps": 200},
        "grpo": {"algorithm.adv_estimator": "grpo"},
    }.items():
        settings = flat(composed("run_ablation.sh", (arm, "qwen1.5b"), tuple(files.items())))
        assert {key: new for key, (_, new) in differences(erpo, settings).items()} == expected, arm


def test_every_setting_of_erpo_has_an_arm():
    table = (SCRIPTS / "ablations.txt").read_text()
    for row in ErpoConfig.settings():
        assert f"algorithm.erpo.{row.name}=" in table, row.name


def test_the_record_of_a_pair_says_that_it_may_be_compared(files, tmp_path):
    """What a start leaves in run.json, read by `erpo compare`'s own checks."""
    runs = []
    for seed in ("1", "2"):
        for algorithm in ("grpo", "erpo"):
            folder = tmp_path / f"{algorithm}-s{seed}"
            folder.mkdir()
            overrides = command(f"run_{algorithm}_qwen7b.sh", **files, SEED=seed, RUN_DIR=str(folder))
            assert dry_run.main(["--gpu-memory-gb", "80", "--record", str(folder), *overrides]) == 0
            entry = {"step": 1, "data": {"critic/score/mean": 0.5, "val-core/sum/acc/mean@4": 0.5 + len(runs) / 10}}
            (folder / "metrics.jsonl").write_text(json.dumps(entry) + "\n")
            runs.append(read_run(folder))
    record = json.loads((tmp_path / "erpo-s2" / "run.json").read_text())
    assert (record["engine"], record["arm"], record["seed"]) == ("verl", "erpo_qwen7b", 2)
    assert record["config"]["actor_rollout_ref"]["actor"]["policy_loss"]["loss_mode"] == "vanilla"
    assert record["config"]["data"]["val_files"] == files["VAL_FILES"].split(",")
    assert record["model"]["sha256"] and all(entry["sha256"] for entry in record["data"])
    assert [issue.text for issue in issues(runs) if issue.level == NOT_COMPARABLE] == []


def test_a_run_that_is_refused_leaves_no_record(files, tmp_path, capsys):
    overrides = command("run_erpo_qwen7b.sh", **files)
    assert dry_run.main(["--record", str(tmp_path), *overrides, "actor_rollout_ref.rollout.n=1"]) == 1
    assert list(tmp_path.iterdir()) == [] and "rollout.n=1" in capsys.readouterr().err
    assert dry_run.main(["--record", str(tmp_path), "--no-check", *overrides, "actor_rollout_ref.rollout.n=1"]) == 0
    assert json.loads((tmp_path / "run.json").read_text())["config"]["actor_rollout_ref"]["rollout"]["n"] == 1


def test_environment_and_arguments_win(files):
    variables = (*files.items(), ("LR", "3e-6"), ("N", "4"), ("SEED", "7"), ("NNODES", "2"))
    config = composed(
        "run_erpo_qwen7b.sh", ("actor_rollout_ref.rollout.n=16", "+algorithm.erpo.gate.gamma=3"), variables
    )
    assert config.actor_rollout_ref.actor.optim.lr == 3e-6
    assert config.actor_rollout_ref.rollout.n == 16  # an argument comes after the environment
    assert config.algorithm.erpo.gate.gamma == 3
    assert (config.data.seed, config.actor_rollout_ref.rollout.seed, config.trainer.nnodes) == (7, 7, 2)
    assert [Path(file).name for file in config.data.val_files] == ["held out 0.parquet", "held out 1.parquet"]
    assert config.trainer.experiment_name == "erpo_qwen7b-s7"


def test_no_secret_is_named():
    for path in SHELL:
        text = path.read_text()
        assert "_KEY=" not in text and "TOKEN=" not in text and "wandb login" not in text, path


SHELL = sorted([*SCRIPTS.glob("*.sh"), *(SCRIPTS / "recipes").glob("*.sh"), *ROOT.glob("examples/*/*.sh"), ROOT / ".ci" / "run"])
SHELLCHECK = shutil.which("shellcheck", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))


@pytest.mark.parametrize("path", SHELL, ids=lambda p: p.name)
def test_bash_reads_it(path):
    subprocess.run(["bash", "-n", str(path)], check=True)


@pytest.mark.skipif(SHELLCHECK is None, reason="shellcheck is not installed")
def test_shellcheck():
    # SC1091: files that are sourced by a computed name. SC2034: what a model's recipe sets is read by the script that sources it.
    done = subprocess.run([SHELLCHECK, "-s", "bash", "-e", "SC1091,SC2034", *map(str, SHELL)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
