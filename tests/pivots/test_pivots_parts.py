"""Positions, annotations and branches, each by itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from erpo_verl import ErpoConfig, erpo_advantages  # noqa: E402
from erpo_verl.pivots import annotate, branches, chart  # noqa: E402
from erpo_verl.pivots.annotate import Annotation, ModelAnnotator, look, seed_of  # noqa: E402
from erpo_verl.pivots.branches import KEEP, OTHER, SECOND, Branch, branches_of, continue_all  # noqa: E402
from erpo_verl.pivots.positions import LOW, PARTNER, PIVOT, RANDOM, SHOWN, SURPRISING, Group, Site, choose, top_share  # noqa: E402
from erpo_verl.rollout import Response, SamplingParams  # noqa: E402
from examples.arithmetic.tokenizer import build_tokenizer  # noqa: E402
from examples.tiny.model import build_model  # noqa: E402

# Positions


def made(seed: int = 0, responses: int = 6, longest: int = 40) -> Group:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest + 1, responses)
    return Group.of([rng.exponential(size=n) for n in lengths], [rng.exponential(size=n) for n in lengths])


def test_the_gate_is_erpos() -> None:
    """Gate times outcome is what erpo_advantages gives without its progress term."""
    group = made(1)
    B, T = len(group.entropy), max(map(len, group.entropy))
    H, mask, rewards = torch.zeros(B, T, dtype=torch.float64), torch.zeros(B, T), torch.zeros(B, T, dtype=torch.float64)
    for i, row in enumerate(group.entropy):
        H[i, : len(row)], mask[i, : len(row)] = torch.from_numpy(row), 1.0
        rewards[i, len(row) - 1] = float(i % 2)
    common = {"token_level_rewards": rewards, "response_mask": mask, "index": ["p"] * B, "entropy": H, "old_log_probs": torch.zeros(B, T, dtype=torch.float64)}
    gated = erpo_advantages(**common, ref_log_prob=None, config=ErpoConfig.from_mapping({"progress": {"enable": False}})).advantages
    plain = erpo_advantages(
        **common, ref_log_prob=None, config=ErpoConfig.from_mapping({"progress": {"enable": False}, "gate": {"enable": False}})
    ).advantages
    for i, row in enumerate(group.gate):
        np.testing.assert_allclose((gated[i] / plain[i])[: len(row)].numpy(), row, rtol=1e-4)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.sampled_from([0.1, 0.25, 0.5]))
@settings(deadline=None)
def test_the_top_share_are_the_largest(values: list[int], share: float) -> None:
    found = top_share(np.array(values, dtype=float), share)
    assert found.sum() == max(1, round(share * len(values)))
    if not found.all():
        assert np.array(values)[found].min() >= np.array(values)[~found].max()


@pytest.mark.parametrize("seed", range(5))
def test_sites_are_of_the_kinds_that_they_say(seed: int) -> None:
    group = made(seed)
    sites = choose(group, 5, np.random.default_rng(seed), shown=[2], every=3)
    H = group.flat("entropy")
    highest = np.sort(H)[-max(1, round(0.1 * len(H)))]
    by_kind = {kind: [s for s in sites if s.kind == kind] for kind in {s.kind for s in sites}}
    for site in by_kind.get(PIVOT, []):
        assert group.z[site.response][site.position] > 0
        assert group.entropy[site.response][site.position] >= highest
    for kind in (PIVOT, SURPRISING):
        marked, partners = by_kind.get(kind, []), by_kind.get(PARTNER[kind], [])
        assert [s.pair for s in marked] == [s.pair for s in partners] and len(set(partners)) == len(partners)
        for a, b in zip(marked, partners, strict=True):
            assert group.window[a.response][a.position] == group.window[b.response][b.position]
            values = group.entropy if kind == PIVOT else group.surprisal
            assert values[b.response][b.position] <= values[a.response][a.position]
            assert kind == SURPRISING or group.entropy[b.response][b.position] < highest
    lowest = np.sort(H)[max(1, round(0.1 * len(H))) - 1]
    assert all(group.entropy[s.response][s.position] <= lowest for s in by_kind[LOW])
    assert len({(s.response, s.position) for s in by_kind[RANDOM]}) == len(by_kind[RANDOM]) == min(5, len(H))
    assert [s.position for s in by_kind[SHOWN]] == list(range(0, len(group.entropy[2]), 3))
    assert sites == choose(group, 5, np.random.default_rng(seed), shown=[2], every=3)


def test_a_group_without_spread_has_no_pivots() -> None:
    flat = Group.of([[0.5] * 10, [0.5] * 10], [[0.1] * 10, [0.1] * 10])
    kinds = {site.kind for site in choose(flat, 3, np.random.default_rng(0))}
    assert PIVOT not in kinds and RANDOM in kinds
    single = Group.of([[0.5]], [[0.1]])
    assert {s.kind for s in choose(single, 3, np.random.default_rng(0))} <= {LOW, RANDOM}


def test_windows_are_tenths_of_the_response() -> None:
    group = Group.of([np.zeros(25)], [np.zeros(25)])
    assert group.window[0].tolist() == [int(10 * t / 25) for t in range(25)]


# Annotations


def test_entropy_log_prob_and_second_choice_are_those_of_the_softmax() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0], [0.0, 3.0, 1.0, 2.0], [0.0, 0.0, 0.0, -1e30]])
    chosen, T = torch.tensor([0, 2, 1]), 0.5
    entropy, log_prob, second, second_log_prob, other, other_log_prob = look(logits, chosen, torch.tensor([0.1, 0.9, 0.5], dtype=torch.float64), T)
    for i, row in enumerate(logits.tolist()):
        weights = [math.exp(max(x, -100.0) / T) for x in row]
        p = [w / sum(weights) for w in weights]
        assert entropy[i].item() == pytest.approx(-sum(x * math.log(x) for x in p if x > 1e-30), abs=1e-5)
        assert log_prob[i].item() == pytest.approx(math.log(p[chosen[i]]), abs=1e-5)
        assert second_log_prob[i].item() == pytest.approx(math.log(p[second[i]]), abs=1e-5)
        assert other_log_prob[i].item() == pytest.approx(math.log(p[other[i]]), abs=1e-5)
        assert other[i] != chosen[i] != second[i]
    assert second.tolist() == [1, 1, 0]  # the likeliest other token: the argmax, where the token itself is not that


def test_another_draw_follows_the_distribution_without_the_token() -> None:
    p = torch.tensor([0.5, 0.3, 0.2])
    count = 4000
    noise = torch.from_numpy(np.random.default_rng(0).random(count))
    other = look(p.log().expand(count, 3), torch.full((count,), 1), noise, 1.0)[4]
    shares = torch.bincount(other, minlength=3) / count
    assert shares[1] == 0 and shares[0].item() == pytest.approx(5 / 7, abs=0.03)


def test_another_draw_where_the_token_is_all_but_certain() -> None:
    logits = torch.tensor([[200.0, 0.0, -1.0]])
    columns = look(logits, torch.tensor([0]), torch.tensor([0.999], dtype=torch.float64), 1.0)
    assert columns[4].item() == 2 and columns[5].item() == pytest.approx(-201.0, abs=1e-3)
    assert all(torch.isfinite(column.double()).all() for column in columns)


@pytest.mark.parametrize("piece", [1, 4, 256])
def test_the_model_is_read_piece_by_piece(monkeypatch, piece: int) -> None:
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, seed=0, layers=2, hidden=64, intermediate=64).eval()
    prompt, tokens = [3, 9, 12, 10], [9, 10, 11, 12, 13, 8, 14, 15, 10]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
    expected = torch.log_softmax(logits / 0.7, -1)
    monkeypatch.setattr(annotate, "PIECE", piece)
    found = ModelAnnotator(model).annotate(prompt, tokens, temperature=0.7, seed=5)
    np.testing.assert_allclose(found.log_prob, expected.gather(1, torch.tensor(tokens)[:, None])[:, 0], atol=1e-5)
    np.testing.assert_allclose(found.entropy, -(expected.exp() * expected).sum(-1), atol=1e-5)
    assert len(found.other) == len(found.second) == len(tokens)
    assert all(a != b for a, b in zip(found.other, tokens, strict=True))
    assert found == ModelAnnotator(model).annotate(prompt, tokens, temperature=0.7, seed=5)
    assert found.other != ModelAnnotator(model).annotate(prompt, tokens, temperature=0.7, seed=6).other


def test_seeds_differ_by_problem_and_response() -> None:
    assert len({seed_of(s, p, r) for s in (0, 1) for p in ("a", "b") for r in (0, 1)}) == 8


# Branches


class Recorder:
    """An engine that answers each prompt with its last token, counted up, and no end."""

    def __init__(self):
        self.asked: list[tuple[list[list[int]], SamplingParams]] = []

    def generate(self, prompts, params, progress=None):
        self.asked.append(([list(p) for p in prompts], params))
        return [[Response([p[-1] + 1 + k for k in range(params.max_tokens)], [0.0] * params.max_tokens, False)] * params.n for p in prompts]


def test_the_three_branches_of_a_site() -> None:
    note = Annotation([0.1] * 3, [-1.0, -2.0, -3.0], [20, 21, 22], [-4.0, -5.0, -6.0], [30, 31, 32], [-7.0, -8.0, -9.0])
    found = branches_of(Site(PIVOT, 2, 1), [10, 11, 12], note)
    assert [(b.kind, b.token, b.log_prob, b.prefix) for b in found] == [
        (KEEP, 11, -2.0, [10, 11]), (OTHER, 31, -8.0, [10, 31]), (SECOND, 21, -5.0, [10, 21]),
    ]  # fmt: skip
    assert {b.response for b in found} == {2}


def test_branches_go_on_from_their_prefix_to_the_limit_of_the_whole_response() -> None:
    engine = Recorder()
    work = [([1, 2], Branch(0, 1, KEEP, 11, 0.0, [10, 11])), ([1, 2], Branch(0, 3, KEEP, 13, 0.0, [10, 11, 12, 13]))]
    rows = continue_all(work, engine, ends=[0], n=3, max_tokens=6, params=SamplingParams(seed=9, temperature=0.5))
    (prompts, params), = engine.asked
    assert prompts == [[1, 2, 10, 11], [1, 2, 10, 11, 12, 13]]
    assert (params.n, params.max_tokens, params.seed, params.temperature) == (3, 4, 9, 0.5)
    assert rows[0] == [([10, 11, 12, 13, 14, 15], False)] * 3
    assert rows[1] == [([10, 11, 12, 13, 14, 15], False)] * 3  # cut at 6 tokens in all


def test_a_branch_that_has_ended_is_not_continued() -> None:
    engine = Recorder()
    work = [([1], Branch(0, 1, OTHER, 0, 0.0, [10, 0])), ([1], Branch(0, 2, KEEP, 12, 0.0, [10, 11, 12]))]
    rows = continue_all(work, engine, ends=[0], n=4, max_tokens=3, params=SamplingParams())
    assert engine.asked == [] and rows == [[([10, 0], True)], [([10, 11, 12], False)]]


def test_a_chart_stands_alone_and_draws_open_intervals_to_its_edge() -> None:
    import xml.etree.ElementTree as ET

    svg = chart.intervals([("a <b>", 2.0, 1.0, math.inf), ("c", 0.5, 0.1, 0.9)], "ratio", zero=True, line=1.0)
    root = ET.fromstring(svg)
    assert len(root.findall(".//{*}circle")) == 2
    bars = [line for line in root.findall(".//{*}line") if line.get("class") == "bar"]
    assert float(bars[0].get("x2")) == pytest.approx(chart.WIDTH - chart.RIGHT)
    assert ET.fromstring(chart.intervals([], "nothing")) is not None
    assert branches.KINDS == (KEEP, OTHER, SECOND)
