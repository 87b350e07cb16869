"""Every setting of the Accelerate engine, declared once: key, default, what is allowed, meaning.

Names, meanings and defaults are verl's (0.9.1), so that a command line for ``verl.trainer.main_ppo`` that uses these keys runs
here unchanged. Where a default differs from verl's, the help text says so. ``erpo train --help`` and ``docs/trainer.md`` are
made from this table; ``settings.py`` composes and checks a run's settings against it. The settings of a method, under
``algorithm.<name>``, are declared where the method is (``erpo_verl.methods``).
"""

from __future__ import annotations

from erpo_verl import methods
from erpo_verl.settings import REQUIRED
from erpo_verl.settings import Setting as Key

_ACTOR, _ROLLOUT, _MODEL = "actor_rollout_ref.actor.", "actor_rollout_ref.rollout.", "actor_rollout_ref.model."

KEYS: tuple[Key, ...] = (
    # --- data
    Key("data.train_files", REQUIRED, "paths", "Parquet file(s) in verl's schema to train on."),
    Key("data.val_files", None, "paths", "Parquet file(s) to validate on; null: no validation.", nullable=True),
    Key("data.train_batch_size", 1024, int, "Prompts in a training step.", at_least=1),
    Key("data.val_max_samples", -1, int, "Only the first so many validation prompts of each file; -1: all (verl: of all files, at random).", at_least=-1),
    Key("data.train_max_samples", -1, int, "Only the first so many training prompts of each file; -1: all (verl: of all files, at random).", at_least=-1),
    Key("data.max_prompt_length", 512, int, "Longest prompt, in tokens.", at_least=1),
    Key("data.max_response_length", 512, int, "Longest response, in tokens.", at_least=1),
    Key("data.filter_overlong_prompts", False, bool, "Drop (and count) prompts that are longer than allowed, of training and of validation."),
    Key("data.truncation", "error", str, "What to do with an overlong prompt that is not filtered.", choices=("error", "left", "right", "middle")),
    Key("data.shuffle", True, bool, "A new random order of the prompts in each epoch."),
    Key("data.seed", None, int, "Seed of the order of the prompts, of the sampling and of LoRA's start; null is 1.", nullable=True),
    Key("data.prompt_key", "prompt", str, "Column that holds the chat messages."),
    Key("data.reward_fn_key", "data_source", str, "Column that names the data source."),
    Key("data.apply_chat_template_kwargs", {}, "dict", "Passed to the tokenizer's chat template, e.g. {enable_thinking: false}."),
    Key("data.template_date", None, str, "What a chat template that prints the date takes for today, as 2026-01-31; null: today, or the date of "
        "the run that goes on. Not in verl.", nullable=True),
    # --- model
    Key(_MODEL + "path", REQUIRED, str, "Model: a folder, or a name on the Hugging Face hub; or an adapter of peft, whose base is then loaded."),
    Key(_MODEL + "adapter", "merge", str, "Where path is an adapter. merge: the model with the adapter in its weights is the start policy and "
        "the reference. train: the adapter itself is trained on. Not in verl (lora_adapter_path).", choices=("merge", "train")),
    Key(_MODEL + "tokenizer_path", None, str, "Tokenizer, where it is not the model's.", nullable=True),
    Key(_MODEL + "trust_remote_code", False, bool, "Whether code from the model's repository may run."),
    Key(_MODEL + "disable_dropout", True, bool, "No dropout in the update, whatever the model's config says: it would make the policy of the "
        "update another one than was sampled from. Not in verl, where override_config sets it."),
    Key(_MODEL + "enable_gradient_checkpointing", True, bool, "Recompute activations in the backward pass."),
    Key(_MODEL + "use_fused_kernels", False, bool, "Log-probs and entropies by Liger's fused kernel (pip install liger-kernel), made for "
        "NVIDIA's Hopper."),
    Key(_MODEL + "override_config.attn_implementation", None, str, "Attention of transformers: sdpa, flash_attention_2, eager; null: its "
        "choice.", nullable=True),
    Key(_MODEL + "lora_rank", 0, int, "Rank of LoRA adapters (peft); 0 trains all weights.", at_least=0),
    Key(_MODEL + "lora_alpha", 16, float, "LoRA's scale is lora_alpha / lora_rank.", above=0),
    Key(_MODEL + "target_modules", "all-linear", "names", "Modules that get adapters: all-linear, a name or a list of names."),
    Key(_MODEL + "exclude_modules", None, "names", "Modules that get none.", nullable=True),
    # --- actor
    Key(_ACTOR + "strategy", "ddp", str, "How several processes share the model: ddp (a whole copy each), or fsdp2 (torch's "
        "fully_shard; fsdp means the same here). verl's default is fsdp.", choices=("ddp", "fsdp", "fsdp2")),
    Key(_ACTOR + "ppo_mini_batch_size", 256, int, "Prompts in an update; divides data.train_batch_size.", at_least=1),
    Key(_ACTOR + "ppo_micro_batch_size_per_gpu", None, int, "Responses in one forward and backward pass of a process; null: 8. "
        "Changes memory and speed, never the gradient.", at_least=1, nullable=True),
    Key(_ACTOR + "use_dynamic_bsz", False, bool, "Cut micro-batches by tokens, not by responses."),
    Key(_ACTOR + "ppo_max_token_len_per_gpu", 16384, int, "Padded tokens in a micro-batch with use_dynamic_bsz.", at_least=1),
    Key(_ACTOR + "ppo_epochs", 1, int, "Passes over each batch.", at_least=1),
    Key(_ACTOR + "shuffle", False, bool, "Mix the prompts of a batch anew for each pass."),
    Key(_ACTOR + "data_loader_seed", 42, int, "Seed of that mixing."),
    Key(_ACTOR + "clip_ratio", 0.2, float, "PPO's clip range, used where the next two are null.", at_least=0, at_most=1),
    Key(_ACTOR + "clip_ratio_low", 0.2, float, "Ratios are clipped to 1 - this ...", at_least=0, at_most=1, nullable=True),
    Key(_ACTOR + "clip_ratio_high", 0.2, float, "... and 1 + this (0.28 is DAPO's clip-higher).", at_least=0, nullable=True),
    Key(_ACTOR + "clip_ratio_c", 3.0, float, "Dual clip: bound on the ratio for negative advantages.", above=1),
    Key(_ACTOR + "policy_loss.loss_mode", "vanilla", str, "vanilla and erpo are the same clipped surrogate.", choices=("vanilla", "erpo")),
    Key(_ACTOR + "loss_agg_mode", "token-mean", str, "How token losses become one number.", choices=(
        "token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm")),
    Key(_ACTOR + "loss_scale_factor", None, float, "Divisor of seq-mean-token-sum-norm; null: data.max_response_length "
        "(verl: the padded width).", above=0, nullable=True),
    Key(_ACTOR + "entropy_coeff", 0.0, float, "Weight of an entropy bonus in the loss."),
    Key(_ACTOR + "use_kl_loss", False, bool, "Keep a reference policy and add a KL term to the loss."),
    Key(_ACTOR + "kl_loss_coef", 0.001, float, "Its weight; 0 keeps the reference (ERPO needs one) and adds nothing.", at_least=0),
    Key(_ACTOR + "kl_loss_type", "low_var_kl", str, "Its estimator.", choices=("kl", "k1", "abs", "mse", "k2", "low_var_kl", "k3")),
    Key(_ACTOR + "grad_clip", 1.0, float, "Largest norm of the gradient.", above=0),
    Key(_ACTOR + "optim.lr", 1e-6, float, "AdamW's learning rate.", at_least=0),
    Key(_ACTOR + "optim.weight_decay", 0.01, float, "AdamW's weight decay.", at_least=0),
    Key(_ACTOR + "optim.betas", [0.9, 0.999], "list", "AdamW's two betas."),
    Key(_ACTOR + "optim.lr_warmup_steps", -1, int, "Steps of linear warm-up; not above 0: from the ratio.", at_least=-1),
    Key(_ACTOR + "optim.lr_warmup_steps_ratio", 0.0, float, "The same as a share of all steps.", at_least=0, at_most=1),
    Key(_ACTOR + "optim.lr_scheduler_type", "constant", str, "After the warm-up.", choices=("constant", "cosine")),
    Key(_ACTOR + "optim.min_lr_ratio", 0.0, float, "Share of lr at which the cosine ends.", at_least=0, at_most=1),
    Key(_ACTOR + "optim.num_cycles", 0.5, float, "Waves of the cosine.", above=0),
    Key(_ACTOR + "fsdp_config.model_dtype", "fp32", str, "Type of the trained weights.", choices=("fp32", "float32", "bf16", "bfloat16")),
    Key(_ACTOR + "fsdp_config.dtype", None, str, "Type of the arithmetic; null: bfloat16 on a GPU, float32 on a CPU (verl: bfloat16).",
        choices=("float32", "fp32", "bfloat16", "bf16"), nullable=True),
    Key(_ACTOR + "fsdp_config.seed", 42, int, "Seed of the model's own randomness (dropout)."),
    Key(_ACTOR + "checkpoint.save_contents", ["model", "optimizer", "extra"], "list", "What a checkpoint holds; add hf_model for a model "
        "folder in each. model, optimizer and extra belong together here."),
    # --- reference
    Key("actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu", None, int, "Responses in one pass of the reference policy; null: "
        "that of the rollout.", at_least=1, nullable=True),
    # --- rollout
    Key(_ROLLOUT + "name", "hf", str, "Engine that samples: hf (transformers) or vllm. verl has no default.", choices=("hf", "vllm")),
    Key(_ROLLOUT + "n", 8, int, "Responses to each prompt; a group. verl's default is 1.", at_least=1),
    Key(_ROLLOUT + "temperature", 1.0, float, "Sampling temperature, also of log-probs and entropies.", above=0),
    Key(_ROLLOUT + "top_k", -1, int, "Sample among the k likeliest tokens; -1: all.", at_least=-1),
    Key(_ROLLOUT + "top_p", 1.0, float, "Sample among the likeliest tokens of this mass.", above=0, at_most=1),
    Key(_ROLLOUT + "do_sample", True, bool, "Sample, or take the likeliest token."),
    Key(_ROLLOUT + "seed", 42, int, "Seed of the sampling, together with data.seed and the step."),
    Key(_ROLLOUT + "log_prob_micro_batch_size_per_gpu", None, int, "Responses in one pass that computes old log-probs and entropies; "
        "null: twice the actor's.", at_least=1, nullable=True),
    Key(_ROLLOUT + "max_num_seqs", 256, int, "Most responses that are generated at once.", at_least=1),
    Key(_ROLLOUT + "max_model_len", None, int, "Longest prompt and response together (vllm); null: data's two lengths.", at_least=1, nullable=True),
    Key(_ROLLOUT + "gpu_memory_utilization", 0.5, float, "Share of the GPU's memory for vllm.", above=0, at_most=1),
    Key(_ROLLOUT + "enforce_eager", False, bool, "vllm without CUDA graphs."),
    Key(_ROLLOUT + "dtype", None, str, "Type of vllm's weights; null: that of the arithmetic (verl: bfloat16).",
        choices=("bfloat16", "float16", "float32"), nullable=True),
    Key(_ROLLOUT + "calculate_log_probs", True, bool, "Log how far the rollout's log-probs are from training's."),
    Key(_ROLLOUT + "val_kwargs.n", 1, int, "Responses to each validation prompt.", at_least=1),
    Key(_ROLLOUT + "val_kwargs.temperature", 0.0, float, "Temperature of validation, if it samples.", at_least=0),
    Key(_ROLLOUT + "val_kwargs.top_k", -1, int, "As above, for validation.", at_least=-1),
    Key(_ROLLOUT + "val_kwargs.top_p", 1.0, float, "As above, for validation.", above=0, at_most=1),
    Key(_ROLLOUT + "val_kwargs.do_sample", False, bool, "Sample in validation, or take the likeliest token."),
    # --- algorithm
    Key("algorithm.adv_estimator", "erpo", str, "Advantage estimator, a method of token-level credit. verl's default is gae.", choices=tuple(methods.registered())),
    Key("algorithm.norm_adv_by_std_in_grpo", True, bool, "Divide outcome advantages by the group's spread (false: Dr. GRPO)."),
    Key("algorithm.use_kl_in_reward", False, bool, "Take a KL penalty off the token rewards."),
    Key("algorithm.kl_penalty", "kl", str, "Its estimator.", choices=("kl", "k1", "abs", "mse", "k2", "low_var_kl", "k3")),
    Key("algorithm.kl_ctrl.type", "fixed", str, "Its control.", choices=("fixed",)),
    Key("algorithm.kl_ctrl.kl_coef", 0.001, float, "Its weight.", at_least=0),
    Key("algorithm.filter_groups.enable", False, bool, "Dynamic sampling (DAPO): leave out groups of one outcome, sample more prompts."),
    Key("algorithm.filter_groups.metric", "reward", str, "What must differ in a group: reward, or a key of the reward's result such as acc."),
    Key("algorithm.filter_groups.max_num_gen_batches", 0, int, "Most batches sampled for a step; 0: no limit.", at_least=0),
    Key("algorithm.filter_groups.max_empty_batches", 10, int, "So many batches in a row without one usable group end the run; 0: no limit. "
        "Not in verl.", at_least=0),
    Key("algorithm.rollout_correction.bypass_mode", None, bool, "Take the rollout's log-probs (and entropies) for the old ones instead of "
        "computing them; null: where the rollout samples from the trained weights in the update's arithmetic, which is hf in float32 "
        "and no rollout_is is given (verl: false).", nullable=True),
    Key("algorithm.rollout_correction.loss_type", "ppo_clip", str, "With bypass_mode: the loss.", choices=("ppo_clip",)),
    Key("algorithm.rollout_correction.rollout_is", None, str, "Weight losses by pi_old / pi_rollout of each token, or of each response "
        "(sequence), for rollouts in another type; null: no weights.", choices=("token", "sequence"), nullable=True),
    Key("algorithm.rollout_correction.rollout_is_threshold", 2.0, float, "These weights are cut off there (truncated importance "
        "sampling; verl's lower_upper form is not supported).", above=0),
    Key("algorithm.rollout_correction.rollout_is_batch_normalize", False, bool, "Divide the weights by their mean."),
    *(Key(f"algorithm.{name}", {}, "dict", f"Settings of {name}, docs/settings.md.") for name in methods.registered()),
    # --- reward
    Key("reward.custom_reward_function.path", None, str, "File, or pkg://module, of the reward function; null: pkg://erpo_verl.reward "
        "(verl: chosen by data source).", nullable=True),
    Key("reward.custom_reward_function.name", "compute_score", str, "Its name: f(data_source, solution_str, ground_truth, extra_info, ...)."),
    Key("reward.custom_reward_function.reward_kwargs", {}, "dict", "Further arguments of it, e.g. overlong_limit (docs/reward.md)."),
    Key("reward.num_workers", 8, int, "Worker processes of the maths reward, at most the number of processors.", at_least=1),
    # --- trainer
    Key("trainer.total_epochs", 30, int, "Passes over the training prompts, where the next is null.", at_least=1),
    Key("trainer.total_training_steps", None, int, "Training steps.", at_least=1, nullable=True),
    Key("trainer.project_name", "erpo_verl", str, "Name of the project in the trackers."),
    Key("trainer.experiment_name", "run", str, "Name of the run."),
    Key("trainer.logger", ["console"], "list", "Where metrics go beside metrics.jsonl: console, file, tensorboard, wandb, or another "
        "tracker of Accelerate's. verl's default adds wandb."),
    Key("trainer.nnodes", 1, int, "This engine uses one machine.", choices=(1,)),
    Key("trainer.n_gpus_per_node", None, int, "Must be the number of processes that were launched; null: whatever it is.", at_least=1, nullable=True),
    Key("trainer.device", None, str, "null: cuda where there is a GPU, else cpu.", choices=("cuda", "cpu"), nullable=True),
    Key("trainer.val_before_train", True, bool, "Validate the start policy."),
    Key("trainer.val_only", False, bool, "Validate, and end. Nothing of a run's history is touched: the numbers go to val_only.jsonl in its folder."),
    Key("trainer.test_freq", -1, int, "Validate every so many steps, and at the end; -1: never.", at_least=-1),
    Key("trainer.save_freq", -1, int, "Save a checkpoint every so many steps, and at the end; -1: never.", at_least=-1),
    Key("trainer.max_actor_ckpt_to_keep", None, int, "Checkpoints that are kept; null: all.", at_least=1, nullable=True),
    Key("trainer.default_local_dir", "checkpoints/${trainer.project_name}/${trainer.experiment_name}", str, "Folder of the run."),
    Key("trainer.resume_mode", "auto", str, "auto: from the newest checkpoint of the run's folder, if any.", choices=("auto", "disable", "resume_path")),
    Key("trainer.resume_from_path", None, str, "Checkpoint folder (global_step_N) for resume_path.", nullable=True),
    Key("trainer.resume_data", "same", str, "Where the prompts or their order have changed since the checkpoint (seed, shuffle, limits, template, "
        "files): same refuses to go on, new_epoch begins a new epoch of the new ones. Not in verl.", choices=("same", "new_epoch")),
    Key("trainer.rollout_data_dir", None, str, "Write each step's responses here, with the numbers of each token, as parquet.", nullable=True),
    Key("trainer.rollout_data_freq", 1, int, "Every so many steps. Not in verl.", at_least=1),
    Key("trainer.validation_data_dir", None, str, "Write the responses of each validation here, as parquet.", nullable=True),
    Key("trainer.save_final_model", True, bool, "At the end write the policy as a model folder, <folder of the run>/model. Not in verl."),
)  # fmt: skip
