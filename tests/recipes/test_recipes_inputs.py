"""The dry run of verl looks at model and rows as training and evaluation do, and what it advises works."""

from __future__ import annotations

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("verl")
from recipe_tools import command, write_problems

from erpo_verl.recipes import dry_run
from examples.arithmetic.tokenizer import build_tokenizer
from examples.tiny.model import build_model

PATH = "actor_rollout_ref.model.path"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A model, and problems, that nothing stands against."""
    folder = tmp_path_factory.mktemp("inputs")
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, seed=0, layers=1, hidden=64, intermediate=64)
    model.config.max_position_embeddings = 32768
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    write_problems(folder / "train.parquet", 256)
    write_problems(folder / "held_out.parquet", 4)
    return folder


@pytest.fixture
def check(home):
    fine = command(
        "run.sh", "grpo", "qwen1.5b", MODEL_PATH=str(home / "model"), TRAIN_FILES=str(home / "train.parquet"),
        VAL_FILES=str(home / "held_out.parquet"), HOME=str(home),
    )  # fmt: skip
    return lambda *overrides: dry_run.check(dry_run.compose([*fine, *overrides]))


def changed(home, folder, **files):
    shutil.copytree(home / "model", folder)
    for name, entries in files.items():
        file = folder / f"{name}.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))
    return folder


def test_nothing_stands_against_a_good_model(check):
    problems, notes = check()
    assert problems == [] and not any("model.path" in note for note in notes)


def test_a_missing_key_of_wandb_is_a_note(check, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))  # no netrc file, no settings
    for name in ("WANDB_MODE", "WANDB_API_KEY", "NETRC", "WANDB_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)

    def told(*loggers):
        problems, notes = check(f"trainer.logger=[{','.join(loggers)}]")
        assert problems == []
        return [note for note in notes if "W&B" in note]

    assert told("console") == []
    [note] = told("console", "wandb")
    assert "no key for https://api.wandb.ai" in note and "WANDB_MODE=offline" in note
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert told("console", "wandb") == []


def test_dropout_acts_in_verls_update_until_it_is_overridden(check, home, tmp_path):
    folder = changed(home, tmp_path / "m", config={"attention_dropout": 0.1})
    [problem], _ = check(f"{PATH}={folder}")
    advice = "+actor_rollout_ref.model.override_config.attention_dropout=0"
    assert problem == f"{PATH}={folder}: attention_dropout=0.1 of config.json acts in verl's update, not in its rollout: add {advice}"
    assert check(f"{PATH}={folder}", advice)[0] == []


def test_generation_settings_that_cannot_be_saved(check, home, tmp_path):
    folder = changed(home, tmp_path / "m", generation_config={"temperature": 0.6})
    problems, notes = check(f"{PATH}={folder}")
    words = "refuses to save its generation_config.json as it stands; it would with do_sample=true added to temperature=0.6"
    assert problems == [] and sum(words in note for note in notes) == 1
    [problem], _ = check(f"{PATH}={folder}", "actor_rollout_ref.actor.checkpoint.save_contents=[model,optimizer,extra,hf_model]")
    assert words in problem and "verl stops there when it saves hf_model" in problem


def test_an_adapter_is_told_verls_own_way(check, home, tmp_path):
    pytest.importorskip("peft")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(home / "model"), "r": 4}))
    [problem], _ = check(f"{PATH}={tmp_path}")
    assert problem == f"{PATH}={tmp_path}: an adapter; verl takes {PATH}={home / 'model'} actor_rollout_ref.model.lora_adapter_path={tmp_path}"


def test_think_as_a_special_token_is_hidden_from_verls_reward(check, tmp_path):
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    tokenizer.save_pretrained(tmp_path)
    over = f"actor_rollout_ref.model.tokenizer_path={tmp_path}"
    words = "<think> and </think> are special tokens of the tokenizer, and verl takes them out before the reward"
    problems, notes = check(over)
    assert problems == [] and any(words in note for note in notes)
    [problem], _ = check(over, "+reward.custom_reward_function.reward_kwargs.require_think=true")
    assert words in problem


def test_rows_as_verl_would_ask_them(check, home, tmp_path):
    rows = pq.read_table(home / "train.parquet").to_pylist()
    rows[5]["prompt"][0]["name"] = "ann"
    file = tmp_path / "train.parquet"
    pq.write_table(pa.Table.from_pylist(rows), file)
    [problem], _ = check(f"data.train_files={file}")
    advice = ["data.custom_cls.path=pkg://erpo_verl.verl_plugin.rows", "data.custom_cls.name=Rows"]
    assert problem == (
        f"data.train_files: {file}: messages of 255 rows (the first: row 0) have null fields, which verl hands to the chat template; add "
        + " ".join(advice)
    )
    assert check(f"data.train_files={file}", *advice)[0] == []
    rows[7]["prompt"].append({"role": "assistant", "content": "4"})
    pq.write_table(pa.Table.from_pylist(rows), file)
    [problem], _ = check(f"data.train_files={file}", *advice)
    assert f"{file}, row 7: it ends in an assistant's message, and verl would ask for another one behind it: cut that off" in problem
    problems, _ = check("+data.apply_chat_template_kwargs.continue_final_message=true")
    assert any("continue_final_message: verl asks for a new answer at the same time" in problem for problem in problems)
    rows[7]["prompt"] = [{"role": "assistant", "content": None}]
    pq.write_table(pa.Table.from_pylist(rows), file)
    [problem], _ = check(f"data.train_files={file}", *advice)
    assert f"{file}, row 7: prompt must hold messages with role and content" in problem
