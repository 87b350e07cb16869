"""Packing, groups and segment statistics."""

import pytest
import torch
from core_batches import examples
from hypothesis import given
from hypothesis import strategies as st

from erpo_verl import packing
from erpo_verl.methods.batch import Packed, TokenBatch
from erpo_verl.methods.diagnostics import Diagnostics
from erpo_verl.packing import cut, pack
from erpo_verl.segments import Groups, joined, moments_of, pool, zeros_like


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks, scans and long runs of a few tokens, so that small masks have several."""

    def choose(block, run):
        monkeypatch.setattr(packing, "_CPU_BLOCK", block)
        monkeypatch.setattr(packing, "_CPU_SCAN", 2 * block)
        monkeypatch.setattr(packing, "_LONG_RUN", run)

    return choose


@examples(200)
@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 12),
    width=st.integers(1, 15),
    count=st.integers(1, 20),
    share=st.sampled_from([0.0, 0.1, 0.6, 0.95, 1.0]),
    block=st.sampled_from([1, 5, 20, 10**6]),
    run=st.sampled_from([0, 2, 10**6]),
    mask_dtype=st.sampled_from([torch.bool, torch.int64, torch.uint8, torch.float32, torch.bfloat16]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_blocks_hold_every_token_once_and_whole_groups(seed, rows, width, count, share, block, run, mask_dtype, dtype):
    g = torch.Generator().manual_seed(seed)
    mask = torch.rand(rows, width, generator=g) < share
    groups = Groups.from_ids(torch.randint(0, 4, (rows,), generator=g))
    values = (torch.arange(rows * width, dtype=torch.float32).view(rows, width) + 1).to(dtype)
    out = zeros_like(values)
    with pytest.MonkeyPatch.context() as patch:
        for name, size in (("_CPU_BLOCK", block), ("_CPU_SCAN", 2 * block), ("_LONG_RUN", run)):
            patch.setattr(packing, name, size)
        blocks = pack(mask.to(mask_dtype), groups)
    assert sorted(torch.cat([b.rows for b in blocks]).tolist()) == list(range(rows))
    for b in cut(blocks, count):
        assert torch.equal(groups.of_row[b.rows].unique_consecutive(return_inverse=True)[1], b.group_of_row)
        assert b.group_sizes.tolist() == b.group_of_row.bincount().tolist()
        assert b.group_lengths.tolist() == [int(b.lengths[b.group_of_row == k].sum()) for k in range(len(b.group_sizes))]
        assert {int(x) for x in groups.of_row[b.rows]}.isdisjoint(int(groups.of_row[i]) for i in range(rows) if i not in b.rows.tolist())
        flat = torch.cat([mask[i].nonzero().squeeze(1) + i * width for i in b.rows.tolist()])
        assert torch.equal(b.flat, flat) and b.size == len(flat)
        assert torch.equal(b.take(values), values.reshape(-1)[flat])
        assert torch.equal(b.lengths, mask[b.rows].sum(-1)) and b.longest == int(b.lengths.max())
        assert torch.equal(b.row * width + b.column, flat)
        assert torch.equal(b.bucket, (b.position * count // mask.sum(-1)[b.row]).clamp(max=count - 1))
        assert torch.equal(b.spread(torch.arange(rows)), b.row)
        table = torch.arange(rows * count).view(rows, count)
        assert torch.equal(b.spread(table), b.row * count + b.bucket)
        assert torch.equal(b.repeat(table[b.rows], b.bucket_lengths), b.row * count + b.bucket)
        b.put(b.take(values), out)
    assert torch.equal(out, values * mask)


def test_the_last_look_at_the_mask_may_be_shorter(monkeypatch):
    monkeypatch.setattr(packing, "_CPU_SCAN", 27)  # three rows, then two
    mask = torch.ones(5, 9)
    mask[2, 4:] = mask[:, 0] = 0
    blocks = pack(mask, Groups.from_ids([0] * 5))
    assert torch.equal(torch.cat([block.flat for block in blocks]), mask.reshape(-1).nonzero().squeeze(1))


@examples(50)
@given(st.integers(0, 2**31), st.integers(1, 12), st.integers(1, 6), st.sampled_from([0.0, 1.0, 100.0]))
def test_pooled_moments_are_those_of_the_tokens(seed, rows, count, shift):
    g = torch.Generator().manual_seed(seed)
    mask = torch.rand(rows, 9, generator=g) < 0.5
    (block,) = cut(pack(mask, Groups.from_ids(torch.randint(0, 3, (rows,), generator=g))), count)
    tokens = block.take(torch.randn(rows, 9, generator=g, dtype=torch.float64) + shift)
    moments = pool(moments_of(tokens, block.bucket_lengths), block.group_sizes)
    group_of_token = block.repeat(block.group_of_row, block.lengths)
    for group in range(len(block.group_sizes)):
        for bucket in range(count):
            values = tokens[(group_of_token == group) & (block.bucket == bucket)]
            assert moments.count[group, bucket] == len(values)
            if len(values):
                torch.testing.assert_close(moments.mean[group, bucket], values.mean())
                torch.testing.assert_close(moments.std[group, bucket], values.std(correction=0), atol=1e-7, rtol=1e-6)
        values = tokens[group_of_token == group]
        whole = moments.pool_last()
        if len(values):
            torch.testing.assert_close(whole.std[group], values.std(correction=0), atol=1e-7, rtol=1e-6)
    none = joined([moments, moments.only(torch.zeros(count, dtype=torch.bool))])
    assert len(none.count) == 2 * len(moments.count) and not none.count[len(moments.count) :].any()


def test_the_spread_survives_a_large_mean():
    # In float32 sums nothing would be left of a spread of 1/4 on 10,000.
    mask = torch.ones(4, 5000)
    values = 1e4 + 0.25 * (torch.arange(20000) % 2 * 2 - 1).view(4, 5000).float()
    (block,) = cut(pack(mask, Groups.from_ids([0] * 4)), 10)
    moments = pool(moments_of(block.take(values), block.bucket_lengths), block.group_sizes)
    assert moments.std.tolist() == [[0.25] * 10]
    assert moments.mean.tolist() == [[1e4] * 10]


def test_groups_are_numbered_by_first_row_and_keep_the_order_of_rows():
    groups = Groups.from_ids(["b", "a", "b", "c", "a"])
    assert groups.of_row.tolist() == [0, 1, 0, 2, 1]
    assert groups.members.tolist() == [0, 2, 1, 4, 3]
    assert groups.sizes.tolist() == [2, 2, 1]
    assert groups.row_means(torch.tensor([1.0, 2.0, 3.0, 4.0, 4.0])).tolist() == [2, 3, 2, 4, 3]


def test_the_sample_of_the_diagnostics_is_one_token_of_each_stretch_across_blocks(monkeypatch, small_blocks):
    small_blocks(8, 10**6)
    monkeypatch.setattr("erpo_verl.methods.diagnostics.SAMPLE", 7)
    mask = torch.rand(6, 10, generator=torch.Generator().manual_seed(0)) < 0.5
    entropy = torch.rand(6, 10, generator=torch.Generator().manual_seed(1))
    batch = Packed(TokenBatch(torch.zeros(6, 10), mask, list(range(6)), entropy))
    found = Diagnostics(batch)
    H = [found.sums(i, H, H, H) and H for i, H in enumerate(batch.entropy)]
    every = -(-int(mask.sum()) // 7)
    assert len(batch.blocks) > 2
    values = torch.cat(H).tolist()  # all different: a value is its place
    places = [values.index(value) for value in found.sample()[:, 1].tolist()]
    assert [place // every for place in places] == list(range(len(places))) and len(places) >= len(values) // every
