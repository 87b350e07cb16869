"""The estimate of memory: parameter counts against real modules and model cards, lines against sums by hand, refusals
that name the line.
"""

from __future__ import annotations

import dataclasses
import subprocess

import pytest

pytest.importorskip("verl")

import torch
from recipe_tools import SCRIPTS, clean_environment, write_problems
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from erpo_verl.recipes import dry_run
from erpo_verl.recipes.architectures import KNOWN, find, from_hf
from erpo_verl.recipes.memory import GIB, Sizes, estimate

# Number of parameters that the hub shows for each repository's safetensors.
ON_THE_CARDS = {
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen2.5-Math-7B": 7_615_616_512,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": 1_777_088_000,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": 7_615_616_512,
}

TINY = dict(
    vocab_size=100,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
)


def test_known_models_have_the_parameters_of_their_cards():
    assert {name: model.parameters for name, model in KNOWN.items()} == ON_THE_CARDS


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "config",
    [Qwen2Config(**TINY), Qwen3Config(**TINY, head_dim=32), LlamaConfig(**TINY)],
    ids=["qwen2", "qwen3", "llama"],
)
def test_parameters_are_those_of_the_real_module(config, tied):
    config.tie_word_embeddings = tied
    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(config)
    assert from_hf(config).parameters == sum(p.numel() for p in module.parameters())


def test_adapters_are_those_of_peft():
    peft = pytest.importorskip("peft")
    config = Qwen2Config(**TINY)
    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(config)
        module = peft.get_peft_model(module, peft.LoraConfig(task_type="CAUSAL_LM", r=8, target_modules="all-linear"))
    assert from_hf(config).lora_parameters(8) == sum(p.numel() for p in module.parameters() if p.requires_grad)


def sizes(**changes) -> Sizes:
    base = Sizes(
        gpus=8, gpus_per_node=8, shards=8, model_bytes=4, ref_bytes=4, param_offload=False, optimizer_offload=False,
        gradient_checkpointing=True, lora_rank=0, reference=True, longest=5120, update_tokens=16384, infer_tokens=32768,
        entropy_chunk=2048, entropy_in_loss=False, utilization=0.6, tensor_parallel=1, engine_length=5120,
        engine_tokens=8192, engine_sequences=256, eager=False, bucket_mib=2048,
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


def lines(result, phase: str) -> dict[str, float]:
    (found,) = (p for p in result.phases if p.name == phase)
    return {line.what: line.gib for line in found.lines}


def test_lines_by_hand():
    """Qwen2.5-7B on 8 GPUs of 80 GiB."""
    result = estimate(KNOWN["Qwen/Qwen2.5-7B"], sizes(), 80)
    p = 7_615_616_512
    layer = 3584 * 3584 * 2 + 3584 * 512 * 2 + 3584 * 18944 * 3 + 3584 + 512 * 2 + 3584 * 2
    update = lines(result, "update")
    assert update["parameters of the actor"] == pytest.approx(p * 4 / 8 / GIB)
    assert update["gradients"] == pytest.approx(p * 4 / 8 / GIB)
    assert update["Adam's moments"] == pytest.approx(p * 8 / 8 / GIB)
    assert update["gathered layers"] == pytest.approx((2 * layer + 2 * 152064 * 3584) * 2 / GIB)
    assert update["inputs of the layers"] == pytest.approx(16384 * 3584 * 2 * 28 / GIB)
    assert update["logits"] == pytest.approx(16384 * 152064 * 4 / GIB)
    log_probs = lines(result, "log-probs")
    assert log_probs["logits"] == pytest.approx(32768 * 152064 * 2 / GIB)
    assert log_probs["entropy"] == pytest.approx(2048 * 152064 * 12 / GIB)
    rollout = lines(result, "rollout")
    assert rollout["vLLM awake"] == pytest.approx(48)
    assert rollout["fragmentation"] == pytest.approx(4)
    assert result.problems == ()
    # Cache: 28 layers x 2 (keys, values) x 512 x 2 bytes = 57344 bytes a token.
    weights, graphs = p * 2 / GIB, 1
    work = (8192 * 2 * (4 * 3584 + 2 * 18944) + 256 * 12 * 152064) / GIB
    assert result.sequences == pytest.approx((48 - weights - graphs - work) * GIB / (57344 * 5120))
    # The reference policy lies in main memory: one whole copy in float32, beside the one that is read at the start.
    assert result.host_gib == pytest.approx(2 * p * 4 / GIB)


def test_settings_move_what_they_are_said_to_move():
    model = KNOWN["Qwen/Qwen2.5-7B"]
    base = estimate(model, sizes(), 80)

    def gib(phase: str, **changes) -> float:
        (found,) = (p for p in estimate(model, sizes(**changes), 80).phases if p.name == phase)
        return found.gib

    p = model.parameters
    rollout, _, log_probs, update = (phase.gib for phase in base.phases)
    assert rollout - gib("rollout", optimizer_offload=True) == pytest.approx(p * 8 / 8 / GIB)
    assert rollout - gib("rollout", param_offload=True) == pytest.approx(p * 4 / 8 / GIB)
    assert gib("update", optimizer_offload=True, param_offload=True) == pytest.approx(update)
    assert update - gib("update", shards=16, gpus=16) == pytest.approx(p * 16 / 16 / GIB)
    assert gib("log-probs", entropy_chunk=0) - log_probs == pytest.approx((32768 - 2048) * 152064 * 12 / GIB)
    assert gib("update", gradient_checkpointing=False) > 80 > update
    assert gib("update", lora_rank=32) < update - p * 11 / 8 / GIB
    halved = estimate(model, sizes(tensor_parallel=2), 80)
    assert lines(halved, "weights to vLLM")["weights in vLLM"] == pytest.approx(p / GIB)
    assert (
        halved.sequences > 2 * base.sequences
    )  # each GPU holds half of each response's cache, and half of the weights


def kept_by_autograd(config, tokens: int) -> int:
    """Bytes that a real forward pass in bfloat16 keeps for its backward pass, parameters aside."""
    torch.manual_seed(0)
    module = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").to(torch.bfloat16).train()
    parameters = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # the tensor lives on, so the address stays its own
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        module(input_ids=torch.randint(0, 64, (1, tokens)), use_cache=False)
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("kind", [Qwen2Config, Qwen3Config])
def test_activations_of_a_layer_are_what_autograd_keeps(kind):
    """The formula of the largest line, against a real layer of each family, to a tenth."""
    shape = dict(vocab_size=64, hidden_size=512, intermediate_size=2560, num_attention_heads=8, num_key_value_heads=2)
    shape |= {"head_dim": 64} if kind is Qwen3Config else {}
    two, three = (kind(**shape, num_hidden_layers=layers) for layers in (2, 3))
    measured = kept_by_autograd(three, 1024) - kept_by_autograd(two, 1024)

    def formula(config) -> float:
        result = estimate(from_hf(config), sizes(gradient_checkpointing=False, update_tokens=1024), 80)
        return lines(result, "update")["activations of all layers"] * GIB

    assert measured == pytest.approx(formula(three) - formula(two), rel=0.1)


@pytest.fixture(scope="module")
def problems(tmp_path_factory) -> dict[str, str]:
    file = str(write_problems(tmp_path_factory.mktemp("problems") / "problems.parquet", 256))
    return {"TRAIN_FILES": file, "VAL_FILES": file}


def dry(script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", str(SCRIPTS / script), *arguments],
        env=clean_environment(DRY_RUN="1", **variables),
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_an_absurd_size_is_refused_with_the_line_and_the_cure(problems):
    """The road that a user takes: a 7B model with all its parameters on one GPU of 24 GB."""
    done = dry("run_erpo_qwen7b.sh", GPUS="1", GPU_MEMORY_GB="24", **problems)
    assert done.returncode == 1
    assert "update: 1" in done.stdout and done.stdout.count("DOES NOT FIT") == 4
    assert "phase 'update'" in done.stderr
    assert "'Adam's moments' with 56.7 GiB (2 x 7.62e9 x 4 bytes / 1 GPUs)" in done.stderr
    assert "more GPUs, or LoRA (actor_rollout_ref.model.lora_rank=32)" in done.stderr
    assert "memory, vLLM: its share of 14.4 GiB" in done.stderr and "gpu_memory_utilization above" in done.stderr


def check(*overrides: str, gib: float = 80.0) -> list[str]:
    return dry_run.check(dry_run.compose(list(overrides)), gib)[0]


@pytest.fixture(scope="module")
def fine(problems) -> list[str]:
    from recipe_tools import command

    return command("run_erpo_qwen7b.sh", **problems)


ACTOR, ROLLOUT, MODEL = "actor_rollout_ref.actor", "actor_rollout_ref.rollout", "actor_rollout_ref.model"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ("data.max_response_length=200000", ("data.max_response_length=200000", "context of 131072")),
        ("data.max_response_length=20000", ("max_token_len_per_gpu=16384: less", "max_model_len=5120: less")),
        ("data.train_batch_size=100", ("data.train_batch_size=100: must be a multiple", "ppo_mini_batch_size=64")),
        ("data.train_batch_size=1024", ("more than the 256 problems",)),
        (f"{ROLLOUT}.n=1", (f"{ROLLOUT}.n=1: erpo compares",)),
        (f"{ROLLOUT}.tensor_model_parallel_size=3", ("must be a divisor of the 8 GPUs", "28 heads")),
        (f"{ACTOR}.ppo_mini_batch_size=1 {ROLLOUT}.n=4", ("ppo_mini_batch_size=1 x", "8 GPUs")),
        (f"{ROLLOUT}.log_prob_use_dynamic_bsz=false", ("log_prob_use_dynamic_bsz=False: must be as",)),
        (f"{ACTOR}.loss_agg_mode=tokenmean", ("verl: ", "tokenmean")),
        (f"{ROLLOUT}.mode=sync", ("verl, actor_rollout_ref.rollout: ", "sync")),
        (f"{ACTOR}.use_kl_loss=false", ("kl_loss_coef=0",)),
        ("data.train_files=/no/such.parquet", ("data.train_files: /no/such.parquet is missing", "erpo prepare")),
        (f"{MODEL}.path=/no/such/model", (f"{MODEL}.path=/no/such/model: there is no such folder",)),
        (f"{MODEL}.enable_gradient_checkpointing=false", ("'activations of all layers'", "checkpointing=true")),
        (f"{ROLLOUT}.gpu_memory_utilization=0.95", ("phase 'rollout'", f"lower {ROLLOUT}.gpu_memory_utilization")),
        (f"{ROLLOUT}.gpu_memory_utilization=0.2", ("memory, vLLM", "gpu_memory_utilization above")),
        (f"{ACTOR}.entropy_from_logits_with_chunking=false", ("'log-probs'", "'entropy'", "with_chunking=true")),
    ],
)
def test_what_is_refused(fine, overrides, expected):
    found = check(*fine, *overrides.split())
    text = "\n".join(found)
    assert all(part in text for part in expected), text


def test_nothing_is_refused_without_a_reason(fine):
    assert check(*fine) == []


@pytest.mark.parametrize(
    ("override", "message"), [("data.trian_files=x", "trian_files"), ("data.seed=[1", "data.seed=[1")]
)
def test_an_override_that_verl_does_not_know(override, message, capsys):
    assert dry_run.main([override]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("not a configuration of verl: ") and message in errors


def test_damaged_files_are_named(fine, tmp_path):
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 this is not parquet")
    assert any("broken.parquet cannot be read" in p for p in check(*fine, f"data.train_files={broken}"))
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"question": ["1 + 1"], "answer": ["2"]}), tmp_path / "raw.parquet")
    (found,) = check(*fine, f"data.train_files={tmp_path / 'raw.parquet'}")
    assert "no column data_source, prompt, reward_model; it has question, answer" in found


def test_a_folder_without_a_model(fine, tmp_path):
    key = "actor_rollout_ref.model.path"
    (found,) = check(*fine, f"{key}={tmp_path}")
    assert f"{key}={tmp_path}: no config.json in the folder" in found
    Qwen2Config(**TINY, max_position_embeddings=32768).save_pretrained(tmp_path)
    (found,) = check(*fine, f"{key}={tmp_path}")
    assert "the folder holds no weights (*.safetensors)" in found


def test_a_model_that_nobody_knows_is_said_to_be_unknown(fine):
    config = dry_run.compose([*fine, "actor_rollout_ref.model.path=someone/some-model"])
    problems, notes = dry_run.check(config, 80)
    assert problems == [] and "someone/some-model is not among the models" in notes[0]
    with pytest.raises(ValueError, match="gpt2"):
        from_hf(type("Config", (), {"model_type": "gpt2"}))
    assert find("someone/some-model") is None
