"""On a GPU: core, log-probs, rollout and trainer give what they give on the CPU. `scripts/gpu_check.sh` runs these on a bare GPU machine.

ERPO_TEST_DEVICE=cpu runs them without a GPU, which shows only that they run.
"""

from __future__ import annotations

import json
import os

import pytest
import torch

DEVICE = os.environ.get("ERPO_TEST_DEVICE", "cuda")
pytestmark = pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="no CUDA device here")


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A random model of the arithmetic task's shape, and problems for it."""
    from benchmarks.gpu_check import random_model

    torch.manual_seed(0)
    model, data, _ = random_model(tmp_path_factory.mktemp("start"), (2, 64, 128, 2, 1, 48))
    return model, data


@pytest.mark.parametrize("preset", ["erpo", "ep_grpo"])
def test_advantages_are_those_of_the_cpu(preset):
    from benchmarks.advantage import make_batch
    from erpo_verl import ErpoConfig, erpo_advantages

    batch = make_batch(64, 128, 0.4)
    moved = {name: x.to(DEVICE) if isinstance(x, torch.Tensor) else x for name, x in batch.items()}
    here = erpo_advantages(**batch, config=ErpoConfig(preset=preset))
    there = erpo_advantages(**moved, config=ErpoConfig(preset=preset))
    assert there.advantages.device.type == DEVICE
    torch.testing.assert_close(there.advantages.cpu(), here.advantages, rtol=1e-4, atol=1e-5)
    assert there.metrics == pytest.approx(here.metrics, rel=1e-3, abs=1e-5, nan_ok=True)


def test_log_probs_entropies_and_gradients_are_those_of_float64():
    from erpo_verl.trainer.logprobs import token_log_probs

    torch.manual_seed(0)
    hidden, head, targets = torch.randn(40, 32), torch.randn(300, 32), torch.randint(0, 300, (40,))
    wide = [x.double().requires_grad_() for x in (hidden, head)]
    logits = (wide[0] @ wide[1].T / 0.7).log_softmax(-1)
    expected, entropy = logits.gather(1, targets[:, None])[:, 0], -(logits.exp() * logits).sum(-1)
    (expected * torch.linspace(-1, 1, 40)).sum().backward()
    given = [x.to(DEVICE).requires_grad_() for x in (hidden, head)]
    found = token_log_probs(*given, targets.to(DEVICE), temperature=0.7, with_entropy=True, chunk_tokens=16)
    (found[0] * torch.linspace(-1, 1, 40, device=DEVICE)).sum().backward()
    for mine, theirs in ((found[0], expected), (found[1], entropy), (given[0].grad, wide[0].grad), (given[1].grad, wide[1].grad)):
        torch.testing.assert_close(mine.detach().cpu().double(), theirs.detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(DEVICE != "cuda", reason="memory is counted by the CUDA allocator")
def test_whole_logits_never_exist():
    from erpo_verl.trainer.logprobs import token_log_probs

    tokens, vocabulary = 16384, 65536
    head = torch.randn(vocabulary, 256, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
    hidden = torch.randn(tokens, 256, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
    targets = torch.randint(0, vocabulary, (tokens,), device=DEVICE)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    token_log_probs(hidden, head, targets, with_entropy=True, chunk_tokens=512)[0].sum().backward()
    assert torch.cuda.max_memory_allocated() - before < tokens * vocabulary * 4 / 4


def test_greedy_responses_are_those_of_the_cpu(start):
    from transformers import AutoModelForCausalLM

    from erpo_verl.rollout.hf import HFRollout
    from erpo_verl.rollout.types import SamplingParams

    prompts = [[5, 6, 7, 8], [9, 10], [11, 12, 13, 14, 15, 16]]
    params = SamplingParams(n=2, max_tokens=24, do_sample=False)
    found = []
    for device in ("cpu", DEVICE):
        model = AutoModelForCausalLM.from_pretrained(start[0], dtype=torch.float32).to(device).eval()
        found.append(HFRollout(model, eos_token_ids=[1], pad_token_id=0, max_batch=8).generate(prompts, params))
    for here, there in zip(*found, strict=True):
        for a, b in zip(here, there, strict=True):
            assert b.tokens == a.tokens
            assert b.log_probs == pytest.approx(a.log_probs, abs=1e-3)


@pytest.mark.parametrize("arm", ["grpo", "erpo"])
def test_a_run_trains_and_goes_on_from_its_checkpoint(start, tmp_path, arm):
    from benchmarks.gpu_check import _settings
    from erpo_verl.trainer import run

    given = {"algorithm.adv_estimator": arm, "trainer.save_freq": 1, "data.max_response_length": 16}
    for steps in (1, 2):
        assert run.train(_settings(*start, tmp_path / arm, DEVICE, **{**given, "trainer.total_training_steps": steps})) == 0
    lines = [json.loads(line)["data"] for line in (tmp_path / arm / "metrics.jsonl").read_text().splitlines()]
    assert [line["training/global_step"] for line in lines] == [1.0, 2.0]
    assert all(line["actor/grad_norm"] > 0 for line in lines)
