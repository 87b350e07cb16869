"""Random batches and settings for the core's tests."""

from dataclasses import dataclass, replace

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from reference import DEFAULTS, erpo
from torch import Tensor

from erpo_verl import ErpoConfig, erpo_advantages


def examples(count):
    """Settings of a property test: the same examples every time, and no deadline, as a busy machine may stop for seconds."""
    return settings(max_examples=count, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@dataclass(frozen=True)
class Batch:
    token_level_rewards: Tensor
    response_mask: Tensor
    index: list
    entropy: Tensor
    old_log_probs: Tensor
    ref_log_prob: Tensor

    def rows(self, order):
        """The batch with its rows taken in the given order."""
        order = list(order)
        tensors = {name: x[order] for name, x in self.tensors().items()}
        return Batch(index=[self.index[i] for i in order], **tensors)

    def tensors(self):
        return {name: x for name, x in vars(self).items() if name != "index"}

    def map(self, change):
        """The batch with `change` applied to every float tensor."""
        return replace(self, **{n: change(x) for n, x in self.tensors().items() if n != "response_mask"})

    def advantages(self, options=None, **kwargs):
        return erpo_advantages(**vars(self), config=nested(options or {}), **kwargs)

    def reference(self, options=None, **kwargs):
        """The plain reference on the same numbers, as a float64 tensor [B, T]."""
        lists = {name: x.double().tolist() for name, x in self.tensors().items()}
        return torch.tensor(erpo(index=self.index, settings=options or {}, **lists, **kwargs), dtype=torch.float64)


def nest(options):
    """{"gate.gamma": 1.0} -> {"gate": {"gamma": 1.0}}."""
    tree = {}
    for key, value in options.items():
        *parents, name = key.split(".")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = value
    return tree


def nested(options):
    """{"gate.gamma": 1.0} -> ErpoConfig."""
    return ErpoConfig.from_mapping(nest(options))


def random_batch(seed, rows, width, groups, rewards="binary", dtype=torch.float64, grid=None):
    """Responses of 0 .. width valid tokens with holes in their masks, in groups of uneven size, in mixed order.

    With `grid`, entropies are multiples of it, so that their sums are exact and tokens fall on bucket edges.
    """
    g = torch.Generator().manual_seed(seed)

    def uniform(*shape):
        return torch.rand(*shape, generator=g, dtype=torch.float64)

    lengths = (uniform(rows) * (width + 1)).long()
    mask = (torch.arange(width) < lengths[:, None]) & (uniform(rows, width) > 0.15)
    outcome = {
        "binary": lambda: (uniform(rows) < 0.5).double(),
        "ones": lambda: torch.ones(rows, dtype=torch.float64),
        "tenths": lambda: torch.full((rows,), 0.1, dtype=torch.float64),
        "real": lambda: uniform(rows) * 4 - 2,
        "few": lambda: (uniform(rows) * 3).floor() / 2,
    }[rewards]()
    token_level_rewards = torch.zeros(rows, width, dtype=torch.float64)
    token_level_rewards[:, -1] = outcome
    entropy = uniform(rows, width).square() * 3
    if grid:
        entropy = (entropy / grid).round() * grid
    old = -uniform(rows, width) * 3
    batch = Batch(
        token_level_rewards,
        mask,
        [f"uid-{int(x)}" for x in uniform(rows) * groups],
        entropy,
        old,
        old + 0.3 * torch.randn(rows, width, generator=g, dtype=torch.float64),
    )
    return batch.map(lambda x: x.to(dtype))


def batches(dtype=torch.float64, rewards=("binary", "ones", "tenths", "real", "few"), grids=(None,)):
    return st.builds(
        random_batch,
        seed=st.integers(0, 2**31),
        rows=st.integers(1, 9),
        width=st.integers(1, 17),
        groups=st.integers(1, 4),
        rewards=st.sampled_from(rewards),
        dtype=st.just(dtype),
        grid=st.sampled_from(grids),
    )


def any_settings(**fixed):
    """Flat settings over all arms; `fixed` (with __ for the dot) are kept."""
    fixed = {name.replace("__", "."): value for name, value in fixed.items()}
    choices = {
        "gate.enable": st.booleans(),
        "gate.gamma": st.sampled_from([0.0, 0.5, 5.0, 20.0]),
        "gate.normalize": st.sampled_from(["none", "mean_one"]),
        "progress.enable": st.sampled_from([True, True, True, False]),
        "progress.beta": st.sampled_from([0.01, 0.1, 1.0]),
        "progress.eta": st.sampled_from([0.0, 0.2, 1.5]),
        "progress.min_std": st.sampled_from([0.0, 1e-3, 0.05]),
        "progress.clip": st.sampled_from([None, 0.5, 2.0]),
        "progress.anchor": st.sampled_from(["sign", "centered_sign", "advantage"]),
        "buckets.count": st.sampled_from([1, 2, 3, 10, 40]),
        "buckets.axis": st.sampled_from(["position", "cumulative_entropy"]),
        "buckets.scope": st.sampled_from(["prompt", "difficulty"]),
        "buckets.difficulty_bands": st.sampled_from([1, 2, 4]),
        "zero_variance.rule": st.sampled_from(["zero", "threshold"]),
        "zero_variance.threshold": st.sampled_from([0.0, 0.5, 1.0]),
        "gate.measure": st.sampled_from(["entropy", "entropy", "surprisal"]),
        "gate.side": st.sampled_from(["all", "all", "positive"]),
        "synthesis.bound": st.sampled_from([None, None, 0.5, 2.0]),
        "strength.entropy_target": st.sampled_from([None, None, 0.5, 3.0]),
    }
    assert set(choices) < set(DEFAULTS)
    return st.fixed_dictionaries({k: v for k, v in choices.items() if k not in fixed}).map(lambda d: {**d, **fixed})


def same(actual, expected):
    """Whether two dicts of metrics are equal; NaN, which stands for an empty set, equals itself."""
    return actual.keys() == expected.keys() and all(str(value) == str(expected[name]) for name, value in actual.items())


def close(actual, expected, tolerance=1e-9):
    """Whether two tensors agree to `tolerance` relative to the largest expected advantage (or 1 where that is less)."""
    expected = expected.double()
    scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
    return actual.shape == expected.shape and bool(((actual.double() - expected).abs() <= tolerance * scale).all())
