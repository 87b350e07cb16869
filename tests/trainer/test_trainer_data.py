"""Prompts, their order, batches and the reward function: what is read, refused, padded and cut."""

import asyncio
import functools
import json
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from erpo_verl.prompts import Prompter
from erpo_verl.rollout import Response
from erpo_verl.trainer.batch import assemble, concatenate
from erpo_verl.trainer.data import DataError, Prompt, PromptOrder, read_table, tokenize
from erpo_verl.trainer.reward import Judge, RewardError, load_reward
from examples.arithmetic.prepare import row
from examples.arithmetic.task import Problem
from examples.arithmetic.tokenizer import build_tokenizer

TOKENIZER = build_tokenizer()


def write(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


def good(text="1+2", index=0):
    return row(Problem(text), "train", index)


# --- reading


def test_rows_of_several_files_in_order_and_a_fingerprint(tmp_path):
    a = write(tmp_path / "a.parquet", [good("1+2"), good("3*4")])
    b = write(tmp_path / "b.parquet", [good("5-6")])
    table = read_table([a, b])
    prompts, dropped = tokenize(table, Prompter(TOKENIZER), max_length=32)
    assert [p.extra_info["problem"] for p in prompts] == ["1+2", "3*4", "5-6"] and dropped == 0
    assert [p.gold for p in prompts] == ["3", "2", "9"] and prompts[0].level == "2"
    assert TOKENIZER.decode(prompts[0].tokens) == prompts[0].text == "<|im_start|><|user|>1+2<|im_end|><|assistant|>"
    assert read_table([a, b]).fingerprint == table.fingerprint != read_table([b, a]).fingerprint
    assert len(read_table([a, b], limit=1).rows) == 2


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r: r.pop("reward_model"), "no column 'reward_model'"),
        (lambda r: r.update(prompt=None), "must be a list of chat messages"),
        (lambda r: r.update(prompt=[{"role": "user", "content": None}]), "role and content"),
        (lambda r: r.update(reward_model={"style": "rule", "ground_truth": None}), "ground_truth is missing"),
        (lambda r: r.update(data_source=None), "data_source must be text"),
    ],
)
def test_an_unusable_row_is_named(tmp_path, spoil, message):
    rows = [good(), good("3*4")]
    spoil(rows[1])
    if "reward_model" not in rows[1]:
        rows[0].pop("reward_model")
    file = write(tmp_path / "a.parquet", rows)
    where = r"a\.parquet" if "no column" in message else r"a\.parquet, row 1"
    with pytest.raises(DataError, match=rf"{where}: .*{message}"):
        read_table([file])


def test_missing_damaged_and_empty_files(tmp_path):
    with pytest.raises(DataError, match=r"gone\.parquet: no such file"):
        read_table([str(tmp_path / "gone.parquet")])
    file = write(tmp_path / "a.parquet", [good()])
    data = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"a\.parquet: not readable as parquet"):
        read_table([file])
    empty = write(tmp_path / "b.parquet", [good()])
    with pytest.raises(DataError, match="no rows"):
        read_table([empty], limit=0)


def test_overlong_prompts(tmp_path):
    table = read_table([write(tmp_path / "a.parquet", [good("1+2"), good("1+2+3+4+5")])])
    whole = tokenize(table, Prompter(TOKENIZER), max_length=100)[0][1].tokens
    with pytest.raises(DataError, match=r"a\.parquet, row 1 has 13 tokens, and data.max_prompt_length is 8"):
        tokenize(table, Prompter(TOKENIZER), max_length=8)
    prompts, dropped = tokenize(table, Prompter(TOKENIZER), max_length=8, filter_overlong=True)
    assert len(prompts) == dropped == 1
    cut = {side: tokenize(table, Prompter(TOKENIZER), max_length=8, truncation=side)[0][1].tokens for side in ("left", "right", "middle")}
    assert cut == {"left": whole[-8:], "right": whole[:8], "middle": whole[:4] + whole[-4:]}
    with pytest.raises(DataError, match="all 2 prompts are longer than 2 tokens"):
        tokenize(table, Prompter(TOKENIZER), max_length=2, filter_overlong=True)


def test_a_prompt_that_the_template_refuses_is_named(tmp_path):
    strict = build_tokenizer()
    strict.chat_template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}{{ messages[0].content }}"
    odd = good()
    odd["prompt"] = [{"role": "system", "content": "be brief"}, *odd["prompt"]]
    table = read_table([write(tmp_path / "a.parquet", [good(), odd])])
    with pytest.raises(DataError, match=r"a\.parquet, row 1: with the roles system, user: the chat template refuses it: TemplateError: no system role"):
        tokenize(table, Prompter(strict), max_length=100)


# --- order


@settings(max_examples=50, derandomize=True, deadline=None)
@given(count=st.integers(1, 20), seed=st.integers(0, 9), sizes=st.lists(st.integers(1, 30), min_size=1, max_size=6))
def test_an_epoch_takes_every_prompt_once_and_position_is_all_the_state(count, seed, sizes):
    order, taken = PromptOrder(count, seed=seed), []
    for size in sizes:
        resumed = PromptOrder(count, seed=seed, position=order.position)
        chunk = order.take(size)
        assert resumed.take(size) == chunk
        taken += chunk
    for start in range(0, len(taken) - count + 1, count):
        assert sorted(taken[start : start + count]) == list(range(count))


def test_orders_differ_by_epoch_and_seed():
    order = PromptOrder(50, seed=1)
    first, second = order.take(50), order.take(50)
    assert first != second and first != PromptOrder(50, seed=2).take(50)
    assert PromptOrder(3, seed=1, shuffle=False).take(7) == [0, 1, 2, 0, 1, 2, 0]


# --- batches


def prompt(tokens):
    return Prompt(list(tokens), "text", "source", "1", {})


def response(tokens, finished=True):
    return Response(list(tokens), [-0.5 * t for t in tokens], finished)


def test_a_batch_is_padded_left_and_right():
    batch = assemble([prompt([5, 6]), prompt([7])], [[response([1]), response([2, 3, 4], False)], [response([8, 9]), response([1])]],
                     ["a", "b"], ["w", "x", "y", "z"], pad_token_id=0)  # fmt: skip
    assert batch.input_ids.tolist() == [[5, 6, 1, 0, 0], [5, 6, 2, 3, 4], [0, 7, 8, 9, 0], [0, 7, 1, 0, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 1, 1, 1, 0], [0, 1, 1, 0, 0]]
    assert batch.response_mask.int().tolist() == [[1, 0, 0], [1, 1, 1], [1, 1, 0], [1, 0, 0]]
    assert batch.rollout_log_probs.tolist() == [[-0.5, 0, 0], [-1, -1.5, -2], [-4, -4.5, 0], [-0.5, 0, 0]]
    assert batch.uid == ["a", "a", "b", "b"] and batch.finished == [True, False, True, True]
    chosen = batch.rows([3, 2]).trim()
    assert chosen.input_ids.tolist() == [[7, 1, 0], [7, 8, 9]] and chosen.response_length == 2
    assert chosen.texts == ["z", "y"] and chosen.rollout_log_probs.shape == (2, 2)


def test_concatenation_pads_to_the_longest():
    a = assemble([prompt([5, 6])], [[response([1])]], ["a"], ["w"], 0)
    b = assemble([prompt([7])], [[response([2, 3])]], ["b"], ["x"], 0)
    both = concatenate([a, b], 0)
    assert both.input_ids.tolist() == [[5, 6, 1, 0], [0, 7, 2, 3]] and both.response_mask.int().tolist() == [[1, 0], [1, 1]]
    assert both.rows([0]).trim().input_ids.tolist() == a.input_ids.tolist()


# --- reward


def judged(function, texts=("a", "b"), **settings):
    return Judge(function, settings)([prompt([1])] * len(texts), texts, [3] * len(texts), [True] * len(texts))


def test_functions_of_every_kind():
    seen = []

    def plain(data_source, solution_str, ground_truth, extra_info, scale=1.0):
        seen.append((data_source, ground_truth, extra_info))
        return scale * len(solution_str)

    async def awaited(data_source, solution_str, ground_truth, extra_info):
        return {"score": 1, "acc": 1.0, "pred": solution_str}

    assert judged(plain, ("a", "bb"), scale=2.0)[0].tolist() == [2.0, 4.0]
    assert seen[0] == ("source", "1", {"response_length": 3, "truncated": False})
    scores, info = judged(awaited)
    assert scores.dtype == torch.float32 and info == {"acc": [1.0, 1.0], "pred": ["a", "b"]}


@pytest.mark.parametrize("bad", [None, float("nan"), "1", {"acc": 1}, np.float32("inf"), torch.zeros(2), [], 1j, {"score": None}])
def test_an_unusable_score_is_named(bad):
    good = {"score": 0.0} if isinstance(bad, dict) else 0.0
    with pytest.raises(RewardError, match=r"lambda.*score of response 1"):
        judged(lambda d, s, g, e: good if s == "a" else bad)


@pytest.mark.parametrize(
    ("value", "score"),
    [
        (True, 1.0), (np.bool_(True), 1.0), (np.float32(0.5), 0.5), (np.int64(2), 2.0), (np.array(0.5), 0.5), (np.array([0.5]), 0.5),
        (torch.tensor(0.5), 0.5), (torch.tensor([0.5], dtype=torch.bfloat16, requires_grad=True), 0.5), (torch.tensor(True), 1.0),
        (Fraction(1, 2), 0.5), (Decimal("0.5"), 0.5), (3, 3.0),
    ],
)  # fmt: skip
def test_numbers_of_every_kind_are_scores(value, score):
    assert judged(lambda d, s, g, e: value)[0].tolist() == [score, score]
    scores, info = judged(lambda d, s, g, e: {"score": value, "acc": value, "more": value, "pred": s})
    assert scores.tolist() == [score, score] and info["acc"] == [score, score] and info["pred"] == ["a", "b"]
    assert type(info["acc"][0]) is float and not hasattr(info["more"][0], "dtype")


@pytest.mark.parametrize(
    ("first", "other", "message"),
    [
        ({"score": 0.0}, {"score": 0.0, "extra": 1}, r"response 1 adds extra \(the keys of the first result were score\)"),
        ({"score": 0.0, "acc": 1, "pred": ""}, {"score": 0.0, "x": 1}, "response 1 lacks acc, pred and adds x"),
        (0.0, {"score": 0.0}, "response 1 is a mapping, and the first result was a bare number"),
        ({"score": 0.0}, 0.0, "response 1 is a bare number, and the first result was a mapping"),
    ],
)
def test_keys_must_be_the_same_every_time(first, other, message):
    with pytest.raises(RewardError, match=message):
        judged(lambda d, s, g, e: first if s == "a" else other)


def test_keys_must_be_the_same_in_every_batch():
    judge = Judge(lambda d, s, g, e: {"score": 0.0} if s == "a" else {"score": 0.0, "extra": 1})
    judge([prompt([1])], ["a"], [3], [True])
    with pytest.raises(RewardError, match="adds extra"):
        judge([prompt([1])], ["b"], [3], [True])


# --- the probe


def asked(function, prompts, **settings):
    """What the function is asked while it is probed: (source, response, gold)."""
    seen = []

    def f(data_source, solution_str, ground_truth, extra_info, **more):
        seen.append((data_source, solution_str, ground_truth, extra_info["truncated"]))
        return function(data_source, solution_str, ground_truth, extra_info, **more)

    Judge(f, settings).probe(prompts)
    return seen


def test_the_probe_asks_for_every_source_and_every_gold():
    rows = [Prompt([1], "t", source, gold, {}, id=f"{source}{gold}") for source, gold in (("x", "1"), ("x", "2"), ("y", "3"))]
    seen = asked(lambda *a: 1.0, rows)
    assert seen[:4] == [("x", "", "1", False), ("x", r"\boxed{1}", "1", False), ("y", "", "3", False), ("y", r"\boxed{3}", "3", False)]
    assert {gold for _, _, gold, _ in seen} == {"1", "2", "3"}


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda d, s, g, e: float(g), "raised ValueError.*id x/3, before training"),
        (lambda d, s, g, e: "right" if s else 0.0, r"score of response 0 is 'right'.*made-up response"),
        (lambda d, s, g, e: 1 / len(s), "ZeroDivisionError"),
        (lambda d, s, g, e: 0.0 if not s else {"score": 1.0}, "is a mapping, and the first result was a bare number"),
        (lambda d, s, g, e: {"score": 1.0, "acc": None}, "acc of response 0 is None"),
    ],
)
def test_what_is_wrong_with_a_function_is_found_by_the_probe(function, message):
    rows = [Prompt([1], "t", "x", gold, {}, id=f"x/{gold}") for gold in ("1", "2", "3")]
    rows[2] = Prompt([1], "t", "x", "three", {}, id="x/3")
    rows.append(Prompt([1], "t", "x", "4", {}, id="x/4"))
    with pytest.raises(RewardError, match=message):
        Judge(function).probe(rows)


def test_a_coroutine_is_probed_once_a_source_and_keeps_its_loop():
    loops, golds = set(), []

    async def f(data_source, solution_str, ground_truth, extra_info):
        loops.add(asyncio.get_running_loop())
        golds.append(ground_truth)
        await asyncio.sleep(0)
        return np.float64(0.25)

    judge = Judge(f)
    judge.probe([Prompt([1], "t", "x", str(gold), {}) for gold in range(50)])
    assert golds == ["0", "0"]
    assert judge([prompt([1])] * 3, ["a"] * 3, [1] * 3, [True] * 3)[0].tolist() == [0.25] * 3
    assert len(loops) == 1  # a client of a service stays usable from batch to batch


def test_what_returns_an_awaitable_is_awaited_however_it_is_written():
    async def awaited(data_source, solution_str, ground_truth, extra_info, scale=1.0):
        return {"score": scale, "acc": True}

    class Callable:
        async def __call__(self, data_source, solution_str, ground_truth, extra_info):
            return 0.5

    assert judged(lambda d, s, g, e: awaited(d, s, g, e))[1] == {"acc": [1.0, 1.0]}
    assert judged(functools.partial(awaited, scale=0.25))[0].tolist() == [0.25, 0.25]
    assert judged(Callable())[0].tolist() == [0.5, 0.5]


def test_of_many_awaited_one_failure_ends_the_others():
    ended = []

    async def f(data_source, solution_str, ground_truth, extra_info):
        if solution_str == "b":
            raise ConnectionError("gone")
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            ended.append(solution_str)
            raise
        return 0.0

    with pytest.raises(RewardError, match=r"f raised ConnectionError: gone .* for response 1 'b'"):
        judged(f, ("a", "b", "c"))
    assert ended == ["a", "c"]


@pytest.mark.parametrize("acc", [None, "right", float("nan"), torch.zeros(2)])
def test_acc_must_be_a_number(acc):
    with pytest.raises(RewardError, match="acc of response 0 is"):
        judged(lambda d, s, g, e: {"score": 1.0, "acc": acc})


def test_loading_a_reward_function(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def f(data_source, solution_str, ground_truth, extra_info):\n    return 0.25\n")
    assert judged(load_reward(str(file), "f"))[0].tolist() == [0.25, 0.25]
    assert load_reward(None, "compute_score") is load_reward("pkg://erpo_verl.reward", "compute_score")
    for path, name, message in ((str(file), "g", "has no such function"), ("gone.py", "f", "no such file"), ("pkg://no.where", "f", "cannot be imported")):
        with pytest.raises(RewardError, match=message):
            load_reward(path, name)
    for text, message in (("def f(:\n", "cannot be imported: SyntaxError"), ("x = y\n", r"NameError: name 'y' is not defined \(.*mine\.py, line 1\)")):
        file.write_text(text)
        with pytest.raises(RewardError, match=message):
            load_reward(str(file), "f")


def test_the_maths_reward_by_default():
    scores, info = Judge(load_reward(None, "compute_score"))([prompt([1])] * 2, [r"\boxed{1}", r"\boxed{2}"], [3, 3], [True, False])
    assert scores.tolist() == [1.0, 0.0] and info["acc"] == [1.0, 0.0] and info["pred"] == ["1", "2"]


def test_the_examples_own_task(tmp_path):
    from examples.own_task import make_data, reward

    rows = make_data.rows(20, "train", 0)
    assert rows == make_data.rows(20, "train", 0)
    read_table([write(tmp_path / "own.parquet", rows)])
    right = rows[0]["reward_model"]["ground_truth"]
    assert reward.compute_score("sort_words", right.replace(" ", ", "), right) == {"score": 1.0, "acc": 1.0, "pred": right}
    swapped = " ".join([*right.split()[1::-1], *right.split()[2:]])
    share = (len(right.split()) - 2) / len(right.split())
    assert reward.compute_score("sort_words", swapped, right, partial=0.5)["score"] == pytest.approx(0.5 * share)
    assert reward.compute_score("sort_words", "no", right)["score"] == 0.0
    assert json.dumps(rows[0])
