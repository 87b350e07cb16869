"""vLLM started once, for real: what it samples from after a sync is the model that was given to it."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from erpo_verl.rollout import SamplingParams
from erpo_verl.rollout.vllm import VLLMRollout, response_seed

PROMPTS = [[5, 9, 11], [40, 41, 42, 43, 44, 45, 46], list(range(3, 40)), [7]]
EOS = [2, 3]


def model(seed: int, spread: float = 0.3, layers: int = 2) -> Qwen2ForCausalLM:
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=128, hidden_size=64, intermediate_size=96, num_hidden_layers=layers, num_attention_heads=2, num_key_value_heads=1,
        max_position_embeddings=128, tie_word_embeddings=True, initializer_range=spread,
        bos_token_id=1, eos_token_id=2, pad_token_id=0, dtype="float32",
    )  # fmt: skip
    return Qwen2ForCausalLM(config).eval()


def reference(policy, prompt: list[int], tokens: list[int], temperature: float) -> torch.Tensor:
    """[T, V] log-probs after prompt and earlier tokens, in float64."""
    logits = policy(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits.double() / temperature, dim=-1).detach()


def check_greedy(engine, policy) -> float:
    worst = 0.0
    for prompt, [response] in zip(PROMPTS, engine.generate(PROMPTS, SamplingParams(max_tokens=24, do_sample=False)), strict=True):
        wanted = policy.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False, eos_token_id=EOS, pad_token_id=0)
        assert response.tokens == wanted[0, len(prompt) :].tolist()
        assert response.finished == (response.tokens[-1] in EOS)
        log_p = reference(policy, prompt, response.tokens, 1.0)[range(len(response.tokens)), response.tokens]
        worst = max(worst, (log_p - torch.tensor(response.log_probs)).abs().max().item())
    return worst


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    pytest.importorskip("vllm")
    folder = tmp_path_factory.mktemp("model")
    model(0).save_pretrained(folder)
    random.seed(11), torch.manual_seed(11)
    states = random.getstate(), torch.get_rng_state(), torch.set_num_threads, os.environ.get("ERPO_VERL_CPU")
    made = VLLMRollout(
        folder, eos_token_ids=EOS, dtype="float32", max_model_len=96, enforce_eager=True, max_num_seqs=64, gpu_memory_utilization=0.1
    )
    # The process is as it was.
    assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[1])
    assert torch.set_num_threads is states[2] and os.environ.get("ERPO_VERL_CPU") == states[3]
    yield made
    made.close()
    with pytest.raises(RuntimeError, match="closed"):
        made.generate(PROMPTS, SamplingParams())
    assert not torch.distributed.is_initialized()
    children = subprocess.run(["ps", "--no-headers", "-o", "pid,stat,args", "--ppid", str(os.getpid())], capture_output=True, text=True)
    assert not [line for line in children.stdout.splitlines() if "vllm" in line.lower() or "engine" in line.lower()]


@pytest.mark.e2e
def test_samples_from_the_folder_and_from_each_synced_model(engine):
    worst = [check_greedy(engine, model(0))]
    for seed in (1, 2):
        engine.sync(model(seed))
        worst.append(check_greedy(engine, model(seed)))
    print("largest difference of a log-prob:", worst)
    assert max(worst) < 1e-4  # float32 by other kernels; a weight that was not taken over would make it 1e-1 and more


@pytest.mark.e2e
def test_lora_is_merged_into_a_copy(engine):
    peft = pytest.importorskip("peft")
    policy = peft.get_peft_model(model(3), peft.LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=32, target_modules="all-linear"))
    for name, p in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.1)
    before = {name: p.clone() for name, p in policy.state_dict().items()}
    policy.eval()
    engine.sync(policy)
    assert check_greedy(engine, policy) < 1e-4
    assert all(torch.equal(before[name], p) for name, p in policy.state_dict().items())


@pytest.mark.e2e
@pytest.mark.parametrize(("temperature", "top_k", "top_p"), [(1.0, -1, 1.0), (0.7, -1, 1.0), (1.5, 8, 0.9)])
def test_log_probs_are_over_the_whole_vocabulary_after_the_temperature(engine, temperature, top_k, top_p):
    policy = model(4, spread=0.1)
    engine.sync(policy)
    params = SamplingParams(n=3, max_tokens=12, temperature=temperature, top_k=top_k, top_p=top_p, seed=5)
    done: list[int] = []
    found = engine.generate(PROMPTS, params, done.append)
    assert done == sorted(done) and done[-1] == len(PROMPTS) * 3
    assert len({tuple(response.tokens) for responses in found for response in responses}) > 6
    for prompt, responses in zip(PROMPTS, found, strict=True):
        for response in responses:
            log_p = reference(policy, prompt, response.tokens, temperature)
            chosen = log_p[range(len(response.tokens)), response.tokens]
            assert (chosen - torch.tensor(response.log_probs)).abs().max() < 1e-4
            if top_k > 0:
                assert all((row > mine).sum() < top_k for row, mine in zip(log_p, chosen, strict=True))
    # A response's draws are its own: fewer neighbours change nothing (log-probs but for rounding, as other shapes are computed).
    assert same(engine.generate(PROMPTS, params), found)
    assert same(engine.generate(PROMPTS[:2], SamplingParams(1, 12, temperature, top_k, top_p, seed=5)), [r[:1] for r in found[:2]])


def same(a, b) -> bool:
    """The same tokens and ends, and log-probs to 1e-4."""
    pairs = [(x, y) for some, others in zip(a, b, strict=True) for x, y in zip(some, others, strict=True)]
    return all(
        x.tokens == y.tokens and x.finished == y.finished and x.log_probs == pytest.approx(y.log_probs, abs=1e-4) for x, y in pairs
    )


@pytest.mark.e2e
def test_more_prompts_than_fit_into_one_pass(engine):
    """On a CPU vLLM cannot put back the draw of a prompt that it ran in parts: none is, and draws are a response's own here too."""
    engine.sync(model(6, spread=0.1))
    prompts = [[3 + (7 * i + j * (i + 1)) % 120 for j in range(87)] for i in range(160)]  # 13,920 tokens, without a common prefix
    params = SamplingParams(max_tokens=8, seed=3)
    found = engine.generate(prompts, params)
    assert same(found[:4], engine.generate(prompts[:4], params))


@pytest.mark.e2e
def test_frequencies_are_the_probabilities(engine):
    policy = model(5, spread=0.15)
    engine.sync(policy)
    prompt, count = PROMPTS[0], 3000
    [responses] = engine.generate([prompt], SamplingParams(n=count, max_tokens=1, temperature=0.8, seed=1))
    p = reference(policy, prompt, [0], 0.8)[0].exp()
    seen = torch.bincount(torch.tensor([r.tokens[0] for r in responses]), minlength=128)
    common = p * count >= 5
    expected = torch.cat((p[common], p[~common].sum()[None])) * count
    observed = torch.cat((seen[common], seen[~common].sum()[None]))
    statistic = ((observed - expected) ** 2 / expected).sum().item()
    freedom = len(expected) - 1
    assert statistic < freedom + 4 * math.sqrt(2 * freedom)


@pytest.mark.e2e
def test_bad_input_is_named(engine):
    with pytest.raises(ValueError, match=r"prompt 1 \(of 2\) has 90 tokens: must be 1 to 86"):
        engine.generate([[5], [5] * 90], SamplingParams(max_tokens=10))
    with pytest.raises(ValueError, match=r"does not give: model\.layers\.1"):
        engine.sync(model(0, layers=1))


def test_seeds_of_responses_differ():
    seeds = {response_seed(s, p, n) for s in range(5) for p in range(20) for n in range(20)}
    assert len(seeds) == 2000 and all(0 <= seed < 2**63 for seed in seeds)


def test_without_vllm_the_error_says_what_to_install(tmp_path):
    """In a process whose import system has no vllm."""
    code = (
        "import sys; sys.modules['vllm'] = None\n"
        "from erpo_verl.rollout.vllm import VLLMRollout\n"
        "try: VLLMRollout('nowhere', eos_token_ids=[2])\n"
        "except ImportError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'erpo-verl[cpu]'" in run.stdout and "rollout.name=hf" in run.stdout
