"""Problems from parquet files, prompts, and rewordings that keep the problem."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # `examples` is not installed with the package

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("transformers")

from erpo_verl.data.templates import INSTRUCTION, TEMPLATES  # noqa: E402
from erpo_verl.evaluation.problems import EvaluationError, build_prompts, read_problems  # noqa: E402
from erpo_verl.evaluation.rewording import ORIGINAL, REWORDINGS, parts, reword  # noqa: E402
from erpo_verl.prompts import Prompter  # noqa: E402
from examples.arithmetic.prepare import write  # noqa: E402
from examples.arithmetic.tokenizer import build_tokenizer, chat  # noqa: E402

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
PROBLEM = "What is $2 + 2$?\nGive a number."


def row(content="1+1", gold="2", **extra):
    return {
        "data_source": "set",
        "prompt": [{"role": "user", "content": content}],
        "reward_model": {"style": "rule", "ground_truth": gold},
        "extra_info": {"split": "test", **extra},
    }


def save(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


# ---------------------------------------------------------------- reading


def test_rows_as_problems(tmp_path) -> None:
    first = save(tmp_path / "a.parquet", [row(id="set/1", level=3), row("2+2", "4", id="set/2", level=None)])
    second = save(tmp_path / "b.parquet", [row("3+3", "6"), row("4+4", "8")])
    problems, repeated = read_problems([first, second])
    assert repeated == 0
    assert [p.id for p in problems[:2]] == ["set/1", "set/2"]
    assert [p.level for p in problems] == ["3", None, None, None]
    assert [p.gold_text for p in problems] == ["2", "4", "6", "8"]
    assert problems[2].id.startswith("set/") and problems[2].id != problems[3].id
    # An id made from the contents is the same wherever the row stands.
    assert read_problems([save(tmp_path / "c.parquet", [row("4+4", "8")])])[0][0].id == problems[3].id
    assert len(read_problems([first, second], limit=1)[0]) == 2


def test_rows_that_repeat_are_counted_and_clashing_ids_refused(tmp_path) -> None:
    problems, repeated = read_problems([save(tmp_path / "a.parquet", [row(), row(), row("2+2", "4")])])
    assert len(problems) == 2 and repeated == 1
    clash = save(tmp_path / "b.parquet", [row(id="x"), row("2+2", "4", id="x")])
    with pytest.raises(EvaluationError, match=r"b.parquet, row 1: its id 'x' is that of .*row 0"):
        read_problems([clash])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"question": "1+1"}], r"no column 'data_source' or 'prompt' or 'reward_model'; the columns are question"),
        ([row(), row(gold="")], "row 1: reward_model.ground_truth is empty"),
        ([{**row(), "prompt": "1+1"}], "row 0: prompt is text, and must be a list of chat messages"),
        ([{**row(), "prompt": [{"role": "user"}]}], "row 0: prompt must hold messages"),
        ([{**row(), "data_source": ""}], "row 0: data_source"),
    ],
)
def test_unusable_files_are_named(tmp_path, rows, message) -> None:
    with pytest.raises(EvaluationError, match=message):
        read_problems([save(tmp_path / "bad.parquet", rows)])


def test_missing_and_damaged_files_are_named(tmp_path) -> None:
    with pytest.raises(EvaluationError, match=r"nothing.parquet: no such file"):
        read_problems([tmp_path / "nothing.parquet"])
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(EvaluationError, match=r"torn.parquet: not readable as parquet"):
        read_problems([tmp_path / "torn.parquet"])


def test_real_sets() -> None:
    if not DATA.is_dir():
        pytest.skip("the folder with real problem sets is not there")
    aime, _ = read_problems([DATA / "aime25.parquet"])
    assert len(aime) == 30 and aime[0].gold_text == "70"
    math, repeated = read_problems([DATA / "math_test.parquet"], limit=3000)
    assert {p.level for p in math} <= {"Level 1", "Level 2", "Level 3", "Level 4", "Level 5", "Level ?"}
    assert len(math) + repeated == 3000
    with pytest.raises(EvaluationError, match=r"math_test.parquet, row 3526: .*ground_truth is empty"):
        read_problems([DATA / "math_test.parquet"])


# ---------------------------------------------------------------- prompts


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def test_prompts_are_the_chat_template_shortest_first(tmp_path, tokenizer) -> None:
    path = write(tmp_path, {"test": 12}, levels=(5, 3))["test"]
    problems, _ = read_problems([path])
    prompts, left_out = build_prompts(problems, Prompter(tokenizer), ORIGINAL, 12)
    # bos, role, 2 * level - 1 characters, end of turn, role.
    assert [len(p.tokens) for p in prompts] == [9] * 6
    assert prompts[0].text == tokenizer.apply_chat_template(
        chat(problems[1].extra_info["problem"]), tokenize=False, add_generation_prompt=True
    )
    assert tokenizer.decode(prompts[0].tokens) == prompts[0].text
    assert left_out["too_long"] == [p.id for p in problems if p.level == "5"]
    everything, left_out = build_prompts(problems, Prompter(tokenizer), ORIGINAL, 13)
    assert [p.problem.level for p in everything] == ["3"] * 6 + ["5"] * 6 and not any(left_out.values())


def test_a_template_that_refuses_a_rewording_is_counted_and_the_original_is_an_error(tmp_path) -> None:
    strict = build_tokenizer()
    refuse = "{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    strict.chat_template = "{% for m in messages %}" + refuse + "{{ m['content'] }}{% endfor %}"
    problems, _ = read_problems([save(tmp_path / "a.parquet", [row(f"1+1 {INSTRUCTION}")])])
    prompts, left_out = build_prompts(problems, Prompter(strict), "instruction_in_system", 1000)
    assert not prompts and left_out["rewording_does_not_apply"] == [problems[0].id]
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1"}]
    problems, _ = read_problems([save(tmp_path / "b.parquet", [{**row(), "prompt": messages}])])
    with pytest.raises(EvaluationError, match=r"b.parquet, row 0: with the roles system, user: the chat template refuses it: TemplateError: no system role"):
        build_prompts(problems, Prompter(strict), ORIGINAL, 1000)


# ---------------------------------------------------------------- rewordings


def text_of(messages):
    return "\n".join(m["content"] for m in messages)


@pytest.mark.parametrize("template", [name for name in TEMPLATES if name != "dapo"])
@pytest.mark.parametrize("name", REWORDINGS)
def test_rewordings_keep_the_problem_and_ask_for_a_box(name, template) -> None:
    original = TEMPLATES[template].messages(PROBLEM)
    changed = reword(name, original, {})
    if template == "plain" and name not in ("heading", "newline_before", "newline_after"):
        assert changed is None  # there is no instruction to move
        return
    if template == "qwen-boxed" and name == "instruction_in_system":
        assert changed is None  # it stands there already
        return
    assert changed is not None and changed != original
    assert text_of(changed).count(PROBLEM) == 1
    # Nothing is added but an instruction, a heading and blanks.
    rest = text_of(changed).replace(PROBLEM, "").replace("Problem:", "").strip()
    assert ("\\boxed{}" in rest) == (template != "plain")
    assert rest == "" if template == "plain" else rest.endswith("\\boxed{}.")
    assert reword(name, original, {}) == changed  # deterministic
    assert original == TEMPLATES[template].messages(PROBLEM)  # untouched


def test_what_each_rewording_makes() -> None:
    original = TEMPLATES["boxed"].messages("1 + 1 = ?")
    made = {name: reword(name, original, {}) for name in REWORDINGS}
    assert [m["role"] for m in made["instruction_in_system"]] == ["system", "user"]
    assert made["instruction_in_system"][1]["content"] == "1 + 1 = ?"
    assert made["instruction_first"][0]["content"] == f"{INSTRUCTION}\n\n1 + 1 = ?"
    assert made["blank_line"][0]["content"] == f"1 + 1 = ?\n\n{INSTRUCTION}"
    assert made["heading"][0]["content"] == f"Problem:\n1 + 1 = ?\n\n{INSTRUCTION}"
    assert made["newline_before"][0]["content"] == f"\n1 + 1 = ? {INSTRUCTION}"
    assert made["newline_after"][0]["content"] == f"1 + 1 = ? {INSTRUCTION}\n"
    assert len({text_of(m) for m in made.values()}) == len(REWORDINGS)
    assert reword(ORIGINAL, original, {}) == original


def test_where_the_problem_stands() -> None:
    prompt = [{"role": "user", "content": "1+1? Answer with a box."}]
    assert parts(prompt, {}) == ("1+1? Answer with a box.", "")  # an unknown instruction is never cut off or moved
    assert parts(prompt, {"problem": "1+1?"}) == ("1+1?", "Answer with a box.")
    assert parts(prompt, {"problem": "2+2?"}) == ("1+1? Answer with a box.", "")
    assert parts([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], {}) is None
    assert reword("heading", [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], {}) is None
    with pytest.raises(KeyError):
        reword("upside_down", prompt, {})


def test_an_unknown_instruction_may_be_moved_but_never_replaced() -> None:
    prompt, info = [{"role": "user", "content": "7 * 8? Give the answer modulo 10."}], {"problem": "7 * 8?"}
    assert reword("phrasing", prompt, info) is None and reword("phrasing_2", prompt, info) is None
    for name in (
        "instruction_first",
        "instruction_in_system",
        "blank_line",
        "heading",
        "newline_before",
        "newline_after",
    ):
        assert text_of(reword(name, prompt, info)).count("Give the answer modulo 10.") == 1
