"""Damaged sources, disks that refuse, and kills: an error that names the place, and never half a file."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erpo_verl import cli
from erpo_verl.data.convert import convert
from erpo_verl.data.output import parquet_bytes, verl_rows
from erpo_verl.data.rules import DROPS
from erpo_verl.data.sets import SETS
from erpo_verl.data.templates import TEMPLATES


def big_rows(count: int) -> list[dict]:
    return [{"question": f"What is {i} times {i + 1}, and {hashlib.sha256(str(i).encode()).hexdigest()}?", "answer": f"#### {i}"} for i in range(count)]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("no.jsonl", None, "no such file"),
        ("bad.jsonl", b'{"question": "a", "answer": "#### 1"}\n{nonsense\n', "line 2"),
        ("bytes.jsonl", b'{"question": "a", "answer": "#### 1"}\n\n{"question": "\xff\xfe"}\n', "line 3"),
        ("cut.jsonl", b'{"question": "a", "answer": "#### 1"}\n{"question": "b", "ans', "line 2"),
        ("list.jsonl", b"[1, 2]\n", "line 1"),
        ("deep.jsonl", b'{"a":' + b"[" * 100_000 + b"\n", "line 1"),
        ("rows.json", b'[{"question": "a", "answer": "#### 1"}, 7]', "row 1"),
        ("bad.parquet", b"not parquet", "not readable as parquet"),
        ("empty.parquet", b"", "not readable as parquet"),
        ("empty.jsonl", b"", "none of its 0 rows"),
        ("wrong.txt", b"x", ".parquet or .jsonl"),
        ("none.jsonl", b'{"question": "a", "answer": "b"}\n', "none of its 1 rows"),
        ("columns.jsonl", b'{"text": "a", "label": "b"}\n', "no problem in the columns"),
    ],
)
def test_bad_sources(tmp_path, capsys, name, content, expected):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    out = tmp_path / "out"
    assert cli.main(["prepare", "gsm8k", "--source", str(tmp_path / name), "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert expected in error and name in error and len(error.strip().splitlines()) == 1
    assert not out.exists()


def test_a_list_of_objects_and_odd_line_ends_are_read(tmp_path):
    """U+2028 and a form feed inside a string end no line; a blank line is none."""
    path = tmp_path / "in.jsonl"
    path.write_bytes('{"question": "one\u2028two", "answer": "#### 1"}\r\n\n{"question": "b", "answer": "#### 2"}'.encode())
    assert cli.main(["prepare", "gsm8k", "--source", str(path), "--out", str(tmp_path / "a")]) == 0
    listed = tmp_path / "in.json"
    listed.write_text(json.dumps([{"question": "one\ntwo", "answer": "1"}, {"question": "b", "answer": "2"}], indent=1))
    assert cli.main(["prepare", "gsm8k", "--source", str(listed), "--out", str(tmp_path / "b")]) == 0
    tables = [pq.read_table(tmp_path / name / "train.parquet").to_pylist() for name in "ab"]
    assert [row["prompt"] for row in tables[0]] == [row["prompt"] for row in tables[1]]


@pytest.mark.parametrize("share", [0.2, 0.6, 0.99])
def test_truncated_parquet(tmp_path, capsys, share):
    path = tmp_path / "cut.parquet"
    pq.write_table(pa.Table.from_pylist(big_rows(500)), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    assert cli.main(["prepare", "gsm8k", "--source", str(path), "--out", str(tmp_path / "out")]) == 1
    assert "cut.parquet" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_parquet_with_damaged_pages(tmp_path, capsys):
    """The footer is whole, the last third of the data is not: the error says how far the file could be read."""
    path = tmp_path / "pages.parquet"
    pq.write_table(pa.Table.from_pylist(big_rows(20_000)), path, row_group_size=4000, compression="snappy")
    data = bytearray(path.read_bytes())
    start = int(len(data) * 0.7)
    data[start : start + 5000] = b"\xff" * 5000
    path.write_bytes(data)
    assert cli.main(["prepare", "gsm8k", "--source", str(path), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "unreadable behind row" in error and int(error.split("behind row ")[1].split(":")[0]) >= 8000
    assert not (tmp_path / "out").exists()


@pytest.fixture
def source(tmp_path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in big_rows(3000)))
    return path


def command(source: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "erpo_verl.cli", "prepare", "gsm8k", "--source", str(source), "--out", str(out)]


def test_a_folder_that_cannot_be_made(source, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert cli.main(["prepare", "gsm8k", "--source", str(source), "--out", str(tmp_path / "file" / "out")]) == 1
    error = capsys.readouterr().err
    assert "cannot be written" in error and "Not a directory" in error


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no folder here in which even root may not write")
def test_a_folder_that_refuses(source, capsys):
    assert cli.main(["prepare", "gsm8k", "--source", str(source), "--out", "/proc/self"]) == 1
    assert "cannot be written" in capsys.readouterr().err


def _small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


def test_a_disk_that_is_full(source, tmp_path):
    """A limit on file size stops the write in the middle, as a full disk does; an older result stays."""
    out = tmp_path / "out"
    done = subprocess.run(command(source, out), preexec_fn=_small_files, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "cannot be written" in done.stderr and "Traceback" not in done.stderr
    assert not out.exists()
    subprocess.run(command(source, out), check=True, capture_output=True, timeout=60)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    done = subprocess.run(command(source, out), preexec_fn=_small_files, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and {path.name: path.read_bytes() for path in out.iterdir()} == before


KILLED_AT_RENAME = """
import os, signal, sys
from erpo_verl import cli
left = int(sys.argv[1])
def hook(event, args):
    global left
    if event == "os.rename":
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
cli.main(["prepare", "gsm8k", "--source", sys.argv[2], "--out", sys.argv[3]])
"""


@pytest.mark.parametrize("renamed", [0, 1])
def test_killed_outright_at_the_worst_moment(source, tmp_path, renamed):
    """SIGKILL when both files are written and none, or one, has its name; the next run tidies up."""
    out = tmp_path / "out"
    done = subprocess.run([sys.executable, "-c", KILLED_AT_RENAME, str(renamed), str(source), str(out)], timeout=60)
    assert done.returncode == -signal.SIGKILL
    there = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
    assert there == ["train.parquet"][:renamed]
    if renamed:
        assert pq.read_table(out / "train.parquet").num_rows == 3000
    assert any(".partial-" in path.name for path in out.iterdir())
    subprocess.run(command(source, out), check=True, capture_output=True, timeout=60)
    assert sorted(path.name for path in out.iterdir()) == ["train.json", "train.parquet"]
    record = json.loads((out / "train.json").read_text())
    assert record["file_sha256"] == hashlib.sha256((out / "train.parquet").read_bytes()).hexdigest()


@pytest.mark.parametrize("signal_", [signal.SIGTERM, signal.SIGINT])
def test_stopped_while_it_reads(tmp_path, signal_):
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in big_rows(60_000)))
    out = tmp_path / "out"
    process = subprocess.Popen(command(path, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and str(path) not in _open_files(process.pid):
        time.sleep(0.005)
    process.send_signal(signal_)
    assert process.wait(timeout=60) != 0
    assert not out.exists() or not list(out.iterdir())


def _open_files(pid: int) -> list[str]:
    try:
        return [os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")]
    except OSError:
        return []


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters(), max_size=12),
    st.sampled_from(["#### 4", r"\boxed{3}", '["1"]', "007", "1,2", "\x0crac12", "Level 5", "\ud800", "12 apples", "\u0663"]),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["target", "content", "role", "ground_truth", "index", "x"]), inner, max_size=3),
        st.builds(lambda text: [{"role": "user", "content": text}], inner),
    ),
    max_leaves=5,
)
COLUMNS = ["problem", "question", "prompt", "answer", "final_answer", "reward_model", "extra_info", "level", "type", "unit", "id"]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(SETS)), st.lists(st.dictionaries(st.sampled_from(COLUMNS), VALUES), max_size=4))
def test_any_row_is_kept_or_dropped_by_a_rule(name, rows):
    """Whatever stands in the columns: each row is counted once, and what is kept can be written."""
    result = convert(rows, SETS[name], duplicates="keep")
    assert set(result.dropped) <= set(DROPS)
    assert result.rows_in == len(rows) == len(result.problems) + sum(found.count for found in result.dropped.values())
    assert all(problem.text.strip() and problem.gold.strip() for problem in result.problems)
    written = parquet_bytes(list(verl_rows(result.problems, name, "train", TEMPLATES["boxed"])))
    table = pq.read_table(pa.BufferReader(written))
    assert table.column("data_source").to_pylist() == [name] * len(result.problems)
