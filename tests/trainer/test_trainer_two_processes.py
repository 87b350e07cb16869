"""Two processes, ddp and fsdp2: what each of them records, and the gradient of one. Everything is computed in one start."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from trainer_runs import ROOT, gradients, some_uniform_groups, tiny_policy
from two_processes import CUTS, METHODS, STRATEGIES, credited, settings_of

from erpo_verl.trainer.processes import ALONE


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


@pytest.mark.parametrize("name", METHODS)
def test_advantages_of_own_groups_and_metrics_of_all(found, name):
    """Those that one process computes of the same rows, also where a group's advantages depend on the other process's."""
    order = [row for rank in range(2) for row in range(24) if row // 4 % 2 == rank]
    whole, metrics = credited(name, ALONE, lambda batch: batch.rows(order))
    rows = len(order) // 2
    for rank, results in enumerate(found):
        credit, merged = results[f"credit {name}"]
        torch.testing.assert_close(credit.advantages, whole.advantages[rank * rows : (rank + 1) * rows], atol=1e-6, rtol=1e-6)
        assert merged.keys() == metrics.keys()
        for key, value in metrics.items():
            assert merged[key] == pytest.approx(value, rel=1e-5, abs=1e-7, nan_ok=True), key
        if credit.tokens is not None:
            torch.testing.assert_close(credit.advantages[credit.tokens.row, credit.tokens.column], credit.tokens.advantages)
            assert len(credit.tokens.row) == sum(((whole.tokens.row // rows) == rank).tolist())
    assert (whole.advantages != 0).any()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_different_numbers_of_rows_that_are_wanted(found, strategy):
    for results in found:
        wanted, some, whole = results[f"wanted {strategy}"]
        torch.testing.assert_close(some[wanted], whole[wanted], atol=1e-6, rtol=0)
    assert found[0][f"wanted {strategy}"][1][found[0][f"wanted {strategy}"][0]].abs().sum() > 0


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


def test_the_memory_of_fsdp2_is_that_of_parts(found):
    """Of P bytes of weights, over N = 2 processes: weights, reference and AdamW's two moments in parts, one whole copy for rollouts.

    Beside them while loading: the start model, of which parts are taken. In a step: gradients in parts, and a few blocks.
    """
    for rank, results in enumerate(found):
        memory = results["memory"]
        P, block, N = memory["size"], memory["block"], 2
        loaded = P / N + P / N + P
        assert memory["loaded"] == pytest.approx(loaded, rel=0.01)
        assert memory["loading"] <= P + P / N + P + 2 * block
        for after, peak in memory["steps"]:
            assert after == pytest.approx(loaded + 2 * P / N, rel=0.01)
            assert peak <= loaded + 2 * P / N + P / N + 6 * block
        # For a model folder the main process has a copy more; the other helps with one weight at a time.
        assert memory["export"] <= loaded + 2 * P / N + (1.05 * P if rank == 0 else block)
        assert memory["whole is copy"] is (True if rank == 0 else None)


def test_statistics_over_the_values_of_both(found):
    values = torch.arange(7.0)
    for results in found:
        assert results["tally"] == pytest.approx(
            {"x/mean": 3.0, "x/std": values.std(correction=0).item(), "y/mean": 5.0, "y/max": 6.0, "y/min": 4.0, "z": 3.5,
             "none/mean": math.nan, "none/max": math.nan, "none/min": math.nan}, nan_ok=True,
        )  # fmt: skip
