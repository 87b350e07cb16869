"""The reward inside verl: loaded as verl loads it, called by verl's own reward managers, in its own validation metrics."""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path

import numpy as np
import pytest
from erpo_verl.reward import KEYS, verl_reward

pytest.importorskip("verl", reason="verl is not installed")


def config(path: str, name: str = "compute_score", **settings):
    from omegaconf import OmegaConf

    function = {"path": path, "name": name, "reward_kwargs": settings}
    return OmegaConf.create({"reward": {"custom_reward_function": function}})


@pytest.mark.parametrize(
    "path", ["pkg://erpo_verl.reward", str(Path(verl_reward.__file__)), "pkg://erpo_verl.reward.verl_reward"]
)
def test_verl_loads_it_by_package_and_by_file(path):
    from verl.trainer.ppo.reward import get_custom_reward_fn

    loaded = get_custom_reward_fn(config(path, units="ignore"))
    assert inspect.iscoroutinefunction(loaded)
    result = asyncio.run(
        loaded(
            data_source="x",
            solution_str=r"\boxed{10\text{ m}}",
            ground_truth=r"10\text{ cm}",
            extra_info={"num_turns": None},
        )
    )
    assert tuple(result) == KEYS and result["acc"] == 1.0


class Tokenizer:
    """As much of a tokenizer as a reward manager needs: one token a character."""

    eos_token = ""

    def decode(self, ids, skip_special_tokens=True):
        return "".join(map(chr, ids))


RESPONSES = [
    r"\boxed{42}",
    r"\boxed{\frac{84}{2}}",
    r"\boxed{41}",
    "42",
    r"\boxed{9^{9^{9^9}}}",
    r"\boxed{\binom{99999999}{49999999}}",
    "",
]
RIGHT = [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]


def item(response: str):
    import torch
    from verl import DataProto

    ids = torch.tensor([[ord(char) for char in response] or [32]])
    return DataProto.from_dict(
        tensors={"responses": ids, "attention_mask": torch.ones(1, 3 + ids.shape[1], dtype=torch.long)},
        non_tensors={
            "data_source": np.array(["math"], dtype=object),
            "reward_model": np.array([{"ground_truth": "42"}], dtype=object),
            "extra_info": np.array([{}], dtype=object),
        },
    )


@pytest.mark.parametrize("name", ["naive", "dapo"])
def test_verls_reward_managers(name):
    from omegaconf import OmegaConf
    from verl.experimental.reward_loop.reward_manager import get_reward_manager_cls
    from verl.trainer.ppo.reward import get_custom_reward_fn

    settings = config("pkg://erpo_verl.reward", time_limit_s=1.0)
    OmegaConf.update(settings, "reward.reward_kwargs", {}, force_add=True)
    OmegaConf.update(settings, "actor_rollout_ref.model", {}, force_add=True)

    async def main():
        manager = get_reward_manager_cls(name)(settings, Tokenizer(), get_custom_reward_fn(settings))
        return await asyncio.gather(*(manager.run_single(item(response)) for response in RESPONSES))

    outputs = asyncio.run(main())
    assert [output["reward_score"] for output in outputs] == RIGHT
    for output in outputs:
        assert set(output["reward_extra_info"]) >= set(KEYS)
        assert list(output["reward_extra_info"]) == list(outputs[0]["reward_extra_info"])


def test_validation_metrics_and_majority_votes():
    from verl.trainer.ppo.metric_utils import process_validation_metrics

    texts = ["1/2", "0.5", r"\frac{2}{4}", "2", "3", "4"]
    results = [verl_reward.score(rf"\boxed{{{text}}}", r"\frac{1}{2}") for text in texts]
    infos = {key: [result[key] for result in results] for key in KEYS}
    metrics = process_validation_metrics(["math"] * 6, ["a"] * 6, infos)["math"]
    assert metrics["acc"]["mean@6"] == 0.5
    # Three spellings of one value are one vote, which wins more often than three votes of their own do.
    as_written = process_validation_metrics(["math"] * 6, ["a"] * 6, {**infos, "pred": texts})["math"]
    assert metrics["acc"]["maj@6/mean"] > as_written["acc"]["maj@6/mean"] + 0.1
    assert "pred" not in metrics and "reason" in metrics


def test_extra_info_becomes_arrays():
    results = [verl_reward.score(response, "42") for response in RESPONSES[:4]]
    for key in KEYS:
        column = np.array([result[key] for result in results])
        assert column.dtype.kind == ("U" if key == "pred" else "f")
