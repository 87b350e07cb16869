"""How often the core waits for a device: shown on pretended tensors, which need none."""

import pytest
import torch
from core_batches import close, nested, random_batch

from benchmarks.pretended_device import pretended
from erpo_verl import erpo_advantages


def test_the_pretended_device_sees_every_way_to_wait():
    with pretended() as (to_device, waits):
        x = to_device(torch.arange(6.0))
        assert x.is_cuda and (x * 2).is_cuda and torch.zeros(3, device=x.device).is_cuda and not waits
        y = x.clone()
        assert y.mul_(2) is y and torch.add(x, x, out=y) is y and not waits
        for wait in (
            lambda: x.sum().item(), lambda: x.tolist(), lambda: x.cpu(), lambda: bool((x > 1).any()), lambda: x[x > 1], lambda: x.nonzero(),
            lambda: torch.equal(x, x), lambda: float(x[0]), lambda: x.unique(), lambda: torch.repeat_interleave(x.long()),
        ):  # fmt: skip
            before = len(waits)
            wait()
            assert len(waits) > before


@pytest.mark.parametrize("preset", ["erpo", "ep_grpo"])
@pytest.mark.parametrize("options", [{}, {"gate.normalize": "mean_one"}, {"progress.clip": 1.0, "synthesis.bound": 0.9}, {"buckets.scope": "difficulty"}])
def test_a_device_is_waited_for_twice_for_lengths_and_outcomes_and_for_metrics(preset, options):
    batch = random_batch(3, 24, 40, 5, dtype=torch.float32)
    config = nested({"preset": preset, **options})
    here = erpo_advantages(**vars(batch), config=config)
    with pretended() as (to_device, waits):
        moved = {name: to_device(x) for name, x in vars(batch).items()}
        there = erpo_advantages(**moved, config=config)
        found = list(waits)
        advantages = there.advantages.inner
    assert there.advantages.is_cuda
    assert len(found) == 2, found
    assert close(advantages, here.advantages, 1e-6)
    assert there.metrics == pytest.approx(here.metrics, nan_ok=True, rel=1e-5)
