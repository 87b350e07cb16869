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
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor

from erpo_verl.trainer.batch import Batch
from erpo_verl.trainer.logprobs import PolicyModel
from erpo_verl.trainer.processes import Processes
from erpo_verl.trainer.settings import reads_reference
from erpo_verl.trainer.shards import fill, gathered, like, split, without_weights

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


def splits_weights(settings: DictConfig, accelerator: Accelerator) -> bool:
    """Whether each process holds a part of each weight."""
    return settings.actor_rollout_ref.actor.strategy != "ddp" and accelerator.num_processes > 1


def mesh_of(accelerator: Accelerator) -> DeviceMesh:
    """All processes, in one row (a collective call)."""
    return init_device_mesh(accelerator.device.type, (accelerator.num_processes,))


class Policy:
    """See the module.

    Args:
        model: a Hugging Face causal LM, or peft's wrapper of one.
        settings: of the whole run.
        accelerator: decides device and processes.
        total_steps: training steps of the run, for the schedule.
        mesh: processes to split weights over, where the settings ask for that; None: all of them. With a mesh, fsdp2's processes
            need not make their policies at the same time.
    """

    def __init__(self, model: nn.Module, settings: DictConfig, accelerator: Accelerator, total_steps: int, mesh: DeviceMesh | None = None):
        actor = settings.actor_rollout_ref.actor
        self.settings, self.accelerator = settings, accelerator
        self.device, self.processes = accelerator.device, Processes.of(accelerator)
        self.lora = hasattr(model, "peft_config")
        # With new adapters the reference is the model without them; an adapter that the run began with belongs to the reference.
        self._reference_is_base = self.lora and settings.actor_rollout_ref.model.lora_rank > 0
        self.sharded = splits_weights(settings, accelerator)
        self.dtype = torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32
        self.temperature = settings.actor_rollout_ref.rollout.temperature
        # Split weights come to the device in parts.
        model = model.train() if self.sharded else model.to(self.device).train()
        self.start = fingerprint(model, adapters=not self._reference_is_base)
        # The reference is what the policy was at the start: a frozen copy, or with new adapters the same weights without them.
        self.has_reference = reads_reference(settings)
        own_reference = self.has_reference and not self._reference_is_base
        fused = settings.actor_rollout_ref.model.use_fused_kernels
        self.module = PolicyModel(model, fused=fused)
        self._sampled = None
        if settings.actor_rollout_ref.rollout.name == "hf" and (self.sharded or self._casts(model)):
            dtype = self.dtype if self._casts(model) else None
            self._sampled = like(model, lambda p: p.to(self.device, dtype, copy=True)).to(self.device).eval().requires_grad_(False)
        self._structure = without_weights(model) if self.sharded else None
        self._reference = None
        if own_reference:
            other = without_weights(model) if self.sharded else copy.deepcopy(model)
            self._reference = PolicyModel(other.eval().requires_grad_(False), fused=fused, plain_head=self.module.plain_head)
        self._forward: nn.Module = self.module
        if self.sharded:
            kinds = set(getattr(model, "_no_split_modules", None) or ())
            mesh = mesh or mesh_of(accelerator)
            if self._reference is not None:
                split(self._reference, kinds, mesh, self.dtype)
                fill(self._reference, dict(self.module.named_parameters(remove_duplicate=False)))
            split(self.module, kinds, mesh, self.dtype)
        elif accelerator.num_processes > 1:
            self._forward = nn.parallel.DistributedDataParallel(
                self.module, device_ids=[self.device] if self.device.type == "cuda" else None
            )
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

    def _casts(self, model: nn.Module) -> bool:
        """Whether the update casts the weights for its arithmetic (autocast)."""
        return self.dtype not in (torch.float32, next(model.parameters()).dtype)

    # --- forward

    def __call__(self, batch: Batch, *, with_entropy: bool = False, entropy_gradient: bool = False) -> tuple[Tensor, Tensor | None]:
        """Log-probs [B, T] float32 (nats, with gradient) of a micro-batch's responses, and entropies if asked for."""
        with self._autocast():
            return self._run(self._forward, batch, with_entropy, entropy_gradient)

    @torch.no_grad()
    def log_probs(
        self, batch: Batch, rows_at_once: int, *, reference: bool = False, with_entropy: bool = False, wanted: Sequence[bool] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Log-probs and entropies [B, T] on the CPU, without gradient, some rows at a time; 0 at masked tokens.

        ``wanted``: for each row whether its are; None: all rows'. With fsdp2 a collective call.
        """
        found = torch.zeros(batch.response_mask.shape)
        entropy = torch.zeros(batch.response_mask.shape) if with_entropy else None
        module = self._reference if reference and self._reference is not None else self.module
        without = self.module.model.disable_adapter() if reference and self._reference_is_base else contextlib.nullcontext()
        training = module.training
        module.eval()  # no dropout: these are the probabilities under which was sampled
        with self._autocast(), without:
            wanted = wanted or [True] * len(batch)
            cuts, fillers = self.cut(batch, wanted, wherever=self.sharded, rows_at_once=rows_at_once)
            for rows in (*cuts, *fillers):
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

    def cut(
        self, batch: Batch, wanted: Sequence[bool], *, wherever: bool = True, rows_at_once: int | None = None, tokens_at_once: int | None = None
    ) -> tuple[list[list[int]], list[list[int]]]:
        """Micro-batches of the wanted rows, see ``micro_batches``; and of some others, for processes that must take part with them.

        Processes exchange gradients in the last backward pass, and with split weights they gather those in every pass. So each makes
        one where any does, and with split weights as many as any.

        Args:
            wherever: whether others have to take part at all (a collective call then).
        """
        lengths, prompts = batch.lengths.tolist(), [len(prompt.tokens) for prompt in batch.prompts]
        rows = [row for row, chosen in enumerate(wanted) if chosen]

        def cuts(at_least: int) -> list[list[int]]:
            found = micro_batches(
                [lengths[row] for row in rows], prompts=[prompts[row] for row in rows], at_least=at_least, rows_at_once=rows_at_once,
                tokens_at_once=tokens_at_once,
            )  # fmt: skip
            return [[rows[i] for i in chosen] for chosen in found]

        found = cuts(1)
        if not wherever or self.processes.count == 1:
            return found, []
        most = int(self.processes.max([float(len(found))])[0])
        needed = min(most, 1)
        if self.sharded:
            found, needed = cuts(most), most
        others = sorted((row for row, chosen in enumerate(wanted) if not chosen), key=lambda row: prompts[row] + lengths[row])
        return found, [[row] for row in others[: max(0, needed - len(found))]]

    @contextlib.contextmanager
    def accumulate(self, last: bool) -> Iterator[None]:
        """Around forward and backward of a micro-batch: processes exchange gradients with the last one only.

        Split weights exchange them each time, since a sum that waits for the last one would be as large as the whole model.
        """
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

    @property
    def sampled_model(self) -> nn.Module:
        """What rollouts sample from: the trained model, or a whole copy in the type of the arithmetic, as of the last ``sync_sampled``."""
        return self.module.model if self._sampled is None else self._sampled

    @torch.no_grad()
    def sync_sampled(self) -> nn.Module:
        """Bring ``sampled_model`` up to date, one weight after the other, of LoRA the adapters alone (a collective call); returns it."""
        if self._sampled is not None:
            own = dict(self._sampled.named_parameters())
            for name, weight in gathered(self.module.model, lambda name: own[name].dtype, trained=True):
                own[name].copy_(weight)
        return self.sampled_model

    @torch.no_grad()
    def whole_model(self) -> nn.Module | None:
        """The trained model with all of its weights: itself, or with fsdp2 a copy on the CPU, of the main process alone (a collective call)."""
        if not self.sharded:
            return self.module.model
        weights = {}
        for name, weight in gathered(self.module.model):
            if self.processes.rank == 0:
                weights[name] = weight.to("cpu", copy=True)
        if not weights:
            return None
        whole = copy.deepcopy(self._structure)
        fill(whole, weights)
        return whole

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
