"""The even sample of tokens behind the metrics of pivots: spread over the whole batch, and true for texts with a rhythm."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from erpo_verl import ErpoConfig, erpo_advantages
from erpo_verl.methods.diagnostics import SAMPLE, _even_sample


@given(st.lists(st.integers(0, 30_000), min_size=1, max_size=6).filter(lambda sizes: sum(sizes) > 0))
def test_one_token_out_of_every_m_in_a_row(sizes) -> None:
    tokens, places, before = sum(sizes), [], 0
    for index, size in zip(_even_sample(sizes, tokens), sizes, strict=True):
        places += (torch.arange(size)[index] + before).tolist()
        before += size
    every = -(-tokens // SAMPLE)
    assert len(places) <= SAMPLE and [place // every for place in places] == list(range(len(places)))
    assert len(places) >= tokens // every  # only the last, shorter stretch may have none


def test_a_rhythm_does_not_mislead_it() -> None:
    rows, length = 32, 2048
    mask, index = torch.ones(rows, length), [str(i // 8) for i in range(rows)]
    rewards = torch.zeros(rows, length)
    rewards[::2, -1] = 1.0
    entropy = torch.tensor([2.0, 0.1, 0.1, 0.1]).repeat(rows, length // 4)  # each fourth token is a pivot
    logp = -torch.rand(rows, length, generator=torch.Generator().manual_seed(0))
    metrics = erpo_advantages(
        token_level_rewards=rewards, response_mask=mask, index=index, entropy=entropy, old_log_probs=logp, ref_log_prob=logp - 0.1 * entropy.sqrt(),
        config=ErpoConfig(),
    ).metrics
    assert metrics["erpo/cdp_share/mean"] == pytest.approx(0.25, abs=0.02)  # four standard errors; each m-th token would say 1 or 0
    assert metrics["erpo/cdp_entropy/mean"] == pytest.approx(2.0) and metrics["erpo/non_cdp_entropy/mean"] == pytest.approx(0.1)
