"""What two processes compute, for ``test_trainer_two_processes.py``: one start, everything written to files.

    python -m torch.distributed.run --standalone --nproc_per_node 2 tests/trainer/two_processes.py FOLDER
"""

import gc
import sys
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from live_bytes import PeakBytes, live_bytes
from trainer_runs import (
    TOKENIZER,
    gradients,
    random_batch,
    settings_for,
    sharpen,
    some_uniform_groups,
    tiny_model,
    tiny_policy,
)

from erpo_verl.rollout.hf import HFRollout
from erpo_verl.trainer.advantages import advantages, token_level_rewards
from erpo_verl.trainer.data import Prompt, PromptOrder
from erpo_verl.trainer.metrics import data_metrics
from erpo_verl.trainer.processes import Processes, Tally
from erpo_verl.trainer.sampler import Sampler
from erpo_verl.trainer.settings import reads_reference_of_equal_outcomes
from erpo_verl.trainer.update import update

STRATEGIES = ("ddp", "fsdp2")
METHODS = {
    "erpo": [],
    "ep_grpo": ["algorithm.erpo.preset=ep_grpo"],
    "bands": ["algorithm.erpo.buckets.scope=difficulty"],
    "strength": ["algorithm.erpo.strength.entropy_target=3.0"],
    "grpo": ["algorithm.adv_estimator=grpo"],
    "kl in reward": ["algorithm.use_kl_in_reward=true", "algorithm.kl_ctrl.kl_coef=0.1"],
    "some left out": [],
    "all of one process left out": [],
}
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
    engine = HFRollout(policy.sampled_model, eos_token_ids=[TOKENIZER.eos_token_id], pad_token_id=TOKENIZER.pad_token_id)
    sampler = Sampler(
        engine, lambda prompts, texts, *_: (torch.zeros(len(texts)), {}), TOKENIZER, config, policy.processes.rank, 2, with_entropy=True
    )
    prompts = [Prompt(list(range(8, 8 + n)), "text", "source", "1", {}) for n in (3, 9, 5, 7, 4, 6)]
    batch = sampler.training_batch(prompts, PromptOrder(6, seed=1), 1)[0]
    old, entropy = policy.log_probs(batch, 4, with_entropy=True)
    return {"recorded": (batch.rollout_log_probs, batch.rollout_entropy), "passed": (old, entropy), "uid": batch.uid}


def credited_batch(name):
    """Six groups, two of equal outcomes, with numbers of all kinds; and settings of a method."""
    config = settings_of("ddp", *METHODS[name])
    batch = random_batch(prompts=6)
    scores, g = batch.scores.clone(), torch.Generator().manual_seed(3)
    scores[4:12] = 1.0
    mask, shape = batch.response_mask, batch.response_mask.shape
    entropy, old, apart = (torch.where(mask, torch.rand(shape, generator=g) * scale, 0.0) for scale in (3.0, -3.0, 0.5))
    marks = {"some left out": [0, 1], "all of one process left out": [1, 3, 5]}.get(name)
    info = {"acc": scores.tolist()} | ({} if marks is None else {"ungradeable": [float(row // 4 in marks) for row in range(24)]})
    batch = replace(batch, scores=scores, entropy=entropy, old_log_probs=old, ref_log_prob=old - apart, reward_info=info)
    return config, replace(batch, without_reference=None if reads_reference_of_equal_outcomes(config) else ~torch.tensor(batch.differs()))


def credited(name, processes, own):
    """Advantages, metrics and kept tokens of this process's rows."""
    config, batch = credited_batch(name)
    batch = own(batch)
    rewards, penalties = token_level_rewards(batch, config, processes)
    batch = replace(batch, token_level_rewards=rewards)
    credit = advantages(batch, config, 1, None, True, processes)
    batch = replace(batch, advantages=credit.advantages)
    return credit, {**penalties, **credit.metrics, **data_metrics(batch, 24, processes)}


def wanted_rows(strategy):
    """Log-probs of the rows that each process wants, the second of none, beside those of all."""
    config = settings_of(strategy)
    policy = tiny_policy(config)
    batch = own_rows(random_batch(prompts=6), policy.processes.rank)
    wanted = [policy.processes.rank == 0 and row % 3 == 0 for row in range(len(batch))]
    some, _ = policy.log_probs(batch, 2, reference=True, wanted=wanted)
    return wanted, some, policy.log_probs(batch, 2, reference=True)[0]


def live_rows(strategy, cut):
    """Gradients where the two processes have different numbers of rows with a gradient, in a mini-batch none."""
    config = settings_of(strategy, "algorithm.adv_estimator=grpo", f"actor_rollout_ref.actor.{cut}")
    policy = tiny_policy(config)
    batch = own_rows(some_uniform_groups(config), policy.processes.rank)
    return gradients(policy, batch, config)


def memory():
    """Bytes of tensors before, after loading and after each of two steps, and at most in the second; and of the model, float32."""
    # Weights, not activations: ten blocks and a batch of a few tokens.
    config = settings_of("fsdp2", "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=2")
    gc.collect()
    before = live_bytes()
    with PeakBytes() as loading:
        model = tiny_model(layers=10, hidden=256, intermediate=512)
        size = sum(p.numel() * p.element_size() for p in model.parameters())
        block = sum(p.numel() * p.element_size() for p in model.model.layers[0].parameters())
        policy = tiny_policy(config, model=model)
        del model
    loaded = live_bytes() - before
    batch = own_rows(random_batch(prompts=2, longest=4), policy.processes.rank)
    steps = []
    for step in (1, 2):
        with PeakBytes() as peak:
            policy.sync_sampled()
            old, entropy = policy.log_probs(batch, 2, with_entropy=True)
            reference, _ = policy.log_probs(batch, 2, reference=True)
            filled = replace(batch, old_log_probs=old, entropy=entropy, ref_log_prob=reference, advantages=torch.where(batch.response_mask, 1.0, 0.0))
            update(policy, filled, config, step)
        steps.append((live_bytes() - before, peak.peak - before))
    with PeakBytes() as export:
        whole = policy.whole_model()
    same = None
    if whole is not None:
        same = all(torch.equal(a, b) for a, b in zip(whole.parameters(), policy.sync_sampled().parameters(), strict=True))
    else:
        policy.sync_sampled()
    return {"size": size, "block": block, "loading": loading.peak - before, "loaded": loaded, "steps": steps, "export": export.peak - before, "whole is copy": same}


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
    found = {"memory": memory(), "tally": tallied()}
    processes = Processes.of(Accelerator(cpu=True))
    for name in METHODS:
        found[f"credit {name}"] = credited(name, processes, lambda batch: own_rows(batch, processes.rank))
    for strategy in STRATEGIES:
        found[f"rollout {strategy}"] = rollout(strategy)
        found[f"wanted {strategy}"] = wanted_rows(strategy)
        for cut in CUTS:
            found[f"gradients {strategy} {cut}"] = live_rows(strategy, cut)
    torch.save(found, folder / f"{torch.distributed.get_rank()}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
