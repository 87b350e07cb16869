"""Real problems through the whole road: `erpo prepare`, verl's data loader, vLLM, the reward, ERPO.

The model is random, so nothing is learned; what is tested is that real text passes. Needs a copy of GSM8K:
ERPO_TEST_DATA names a folder with gsm8k_train.parquet (default: `shared/data` beside the repository).
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from conftest import ROOT, assert_erpo_metrics, read
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


@pytest.mark.skipif(not SOURCE.is_file(), reason=f"no GSM8K at {SOURCE}: set ERPO_TEST_DATA to a folder with gsm8k_train.parquet")
def test_gsm8k(overrides, tmp_path):
    assert cli.main(["prepare", "gsm8k", "--source", str(SOURCE), "--out", str(tmp_path / "data")]) == 0
    model = byte_model(tmp_path / "model")
    run = launch(
        [
            *overrides("erpo", steps=2),
            f"data.train_files={tmp_path / 'data' / 'train.parquet'}",
            f"data.val_files={tmp_path / 'data' / 'train.parquet'}",
            "data.train_max_samples=64",
            "data.val_max_samples=8",
            "data.max_prompt_length=768",
            "data.max_response_length=32",
            "data.filter_overlong_prompts=true",
            f"actor_rollout_ref.model.path={model}",
            "actor_rollout_ref.rollout.max_model_len=800",
            f"trainer.rollout_data_dir={tmp_path / 'rollouts'}",
            # Nothing is right and no group has a signal: what is left alive is the progress term's threshold rule.
            "+algorithm.erpo.zero_variance.rule=threshold",
        ],
        tmp_path / "run",
        "gsm8k",
    )
    steps = read(run)
    assert len(steps) == 2
    assert_erpo_metrics(steps, moved=False)
    assert all(data["critic/score/mean"] == 0 and data["erpo/groups_wrong/mean"] == 1 for data in steps)
    assert all(data["erpo/zero_variance_alive/mean"] == 1 for data in steps)
    rollouts = [json.loads(line) for line in (tmp_path / "rollouts" / "1.jsonl").read_text().splitlines()]
    assert len(rollouts) == 64 and all("step by step" in row["input"] for row in rollouts)
    # What the method made of each token stands beside it, and other methods can be asked.
    dump = tmp_path / "rollouts" / "step_000001.parquet"
    rows = read_rows(dump, range(len(read_head(dump))))
    assert len(rows) == 64 and {row["response"] for row in rows} == {row["output"] for row in rollouts}
    assert all(row["entropy"] and row["gate"] and row["old_log_prob"] and len(row["tokens"]) == row["length"] for row in rows)
    entropy = [value for row in rows for value in row["entropy"]]
    assert sum(entropy) / len(entropy) == pytest.approx(steps[0]["actor/entropy"], rel=1e-3)
    assert cli.main(["inspect", str(dump), "--methods", "grpo", "erpo", "--out", str(tmp_path / "page.html")]) == 0
