"""W&B: real offline files are read, damaged ones are named; a report is built without a connection and never sent without an account."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
from reports_runs import ACC, two_arms, write_run

from erpo_verl.reports.compare import read_report
from erpo_verl.reports.runs import read_run
from erpo_verl.reports.wandb_files import find_files, read_offline_run

pytest.importorskip("wandb")

SCRIPT = """
import sys, wandb
config = {"trainer": {"experiment_name": "erpo-s7"}, "algorithm.erpo.gate.gamma": 5}
for start in (0, 3):  # stopped after step 2, and gone on with under the same id
    run = wandb.init(project="p", name="shown", id="abc", resume="allow", dir=sys.argv[1], config=config)
    for step in range(start, start + 3):
        run.log({"critic/score/mean": 0.5 * step, "nested": {"x": step}, "long/" + "n" * 40000: 1.0, "text": "no number"}, step=step)
    run.finish()
"""


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wandb_run")
    environment = {**os.environ, "WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_CONFIG_DIR": str(folder / "c"), "WANDB_CACHE_DIR": str(folder / "c")}
    environment.pop("WANDB_DIR", None)
    subprocess.run([sys.executable, "-c", SCRIPT, str(folder)], check=True, env=environment, cwd=folder, timeout=300)
    return folder


def test_offline_run(offline):
    files = find_files(offline)
    assert len(files) == 2
    found = read_offline_run(files)
    assert found.name == "shown" and found.project == "p"
    assert found.config == {"trainer": {"experiment_name": "erpo-s7"}, "algorithm.erpo.gate.gamma": 5}
    assert [(step, data["critic/score/mean"], data["nested.x"]) for step, data in found.history] == [(i, 0.5 * i, i) for i in range(6)]


def test_offline_run_as_a_run(offline):
    run = read_run(offline)
    assert (run.arm, run.seed) == ("erpo", 7)
    assert run.series["critic/score/mean"] == {i: 0.5 * i for i in range(6)} and "text" not in run.series
    assert run.record["config"]["algorithm"]["erpo"]["gate"]["gamma"] == 5
    one = find_files(offline)[0]
    assert read_run(one).series == read_run(one.parent).series and len(read_run(one).series["critic/score/mean"]) == 3


def test_cut_off_and_damaged_files(offline, tmp_path):
    whole = find_files(offline)[0].read_bytes()
    cut, damaged, other = (tmp_path / f"{name}.wandb" for name in ("cut", "damaged", "other"))
    cut.write_bytes(whole[: len(whole) * 2 // 3])
    found = read_offline_run([cut]).history
    assert found and len(found) < 3 and found[0][1]["critic/score/mean"] == 0
    damaged.write_bytes(whole[:60] + bytes([whole[60] ^ 255]) + whole[61:])
    with pytest.raises(ValueError, match="damaged at byte"):
        read_offline_run([damaged])
    other.write_text("something else")
    with pytest.raises(ValueError, match="not a file of W&B"):
        read_offline_run([other])


def test_several_runs_in_a_folder(offline, tmp_path):
    for name in ("offline-run-1-a", "offline-run-2-b"):
        (tmp_path / "wandb" / name).mkdir(parents=True)
        shutil.copy(find_files(offline)[0], tmp_path / "wandb" / name / f"run-{name[-1]}.wandb")
    with pytest.raises(ValueError, match="holds several W&B runs"):
        read_run(tmp_path)


# --- The report -------------------------------------------------------------------------------------------------------


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No account: neither a key nor a netrc file."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))


def test_report_holds_our_panels_and_run_sets(tmp_path):
    pytest.importorskip("wandb_workspaces")
    from erpo_verl.reports.wandb_report import build

    report = read_report(two_arms(tmp_path))
    spec = json.loads(build(report, "someone", "somewhere")._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))
    grids = [block["metadata"] for block in spec["blocks"] if block["type"] == "panel-grid"]
    metrics = [metric for grid in grids for panel in grid["panelBankSectionConfig"]["panels"] for metric in panel["config"]["metrics"]]
    assert metrics == [
        ACC, "critic/score/mean", "response_length/mean", "actor/entropy", "erpo/cdp_advantage_share/mean", "erpo/cdp_entropy/mean",
        "erpo/non_cdp_entropy/mean",
    ]  # fmt: skip
    for grid in grids:
        names = {one["name"]: one["filters"]["filters"][0]["value"] for one in grid["runSets"]}
        assert names == {"grpo": ["grpo-s1", "grpo-s2", "grpo-s3"], "erpo": ["erpo-s1", "erpo-s2", "erpo-s3"]}
    assert "+0.030 | [+0.005, +0.055]" in json.dumps(spec)


def test_nothing_is_sent_without_an_account(tmp_path, nowhere, capsys):
    pytest.importorskip("wandb_workspaces")
    from erpo_verl import cli

    folders = [write_run(tmp_path / "a-s1", 0.5), write_run(tmp_path / "b-s1", 0.6, seed=1)]
    before = {path for path in tmp_path.rglob("*")}
    assert cli.main(["compare", *map(str, folders), "--out", str(tmp_path / "out"), "--wandb", "--project", "me/p"]) == 1
    captured = capsys.readouterr()
    assert "not logged in" in captured.err and "Nothing was sent" in captured.err
    assert str(tmp_path / "out" / "comparison.html") in captured.out  # the page is there all the same
    assert not [path for path in set(tmp_path.rglob("*")) - before if "out" not in path.parts]


def test_refusals_before_anything_is_sent(tmp_path, nowhere, monkeypatch):
    pytest.importorskip("wandb_workspaces")
    from erpo_verl.reports.wandb_report import WandbError, build, project_of, save

    report = read_report([write_run(tmp_path / "a-s1", 0.5)])
    assert project_of(report, "me/p") == ("me", "p") and project_of(report, "p") == ("", "p")
    with pytest.raises(WandbError, match="--project"):
        save(report, None)
    with pytest.raises(WandbError, match="--project"):
        save(report, "me/")
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(WandbError, match="WANDB_MODE=offline"):
        save(report, "me/p")
    with pytest.raises(WandbError, match="quote"):
        build(read_report([write_run(tmp_path / "it's-s1", 0.5)]), "me", "p")
