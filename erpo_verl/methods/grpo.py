"""GRPO: one advantage a response, the same for all of its tokens. Source: arXiv 2402.03300, as in verl 0.9.1. Certain.

    A_i = (R_i - mean_g R) / (std_g R + eps)
"""

from __future__ import annotations

import torch
from torch import Tensor

from erpo_verl.methods.batch import EPS, Packed
from erpo_verl.methods.contract import Method, NoSettings, Writer
from erpo_verl.segments import Groups


def compute(batch: Packed, settings: NoSettings, out: Writer) -> None:
    """Writes the advantages, bit for bit verl's."""
    out.outcome = outcome_advantage(batch)
    A = out.outcome.to(batch.dtype)
    for number, block in enumerate(batch.blocks):
        out.put(number, block.spread(A))


def outcome_advantage(batch: Packed) -> Tensor:
    """A_i of each row, [B] in the dtype of the rewards."""
    divide = batch.given.norm_adv_by_std_in_grpo
    return batch.by_outcome(lambda R, groups: normalised(R, groups, divide))


def normalised(R: Tensor, groups: Groups, divide_by_std: bool = True) -> Tensor:
    """(R - mean_g R) / (std_g R + eps), [D] in the dtype of R.

    Bit for bit what verl computes: the sample standard deviation (correction 1), and for a lone response mean 0 and
    std 1. Without `divide_by_std` only the mean is subtracted.
    """
    # verl takes torch.mean and torch.std of one group at a time, and a batched torch.std rounds differently. Groups
    # often have the same outcomes (0s and 1s), so each distinct list of outcomes is worked out once.
    numbers: dict[tuple[float, ...], int] = {}
    of_group, samples, start = [], [], 0
    in_order = R[groups.members]
    values = in_order.tolist()
    for size in groups.sizes.tolist():
        key = tuple(values[start : start + size])
        if key not in numbers:
            numbers[key] = len(numbers)
            samples.append(in_order[start : start + size])
        of_group.append(numbers[key])
        start += size
    several = torch.tensor([len(key) > 1 for key in numbers], device=R.device)
    means = torch.where(several, torch.stack([x.mean() for x in samples]), 0)
    scales = torch.stack([x.std() if len(key) > 1 else x[0] for x, key in zip(samples, numbers, strict=True)]) + EPS
    # verl's std of a lone response is a float32 1, whatever the dtype: 1 + eps is rounded accordingly.
    scales = torch.where(several, scales, (torch.ones((), device=R.device) + EPS).to(R.dtype))
    of_row = torch.tensor(of_group, device=R.device)[groups.of_row]
    A = R - means[of_row]
    return A / scales[of_row] if divide_by_std else A


METHOD = Method("grpo", "one advantage a response, spread over its tokens", compute, across_groups=lambda settings: False)
