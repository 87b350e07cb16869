"""The command as a user runs it: files, resuming, refusals, a custom reward, the page."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("math_verify")
pq = pytest.importorskip("pyarrow.parquet")

from erpo_verl import cli  # noqa: E402
from erpo_verl.pivots import measure  # noqa: E402
from examples.arithmetic import prepare, warm_start  # noqa: E402

TINY = warm_start.Settings(steps=60, batch=16, layers=1, hidden=64, intermediate=64, warmup_steps=5, levels=(3,))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "reports"))


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pivots")
    warm_start.make(folder / "model", TINY, eval_problems=2, quiet=True)
    prepare.write(folder / "data", {"test": 6}, levels=(3,))
    return folder


def arguments(place: Path, out: Path, *more: str) -> list[str]:
    return [
        "pivots", "--model", str(place / "model"), "--data", str(place / "data" / "test.parquet"), "--out", str(out), "--engine", "hf",
        "--responses", "3", "--sites", "2", "--n", "2", "--shown", "1", "--shown-tokens", "8", "--max-tokens", "20", "--problems-at-once", "2",
        "--quiet", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def done(place) -> Path:
    assert cli.main(arguments(place, place / "done")) == 0
    return place / "done"


def test_it_leaves_branches_figures_charts_and_a_page(done) -> None:
    names = {path.name for path in done.iterdir()} - {".lock"}
    assert names == {"settings.json", "problems.jsonl", "branches.parquet", "figures.json", "report.md", "page.html", "sensitivity.svg", "windows.svg"}
    lines = measure.read_lines(done)
    assert len(lines) == 6 and all(len(line["responses"]) == 3 for line in lines)
    rows = pq.read_table(done / "branches.parquet").to_pylist()
    assert {row["branch"] for row in rows} == {"other draw", "second choice"}
    assert len(rows) * 3 == sum(len(line["branches"]) for line in lines) * 2
    figures = json.loads((done / "figures.json").read_text())
    assert figures["settings"]["n"] == 2 and set(figures["other draw"]["kinds"]) >= {"pivot", "low", "random"}
    assert "of the outcome's variance" in (done / "report.md").read_text()
    shown = [row for row in rows if row["site"] == "shown"]
    assert {row["problem"] for row in shown} == {lines[3]["id"]} and len({row["response"] for row in shown}) <= 2


@pytest.mark.e2e
def test_vllm_samples_and_continues(place, tmp_path) -> None:
    """The other engine, with more tokens to prefill at once than vLLM takes in one pass on a CPU."""
    pytest.importorskip("vllm")
    command = arguments(place, tmp_path / "out", "--n", "40", "--problems-at-once", "6")
    command[command.index("hf")] = "vllm"
    ran = subprocess.run([sys.executable, "-m", "erpo_verl.cli", *command], capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr[-3000:]
    lines = measure.read_lines(tmp_path / "out")
    assert len(lines) == 6 and all(len(line["responses"]) == 3 for line in lines)
    rows = pq.read_table(tmp_path / "out" / "branches.parquet").to_pylist()
    assert len(rows) * 3 == sum(len(line["branches"]) for line in lines) * 2
    assert {row["branch"] for row in rows} == {"other draw", "second choice"}
    assert json.loads((tmp_path / "out" / "figures.json").read_text())["settings"]["engine"] == "vllm"


def test_a_second_call_makes_only_the_report_again(done, place, monkeypatch) -> None:
    monkeypatch.setattr("erpo_verl.pivots.command._measurer", lambda *a: pytest.fail("nothing is left to measure"))
    before = (done / "figures.json").read_bytes()
    assert cli.main(arguments(place, done)) == 0
    assert (done / "figures.json").read_bytes() == before


def test_an_interrupted_measurement_goes_on_and_ends_up_the_same(done, place, tmp_path, monkeypatch, capsys) -> None:
    real, calls = measure.append, []

    def interrupted(folder, lines):
        calls.append(1)
        if len(calls) == 2:
            with open(folder / measure.LINES, "ab") as file:
                file.write(json.dumps(lines[0]).encode()[:40])  # torn
            raise KeyboardInterrupt
        real(folder, lines)

    monkeypatch.setattr(measure, "append", interrupted)
    assert cli.main(arguments(place, tmp_path / "out")) == 130
    assert "goes on from there" in capsys.readouterr().err
    monkeypatch.setattr(measure, "append", real)
    assert cli.main(arguments(place, tmp_path / "out")) == 0
    assert (tmp_path / "out" / measure.LINES).read_bytes() == (done / measure.LINES).read_bytes()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--n", "1"], "--n 1: must be >= 2"),
        (["--responses", "1"], "--responses 1: must be >= 2"),
        (["--temperature", "0"], "--temperature 0.0: must be > 0"),
        (["--top-p", "0"], "--top-p 0.0"),
        (["--model", "nowhere"], "--model nowhere: no such folder"),
        (["--data", "nowhere.parquet"], "nowhere.parquet: no such file"),
        (["--max-tokens", "100000"], "--max-tokens 100000"),
        (["--reward", "nowhere.py"], "nowhere.py: no such file"),
        (["--reward-name", "nothing"], "nothing"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(place, tmp_path, capsys, more, message) -> None:
    assert cli.main(arguments(place, tmp_path / "out", *more)) == 1
    told = capsys.readouterr().err.strip()
    assert message in told and told.startswith("erpo pivots: ") and "Traceback" not in told
    assert not (tmp_path / "out" / "settings.json").exists()


def test_other_settings_and_other_folders_are_refused(done, place, tmp_path, capsys) -> None:
    assert cli.main(arguments(place, done, "--n", "3")) == 1
    assert "n: 2 there, 3 now" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    assert cli.main(arguments(place, tmp_path / "mine")) == 1
    assert "holds other things" in capsys.readouterr().err and [p.name for p in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_a_damaged_line_is_named(place, tmp_path, done, capsys) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in ("settings.json", measure.LINES):
        (out / name).write_bytes((done / name).read_bytes())
    data = (out / measure.LINES).read_bytes().split(b"\n")
    (out / measure.LINES).write_bytes(b"\n".join([data[0], b"{", *data[2:]]))
    assert cli.main(arguments(place, out)) == 1
    assert "line 2: damaged" in capsys.readouterr().err


def test_a_reward_of_ones_own_decides_what_is_right(place, tmp_path) -> None:
    (tmp_path / "reward.py").write_text("def score(data_source, solution_str, ground_truth, extra_info):\n    return float(len(solution_str) % 2)\n")
    out = tmp_path / "out"
    assert cli.main(arguments(place, out, "--reward", str(tmp_path / "reward.py"), "--reward-name", "score", "--limit", "2")) == 0
    for line in measure.read_lines(out):
        for branch in line["branches"]:
            assert branch["answers"] == [str(x) for x in branch["right"]]
    assert any(1.0 in branch["right"] for line in measure.read_lines(out) for branch in line["branches"])


def test_the_page_in_a_browser(done, tmp_path) -> None:
    from reports_browser import CHROMIUM, Browser

    if not CHROMIUM:
        pytest.skip("no Chromium here")
    with Browser() as browser:
        browser.open(done / "page.html")
        assert browser.complaints() == [] and browser.requests() == [(done / "page.html").resolve().as_uri()]
        assert browser.js("document.querySelectorAll('.tokens').length") >= 1
        assert browser.js("document.querySelector('button[data-mode=part]').getAttribute('aria-pressed')") == "true"
        browser.js("document.querySelector('button[data-mode=chance]').click()")
        assert "model goes on" in browser.js("document.querySelector('.about').textContent")
        browser.js("document.querySelector('.tokens span').dispatchEvent(new PointerEvent('pointerover', {bubbles: true}))")
        assert "chance of a right answer" in browser.js("document.querySelector('.tip').textContent")
        browser.open(done / "page.html", width=380, height=800)
        assert browser.js("document.documentElement.scrollWidth") <= 380


def test_hostile_text_stays_text(done, tmp_path) -> None:
    from erpo_verl.pivots import report

    lines = measure.read_lines(done)
    lines[3]["prompt"] = "<script>alert(1)</script>"
    for response in lines[3]["responses"]:
        response["answer"] = "</script><img src=x>"
        response["pieces"] = ["<b>"] * len(response["tokens"])
    settings = json.loads((done / "settings.json").read_text())
    report.write(tmp_path, lines, settings)
    page = (tmp_path / "page.html").read_text()
    assert "<script>alert" not in page and "<img" not in page and "&lt;b&gt;" in page
