"""Files that are whole or not there, whatever happens to the process or the disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from erpo_verl.runs.files import partial_path, remove_partials, whole, whole_together, write_whole


def test_text_bytes_and_folders_that_are_missing(tmp_path):
    assert write_whole(tmp_path / "a" / "b" / "text", "größer\n").read_bytes() == "größer\n".encode()
    assert write_whole(tmp_path / "bytes", b"\0\1", sync=True).read_bytes() == b"\0\1"
    assert sorted(os.listdir(tmp_path)) == ["a", "bytes"]


def test_an_error_leaves_what_was_there(tmp_path):
    write_whole(tmp_path / "x", "old")
    with pytest.raises(KeyError), whole(tmp_path / "x") as partial:
        partial.write_text("new")
        raise KeyError
    with pytest.raises(OSError):
        write_whole(tmp_path / "x" / "not a folder", "new")
    assert (tmp_path / "x").read_text() == "old" and os.listdir(tmp_path) == ["x"]


def test_a_full_disk_leaves_what_was_there(tmp_path):
    code = """
import resource, signal, sys
from pathlib import Path
from erpo_verl.runs.files import write_whole
write_whole(Path(sys.argv[1]), "old")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_whole(Path(sys.argv[1]), b"x" * 5000)
except OSError as error:
    print("refused", error.errno)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x")], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("refused"), done.stderr
    assert (tmp_path / "x").read_text() == "old" and os.listdir(tmp_path) == ["x"]


def test_several_files_are_complete_before_the_first_has_its_name(tmp_path):
    paths = [tmp_path / "a", tmp_path / "b"]
    with pytest.raises(FileNotFoundError), whole_together(paths) as (first, _second):
        first.write_text("1")  # the second was never written: its renaming fails, after the first's
        assert not paths[0].exists()
        raise FileNotFoundError
    assert os.listdir(tmp_path) == []
    with whole_together(paths, sync=True) as partials:
        for partial in partials:
            partial.write_text(partial.name)
        assert not any(path.exists() for path in paths)
    assert [path.read_text() for path in paths] == [partial.name for partial in partials]


def test_what_killed_processes_left_is_removed(tmp_path):
    code = (
        "import os, signal, sys, pathlib\nfrom erpo_verl.runs.files import whole\n"
        "with whole(pathlib.Path(sys.argv[1])) as partial:\n"
        "    partial.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x")], timeout=60)
    assert done.returncode == -signal.SIGKILL and len(os.listdir(tmp_path)) == 1
    living = partial_path(tmp_path / "mine")
    living.mkdir()
    (tmp_path / ".x.partial-notes").write_text("somebody else's")
    remove_partials(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [living.name, ".x.partial-notes"]
    remove_partials(tmp_path, of_living=True)
    assert os.listdir(tmp_path) == [".x.partial-notes"]
    remove_partials(tmp_path / "missing")
