"""`erpo compare`: hand-computed differences and intervals, what is not comparable and what is missing, files, clear errors."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser

import pytest
from reports_runs import ACC, record, two_arms, write_run

from erpo_verl import cli
from erpo_verl.reports import statistics
from erpo_verl.reports.comparable import MISSING, NOT_COMPARABLE, NOTE, issues
from erpo_verl.reports.compare import read_report
from erpo_verl.reports.runs import by_arm, read_run
from erpo_verl.reports.words import headline, markdown, verdict


def difference_in(report, title, other="erpo"):
    return next(d for d in report.comparison.differences if d.measure.title == title and d.other == other)


def found(folders, level=None):
    return [issue for issue in issues([read_run(folder) for folder in folders]) if level in (None, issue.level)]


# --- Statistics -------------------------------------------------------------------------------------------------------


def test_paired_difference_by_hand():
    mean, half, p, seeds = statistics.paired({1: 0.50, 2: 0.60, 3: 0.70}, {1: 0.53, 2: 0.62, 3: 0.74, 9: 5.0})
    # Differences .03 .02 .04: mean .03, sd .01, error .01/sqrt(3); t(0.975, 2) = 4.302653; t = 5.196152.
    assert seeds == (1, 2, 3) and mean == pytest.approx(0.03)
    assert half == pytest.approx(4.302653 * 0.01 / math.sqrt(3), rel=1e-6)
    # With two degrees of freedom the two-sided p is 1 - t / sqrt(t^2 + 2).
    t = math.sqrt(27)
    assert p == pytest.approx(1 - t / math.sqrt(t * t + 2), rel=1e-9)


def test_fewer_than_two_pairs_have_no_interval():
    assert statistics.paired({1: 0.5}, {1: 0.6})[1:] == (None, None, (1,))
    mean, *rest = statistics.paired({1: 0.5}, {2: 0.6})
    assert math.isnan(mean) and rest == [None, None, ()]


def test_equal_runs_differ_by_nothing():
    assert statistics.paired({1: 0.5, 2: 0.6}, {1: 0.5, 2: 0.6})[:3] == (0.0, 0.0, 1.0)


def test_holm_by_hand():
    # In order .01 x 4, .02 x 3, .03 x 2, .20 x 1, each at least the one before.
    assert statistics.holm([0.03, 0.01, 0.20, 0.02]) == pytest.approx([0.06, 0.04, 0.20, 0.06])
    assert statistics.holm([0.6, 0.7]) == [1.0, 1.0]
    assert statistics.holm([]) == []


def test_interval_by_hand():
    mean, half = statistics.interval([1.0, 3.0])  # sd sqrt(2), error 1, t(0.975, 1) = 12.706205
    assert (mean, half) == (2.0, pytest.approx(12.706205, rel=1e-6))
    assert statistics.interval([4.0]) == (4.0, None)


def test_pareto_front_by_hand():
    points = {"a": (10.0, 0.5), "b": (20.0, 0.7), "c": (20.0, 0.6), "d": (30.0, 0.7), "e": (5.0, 0.1)}
    assert statistics.pareto(points) == ["e", "a", "b"]
    assert statistics.pareto({"a": (1.0, 1.0), "b": (1.0, 1.0)}) == ["a", "b"]


# --- Reports ----------------------------------------------------------------------------------------------------------


def test_numbers_of_a_report(tmp_path):
    report = read_report(two_arms(tmp_path))
    accuracy = difference_in(report, "accuracy on arithmetic")
    assert (accuracy.base, accuracy.mean, len(accuracy.seeds)) == ("grpo", pytest.approx(0.03), 3)
    # Reward: .1 x (1 + 2 + 3 + 4)/4 = .25 and the shift of .001 a seed; arms differ by 3 seeds' shift, without any spread.
    reward = difference_in(report, "training reward")
    assert report.comparison.values["critic/score/mean"]["grpo-s2"] == pytest.approx(0.252)
    assert (reward.mean, reward.half) == (pytest.approx(0.003), pytest.approx(0, abs=1e-9))
    # 8 responses of 21, 22, 23, 24 tokens: 720 generated, though 1040 are counted with the prompts.
    assert report.comparison.values["tokens generated"]["erpo-s1"] == pytest.approx(720)
    assert report.comparison.tests == len(report.comparison.differences) == 5
    text = markdown(report)
    assert "| grpo | 3 | 0.600 ± 0.100 |" in text
    assert "| erpo | accuracy on arithmetic | +0.030 | [+0.005, +0.055] | 3 | 0.035 |" in text
    assert "There are 5 of them: with no difference anywhere one expects 0.2 to miss zero" in text


def test_noise_is_called_noise(tmp_path):
    folders = [write_run(tmp_path / f"a-s{s}", x, seed=s) for s, x in ((1, 0.5), (2, 0.6))]
    folders += [write_run(tmp_path / f"b-s{s}", x, seed=s + 2) for s, x in ((1, 0.7), (2, 0.5))]
    report = read_report(folders)
    assert verdict(difference_in(report, "accuracy on arithmetic", "b")) == "not distinguishable from noise"
    assert any("not distinguishable from noise" in sentence for sentence in headline(report))


def test_what_correction_takes_away_is_not_claimed(tmp_path):
    difference = difference_in(read_report(two_arms(tmp_path)), "accuracy on arithmetic")
    assert difference.p < 0.05 < difference.holm
    assert not difference.told_apart and verdict(difference) == "not distinguishable after Holm's correction"


def test_one_seed_can_be_noise(tmp_path):
    folders = [write_run(tmp_path / "grpo-s1", 0.5), write_run(tmp_path / "erpo-s1", 0.9, erpo=True, seed=1)]
    report = read_report(folders)
    assert report.comparison.tests == 0
    assert "+0.400 (one seed: no interval, so this can be noise)" in markdown(report)
    assert any("one seed an arm" in issue.text for issue in found(folders, MISSING))


def test_a_panel_and_a_measure_for_each_validation_source(tmp_path):
    folders = two_arms(tmp_path)
    for i, folder in enumerate(folders):
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for line in lines:
            if ACC in line["data"]:
                line["data"]["val-core/MATH/lvl5/acc/mean@4"] = 0.1 + 0.01 * i
                line["data"]["val-core/MATH/lvl5/acc/mean@1"] = 0.9  # fewer samples of the same source: not a source of its own
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = read_report(folders)
    # Runs are 0, 1, 2 of grpo and 3, 4, 5 of erpo: each pair differs by .03.
    assert difference_in(report, "accuracy on MATH/lvl5").mean == pytest.approx(0.03)
    from erpo_verl.reports.curves import panels

    keys = [panel.key for panel, _ in panels(report.runs)]
    assert keys[:4] == ["accuracy-math-lvl5-steps", "accuracy-math-lvl5-tokens", "accuracy-arithmetic-steps", "accuracy-arithmetic-tokens"]


def test_curves_against_tokens(tmp_path):
    from erpo_verl.reports.curves import front, panels

    report = read_report(two_arms(tmp_path))
    lines = next(lines for panel, lines in panels(report.runs) if panel.key == "accuracy-arithmetic-tokens")
    assert lines[0].runs["grpo-s1"] == [(0.0, 0.25), (pytest.approx(720), 0.5)]
    assert lines[0].steps == [0, 4] and lines[0].mean[1] == (pytest.approx(720), pytest.approx(0.6))
    length, points = front(report.runs, report.comparison, ACC)
    assert length == "response_length/mean" and points[0].length == pytest.approx(22.5)
    assert [(p.arm, p.on_front) for p in points] == [("grpo", False), ("erpo", True)]
    assert points[0].accuracy_half == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-6)


# --- May they be compared? --------------------------------------------------------------------------------------------


def pair(tmp_path, a=None, b=None):
    folders = [write_run(tmp_path / "grpo-s1", 0.5), write_run(tmp_path / "erpo-s1", 0.6, erpo=True, seed=1)]
    for folder, arm, more in zip(folders, ("grpo", "erpo"), (a or {}, b or {}), strict=True):
        record(folder, tmp_path, arm=arm, seed=1, **more)
    return folders


def test_runs_that_differ_in_the_algorithm_alone(tmp_path):
    assert found(pair(tmp_path), NOT_COMPARABLE) == []
    assert not any(issue.what == "record" for issue in found([tmp_path / "grpo-s1", tmp_path / "erpo-s1"]))


@pytest.mark.parametrize(
    ("other", "what", "words"),
    [
        ({"data": "others"}, "training data", "other training data"),
        ({"model": "finer"}, "start model", "other start models"),
        ({"engine": "accelerate"}, "engine", "accelerate in erpo-s1"),
        ({"trainer": {"n": 3}}, "settings", "trainer.n: not given in grpo-s1; 3 in erpo-s1"),
    ],
)
def test_what_makes_runs_incomparable_is_named(tmp_path, other, what, words):
    grave = found(pair(tmp_path, b=other), NOT_COMPARABLE)
    assert [issue.what for issue in grave] == [what] and words in grave[0].text


def test_a_start_model_for_each_seed_keeps_pairs_fair(tmp_path):
    folders = []
    for arm in ("grpo", "erpo"):
        for seed in (1, 2):
            folders.append(write_run(tmp_path / f"{arm}-s{seed}", (0.5 if arm == "grpo" else 0.6) + 0.01 * seed, erpo=arm == "erpo", seed=seed))
            record(folders[-1], tmp_path, arm=arm, seed=seed, model=f"start {seed}")
    assert found(folders, NOT_COMPARABLE) == []
    (note,) = [issue for issue in found(folders, NOTE) if issue.what == "start model"]
    assert note.text.startswith("a start model for each seed, the same in all arms")
    record(folders[-1], tmp_path, arm="erpo", seed=2, model="start 1")
    assert [issue.what for issue in found(folders, NOT_COMPARABLE)] == ["start model"]


def test_other_versions_and_machines(tmp_path):
    folders = pair(tmp_path)
    path = folders[1] / "run.json"
    changed = json.loads(path.read_text())
    changed["versions"]["numpy"] = "0.1"
    changed["machine"]["cpu"] = "another"
    path.write_text(json.dumps(changed))
    assert [(issue.level, issue.what) for issue in found(folders) if issue.what in ("versions", "machine")] == [
        (NOT_COMPARABLE, "versions"), (NOTE, "machine"),
    ]  # fmt: skip


def test_seeds_names_and_micro_batches_do_not_count(tmp_path):
    a = {"trainer": {"experiment_name": "x", "logger": ["file"]}, "actor": {"micro_batch_size": 1}}
    b = {"trainer": {"experiment_name": "y", "logger": []}, "actor": {"micro_batch_size": 2}}
    folders = pair(tmp_path, a, b)
    assert found(folders, NOT_COMPARABLE) == []
    assert any("actor.micro_batch_size: 1 in grpo-s1; 2 in erpo-s1" in issue.text for issue in found(folders, NOTE))


def test_runs_of_one_arm_share_the_algorithm(tmp_path):
    folders = [write_run(tmp_path / f"erpo-s{s}", 0.5, seed=s) for s in (1, 2)]
    for s, folder in enumerate(folders, 1):
        record(folder, tmp_path, arm="erpo", seed=s, algorithm={"erpo": {"gate": {"gamma": 5.0 * s}}})
    (grave,) = found(folders, NOT_COMPARABLE)
    assert grave.text == "runs of the one arm erpo have other algorithm.erpo.gate.gamma: 5 in erpo-s1; 10 in erpo-s2"


def test_runs_of_different_length(tmp_path):
    folders = [write_run(tmp_path / "a", 0.5), write_run(tmp_path / "b", 0.5, steps=7, seed=1)]
    (grave,) = found(folders, NOT_COMPARABLE)
    assert grave.what == "budget" and "4 in a; 7 in b" in grave.text
    assert read_report(folders).comparison.step == 0  # the last validation that both have


def test_unpaired_seeds_and_missing_validation(tmp_path):
    folders = [write_run(tmp_path / "a-s1", 0.5), write_run(tmp_path / "a-s2", 0.5, seed=1), write_run(tmp_path / "b-s1", 0.5, seed=2)]
    bare = tmp_path / "c-s1"
    bare.mkdir()
    lines = [json.loads(line) for line in (folders[0] / "metrics.jsonl").read_text().splitlines()][1:]
    for line in lines:
        line["data"].pop(ACC, None)
        line["data"].pop("prompt_length/mean")
        line["data"]["actor/entropy"] = None
    (bare / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = "\n".join(issue.text for issue in found([*folders, bare]))
    assert "b and a do not have the same seeds; without a partner: 2" in text
    assert "no held-out accuracy (val-*/<source>/acc/mean@k) in c-s1" in text
    assert "no actor/entropy in c-s1" in text
    assert "actor/entropy of c-s1 is not a finite number at step 1, 2, 3, 4; left out" in text
    assert "generated tokens cannot be counted in c-s1" in text
    assert markdown(read_report([*folders, bare]))  # and is compared in what there is


def test_one_run_under_two_names(tmp_path):
    folders = [write_run(tmp_path / "erpo-s1", 0.5), write_run(tmp_path / "erpo-s2", 0.5)]
    assert any(issue.what == "copies" for issue in found(folders, NOT_COMPARABLE))


# --- Files ------------------------------------------------------------------------------------------------------------


def test_report_files_the_same_twice(tmp_path, capsys):
    from PIL import Image

    folders = two_arms(tmp_path)
    contents = []
    for name in ("one", "two"):
        out = tmp_path / name
        assert cli.main(["compare", *map(str, folders), "--out", str(out)]) == 0
        contents.append({str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()})
        assert (out / "comparison.md").read_text() in capsys.readouterr().out
    assert contents[0] == contents[1]
    assert {"comparison.html", "comparison.md", "comparison.png", "figures/accuracy.svg", "figures/accuracy-against-length.png"} <= set(contents[0])
    picture = Image.open(tmp_path / "one" / "comparison.png").convert("RGB")
    assert picture.width > 1000 and len(picture.getcolors(1 << 20)) > 50  # something is drawn
    html = contents[0]["comparison.html"].decode()
    assert "[+0.005, +0.055]" in html
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//|@import|url\(""", html)
    assert str(tmp_path / "grpo-s1") in html


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.seen = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))


def test_hostile_names_stay_text(tmp_path):
    from erpo_verl.reports.page import page

    name = "val-core/<script>alert(1)</script>|\u202ex/acc/mean@2"
    folder = write_run(tmp_path / "a-s1", 0.5, name=name)
    other = write_run(tmp_path / "b-s1", 0.6, name=name, seed=1)
    record(other, tmp_path, arm="<img src=x onerror=alert(2)>|`b`", seed=1)
    report = read_report([folder, other])
    html = page(report)
    tags = Tags(html).seen
    assert not any(tag == "img" or any(key.startswith("on") for key in attrs) for tag, attrs in tags)
    assert sum(tag == "script" for tag, _ in tags) == 2 and "\u202e" not in html and "⟨U+202E⟩" in html
    table = next(line for line in markdown(report).splitlines() if line.startswith("| arm"))
    assert "<script>" not in table.replace(r"\<", "") and "\u202e" not in table


@pytest.mark.parametrize(
    ("content", "expected"),
    [(None, "no metrics.jsonl"), ("", "no metrics"), ('{"step": 1, "data": {}}\nnonsense\n', "line 2"), ('{"data": {}}\n', "line 1")],
)
def test_bad_runs(tmp_path, capsys, content, expected):
    folder = tmp_path / "run"
    folder.mkdir()
    if content is not None:
        (folder / "metrics.jsonl").write_text(content)
    assert cli.main(["compare", str(folder), "--out", str(tmp_path / "report")]) == 1
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def test_missing_folder(tmp_path, capsys):
    assert cli.main(["compare", str(tmp_path / "nowhere"), "--out", str(tmp_path / "report")]) == 1
    assert f"{tmp_path / 'nowhere'} is missing" in capsys.readouterr().err


def test_the_same_seed_twice_is_refused(tmp_path):
    runs = [read_run(write_run(tmp_path / place / "a-s1", 0.5)) for place in ("x", "y")]
    with pytest.raises(ValueError, match="the same seed 1"):
        by_arm(runs)


def test_without_the_extra(tmp_path, capsys, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)  # importing it fails, as where it is not installed
    assert cli.main(["compare", str(write_run(tmp_path / "a-s1", 0.5)), "--out", str(tmp_path / "report")]) == 1
    assert 'pip install "erpo-verl[reports]"' in capsys.readouterr().err and not (tmp_path / "report").exists()


def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "report").write_text("a file is in the way")
    assert cli.main(["compare", str(write_run(tmp_path / "a-s1", 0.5)), "--out", str(tmp_path / "report")]) == 1
    assert "erpo compare:" in capsys.readouterr().err and (tmp_path / "report").read_text() == "a file is in the way"


def test_data_in_a_page_cannot_end_its_element():
    from erpo_verl.reports.document import data

    hostile = {"</script><!--": "\u2028&amp;"}
    written = data(hostile)
    assert not set("<>&\u2028") & set(written) and json.loads(written) == hostile
    with pytest.raises(ValueError):
        data(float("nan"))


def test_resumed_run_counts_the_later_line(tmp_path):
    folder = write_run(tmp_path / "a-s1", 0.5)
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 2, "data": {"critic/score/mean": 0.9}}\n{"step": 5, "data": {"critic/sc')  # and a torn last line
    run = read_run(folder)
    assert run.series["critic/score/mean"] == {1: 0.1, 2: 0.9, 3: pytest.approx(0.3), 4: 0.4} and run.last_step == 4


def test_training_metrics_are_means_up_to_the_common_step(tmp_path):
    from erpo_verl.reports.metrics import MEASURES

    run = read_run(write_run(tmp_path / "a-s1", 0.5, steps=9))
    # Rewards are .1 x step: over the five steps up to 7 their mean is .5, over the last five .7.
    assert statistics.value_at(run, MEASURES[0], 7) == pytest.approx(0.5)
    assert statistics.value_at(run, MEASURES[0], 9) == pytest.approx(0.7)


def test_one_and_one_point_zero_are_one_setting(tmp_path):
    assert found(pair(tmp_path, {"trainer": {"x": 1}}, {"trainer": {"x": 1.0}}), NOT_COMPARABLE) == []


def test_means_are_at_steps_that_all_seeds_have(tmp_path):
    from erpo_verl.reports.curves import panels

    runs = [read_run(write_run(tmp_path / f"a-s{s}", 0.5, steps=steps, seed=s)) for s, steps in ((1, 4), (2, 6))]
    (line,) = next(lines for panel, lines in panels(runs) if panel.key == "entropy")
    assert line.steps == [1, 2, 3, 4] and [len(points) for points in line.runs.values()] == [4, 6]
    assert line.mean[1] == (2.0, pytest.approx(0.5 + 0.0015))
