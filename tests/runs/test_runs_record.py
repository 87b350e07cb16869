"""`run.json`: what is recorded, and that it is recorded whole."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib import metadata

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from erpo_verl.runs.record import RECORD, read_record, write_record
from erpo_verl.runs.versions import version
from erpo_verl.verl_cpu.launch import settings_of


def write(folder, **changes):
    given = {
        "engine": "accelerate", "arm": "erpo", "seed": 3, "config": {"a": {"b": None}}, "data_files": {}, "model_path": "none",
        "versions": {},
    }  # fmt: skip
    return write_record(folder, **{**given, **changes})


def test_contents(tmp_path):
    table = tmp_path / "train.parquet"
    parquet.write_table(pa.table({"x": [1, 2, 3]}), table)
    lines = tmp_path / "val.jsonl"
    lines.write_bytes(b"{}\n{}\n")
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "notes.md").write_text("does not count")
    path = write(
        tmp_path, data_files={"train": [str(table)], "val": str(lines), "test": None}, model_path=model, versions={"numpy": version("numpy"), "no-such-package": version("no-such-package")}
    )
    found = read_record(tmp_path)
    assert found == json.loads(path.read_text()) and path.name == RECORD
    assert (found["engine"], found["arm"], found["seed"], found["config"]) == ("accelerate", "erpo", 3, {"a": {"b": None}})
    train, val = found["data"]
    assert train == {
        "split": "train", "path": str(table), "bytes": table.stat().st_size, "rows": 3,
        "sha256": hashlib.sha256(table.read_bytes()).hexdigest(),
    }  # fmt: skip
    assert (val["rows"], val["sha256"]) == (2, hashlib.sha256(b"{}\n{}\n").hexdigest())
    expected = hashlib.sha256(b"config.json\x002\x00" + hashlib.sha256(b"{}").digest()).hexdigest()
    assert found["model"] == {"path": str(model), "sha256": expected, "hash": "whole", "revision": None}
    assert found["versions"] == {"numpy": metadata.version("numpy"), "no-such-package": None}
    assert found["python"] == platform.python_version() and found["machine"]["cores"] > 0


def test_other_weights_are_another_model(tmp_path):
    hashes = []
    for content in ("one", "two", "one"):
        (tmp_path / "model.safetensors").write_text(content)
        out = tmp_path / "run"
        out.mkdir(exist_ok=True)
        write(out, model_path=tmp_path)
        hashes.append(read_record(out)["model"]["sha256"])
    assert hashes[0] == hashes[2] != hashes[1]


def test_large_weights_are_hashed_by_samples(tmp_path, monkeypatch):
    from erpo_verl.runs import record

    monkeypatch.setattr(record, "_WHOLE_UP_TO", 10)
    monkeypatch.setattr(record, "_BLOCK", 4)
    model = tmp_path / "model"
    model.mkdir()
    weights = bytearray(range(256)) * 4
    (model / "model.safetensors").write_bytes(weights)
    write(tmp_path, model_path=model)
    before = read_record(tmp_path)["model"]
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    write(tmp_path, model_path=model)
    assert before["hash"] == "sampled" and read_record(tmp_path)["model"]["sha256"] != before["sha256"]


def test_hub_name_with_its_cached_revision(tmp_path, monkeypatch):
    ref = tmp_path / "models--org--name" / "refs" / "main"
    ref.parent.mkdir(parents=True)
    ref.write_text("abc123\n")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    write(tmp_path, model_path="org/name")
    assert read_record(tmp_path)["model"] == {"path": "org/name", "sha256": None, "hash": None, "revision": "abc123"}


def test_missing_data_file_is_recorded_as_such(tmp_path):
    write(tmp_path, data_files={"train": [str(tmp_path / "none.parquet")]})
    (entry,) = read_record(tmp_path)["data"]
    assert entry["sha256"] is None and entry["path"].endswith("none.parquet")


def test_failed_write_leaves_the_old_record(tmp_path):
    write(tmp_path, arm="old")
    with pytest.raises(UnicodeEncodeError):
        write(tmp_path, arm="\ud800")  # a lone surrogate is no text
    assert read_record(tmp_path)["arm"] == "old" and [p.name for p in tmp_path.iterdir()] == [RECORD]


@pytest.mark.parametrize("changes", [{"engine": ""}, {"arm": ""}])
def test_names_are_needed(tmp_path, changes):
    with pytest.raises(ValueError, match="needs an engine and an arm"):
        write(tmp_path, **changes)


@pytest.mark.parametrize(
    ("content", "expected"), [("{", "not JSON"), ("[]", "'engine'"), ('{"engine": 3}', "'engine'"), ('{"engine": "x", "arm": "y"}', "'config'")]
)
def test_bad_record_is_named(tmp_path, content, expected):
    (tmp_path / RECORD).write_text(content)
    with pytest.raises(ValueError, match=expected):
        read_record(tmp_path)


def test_no_record(tmp_path):
    assert read_record(tmp_path) is None


def test_settings_from_hydra_overrides():
    given = ["+a.b=1", "a.c=[x, y]", "++a.d=null", "~a.b", "e=${a.d}", "f={a:b", "a.c=2.5", "plain", "g.h=true", "g=3", "g.i=x=y"]
    assert settings_of(given) == {"a": {"c": 2.5, "d": None}, "e": "${a.d}", "f": "{a:b", "g": {"i": "x=y"}}
