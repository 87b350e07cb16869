"""How much memory a run of verl needs on each GPU: an estimate before anything is started, explained line by line.

From verl's configuration and the model's sizes alone, for the colocated trainer (FSDP actor and vLLM on the same GPUs). A
step has four phases with different tenants; each must fit. ``docs/recipes.md`` has the formulas in one place. It is
arithmetic about which tensors exist, not a measurement: no GPU was available to check it, and kernels, fragmentation
and other versions differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from erpo_verl.recipes.architectures import Architecture

GIB = 1024**3
BF16, FP32 = 2, 4  # bytes

CONTEXT = 2.0  # GiB: CUDA contexts of the trainer's and the engine's process, NCCL's buffers
ASLEEP = 1.0  # GiB: what vLLM keeps while it sleeps
GRAPHS = 1.0  # GiB: CUDA graphs, where they are captured
SLACK = 0.05  # share of the card that the allocator loses to fragmentation

DTYPES = {"fp32": FP32, "float32": FP32, "bf16": BF16, "bfloat16": BF16, "fp16": BF16, "float16": BF16}


@dataclass(frozen=True)
class Line:
    """One tenant of a GPU's memory: GiB, how it comes about, and what to change if it is too much."""

    what: str
    gib: float
    how: str
    change: str = ""


@dataclass(frozen=True)
class Phase:
    """What is on a GPU at the same time."""

    name: str
    lines: tuple[Line, ...]

    @property
    def gib(self) -> float:
        return sum(line.gib for line in self.lines)


@dataclass(frozen=True)
class Sizes:
    """What of verl's configuration matters for memory."""

    gpus: int
    gpus_per_node: int
    shards: int  # over how many GPUs FSDP cuts the model
    model_bytes: int  # of a parameter of the actor, its gradient and each of Adam's two moments
    ref_bytes: int
    param_offload: bool
    optimizer_offload: bool
    gradient_checkpointing: bool
    lora_rank: int
    reference: bool
    longest: int  # prompt and response, tokens
    update_tokens: int  # per GPU in a micro-batch of the update
    infer_tokens: int  # per GPU in a micro-batch of the log-prob pass
    entropy_chunk: int  # 0: entropy over the whole micro-batch at once
    entropy_in_loss: bool
    utilization: float
    tensor_parallel: int
    engine_length: int  # vLLM's max_model_len
    engine_tokens: int  # vLLM's max_num_batched_tokens
    engine_sequences: int
    eager: bool
    bucket_mib: int

    @classmethod
    def from_config(cls, config: DictConfig) -> Sizes:
        """Read verl's composed configuration."""

        def get(key: str, default: Any = None) -> Any:
            value = OmegaConf.select(config, key, default=default)
            return default if value is None else value

        role = "actor_rollout_ref"
        gpus = get("trainer.n_gpus_per_node") * get("trainer.nnodes")
        longest = get("data.max_prompt_length") + get("data.max_response_length")
        n, dynamic = get(f"{role}.rollout.n"), get(f"{role}.actor.use_dynamic_bsz")
        # A micro-batch is never larger than the share of a GPU.
        parallel = get(f"{role}.actor.fsdp_config.ulysses_sequence_parallel_size", 1)
        parallel = max(parallel, get(f"{role}.actor.ulysses_sequence_parallel_size", 1))

        def tokens(budget: int, micro: int | None, responses: int) -> int:
            per_gpu = max(1, responses * parallel // gpus) * longest // parallel
            return min(per_gpu, budget if dynamic else (micro or 1) * longest // parallel)

        fsdp_size = get(f"{role}.actor.fsdp_config.fsdp_size", -1)
        chunked = get(f"{role}.actor.fsdp_config.entropy_from_logits_with_chunking", False)
        return cls(
            gpus=gpus,
            gpus_per_node=get("trainer.n_gpus_per_node"),
            shards=gpus if fsdp_size <= 0 else min(fsdp_size, gpus),
            model_bytes=DTYPES[get(f"{role}.actor.fsdp_config.model_dtype", "fp32")],
            ref_bytes=DTYPES[get(f"{role}.ref.fsdp_config.model_dtype", "fp32")],
            param_offload=get(f"{role}.actor.fsdp_config.param_offload", False),
            optimizer_offload=get(f"{role}.actor.fsdp_config.optimizer_offload", False),
            gradient_checkpointing=get(f"{role}.model.enable_gradient_checkpointing", False),
            lora_rank=get(f"{role}.model.lora_rank", 0),
            reference=get("algorithm.use_kl_in_reward", False) or get(f"{role}.actor.use_kl_loss", False),
            longest=longest,
            update_tokens=tokens(
                get(f"{role}.actor.ppo_max_token_len_per_gpu"),
                get(f"{role}.actor.ppo_micro_batch_size_per_gpu"),
                get(f"{role}.actor.ppo_mini_batch_size") * n,
            ),
            infer_tokens=tokens(
                get(f"{role}.rollout.log_prob_max_token_len_per_gpu"),
                get(f"{role}.rollout.log_prob_micro_batch_size_per_gpu"),
                get("data.train_batch_size") * n,
            ),
            entropy_chunk=get(f"{role}.actor.fsdp_config.entropy_from_logits_chunk_size", 2048) if chunked else 0,
            entropy_in_loss=get(f"{role}.actor.entropy_coeff", 0) != 0 or get(f"{role}.actor.calculate_entropy", False),
            utilization=get(f"{role}.rollout.gpu_memory_utilization"),
            tensor_parallel=get(f"{role}.rollout.tensor_model_parallel_size"),
            engine_length=get(f"{role}.rollout.max_model_len", longest),
            engine_tokens=get(f"{role}.rollout.max_num_batched_tokens"),
            engine_sequences=get(f"{role}.rollout.max_num_seqs"),
            eager=get(f"{role}.rollout.enforce_eager", False),
            bucket_mib=get(f"{role}.rollout.checkpoint_engine.update_weights_bucket_megabytes", 2048),
        )


@dataclass(frozen=True)
class Estimate:
    """Memory of one GPU, phase by phase, and what does not fit."""

    card_gib: float
    phases: tuple[Phase, ...]
    sequences: float  # of full length that vLLM's cache holds at the same time
    host_gib: float  # of a node, beside everything else there
    problems: tuple[str, ...]

    @property
    def peak_gib(self) -> float:
        return max(phase.gib for phase in self.phases)

    def text(self) -> str:
        """The table that is printed."""
        rows = [f"Memory of one GPU of {self.card_gib:g} GiB (an estimate, never checked against a GPU):"]
        for phase in self.phases:
            fits = "fits" if phase.gib <= self.card_gib else "DOES NOT FIT"
            rows.append(f"  {phase.name}: {phase.gib:.1f} GiB, {fits}")
            rows += [f"    {line.gib:6.1f}  {line.what}  ({line.how})" for line in phase.lines if line.gib >= 0.05]
        rows.append(
            f"  vLLM's cache then holds {max(0.0, self.sequences):.1f} responses of full length at the same time."
        )
        rows.append(f"  Main memory of a node: about {self.host_gib:.0f} GiB for the model's copies.")
        return "\n".join(rows)


def estimate(model: Architecture, sizes: Sizes, card_gib: float) -> Estimate:
    """Estimate the memory of each GPU.

    Args:
        model: the policy's sizes.
        sizes: the run's.
        card_gib: memory of one GPU in GiB (an "80 GB" card has a little under 80 GiB; the slack covers it).
    """
    trained = model.lora_parameters(sizes.lora_rank) if sizes.lora_rank else model.parameters
    held = model.parameters + (trained if sizes.lora_rank else 0)
    unit = f"{sizes.model_bytes} bytes / {sizes.shards} GPUs"
    parameters = Line(
        "parameters of the actor",
        held * sizes.model_bytes / sizes.shards / GIB,
        f"{held / 1e9:.2f}e9 x {unit}",
        "more GPUs, or actor_rollout_ref.actor.fsdp_config.param_offload=true (helps the rollout phase)",
    )
    adam = Line(
        "Adam's moments",
        2 * trained * sizes.model_bytes / sizes.shards / GIB,
        f"2 x {trained / 1e9:.2f}e9 x {unit}",
        "actor_rollout_ref.actor.fsdp_config.optimizer_offload=true (helps all phases but the update), more GPUs, or LoRA"
        " (actor_rollout_ref.model.lora_rank=32)",
    )
    gradients = Line(
        "gradients",
        trained * sizes.model_bytes / sizes.shards / GIB,
        f"{trained / 1e9:.2f}e9 x {unit}",
        "more GPUs, or LoRA (actor_rollout_ref.model.lora_rank=32)",
    )
    always = Line("CUDA, NCCL", CONTEXT, "two processes a GPU")
    slack = Line("fragmentation", SLACK * card_gib, f"{SLACK:.0%} of the card")
    asleep = Line("vLLM asleep", ASLEEP, "what sleep mode leaves behind")
    engine, sequences, engine_problem = _engine(model, sizes, card_gib)
    # What stays on the GPU between the phases that need it.
    waiting_parameters = () if sizes.param_offload else (parameters,)
    waiting_adam = () if sizes.optimizer_offload else (adam,)
    rest = (always, slack)
    phases = (
        Phase("rollout", (engine, *waiting_parameters, *waiting_adam, *rest)),
        Phase("weights to vLLM", (parameters, *waiting_adam, *_transfer(model, sizes), *rest)),
        Phase("log-probs", (parameters, *waiting_adam, *_forward(model, sizes), asleep, *rest)),
        Phase("update", (parameters, gradients, adam, *_backward(model, sizes), asleep, *rest)),
    )
    problems = [_problem(phase, card_gib) for phase in phases if phase.gib > card_gib]
    if engine_problem:
        problems.append(engine_problem)
    return Estimate(card_gib, phases, sequences, _host(model, sizes, trained), tuple(problems))


def _problem(phase: Phase, card_gib: float) -> str:
    movable = sorted((line for line in phase.lines if line.change), key=lambda line: -line.gib)
    worst = movable[0]
    changes = "; ".join(dict.fromkeys(line.change for line in movable[:2]))
    return (
        f"memory, phase '{phase.name}': {phase.gib:.1f} GiB on a GPU of {card_gib:g} GiB. The largest line is"
        f" '{worst.what}' with {worst.gib:.1f} GiB ({worst.how}). What helps: {changes}."
    )


def _engine(model: Architecture, sizes: Sizes, card_gib: float) -> tuple[Line, float, str | None]:
    """vLLM awake: its share of the card, how many full responses its cache holds, and whether that is too few."""
    share = sizes.utilization * card_gib
    weights = model.parameters * BF16 / sizes.tensor_parallel / GIB
    # Working memory of the largest batch: residual stream and MLP in bf16; logits, probabilities and log-probs in fp32.
    work = sizes.engine_tokens * BF16 * (4 * model.hidden + 2 * model.intermediate / sizes.tensor_parallel)
    work += sizes.engine_sequences * 3 * FP32 * model.vocab
    fixed = weights + work / GIB + (0 if sizes.eager else GRAPHS)
    kv_token = 2 * model.layers * model.kv_width * BF16 / min(sizes.tensor_parallel, model.kv_heads)
    sequences = (share - fixed) * GIB / (kv_token * sizes.engine_length)
    line = Line(
        "vLLM awake",
        share,
        f"gpu_memory_utilization {sizes.utilization:g}: weights {weights:.1f}, work {fixed - weights:.1f},"
        f" cache {share - fixed:.1f}; {kv_token / 1024:.0f} KiB a token",
        "a lower actor_rollout_ref.rollout.gpu_memory_utilization",
    )
    if sequences >= 1:
        return line, sequences, None
    needed = (fixed + kv_token * sizes.engine_length / GIB) / card_gib
    return (
        line,
        sequences,
        (
            f"memory, vLLM: its share of {share:.1f} GiB"
            f" (actor_rollout_ref.rollout.gpu_memory_utilization={sizes.utilization:g}) holds weights and work of"
            f" {fixed:.1f} GiB and no room for the cache of one response of {sizes.engine_length} tokens."
            f" What helps: gpu_memory_utilization above {needed:.2f}, a larger"
            " actor_rollout_ref.rollout.tensor_model_parallel_size, or a smaller model."
        ),
    )


def _transfer(model: Architecture, sizes: Sizes) -> tuple[Line, ...]:
    tensor = model.vocab * model.hidden * sizes.model_bytes / GIB
    return (
        Line(
            "weights in vLLM",
            model.parameters * BF16 / sizes.tensor_parallel / GIB,
            f"{model.parameters / 1e9:.2f}e9 x 2 bytes / {sizes.tensor_parallel} GPUs",
            "a larger actor_rollout_ref.rollout.tensor_model_parallel_size",
        ),
        Line(
            "tensors under way",
            tensor + 2 * sizes.bucket_mib / 1024,
            "the largest parameter whole, and two buckets",
            "a lower actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes",
        ),
    )


def _gathered(model: Architecture) -> float:
    """GiB of parameters that FSDP has gathered in bf16: two layers, embedding and output."""
    return (2 * model.layer_parameters + model.embedding_parameters) * BF16 / GIB


def _forward(model: Architecture, sizes: Sizes) -> tuple[Line, ...]:
    tokens = sizes.infer_tokens
    per_token = BF16 * (3 * model.hidden + 3 * model.intermediate) + FP32 * 2 * model.hidden
    chunk = min(tokens, sizes.entropy_chunk or tokens)
    entropy = 3 * FP32 * chunk * model.vocab / GIB
    lower = "a lower actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu (no lower than prompt and response)"
    return (
        Line("gathered layers", _gathered(model), "2 layers, embedding and output in bf16"),
        Line("activations", tokens * per_token / GIB, f"{tokens} tokens, one layer, no gradients", lower),
        Line("logits", tokens * model.vocab * BF16 / GIB, f"{tokens} tokens x {model.vocab} words x 2 bytes", lower),
        Line(
            "entropy",
            entropy,
            f"{chunk} tokens x {model.vocab} words x 3 x 4 bytes",
            "actor_rollout_ref.actor.entropy_from_logits_with_chunking=true" if not sizes.entropy_chunk else "",
        ),
    )


def _backward(model: Architecture, sizes: Sizes) -> tuple[Line, ...]:
    tokens, h, i = sizes.update_tokens, model.hidden, model.intermediate
    # Saved for the backward pass by one layer, bytes a token: residuals, norms (which compute in fp32), queries, keys
    # and values before and after rotation, the attention's output, the MLP's four intermediates.
    saved = BF16 * (5 * h + 3 * model.query_width + 3 * model.kv_width + 4 * i) + FP32 * 2 * h
    moving = BF16 * (2 * h + 3 * i)  # gradients of the layer that is being walked through
    lower = "a lower actor_rollout_ref.actor.ppo_max_token_len_per_gpu (no lower than prompt and response)"
    if sizes.gradient_checkpointing:
        activations = (
            Line(
                "inputs of the layers",
                tokens * h * BF16 * model.layers / GIB,
                f"{tokens} tokens x {model.layers} layers",
                lower,
            ),
            Line("one layer again", tokens * (saved + moving) / GIB, f"{tokens} tokens, recomputed", lower),
        )
    else:
        activations = (
            Line(
                "activations of all layers",
                tokens * (saved * model.layers + moving) / GIB,
                f"{tokens} tokens x {model.layers} layers x {saved} bytes",
                "actor_rollout_ref.model.enable_gradient_checkpointing=true",
            ),
        )
    # The logits and their gradient in bf16; an entropy in the loss keeps probabilities and products in fp32 as well.
    word = 2 * BF16 + (2 * FP32 if sizes.entropy_in_loss else 0)
    trained = 0 if sizes.lora_rank else 1  # frozen layers have no gradient
    unsharded = trained * (model.embedding_parameters * BF16 + model.layer_parameters * (BF16 + FP32)) / GIB
    return (
        Line("gathered layers", _gathered(model), "2 layers, embedding and output in bf16"),
        Line("whole gradients", unsharded, "of one layer, embedding and output, before they are cut"),
        *activations,
        Line(
            "logits", tokens * model.vocab * word / GIB, f"{tokens} tokens x {model.vocab} words x {word} bytes", lower
        ),
    )


def _host(model: Architecture, sizes: Sizes, trained: int) -> float:
    """Main memory of a node. At the start each process reads the model; only one, if embedding and output are apart."""
    part = sizes.gpus_per_node / sizes.gpus
    readers = sizes.gpus_per_node if model.tied else 1
    reference = sizes.ref_bytes * model.parameters * part if sizes.reference and not sizes.lora_rank else 0
    offloaded = (
        sizes.model_bytes
        * part
        * ((model.parameters if sizes.param_offload else 0) + (2 * trained if sizes.optimizer_offload else 0))
    )
    return (readers * model.parameters * sizes.model_bytes + reference + offloaded) / GIB
