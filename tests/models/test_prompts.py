"""A row becomes one and the same prompt in training, evaluation and verl; or is refused with its number."""

from __future__ import annotations

import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from erpo_verl.evaluation.problems import EvaluationError, build_prompts, read_problems
from erpo_verl.evaluation.rewording import ORIGINAL
from erpo_verl.prompts import Prompter, PromptError, chat_messages
from erpo_verl.trainer.data import DataError, read_table, tokenize
from examples.arithmetic.tokenizer import build_tokenizer

# Prints every field that a message has, as templates with names and tool calls do.
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}{% if m.name is defined %} name={{ m.name }}{% endif %}>{% if m.content is defined %}{{ m.content }}"
    "{% endif %}{% if m.tool_calls is defined %}{{ m.tool_calls | tojson }}{% endif %}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
DATED = "{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}Today is {{ date_string }}. " + TEMPLATE


@pytest.fixture
def tokenizer():
    made = build_tokenizer()
    made.chat_template = TEMPLATE
    return made


def row(*messages, number: int = 0, **more):
    return {
        "data_source": "set", "prompt": list(messages), "reward_model": {"style": "rule", "ground_truth": "7"},
        "extra_info": {"id": f"p{number}", "index": number}, **more,
    }  # fmt: skip


def user(text, **more):
    return {"role": "user", "content": text, **more}


CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
OTHER = {"type": "function", "function": {"name": "root", "arguments": {"of": 9}}}
ROWS = [
    row(user("3+4"), number=0),
    row({"role": "system", "content": "be brief"}, user("5+2", name="ann"), number=1),
    row(user("1+1"), {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": "2", "name": "add"}, number=2),
    row(user("2+2"), {"role": "assistant", "content": "4"}, user("root of 9"), {"role": "assistant", "tool_calls": [OTHER]}, user("so"), number=3),
    row({"role": "system", "content": "add 3 and 4"}, number=4),
]
WANTED = [
    "<user>3+4<end><assistant>",
    "<system>be brief<end><user name=ann>5+2<end><assistant>",
    '<user>1+1<end><assistant>[{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]<end><tool name=add>2<end><assistant>',
    '<user>2+2<end><assistant>4<end><user>root of 9<end><assistant>[{"type": "function", "function": {"name": "root", "arguments": {"of": 9}}}]'
    "<end><user>so<end><assistant>",
    "<system>add 3 and 4<end><assistant>",
]


def write(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_one_row_is_one_prompt_for_training_evaluation_and_verl(tmp_path, tokenizer):
    path = write(tmp_path / "a.parquet", ROWS)
    assert pq.read_table(path).to_pylist()[0]["prompt"] == [user("3+4", name=None, tool_calls=None)]  # what parquet makes of it
    trained, _ = tokenize(read_table([str(path)]), Prompter(tokenizer), max_length=1000)
    problems, _ = read_problems([path])
    evaluated, _ = build_prompts(problems, Prompter(tokenizer), ORIGINAL, 1000)
    by_id = {prompt.problem.id: prompt for prompt in evaluated}
    assert [prompt.text for prompt in trained] == WANTED
    assert [by_id[f"p{i}"].text for i in range(len(ROWS))] == WANTED
    assert [by_id[f"p{i}"].tokens for i in range(len(ROWS))] == [prompt.tokens for prompt in trained]


def test_verl_asks_with_the_same_prompts(tmp_path, tokenizer):
    pytest.importorskip("verl")
    from omegaconf import OmegaConf
    from verl.utils.dataset.rl_dataset import RLHFDataset

    from erpo_verl.verl_plugin.rows import Rows

    path = write(tmp_path / "a.parquet", ROWS)
    lengths = {text: len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in WANTED}
    longest = max(lengths.values())

    def prompts(kind, **options):
        config = OmegaConf.create({"prompt_key": "prompt", "cache_dir": str(tmp_path), "max_prompt_length": longest, **options})
        data = kind(data_files=[str(path)], tokenizer=tokenizer, config=config)
        # As verl's single-turn agent loop applies the template to ``raw_prompt``.
        return [
            tokenizer.apply_chat_template(list(data[i]["raw_prompt"]), add_generation_prompt=True, tokenize=False) for i in range(len(data))
        ]

    assert prompts(Rows) == prompts(Rows, filter_overlong_prompts=False) == WANTED
    assert prompts(Rows, max_prompt_length=longest - 1) == [text for text in WANTED if lengths[text] < longest]
    assert "name=None" in prompts(RLHFDataset, filter_overlong_prompts=False)[0]  # what is mended
    write(path, [*ROWS, row(user("1+1"), {"role": "assistant", "content": "2"}, number=5)])
    with pytest.raises(ValueError, match=r"row 5 of .*a.parquet: it ends in an assistant's message"):
        prompts(Rows)


def test_content_in_parts_of_text_is_text():
    parts = [{"type": "text", "text": "3+"}, {"type": "text", "text": "4", "image": None}]
    assert chat_messages({"prompt": [user(parts)]}) == [user("3+4")]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prompt": "3+4"}, r"prompt is text, and must be a list of chat messages such as \[\{"),
        ({"prompt": []}, "prompt must be a list of chat messages"),
        ({"prompt": None}, "prompt must be a list of chat messages"),
        ({"prompt": ["3+4"]}, "messages with role and content"),
        ({"prompt": [{"role": "user", "content": None}]}, "messages with role and content"),
        ({"prompt": [{"role": None, "content": "3"}]}, "messages with role and content"),
        ({"prompt": [user([{"type": "image", "image": "a.png"}])]}, "a part of the kind 'image'; prompts of text alone"),
        ({"prompt": [user("<image> how many?")], "images": [{"bytes": b""}]}, "it has images; prompts of text alone"),
    ],
)
def test_messages_that_cannot_be_used(given, message):
    with pytest.raises(PromptError, match=message):
        chat_messages(given)


@pytest.mark.parametrize("role", ["Assistant", "assistant ", "gpt", "model"])
def test_an_assistant_by_another_name_is_one(tokenizer, role):
    with pytest.raises(PromptError, match="it ends in an assistant's message"):
        Prompter(tokenizer)([{"role": "user", "content": "3+4"}, {"role": role, "content": "7"}])


def test_an_answer_begun_is_refused_or_continued(tmp_path, tokenizer):
    """``...<end><assistant>`` behind an assistant's message would ask for a second answer."""
    begun = row(user("3+4"), {"role": "assistant", "content": "Let me see: "}, number=1)
    path = write(tmp_path / "a.parquet", [ROWS[0], begun])
    message = r"a.parquet, row 1: it ends in an assistant's message: cut that off .* continue_final_message: true"
    with pytest.raises(DataError, match=message):
        tokenize(read_table([str(path)]), Prompter(tokenizer), max_length=1000)
    problems, _ = read_problems([path])
    with pytest.raises(EvaluationError, match=message):
        build_prompts(problems, Prompter(tokenizer), ORIGINAL, 1000)
    go_on = Prompter(tokenizer, {"continue_final_message": True})
    trained, _ = tokenize(read_table([str(path)]), go_on, max_length=1000)
    assert [prompt.text for prompt in trained] == ["<user>3+4<end><assistant>", "<user>3+4<end><assistant>Let me see: "]
    assert {prompt.text for prompt in build_prompts(problems, go_on, ORIGINAL, 1000)[0]} == {prompt.text for prompt in trained}
    solved = row(user("3+4"), {"role": "assistant", "content": "So it is \\boxed{7}."})
    with pytest.raises(PromptError, match="holds a boxed answer already"):
        go_on(solved["prompt"])


def test_a_template_sees_the_date_of_the_run(tokenizer):
    prompt = [user("3+4")]
    assert not (plain := Prompter(tokenizer)).dated and plain(prompt)[0] == WANTED[0] and not plain.dated
    tokenizer.chat_template = DATED
    today = Prompter(tokenizer)
    assert today(prompt)[0].startswith(datetime.date.today().strftime("Today is %d %b %Y. ")) and today.dated
    assert today.date == datetime.date.today().isoformat()
    then = Prompter(tokenizer, date="2025-03-04")
    assert then(prompt)[0] == "Today is 04 Mar 2025. " + WANTED[0] and then.dated and then.date == "2025-03-04"
    fixed = Prompter(tokenizer, {"date_string": "never"})
    assert fixed(prompt)[0].startswith("Today is never. ") and not fixed.dated
    with pytest.raises(PromptError, match="'soon' is no date such as 2026-01-31"):
        Prompter(tokenizer, date="soon")
