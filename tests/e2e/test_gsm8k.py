"""Text through the whole road: `erpo prepare`, verl's data loader, vLLM, the reward, ERPO, in verl's mode colocate_async.

The model is random, so nothing is right; an entropy bonus moves it, so that it differs from the reference. The problems are GSM8K's where
a copy is there (ERPO_TEST_DATA names a folder with gsm8k_train.parquet; default: `shared/data` beside the repository), else a few of the
same form.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import OWN_SAMPLER, ROOT, assert_erpo_metrics, read
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from erpo_verl import cli
from erpo_verl.runs.rollouts import read_head, read_rows
from erpo_verl.verl_cpu.launch import launch

SOURCE = Path(os.environ.get("ERPO_TEST_DATA", ROOT.parent / "shared" / "data")) / "gsm8k_train.parquet"


def byte_model(folder: Path) -> Path:
    """A random Qwen2 model whose tokens are bytes, so that any text passes."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {token: i for i, token in enumerate([*special, *sorted(ByteLevel.alphabet())])}
    turn = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary,
        merges=[],
        eos_token="<|im_end|>",
        chat_template=turn + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    )
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            dtype="float32",
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def problems_like_gsm8k(path: Path) -> Path:
    rows = [
        {
            "question": f"Ann picks {a} apples in the morning and {b} in the evening. Half of them she gives away. How many are left?",
            "answer": f"She picks {a} + {b} = {a + b}.\nHalf of them are {a + b} / 2 = <<{a + b}/2={(a + b) // 2}>>{(a + b) // 2}.\n#### {(a + b) // 2}",
        }
        for a in range(2, 18, 2)
        for b in range(20, 40, 2)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_text_in_colocate_async(overrides, tmp_path):
    source = SOURCE if SOURCE.is_file() else problems_like_gsm8k(tmp_path / "train.parquet")
    assert cli.main(["prepare", "gsm8k", "--source", str(source), "--out", str(tmp_path / "data")]) == 0
    model = byte_model(tmp_path / "model")
    run = launch(
        [
            *overrides("ep_grpo", steps=3),
            *OWN_SAMPLER,
            "trainer.v1.trainer_mode=colocate_async",
            f"data.train_files={tmp_path / 'data' / 'train.parquet'}",
            f"data.val_files={tmp_path / 'data' / 'train.parquet'}",
            "data.train_max_samples=64",
            "data.val_max_samples=8",
            "data.max_prompt_length=768",
            "data.max_response_length=32",
            "data.filter_overlong_prompts=true",
            f"actor_rollout_ref.model.path={model}",
            "actor_rollout_ref.actor.entropy_coeff=0.01",
            "actor_rollout_ref.rollout.max_model_len=800",
            f"trainer.rollout_data_dir={tmp_path / 'rollouts'}",
            # Nothing is right and no group has a signal: what is left alive is the progress term's threshold rule.
            "+algorithm.erpo.zero_variance.rule=threshold",
        ],
        tmp_path / "run",
        "text, colocate_async",
    )
    steps = read(run)
    assert len(steps) == 3
    assert_erpo_metrics(steps)
    assert all(data["critic/score/mean"] == 0 and data["erpo/groups_wrong/mean"] == 1 for data in steps)
    assert all(data["erpo/zero_variance_alive/mean"] == 1 for data in steps)
    # By line feeds alone: a random response may hold other characters that Python takes for the end of a line.
    rollouts = [json.loads(line) for line in (tmp_path / "rollouts" / "1.jsonl").read_text().split("\n") if line]
    assert len(rollouts) == 64 and all("step by step" in row["input"] for row in rollouts)
    # What the method made of each token stands beside it, and other methods can be asked.
    dump = tmp_path / "rollouts" / "step_000001.parquet"
    rows = read_rows(dump, range(len(read_head(dump))))
    assert len(rows) == 64 and {row["response"] for row in rows} == {row["output"] for row in rollouts}
    assert all(row["entropy"] and row["gate"] and row["old_log_prob"] and len(row["tokens"]) == row["length"] for row in rows)
    entropy = [value for row in rows for value in row["entropy"]]
    assert sum(entropy) / len(entropy) == pytest.approx(steps[0]["actor/entropy"], rel=1e-3)
    assert cli.main(["inspect", str(dump), "--methods", "grpo", "erpo", "--out", str(tmp_path / "page.html")]) == 0
