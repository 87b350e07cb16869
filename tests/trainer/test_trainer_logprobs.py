"""Log-probs and entropies of packed tokens against plain float64 log-softmax, their gradients, and the memory they take."""

from __future__ import annotations

import math

import pytest
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from erpo_verl.trainer.logprobs import PolicyModel, token_log_probs

N, D, V = 7, 5, 11


def inputs(dtype=torch.float64, n: int = N, d: int = D, v: int = V):
    generator = torch.Generator().manual_seed(0)
    hidden, weight, bias = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((n, d), (v, d), (v,)))
    targets = torch.randint(0, v, (n,), generator=generator)
    return *(t.to(dtype).requires_grad_() for t in (hidden, weight, bias)), targets


def reference(hidden, weight, bias, targets, temperature: float):
    """By the definition, in float64: log-probs [N] and entropies [N], with gradients."""
    log_p = torch.log_softmax((hidden.double() @ weight.double().T + bias.double()) / temperature, dim=-1)
    return log_p[range(len(targets)), targets], -(log_p.exp() * log_p).sum(-1)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("chunk", [*range(1, N + 1), None])
def test_values_and_gradients_whatever_the_piece(chunk, temperature):
    *tensors, targets = inputs()
    found = token_log_probs(
        tensors[0], tensors[1], targets, bias=tensors[2], temperature=temperature, with_entropy=True, entropy_gradient=True, chunk_tokens=chunk
    )
    wanted = reference(*tensors, targets, temperature)
    weights = torch.linspace(-1, 2, N, dtype=torch.float64)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        ours, theirs = (torch.autograd.grad((x * weights).sum(), tensors, retain_graph=True) for x in (a, b))
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


def test_gradcheck_with_and_without_entropy():
    *tensors, targets = inputs()
    for entropy in (True, False):

        def run(hidden, weight, bias, entropy=entropy):
            options = {"bias": bias, "temperature": 0.7, "with_entropy": entropy, "entropy_gradient": entropy, "chunk_tokens": 3}
            return tuple(x for x in token_log_probs(hidden, weight, targets, **options) if x is not None)

        assert torch.autograd.gradcheck(run, tensors)


def test_entropy_is_detached_unless_asked_for():
    hidden, weight, _, targets = inputs()
    log_probs, entropy = token_log_probs(hidden, weight, targets, with_entropy=True)
    assert log_probs.requires_grad and not entropy.requires_grad
    assert token_log_probs(hidden, weight, targets)[1] is None


def test_frozen_parts_get_no_gradient():
    hidden, weight, _, targets = inputs()
    token_log_probs(hidden, weight.detach(), targets)[0].sum().backward()
    assert hidden.grad is not None and weight.grad is None


def test_logits_in_place_of_hidden_states_even_with_minus_infinity():
    logits = torch.tensor([[0.0, -math.inf, math.log(3.0)]], dtype=torch.float32, requires_grad=True)
    log_probs, entropy = token_log_probs(logits, None, torch.tensor([2]), with_entropy=True, entropy_gradient=True)
    # Probabilities 1/4, 0, 3/4.
    assert log_probs.item() == pytest.approx(math.log(0.75), rel=1e-6)
    assert entropy.item() == pytest.approx(-0.25 * math.log(0.25) - 0.75 * math.log(0.75), rel=1e-6)
    [slope] = torch.autograd.grad(log_probs, logits, retain_graph=True)
    torch.testing.assert_close(slope, torch.tensor([[-0.25, 0.0, 0.25]]))
    [slope] = torch.autograd.grad(entropy, logits)
    H = entropy.item()
    torch.testing.assert_close(slope, torch.tensor([[-0.25 * (math.log(0.25) + H), 0.0, -0.75 * (math.log(0.75) + H)]]))
    assert logits.tolist() == [[0.0, -math.inf, pytest.approx(math.log(3.0))]]  # not overwritten


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_the_product_and_nothing_else(dtype):
    hidden, weight, _, targets = inputs(dtype, 64, 32, 501)
    log_probs, entropy = token_log_probs(hidden, weight, targets, with_entropy=True, chunk_tokens=10)
    assert log_probs.dtype == entropy.dtype == torch.float32
    log_p = torch.log_softmax((hidden @ weight.T).double(), dim=-1)
    torch.testing.assert_close(log_probs.double(), log_p[range(64), targets], atol=2e-5, rtol=0)
    torch.testing.assert_close(entropy.double(), -(log_p.exp() * log_p).sum(-1), atol=2e-5, rtol=0)
    log_probs.sum().backward()
    assert hidden.grad.dtype == weight.grad.dtype == dtype
    exact = torch.autograd.grad(reference(hidden, weight, torch.zeros(501), targets, 1.0)[0].sum(), (hidden, weight))
    for ours, theirs in zip((hidden.grad, weight.grad), exact, strict=True):
        assert (ours.double() - theirs.double()).norm() < 0.02 * theirs.double().norm()


def test_under_autocast_the_product_has_its_type_and_gradients_the_weights():
    hidden, weight, _, targets = inputs(torch.float32, 20, 16, 101)
    with torch.autocast("cpu", torch.bfloat16):
        log_probs, _ = token_log_probs(hidden, weight, targets)
    log_p = torch.log_softmax((hidden.bfloat16() @ weight.bfloat16().T).double(), dim=-1)
    torch.testing.assert_close(log_probs.double(), log_p[range(20), targets], atol=2e-5, rtol=0)
    log_probs.sum().backward()
    assert hidden.grad.dtype == weight.grad.dtype == torch.float32


class Largest(TorchDispatchMode):
    """The most numbers in any one tensor that an operation makes."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.numbers = max([self.numbers, *(t.numel() for t in tree_leaves(out) if isinstance(t, torch.Tensor))])
        return out


def test_logits_of_all_tokens_never_exist():
    n, d, v, chunk = 300, 8, 1000, 20
    hidden, weight, bias, targets = inputs(torch.float32, n, d, v)
    with Largest() as plain:
        sum(x.sum() for x in reference(hidden, weight, bias, targets, 1.0)).backward()
    with Largest() as ours:
        found = token_log_probs(hidden, weight, targets, bias=bias, with_entropy=True, entropy_gradient=True, chunk_tokens=chunk)
        sum(x.sum() for x in found).backward()
    assert plain.numbers == n * v
    assert ours.numbers == chunk * v


def test_bad_input_is_named():
    hidden, weight, _, targets = inputs()
    with pytest.raises(ValueError, match=r"temperature = 0"):
        token_log_probs(hidden, weight, targets, temperature=0)
    with pytest.raises(ValueError, match="chunk_tokens = 0"):
        token_log_probs(hidden, weight, targets, chunk_tokens=0)
    with pytest.raises(ValueError, match="do not fit"):
        token_log_probs(hidden, weight[:, 1:], targets)
    with pytest.raises(ValueError, match="do not fit"):
        token_log_probs(hidden, weight, targets[1:])


# --- the model

PLAIN = {"Qwen2": True, "Qwen3": True, "Llama": True, "Gemma3": True, "GPT2": True, "Gemma2": False, "Cohere": False, "Granite": False}


def build(kind: str = "Qwen2", **changes):
    names = {"Gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM"), "GPT2": ("GPT2Config", "GPT2LMHeadModel")}
    config, model = names.get(kind, (f"{kind}Config", f"{kind}ForCausalLM"))
    sizes = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
    }  # fmt: skip
    if kind == "GPT2":
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    special = {"Granite": {"logits_scaling": 8.0}}.get(kind, {})
    torch.manual_seed(0)
    made = getattr(transformers, config)(
        vocab_size=97, pad_token_id=0, bos_token_id=1, eos_token_id=2, initializer_range=0.2, **sizes, **special, **changes
    )
    return getattr(transformers, model)(made).float()


R = 5
IDS = torch.randint(3, 97, (3, 9), generator=torch.Generator().manual_seed(1))
ATTENTION = torch.ones(3, 9, dtype=torch.long)
ATTENTION[0, :2] = 0  # padding on the left
ATTENTION[1, 7:] = 0  # a short response
MASK = ATTENTION[:, -R:].clone()
MASK[2, 1] = 0  # a token in the middle that does not count


def plain_log_probs(model, temperature: float):
    """Row by row, without any padding: [B, R] log-probs and entropies in float64, with gradients."""
    log_probs, entropy = torch.zeros(3, R, dtype=torch.float64), torch.zeros(3, R, dtype=torch.float64)
    for row in range(3):
        columns = ATTENTION[row].nonzero()[:, 0].tolist()
        logits = model(IDS[row, columns][None]).logits[0].double() / temperature
        for place, column in enumerate(columns):
            if column >= 9 - R and MASK[row, column - 9 + R]:
                log_p = torch.log_softmax(logits[place - 1], -1)
                log_probs[row, column - 9 + R] = log_p[IDS[row, column]]
                entropy[row, column - 9 + R] = -(log_p.exp() * log_p).sum()
    return log_probs, entropy


@pytest.mark.parametrize("kind", PLAIN)
def test_policy_model_is_the_model(kind):
    model = build(kind)
    policy = PolicyModel(model, chunk_tokens=4)
    assert policy.plain_head == PLAIN[kind]
    assert model.training and {name.removeprefix("model.") for name in policy.state_dict()} == set(model.state_dict())
    wanted = plain_log_probs(model, 0.8)
    found = policy(IDS, ATTENTION, response_length=R, response_mask=MASK, temperature=0.8, with_entropy=True, entropy_gradient=True)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.dtype == torch.float32 and ours.shape == (3, R)
        torch.testing.assert_close(ours.double(), theirs, atol=3e-5, rtol=0)
        assert (ours[MASK == 0] == 0).all()
    parameters = list(model.parameters())
    weights = torch.linspace(-1, 1, 3 * R).view(3, R)
    ours, theirs = (
        torch.autograd.grad(((lp + 0.3 * H) * weights).sum(), parameters, allow_unused=True) for lp, H in (found, wanted)
    )
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert (a - b).norm() <= 1e-3 * b.norm() + 1e-5


def test_adapters_and_a_head_with_adapters():
    peft = pytest.importorskip("peft")
    for target, plain in ((["q_proj", "up_proj"], True), (["q_proj", "lm_head"], False)):
        model = peft.get_peft_model(
            build(tie_word_embeddings=False), peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=target, init_lora_weights=False)
        )
        policy = PolicyModel(model)
        assert policy.plain_head == plain
        log_probs, _ = policy(IDS, ATTENTION, R, MASK)
        torch.testing.assert_close(log_probs.double(), plain_log_probs(model, 1.0)[0], atol=3e-5, rtol=0)
        log_probs.sum().backward()
        assert {name for name, p in model.named_parameters() if p.grad is not None} == {
            name for name, p in model.named_parameters() if p.requires_grad
        }
        with model.disable_adapter():
            off, _ = policy(IDS, ATTENTION, R, MASK)
            torch.testing.assert_close(off.double(), plain_log_probs(model, 1.0)[0], atol=3e-5, rtol=0)
        assert not torch.allclose(off, log_probs)


def test_a_batch_without_a_token_has_zero_gradients():
    model = build()
    log_probs, entropy = PolicyModel(model)(IDS, ATTENTION, R, torch.zeros_like(MASK), with_entropy=True)
    assert (log_probs == 0).all() and (entropy == 0).all()
    log_probs.sum().backward()
    assert all((p.grad == 0).all() for p in model.parameters())


def test_shapes_that_do_not_fit_are_named():
    policy = PolicyModel(build())
    with pytest.raises(ValueError, match=r"response_length 9: wanted"):
        policy(IDS, ATTENTION, 9, ATTENTION)
    with pytest.raises(ValueError, match="response_mask"):
        policy(IDS, ATTENTION, R, MASK[:, 1:])


@pytest.mark.parametrize("entropy", ["none", "detached", "with gradient"])
def test_ligers_kernel_gives_the_same(entropy):
    """Liger's own code (its fallback, on a CPU) against ours, in values and gradients of every weight."""
    pytest.importorskip("liger_kernel")
    options = {"with_entropy": entropy != "none", "entropy_gradient": entropy == "with gradient", "temperature": 0.7}
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(1, 50, (3, 9), generator=generator)
    attention, mask = torch.ones_like(ids), torch.rand(3, 5, generator=generator) < 0.8
    attention[0, :2] = 0
    results = []
    for fused in (False, True):
        policy = PolicyModel(build(), fused=fused)
        assert policy.plain_head and (policy.liger is not None) == fused
        log_probs, H = policy(ids, attention, 5, mask, **options)
        loss = (log_probs * torch.linspace(-1, 1, 5)).sum() + (0.3 * H.square().sum() if entropy == "with gradient" else 0.0)
        loss.backward()
        results.append((log_probs, H, [p.grad for p in policy.parameters()]))
    ours, theirs = results
    assert torch.allclose(ours[0], theirs[0], atol=1e-5) and (ours[1] is None) == (theirs[1] is None) == (entropy == "none")
    if entropy != "none":
        assert torch.allclose(ours[1], theirs[1], atol=1e-5) and theirs[1].requires_grad == (entropy == "with gradient")
    largest = max(float(g.abs().max()) for g in ours[2])
    for a, b in zip(ours[2], theirs[2], strict=True):
        assert (a - b).abs().max() <= 1e-4 * largest
