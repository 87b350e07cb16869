"""The policy that is trained, with its reference, its optimizer and its learning-rate schedule, on one process's device.

Several processes share it in one of two ways (``actor_rollout_ref.actor.strategy``): ``ddp`` keeps a whole copy in each and averages
gradients; ``fsdp2`` keeps a part of each weight in each (torch's ``fully_shard``). Everything else of the engine sees one object.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict as dcp
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from erpo_verl.trainer.batch import Batch
from erpo_verl.trainer.logprobs import PolicyModel
from erpo_verl.trainer.processes import Processes
from erpo_verl.trainer.settings import needs_reference

DTYPES = {"fp32": torch.float32, "float32": torch.float32, "bf16": torch.bfloat16, "bfloat16": torch.bfloat16}
DEFAULT_MICRO_BATCH = 8


def fingerprint(model: nn.Module, *, adapters: bool = False) -> str:
    """sha256 over names, shapes and first values of the weights: whether a run goes on from the model it began with.

    In bfloat16, so that the type in which the weights were loaded does not count. LoRA's are left out where they are new
    (``adapters=False``).
    """
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        if adapters or "lora_" not in name:
            values = weight.detach().flatten()[:64].to("cpu", torch.bfloat16)
            digest.update(f"{name} {tuple(weight.shape)}".encode() + values.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


def lr_factor(step: int, *, warmup: int, total: int, kind: str, min_ratio: float, cycles: float) -> float:
    """What the learning rate is multiplied by at ``step`` (from 0), as in verl: linear warm-up, then constant or a cosine."""
    if step < warmup:
        return step / max(1, warmup)
    if kind == "constant":
        return 1.0
    done = (step - warmup) / max(1, total - warmup)
    wave = math.cos(math.pi * cycles * 2.0 * done)
    return max(min_ratio, (1 + min_ratio) / 2 + wave * (1 - min_ratio) / 2)


class Policy:
    """See the module.

    Args:
        model: a Hugging Face causal LM, or peft's wrapper of one.
        settings: of the whole run.
        accelerator: decides device and processes.
        total_steps: training steps of the run, for the schedule.
    """

    def __init__(self, model: nn.Module, settings: DictConfig, accelerator: Accelerator, total_steps: int):
        actor = settings.actor_rollout_ref.actor
        self.settings, self.accelerator = settings, accelerator
        self.device, self.processes = accelerator.device, Processes.of(accelerator)
        self.lora = hasattr(model, "peft_config")
        # With new adapters the reference is the model without them; an adapter that the run began with belongs to the reference.
        self._reference_is_base = self.lora and settings.actor_rollout_ref.model.lora_rank > 0
        self.sharded = actor.strategy != "ddp" and accelerator.num_processes > 1
        self.dtype = torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32
        self.temperature = settings.actor_rollout_ref.rollout.temperature
        model.to(self.device).train()
        self.start = fingerprint(model, adapters=not self._reference_is_base)
        # The reference is what the policy was at the start: a frozen copy, or with new adapters the same weights without them.
        self.has_reference = needs_reference(settings)
        self._whole = copy.deepcopy(model) if self.sharded else model
        reference = copy.deepcopy(model) if self.has_reference and not self._reference_is_base else None
        fused = settings.actor_rollout_ref.model.use_fused_kernels
        self.module = PolicyModel(model, fused=fused)
        self._forward: nn.Module = self.module
        if self.sharded:
            self._shard(self.module)
        elif accelerator.num_processes > 1:
            self._forward = nn.parallel.DistributedDataParallel(
                self.module, device_ids=[self.device] if self.device.type == "cuda" else None
            )
        self._reference = None
        if reference is not None:
            self._reference = PolicyModel(reference.eval().requires_grad_(False), fused=fused)
            if self.sharded:
                self._shard(self._reference)
        self.parameters = [p for p in self.module.parameters() if p.requires_grad]
        self._trained = {name for name, p in self.module.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=actor.optim.lr, betas=tuple(actor.optim.betas), weight_decay=actor.optim.weight_decay
        )
        warmup = actor.optim.lr_warmup_steps
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer,
            lambda step: lr_factor(
                step,
                warmup=warmup if warmup > 0 else int(actor.optim.lr_warmup_steps_ratio * total_steps),
                total=total_steps,
                kind=actor.optim.lr_scheduler_type,
                min_ratio=actor.optim.min_lr_ratio,
                cycles=actor.optim.num_cycles,
            ),
        )

    def _shard(self, module: PolicyModel) -> None:
        """Each block of layers by itself, then the rest: weights are gathered block by block."""
        kinds = set(getattr(module.model, "_no_split_modules", None) or ())
        mixed = MixedPrecisionPolicy(param_dtype=None if self.dtype == torch.float32 else self.dtype, reduce_dtype=torch.float32)
        mesh = torch.distributed.init_device_mesh(self.device.type, (self.accelerator.num_processes,))
        for block in [m for m in module.modules() if type(m).__name__ in kinds]:
            fully_shard(block, mesh=mesh, mp_policy=mixed)
        fully_shard(module, mesh=mesh, mp_policy=mixed)

    # --- forward

    def __call__(self, batch: Batch, *, with_entropy: bool = False, entropy_gradient: bool = False) -> tuple[Tensor, Tensor | None]:
        """Log-probs [B, T] float32 (nats, with gradient) of a micro-batch's responses, and entropies if asked for."""
        with self._autocast():
            return self._run(self._forward, batch, with_entropy, entropy_gradient)

    @torch.no_grad()
    def log_probs(self, batch: Batch, rows_at_once: int, *, reference: bool = False, with_entropy: bool = False) -> tuple[Tensor, Tensor | None]:
        """Log-probs and entropies [B, T] on the CPU, without gradient, some rows at a time; 0 at masked tokens."""
        found = torch.zeros(batch.response_mask.shape)
        entropy = torch.zeros(batch.response_mask.shape) if with_entropy else None
        module = self._reference if reference and self._reference is not None else self.module
        without = self.module.model.disable_adapter() if reference and self._reference_is_base else contextlib.nullcontext()
        training = module.training
        module.eval()  # no dropout: these are the probabilities under which was sampled
        with self._autocast(), without:
            for rows in micro_batches(batch.lengths.tolist(), rows_at_once=rows_at_once):
                part = batch.rows(rows).trim()
                values, H = self._run(module, part, with_entropy, False)
                found[rows, : part.response_length] = values.float().cpu()
                if entropy is not None:
                    entropy[rows, : part.response_length] = H.float().cpu()
        module.train(training)
        return found, entropy

    def _run(self, module: nn.Module, batch: Batch, with_entropy: bool, entropy_gradient: bool) -> tuple[Tensor, Tensor | None]:
        return module(
            batch.input_ids.to(self.device),
            batch.attention_mask.to(self.device),
            response_length=batch.response_length,
            response_mask=batch.response_mask.to(self.device),
            temperature=self.temperature,
            with_entropy=with_entropy,
            entropy_gradient=entropy_gradient,
        )

    def _autocast(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext() if self.sharded else self.accelerator.autocast()  # fully_shard casts by itself

    @contextlib.contextmanager
    def accumulate(self, last: bool) -> Iterator[None]:
        """Around forward and backward of a micro-batch: processes exchange gradients with the last one only."""
        if self.sharded:
            self.module.set_requires_gradient_sync(last)
        with contextlib.nullcontext() if last or self.sharded else self.accelerator.no_sync(self._forward):
            yield

    # --- update

    def apply_gradients(self, max_norm: float) -> float:
        """Clip, step, forget the gradients; returns the norm before clipping.

        A norm that is not finite leaves weights and optimizer as they were (as in verl); the caller counts it.
        """
        norm = nn.utils.clip_grad_norm_(self.parameters, max_norm)
        norm = norm.full_tensor().item() if isinstance(norm, DTensor) else norm.item()
        if math.isfinite(norm):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def zero_gradients(self) -> None:
        """A gradient of 0 for every weight: to the optimizer that is something else than none."""
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)

    @property
    def lr(self) -> float:
        """The learning rate of the next update."""
        return self.scheduler.get_last_lr()[0]

    # --- whole weights

    def whole_model(self) -> nn.Module:
        """The model with all of its weights in this process: itself, or with fsdp2 a copy that is brought up to date."""
        if self.sharded:
            own = dict(self._whole.state_dict(keep_vars=True))
            with torch.no_grad():
                for name, value in self.module.model.state_dict().items():
                    own[name].copy_(value.full_tensor() if isinstance(value, DTensor) else value)
        return self._whole

    # --- state

    def state(self) -> dict[str, Any]:
        """All that training changes, as tensors on the CPU; complete in the main process (a collective call)."""
        options = dcp.StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
        model, optimizer = dcp.get_state_dict(self.module, self.optimizer, options=options)
        # With LoRA the base stays where it came from: a checkpoint holds the adapters.
        model = {name: value for name, value in model.items() if not self.lora or name in self._trained}
        return {"model": model, "optimizer": optimizer, "scheduler": self.scheduler.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what ``state`` returned, whatever the number of processes was then; learning rate and schedule are the settings'.

        Raises:
            RuntimeError: weights of other names or shapes.
        """
        options = dcp.StateDictOptions(full_state_dict=True, ignore_frozen_params=True, strict=not self.lora)
        dcp.set_state_dict(
            self.module,
            self.optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
            options=options,
        )
        self.scheduler.load_state_dict(state["scheduler"])
        # The command that goes on says what holds from here on, also where it differs from the one that wrote the state.
        optim = self.settings.actor_rollout_ref.actor.optim
        lr = optim.lr * self.scheduler.lr_lambdas[0](self.scheduler.last_epoch)
        for group in self.optimizer.param_groups:
            group.update(lr=lr, initial_lr=optim.lr, betas=tuple(optim.betas), weight_decay=optim.weight_decay)
        self.scheduler.base_lrs, self.scheduler._last_lr = [optim.lr], [lr]


def micro_batches(
    lengths: Sequence[int],
    *,
    rows_at_once: int | None = None,
    tokens_at_once: int | None = None,
    prompts: Sequence[int] | None = None,
    at_least: int = 1,
) -> list[list[int]]:
    """Cut rows into micro-batches of like lengths, the longest first: at most so many rows, or so many padded tokens.

    Args:
        lengths: tokens of each row's response.
        rows_at_once, tokens_at_once: one of them; a row longer than ``tokens_at_once`` has a micro-batch of its own.
        prompts: tokens of each row's prompt. A micro-batch is as wide as its longest prompt and its longest response together.
        at_least: number of micro-batches to come to, where there are rows enough (sharded processes need equally many).
    """
    prompts = prompts or [0] * len(lengths)
    order = sorted(range(len(lengths)), key=lambda i: -(prompts[i] + lengths[i]))
    cut: list[list[int]] = []
    if tokens_at_once is None:
        size = rows_at_once or DEFAULT_MICRO_BATCH
        cut = [order[i : i + size] for i in range(0, len(order), size)]
    else:
        before = behind = 0  # columns of the last one
        for row in order:
            before, behind = max(before, prompts[row]), max(behind, lengths[row])
            if cut and (len(cut[-1]) + 1) * (before + behind) <= tokens_at_once:
                cut[-1].append(row)
            else:
                cut.append([row])
                before, behind = prompts[row], lengths[row]
    while len(cut) < min(at_least, len(lengths)):
        longest = max(range(len(cut)), key=lambda i: len(cut[i]))
        rows = cut[longest]
        cut[longest : longest + 1] = [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
    return cut
