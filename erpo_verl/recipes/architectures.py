"""The numbers of a decoder-only model that memory depends on: from a Hugging Face configuration, or for the recipes'
models from a table, so that a recipe can be checked where its model is not on the disk.

The table repeats the files ``config.json`` of the named repositories on https://huggingface.co; a test compares the
parameter counts that follow from it with those on the model cards.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Architecture:
    """Sizes of a model like Llama (also Qwen2 and Qwen3): attention with grouped keys, gated MLP, RMSNorm."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool  # the embedding is the output layer too
    max_positions: int
    qkv_bias: bool  # Qwen2
    qk_norm: bool  # Qwen3
    model_type: str

    @property
    def query_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def linears(self) -> tuple[tuple[int, int], ...]:
        """(input, output) of each linear map of a layer: q, k, v, o, gate, up, down."""
        h, q, kv, i = self.hidden, self.query_width, self.kv_width, self.intermediate
        return (h, q), (h, kv), (h, kv), (q, h), (h, i), (h, i), (i, h)

    @property
    def layer_parameters(self) -> int:
        bias = self.query_width + 2 * self.kv_width if self.qkv_bias else 0
        norms = 2 * self.hidden + (2 * self.head_dim if self.qk_norm else 0)
        return sum(a * b for a, b in self.linears) + bias + norms

    @property
    def embedding_parameters(self) -> int:
        """Embedding and output layer."""
        return self.vocab * self.hidden * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        return self.layers * self.layer_parameters + self.embedding_parameters + self.hidden

    def lora_parameters(self, rank: int) -> int:
        """Trained parameters with adapters of this rank on every linear map of every layer (``all-linear``)."""
        return self.layers * sum(rank * (a + b) for a, b in self.linears)


def _qwen2(layers, hidden, intermediate, heads, kv_heads, vocab, tied, max_positions) -> Architecture:
    return Architecture(
        *(layers, hidden, intermediate, heads, kv_heads, hidden // heads, vocab, tied, max_positions),
        qkv_bias=True,
        qk_norm=False,
        model_type="qwen2",
    )


KNOWN: dict[str, Architecture] = {
    "Qwen/Qwen2.5-1.5B": _qwen2(28, 1536, 8960, 12, 2, 151936, True, 131072),
    "Qwen/Qwen2.5-3B": _qwen2(36, 2048, 11008, 16, 2, 151936, True, 32768),
    "Qwen/Qwen2.5-7B": _qwen2(28, 3584, 18944, 28, 4, 152064, False, 131072),
    "Qwen/Qwen2.5-Math-7B": _qwen2(28, 3584, 18944, 28, 4, 152064, False, 4096),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": _qwen2(28, 1536, 8960, 12, 2, 151936, False, 131072),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": _qwen2(28, 3584, 18944, 28, 4, 152064, False, 131072),
    "Qwen/Qwen3-8B": Architecture(
        *(36, 4096, 12288, 32, 8, 128, 151936, False, 40960), qkv_bias=False, qk_norm=True, model_type="qwen3"
    ),
}
"""Repository on the hub -> what its ``config.json`` says (https://huggingface.co/REPOSITORY/blob/main/config.json)."""


def from_hf(config: Any) -> Architecture:
    """From a ``transformers`` configuration.

    Raises:
        ValueError: the model is of a family whose sizes are not known here.
    """
    known = ("qwen2", "qwen3", "llama")
    if config.model_type not in known:
        raise ValueError(f"model_type {config.model_type!r}: sizes are known for {', '.join(known)}")
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return Architecture(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=head_dim,
        vocab=config.vocab_size,
        tied=config.tie_word_embeddings,
        max_positions=config.max_position_embeddings,
        qkv_bias=config.model_type == "qwen2",
        qk_norm=config.model_type == "qwen3",
        model_type=config.model_type,
    )


def find(path: str) -> Architecture | None:
    """The architecture of a folder on this machine, or of one of the known repositories; None for another repository.

    Raises:
        ValueError: the folder has no readable ``config.json``, or the model is of an unknown family.
    """
    if not Path(path).expanduser().is_dir():
        return KNOWN.get(path)
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(Path(path).expanduser(), local_files_only=True)
    except (OSError, ValueError) as error:
        raise ValueError(f"config.json cannot be read: {error}") from error
    return from_hf(config)
