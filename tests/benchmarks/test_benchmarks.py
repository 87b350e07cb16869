"""The benchmarks run, compare like with like, and their page says what their figures say. No time is asserted."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import advantage, coin, growth, log_probs, verl_step
from benchmarks.result import Result, in_turns, quartiles


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_turns_alternate_and_warm_ups_are_not_counted():
    order: list[str] = []
    ticks = iter(range(100))
    seconds = in_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2, clock=lambda: next(ticks))
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert seconds == {"a": [1, 1], "b": [1, 1]}


def test_quartiles_are_those_of_the_values():
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == "3.00 [2.00, 4.00]"
    assert quartiles([0.5]) == "0.50"


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_a_batch_has_the_stated_share_of_valid_tokens(share):
    batch = advantage.make_batch(512, 512, share)
    mask = batch["response_mask"]
    assert mask.float().mean().item() == pytest.approx(share, abs=0.03)
    assert (mask.sum(1) >= 1).all()
    assert (batch["token_level_rewards"].sum(1) <= 1).all() and not (batch["token_level_rewards"] * (1 - mask)).any()


def test_the_exponent_is_the_slope_in_a_log_log_fit():
    assert growth.exponent([1.0, 2.0, 4.0, 8.0], [3.0, 6.0, 12.0, 24.0]) == pytest.approx(1.0)
    assert growth.exponent([1.0, 2.0, 4.0], [5.0, 5.0, 5.0]) == pytest.approx(0.0)
    assert growth.exponent([1.0, 2.0, 4.0], [1.0, 4.0, 16.0]) == pytest.approx(2.0)


def test_fetches_for_the_advantages_are_counted_and_no_others(tmp_path):
    (tmp_path / "transfer_queue.py").write_text(
        "import torch\n"
        "def kv_batch_get(keys, select_fields):\n"
        "    rows = [torch.zeros(3), torch.zeros(5)]\n"
        "    return {'uid': ['a', 'b'], 'entropy': torch.nested.nested_tensor(rows, layout=torch.jagged), 'mask': torch.zeros(2, 5).long()}\n"
    )
    run = (
        "import transfer_queue as tq\n"
        "def helper(): return tq.kv_batch_get(keys=[1], select_fields=['entropy'])\n"
        "def _compute_advantage(): return helper()\n"
        "helper(); assert len(_compute_advantage()) == 3\n"
    )
    counted = tmp_path / "counted.jsonl"
    paths = os.pathsep.join([str(verl_step.FETCHES), str(tmp_path)])
    environment = {**os.environ, "PYTHONPATH": paths, "ERPO_BENCHMARK_FETCHES": str(counted)}
    subprocess.run([sys.executable, "-c", run], env=environment, check=True)
    assert [json.loads(line) for line in counted.read_text().splitlines()] == [{"fields": ["entropy"], "bytes": 8 * 4 + 10 * 8}]
    assert verl_step.bytes_a_step(counted, steps=2) == 56


def test_half_of_the_coins_groups_are_uniform_and_the_others_are_mixed_whatever_is_said():
    for golds, near in (([str(i) for i in range(2000)], 0.05), ([str(i) for i in range(10)], 0.0)):  # digits are the benchmarks' own answers
        uniform = 0
        for gold in golds:
            scores = [coin.compute_score("", "the same text", gold) for _ in range(4)]
            assert sum(scores) in (0, 2, 4)
            uniform += len(set(scores)) == 1
        assert uniform / len(golds) == pytest.approx(coin.UNIFORM_SHARE, abs=near)


def test_moving_alone_changes_no_input():
    batch = advantage.make_batch(16, 64, 0.3)
    before = {name: x.clone() for name, x in batch.items() if isinstance(x, torch.Tensor)}
    advantage.moving_alone(batch)
    assert all(torch.equal(batch[name], x) for name, x in before.items())


@pytest.mark.parametrize("arm", ["verl"])
def test_the_arms_of_log_probs_compute_the_same(arm):
    pytest.importorskip("verl")
    torch.manual_seed(1)
    head, hidden, targets = torch.randn(50, 8), torch.randn(6, 8), torch.randint(0, 50, (6,))
    for mine, theirs in zip(log_probs.parts("ours")(hidden, head, targets), log_probs.parts(arm)(hidden, head, targets), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_figure_is_kept_beside_the_others_and_the_page_is_made_of_all(tmp_path, monkeypatch, capsys):
    out = tmp_path / "performance.json"
    table = Result("Title one", "How.", ["a", "b"], [["1", "2.00 [1.00, 3.00]"]], "The bound.", ("torch",), {"raw": [1]})
    monkeypatch.setattr(growth, "measure", lambda quick: table)
    assert command.main(["growth", "--out", str(out)]) == 0
    monkeypatch.setattr(advantage, "measure", lambda quick: Result("Title two", "How.", ["c"], [["4"]], "None.", ("torch",)))
    assert command.main(["advantage", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert set(found) == {"growth", "advantage"} and found["growth"]["figures"] == {"raw": [1]}
    page = out.with_suffix(".md").read_text()
    assert page.index("## Title two") < page.index("## Title one")  # the page's own order, not that of the runs
    assert "| 1 | 2.00 [1.00, 3.00] |" in page and f"torch {torch.__version__}" in page and "The bound." in page


def test_a_benchmark_that_fails_is_told_and_keeps_the_old_figures(tmp_path, monkeypatch, capsys):
    out = tmp_path / "performance.json"
    out.write_text(json.dumps({"growth": {"kept": True}}))

    def broken(quick):
        raise ZeroDivisionError("injected")

    monkeypatch.setattr(growth, "measure", broken)
    assert command.main(["growth", "--out", str(out)]) == 1
    assert "growth (ZeroDivisionError: injected)" in capsys.readouterr().err
    assert json.loads(out.read_text()) == {"growth": {"kept": True}}


def test_an_unknown_benchmark_names_those_that_there_are(capsys):
    with pytest.raises(SystemExit):
        command.main(["advantages"])
    assert "no benchmark advantages; there are advantage, growth" in capsys.readouterr().err


def test_a_quick_run_writes_nothing(tmp_path):
    pytest.importorskip("verl")
    out = tmp_path / "performance.json"
    assert command.main(["--quick", "growth", "--out", str(out)]) == 0
    assert not out.exists()


def test_the_gpu_check_goes_on_where_a_part_fails(tmp_path, monkeypatch, capsys):
    from benchmarks import gpu_check

    def broken(check):
        raise ZeroDivisionError("injected")

    monkeypatch.setitem(gpu_check.PARTS, "tests", broken)
    arguments = ["--device", "cpu", "--small", "--out", str(tmp_path), "--parts", "tests", "same_steps", "core", "engine"]
    assert gpu_check.main(arguments) == 1
    parts = json.loads((tmp_path / "gpu_check.json").read_text())["parts"]
    assert parts["tests"]["failed"] == "ZeroDivisionError: injected"
    assert parts["same_steps"]["weights"] == 0.0  # the CPU beside itself, on replayed responses
    assert set(parts["same_steps"]["largest relative difference"].values()) == {0.0}
    assert len(parts["core"]["rows"]) == 3 and len(parts["engine"]["rows"]) == 2
    assert "ZeroDivisionError" in (tmp_path / "gpu_check.md").read_text()


def test_without_a_gpu_the_check_says_so_at_once(tmp_path, capsys):
    from benchmarks import gpu_check

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit):
        gpu_check.main(["--out", str(tmp_path / "none")])
    assert "torch finds no GPU here" in capsys.readouterr().err and not (tmp_path / "none").exists()
