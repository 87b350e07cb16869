"""Check a run of verl before it is started: without a GPU, without Ray, without loading a model.

    python -m erpo_verl.recipes.dry_run [--gpu-memory-gb 80] [--record RUN_DIR] OVERRIDE...

The overrides are those of ``verl.trainer.main_ppo``. They are composed against verl's own configuration, in this
process; then ERPO's checks, verl's, and those of this file look at the result: files, batch sizes, lengths, and
whether each phase of a step fits into a GPU (``memory``). All problems are printed, each with what to set; the exit
code is 1 if there are any.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import io
import sys
import warnings
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from erpo_verl.models.parts import ModelParts
from erpo_verl.recipes import architectures, inputs, memory
from erpo_verl.runs import wandb_key
from erpo_verl.settings import SettingsError, nearest

COLUMNS = ("data_source", "prompt", "reward_model")
"""What verl's data set and the reward read of a parquet file."""


def compose(overrides: list[str]) -> DictConfig:
    """verl's configuration with these overrides, as ``main_ppo`` would see it.

    Raises:
        ValueError: Hydra refuses an override; the message is Hydra's.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    ours = _ours(overrides)
    for override in ours:  # one by one, because Hydra's message does not say which one it could not read
        try:
            OverridesParser.create().parse_override(override)
        except HydraException as error:
            raise ValueError(f"{override}: {error}") from error
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("verl.trainer.config", version_base=None):
            return hydra_compose("ppo_trainer", overrides=ours)
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(" ".join(str(part).strip() for part in (error, error.__cause__) if part)) from error


def record(folder: Path, overrides: list[str], config: DictConfig) -> Path:
    """Write ``folder/run.json``, what the run is: by it ``erpo compare`` says whether runs may be compared.

    The settings in it are those of the overrides. Arm and seed are in the experiment's name, ``ARM-sSEED``.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from erpo_verl.runs.names import arm_and_seed
    from erpo_verl.runs.record import write_record
    from erpo_verl.runs.versions import versions

    given = OmegaConf.create({})
    for override in map(OverridesParser.create().parse_override, _ours(overrides)):
        if not override.is_delete():
            OmegaConf.update(given, override.key_or_group, override.value(), force_add=True)
    arm, named = arm_and_seed(str(config.trainer.experiment_name))
    seed = _get(config, "data.seed")
    return write_record(
        folder,
        engine="verl",
        arm=arm,
        seed=named if seed is None else seed,
        config=OmegaConf.to_container(given),
        data_files={"train": _listed(config.data.train_files), "val": _listed(config.data.val_files)},
        model_path=config.actor_rollout_ref.model.path,
        versions=versions("verl", "vllm"),
    )


def check(config: DictConfig, gpu_memory_gb: float | None = None) -> tuple[list[str], list[str]]:
    """Look at a composed configuration.

    Args:
        config: verl's configuration.
        gpu_memory_gb: memory of each GPU in GiB; None to leave the estimate out.

    Returns:
        (problems, notes): what must be changed, and what there is to say, the table of memory among it.
    """
    problems, notes = _erpo_problems(config), []
    problems += _verl_problems(config)
    model, parts, model_problems, model_notes = _model(config)
    file_problems, rows = _file_problems(config)
    reward_problems, reward_notes = ([], []) if file_problems else _reward_problems(config)
    if parts is not None:
        row_problems, row_notes = inputs.check_rows(config, parts, rows)
        file_problems, model_notes = file_problems + row_problems, model_notes + row_notes
    problems += model_problems + file_problems + reward_problems + _batch_problems(config) + _length_problems(config, model)
    notes += model_notes + reward_notes + _wandb_notes(config)
    unknown = _why_no_estimate(config) if model is not None and gpu_memory_gb is not None else None
    if unknown:
        notes.append(f"memory is not estimated: {unknown}")
    elif model is not None and gpu_memory_gb is not None:
        result = memory.estimate(model, memory.Sizes.from_config(config), gpu_memory_gb)
        notes.append(result.text())
        problems += result.problems
    return problems, notes


def _ours(overrides: list[str]) -> list[str]:
    """Without Hydra's own settings (where its log goes): they are not verl's and cannot be composed."""
    return [override for override in overrides if not override.lstrip("+~").startswith("hydra.")]


def _listed(value: Any) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def _get(config: DictConfig, key: str, default: Any = None) -> Any:
    value = OmegaConf.select(config, key, default=default)
    return default if value is None else value


def _wandb_notes(config: DictConfig) -> list[str]:
    """A note, not a problem: verl logs from a worker of Ray, which may have a key that this process has not."""
    without = wandb_key.problem() if "wandb" in _listed(config.trainer.logger) else None
    return [f"trainer.logger has wandb, and W&B has {without}; verl would stop there, after the model is loaded"] if without else []


def _erpo_problems(config: DictConfig) -> list[str]:
    from erpo_verl.verl_plugin.checks import check_config

    try:
        check_config(config)
    except SettingsError as error:
        return list(error.problems)
    return []


def _verl_problems(config: DictConfig) -> list[str]:
    """What verl says: the checks that ``main_ppo`` makes, and the dataclass that its workers build."""
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import omega_conf_to_dataclass, validate_config

    problems, estimator = [], str(_get(config, "algorithm.adv_estimator"))
    if estimator not in ADV_ESTIMATOR_REGISTRY:  # verl itself finds out after the first rollout
        known = sorted(ADV_ESTIMATOR_REGISTRY)
        problems.append(
            f"algorithm.adv_estimator={estimator}: not registered; the nearest is {nearest(estimator, known)} (there are {', '.join(known)})"
        )
    if not _has_vllm():  # verl asks vLLM which ranks of LoRA it serves; a laptop has none to ask
        config = OmegaConf.merge(config, {"actor_rollout_ref": {"model": {"lora_rank": 0}}})
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "Disabled critic", as is meant
        try:
            validate_config(config, need_reference_policy(config), need_critic(config))
        except SettingsError:
            pass  # ERPO's checks are hooked in there; they have been heard
        except Exception as error:
            problems.append(f"verl: {error}")
        try:
            omega_conf_to_dataclass(config.actor_rollout_ref.rollout)
        except Exception as error:
            problems.append(f"verl, actor_rollout_ref.rollout: {' '.join(str(error).split())}")
    return problems


def _has_vllm() -> bool:
    try:
        importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _model(config: DictConfig) -> tuple[architectures.Architecture | None, ModelParts | None, list[str], list[str]]:
    key = "actor_rollout_ref.model.path"
    path = _get(config, key)
    if Path(path).expanduser().is_dir():
        parts, problems, notes = inputs.check_model(config)
        try:
            return None if parts is None else architectures.find(path), parts, problems, notes
        except ValueError as error:  # of a family whose sizes are not known
            return None, parts, problems, [*notes, f"lengths and memory are not checked: {error}"]
    if path.startswith(("/", "./", "../", "~")):
        return None, None, [f"{key}={path}: there is no such folder"], []
    model = architectures.find(path)
    unknown = f"{path} is not among the models whose sizes are known here: lengths and memory are not checked"
    return model, None, [], [unknown] if model is None else []


def _file_problems(config: DictConfig) -> tuple[list[str], dict[str, list[Path]]]:
    """(problems, the parquet files whose rows can be looked at, by key)."""
    problems, rows, readable = [], {}, {}
    for key in ("data.train_files", "data.val_files"):
        rows[key], readable[key] = 0, []
        for file in _listed(_get(config, key)):
            if "://" in file:
                return problems, readable  # verl will fetch it
            path = Path(file).expanduser()
            if not path.is_file():
                problems.append(f"{key}: {file} is missing; make it with `erpo prepare`, or name your own")
            elif path.suffix == ".parquet":
                found, number = _parquet(path)
                rows[key] += number
                if isinstance(found, str):
                    problems.append(f"{key}: {file} cannot be read: {found}")
                elif lacking := [column for column in COLUMNS if column not in found]:
                    problems.append(f"{key}: {file} has no column {', '.join(lacking)}; it has {', '.join(found)}")
                else:
                    readable[key].append(path)
    batch = _get(config, "data.train_batch_size")
    if not problems and 0 < rows["data.train_files"] < batch:
        problems.append(
            f"data.train_batch_size={batch}: more than the {rows['data.train_files']} problems of data.train_files"
        )
    return problems, readable


def _reward_problems(config: DictConfig) -> tuple[list[str], list[str]]:
    """(rows that cannot be used, what there is to say of the golds): every row is read, and its gold by the maths reward, where that judges."""
    from erpo_verl import golds
    from erpo_verl.reward import RewardConfigError, RewardSetupError
    from erpo_verl.rows import RowError

    custom = config.reward.custom_reward_function
    maths = golds.is_maths_reward(custom.path, custom.name)
    settings = dict(OmegaConf.to_container(custom.get("reward_kwargs") or OmegaConf.create({}))) if maths else None
    problems, notes = [], []
    for key in ("data.train_files", "data.val_files"):
        try:
            files = _listed(_get(config, key))
            found = golds.of_files(files, settings, source_key=config.data.reward_fn_key)
            notes += [f"{key}: {line}" for line in found]
        except (RowError, RewardConfigError) as error:
            problems.append(f"{key}: {error}")
        except RewardSetupError as error:
            problems.append(f"the maths reward cannot be started: {error}")
            break
    return problems, notes


def _parquet(path: Path) -> tuple[list[str] | str, int]:
    """(its columns, or why it cannot be read; number of rows)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        return list(file.schema_arrow.names), file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        return " ".join(str(error).split()), 0


def _batch_problems(config: DictConfig) -> list[str]:
    problems = []
    role = "actor_rollout_ref"
    gpus = _get(config, "trainer.n_gpus_per_node") * _get(config, "trainer.nnodes")
    batch, mini = _get(config, "data.train_batch_size"), _get(config, f"{role}.actor.ppo_mini_batch_size")
    n, tensor = _get(config, f"{role}.rollout.n"), _get(config, f"{role}.rollout.tensor_model_parallel_size")
    parallel = _sequence_parallel(config)
    for key, value in (
        (f"{role}.rollout.tensor_model_parallel_size", tensor),
        (f"{role}.actor.ulysses_sequence_parallel_size", parallel),
    ):
        if gpus % value:
            problems.append(f"{key}={value}: must be a divisor of the {gpus} GPUs")
    if batch % mini:
        problems.append(f"data.train_batch_size={batch}: must be a multiple of {role}.actor.ppo_mini_batch_size={mini}")
    if gpus % parallel == 0 and mini * n % (gpus // parallel):
        problems.append(
            f"{role}.actor.ppo_mini_batch_size={mini} x {role}.rollout.n={n}: must be a multiple of the"
            f" {gpus // parallel} GPUs that each take a share"
        )
    dynamic, log_prob = (
        _get(config, f"{role}.actor.use_dynamic_bsz"),
        _get(config, f"{role}.rollout.log_prob_use_dynamic_bsz"),
    )
    if dynamic != log_prob:
        problems.append(
            f"{role}.rollout.log_prob_use_dynamic_bsz={log_prob}: must be as {role}.actor.use_dynamic_bsz={dynamic}"
        )
    return problems


def _length_problems(config: DictConfig, model: architectures.Architecture | None) -> list[str]:
    problems = []
    role = "actor_rollout_ref"
    prompt, response = _get(config, "data.max_prompt_length"), _get(config, "data.max_response_length")
    longest = prompt + response
    words = f"data.max_prompt_length={prompt} + data.max_response_length={response}"
    engine = _get(config, f"{role}.rollout.max_model_len")
    if model is not None and longest > model.max_positions:
        problems.append(
            f"{words}: more than the model's context of {model.max_positions} tokens (max_position_embeddings)"
        )
    elif model is not None and engine is not None and engine > model.max_positions:
        problems.append(
            f"{role}.rollout.max_model_len={engine}: more than the model's context of {model.max_positions} tokens"
        )
    if engine is not None and engine < longest:
        problems.append(f"{role}.rollout.max_model_len={engine}: less than {words}; answers would be cut off there")
    if _get(config, f"{role}.actor.use_dynamic_bsz"):
        parallel = _sequence_parallel(config)
        keys = (f"{role}.actor.ppo_max_token_len_per_gpu", f"{role}.rollout.log_prob_max_token_len_per_gpu")
        if _get(config, f"{role}.actor.use_kl_loss", False) or _get(config, "algorithm.use_kl_in_reward", False):
            keys += (f"{role}.ref.log_prob_max_token_len_per_gpu",)
        for key in keys:
            budget = _get(config, key)
            if budget * parallel < longest:
                problems.append(f"{key}={budget}: less than {words}; verl stops at the first response of that length")
    tensor = _get(config, f"{role}.rollout.tensor_model_parallel_size")
    if model is not None and model.heads % tensor:
        problems.append(
            f"{role}.rollout.tensor_model_parallel_size={tensor}: vLLM cannot share the {model.heads} heads among them"
        )
    return problems


def _sequence_parallel(config: DictConfig) -> int:
    keys = (
        "actor_rollout_ref.actor.ulysses_sequence_parallel_size",
        "actor_rollout_ref.actor.fsdp_config.ulysses_sequence_parallel_size",
    )
    return max(_get(config, key, 1) for key in keys)


def _why_no_estimate(config: DictConfig) -> str | None:
    role = "actor_rollout_ref"
    if _get(config, "trainer.device") != "cuda":
        return f"trainer.device={_get(config, 'trainer.device')}"
    known = (
        (f"{role}.actor.strategy", ("fsdp", "fsdp2")),
        (f"{role}.rollout.name", ("vllm",)),
        (f"{role}.actor.fsdp_config.model_dtype", memory.DTYPES),
        (f"{role}.ref.fsdp_config.model_dtype", memory.DTYPES),
    )
    for key, values in known:
        if _get(config, key) not in values:
            return f"{key}={_get(config, key)}"
    if _get(config, "trainer.use_v1") and _get(config, "trainer.v1.trainer_mode") == "separate_async":
        return "trainer.v1.trainer_mode=separate_async has the rollouts on GPUs of their own"
    return None


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu-memory-gb", type=float, default=80.0, help="memory of each GPU in GiB (80)")
    parser.add_argument("--record", type=Path, metavar="RUN_DIR", help="write RUN_DIR/run.json if all is well")
    parser.add_argument("--no-check", action="store_true", help="only compose, and record")
    parser.add_argument("overrides", nargs="*", help="overrides of verl.trainer.main_ppo")
    args = parser.parse_args(argv)
    try:
        config = compose(args.overrides)
    except ValueError as error:
        print(f"not a configuration of verl: {error}", file=sys.stderr)
        return 1
    problems, notes = ([], []) if args.no_check else check(config, args.gpu_memory_gb)
    for note in notes:
        print(note)
    if problems:
        print(f"{len(problems)} to mend before the start:", file=sys.stderr)
        for problem in problems:
            print(f"  - {problem}", file=sys.stderr)
        return 1
    if not args.no_check:
        print("Checked. Nothing stands against a start.")
    if args.record is not None:
        record(args.record, args.overrides, config)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
