"""What two processes compute, for ``test_trainer_two_processes.py``: one start, everything written to files.

    python -m torch.distributed.run --standalone --nproc_per_node 2 tests/trainer/two_processes.py FOLDER
"""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from trainer_runs import TOKENIZER, gradients, settings_for, sharpen, some_uniform_groups, tiny_model, tiny_policy

from erpo_verl.trainer.data import Prompt, PromptOrder
from erpo_verl.trainer.processes import Processes, Tally
from erpo_verl.trainer.rollout import make_engine
from erpo_verl.trainer.sampler import Sampler

STRATEGIES = ("ddp", "fsdp2")
CUTS = ("ppo_micro_batch_size_per_gpu=2", "use_dynamic_bsz=true")


def settings_of(strategy, *overrides):
    return settings_for(
        f"actor_rollout_ref.actor.strategy={strategy}", "data.train_batch_size=6", "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=60", *overrides
    )


def own_rows(batch, rank):
    """Of groups of four rows, every other one, as the sampler shares prompts."""
    return batch.rows([row for row in range(len(batch)) if row // 4 % 2 == rank])


def rollout(strategy):
    """What the rollout recorded, and what a pass over the same tokens gives."""
    config = settings_of(strategy)
    policy = tiny_policy(config, model=sharpen(tiny_model()))
    sampler = Sampler(
        make_engine(config, policy, TOKENIZER), lambda prompts, texts, *_: (torch.zeros(len(texts)), {}), TOKENIZER, config,
        policy.processes.rank, 2, with_entropy=True,
    )  # fmt: skip
    prompts = [Prompt(list(range(8, 8 + n)), "text", "source", "1", {}) for n in (3, 9, 5, 7, 4, 6)]
    batch = sampler.training_batch(prompts, PromptOrder(6, seed=1), 1)[0]
    old, entropy = policy.log_probs(batch, 4, with_entropy=True)
    return {"recorded": (batch.rollout_log_probs, batch.rollout_entropy), "passed": (old, entropy), "uid": batch.uid}


def live_rows(strategy, cut):
    """Gradients where the two processes have different numbers of rows with a gradient, in a mini-batch none."""
    config = settings_of(strategy, "algorithm.adv_estimator=grpo", f"actor_rollout_ref.actor.{cut}")
    policy = tiny_policy(config)
    batch = own_rows(some_uniform_groups(config), policy.processes.rank)
    return gradients(policy, batch, config)


def tallied():
    """Statistics over values of which this process has a part, or none."""
    processes, tally = Processes.of(Accelerator(cpu=True)), Tally()
    values = torch.arange(7.0)[slice(4) if processes.rank == 0 else slice(4, 7)]
    tally.mean("x/mean", values, std="x/std")
    tally.all("y", values if processes.rank else values[:0])
    tally.all("none", values[:0])
    tally.ratio("z", float(len(values)), 1.0)
    return tally.result(processes)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    found = {"tally": tallied()}
    for strategy in STRATEGIES:
        found[f"rollout {strategy}"] = rollout(strategy)
        for cut in CUTS:
            found[f"gradients {strategy} {cut}"] = live_rows(strategy, cut)
    torch.save(found, folder / f"{torch.distributed.get_rank()}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
