"""Train the start policy with verl on the CPU: `main_ppo` with real Ray, FSDP2 and vLLM.

    python -m examples.arithmetic.train_verl --algorithm erpo --out outputs/arithmetic/erpo

Two runs with other algorithms differ in the algorithm's own settings alone. Further overrides of verl can follow, e.g.
`+algorithm.erpo.gate.normalize=mean_one`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from erpo_verl.verl_cpu.launch import RunFailed, launch

# What makes an algorithm, and nothing else: the loss is verl's own in each. Every arm has the reference policy (at no weight in
# the loss): ERPO's progress term needs it, and a GRPO run without it would see other random numbers and take less time.
ALGORITHMS = {
    "grpo": ["algorithm.adv_estimator=grpo"],
    "erpo": ["algorithm.adv_estimator=erpo"],
    "ep_grpo": ["algorithm.adv_estimator=erpo", "+algorithm.erpo.preset=ep_grpo"],
}


def arguments(
    algorithm: str, model: Path, data: Path, steps: int, seed: int, *, prompts: int = 16, lr: float = 3e-4
) -> list[str]:
    """Overrides of `main_ppo` for one run: `prompts` x 8 responses a step, two updates a step."""
    return [
        f"data.train_files={data / 'train.parquet'}",
        f"data.val_files={data / 'validation.parquet'}",
        f"data.train_batch_size={prompts}",
        "data.max_prompt_length=32",
        "data.max_response_length=80",
        f"data.seed={seed}",
        f"actor_rollout_ref.model.path={model}",
        f"actor_rollout_ref.actor.optim.lr={lr}",
        f"actor_rollout_ref.actor.ppo_mini_batch_size={prompts // 2}",
        f"actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu={prompts * 4}",
        f"actor_rollout_ref.actor.data_loader_seed={seed}",
        "actor_rollout_ref.actor.use_kl_loss=true",
        "actor_rollout_ref.actor.kl_loss_coef=0",
        f"actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu={prompts * 8}",
        "actor_rollout_ref.rollout.n=8",
        f"actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu={prompts * 8}",
        "actor_rollout_ref.rollout.max_model_len=128",
        f"actor_rollout_ref.rollout.seed={seed}",
        # Held-out accuracy is of samples, as training sees the policy: 2 of each problem at temperature 1.
        "actor_rollout_ref.rollout.val_kwargs.n=2",
        "actor_rollout_ref.rollout.val_kwargs.do_sample=true",
        "actor_rollout_ref.rollout.val_kwargs.temperature=1.0",
        "actor_rollout_ref.rollout.val_kwargs.top_p=1.0",
        "reward.custom_reward_function.path=pkg://erpo_verl.reward",
        "reward.custom_reward_function.name=compute_score",
        "reward.num_workers=1",
        f"trainer.total_training_steps={steps}",
        "trainer.total_epochs=1000000",
        f"trainer.test_freq={max(1, steps // 2)}",
        "trainer.save_freq=-1",
        'trainer.logger=["console","file"]',
        "trainer.project_name=erpo-arithmetic",
        f"trainer.experiment_name={algorithm}-s{seed}",
        *ALGORITHMS[algorithm],
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithm", choices=sorted(ALGORITHMS), default="erpo")
    parser.add_argument("--model", type=Path, default=Path("outputs/arithmetic/start"))
    parser.add_argument("--data", type=Path, default=Path("outputs/arithmetic/data"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("overrides", nargs="*", help="further overrides of verl, key=value")
    args = parser.parse_args()
    for path in (args.model / "config.json", args.data / "train.parquet", args.data / "validation.parquet"):
        if not path.is_file():
            parser.error(f"{path} is missing: make it with examples.arithmetic.warm_start (model) or .prepare (data)")
    command = arguments(args.algorithm, args.model.resolve(), args.data.resolve(), args.steps, args.seed)
    try:
        launch([*command, *args.overrides], args.out, args.out.name)
    except RunFailed as failure:
        print(failure, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nstopped; nothing of {args.out} is left", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
