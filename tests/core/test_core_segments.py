"""Packing, groups and segment statistics."""

import torch
from core_batches import examples
from hypothesis import given
from hypothesis import strategies as st

from erpo_verl.segments import Groups, cut, even_sample, pack, pool, segment_moments, zeros_like


@examples(100)
@given(st.integers(0, 2**31), st.integers(1, 12), st.integers(1, 15), st.integers(1, 20))
def test_pack_and_put_are_inverse_and_buckets_follow_the_definition(seed, rows, width, count):
    mask = torch.rand(rows, width, generator=torch.Generator().manual_seed(seed)) < 0.6
    values = torch.arange(rows * width, dtype=torch.float32).view(rows, width) + 1
    (block,) = cut(pack(mask), count)
    out = zeros_like(values)
    block.put(block.take(values), out)
    assert torch.equal(out, values * mask)
    assert torch.equal(block.lengths, mask.sum(-1))
    assert torch.equal(block.row * width + block.column, mask.reshape(-1).nonzero().squeeze(1))
    lengths = block.lengths[block.row]
    assert torch.equal(block.bucket, (block.position * count // lengths).clamp(max=count - 1))
    assert torch.equal(block.spread(torch.arange(rows)), block.row)
    table = torch.arange(rows * count).view(rows, count)
    assert torch.equal(block.spread(table), block.row * count + block.bucket)


@examples(50)
@given(st.integers(0, 2**31), st.integers(1, 12), st.integers(1, 6), st.sampled_from([0.0, 1.0, 100.0]))
def test_pooled_moments_are_those_of_the_tokens(seed, rows, count, shift):
    g = torch.Generator().manual_seed(seed)
    mask = torch.rand(rows, 9, generator=g) < 0.5
    groups = Groups.from_ids(torch.randint(0, 3, (rows,), generator=g), mask.device)
    blocks = cut(pack(mask), count)
    tokens = [block.take(torch.randn(rows, 9, generator=g, dtype=torch.float64) + shift) for block in blocks]
    moments = pool(segment_moments(blocks, tokens), groups)
    group_of_token = groups.of_row[blocks[0].row]
    for group in range(len(groups.sizes)):
        for bucket in range(count):
            values = tokens[0][(group_of_token == group) & (blocks[0].bucket == bucket)]
            assert moments.count[group, bucket] == len(values)
            if len(values):
                torch.testing.assert_close(moments.mean[group, bucket], values.mean())
                torch.testing.assert_close(moments.std[group, bucket], values.std(correction=0), atol=1e-7, rtol=1e-6)
        values = tokens[0][group_of_token == group]
        whole = moments.pool_last()
        if len(values):
            torch.testing.assert_close(whole.std[group], values.std(correction=0), atol=1e-7, rtol=1e-6)


def test_the_spread_survives_a_large_mean():
    # In float32 sums nothing would be left of a spread of 1/4 on 10,000.
    mask = torch.ones(4, 5000)
    values = 1e4 + 0.25 * (torch.arange(20000) % 2 * 2 - 1).view(4, 5000).float()
    blocks = cut(pack(mask), 10)
    moments = pool(segment_moments(blocks, [blocks[0].take(values)]), Groups.from_ids([0] * 4, mask.device))
    assert moments.std.tolist() == [[0.25] * 10]
    assert moments.mean.tolist() == [[1e4] * 10]


def test_groups_are_numbered_by_first_row_and_keep_the_order_of_rows():
    groups = Groups.from_ids(["b", "a", "b", "c", "a"], torch.device("cpu"))
    assert groups.of_row.tolist() == [0, 1, 0, 2, 1]
    assert groups.members.tolist() == [0, 2, 1, 4, 3]
    assert groups.sizes.tolist() == [2, 2, 1]
    assert groups.row_means(torch.tensor([1.0, 2.0, 3.0, 4.0, 4.0])).tolist() == [2, 3, 2, 4, 3]


def test_even_sample_takes_every_mth_token_with_its_row():
    mask = torch.rand(6, 10, generator=torch.Generator().manual_seed(0)) < 0.5
    blocks = cut(pack(mask), 3)
    tokens = [torch.arange(int(mask.sum()))]
    sample, rows = even_sample(tokens, blocks, size=7)
    assert len(sample) <= 7 and sample[1] - sample[0] == sample[-1] - sample[-2]
    assert torch.equal(rows, blocks[0].row[sample])
