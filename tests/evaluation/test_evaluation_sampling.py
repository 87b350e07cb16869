"""Judging what was sampled: the forms of a final answer, votes by value, and what is said where nothing is right."""

from __future__ import annotations

import pytest
from erpo_verl.reward import MathJudge, shared_judge

from erpo_verl.evaluation import report, sampling, store
from erpo_verl.evaluation.problems import Problem, Prompt
from erpo_verl.evaluation.sampling import Chunk, Condition, Plan, votes
from erpo_verl.rollout import Response


class Written:
    """An engine and a decoder whose answers were written before: problem i, sample j gives ``texts[i][j]``."""

    def __init__(self, texts):
        self.texts, self.flat = texts, [text for row in texts for text in row]

    def generate(self, prompts, params, progress=None):
        numbers = iter(range(len(self.flat)))
        return [[Response([next(numbers)], [0.0], True) for _ in range(params.n)] for _ in prompts]

    def __call__(self, responses):
        return [self.flat[tokens[0]] for tokens in responses]

    def doubt(self, responses, texts):
        return None

    def close(self):
        pass


def sampled(folder, texts, golds, forms=None, asked=None):
    """The lines of an evaluation of some problems, one row of texts each."""
    forms = forms or [None] * len(golds)
    problems = [Problem(f"p{i}", "s", [], gold, None, {"answer_forms": form} if form else {}) for i, (gold, form) in enumerate(zip(golds, forms, strict=True))]
    prompts = [Prompt(problem, "", [1]) for problem in problems]
    folder.mkdir(exist_ok=True)
    written = Written(texts)
    plan = Plan([Chunk(Condition(1.0), prompts)], {}, {})
    sampling.collect(folder, plan, lambda: written, written, shared_judge(), k=len(texts[0]), seed=0, max_tokens=9, quiet=True, answer_forms=asked)
    return store.read_samples(folder)


@pytest.mark.parametrize(
    ("forms", "asked", "right"),
    [
        ([None, None], None, [[1, 0], [1, 0]]), (["marked", "any"], None, [[0, 1], [1, 1]]), (["boxed", "boxed"], "any", [[1, 1], [1, 1]]),
        (["any", "any"], "boxed", [[1, 0], [1, 0]]),
    ],
)  # fmt: skip
def test_the_data_say_in_which_forms_an_answer_counts_and_the_command_overrules(tmp_path, forms, asked, right) -> None:
    lines = sampled(tmp_path, [[r"\boxed{7}", "It is so.\nAnswer: 7"], [r"\boxed{8}", "It is so.\nAnswer: 8"]], ["7", "8"], forms, asked)
    assert [line["acc"] for line in lines] == right


@pytest.mark.parametrize(
    ("answers", "classes"),
    [
        ([r"\ln4", r"2\ln2", "3"], [0, 0, 1]), (["1,2", r"\{1,2\}", "1,3"], [0, 0, 1]), (["(1,2)", "1,2"], [0, 0]), ([r"50\%", "0.5"], [0, 0]),
        (["", "7", "", "7.0"], [-1, 0, -1, 0]), (["5", "7", "5"], [0, 1, 0]),
    ],
)  # fmt: skip
def test_votes_are_counted_by_value(answers, classes) -> None:
    assert votes(MathJudge(), answers) == classes


def test_a_majority_that_is_spelled_in_several_ways_wins(tmp_path) -> None:
    """Three of five say the half, each in a way of its own; two agree on a wrong spelling."""
    texts = [[r"\boxed{\frac12}", r"\boxed{0.5}", r"\boxed{\frac{2}{4}}", r"\boxed{3}", r"\boxed{3}"]]
    lines = sampled(tmp_path, texts, [r"\frac{1}{2}"])
    assert lines[0]["vote"] == [0, 0, 0, 1, 1]
    problems = next(iter(report.by_condition(lines).values()))
    assert report.summarize(list(problems.values()))["maj"][5] == 1.0
    del lines[0]["vote"]  # of an earlier version: by spelling
    assert next(iter(report.by_condition(lines).values()))["p0"].predictions == lines[0]["pred"]


def test_nothing_right_in_the_first_chunk_is_said_with_what_may_help(tmp_path, capsys) -> None:
    sampled(tmp_path / "a", [["so\nAnswer: 7", "I do not know"]], ["7"])
    told = capsys.readouterr().err
    assert "nothing of the first batch is right (2 responses)" in told and "1 of 2 would be right if a final answer counted in any form" in told
    assert "--answer-forms=any reads them" in told and r"2 of 2 hold no final answer in a form that counts" in told and "'so\\nAnswer: 7', where the gold is '7'" in told
    sampled(tmp_path / "b", [["so\nAnswer: 7", r"\boxed{7}"]], ["7"])
    assert capsys.readouterr().err == ""


def test_what_nobody_could_judge_is_neither_right_nor_wrong(tmp_path) -> None:
    lines = sampled(tmp_path, [[r"\boxed{7}", r"\boxed{8}", r"\boxed{9}"], [r"\boxed{7}"] * 3], ["7", "7"])
    assert [line["ungradeable"] for line in lines] == [[0, 0, 0], [0, 0, 0]]
    lines[0]["ungradeable"], lines[1]["ungradeable"] = [0, 1, 0], [1, 1, 1]  # the judge failed there
    (problems,) = report.by_condition(lines).values()
    assert list(problems) == ["p0"] and problems["p0"].acc == [1, 0] and problems["p0"].predictions == ["0", "2"]
    assert report.summarize(list(problems.values()))["avg"] == 0.5
