"""The real engines, small: one start policy and its problems for all end-to-end tests."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

pytest.importorskip("verl")
pytest.importorskip("vllm")

from examples.arithmetic import prepare, warm_start
from examples.arithmetic.train_verl import arguments

ROOT = Path(__file__).resolve().parents[2]
# verl's own sampler: the quickly polling one is for the synchronous trainer.
OWN_SAMPLER = ["trainer.v1.sampler.custom_sampler.path=null", "trainer.v1.sampler.custom_sampler.name=null"]


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(item.fspath).is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def start() -> Path:
    """The quickstart's start policy; made once (minutes) and reused while its settings and code stay the same."""
    out = ROOT / "outputs" / "tests" / "start"
    torch.set_num_threads(1)  # as in the quickstart
    warm_start.make(out, warm_start.Settings())
    return out


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """The quickstart's problems, with few to validate on."""
    out = tmp_path_factory.mktemp("arithmetic")
    prepare.write(out, {"train": 4096, "validation": 32})
    return out


@pytest.fixture(scope="session")
def overrides(start, data):
    """overrides(algorithm, steps): `main_ppo`'s arguments for a short run without validation."""

    def make(algorithm: str, steps: int, prompts: int = 8) -> list[str]:
        quiet = ["trainer.test_freq=-1", "trainer.val_before_train=false"]
        return [*arguments(algorithm, start, data, steps, seed=1, prompts=prompts), *quiet]

    return make


def read(run: Path) -> list[dict]:
    """The metrics of each training step."""
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [entry["data"] for entry in entries if "critic/score/mean" in entry["data"]]


# Bounds that hold for every batch, whatever was sampled.
RANGES = {
    "erpo/gate/mean": (0, 1),
    "erpo/gate/min": (0, 1),
    "erpo/gate/max": (0, 1),
    "erpo/cdp_share/mean": (0, 1),
    "erpo/cdp_advantage_share/mean": (0, 1),
    "erpo/groups_right/mean": (0, 1),
    "erpo/groups_wrong/mean": (0, 1),
    "erpo/groups_mixed/mean": (0, 1),
    "erpo/bucket_floor_share/mean": (0, 1),
    "erpo/sign_flip_share/mean": (0, 1),
    "erpo/eta/mean": (0, 0.2),
}


def assert_erpo_metrics(steps: list[dict], moved: bool = True) -> None:
    """ERPO's metrics are there at every step, finite and in range, and agree with verl's own where both know.

    ``moved``: the policy has learned something by the last step, so that it differs from the reference.
    """
    for data in steps:
        ours = {k: v for k, v in data.items() if k.startswith("erpo/")}
        assert len(ours) >= 20
        assert all(math.isfinite(v) for v in ours.values()), ours
        # Shares of advantages that are all 0 have no value, and an empty set is a gap in verl's log.
        gaps = {name for name in RANGES if "advantage_share" in name} if ours["erpo/advantage_abs/max"] == 0 else set()
        assert gaps.isdisjoint(ours)
        for name, (low, high) in RANGES.items():
            assert name in gaps or low <= ours[name] <= high, (name, ours[name])
        groups = sum(ours[f"erpo/groups_{kind}/mean"] for kind in ("right", "wrong", "mixed"))
        assert groups == pytest.approx(1)
        # The mean of the entropies that the estimator saw is what verl logs as the policy's entropy.
        pivots = ours["erpo/cdp_share/mean"]
        entropy = pivots * ours["erpo/cdp_entropy/mean"] + (1 - pivots) * ours["erpo/non_cdp_entropy/mean"]
        assert entropy == pytest.approx(data["actor/entropy"], rel=1e-3)
    # Before the first update the policy is the reference: no progress, and every bucket under the floor.
    assert steps[0]["erpo/bucket_floor_share/mean"] == 1
    assert steps[0]["erpo/progress_std/mean"] < 1e-6
    if moved:
        assert steps[-1]["erpo/progress_std/mean"] > 1e-4
