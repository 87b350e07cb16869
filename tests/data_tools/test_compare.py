"""`erpo compare`: hand-computed differences and intervals, real figures, clear errors."""

from __future__ import annotations

import json
import math

import pytest

from erpo_verl import cli
from erpo_verl.reports import compare
from erpo_verl.reports.runs import read_run


def write_run(folder, accuracy, erpo=False, steps=4):
    folder.mkdir()
    lines = [{"step": 0, "data": {"val-core/arithmetic/acc/mean@2": 0.25}}]
    for step in range(1, steps + 1):
        data = {"critic/score/mean": 0.1 * step, "response_length/mean": 20 + step, "actor/entropy": 1.0 / step}
        if erpo:
            data |= {"erpo/cdp_entropy/mean": 1.2, "erpo/non_cdp_entropy/mean": 0.1, "erpo/cdp_advantage_share/mean": 0.9}
        if step == steps:
            data["val-core/arithmetic/acc/mean@2"] = accuracy
        lines.append({"step": step, "data": data | {"perf/total_num_tokens": 1e6}})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def runs(tmp_path):
    grpo = [write_run(tmp_path / f"grpo-s{s}", a) for s, a in ((1, 0.50), (2, 0.60), (3, 0.70))]
    erpo = [write_run(tmp_path / f"erpo-s{s}", a, erpo=True) for s, a in ((1, 0.53), (2, 0.62), (3, 0.74))]
    return [*grpo, *erpo]


def test_paired_difference_by_hand():
    mean, half, n = compare.paired_difference({"1": 0.50, "2": 0.60, "3": 0.70}, {"1": 0.53, "2": 0.62, "3": 0.74, "9": 5})
    # differences .03 .02 .04: mean .03, sd .01; t(0.975, 2) = 4.302653
    assert n == 3 and mean == pytest.approx(0.03)
    assert half == pytest.approx(4.302653 * 0.01 / math.sqrt(3), rel=1e-6)


def test_one_seed_has_no_interval():
    assert compare.paired_difference({"1": 0.5}, {"1": 0.6})[1:] == (None, 1)
    assert math.isnan(compare.paired_difference({"1": 0.5}, {"2": 0.6})[0])


def test_table(runs):
    text = compare.table([read_run(r) for r in runs])
    assert "| grpo | 3 | 0.250 ± 0.000 | 0.600 ± 0.100 | +0.350 ± 0.100 |" in text
    assert "erpo against grpo, held-out end: +0.030, 95% interval [+0.005, +0.055], 3 paired seeds" in text
    assert "| 4.00 ± 0.00 |" in text  # million tokens


def test_noise_is_called_noise(tmp_path):
    runs = [write_run(tmp_path / f"a-s{s}", x) for s, x in ((1, 0.5), (2, 0.6))]
    runs += [write_run(tmp_path / f"b-s{s}", x) for s, x in ((1, 0.7), (2, 0.5))]
    assert "not distinguishable from noise" in compare.table([read_run(r) for r in runs])


def test_report_files(runs, tmp_path, capsys):
    from PIL import Image

    assert cli.main(["compare", *map(str, runs), "--out", str(tmp_path / "report")]) == 0
    picture = Image.open(tmp_path / "report" / "comparison.png").convert("RGB")
    assert picture.width > 1000 and len(picture.getcolors(1 << 20)) > 50  # something is drawn
    assert (tmp_path / "report" / "comparison.svg").read_text().lstrip().startswith("<?xml")
    assert (tmp_path / "report" / "comparison.md").read_text() in capsys.readouterr().out


def test_runs_of_different_length_are_called_so(tmp_path):
    runs = [write_run(tmp_path / "a", 0.5), write_run(tmp_path / "b", 0.5, steps=7)]
    assert "not comparable" in compare.table([read_run(r) for r in runs])


@pytest.mark.parametrize(
    ("content", "expected"),
    [(None, "missing"), ("", "no metrics"), ('{"step": 1, "data": {}}\nnonsense\n', "line 2"), ('{"data": {}}\n', "line 1")],
)
def test_bad_runs(tmp_path, capsys, content, expected):
    folder = tmp_path / "run"
    folder.mkdir()
    if content is not None:
        (folder / "metrics.jsonl").write_text(content)
    assert cli.main(["compare", str(folder), "--out", str(tmp_path / "report")]) == 1
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def test_the_same_seed_twice_is_refused(runs):
    with pytest.raises(ValueError, match="same seed"):
        compare.by_arm([read_run(runs[0]), read_run(runs[0])])
