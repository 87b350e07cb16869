"""The decode loop beside ``model.generate`` and beside plain float64 probabilities."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import transformers

from erpo_verl.models.errors import ModelError
from erpo_verl.rollout import SamplingParams
from erpo_verl.rollout.caches import EQUAL, GENERATE, ROWS
from erpo_verl.rollout.hf import HFRollout, batches, choose, draw, uniforms

EOS = [2, 5, 7]
SLIDING = {"sliding_window": 6}
LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}
KINDS = {
    "Qwen2": {}, "Llama": {}, "Qwen3": {}, "Mistral": SLIDING, "Gemma2": SLIDING, "Gemma3": SLIDING,
    # linear attention, convolutions, state spaces beside attention, or all in one layer
    "Qwen3Next": {**LINEAR, **EXPERTS, "layer_types": ["linear_attention", "full_attention", "linear_attention"]},
    "Qwen3_5": {**LINEAR, "layer_types": ["linear_attention", "full_attention", "linear_attention"]},
    "Lfm2": {"layer_types": ["conv", "full_attention", "conv"]},
    "GraniteMoeHybrid": {**MAMBA, "layer_types": ["mamba", "attention", "mamba"], "num_local_experts": 2, "num_experts_per_tok": 1,
                         "shared_intermediate_size": 32},
    "FalconH1": {**MAMBA, "mamba_d_ssm": 64},
    # a cache class of their own, states in their modules, or another argument for the cache
    "MiniMax": {"num_local_experts": 2, "num_experts_per_tok": 1, "block_size": 4},
    "RecurrentGemma": {"lru_width": 32, "attention_window_size": 8},
    "Mamba2": {"num_heads": 4, "head_dim": 16, "n_groups": 1, "state_size": 8},
}  # fmt: skip
OLD, NEW = tuple(KINDS)[:6], tuple(KINDS)[6:]
GENERATED = ("MiniMax", "RecurrentGemma", "Mamba2")


def build(kind: str = "Qwen2", seed: int = 0, spread: float = 0.3, vocabulary: int = 97):
    config = getattr(transformers, f"{kind}TextConfig" if kind in ("Gemma3", "Qwen3_5") else f"{kind}Config")
    shape = {
        "vocab_size": vocabulary, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": spread,
        "dtype": "float32", **KINDS[kind],
    }  # fmt: skip
    torch.manual_seed(seed)
    return getattr(transformers, f"{kind}ForCausalLM")(config(**shape))


def engine(model, **options) -> HFRollout:
    return HFRollout(model, eos_token_ids=EOS, pad_token_id=0, **options)


def prompts(lengths=(3, 9, 5, 5, 12, 7), vocabulary: int = 97) -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(8, vocabulary, (n,), generator=generator).tolist() for n in lengths]


def log_probs(model, prompt: list[int], tokens: list[int], temperature: float = 1.0) -> torch.Tensor:
    """[T, V] float64: the distributions that the tokens were drawn from, from one plain forward pass."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits.double() / temperature, dim=-1)


@pytest.mark.parametrize(("kind", "max_batch"), [*((kind, size) for kind in OLD for size in (5, 256)), *((kind, 7) for kind in NEW)])
def test_greedy_is_generate_token_by_token(kind, max_batch):
    some, longest = (prompts((2, 9, 5)), 10) if kind in NEW else (prompts(), 30)
    model = build(kind).train()
    sampler = engine(model, max_batch=max_batch)
    assert sampler.way == (GENERATE if kind in GENERATED else ROWS)
    assert (sampler.note is None) == (kind not in GENERATED)
    found = sampler.generate(some, SamplingParams(n=2, max_tokens=longest, do_sample=False))
    assert all(module.training for module in model.modules())
    model.eval()
    ended = 0
    for prompt, responses in zip(some, found, strict=True):
        wanted = model.generate(torch.tensor([prompt]), max_new_tokens=longest, do_sample=False, eos_token_id=EOS, pad_token_id=0)
        tokens = wanted[0, len(prompt) :].tolist()
        for response in responses:
            assert response.tokens == tokens
            assert response.finished == (tokens[-1] in EOS)
            chosen = log_probs(model, prompt, tokens)[range(len(tokens)), tokens]
            torch.testing.assert_close(torch.tensor(response.log_probs).double(), chosen, atol=1e-4 if kind in NEW else 3e-5, rtol=0)
            ended += response.finished
    if kind == "Qwen2":
        assert ended > 0  # rows left the batch at different times


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), [(1.0, -1, 1.0), (0.6, -1, 1.0), (1.3, 5, 1.0), (1.0, -1, 0.8), (0.8, 6, 0.7)])
def test_frequencies_are_the_probabilities(temperature, top_k, top_p):
    """Chi-square of 20,000 first tokens against the truncated distribution, computed in float64 by its definition."""
    model, [prompt] = build(spread=0.08, vocabulary=13).eval(), prompts((4,), 13)
    count = 20000
    params = SamplingParams(n=count, max_tokens=1, temperature=temperature, top_k=top_k, top_p=top_p, seed=4)
    [responses] = engine(model, max_batch=count).generate([prompt], params)
    whole = log_probs(model, prompt, [0], temperature)[0]
    order = whole.argsort(descending=True).tolist()
    kept = order[:top_k] if top_k > 0 else order
    p = {token: math.exp(whole[token]) for token in kept}
    total, before, nucleus = sum(p.values()), 0.0, {}
    for token in kept:
        if before >= top_p:
            break
        nucleus[token] = p[token]
        before += p[token] / total
    if top_k > 0 or top_p < 1:
        assert len(nucleus) < 13
    seen = torch.bincount(torch.tensor([r.tokens[0] for r in responses]), minlength=13).tolist()
    assert sum(seen[token] for token in nucleus) == count
    mass = sum(nucleus.values())
    expected = {token: count * share / mass for token, share in nucleus.items()}
    statistic = sum((seen[token] - e) ** 2 / e for token, e in expected.items())
    assert statistic < len(expected) - 1 + 4 * math.sqrt(2 * (len(expected) - 1))
    for response in responses[:50]:
        assert response.log_probs[0] == pytest.approx(whole[response.tokens[0]].item(), abs=1e-5)


@pytest.mark.parametrize(
    "how", [{"do_sample": False, "temperature": 0.6}, {}, {"temperature": 1.4, "top_p": 0.8}, {"temperature": 0.7, "top_k": 5}], ids=str
)
def test_entropies_and_log_probs_are_of_the_whole_distribution_at_the_temperature(how):
    """Also where only a part of it is sampled from, and where rows leave the batch at different times."""
    model = build(spread=0.15)
    params = SamplingParams(n=3, max_tokens=20, seed=2, with_entropy=True, **how)
    found = engine(model, max_batch=7).generate(prompts(), params)
    assert len({len(r.tokens) for row in found for r in row}) > 1
    for prompt, responses in zip(prompts(), found, strict=True):
        for response in responses:
            wanted = log_probs(model.eval(), prompt, response.tokens, params.temperature)
            entropy = -(wanted.exp() * wanted).sum(dim=1)
            chosen = wanted[range(len(response.tokens)), response.tokens]
            torch.testing.assert_close(torch.tensor(response.entropies).double(), entropy, atol=1e-5, rtol=0)
            torch.testing.assert_close(torch.tensor(response.log_probs).double(), chosen, atol=1e-5, rtol=0)
    without = engine(model, max_batch=7).generate(prompts(), replace(params, with_entropy=False))
    assert [[r.tokens for r in row] for row in without] == [[r.tokens for r in row] for row in found]
    assert all(r.entropies is None for row in without for r in row)


def test_a_token_that_cannot_be_adds_nothing_to_the_entropy():
    logits = torch.tensor([[0.0, -math.inf, 0.0], [1.0, -math.inf, -math.inf]])
    token, log_prob, entropy = choose(logits, SamplingParams(with_entropy=True), torch.tensor([0.9, 0.3], dtype=torch.float64))
    assert token.tolist() == [2, 0]
    assert log_prob.tolist() == pytest.approx([-math.log(2), 0.0]) and entropy.tolist() == pytest.approx([math.log(2), 0.0])


def test_a_response_depends_on_seed_prompt_and_number_alone():
    model, all_prompts = build(spread=0.1), prompts()
    params = SamplingParams(n=4, max_tokens=20, seed=9)
    found = engine(model).generate(all_prompts, params)
    assert engine(model, max_batch=3).generate(all_prompts, params) != []
    tokens = [[r.tokens for r in responses] for responses in found]
    small = engine(model, max_batch=3).generate(all_prompts, params)
    assert [[r.tokens for r in responses] for responses in small] == tokens
    fewer = engine(model).generate(all_prompts[:2], SamplingParams(n=2, max_tokens=20, seed=9))
    assert [[r.tokens for r in responses] for responses in fewer] == [t[:2] for t in tokens[:2]]
    shorter = engine(model).generate(all_prompts, SamplingParams(n=4, max_tokens=6, seed=9))
    assert [[r.tokens for r in responses] for responses in shorter] == [[t[:6] for t in row] for row in tokens]
    other = engine(model).generate(all_prompts, SamplingParams(n=4, max_tokens=20, seed=10))
    assert [[r.tokens for r in responses] for responses in other] != tokens
    assert len({tuple(t) for row in tokens for t in row}) == 24
    assert all(r.finished == (r.tokens[-1] in EOS) and not set(r.tokens[:-1]) & set(EOS) for row in found for r in row)


@pytest.mark.parametrize("way", [EQUAL, GENERATE])
def test_the_slower_ways_give_the_same_responses(way):
    """Their random numbers, ends and log-probs are those of the fast one."""
    model = build(spread=0.1)
    model.generation_config.repetition_penalty = 3.0  # of generate's own settings none may act
    params = SamplingParams(n=3, max_tokens=14, temperature=0.8, top_k=20, top_p=0.9, seed=5)
    wanted = engine(model).generate(prompts(), params)
    slow = engine(model, max_batch=4)
    slow.way = way
    found = slow.generate(prompts(), params)
    assert [[(r.tokens, r.finished) for r in row] for row in found] == [[(r.tokens, r.finished) for r in row] for row in wanted]
    assert {r.finished for row in wanted for r in row} == {True, False}
    for row, other in zip(found, wanted, strict=True):
        for response, same in zip(row, other, strict=True):
            assert response.log_probs == pytest.approx(same.log_probs, abs=1e-5)
    assert model.generation_config.repetition_penalty == 3.0


def test_a_model_that_nothing_can_sample_from_is_named():
    """RWKV in transformers gives other tokens for two equal rows than for one."""
    config = transformers.RwkvConfig(vocab_size=97, hidden_size=32, attention_hidden_size=32, num_hidden_layers=2)
    torch.manual_seed(0)
    model = transformers.RwkvForCausalLM(config)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    with pytest.raises(ModelError, match=r"no responses can be sampled from a rwkv with transformers: .*generate"):
        engine(model)


def test_uniforms_are_streams_of_their_own():
    firsts = {uniforms(s, p, n, 1)[0] for s in range(4) for p in range(30) for n in range(30)}
    assert len(firsts) == 3600
    assert 0.48 < sum(firsts) / 3600 < 0.52
    assert uniforms(2**60 + 1, 3, 4, 5).tolist() == uniforms(2**60 + 1, 3, 4, 50)[:5].tolist()


def test_draw_is_the_inverse_of_the_cumulative_distribution():
    """Against a float64 search over the whole vocabulary, which is longer than a block and not a multiple of it."""
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(400, 1300, generator=generator) ** 8
    p[:, 7] = 0
    uniform = torch.rand(400, dtype=torch.float64, generator=generator)
    uniform[:2] = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    ends = p.double().cumsum(1)
    wanted = torch.searchsorted(ends, (uniform * ends[:, -1])[:, None], right=True)[:, 0]
    found = draw(p, uniform)
    assert (p.gather(1, found[:, None]) > 0).all()
    # Sums of blocks are rounded to float32: at an edge the neighbour may be meant.
    gap = (uniform * ends[:, -1] - ends.gather(1, torch.minimum(found, wanted)[:, None])[:, 0]).abs()
    assert ((found == wanted) | (gap < 1e-4)).all()
    assert (found == wanted).float().mean() > 0.99


def test_draw_skips_zeros_at_both_ends():
    p = torch.tensor([[0.0, 0.5, 0.5, 0.0]]).repeat(3, 1)
    assert draw(p, torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)).tolist() == [1, 2, 2]


def test_batches_are_all_pairs_once_longest_first():
    found = list(batches([3, 9, 5], n=3, max_batch=4))
    assert found == [[(1, 0), (1, 1), (1, 2), (2, 0)], [(2, 1), (2, 2), (0, 0), (0, 1)], [(0, 2)]]
    found = list(batches([3, 9, 3], n=2, max_batch=3, equal=True))
    assert found == [[(1, 0), (1, 1)], [(0, 0), (0, 1), (2, 0)], [(2, 1)]]


def test_training_with_gradient_checkpointing_goes_on_undisturbed():
    model = build()
    model.gradient_checkpointing_enable()
    model.train()
    model.model.layers[1].eval()  # a part that was not in training mode stays so
    plain = engine(build()).generate(prompts(), SamplingParams(max_tokens=10, do_sample=False))
    assert engine(model).generate(prompts(), SamplingParams(max_tokens=10, do_sample=False)) == plain
    assert model.training and not model.model.layers[1].training
    model(torch.tensor([[3, 4, 5]])).logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_sync_copies_weights_and_the_same_model_is_left_alone():
    ours, other = build(seed=1), build(seed=2)
    rollout, greedy = engine(ours), SamplingParams(max_tokens=12, do_sample=False)
    rollout.sync(other)
    assert all(torch.equal(a, b) and a is not b for a, b in zip(ours.parameters(), other.parameters(), strict=True))
    assert rollout.generate(prompts(), greedy) == engine(other).generate(prompts(), greedy)
    before = [p._version for p in ours.parameters()]
    rollout.sync(ours)
    assert [p._version for p in ours.parameters()] == before
    with pytest.raises(RuntimeError, match="size mismatch"):
        rollout.sync(build(vocabulary=50))


def test_adapters_are_sampled_from():
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(build(), peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear"))
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.3)
    greedy = SamplingParams(max_tokens=15, do_sample=False)
    found = engine(model).generate(prompts(), greedy)
    assert found != engine(build()).generate(prompts(), greedy)
    for prompt, [response] in zip(prompts(), found, strict=True):
        chosen = log_probs(model.eval(), prompt, response.tokens).max(dim=1)
        assert chosen.indices.tolist() == response.tokens
        torch.testing.assert_close(torch.tensor(response.log_probs).double(), chosen.values, atol=3e-5, rtol=0)
    # An engine with the plain model takes the merged weights over.
    plain = engine(build(seed=5))
    plain.sync(model)
    assert [[r.tokens for r in row] for row in plain.generate(prompts(), greedy)] == [[r.tokens for r in row] for row in found]


def test_autocast_computes_in_the_given_type():
    model = build()
    found = engine(model, autocast=torch.bfloat16).generate(prompts((8,)), SamplingParams(max_tokens=1, do_sample=False))[0][0]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = model.eval()(torch.tensor(prompts((8,)))).logits[0, -1]
    assert found.tokens == [logits.float().argmax().item()]
    assert found.log_probs[0] == pytest.approx(torch.log_softmax(logits.float(), -1).max().item(), abs=1e-6)


def test_progress_counts_responses():
    done: list[int] = []
    engine(build(), max_batch=5).generate(prompts(), SamplingParams(n=2, max_tokens=3), done.append)
    assert done == [5, 10, 12]


def test_bad_input_is_named():
    model = build()
    with pytest.raises(ValueError, match=r"prompt 1 \(of 2\) is empty"):
        engine(model).generate([[3], []], SamplingParams())
    with pytest.raises(ValueError, match=r"prompt 0 .*outside 0 \.\. 96"):
        engine(model).generate([[3, 97]], SamplingParams())
    with pytest.raises(ValueError, match="eos_token_ids is empty"):
        HFRollout(model, eos_token_ids=[], pad_token_id=0)
    with pytest.raises(ValueError, match="max_batch = 0"):
        engine(model, max_batch=0)
    closed = engine(model)
    closed.close()
    with pytest.raises(RuntimeError, match="closed"):
        closed.generate([[3]], SamplingParams())


@pytest.mark.parametrize("wrong", [{"n": 0}, {"max_tokens": 0}, {"temperature": 0.0}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.1}])
def test_sampling_params_out_of_range(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} = "):
        SamplingParams(**wrong)
