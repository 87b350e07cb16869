"""The engine's settings: verl's names and defaults, one check for all, problems that say what to do."""

import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import ReadonlyConfigError

from erpo_verl import methods
from erpo_verl.trainer.schema import KEYS, REQUIRED
from erpo_verl.trainer.settings import SettingsError, compose, help_text

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ["data.train_files=train.parquet", "actor_rollout_ref.model.path=model"]
REFERENCE = "actor_rollout_ref.actor.use_kl_loss=true"


def problems(*arguments):
    with pytest.raises(SettingsError) as error:
        compose([*NEEDED, *arguments])
    return error.value.problems


def test_defaults_and_every_key():
    settings = compose([*NEEDED, REFERENCE])
    for key in KEYS:
        if key.default == {} and key.name.startswith("algorithm."):
            continue  # of a method: filled in where it is in use
        value = OmegaConf.select(settings, key.name, throw_on_missing=True)
        if key.name not in ("data.seed", REFERENCE.partition("=")[0]) and key.default not in (REQUIRED, {}, "erpo") and "${" not in str(key.default):
            assert (OmegaConf.to_container(value) if OmegaConf.is_config(value) else value) == key.default
            assert key.accepts(key.default), key.name
    assert settings.algorithm.erpo.gate.gamma == 5.0  # the method's own settings are filled in
    assert "erpo" not in compose([*NEEDED, "algorithm.adv_estimator=grpo"]).algorithm
    given = compose([*NEEDED, "algorithm.adv_estimator=grpo", "algorithm.erpo.gate.gamma=3"]).algorithm
    assert given.erpo.gate.gamma == 3.0 and given.erpo.progress.eta == 0.2  # another's are checked and kept
    assert settings.trainer.default_local_dir == "checkpoints/erpo_verl/run"
    assert settings.data.seed == 1  # null means that
    with pytest.raises(ReadonlyConfigError):
        settings.data.seed = 3


def verl_defaults():
    pytest.importorskip("verl")
    import verl
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    with initialize_config_dir(str(Path(verl.__file__).parent / "trainer" / "config"), version_base=None):
        return hydra_compose("ppo_trainer")


# Ours alone, or a default that the help text explains.
NOT_VERLS = {
    "trainer.rollout_data_freq", "trainer.save_final_model", "trainer.resume_data", "algorithm.filter_groups.max_empty_batches",
    "data.template_date", "actor_rollout_ref.model.adapter", "actor_rollout_ref.model.disable_dropout",
    "actor_rollout_ref.model.override_config.attn_implementation",  # verl's override_config is an open mapping
    "reward.custom_reward_function.reward_kwargs", # open in verl too
    *(f"algorithm.{name}" for name in methods.registered()),
}  # fmt: skip
OTHER_DEFAULTS = {
    "data.train_files", "data.val_files", "actor_rollout_ref.model.path",  # paths
    "actor_rollout_ref.actor.strategy", "actor_rollout_ref.actor.fsdp_config.dtype", "actor_rollout_ref.rollout.name",
    "actor_rollout_ref.rollout.n", "actor_rollout_ref.rollout.dtype", "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu",
    "algorithm.adv_estimator", "trainer.project_name", "trainer.experiment_name", "trainer.logger", "trainer.n_gpus_per_node",
    "trainer.device", "algorithm.rollout_correction.bypass_mode",
}  # fmt: skip


def test_names_and_defaults_are_verls():
    verl = verl_defaults()
    for key in KEYS:
        if key.name in NOT_VERLS:
            continue
        parent, _, last = key.name.rpartition(".")
        section = OmegaConf.to_container(OmegaConf.select(verl, parent), resolve=False)
        assert last in section, f"{key.name} is no key of verl's"
        if key.name in OTHER_DEFAULTS:
            continue
        value = section[last]
        assert value == key.default, f"{key.name}: verl's default is {value!r}"


def test_every_choice_of_an_estimator_is_verls():
    core = pytest.importorskip("verl.trainer.ppo.core_algos")
    import torch

    from erpo_verl.policy_loss import AGGREGATION_MODES

    by_name = {key.name: key for key in KEYS}
    a, b = torch.tensor([[-1.0]]), torch.tensor([[-2.0]])
    for kind in by_name["actor_rollout_ref.actor.kl_loss_type"].choices:
        assert core.kl_penalty_forward(a, b, kind).isfinite().all()
    assert set(by_name["actor_rollout_ref.actor.loss_agg_mode"].choices) <= set(AGGREGATION_MODES)


def test_a_yaml_file_then_overrides(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("data:\n  train_files: [a.parquet, b.parquet]\n  seed: 3\nactor_rollout_ref.model.path: m\nalgorithm: {adv_estimator: grpo}\n")
    settings = compose([str(file), "data.seed=4", "+trainer.total_training_steps=7", "++algorithm.norm_adv_by_std_in_grpo=false"])
    assert settings.data.train_files == ["a.parquet", "b.parquet"]
    assert (settings.data.seed, settings.trainer.total_training_steps) == (4, 7)
    assert settings.algorithm.norm_adv_by_std_in_grpo is False
    assert settings.actor_rollout_ref.model.path == "m"


def test_interpolation_and_lists():
    settings = compose([*NEEDED, REFERENCE, "trainer.experiment_name=erpo-s${data.seed}", "data.seed=5", 'trainer.logger=["console","wandb"]'])
    assert settings.trainer.experiment_name == "erpo-s5"
    assert settings.trainer.default_local_dir.endswith("/erpo-s5")
    assert list(settings.trainer.logger) == ["console", "wandb"]
    assert compose([*NEEDED, REFERENCE, "trainer.experiment_name=erpo-s${data.seed}"]).trainer.experiment_name == "erpo-s1"


def test_a_file_that_is_not_yaml_is_one_line_with_its_place(tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text("data: [1\ntrainer: 2")
    (problem,) = problems(str(file))
    assert "bad.yaml: not YAML: " in problem and "line 2" in problem and "\n" not in problem


def test_a_section_that_is_no_mapping_is_one_problem():
    assert problems("trainer=null") == ["trainer=None: must be a mapping"]
    assert "save_contents" in problems(REFERENCE, "actor_rollout_ref.actor.checkpoint.save_contents=[1,[a]]")[0]


@pytest.mark.parametrize(
    ("argument", "parts"),
    [
        ("data.train_batchsize=3", ["data.train_batchsize=3", "data.train_batch_size", "an integer >= 1"]),
        ("actor_rollout_ref.actor.optim.learning_rate=1", ["not supported by this engine", "actor_rollout_ref.actor.optim."]),
        ("actor_rollout_ref.rollout.tensor_model_parallel_size=2", ["not supported by this engine"]),
        ("data.train_batch_size=0", ["data.train_batch_size=0", "an integer >= 1"]),
        ("data.train_batch_size=many", ["data.train_batch_size='many'"]),
        ("actor_rollout_ref.actor.loss_agg_mode=mean", ["token-mean"]),
        ("actor_rollout_ref.rollout.top_p=1.5", ["top_p=1.5", "<= 1"]),
        ("algorithm.adv_estimator=gae", ["algorithm.adv_estimator='gae'", "erpo, grpo"]),
        ("+algorithm.erpo.gate.gama=3", ["algorithm.erpo.gate.gama = 3", "algorithm.erpo.gate.gamma"]),
        ("algorithm.erpo.buckets.count=0", ["algorithm.erpo.buckets.count = 0"]),
        ("data=3", ["data=3"]),
        ("--config-name=x", ["expected a YAML file or key=value"]),
        ("nothing.yaml", ["nothing.yaml: no such file"]),
        ("trainer.experiment_name=${nowhere.x}", ["nowhere.x"]),
        ("actor_rollout_ref.actor.ppo_mini_batch_size=7", ["must divide data.train_batch_size=1024"]),
        ("actor_rollout_ref.rollout.n=1", ["compares the responses of a group"]),
        ("actor_rollout_ref.rollout.top_k=0", ["top_k=0"]),
        ("actor_rollout_ref.rollout.val_kwargs.n=4", ["greedy responses are all the same"]),
        ("actor_rollout_ref.actor.optim.betas=[0.9]", ["two numbers"]),
        ('actor_rollout_ref.actor.checkpoint.save_contents=["model"]', ["belong together"]),
        ("trainer.resume_mode=resume_path", ["resume_path wants a path"]),
        ("trainer.test_freq=5", ["data.val_files is null"]),
        ("actor_rollout_ref.rollout.max_model_len=100", ["at least data.max_prompt_length"]),
        ("trainer.nnodes=2", ["one of 1"]),
    ],
)
def test_one_problem_says_key_value_and_what_is_allowed(argument, parts):
    text = "\n".join(problems(REFERENCE, argument))
    for part in parts:
        assert part in text


def test_progress_needs_a_reference_and_says_how():
    (problem,) = problems()
    assert "actor_rollout_ref.actor.use_kl_loss=true" in problem and "progress.enable=false" in problem
    compose([*NEEDED, "algorithm.erpo.progress.enable=false"])
    compose([*NEEDED, "algorithm.adv_estimator=grpo"])
    compose([*NEEDED, "algorithm.use_kl_in_reward=true"])


def test_all_problems_at_once():
    found = problems("data.train_batchsize=3", "data.max_prompt_length=-1", "trainer.save_freq=x")
    assert len(found) == 3


def test_missing_paths_are_named():
    with pytest.raises(SettingsError) as error:
        compose([])
    text = str(error.value)
    assert "data.train_files is not given" in text and "actor_rollout_ref.model.path is not given" in text


def test_help_names_every_key():
    text = help_text()
    own = {f"algorithm.{method.name}": method for method in methods.all_methods()}
    assert all(key.name in text and key.help in text for key in KEYS if key.name not in own)
    for name, method in own.items():
        assert all(f"  {name}.{item.name} = {item.written}\n" in text and item.help in text for item in method.settings.settings())


def test_the_docs_table_is_the_schema():
    text = (ROOT / "docs" / "trainer.md").read_text()
    for key in KEYS:
        assert f"| `{key.name}` |" in text, key.name


@pytest.mark.parametrize("task", ["arithmetic", "gsm8k", "math", "own_task"])
def test_a_pair_of_examples_differs_in_the_algorithm_alone(task):
    grpo, erpo = (OmegaConf.to_container(compose([str(ROOT / "examples" / task / f"{name}.yaml")])) for name in ("grpo", "erpo"))
    assert grpo["algorithm"].pop("adv_estimator") == "grpo" and erpo["algorithm"].pop("adv_estimator") == "erpo"
    erpo["algorithm"].pop("erpo"), grpo["algorithm"].pop("grpo")
    for settings, name in ((grpo, "grpo"), (erpo, "erpo")):
        assert settings["trainer"].pop("experiment_name") == f"{name}-s1"
        assert settings["trainer"].pop("default_local_dir").endswith(f"{name}-s1")
    assert grpo == erpo


def test_the_quickstarts_command_for_main_ppo_is_taken_unchanged():
    from examples.arithmetic.train_verl import arguments

    settings = compose(arguments("erpo", Path("m"), Path("d"), 30, 1))
    assert settings.actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu == 64
    assert settings.actor_rollout_ref.rollout.val_kwargs.n == 2
    assert settings.reward.custom_reward_function.path == "pkg://erpo_verl.reward"


def test_a_wrong_key_is_answered_before_torch_is_loaded():
    code = (
        "import sys\nfrom erpo_verl.trainer.run import train\n"
        "code = train(['data.train_files=x', 'actor_rollout_ref.model.path=y', 'data.sed=1'])\n"
        "print(code, 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "False", "False"]
    assert "data.sed=1" in done.stderr and "data.seed" in done.stderr
