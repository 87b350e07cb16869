"""Log-probs and entropies of given tokens, without [tokens, vocabulary] in float32 at once.

A response of 4,096 tokens over a vocabulary of 150,000 has logits of 2.5 GB in float32, and several tensors of that size are alive
in a plain forward and backward pass. Here the last hidden states of the valid response tokens are taken through the output
layer some tokens at a time; the backward pass computes each piece again. What is kept is one number a token.

`PolicyModel` wraps a Hugging Face causal LM so that its forward pass returns log-probs; DDP and FSDP wrap it in turn. It asks the
model, once, whether its logits are nothing but the output layer's product with the backbone's last hidden states. Models that do more
(soft-capping, scaling, adapters on the output layer) make their logits themselves, of the response columns and in the model's
type; all that follows is done piece by piece as well.

Liger has the same as a fused kernel for NVIDIA's Hopper (`LigerFusedLinearScaledCrossEntropyFunction`, from 0.8.2 on; elsewhere it
falls back to pieces, as here). ``fused=True`` takes it; what is written out here is the reference that a test holds it to.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

# Logits of one piece: 64 MB in float32 on a CPU, where it should fit into cache and memory; more on a GPU, to keep it busy.
CPU_PIECE, GPU_PIECE = 1 << 24, 1 << 27


def token_log_probs(
    hidden: Tensor,
    weight: Tensor | None,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    with_entropy: bool = False,
    entropy_gradient: bool = False,
    chunk_tokens: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Log-probs of the targets under softmax((hidden weight^T + bias) / temperature), and the softmax's entropies.

    Args:
        hidden: [N, D] last hidden states; float32, bfloat16 or float16 (or float64).
        weight: [V, D] of the output layer; cast to the type of the arithmetic (autocast's where it is on, else its own).
            None: ``hidden`` are logits [N, V] already.
        targets: [N] int64 in [0, V).
        bias: [V] or None.
        temperature: > 0.
        with_entropy: whether entropies are wanted.
        entropy_gradient: whether they have a gradient.
        chunk_tokens: tokens in a piece, >= 1; None: so many that a piece's logits take 64 MB (512 MB on a GPU), at least 16.

    Returns:
        log-probs [N] and entropies [N] (or None), in nats, float32 (float64 for float64 input); the log-probs have gradients to
        hidden, weight and bias.

    Raises:
        ValueError: a temperature or chunk_tokens that is not positive, or shapes that do not fit.
    """
    if not temperature > 0:
        raise ValueError(f"temperature = {temperature}: must be > 0")
    if chunk_tokens is not None and chunk_tokens < 1:
        raise ValueError(f"chunk_tokens = {chunk_tokens}: must be >= 1, or None")
    shape = None if weight is None else tuple(weight.shape)
    if hidden.ndim != 2 or targets.shape != hidden.shape[:1] or (shape and (len(shape) != 2 or shape[1] != hidden.shape[1])):
        raise ValueError(f"hidden {tuple(hidden.shape)}, weight {shape} and targets {tuple(targets.shape)} do not fit together")
    if chunk_tokens is None:
        vocabulary = hidden.shape[1] if weight is None else weight.shape[0]
        # A narrower product than 16 rows only makes the head's weights be read more often.
        chunk_tokens = max(16, (CPU_PIECE if hidden.device.type == "cpu" else GPU_PIECE) // vocabulary)
    log_probs, entropy = _TokenLogProbs.apply(
        hidden, weight, bias, targets, temperature, with_entropy, with_entropy and entropy_gradient, chunk_tokens
    )
    return log_probs, (entropy if with_entropy else None)


class _TokenLogProbs(torch.autograd.Function):
    """With l the logits over the temperature and p their softmax:

    log-prob of target y:  d/dl_j = [j = y] - p_j        entropy H:  d/dl_j = -p_j (log p_j + H)
    """

    @staticmethod
    def forward(ctx: Any, hidden, weight, bias, targets, temperature, with_entropy, entropy_gradient, chunk):
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else (hidden if weight is None else weight).dtype
        wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        log_probs, normaliser = (torch.empty(len(targets), dtype=wide, device=hidden.device) for _ in range(2))
        entropy = torch.zeros(len(targets), dtype=wide, device=hidden.device)
        with torch.autocast(device, enabled=False):
            head = None if weight is None else weight.to(dtype)
            for rows in _pieces(len(targets), chunk):
                logits = _logits(hidden[rows], head, bias, temperature, wide)
                normaliser[rows] = logits.logsumexp(dim=-1)
                log_probs[rows] = logits.gather(1, targets[rows, None]).squeeze(1) - normaliser[rows]
                if with_entropy:
                    # A logit of -inf has a share of 0; left as it is, 0 * inf would make the entropy nan.
                    log_p = logits.sub_(normaliser[rows, None]).clamp_(min=torch.finfo(wide).min)
                    entropy[rows] = -torch.linalg.vecdot(log_p.exp(), log_p)
        ctx.save_for_backward(hidden, weight, bias, targets, normaliser, entropy)
        ctx.settings = (temperature, entropy_gradient, chunk, dtype, wide)
        if not entropy_gradient:
            ctx.mark_non_differentiable(entropy)
        return log_probs, entropy

    @staticmethod
    def backward(ctx: Any, grad_log_probs, grad_entropy):
        hidden, weight, bias, targets, normaliser, entropy = ctx.saved_tensors
        temperature, entropy_gradient, chunk, dtype, wide = ctx.settings
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        head = None if weight is None else weight.to(dtype)
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        # Summed over pieces in float32, whatever the type of the weights.
        grad_weight = torch.zeros(weight.shape, dtype=wide, device=weight.device) if need_weight else None
        grad_bias = torch.zeros(bias.shape, dtype=wide, device=bias.device) if need_bias else None
        for rows in _pieces(len(targets), chunk):
            logits = _logits(hidden[rows], head, bias, temperature, wide)
            log_p = logits.sub_(normaliser[rows, None])
            p = log_p.exp()
            if entropy_gradient:
                grad = log_p.clamp_(min=torch.finfo(wide).min / 2).add_(entropy[rows, None]).mul_(p).mul_(-grad_entropy[rows, None])
                grad.addcmul_(p, grad_log_probs[rows, None].expand_as(p), value=-1)
            else:
                grad = p.mul_(-grad_log_probs[rows, None])
            grad.scatter_add_(1, targets[rows, None], grad_log_probs[rows, None].to(wide))
            grad.div_(temperature)
            if need_bias:
                grad_bias += grad.sum(dim=0)
            grad = grad.to(dtype)
            if need_hidden:
                grad_hidden[rows] = (grad if head is None else grad @ head).to(hidden.dtype)
            if need_weight and dtype == wide:
                grad_weight.addmm_(grad.T, hidden[rows].to(dtype))
            elif need_weight:
                grad_weight += grad.T @ hidden[rows].to(dtype)
        return (
            grad_hidden,
            grad_weight.to(weight.dtype) if need_weight else None,
            grad_bias.to(bias.dtype) if need_bias else None,
            None, None, None, None, None,
        )  # fmt: skip


def _pieces(count: int, size: int) -> list[slice]:
    return [slice(i, min(i + size, count)) for i in range(0, count, size)]


def _logits(hidden: Tensor, head: Tensor | None, bias: Tensor | None, temperature: float, wide: torch.dtype) -> Tensor:
    """Logits of a piece over the temperature, in memory of their own."""
    logits = hidden.to(wide, copy=True) if head is None else (hidden.to(head.dtype) @ head.T).to(wide)
    if bias is not None:
        logits += bias.to(wide)
    return logits if temperature == 1.0 else logits.div_(temperature)


class PolicyModel(nn.Module):
    """A causal LM whose forward pass returns the log-probs of a batch's responses.

    Wrap this, not the model, in DDP or FSDP: they work through the hooks of what they wrap.

    Args:
        model: a Hugging Face causal LM, or peft's wrapper of one; on its device, not sharded yet.
        chunk_tokens: see ``token_log_probs``.
        fused: take Liger's kernel, where the model has a plain output layer without bias.
        plain_head: where the answer is known (the model need not have its weights then); None: ask the model.

    Raises:
        ImportError: ``fused`` without liger-kernel 0.8.2 or later.

    Attributes:
        model: as it was given.
        plain_head: whether hidden states and output layer are used (see the module); else the model's own logits.
    """

    def __init__(self, model: nn.Module, chunk_tokens: int | None = None, fused: bool = False, plain_head: bool | None = None):
        super().__init__()
        self.model = model
        self.chunk_tokens = chunk_tokens
        self.liger = liger_kernel() if fused else None
        self.plain_head = plain_output_layer(unwrapped(model)) if plain_head is None else plain_head
        self._keeps = "logits_to_keep" in inspect.signature(unwrapped(model).forward).parameters

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        response_length: int,
        response_mask: Tensor,
        temperature: float = 1.0,
        with_entropy: bool = False,
        entropy_gradient: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """
        Args:
            input_ids: [B, L] int64, prompts padded on the left and responses on the right.
            attention_mask: [B, L], non-zero marks a token.
            response_length: R, the last columns, 1 <= R < L; every row has at least one prompt token before them.
            response_mask: [B, R], non-zero marks the tokens wanted.
            temperature, with_entropy, entropy_gradient: see ``token_log_probs``.

        Returns:
            log-probs [B, R] and entropies [B, R] (or None), nats, float32, 0 at masked tokens.

        Raises:
            ValueError: shapes that do not fit.
        """
        R, shape = response_length, tuple(input_ids.shape)
        if attention_mask.shape != shape or response_mask.shape != (shape[0], R) or not 1 <= R < shape[1]:
            raise ValueError(
                f"input_ids {shape}, attention_mask {tuple(attention_mask.shape)}, response_mask {tuple(response_mask.shape)}, "
                f"response_length {R}: wanted are (B, L), (B, L), (B, R) and 1 <= R < L"
            )
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0),
            "use_cache": False,
        }
        mask = response_mask.bool()
        targets = input_ids[:, -R:][mask]
        # The state before a token is what the token was sampled from.
        if self.plain_head:
            causal = unwrapped(self.model)
            source = causal.get_decoder()(**inputs).last_hidden_state[:, -R - 1 : -1][mask]
            head = causal.get_output_embeddings()
            weight, bias = head.weight, head.bias
        else:
            source = self.model(**inputs, **({"logits_to_keep": R + 1} if self._keeps else {})).logits[:, -R - 1 : -1][mask]
            weight = bias = None
        if self.liger is not None and weight is not None and bias is None and len(targets):
            device = source.device.type
            dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
            found = self.liger.apply(source.to(dtype), weight.to(dtype), targets, temperature, -100, 1, with_entropy)
            log_probs, entropy = (-found[0].float(), found[1].float()) if with_entropy else (-found.float(), None)
            entropy = entropy if entropy_gradient or entropy is None else entropy.detach()
        else:
            log_probs, entropy = token_log_probs(
                source, weight, targets, bias=bias, temperature=temperature, with_entropy=with_entropy,
                entropy_gradient=entropy_gradient, chunk_tokens=self.chunk_tokens,
            )  # fmt: skip
        return _unpack(log_probs, mask), None if entropy is None else _unpack(entropy, mask)


def liger_kernel() -> Any:
    """Liger's fused projection, log-prob and entropy.

    Raises:
        ImportError: liger-kernel is not installed, or too old.
    """
    try:
        from liger_kernel.ops import LigerFusedLinearScaledCrossEntropyFunction
    except ImportError as error:
        raise ImportError(
            "actor_rollout_ref.model.use_fused_kernels=true needs liger-kernel 0.8.2 or later: pip install liger-kernel"
        ) from error
    return LigerFusedLinearScaledCrossEntropyFunction


def _unpack(tokens: Tensor, mask: Tensor) -> Tensor:
    """[N] to [B, R], 0 elsewhere."""
    return tokens.new_zeros(mask.shape).masked_scatter(mask, tokens)


def unwrapped(model: nn.Module) -> nn.Module:
    """The transformers model in peft's wrapper, whose layers hold the adapters, else the model itself.

    peft's methods that add virtual tokens act in the wrapper's forward pass: such a wrapper is returned as it is.
    """
    if not hasattr(model, "peft_config") or any(config.is_prompt_learning for config in model.peft_config.values()):
        return model
    return model.get_base_model()


def plain_output_layer(causal: nn.Module) -> bool:
    """Whether a model's logits are its last hidden states times a linear output layer, and nothing more.

    The model is run once, on two tokens: the output layer has to be given the backbone's last hidden states, and what it returns, here
    replaced by large numbers that a cap or a scale would change, has to come out as the logits.
    """
    head = causal.get_output_embeddings() if hasattr(causal, "get_output_embeddings") else None
    backbone = causal.get_decoder() if hasattr(causal, "get_decoder") else None
    if type(head) is not nn.Linear or backbone is None or backbone is causal:
        return False
    seen: dict[str, Tensor] = {}

    def replace(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        seen["input"] = inputs[0]
        # Up to 2040, exact in bfloat16 too.
        seen["output"] = (1024 + 8 * (torch.arange(output.numel(), device=output.device) % 128)).view_as(output).to(output.dtype)
        return seen["output"]

    training = [module for module in causal.modules() if module.training]
    attention = getattr(causal.config, "_attn_implementation", None)
    if head.weight.device.type == "cpu" and attention not in (None, "eager", "sdpa"):
        causal.set_attn_implementation("sdpa")  # a kernel for GPUs, and the model is not there yet
    causal.eval()
    hook = head.register_forward_hook(replace)
    try:
        with torch.no_grad():
            inputs = {"input_ids": torch.tensor([[0, 1]], device=head.weight.device), "use_cache": False}
            logits = causal(**inputs).logits
            hidden = backbone(**inputs).last_hidden_state
    finally:
        hook.remove()
        if attention is not None:
            causal.set_attn_implementation(attention)
        for module in training:
            module.training = True
    return "input" in seen and torch.equal(seen["input"], hidden) and torch.equal(seen["output"].to(logits.dtype), logits)
