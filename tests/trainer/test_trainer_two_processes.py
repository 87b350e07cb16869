"""Two processes, ddp and fsdp2: what each of them records, and the gradient of one. Everything is computed in one start."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from trainer_runs import ROOT, gradients, some_uniform_groups, tiny_policy
from two_processes import CUTS, STRATEGIES, settings_of


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Results of both processes."""
    folder = tmp_path_factory.mktemp("two")
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(here / "two_processes.py"), str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), str(here)])},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_each_process_records_what_its_pass_gives(found, strategy):
    first, second = (results[f"rollout {strategy}"] for results in found)
    assert not set(first["uid"]) & set(second["uid"])
    for results in (first, second):
        for recorded, passed in zip(results["recorded"], results["passed"], strict=True):
            assert recorded.abs().sum() > 0
            torch.testing.assert_close(recorded, passed, atol=1e-5, rtol=0)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_different_numbers_of_rows_with_a_gradient(found, strategy, cut):
    """In the first mini-batch the second process has none, in the second none has any, in the third the first has none."""
    config = settings_of("ddp", "algorithm.adv_estimator=grpo", f"actor_rollout_ref.actor.{cut}")
    wanted = gradients(tiny_policy(config), some_uniform_groups(config), config)
    sizes = [max(g.abs().max() for g in step) for step in wanted]
    assert sizes[0] > 0.01 and sizes[1] == 0 and sizes[2] > 0.01
    for results in found:
        ours = results[f"gradients {strategy} {cut}"]
        for a, b, size in zip(ours, wanted, sizes, strict=True):
            assert all((x - y).abs().max() <= 1e-6 * size for x, y in zip(a, b, strict=True))


def test_statistics_over_the_values_of_both(found):
    values = torch.arange(7.0)
    for results in found:
        assert results["tally"] == pytest.approx(
            {"x/mean": 3.0, "x/std": values.std(correction=0).item(), "y/mean": 5.0, "y/max": 6.0, "y/min": 4.0, "z": 3.5,
             "none/mean": math.nan, "none/max": math.nan, "none/min": math.nan}, nan_ok=True,
        )  # fmt: skip
