"""The arithmetic example's tokenizer, model folder, parquet files, reward, warm start and evaluation."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # `examples` is not installed with the package

pq = pytest.importorskip("pyarrow.parquet")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("math_verify")

from examples.arithmetic import evaluate, prepare, warm_start  # noqa: E402
from examples.arithmetic.task import Fork, Habits, Problem, chain, problems, split_of  # noqa: E402
from examples.arithmetic.tokenizer import CHARACTERS, build_tokenizer, chat  # noqa: E402
from examples.tiny.model import build_model  # noqa: E402

TINY = warm_start.Settings(steps=40, batch=16, layers=1, hidden=64, intermediate=64, warmup_steps=5, levels=(3, 4))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """Saved and loaded again, as verl and vLLM meet it."""
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer().save_pretrained(folder)
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def start_policy(tmp_path_factory):
    """(folder, record) of a warm start of seconds."""
    out = tmp_path_factory.mktemp("models") / "tiny"
    return out, warm_start.make(out, TINY, eval_problems=8, quiet=True)


# Tokenizer and model


def test_text_survives_the_tokenizer(tokenizer) -> None:
    rng = random.Random(0)
    texts = [p.text for p in problems("train", 50)] + [chain(p, Habits(), rng) for p in problems("train", 200)]
    for text in [*texts, CHARACTERS, "\\boxed{", "}\\boxed{\\boxed{4}"]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
        assert len(ids) == len(text.replace("\\boxed{", "#"))


def test_one_token_a_character_and_one_for_the_box(tokenizer) -> None:
    assert tokenizer.convert_ids_to_tokens(tokenizer("3+4=7;\\boxed{7}")["input_ids"]) == [
        *"3+4=7;",
        "\\boxed{",
        "7",
        "}",
    ]


def test_chat_template(tokenizer) -> None:
    expected = f"{tokenizer.bos_token}<|user|>3+4*5{tokenizer.eos_token}<|assistant|>"
    text = tokenizer.apply_chat_template(chat("3+4*5"), tokenize=False, add_generation_prompt=True)
    assert text == expected
    ids = tokenizer.apply_chat_template(chat("3+4*5"), add_generation_prompt=True, return_dict=False)
    assert tokenizer.decode(ids) == text
    assert len(ids) == 9
    turns = [*chat("3+4"), {"role": "assistant", "content": "3+4=7;\\boxed{7}"}]
    assert tokenizer.apply_chat_template(turns, tokenize=False).startswith(
        tokenizer.apply_chat_template(chat("3+4"), tokenize=False, add_generation_prompt=True)
    )


def test_special_tokens_are_all_different(tokenizer) -> None:
    ids = {tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}
    assert len(ids) == 4
    assert tokenizer.padding_side == "left"


def test_the_model_is_small_and_fits_vllm(tokenizer) -> None:
    model = build_model(tokenizer, seed=0)
    assert sum(p.numel() for p in model.parameters()) <= 1_000_000
    assert model.config.hidden_size // model.config.num_attention_heads >= 32
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    with pytest.raises(ValueError, match="multiple of 64"):
        build_model(tokenizer, seed=0, hidden=100)


# Parquet files


def test_parquet_files_have_verls_schema_and_the_same_bytes_twice(tmp_path) -> None:
    sizes = {"train": 60, "validation": 12, "test": 18}
    paths = prepare.write(tmp_path / "a", sizes, seed=3)
    again = prepare.write(tmp_path / "b", sizes, seed=3)
    other = prepare.write(tmp_path / "c", sizes, seed=4)
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["test.parquet", "train.parquet", "validation.parquet"]
    seen: set[str] = set()
    for split, path in paths.items():
        assert path.read_bytes() == again[split].read_bytes()
        assert path.read_bytes() != other[split].read_bytes()
        rows = pq.read_table(path).to_pylist()
        assert len(rows) == sizes[split]
        for i, row in enumerate(rows):
            assert set(row) == {"data_source", "prompt", "ability", "reward_model", "extra_info"}
            problem = Problem(row["extra_info"]["problem"])
            assert row["prompt"] == [{"role": "user", "content": problem.text}]
            assert row["reward_model"] == {"style": "rule", "ground_truth": str(problem.answer)}
            info = row["extra_info"]
            assert (info["index"], info["split"], info["level"]) == (i, split, problem.level)
            assert info["id"] not in seen and problem.text not in seen
            seen |= {info["id"], problem.text}


def test_beyond_is_a_test_set_one_level_further(tmp_path) -> None:
    sizes = {"train": 30, "test": 30, "beyond": 10}
    rows = {name: pq.read_table(path).to_pylist() for name, path in prepare.write(tmp_path, sizes, levels=(3, 4)).items()}
    texts = {name: {row["extra_info"]["problem"] for row in found} for name, found in rows.items()}
    assert {row["extra_info"]["level"] for row in rows["train"]} == {3, 4}
    assert {row["extra_info"]["level"] for row in rows["beyond"]} == {5}
    assert all(split_of(Problem(text)) == "test" for text in texts["beyond"])
    assert len(texts["beyond"]) == 10 and not texts["beyond"] & (texts["train"] | texts["test"])
    assert rows["beyond"][0]["extra_info"]["id"] == "arithmetic/beyond/0"


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch) -> None:
    def fail(table, path):
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(prepare.pq, "write_table", fail)
    with pytest.raises(OSError, match="disk full"):
        prepare.write(tmp_path, {"test": 6})
    assert list(tmp_path.iterdir()) == []


# Warm start and evaluation


def test_the_warm_start_learns_and_its_seed_decides() -> None:
    _, losses = warm_start.train(TINY, build_tokenizer(), quiet=True)
    assert sum(losses[-5:]) / 5 < 0.8 * losses[0]
    short = warm_start.Settings(**{**vars(TINY), "steps": 3})
    once, twice = (warm_start.train(short, build_tokenizer(), quiet=True)[1] for _ in range(2))
    assert once == twice
    other = warm_start.train(warm_start.Settings(**{**vars(short), "seed": 1}), build_tokenizer(), quiet=True)[1]
    assert once != other


def test_the_writers_habits_come_from_a_file_and_decide(tmp_path) -> None:
    bad = warm_start.load_habits(Path(warm_start.__file__).parent / "bad_habits.yaml")
    assert bad == Habits(Fork(0.06, 0.30), Fork(0.04, 0.30), Fork(0.90, 0.20), Fork(0.02, 0.03))
    assert warm_start.Settings(habits=bad).fingerprint() != warm_start.Settings().fingerprint()
    short = {**vars(TINY), "steps": 2}
    losses = [warm_start.train(warm_start.Settings(**short | {"habits": h}), build_tokenizer(), quiet=True)[1] for h in (bad, Habits())]
    assert losses[0] != losses[1]  # other chains were imitated
    wrong = tmp_path / "habits.yaml"
    wrong.write_text("jump: {share: 2, error: 0}")
    with pytest.raises(ValueError, match=f"{wrong}: jump"):
        warm_start.load_habits(wrong)
    with pytest.raises(SystemExit):
        warm_start.main(["--habits", str(wrong), "--out", str(tmp_path / "start")])
    assert not (tmp_path / "start").exists()


def test_the_model_folder_is_whole_and_loads(start_policy) -> None:
    out, record = start_policy
    names = {p.name for p in out.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", warm_start.RECORD} <= names
    assert [p.name for p in out.parent.iterdir()] == [out.name]
    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert type(model).__name__ == "Qwen2ForCausalLM"
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == model.config.eos_token_id
    assert model.dtype == torch.float32
    assert json.loads((out / warm_start.RECORD).read_text()) == json.loads(json.dumps(record))


def test_a_second_call_reuses_other_settings_replace_and_strangers_are_left_alone(
    start_policy, tmp_path, monkeypatch
) -> None:
    out, record = start_policy
    stamp = (out / "model.safetensors").stat().st_mtime_ns
    assert warm_start.make(out, TINY, eval_problems=8, quiet=True) == json.loads(json.dumps(record))
    assert (out / "model.safetensors").stat().st_mtime_ns == stamp
    quick = warm_start.Settings(**{**vars(TINY), "steps": 1})
    assert quick.fingerprint() != TINY.fingerprint()
    mine = tmp_path / "models" / "m"
    warm_start.make(mine, quick, eval_problems=2, quiet=True)
    replaced = warm_start.make(mine, warm_start.Settings(**{**vars(quick), "seed": 1}), eval_problems=2, quiet=True)
    assert json.loads((mine / warm_start.RECORD).read_text())["fingerprint"] == replaced["fingerprint"]

    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "sample", fail)
    with pytest.raises(KeyboardInterrupt):
        warm_start.make(tmp_path / "models" / "broken", quick, quiet=True)
    assert [p.name for p in (tmp_path / "models").iterdir()] == ["m"]
    (tmp_path / "notes").mkdir()
    with pytest.raises(SystemExit, match="not a start policy"):
        warm_start.make(tmp_path / "notes", quick, quiet=True)


def test_sampling_and_its_summary(start_policy) -> None:
    out, _ = start_policy
    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    chosen = problems("test", 5)
    results = evaluate.sample(model, tokenizer, chosen, k=3, seed=1, batch=6, max_new_tokens=12)
    assert [len(row) for row in results] == [3] * 5
    for row in results:
        for s in row:
            assert 1 <= s.length <= 12
            assert 0 <= s.entropy <= 4
            assert s.fork_entropies
    again = evaluate.sample(model, tokenizer, chosen, k=3, seed=1, batch=6, max_new_tokens=12)
    assert [s.text for row in results for s in row] == [s.text for row in again for s in row]


def test_summary_of_known_samples() -> None:
    def made(right: bool, length: int) -> evaluate.Sample:
        return evaluate.Sample(text="", right=right, length=length, entropy=0.5, fork_entropies=[1.0, 0.0])

    chosen = [Problem("1+1"), Problem("1+1+1"), Problem("2+1+1"), Problem("3+1+1")]
    results = [
        [made(True, 10), made(True, 10)],
        [made(True, 20), made(False, 30)],
        [made(False, 40), made(False, 40)],
        [made(False, 20), made(True, 40)],
    ]
    summary = evaluate.summarize(chosen, results)
    assert summary["accuracy"] == 0.5
    assert summary["pass"] == 0.75
    assert (summary["never"], summary["sometimes"], summary["always"]) == (0.25, 0.5, 0.25)
    assert summary["length"] == 26.25
    assert summary["length_right"] == 20.0
    assert summary["fork_entropy"] == 0.5
    assert summary["levels"]["3"]["accuracy"] == pytest.approx(2 / 6)
    assert evaluate.table(summary).splitlines()[-1].split()[:3] == ["all", "4", "0.500"]
    none = evaluate.summarize(chosen[:1], [[evaluate.Sample(text="", right=False, length=3, entropy=0.5, fork_entropies=[])]])
    assert none["length_right"] is None and none["fork_entropy"] is None  # of no samples there is no mean
    assert evaluate.table(none).splitlines()[-1].split()[-1] == "–"
