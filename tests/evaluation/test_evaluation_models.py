"""Models as users bring them to `erpo evaluate`: adapters, models without a known context, special think tokens, dates."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("math_verify")
pq = pytest.importorskip("pyarrow.parquet")
import torch  # noqa: E402
import transformers  # noqa: E402

from erpo_verl.cli import main  # noqa: E402
from erpo_verl.evaluation import models  # noqa: E402
from erpo_verl.rollout import Response  # noqa: E402
from examples.arithmetic import prepare  # noqa: E402
from examples.arithmetic.tokenizer import build_tokenizer  # noqa: E402
from examples.tiny.model import build_model  # noqa: E402

TOKENIZER = build_tokenizer()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare.write(tmp_path_factory.mktemp("data"), {"test": 6}, levels=(3, 4))["test"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    out = tmp_path_factory.mktemp("models") / "plain"
    build_model(TOKENIZER, seed=1, layers=1, hidden=64, intermediate=64).save_pretrained(out)
    TOKENIZER.save_pretrained(out)
    return out


def evaluate(model, data, out, *more) -> int:
    return main(
        ["evaluate", "--model", str(model), "--data", str(data), "--out", str(out), "--engine", "hf", "--device", "cpu", "--k", "2",
         "--temperature", "1.0", "--max-tokens", "12", "--quiet", *more]
    )  # fmt: skip


def rows(out):
    return pq.read_table(out / "samples.parquet").to_pylist()


def test_an_adapter_is_evaluated_as_its_merged_model(model, data, tmp_path, capsys):
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(
        transformers.AutoModelForCausalLM.from_pretrained(model), peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "up_proj"])
    )
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    adapted.save_pretrained(tmp_path / "adapter")
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    TOKENIZER.save_pretrained(tmp_path / "merged")
    for name in ("adapter", "merged"):
        assert evaluate(tmp_path / name, data, tmp_path / f"of_{name}") == 0
    assert evaluate(model, data, tmp_path / "of_base") == 0
    found = {name: [row["response"] for row in rows(tmp_path / f"of_{name}")] for name in ("adapter", "merged", "base")}
    assert found["adapter"] == found["merged"] != found["base"]
    before = json.loads((tmp_path / "of_adapter" / "settings.json").read_text())["model_fingerprint"]
    assert before != json.loads((tmp_path / "of_base" / "settings.json").read_text())["model_fingerprint"]
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    assert evaluate(tmp_path / "adapter", data, tmp_path / "again") == 1
    assert f"--model {tmp_path / 'adapter'} (an adapter of {model}): the folder holds no weights" in capsys.readouterr().err


def test_a_model_without_a_known_context(data, tmp_path, capsys):
    """Mamba has no positions: the advice is followed, and generate() samples with a word."""
    config = transformers.Mamba2Config(
        vocab_size=len(TOKENIZER), hidden_size=32, num_hidden_layers=1, num_heads=4, head_dim=16, n_groups=1, state_size=8,
        pad_token_id=TOKENIZER.pad_token_id, eos_token_id=TOKENIZER.eos_token_id,
    )  # fmt: skip
    transformers.Mamba2ForCausalLM(config).save_pretrained(tmp_path / "m")
    TOKENIZER.save_pretrained(tmp_path / "m")
    assert evaluate(tmp_path / "m", data, tmp_path / "out") == 1
    assert f"--model {tmp_path / 'm'}: its config.json does not say how long its context is; give --max-prompt-tokens" in capsys.readouterr().err
    assert evaluate(tmp_path / "m", data, tmp_path / "out", "--max-prompt-tokens", "20") == 0
    assert "rollout: a mamba2 keeps its states in a way of its own" in capsys.readouterr().err
    assert len(rows(tmp_path / "out")) == 12


def test_an_unclosed_think_is_not_paid_where_it_is_a_special_token(data, tmp_path, monkeypatch, model, capsys):
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    larger = transformers.AutoModelForCausalLM.from_pretrained(model)
    larger.resize_token_embeddings(len(tokenizer))
    larger.save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    think, closed = tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
    golds = {row["extra_info"]["problem"]: row["reward_model"]["ground_truth"] for row in pq.read_table(data).to_pylist()}

    class Engine:
        note = None

        def generate(self, prompts, params, progress=None):
            found = []
            for prompt in prompts:
                gold = next(g for problem, g in golds.items() if problem in tokenizer.decode(prompt))
                box = tokenizer(f"\\boxed{{{gold}}}", add_special_tokens=False)["input_ids"]
                begun = [think, *box, tokenizer.eos_token_id]
                ended = [think, closed, *box, tokenizer.eos_token_id]
                found.append([Response(tokens, [0.0] * len(tokens), True) for tokens in (begun, ended)])
            return found

        def close(self):
            pass

    monkeypatch.setattr(models, "hf_engine", lambda parts, settings: Engine())
    assert evaluate(tmp_path / "m", data, tmp_path / "out") == 0
    found = rows(tmp_path / "out")
    assert [row["acc"] for row in found] == [0, 1] * 6
    assert all(row["response"].startswith("<think>") for row in found)


def test_an_evaluation_that_goes_on_another_day_asks_with_the_same_prompts(model, data, tmp_path, capsys):
    dated = build_tokenizer()
    dated.chat_template = "{{ strftime_now('%d%Y') }}" + dated.chat_template
    dated.save_pretrained(tmp_path / "dated")
    more = ("--tokenizer", str(tmp_path / "dated"))
    assert evaluate(model, data, tmp_path / "out", *more) == 0
    settings = tmp_path / "out" / "settings.json"
    begun = json.loads(settings.read_text())
    assert f"the chat template prints the date: {begun['template_date']}" in capsys.readouterr().err
    settings.write_text(json.dumps({**begun, "template_date": "2025-03-04"}))  # as if begun then
    (tmp_path / "out" / "samples.jsonl").unlink()
    assert evaluate(model, data, tmp_path / "out", *more) == 0
    assert all("042025" in row["prompt"] for row in rows(tmp_path / "out"))


def test_parts_that_do_not_fit_are_one_line(model, data, tmp_path, capsys):
    folder = tmp_path / "m"
    build_model(TOKENIZER, seed=1, layers=1, hidden=64, intermediate=64).save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    larger = build_tokenizer()
    larger.add_tokens(["unheard"])
    larger.chat_template = "unheard" + larger.chat_template
    larger.save_pretrained(tmp_path / "larger")
    assert evaluate(folder, data, tmp_path / "out", "--tokenizer", str(tmp_path / "larger")) == 1
    assert f"--model {folder}: the model knows the tokens 0 to {len(TOKENIZER) - 1}" in capsys.readouterr().err
    for name in ("config", "generation_config", "tokenizer_config"):
        file = folder / f"{name}.json"
        file.write_text(json.dumps({key: value for key, value in json.loads(file.read_text()).items() if key not in ("eos_token_id", "eos_token")}))
    assert evaluate(folder, data, tmp_path / "out") == 1
    assert "names an end token (eos_token_id)" in capsys.readouterr().err
    assert not (tmp_path / "out" / "samples.jsonl").exists()
