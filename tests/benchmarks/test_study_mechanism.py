"""Classes of tokens and ways of taking a step, by hand and on chains that the task itself writes; the table, on rows of known numbers."""

from __future__ import annotations

import random
from collections import Counter

import pytest

pytest.importorskip("transformers")

from benchmarks.study import mechanism
from benchmarks.study.mechanism import ANSWER, COPY, FORK, RESULT
from examples.arithmetic import task
from examples.arithmetic.tokenizer import build_tokenizer


def test_classes_by_hand() -> None:
    response = "3+4=7;*55;+4*59;?1+1=2;\\boxed{2}"
    found = mechanism.classes(response)
    marked = {i: kind for i, kind in enumerate(found) if kind != COPY}
    assert marked == {0: FORK, 4: RESULT, 6: FORK, 8: RESULT, 10: FORK, 14: RESULT, 16: FORK, 21: RESULT, 24: ANSWER}
    assert mechanism.ways(response) == Counter(restated=1, concise=1, jump=1, recheck=1)


def test_every_chain_that_the_task_writes_is_read_whole() -> None:
    rng, tokenizer = random.Random(0), build_tokenizer()
    for problem in task.problems("train", 60, seed=3):
        written = task.chain(problem, task.Habits(), rng)
        found = mechanism.classes(written)
        assert found.count(FORK) == found.count(RESULT) == written.count(";") == sum(mechanism.ways(written).values())
        tokens = tokenizer.tokenize(written)
        assert len(found) == len(tokens) and found.count(ANSWER) == 1 and tokens[found.index(ANSWER)].isdigit()


def row(response: str, outcome: float, advantage: list[float], step: int = 1) -> dict:
    size = len(response)
    return {"response": response, "length": size + 1, "step": step, "outcome_advantage": outcome, "advantage": [*advantage, 0.0],
            "entropy": [0.5] * (size + 1), "gate": None, "old_log_prob": [-float(i) for i in range(size + 1)]}  # fmt: skip


def test_the_table_of_known_rows() -> None:
    rows = [row("+47;", 1.0, [2.0, 1.0, -1.0, 1.0]), row("+47;", -1.0, [-1.0, -1.0, 3.0, -1.0]), row("+47;", 0.0, [9.0] * 4)]
    told = mechanism.table(rows)
    assert "| fork: the way of a step | A > 0 | 0.125 | 0.500 | – | 1.000 | 2.000 | 0.000 |" in told
    assert "| result of a step | A < 0 | 0.125 | 0.500 | – | -1.000 | 3.000 | 1.000 |" in told
    # log pi is 0, -1, -2, -3 in both; final advantages sum to 1, 0, 2, 0 by place: mean 3/8 over 8 tokens
    product = sum(-place * total for place, total in enumerate((1.0, 0.0, 2.0, 0.0)))
    assert f"cov(log pi, final advantage) {(product - 8 * -1.5 * 3 / 8) / 7:+.4f}" in told and "cov(log pi, A) +0.0000" in told


def test_ways_by_part_of_the_run() -> None:
    rows = [row("+47;", 1.0, [0.0] * 4, step=1), row("3+4=7;+47;", 1.0, [0.0] * 10, step=9)]
    told = mechanism.chosen(rows)
    assert "| 1 to 1 | 0.000 | 1.000 | 0.000 | 0.000 |" in told and "| 9 to 9 | 0.500 | 0.500 | 0.000 | 0.000 |" in told


def test_dumps_are_read_as_inspect_reads_them(tmp_path, capsys) -> None:
    with pytest.raises(SystemExit):
        mechanism.main([str(tmp_path)])
    assert "no parquet file of rollouts" in capsys.readouterr().err
    (tmp_path / "step_000001.parquet").write_bytes(b"no parquet")
    with pytest.raises(SystemExit):
        mechanism.main([str(tmp_path)])
    assert "step_000001.parquet is not a parquet file that can be read" in capsys.readouterr().err
