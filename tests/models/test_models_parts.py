"""What is found of a model before its weights are read, and what is made of it."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
import transformers
from model_folders import TOKENIZER, VOCABULARY, logits, save_adapter, save_plain, spoilt
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from erpo_verl.models.config import context_length, mended
from erpo_verl.models.errors import ModelError, first_line
from erpo_verl.models.load import NewAdapters, load_model, save_model, without_dropout
from erpo_verl.models.parts import read_model, too_long
from erpo_verl.models.tokenizer import Decoder


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return save_plain(tmp_path_factory.mktemp("models") / "plain")


def weights_of(parts):
    return load_model(parts, dtype=torch.float32)


# --- generation settings


@pytest.mark.parametrize(
    ("given", "kept", "words"),
    [
        ({"temperature": 0.6, "top_p": 0.95}, {"temperature": 0.6, "top_p": 0.95, "do_sample": True}, ["do_sample=true added"]),
        ({"temperature": 0.6, "do_sample": False}, {"do_sample": False, "temperature": None}, ["temperature=0.6 left out"]),
        ({"top_k": 20, "repetition_penalty": 1.05}, {"top_k": 20, "do_sample": True, "repetition_penalty": 1.05}, ["do_sample=true"]),
        ({"num_return_sequences": 4}, {"num_return_sequences": None}, ["num_return_sequences=4 left out"]),
        ({"num_return_sequences": 4, "num_beams": 2}, {"num_beams": 2, "num_return_sequences": None}, ["num_return_sequences=4"]),
        ({"early_stopping": True, "length_penalty": 0.5}, {"early_stopping": None}, ["early_stopping=True", "length_penalty=0.5"]),
        ({"max_new_tokens": 0, "pad_token_id": -1}, {"max_new_tokens": None, "pad_token_id": None}, ["max_new_tokens=0", "pad_token_id=-1"]),
        ({"cache_implementation": "none such", "max_length": 99}, {"max_length": 99}, ["cache_implementation=none such"]),
        ({"output_scores": True, "use_cache": False}, {"use_cache": False}, ["output_scores=True"]),
        ({"streamer": 1}, {}, ["streamer=1"]),
        ({"temperature": "hot", "do_sample": True}, {}, []),
        ({"max_new_tokens": 50, "temperature": 1.0}, {"max_new_tokens": 50}, []),
    ],
)  # fmt: skip
def test_generation_settings_become_such_as_can_be_written(tmp_path, given, kept, words):
    made, told = mended({"eos_token_id": [2, 3], **given})
    made.save_pretrained(tmp_path)
    again = GenerationConfig.from_pretrained(tmp_path)
    assert again.eos_token_id == [2, 3]
    assert {name: getattr(again, name) for name in kept} == kept
    assert all(any(word in line for line in told) for word in words) and bool(told) == bool(words)


def test_a_published_model_with_a_temperature_is_written_again(plain, tmp_path):
    folder = spoilt(plain, tmp_path / "m", generation_config={"temperature": 0.6, "top_p": 0.95})
    with pytest.raises(ValueError, match="GenerationConfig is invalid"):
        AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "lost")
    parts = read_model(str(folder))
    assert parts.notes == [
        "generation_config.json: do_sample=true added to temperature=0.6, top_p=0.95 (as it stands it could not be saved again)"
    ]
    save_model(weights_of(parts), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text()) | {"transformers_version": 0} == {
        "do_sample": True, "temperature": 0.6, "top_p": 0.95, "transformers_version": 0,
        "eos_token_id": TOKENIZER.eos_token_id, "pad_token_id": TOKENIZER.pad_token_id, "bos_token_id": TOKENIZER.bos_token_id,
    }  # fmt: skip


def test_what_can_be_read_but_not_written_is_refused_before_the_weights(plain, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise TypeError("Object of type set is not JSON serializable")

    monkeypatch.setattr(type(AutoTokenizer.from_pretrained(plain)), "save_pretrained", refuse)
    with pytest.raises(ModelError, match=r"its tokenizer can be read but not written, .*: TypeError: Object of type set"):
        read_model(str(plain))
    read_model(str(plain), training=False)


# --- special tokens


def test_ids_outside_the_embedding_do_not_reach_the_model(plain, tmp_path):
    out = spoilt(plain, tmp_path / "out", config={"pad_token_id": VOCABULARY + 5}, generation_config={"pad_token_id": -1})
    with pytest.raises(AssertionError, match="Padding_idx"):
        AutoModelForCausalLM.from_pretrained(out)
    parts = read_model(str(out))
    assert parts.notes[0] == f"config.json: pad_token_id={VOCABULARY + 5} is outside the embedding (0 to {VOCABULARY - 1}) and left out"
    assert parts.pad_token_id == TOKENIZER.pad_token_id
    assert torch.equal(logits(weights_of(parts)), logits(AutoModelForCausalLM.from_pretrained(plain)))
    # A tokenizer with a token more than the model, for padding.
    longer = AutoTokenizer.from_pretrained(plain)
    longer.add_special_tokens({"pad_token": "<more>"})
    longer.save_pretrained(tmp_path / "longer")
    parts = read_model(str(plain), tokenizer_path=str(tmp_path / "longer"))
    assert parts.pad_token_id == parts.tokenizer.pad_token_id == TOKENIZER.eos_token_id
    assert re.search(rf"'<more>' has id {VOCABULARY}, outside the model's 0 to {VOCABULARY - 1}; id {TOKENIZER.eos_token_id} pads", parts.notes[0])


def test_end_tokens_are_those_of_generation_settings_and_tokenizer(plain, tmp_path):
    eos = TOKENIZER.eos_token_id
    assert read_model(str(plain)).end_token_ids == [eos]
    several = spoilt(plain, tmp_path / "several", generation_config={"eos_token_id": [9, VOCABULARY + 1, 7]})
    assert read_model(str(several)).end_token_ids == sorted({7, 9, eos})
    config = spoilt(plain, tmp_path / "config", drop=("eos_token_id", "eos_token"), config={"eos_token_id": 11})
    assert read_model(str(config)).end_token_ids == [11]
    none = spoilt(plain, tmp_path / "none", drop=("eos_token_id", "eos_token"))
    for training in (True, False):
        with pytest.raises(ModelError, match=r"neither generation_config.json nor config.json nor the tokenizer names an end token"):
            read_model(str(none), training=training)
    (none / "generation_config.json").write_text('{"eos_token_id": 5}')  # as the message says
    assert read_model(str(none)).end_token_ids == [5]
    text = read_model(str(spoilt(plain, tmp_path / "text", generation_config={"eos_token_id": "7", "pad_token_id": [0, None]})))
    assert text.end_token_ids == [eos] and "eos_token_id='7' is no token id and left out" in text.notes[0]


def test_the_judge_sees_tags_and_no_other_special_token(plain):
    tokenizer = _tagged()
    ids = tokenizer.convert_tokens_to_ids
    decode = Decoder(tokenizer)
    answer = [ids("<think>"), ids("1"), ids("</think>"), ids("<|user|>"), ids("2"), ids("[THINK]"), tokenizer.eos_token_id]
    assert tokenizer.decode(answer, skip_special_tokens=True).replace(" ", "") == "12"
    assert [text.replace(" ", "") for text in decode([answer, [ids("3")], []])] == ["<think>1</think>2[THINK]", "3", ""]
    assert decode.tags == {ids(name) for name in ("<think>", "</think>", "[THINK]", "[/THINK]")}
    alone = TOKENIZER.__class__.from_pretrained(plain)
    alone.add_special_tokens({"additional_special_tokens": ["</think>"]})
    assert Decoder(alone).tags == {alone.convert_tokens_to_ids("</think>")}


def _tagged():
    from examples.arithmetic.tokenizer import build_tokenizer

    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>", "[THINK]", "[/THINK]", "<lonely>"]})
    return tokenizer


def test_answers_that_no_reward_can_see_are_told():
    tokenizer = _tagged()
    ids = tokenizer.convert_tokens_to_ids
    decode, eos = Decoder(tokenizer), tokenizer.eos_token_id

    def doubt(*responses):
        return decode.doubt(responses, decode(responses))

    assert doubt([ids("1"), eos], [ids("2"), eos]) is None
    assert "all 2 responses are empty as text" in doubt([eos], [ids("<lonely>"), eos])
    assert doubt([ids("<lonely>"), ids("1"), eos], [ids("<lonely>"), ids("2"), eos]) == (
        "2 of 2 responses hold special tokens that the reward function does not see: '<lonely>'"
    )


# --- context


@pytest.mark.parametrize(
    ("config", "length"),
    [
        (transformers.Qwen2Config(max_position_embeddings=4096), 4096),
        (transformers.GPT2Config(n_positions=64), 64),
        (transformers.Qwen2Config(max_position_embeddings=100, rope_parameters={
            "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 100, "rope_theta": 1e4}), 400),
        (transformers.LlamaConfig(max_position_embeddings=100, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}), 200),
        (transformers.LlamaConfig(max_position_embeddings=800, rope_parameters={
            "rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 100, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "rope_theta": 1e4}), 800),
        (transformers.Gemma3Config(text_config={"max_position_embeddings": 77}), 77),
        (transformers.FalconConfig(alibi=True), None),
        (transformers.MambaConfig(), None),
    ],
)  # fmt: skip
def test_the_context_is_what_the_model_was_made_for(config, length):
    assert context_length(config) == length


def test_what_does_not_fit_the_context_is_one_line():
    assert too_long(100, 40, "prompts (40)", 60, "responses=60") is None and too_long(None, 4000, "p", 6000, "r") is None
    assert too_long(100, 41, "prompts (41)", 60, "responses=60") == (
        "prompts (41) and responses=60: together 101 tokens, and the model was made for 100 (its config.json): choose fewer"
    )


# --- dropout


@pytest.mark.parametrize("kind", ["Llama", "GPT2", "Falcon", "Phi"])
def test_training_mode_is_not_random(kind):
    rates = {
        "Llama": {"attention_dropout": 0.4}, "GPT2": {"attn_pdrop": 0.4, "resid_pdrop": 0.3, "embd_pdrop": 0.2},
        "Falcon": {"attention_dropout": 0.4, "hidden_dropout": 0.3}, "Phi": {"attention_dropout": 0.4, "resid_pdrop": 0.3, "embd_pdrop": 0.1},
    }[kind]  # fmt: skip
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=97, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, **rates
    )
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    ids = torch.arange(3, 13)[None]

    def run():
        return model.train()(ids).logits

    wanted = model.eval()(ids).logits
    assert not torch.equal(run(), run())
    assert without_dropout(model) is model
    model.gradient_checkpointing_enable()
    torch.testing.assert_close(run(), wanted)
    assert model.training
    run().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_whole_number_is_a_rate_too(plain, tmp_path):
    parts = read_model(str(spoilt(plain, tmp_path / "m", config={"attention_dropout": 1, "drop_last": True})))
    assert parts.dropout == {"attention_dropout": 1}
    model = without_dropout(weights_of(parts))
    assert model.config.attention_dropout == model.model.layers[0].self_attn.attention_dropout == 0


@pytest.mark.parametrize("config", [{"hidden_size": 128}, {"vocab_size": VOCABULARY + 14}])
def test_weights_of_other_shapes_are_refused_in_a_line(plain, tmp_path, config):
    with pytest.raises(ModelError, match=r"of its tensors have other shapes than its config.json says \(model.embed_tokens.weight is \(26, 64\), not \("):
        read_model(str(spoilt(plain, tmp_path / "m", config=config)))


def test_weights_of_other_shapes_in_a_pickle_are_told_when_they_are_loaded(plain, tmp_path):
    from safetensors.torch import load_file

    folder = spoilt(plain, tmp_path / "m", config={"hidden_size": 128})
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    parts = read_model(str(folder))
    with pytest.raises(ModelError, match=r"of its tensors have other shapes than its config.json says \(model.embed_tokens.weight is \(26, 64\), not \("):
        weights_of(parts)


def test_an_adapter_of_an_adapter_and_a_heading_alone(plain, tmp_path):
    first = save_adapter(tmp_path / "first", plain)
    second = save_adapter(tmp_path / "second", plain, written=str(first))
    with pytest.raises(ModelError, match=r"which is an adapter itself; merge that one"):
        read_model(str(second))
    assert first_line(ValueError("\nWrong field 'x':\n   must be int\nread more")) == "ValueError: Wrong field 'x': must be int"


def test_the_written_configuration_keeps_its_dropout(plain, tmp_path):
    parts = read_model(str(spoilt(plain, tmp_path / "m", config={"attention_dropout": 0.25})))
    assert parts.dropout == {"attention_dropout": 0.25}
    model = without_dropout(load_model(parts, dtype=torch.float32, new_adapters=NewAdapters(2)))
    assert model.config.attention_dropout == 0
    save_model(model, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["attention_dropout"] == 0.25
    assert model.config.attention_dropout == 0


# --- adapters


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"use_rslora": True}])
def test_an_adapter_is_merged_or_kept(plain, tmp_path, options):
    pytest.importorskip("peft")
    from peft import PeftModel

    folder = save_adapter(tmp_path / "adapter", plain, **options)
    wanted = logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(plain), folder))
    assert not torch.allclose(wanted, logits(AutoModelForCausalLM.from_pretrained(plain)), atol=0.01)
    parts = read_model(str(folder))
    assert (parts.base, parts.adapter.rank) == (str(plain), 4)
    merged = weights_of(parts)
    torch.testing.assert_close(logits(merged), wanted, atol=1e-5, rtol=0)
    assert not hasattr(merged, "peft_config") and all(p.requires_grad for p in merged.parameters())
    kept = load_model(parts, dtype=torch.float32, keep_adapter=True)
    torch.testing.assert_close(logits(kept), wanted, atol=1e-5, rtol=0)
    trained = {name for name, p in kept.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name or "modules_to_save" in name for name in trained)
    on_top = load_model(parts, dtype=torch.float32, new_adapters=NewAdapters(2))
    torch.testing.assert_close(logits(on_top), wanted, atol=1e-5, rtol=0)  # new adapters begin at nothing
    save_model(kept, tmp_path / "out")
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out")), wanted, atol=1e-5, rtol=0)


def test_an_adapters_base_is_found_or_named(plain, tmp_path, monkeypatch):
    pytest.importorskip("peft")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    relative = save_adapter(tmp_path / "relative", plain, written=f"../{plain.name}")
    shutil.copytree(plain, tmp_path / plain.name)
    assert read_model(str(relative)).base == str(relative / ".." / plain.name)
    for written, message in (
        ("/nowhere/base", r"an adapter of '/nowhere/base', and there is no such folder; write .* into base_model_name_or_path of .*adapter_config"),
        (None, r"names no base_model_name_or_path"),
        ("someone/base", r"\(an adapter of someone/base\): no such folder, and no model from the hub"),
    ):
        file = relative / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": written}))
        with pytest.raises(ModelError, match=message):
            read_model(str(relative))
    file.write_text(json.dumps({"peft_type": "PROMPT_TUNING", "base_model_name_or_path": str(plain)}))
    with pytest.raises(ModelError, match="a PROMPT_TUNING adapter has no weights that could be merged"):
        read_model(str(relative))
    other = save_adapter(tmp_path / "other", plain)
    file = other / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "r": 2}))
    with pytest.raises(ModelError, match=r"the adapter does not fit its base: \d+ of its tensors have other shapes than adapter and base say"):
        read_model(str(other))


# --- what is refused


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: (d / "config.json").unlink(), "no config.json in the folder; expected a model in Hugging Face's form"),
        (lambda d: (d / "config.json").write_text("{"), "its config.json cannot be used: OSError"),
        (lambda d: (d / "generation_config.json").write_text("{"), "its generation_config.json cannot be read: JSONDecodeError"),
        (lambda d: (d / "model.safetensors").unlink(), "the folder holds no weights"),
        (lambda d: _cut(d / "model.safetensors"), r"model.safetensors is damaged \(5000 bytes, its header says \d+\); fetch it again"),
        (lambda d: (d / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n"), "a pointer of Git LFS"),
        (lambda d: (d / "model.safetensors").write_bytes(b"abc"), "its header cannot be read"),
        (lambda d: (d / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-2.safetensors"}}'),
         r"1 of the 1 files of weights are missing \(model-2.safetensors\)"),
        (lambda d: _change(d, quantization_config={"quant_method": "gptq", "bits": 4}), r"its weights are quantised \(gptq\)"),
        (lambda d: _change(d, model_type="new"), "this transformers does not know the kind 'new'"),
        (lambda d: _change(d, model_type="new", auto_map={"AutoConfig": "c.C"}), "needs code .* set actor_rollout_ref.model.trust_remote_code=true"),
        (lambda d: _change(d, architectures=["Qwen2ForSequenceClassification"]), "not of a causal language model"),
        (lambda d: _write(d, transformers.T5Config()), "t5 is an encoder with a decoder"),
        (lambda d: _write(d, transformers.CLIPConfig()), "transformers has no causal language model of text for the kind clip"),
        (lambda d: [f.unlink() for f in d.glob("tokenizer*")], "the folder holds no tokenizer; set actor_rollout_ref.model.tokenizer_path"),
        (lambda d: (d / "chat_template.jinja").unlink(), "the tokenizer has no chat template"),
    ],
)  # fmt: skip
def test_a_folder_that_cannot_be_used_is_one_line(plain, tmp_path, spoil, message):
    folder = tmp_path / "model"
    shutil.copytree(plain, folder)
    spoil(folder)
    with pytest.raises(ModelError, match=message) as raised:
        read_model(str(folder))
    assert str(raised.value).startswith(f"actor_rollout_ref.model.path={folder}: ") and "\n" not in str(raised.value)


def _cut(file):
    file.write_bytes(file.read_bytes()[:5000])


def _change(folder, **entries):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))


def _write(folder, config):
    (folder / "config.json").unlink()
    config.save_pretrained(folder)


def test_other_places_and_names(plain, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for path, message in (
        (str(tmp_path / "gone"), r"gone: there is no such folder"),
        ("nobody/nothing", r"path=nobody/nothing: no such folder, and no model from the hub: OSError: .*connect"),
    ):
        with pytest.raises(ModelError, match=message):
            read_model(path)
    with pytest.raises(ModelError, match=r"actor_rollout_ref.model.tokenizer_path=.*gone: no such folder, and no tokenizer from the hub"):
        read_model(str(plain), tokenizer_path=str(tmp_path / "gone"))
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf" / "q4.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match="it holds GGUF weights"):
        read_model(str(tmp_path / "gguf"))
    # Weights of which a part is missing would be made up at random.
    from safetensors.torch import load_file, save_file

    less = tmp_path / "less"
    shutil.copytree(plain, less)
    tensors = load_file(less / "model.safetensors")
    tensors.pop("model.layers.0.mlp.down_proj.weight")
    save_file(tensors, less / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lack 1 of the model's tensors \(model.layers.0.mlp.down_proj.weight\); they would be random"):
        weights_of(read_model(str(less)))
