"""`erpo compare`: hand-computed differences and intervals, what is not comparable and what is missing, files, clear errors."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from reports_runs import ACC, record, two_arms, write_run

from erpo_verl import cli
from erpo_verl.reports import endpoints
from erpo_verl.reports.comparable import MISSING, NOT_COMPARABLE, NOTE, issues
from erpo_verl.reports.compare import read_report
from erpo_verl.reports.runs import Run, held_out, read_run, read_runs
from erpo_verl.reports.words import headline, markdown
from erpo_verl.statistics import DESCRIPTIVE, MIN_PAIRS, PRIMARY, SECONDARY


def difference_in(report, name, other="erpo"):
    return next(d for d in report.comparison.differences if d.measure.name == name and d.other == other)


def found(folders, level=None):
    return [issue for issue in issues([read_run(folder) for folder in folders]) if level in (None, issue.level)]


# --- Numbers ----------------------------------------------------------------------------------------------------------


def test_pareto_front_by_hand():
    points = {"a": (10.0, 0.5), "b": (20.0, 0.7), "c": (20.0, 0.6), "d": (30.0, 0.7), "e": (5.0, 0.1)}
    assert endpoints.pareto(points) == ["e", "a", "b"]
    assert endpoints.pareto({"a": (1.0, 1.0), "b": (1.0, 1.0)}) == ["a", "b"]


# --- Reports ----------------------------------------------------------------------------------------------------------


def test_numbers_of_a_report(tmp_path):
    report = read_report(two_arms(tmp_path))
    accuracy = difference_in(report, "held-out")
    assert (accuracy.base, accuracy.paired.difference, accuracy.seeds) == ("grpo", pytest.approx(0.03), (1, 2, 3))
    # Reward: .1 x (1 + 2 + 3 + 4)/4 = .25 and the shift of .001 a seed; arms differ by 3 seeds' shift, without any spread.
    reward = difference_in(report, "critic/score/mean")
    assert report.comparison.values["critic/score/mean"]["grpo-s2"] == pytest.approx(0.252)
    assert (reward.paired.difference, reward.paired.low) == (pytest.approx(0.003), None)
    # 8 responses of 21, 22, 23, 24 tokens: 720 generated, though 1040 are counted with the prompts.
    assert report.comparison.values["tokens generated"]["erpo-s1"] == pytest.approx(720)
    text = markdown(report)
    assert "| grpo | 3 | 0.600 ± 0.100 |" in text
    # The interval by hand: t(0.975, 2) = 4.302653 times .01 / sqrt(3).
    assert "| erpo | accuracy on arithmetic at equal tokens | +0.030 | [+0.005, +0.055] | 3 | 0.035 | 0.035 | distinguishable from noise |" in text
    assert "| erpo | training reward | +0.003 | – | 3 |" in text  # described: no p and no verdict
    assert headline(report) == ["erpo against grpo, accuracy on arithmetic at equal tokens: +0.030, 95% interval [+0.005, +0.055] over 3 pairs; distinguishable from noise."]


def test_noise_is_called_noise(tmp_path):
    folders = [write_run(tmp_path / f"a-s{s}", x, seed=s) for s, x in ((1, 0.5), (2, 0.6), (3, 0.5))]
    folders += [write_run(tmp_path / f"b-s{s}", x, seed=s + 3) for s, x in ((1, 0.7), (2, 0.5), (3, 0.55))]
    report = read_report(folders)
    assert difference_in(report, "held-out", "b").paired.verdict == "not distinguishable from noise"
    assert any("not distinguishable from noise" in sentence for sentence in headline(report))


def test_what_correction_takes_away_is_not_claimed(tmp_path):
    """Three arms: the primary endpoint is tested twice, so the p of .035 counts for .07."""
    folders = two_arms(tmp_path)
    folders += [write_run(tmp_path / f"other-s{s}", a, seed=s + 6) for s, a in ((1, 0.55), (2, 0.55), (3, 0.74))]
    report = read_report(folders)
    found = difference_in(report, endpoints.AT_TOKENS + "held-out").paired
    assert found.p_value < 0.05 < found.adjusted == pytest.approx(2 * found.p_value)
    assert found.verdict == "not distinguishable after Holm's correction" and "corrected by Holm for the 2 arms" in markdown(report)


@pytest.mark.parametrize(("seeds", "words"), [(1, "1 pair, no interval; no verdict: 1 pair, and it takes 3"), (2, "no verdict: 2 pairs, and it takes 3")])
def test_fewer_than_three_pairs_give_no_verdict(tmp_path, seeds, words):
    folders = [write_run(tmp_path / f"{arm}-s{s}", x + s * s * 0.02, seed=s + (arm == "b")) for arm, x in (("a", 0.5), ("b", 0.7)) for s in range(seeds)]
    report = read_report(folders)
    assert words in headline(report)[0] and all(d.paired.p_value is None for d in report.comparison.differences)
    assert "distinguishable from noise |" not in markdown(report)
    assert any(f"of b and a: a verdict takes {MIN_PAIRS}" in issue.text for issue in found(folders, MISSING))


@pytest.mark.parametrize("shift", [0.2, 0.0])
def test_seeds_that_all_differ_by_the_same_give_no_verdict(tmp_path, shift):
    """Accuracies on a grid: .1 and .3 more than .2 differ by another rounding, and a t test would take that for certainty."""
    folders = [write_run(tmp_path / f"a-s{s}", x, seed=s) for s, x in ((1, 0.1), (2, 0.3), (3, 0.7))]
    folders += [write_run(tmp_path / f"b-s{s}", x + shift, seed=s + 3) for s, x in ((1, 0.1), (2, 0.3), (3, 0.7))]
    report = read_report(folders)
    (sentence,) = headline(report)
    assert sentence.endswith("3 pairs, no interval; no verdict: all 3 pairs " + ("differ by the same." if shift else "are equal."))


# --- Endpoints --------------------------------------------------------------------------------------------------------


def with_tokens(folder, points, *, source="x", tokens=100.0):
    """A run of six steps with `tokens` generated in each, validated at the given steps."""
    folder.mkdir(parents=True)
    lines = []
    for step in range(7):
        data = {f"val-core/{source}/acc/mean@1": points[step]} if step in points else {}
        if step:
            data |= {"response_length/mean": tokens, "prompt_length/mean": 50.0, "perf/total_num_tokens": tokens + 50.0, "critic/score/mean": step / 10}
        lines.append(json.dumps({"step": step, "data": data}))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_accuracy_at_equal_tokens_by_hand(tmp_path):
    """`a` generates 100 tokens a step and is validated at 0 and 6: 600. `b` generates 200, is validated at 0, 2, 4, 6: 0, 400, 800, 1200."""
    a = with_tokens(tmp_path / "a-s1", {0: 0.1, 6: 0.4})
    b = with_tokens(tmp_path / "b-s1", {0: 0.1, 2: 0.3, 4: 0.5, 6: 0.9}, tokens=200.0)
    comparison = read_report([a, b]).comparison
    assert (comparison.tokens, comparison.step, comparison.primary.name) == (600, 6, "tokens:held-out")
    # b at 600 lies half way between .3 at 400 and .5 at 800.
    assert comparison.values["tokens:held-out"] == {"a-s1": pytest.approx(0.4), "b-s1": pytest.approx(0.4)}
    assert comparison.values["held-out"] == {"a-s1": 0.4, "b-s1": 0.9}  # at the last step b looks far better


def test_the_mean_over_sources_weighs_each_the_same(tmp_path):
    folders = two_arms(tmp_path)
    for folder in folders:
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for line in lines:
            if ACC in line["data"]:
                line["data"]["val-core/hard/acc/mean@2"] = line["data"][ACC] / 10
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    comparison = read_report(folders).comparison
    assert comparison.values["tokens:held-out"]["erpo-s1"] == pytest.approx((0.53 + 0.053) / 2)
    roles = comparison.roles
    assert roles["tokens:held-out"] == PRIMARY and roles[f"tokens:{ACC}"] == roles["held-out"] == roles["response_length/mean"] == SECONDARY
    assert roles[ACC] == roles["actor/entropy"] == DESCRIPTIVE
    assert comparison.measures[0].title == "mean accuracy on 2 sources at equal tokens"


def test_where_tokens_are_not_recorded_the_step_decides_and_that_is_said(tmp_path):
    folders = two_arms(tmp_path)
    for line in (lines := [json.loads(line) for line in (folders[4] / "metrics.jsonl").read_text().splitlines()]):
        line["data"].pop("perf/total_num_tokens", None)
    (folders[4] / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = read_report(folders)
    assert report.comparison.primary.name == "held-out"
    assert "The primary endpoint is the accuracy on arithmetic at step 4, as generated tokens are not recorded in erpo-s2" in markdown(report)
    with pytest.raises(ValueError, match="cannot be compared at equal generated tokens: generated tokens are not recorded in erpo-s2"):
        read_report(folders, "tokens:held-out")


def test_validations_that_lie_around_no_common_budget(tmp_path):
    early = with_tokens(tmp_path / "a-s1", {0: 0.1, 1: 0.2})
    late = with_tokens(tmp_path / "b-s1", {5: 0.3, 6: 0.4})
    comparison = read_report([early, late]).comparison
    assert comparison.tokens is None and "no two validations of b-s1 lie around" in comparison.fallback


def test_endpoints_named_by_the_user(tmp_path):
    folders = two_arms(tmp_path)
    comparison = read_report(folders, "actor/entropy", ["critic/score/mean", ACC]).comparison
    assert comparison.roles["actor/entropy"] == PRIMARY
    assert [name for name, role in comparison.roles.items() if role == SECONDARY] == ["critic/score/mean", ACC]
    assert comparison.roles["response_length/mean"] == DESCRIPTIVE
    assert [m.name for m in comparison.measures][:3] == ["actor/entropy", "critic/score/mean", ACC]
    comparison = read_report(folders, secondary=["none"]).comparison
    assert SECONDARY not in comparison.roles.values() and comparison.primary.name == "tokens:held-out"


@pytest.mark.parametrize(
    ("primary", "words"),
    [
        ("val-core/arithmetik/acc/mean@2", f"no run has it; near are {ACC}"),
        ("actor/entropie", "no run has it; near are actor/entropy"),
        ("tokens:actor/entropy", f"only a held-out number is taken at equal tokens: tokens:held-out, tokens:{ACC}"),
    ],
)
def test_unknown_endpoints_are_refused(tmp_path, capsys, primary, words):
    folders = two_arms(tmp_path)
    assert cli.main(["compare", *map(str, folders), "--primary", primary, "--out", str(tmp_path / "report")]) == 1
    assert words in capsys.readouterr().err and not (tmp_path / "report").exists()


def test_without_validation_nothing_is_primary(tmp_path):
    folders = [with_tokens(tmp_path / f"{arm}-s{seed}", {}, tokens=100.0 + (1 + i) * seed * seed) for i, arm in enumerate("ab") for seed in (1, 2, 3)]
    report = read_report(folders)
    assert report.comparison.primary is None and headline(report)[-1] == "No run has a held-out number: there is no primary endpoint."
    assert "there is no primary endpoint" in markdown(report)


def test_held_out_reward_where_there_is_no_accuracy(tmp_path):
    """verl logs `reward` in the place of `acc` for a reward function that returns a float alone."""
    name = "val-core/essay/reward/mean@4"
    folders = [write_run(tmp_path / f"{arm}-s{s}", x + 0.01 * s * s, seed=s + 3 * (arm == "b"), name=name) for arm, x in (("a", -0.5), ("b", 1.5)) for s in (1, 2, 3)]
    report = read_report(folders)
    assert report.comparison.primary.title == "held-out reward on essay at equal tokens"
    assert not any(issue.what == "validation" for issue in report.issues)
    from erpo_verl.reports.curves import panels

    assert [panel.key for panel, _ in panels(report.runs)][:2] == ["reward-essay-steps", "reward-essay-tokens"]


def test_accuracy_goes_before_the_reward_that_verl_logs_beside_it(tmp_path):
    names = {"val-core/x/acc/mean@8": 0.5, "val-core/x/acc/mean@1": 0.5, "val-aux/x/reward/mean@8": 0.7}
    runs = [Run(tmp_path, "a", s, {name: {0: value} for name, value in names.items()}) for s in (1, 2)]
    assert [one.name for one in held_out(runs)] == ["val-core/x/acc/mean@8"]
    fewer = Run(tmp_path, "b", 1, {"val-core/x/acc/mean@1": {0: 0.5}, "val-core/y/reward/mean@2": {0: 1.0}})
    assert [one.name for one in held_out([*runs, fewer])] == ["val-core/x/acc/mean@1", "val-core/y/reward/mean@2"]  # what all of a source have
    other = Run(tmp_path, "b", 1, {"val-core/x/reward/mean@2": {0: 0.5}})
    assert {one.name for one in held_out([*runs, other])} == {"val-core/x/acc/mean@8", "val-core/x/reward/mean@2"}


# --- Names ------------------------------------------------------------------------------------------------------------


def recorded_alike(tmp_path, folders):
    for i, name in enumerate(folders):
        record(write_run(tmp_path / name, 0.5 + 0.01 * i, seed=i), tmp_path, arm="erpo", seed=i % 3 + 1, algorithm={"erpo": {"gate": {"gamma": 1.0 + i // 3}}})
    return [tmp_path / name for name in folders]


def test_runs_with_the_same_recorded_name_take_their_folders_names(tmp_path):
    folders = recorded_alike(tmp_path, ["soft-s1", "soft-s2", "soft-s3", "hard-s1", "hard-s2"])
    report = read_report(folders)
    # The third run of `soft` clashes with nobody, and stays with its arm all the same.
    assert {arm: [run.seed for run in runs] for arm, runs in report.arms.items()} == {"soft": [1, 2, 3], "hard": [1, 2]}
    (note,) = [issue for issue in report.issues if issue.what == "names"]
    assert "erpo-s1 is soft-s1" in note.text and "erpo-s2 is hard-s2" in note.text
    assert list(read_report(folders[:3]).arms) == ["erpo"]  # where nothing clashes the record counts


def test_folders_without_a_seed_keep_the_recorded_one(tmp_path):
    assert [run.label for run in read_runs(recorded_alike(tmp_path, ["a", "b-s2", "c-s3", "d"]))] == ["a-s1", "b-s2", "c-s3", "d-s1"]


def test_the_advice_works_when_it_is_followed(tmp_path, capsys):
    for place in ("x", "y"):
        record(write_run(tmp_path / place / "a-s1", 0.5 if place == "x" else 0.6), tmp_path, arm="a", seed=1)
    folders = [str(tmp_path / place / "a-s1") for place in ("x", "y")]
    assert cli.main(["compare", *folders, "--out", str(tmp_path / "report")]) == 1
    said = capsys.readouterr().err
    assert f"{folders[0]} and {folders[1]} are both of arm 'a' with seed 1" in said
    assert cli.main(["compare", folders[0], f"{folders[0]}/", "--out", str(tmp_path / "report")]) == 1
    assert capsys.readouterr().err == f"erpo compare: {folders[0]} is given twice\n"
    source, target = re.search(r"mv (\S+) (\S+)", said).groups()
    Path(source).rename(target)
    assert cli.main(["compare", folders[0], target, "--out", str(tmp_path / "report")]) == 0
    assert "a-b against a" in capsys.readouterr().out


def test_a_primary_endpoint_without_a_pair_is_said(tmp_path, capsys):
    folders = two_arms(tmp_path)
    for folder in folders[:3]:  # a source that the other arm does not have
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        lines[-1]["data"]["val-core/other/acc/mean@2"] = 0.5
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert cli.main(["compare", *map(str, folders), "--out", str(tmp_path / "report")]) == 0
    said = capsys.readouterr().out
    assert "mean accuracy on 2 sources at equal tokens" in said and "no verdict: no pair" in said


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
    assert difference_in(report, "val-core/MATH/lvl5/acc/mean@4").paired.difference == pytest.approx(0.03)
    from erpo_verl.reports.curves import panels

    keys = [panel.key for panel, _ in panels(report.runs)]
    assert keys[:4] == ["accuracy-math-lvl5-steps", "accuracy-math-lvl5-tokens", "accuracy-arithmetic-steps", "accuracy-arithmetic-tokens"]


def test_curves_against_tokens(tmp_path):
    from erpo_verl.reports.curves import front, panels

    report = read_report(two_arms(tmp_path))
    lines = next(lines for panel, lines in panels(report.runs) if panel.key == "accuracy-arithmetic-tokens")
    assert lines[0].runs["grpo-s1"] == [(0.0, 0.25), (pytest.approx(720), 0.5)]
    assert lines[0].steps == [0, 4] and lines[0].mean[1] == (pytest.approx(720), pytest.approx(0.6))
    length, points = front(report.runs, report.comparison, held_out(report.runs)[0])
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
    assert "no held-out accuracy (val-*/<source>/acc/mean@k) or reward in c-s1" in text
    assert "no actor/entropy in c-s1" in text
    assert "actor/entropy of c-s1 has no number at step 1, 2, 3, 4 (an empty set, or not finite); left out" in text
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
    reward = endpoints.Measure("critic/score/mean", "", ".3f", ("critic/score/mean",), "tail")
    run = read_run(write_run(tmp_path / "a-s1", 0.5, steps=9))
    # Rewards are .1 x step: over the five steps up to 7 their mean is .5, over the last five .7.
    assert endpoints.value_of(run, reward, 7, None) == pytest.approx(0.5)
    assert endpoints.value_of(run, reward, 9, None) == pytest.approx(0.7)


def test_one_and_one_point_zero_are_one_setting(tmp_path):
    assert found(pair(tmp_path, {"trainer": {"x": 1}}, {"trainer": {"x": 1.0}}), NOT_COMPARABLE) == []


def test_means_are_at_steps_that_all_seeds_have(tmp_path):
    from erpo_verl.reports.curves import panels

    runs = [read_run(write_run(tmp_path / f"a-s{s}", 0.5, steps=steps, seed=s)) for s, steps in ((1, 4), (2, 6))]
    (line,) = next(lines for panel, lines in panels(runs) if panel.key == "entropy")
    assert line.steps == [1, 2, 3, 4] and [len(points) for points in line.runs.values()] == [4, 6]
    assert line.mean[1] == (2.0, pytest.approx(0.5 + 0.0015))


def test_a_line_is_broken_where_a_training_metric_has_no_number(tmp_path):
    """Null (the Accelerate engine) or absent (verl) at a training step is a gap; between validations a line goes on."""
    from erpo_verl.reports.curves import panels

    folder = write_run(tmp_path / "a-s1", 0.5, erpo=True, steps=6)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    lines[2]["data"]["erpo/cdp_entropy/mean"] = None
    del lines[5]["data"]["erpo/cdp_entropy/mean"]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = dict((panel.key, lines) for panel, lines in panels([read_run(folder)]))
    line = found["entropy-of-pivots-and-of-other-tokens"][0]
    assert line.steps == [1, 3, 4, 6] and [x for x, _ in line.drawn] == [1.0, 3.0, 3.0, 4.0, 6.0, 6.0]
    assert [math.isnan(y) for _, y in line.drawn] == [False, True, False, False, True, False]
    assert not any(math.isnan(y) for _, y in [*found["accuracy-arithmetic-steps"][0].drawn, *found["entropy-of-pivots-and-of-other-tokens"][1].drawn])


def test_charts_of_the_page_have_no_style_of_their_own_and_no_clash_of_names(tmp_path):
    """Inline SVG: colours are the page's variables, nothing reaches outside, ids are unique, what is used is there."""
    from erpo_verl.reports.page import page

    html = page(read_report(two_arms(tmp_path)))
    charts = re.findall(r"<svg .*?</svg>", html, re.DOTALL)
    assert len(charts) == 8 and not any("<style" in chart or "<metadata" in chart or "font-family" in chart for chart in charts)
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids)) and set(re.findall(r'href="#([^"]+)"', html)) <= set(ids)
    colours = set(re.findall(r"#[0-9a-f]{6}", "".join(charts)))
    assert colours <= {"#000000", "#ffffff"} and 'data-arm="1"' in charts[0]
