"""Log-probs and entropies of given tokens, without [tokens, vocabulary] in float32 at once.

A response of 4,096 tokens over a vocabulary of 150,000 has logits of 2.5 GB in float32, and several tensors of that size are alive
in a plain forward and backward pass. Here the last hidden states of the valid response tokens are taken through the output
layer some tokens at a time; the backward pass computes each piece again. What is kept is one number a token.

`PolicyModel` wraps a Hugging Face causal LM so that its forward pass returns log-probs; DDP and FSDP wrap it in turn. Models that do
more to their logits than the output layer (soft-capping, scaling, adapters on the output layer) go through their own forward pass.

Liger's fused losses (linear cross entropy, GRPO) return a loss and no entropy, which ERPO needs for every token, so they are not used.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

# Logits of one piece: 64 MB in float32 on a CPU, where it should fit into cache and memory; more on a GPU, to keep it busy.
CPU_PIECE, GPU_PIECE = 1 << 24, 1 << 27


def token_log_probs(
    hidden: Tensor,
    weight: Tensor,
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
        targets: [N] int64.
        bias: [V] or None.
        temperature: > 0.
        with_entropy: whether entropies are wanted.
        entropy_gradient: whether they have a gradient.
        chunk_tokens: tokens in a piece; None: so many that a piece's logits have the size given above.

    Returns:
        log-probs [N] and entropies [N] (or None), in nats, float32 (float64 for float64 input); the log-probs have gradients to
        hidden, weight and bias.

    Raises:
        ValueError: a temperature that is not positive, or shapes that do not fit.
    """
    if not temperature > 0:
        raise ValueError(f"temperature = {temperature}: must be > 0")
    if hidden.ndim != 2 or targets.shape != hidden.shape[:1] or weight.shape[1] != hidden.shape[1]:
        raise ValueError(f"hidden {tuple(hidden.shape)}, weight {tuple(weight.shape)} and targets {tuple(targets.shape)} do not fit together")
    if chunk_tokens is None:
        chunk_tokens = max(1, (GPU_PIECE if hidden.is_cuda else CPU_PIECE) // weight.shape[0])
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
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        log_probs, normaliser = (torch.empty(len(targets), dtype=wide, device=hidden.device) for _ in range(2))
        entropy = torch.zeros(len(targets), dtype=wide, device=hidden.device)
        with torch.autocast(device, enabled=False):
            head = weight.to(dtype)
            for rows in _pieces(len(targets), chunk):
                logits = _logits(hidden[rows], head, bias, temperature, wide)
                normaliser[rows] = logits.logsumexp(dim=-1)
                log_probs[rows] = logits.gather(1, targets[rows, None]).squeeze(1) - normaliser[rows]
                if with_entropy:
                    p = (logits - normaliser[rows, None]).exp_()
                    entropy[rows] = normaliser[rows] - torch.linalg.vecdot(p, logits)
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
        head = weight.to(dtype)
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        # Summed over pieces in float32, whatever the type of the weights.
        grad_weight = torch.zeros(weight.shape, dtype=wide, device=weight.device) if need_weight else None
        grad_bias = torch.zeros(bias.shape, dtype=wide, device=bias.device) if need_bias else None
        for rows in _pieces(len(targets), chunk):
            logits = _logits(hidden[rows], head, bias, temperature, wide)
            log_p = logits.sub_(normaliser[rows, None])
            p = log_p.exp()
            if entropy_gradient:
                grad = (log_p + entropy[rows, None]).mul_(p).mul_(-grad_entropy[rows, None])
                grad.addcmul_(p, grad_log_probs[rows, None].expand_as(p), value=-1)
            else:
                grad = p.mul_(-grad_log_probs[rows, None])
            grad.scatter_add_(1, targets[rows, None], grad_log_probs[rows, None].to(wide))
            grad.div_(temperature)
            if need_bias:
                grad_bias += grad.sum(dim=0)
            grad = grad.to(dtype)
            if need_hidden:
                grad_hidden[rows] = (grad @ head).to(hidden.dtype)
            if need_weight:
                grad_weight += grad.T @ hidden[rows].to(dtype)
        return (
            grad_hidden,
            grad_weight.to(weight.dtype) if need_weight else None,
            grad_bias.to(bias.dtype) if need_bias else None,
            None, None, None, None, None,
        )  # fmt: skip


def _pieces(count: int, size: int) -> list[slice]:
    return [slice(i, min(i + size, count)) for i in range(0, count, size)]


def _logits(hidden: Tensor, head: Tensor, bias: Tensor | None, temperature: float, wide: torch.dtype) -> Tensor:
    logits = (hidden.to(head.dtype) @ head.T).to(wide)
    if bias is not None:
        logits += bias.to(wide)
    return logits.div_(temperature)


class PolicyModel(nn.Module):
    """A causal LM whose forward pass returns the log-probs of a batch's responses. ``model`` may be peft's wrapper."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        causal = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._plain_head = plain_output_layer(causal)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        *,
        response_length: int,
        response_mask: Tensor,
        temperature: float = 1.0,
        with_entropy: bool = False,
        entropy_gradient: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """
        Args:
            input_ids: [B, L + R] int64, prompts padded on the left and responses on the right.
            attention_mask: [B, L + R], non-zero marks a token.
            response_length: R, the last columns; every row has at least one prompt token before them.
            response_mask: [B, R] bool.
            temperature, with_entropy, entropy_gradient: see ``token_log_probs``.

        Returns:
            log-probs [B, R] and entropies [B, R] (or None), nats, float32, 0 at masked tokens.
        """
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": (attention_mask.cumsum(dim=1) - 1).clamp(min=0),
            "use_cache": False,
        }
        R = response_length
        targets = input_ids[:, -R:][response_mask]
        options = {"temperature": temperature, "with_entropy": with_entropy, "entropy_gradient": entropy_gradient}
        if self._plain_head:
            causal = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
            hidden = getattr(causal, causal.base_model_prefix)(**inputs).last_hidden_state
            # The state before a token is what the token was sampled from.
            head = causal.get_output_embeddings()
            found = token_log_probs(hidden[:, -R - 1 : -1][response_mask], head.weight, targets, bias=head.bias, **options)
        else:
            logits = self.model(**inputs, logits_to_keep=R + 1).logits[:, :-1][response_mask]
            # The same function, with the logits as hidden states and no output layer left to apply.
            found = _from_logits(logits, targets, **options)
        return tuple(None if x is None else _unpack(x, response_mask) for x in found)


def _from_logits(logits: Tensor, targets: Tensor, temperature: float, with_entropy: bool, entropy_gradient: bool) -> tuple[Tensor, Tensor | None]:
    """Plain log-softmax of [N, V] logits, for models that make their logits themselves."""
    log_p = torch.log_softmax(logits.float() / temperature, dim=-1)
    entropy = None
    if with_entropy:
        source = log_p if entropy_gradient else log_p.detach()
        entropy = -(source.exp() * source).sum(dim=-1)
    return log_p.gather(1, targets[:, None]).squeeze(1), entropy


def _unpack(tokens: Tensor, mask: Tensor) -> Tensor:
    """[N] to [B, R], 0 elsewhere."""
    return tokens.new_zeros(mask.shape).masked_scatter(mask, tokens)


def plain_output_layer(causal: nn.Module) -> bool:
    """Whether a model's logits are its last hidden states times a linear output layer, and nothing more."""
    head = causal.get_output_embeddings()
    config = causal.config
    changed = (
        getattr(config, "final_logit_softcapping", None),
        None if getattr(config, "logits_scaling", 1) == 1 else config.logits_scaling,
        None if getattr(config, "logit_scale", 1) in (1, None) else config.logit_scale,
    )
    return type(head) is nn.Linear and hasattr(causal, causal.base_model_prefix) and all(x is None for x in changed)
