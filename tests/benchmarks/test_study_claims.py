"""The study's claims: which differences each needs, what its p value is, and which verdict follows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("yaml")
pytest.importorskip("torch")

from scipy.stats import ttest_rel
from test_study import kept

from benchmarks.study import __main__ as study
from benchmarks.study import claims, tables
from benchmarks.study.protocol import Protocol, Run, load

RATES = {"grpo": 3e-4, "erpo": 1.7e-4, "maxrl": 3e-4, "stare": 3e-4, "fade_60": 3e-4}
GRPO = [0.50, 0.40, 0.60, 0.55]
HIGHER = [0.56, 0.47, 0.65, 0.61]
MIXED = [0.56, 0.33, 0.65, 0.50]


def protocol(*beds: str) -> Protocol:
    return Protocol(**{**vars(load()), "chosen": {bed: RATES for bed in beds}})


def runs(folder: Path, bed: str, arm: str, accuracies: list[float], **more) -> None:
    each = {name: v if isinstance(v, list) else [v] * len(accuracies) for name, v in more.items()}
    for seed, accuracy in enumerate(accuracies):
        kept(folder, Run(bed, arm, RATES[arm], seed), accuracy, **{name: v[seed] for name, v in each.items()})


def found(folder: Path, *beds: str) -> dict[str, claims.Claim]:
    return {one.name: one for one in claims.claims(protocol(*beds), tables.read(folder), folder / claims.PIVOTS)}


def test_a_claim_on_two_beds_has_the_larger_p_of_the_two(tmp_path) -> None:
    for bed, erpo in (("arithmetic", HIGHER), ("bad_habits", [0.58, 0.47, 0.63, 0.59])):
        runs(tmp_path, bed, "grpo", GRPO)
        runs(tmp_path, bed, "erpo", erpo)
    first = found(tmp_path, "arithmetic", "bad_habits")["H1"]
    expected = [ttest_rel(other, GRPO).pvalue for other in (HIGHER, [0.58, 0.47, 0.63, 0.59])]
    assert first.p_value == pytest.approx(max(expected)) and expected[0] != pytest.approx(expected[1])
    assert first.verdict(0.04) == claims.SUPPORTED and first.verdict(0.06) == claims.NOT_SHOWN


def test_differences_of_two_directions_show_nothing_however_small_their_p(tmp_path) -> None:
    runs(tmp_path, "arithmetic", "grpo", GRPO)
    runs(tmp_path, "arithmetic", "erpo", HIGHER)
    runs(tmp_path, "bad_habits", "grpo", HIGHER)
    runs(tmp_path, "bad_habits", "erpo", GRPO)
    assert found(tmp_path, "arithmetic", "bad_habits")["H1"].p_value == 1.0


def test_worse_on_every_bed_is_refuted(tmp_path) -> None:
    runs(tmp_path, "arithmetic", "grpo", HIGHER)
    runs(tmp_path, "arithmetic", "erpo", GRPO)
    first = found(tmp_path, "arithmetic")["H1"]
    assert first.p_value == pytest.approx(ttest_rel(HIGHER, GRPO).pvalue)
    assert first.verdict(0.01) == claims.REFUTED and first.verdict(0.06) == claims.NOT_SHOWN


def test_lengths_are_compared_at_the_levels_that_both_solve(tmp_path) -> None:
    runs(tmp_path, "arithmetic", "grpo", GRPO, lengths=[{"3": 10.0, "4": 20.0}, {"3": 12.0, "4": 18.0}, {"3": 11.0}, {"3": 10.5, "4": 19.0}])
    runs(tmp_path, "arithmetic", "erpo", GRPO, lengths=[{"3": 9.0, "4": 17.0}, {"3": 10.0, "4": None}, {"3": 9.5, "4": 40.0}, {"3": 9.0, "4": 18.0}])
    part = found(tmp_path, "arithmetic")["H2"].parts[0]
    # by seed: (13 - 15), (10 - 12), (9.5 - 11), (13.5 - 14.75)
    assert part.paired.difference == pytest.approx((-2.0 - 2.0 - 1.5 - 1.25) / 4)
    assert found(tmp_path, "arithmetic")["H2"].verdict(0.01) == claims.SUPPORTED  # shorter is what is claimed


def test_the_chosen_arm_may_not_lose_coverage(tmp_path) -> None:
    runs(tmp_path, "arithmetic", "grpo", GRPO, coverage=[0.80, 0.82, 0.81, 0.79])
    runs(tmp_path, "arithmetic", "fade_60", HIGHER, coverage=[0.70, 0.73, 0.72, 0.69])
    sixth = found(tmp_path, "arithmetic")["H6"]
    assert "fade_60" in sixth.says and sixth.p_value < 0.05
    assert sixth.besides == {"pass@8 not below GRPO's on arithmetic": False} and sixth.verdict(0.01) == claims.NOT_SHOWN
    assert "but pass@8 not below GRPO's on arithmetic fails" in "\n".join(claims.markdown([sixth]))


def test_other_rates_and_pilot_seeds_have_no_say(tmp_path) -> None:
    runs(tmp_path, "arithmetic", "grpo", GRPO)
    runs(tmp_path, "arithmetic", "erpo", HIGHER)
    before = found(tmp_path, "arithmetic")["H1"].p_value
    for seed in range(4):
        kept(tmp_path, Run("arithmetic", "erpo", 9e-4, seed), 0.0)
        kept(tmp_path, Run("arithmetic", "erpo", RATES["erpo"], 100 + seed), 0.0)
    assert found(tmp_path, "arithmetic")["H1"].p_value == before


def test_what_is_not_measured_has_no_verdict_and_no_part_in_the_correction(tmp_path) -> None:
    runs(tmp_path, "arithmetic", "grpo", GRPO, entropy=[0.1, 0.2, 0.1, 0.2])
    runs(tmp_path, "arithmetic", "erpo", HIGHER, entropy=[0.2, 0.31, 0.2, 0.32], coverage=[0.6, 0.61, 0.62, 0.6],
         lengths=[{"3": 9.0}, {"3": 9.1}, {"3": 9.0}, {"3": 9.2}])  # fmt: skip
    listed = found(tmp_path, "arithmetic")
    assert listed["H5"].p_value is None and listed["H6"].p_value is None
    text = claims.markdown(list(listed.values()))
    assert [line.endswith("**not measured** |") for line in text[2:]] == [False, False, False, False, True, True]
    folder = tmp_path / claims.PIVOTS / "start"
    folder.mkdir(parents=True)
    test = {"difference": 0.02, "low": 0.01, "high": 0.03, "p": 0.001, "problems": 64}
    (folder / "figures.json").write_text(json.dumps({"other draw": {"test": test}}))
    assert found(tmp_path, "arithmetic")["H5"].p_value == 0.001


def test_the_report_ends_with_tables_and_begins_with_verdicts(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(study, "load", lambda: protocol("arithmetic"))
    runs(tmp_path, "arithmetic", "grpo", GRPO)
    runs(tmp_path, "arithmetic", "erpo", MIXED)
    assert study.main(["--tables", "--keep", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert text.index("### The claims") < text.index("### arithmetic")
    assert "| H1: ERPO is more accurate than GRPO at equal generated tokens | arithmetic, accuracy: " in text
