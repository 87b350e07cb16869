"""The folder of an evaluation: torn lines, partial chunks, other settings, a second writer; two folders compared."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys

import pytest
from erpo_verl.reward import RewardConfig

from erpo_verl.evaluation import comparison, store
from erpo_verl.evaluation.problems import EvaluationError
from erpo_verl.evaluation.report import REPORT
from erpo_verl.statistics import holm

SETTINGS = {
    "model": "a", "model_fingerprint": "1", "k": 2, "top_p": 1.0, "top_k": -1, "max_tokens": 8,
    "judge": {"several_boxes": "auto"}, "judge_versions": {"policy": 1, "math-verify": "0.9"},
    "engine": "hf", "dtype": "float32", "device": "cpu",
    "seed": 0, "template": {}, "temperatures": (0.6,), "versions": {"torch": "2.13.0"},
}  # fmt: skip


def line(id, acc=(1, 0), *, temperature=0.6, rewording="original", gold="2", level=None, source="s", length=(3, 5), reason=None):
    n = len(acc)
    return {
        "rewording": rewording, "temperature": temperature, "id": id, "source": source, "level": level, "gold": gold,
        "acc": list(acc), "pred": ["2" if a else "9" for a in acc],
        "reason": [float(not a) for a in acc] if reason is None else list(reason), "length": list(length)[:n],
        "finished": [True] * n, "response": ["½ \\boxed{2}\n"] * n,
    }  # fmt: skip


CHUNKS = [
    [("original", 0.6, "p0"), ("original", 0.6, "p1")],
    [("original", 0.6, "p2")],
    [("original", 0.6, "p3"), ("original", 0.6, "p4")],
]


@pytest.fixture
def folder(tmp_path):
    """Two chunks of three, whole."""
    store.check_settings(tmp_path, SETTINGS)
    store.append(tmp_path, [line("p0"), line("p1")])
    store.append(tmp_path, [line("p2")])
    return tmp_path


def test_lines_come_back_as_they_were(folder) -> None:
    assert store.read_samples(folder) == [line("p0"), line("p1"), line("p2")]
    before = (folder / store.SAMPLES).read_bytes()
    assert store.resume(folder, CHUNKS) == 2
    assert (folder / store.SAMPLES).read_bytes() == before
    assert store.resume(folder.parent / "nowhere", CHUNKS) == 0


def test_every_cut_of_the_file_resumes_at_a_whole_chunk(folder) -> None:
    """Whatever byte the writing stopped at: what is kept is whole chunks, and a prefix of what was there."""
    whole = (folder / store.SAMPLES).read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]  # of p0, p1, p2
    for size in range(0, len(whole) + 1):
        (folder / store.SAMPLES).write_bytes(whole[:size])
        done = store.resume(folder, CHUNKS)
        expected = 2 if size == ends[2] else 1 if size >= ends[1] else 0
        assert done == expected
        assert (folder / store.SAMPLES).read_bytes() == whole[: [0, ends[1], ends[2]][done]]


def test_a_block_that_came_to_the_disk_as_zeros_is_torn_too(folder) -> None:
    whole = (folder / store.SAMPLES).read_bytes()
    (folder / store.SAMPLES).write_bytes(whole + b"\0" * 40 + b"\n")
    assert store.resume(folder, CHUNKS) == 2
    assert (folder / store.SAMPLES).read_bytes() == whole


def test_damage_in_the_middle_is_named(folder) -> None:
    lines = (folder / store.SAMPLES).read_bytes().splitlines(keepends=True)
    (folder / store.SAMPLES).write_bytes(lines[0] + lines[1][:30] + b"\n" + lines[2])
    with pytest.raises(EvaluationError, match=r"samples.jsonl, line 2: damaged"):
        store.resume(folder, CHUNKS)


def test_lines_of_another_plan_are_named(folder) -> None:
    swapped = [CHUNKS[1], CHUNKS[0], CHUNKS[2]]
    with pytest.raises(EvaluationError, match=r"samples.jsonl, line 1: holds .*'p0'.*expected .*'p2'"):
        store.resume(folder, swapped)


def test_other_settings_are_refused_and_named(folder) -> None:
    with pytest.raises(EvaluationError) as refused:
        store.check_settings(folder, {**SETTINGS, "k": 4, "temperatures": (0.6, 1.0)})
    assert "k: 2 there, 4 now" in str(refused.value)
    assert "temperatures: [0.6] there, [0.6, 1.0] now" in str(refused.value)
    assert "top_p" not in str(refused.value)
    assert store.check_settings(folder, {**SETTINGS, "model": "moved/a"}) == []  # the weights are the same
    assert store.check_settings(folder, {**SETTINGS, "versions": {"torch": "2.14.0"}}) == [
        "torch was 2.13.0 when this evaluation began, and is 2.14.0 now"
    ]


def test_samples_without_settings_are_refused(folder) -> None:
    (folder / store.SETTINGS).unlink()
    with pytest.raises(EvaluationError, match=r"holds samples.jsonl but no settings.json"):
        store.check_settings(folder, SETTINGS)


def test_one_writer_at_a_time(tmp_path) -> None:
    code = (
        "import sys, pathlib; from erpo_verl.evaluation import store\n"
        "with store.locked(pathlib.Path(sys.argv[1])): print('in', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"in\n"
        with pytest.raises(EvaluationError, match="another evaluation is writing there"), store.locked(tmp_path):
            pass
        other.kill()  # the lock dies with its holder
    with store.locked(tmp_path):
        pass


# ---------------------------------------------------------------- comparison


def finished(folder, lines, **settings):
    folder.mkdir()
    store.check_settings(folder, {**SETTINGS, "model": folder.name, "model_fingerprint": folder.name, **settings})
    store.append(folder, lines)
    (folder / REPORT).write_text("{}")
    return folder


def test_comparison_by_hand(tmp_path) -> None:
    a = finished(
        tmp_path / "a",
        [line("p1", (1, 0), level="1"), line("p2", (0, 0), level="2"), line("p3", (0, 0), level="2"), line("only a")],
    )
    b = finished(
        tmp_path / "b",
        [line("p3", (1, 1), level="2"), line("p2", (1, 0), level="2"), line("p1", (1, 0), level="1", length=(4, 6))],
    )
    found = comparison.compare(a, b)
    rows = {(r["source"], r["level"], r["metric"]): r for r in found["conditions"][0]["rows"]}
    avg = rows["s", "", "avg@2"]
    # Per problem 0, 0.5, 1: of 4 sign patterns of the two that differ, two are as large.
    assert (avg["other"], avg["this"], avg["difference"], avg["p_value"]) == pytest.approx((1 / 6, 2 / 3, 0.5, 0.5))
    assert (avg["pairs"], avg["b_better"], avg["a_better"]) == (3, 2, 0)
    assert (avg["role"], avg["adjusted"], avg["verdict"]) == ("primary", 0.5, "not distinguishable from noise")
    secondary = [r for r in found["conditions"][0]["rows"] if r["role"] == "secondary"]
    assert [r["name"] for r in secondary] == ["pass@2", "maj@2", "length"]
    assert all(r["adjusted"] is None and not r["verdict"] for r in found["conditions"][0]["rows"] if r["role"] == "descriptive")
    assert rows["s", "", "pass@2"]["difference"] == pytest.approx(2 / 3)
    assert rows["s", "", "maj@2"]["difference"] == pytest.approx(0.5)
    assert rows["s", "", "length"]["difference"] == pytest.approx(1 / 3)
    assert rows["s", "2", "avg@2"]["difference"] == pytest.approx(0.75)
    assert found["remarks"] == ["temperature 0.6: 3 problems in both; left out: 1 only in the other, 0 only in this"]
    paths = comparison.write(b, found)
    assert json.loads(paths[1].read_text()) == json.loads(json.dumps(found))
    text = paths[0].read_text()
    assert "| s |  | avg@2 | 0.167 | 0.667 | 2 / 0 | +0.500 [" in text and "| 3 | 0.500 | 0.500 | not distinguishable from noise |" in text
    described = text[text.index("## Temperature 0.6") :]
    assert "distinguishable" not in described and "| s | 2 | avg@2 |" in described


def test_swapping_the_sides_turns_the_sign(tmp_path) -> None:
    a = finished(tmp_path / "a", [line(f"p{i}", (i % 2, 0)) for i in range(9)])
    b = finished(tmp_path / "b", [line(f"p{i}", (1, i % 3 == 0)) for i in range(9)])
    there, back = (comparison.compare(*pair)["conditions"][0]["rows"] for pair in ((a, b), (b, a)))
    for one, other in zip(there, back, strict=True):
        assert one["difference"] == pytest.approx(-other["difference"])
        assert one["p_value"] == other["p_value"]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"k": 4}, "k is 2 and 4"),
        ({"top_p": 0.9}, "top_p is 1.0 and 0.9"),
        ({"max_tokens": 16}, "max_tokens is 8 and 16"),
        ({"judge": {"several_boxes": "last"}}, "judge's several_boxes is auto and last"),
        ({"judge": {"several_boxes": "auto", "rel_tol": 0.1}}, "judge's rel_tol is not recorded and 0.1"),
        ({"judge_versions": {"policy": 2, "math-verify": "0.9"}}, "the judge's policy is 1 and 2"),
        ({"judge_versions": {"policy": 1, "math-verify": "0.8"}}, "the judge's math-verify is 0.9 and 0.8"),
        ({"judge_versions": {}}, "the judge's math-verify is 0.9 and not recorded; the judge's policy is 1 and not recorded"),
    ],
)
def test_other_settings_are_not_compared(tmp_path, changed, words) -> None:
    a, b = finished(tmp_path / "a", [line("p")]), finished(tmp_path / "b", [line("p")], **changed)
    with pytest.raises(EvaluationError, match=f"cannot be compared: {re.escape(words)}$"):
        comparison.compare(a, b)


def test_what_of_the_judge_cannot_change_a_verdict_does_not_count(tmp_path) -> None:
    """Other workers, other scores, a time limit that no response reached; one that was reached counts."""
    samples = [line("p"), line("q", reason=(1.0, 16.0))]  # the second of q's responses timed out
    before = {"several_boxes": "auto", "workers": 2, "time_limit_s": 3.0, "memory_limit_mb": 1024, "score_right": 1.0}
    a = finished(tmp_path / "a", samples, judge=before)
    b = finished(tmp_path / "b", samples, judge={**before, "workers": 8, "memory_limit_mb": 512, "score_right": 2.0})
    assert "judge's memory_limit_mb is 1024 and 512: no response reached it" in comparison.compare(a, b)["remarks"]
    assert not any("workers" in remark or "score_right" in remark for remark in comparison.compare(a, b)["remarks"])
    c = finished(tmp_path / "c", samples, judge={**before, "time_limit_s": 9.0})
    for pair in ((a, c), (c, a)):
        with pytest.raises(EvaluationError, match=r"time_limit_s is .* and .*, and responses reached it \(timeout\)"):
            comparison.compare(*pair)
    d, e = (finished(tmp_path / name, samples[:1], judge=before | {"time_limit_s": limit}) for name, limit in (("d", 3.0), ("e", 9.0)))
    assert "judge's time_limit_s is 3.0 and 9.0: no response reached it" in comparison.compare(d, e)["remarks"]


def test_the_settings_that_do_not_count_are_the_judges_own() -> None:
    known = {item.name for item in dataclasses.fields(RewardConfig)}
    assert known >= comparison.FREE_OF_JUDGE and known >= set(comparison.LIMITS_OF_JUDGE)


def many(right) -> list[dict]:
    return [line(f"p{i}", right(i)) for i in range(12)]


def test_verdicts_and_endpoints(tmp_path) -> None:
    a = finished(tmp_path / "a", many(lambda i: (0, i % 4 == 0)))
    b = finished(tmp_path / "b", many(lambda i: (1, i % 3 == 0)))
    (condition,) = comparison.compare(a, b)["conditions"]
    rows = {row["name"]: row for row in condition["rows"]}
    avg = rows["avg@2"]
    # Per problem 1/2, or 1 or 0 more: all 12 differ, and none the other way, or are ties.
    assert avg["role"] == "primary" and avg["verdict"] == "distinguishable from noise" and avg["adjusted"] == avg["p_value"] < 0.05
    others = [row for row in rows.values() if row["role"] == "secondary"]
    assert [row["adjusted"] for row in others if row["p_value"] is not None] == pytest.approx(
        holm([row["p_value"] for row in others if row["p_value"] is not None])
    )
    found = comparison.compare(a, b, primary="length", secondary=["avg@2"])["conditions"][0]["rows"]
    assert {row["name"]: row["role"] for row in found if row["role"] != "descriptive"} == {"length": "primary", "avg@2": "secondary"}
    assert rows["length"]["verdict"] == "no verdict: all 12 pairs are equal" and rows["length"]["p_value"] is None
    (alone,) = {row["source"] for row in found}  # by the name of the data set too, where it is the only one
    named = comparison.compare(a, b, primary=f"{alone}:length", secondary=[f"{alone}:avg@2"])["conditions"][0]["rows"]
    assert [row["role"] for row in named] == [row["role"] for row in found]
    found = comparison.compare(a, b, secondary=["none"])["conditions"][0]["rows"]
    assert [row["name"] for row in found if row["role"] != "descriptive"] == ["avg@2"]
    for arguments in ({"primary": "avg@3"}, {"secondary": ["avg@3"]}, {"primary": "none"}):
        with pytest.raises(EvaluationError, match="not in this comparison; near are"):
            comparison.compare(a, b, **arguments)


def test_each_data_set_is_secondary_and_all_of_them_primary(tmp_path) -> None:
    a, b = (finished(tmp_path / name, [line(f"{s}{i}", (0, (i + x) % 2), source=s) for s in ("m", "n") for i in range(4)]) for name, x in (("a", 0), ("b", 1)))
    rows = comparison.compare(a, b)["conditions"][0]["rows"]
    assert [(row["name"], row["source"]) for row in rows if row["role"] == "primary"] == [("avg@2", "all problems")]
    assert [row["name"] for row in rows if row["role"] == "secondary"] == ["pass@2", "maj@2", "length", "m:avg@2", "n:avg@2"]
    found = comparison.compare(a, b, primary="m:pass@2")["conditions"][0]["rows"]
    assert [(row["source"], row["metric"]) for row in found if row["role"] == "primary"] == [("m", "pass@2")]


def test_two_problems_are_too_few_for_a_verdict(tmp_path) -> None:
    a = finished(tmp_path / "a", [line("p", (0, 0)), line("q", (0, 0))])
    b = finished(tmp_path / "b", [line("p", (1, 1)), line("q", (1, 0))])
    found = comparison.compare(a, b)
    (avg,) = (row for row in found["conditions"][0]["rows"] if row["role"] == "primary")
    assert (avg["p_value"], avg["verdict"]) == (None, "no verdict: 2 pairs, and it takes 3")
    assert json.dumps(found, allow_nan=False) and "no verdict: 2 pairs" in comparison.markdown(found)


def test_other_problems_temperatures_and_golds_are_not_compared(tmp_path) -> None:
    a = finished(tmp_path / "a", [line("p")])
    with pytest.raises(EvaluationError, match="no temperature, wording and problem in common"):
        comparison.compare(a, finished(tmp_path / "b", [line("q")]))
    with pytest.raises(EvaluationError, match=r"in common: temperature 0.6 and temperature 1"):
        comparison.compare(a, finished(tmp_path / "c", [line("p", temperature=1.0)]))
    with pytest.raises(EvaluationError, match=r"problem p: its gold answer is '2' in .*, '3' in"):
        comparison.compare(a, finished(tmp_path / "d", [line("p", gold="3")]))


def test_unfinished_and_missing_evaluations_are_not_compared(tmp_path) -> None:
    a, b = finished(tmp_path / "a", [line("p")]), finished(tmp_path / "b", [line("p")])
    (b / REPORT).unlink()
    with pytest.raises(EvaluationError, match=r"b: its evaluation is not finished"):
        comparison.compare(a, b)
    with pytest.raises(EvaluationError, match=r"c: no evaluation there"):
        comparison.compare(tmp_path / "c", a)


def test_what_differs_otherwise_is_said(tmp_path) -> None:
    a = finished(tmp_path / "a", [line("p"), line("p", temperature=1.0)], seed=1, model_fingerprint="x")
    b = finished(tmp_path / "b", [line("p"), line("p", rewording="heading")], model_fingerprint="x")
    assert comparison.compare(a, b)["remarks"] == [
        "seed differs: 1 and 0",
        "both evaluations are of the same weights",
        "in one of them only, left out: temperature 1; temperature 0.6, heading",
    ]
