"""``erpo evaluate --model DIR --data FILE... --out DIR``: sampled accuracy of a model, with intervals and comparison.

Samples k responses a problem at one or several temperatures (and, on request, under rewordings of the prompt), judges
them with the maths reward, and reports avg@k, unbiased pass@k, maj@k, lengths and tokens per solved problem, by data
set and by level. It can be stopped at any time; the same command goes on. With ``--compare OTHER`` the result stands
beside another evaluation's, paired.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erpo_verl.evaluation import comparison, models, report, sampling, store
from erpo_verl.evaluation.problems import EvaluationError, Problem, leave_out_unreadable, read_problems
from erpo_verl.evaluation.rewording import ORIGINAL, REWORDINGS
from erpo_verl.models.errors import ModelError
from erpo_verl.prompts import Prompter
from erpo_verl.reward import POLICY_VERSION, RewardConfig, RewardSetupError, shared_judge
from erpo_verl.rollout import RolloutEngine
from erpo_verl.rows import ANSWER_FORMS
from erpo_verl.runs.versions import JUDGE, version, versions

if TYPE_CHECKING:
    from erpo_verl.models.parts import ModelParts

BATCH = {"hf": 128, "vllm": 4096}  # responses generated together, unless said otherwise
INTERRUPTED = 130  # exit code after Ctrl-C, as a shell gives it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``erpo evaluate``."""
    parser.add_argument("--model", type=Path, metavar="DIR", help="model folder in Hugging Face's form, or an adapter's (peft)")
    parser.add_argument("--tokenizer", type=Path, metavar="DIR", help="its tokenizer, where it is not in the model's folder")
    parser.add_argument("--trust-remote-code", action="store_true", help="let code that comes with the model run")
    parser.add_argument(
        "--data",
        type=Path,
        nargs="+",
        action="extend",
        metavar="FILE",
        help="parquet files in verl's schema (erpo prepare)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of samples and report; the same command goes on there",
    )
    parser.add_argument(
        "--compare",
        type=Path,
        metavar="OTHER",
        help="another evaluation's --out to compare with; alone with --out, nothing is sampled",
    )
    parser.add_argument(
        "--primary", metavar="NAME", help="with --compare: the one endpoint that is judged first, as avg@16, or math500:avg@16 for one data set (avg@k)"
    )
    parser.add_argument(
        "--secondary", metavar="NAME", action="append",
        help="with --compare: an endpoint of the secondary family, whose p values are corrected together; may be given several times; 'none' for none",
    )  # fmt: skip
    sampled = parser.add_argument_group("sampling")
    sampled.add_argument("--k", type=int, default=16, help="samples a problem (16)")
    sampled.add_argument(
        "--temperature",
        type=float,
        nargs="+",
        action="extend",
        metavar="T",
        help="one or several (0.6); 0 is greedy, with one sample a problem",
    )
    sampled.add_argument("--top-p", type=float, default=1.0, help="(1.0)")
    sampled.add_argument("--top-k", type=int, default=-1, help="-1 for the whole vocabulary (-1)")
    sampled.add_argument("--max-tokens", type=int, default=2048, help="longest response, in tokens (2048)")
    sampled.add_argument(
        "--max-prompt-tokens",
        type=int,
        help="longer prompts are left out and counted (what the model's context leaves)",
    )
    sampled.add_argument("--limit", type=int, help="only the first so many rows of each file")
    sampled.add_argument("--seed", type=int, default=0, help="(0)")
    sampled.add_argument(
        "--rewordings",
        nargs="*",
        metavar="NAME",
        help=f"ask again in other words at the first temperature; without names: all of {', '.join(REWORDINGS)}",
    )
    sampled.add_argument(
        "--template",
        type=json.loads,
        default={},
        metavar="JSON",
        help='arguments of the chat template, as {"enable_thinking": false}',
    )
    sampled.add_argument(
        "--answer-forms", choices=ANSWER_FORMS, help="how a final answer may be given: boxed, marked as in 'Answer: 7', or any (what the data say, else boxed)"
    )
    engine = parser.add_argument_group("engine")
    engine.add_argument("--engine", choices=("vllm", "hf"), default="vllm", help="(vllm)")
    engine.add_argument("--device", default="auto", help="auto, cuda or cpu; auto is cuda where there is one")
    engine.add_argument(
        "--dtype",
        choices=("auto", "bfloat16", "float16", "float32"),
        default="auto",
        help="auto: bfloat16 on cuda, float32 on the CPU",
    )
    engine.add_argument(
        "--batch", type=int, help=f"responses generated together ({BATCH['hf']} with hf, {BATCH['vllm']} with vllm)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar and no tables")


def run(args: argparse.Namespace) -> int:
    """Evaluate, compare, and print the tables; returns the exit code: 0, 1 on an error, 130 after Ctrl-C."""
    try:
        _check(args)
        if args.model:
            with store.locked(args.out):
                _evaluate(args)
        if args.compare:
            _compare(args)
    except (EvaluationError, ModelError, RewardSetupError) as error:
        print(f"erpo evaluate: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            f"\nerpo evaluate: stopped; what was sampled is in {args.out}. The same command goes on from there.",
            file=sys.stderr,
        )
        return INTERRUPTED
    return 0


def _check(args: argparse.Namespace) -> None:
    """All that can be wrong with the arguments themselves, before anything is read."""
    if not args.model and not args.compare:
        raise EvaluationError("give --model and --data, or --compare with the --out of an evaluation that is finished")
    if args.compare and args.compare.resolve() == args.out.resolve():
        raise EvaluationError(f"--compare {args.compare}: is --out itself")
    if args.compare:
        comparison.load(args.compare)
    if not args.model:
        if args.data:
            raise EvaluationError("--data without --model")
        return
    if not args.data:
        raise EvaluationError("--model without --data")
    args.temperature = list(dict.fromkeys(args.temperature or [0.6]))
    unknown = sorted(set(args.rewordings or []) - set(REWORDINGS))
    if unknown:
        raise EvaluationError(f"--rewordings {' '.join(unknown)}: known are {', '.join(REWORDINGS)}")
    # Given without names: all of them.
    args.rewordings = (
        [] if args.rewordings is None else [name for name in REWORDINGS if name in (args.rewordings or REWORDINGS)]
    )
    for name in ("k", "max_tokens", "max_prompt_tokens", "limit", "batch"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise EvaluationError(f"--{name.replace('_', '-')} {value}: must be >= 1")
    for temperature in args.temperature:
        if not 0 <= temperature < float("inf"):
            raise EvaluationError(f"--temperature {temperature}: must be >= 0")
    if not 0 < args.top_p <= 1:
        raise EvaluationError(f"--top-p {args.top_p}: must be in (0, 1]")
    if args.top_k != -1 and args.top_k < 1:
        raise EvaluationError(f"--top-k {args.top_k}: must be >= 1, or -1 for the whole vocabulary")
    if args.engine == "vllm" and args.device != "auto":
        raise EvaluationError(f"--device {args.device}: only for --engine hf; vLLM runs on what it was built for")
    if not isinstance(args.template, dict):
        raise EvaluationError(f"--template {json.dumps(args.template)}: expected an object")
    if args.out.exists() and not args.out.is_dir():
        raise EvaluationError(f"--out {args.out}: is a file")
    if (
        args.out.is_dir()
        and not (args.out / store.SETTINGS).exists()
        and any(p.name != ".lock" for p in args.out.iterdir())
    ):
        raise EvaluationError(f"--out {args.out}: holds other things; choose a new folder")
    if not args.model.is_dir():
        raise EvaluationError(f"--model {args.model}: no such folder")
    wanted = ["transformers", "pyarrow", "tqdm", "math_verify", *(["vllm"] if args.engine == "vllm" else [])]
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        raise EvaluationError(
            f"{', '.join(missing)} not installed: pip install 'erpo-verl[evaluation]'"
            + (", and vllm, or choose --engine hf" if "vllm" in missing else "")
        )


def _evaluate(args: argparse.Namespace) -> None:
    problems, repeated = read_problems(args.data, args.limit)
    parts = models.read(args.model, args.tokenizer, trust_remote_code=args.trust_remote_code)
    settings = _settings(args, parts, problems)
    problems, unreadable, line = leave_out_unreadable(problems)
    if line:
        print(f"erpo evaluate: {line}", file=sys.stderr)
    plan = _plan(args, problems, parts, settings)
    if unreadable:
        plan.left_out.setdefault(ORIGINAL, {})["gold_unreadable"] = unreadable
    for note in parts.notes:
        print(f"erpo evaluate: {note}", file=sys.stderr)
    for warning in store.check_settings(args.out, settings):  # only now: what is refused above leaves no trace
        print(f"erpo evaluate: {warning}", file=sys.stderr)
    judge = shared_judge()
    sampling.collect(
        args.out,
        plan,
        lambda: _engine(args, parts, settings),
        parts.decoder,
        judge,
        answer_forms=args.answer_forms,
        k=args.k,
        seed=args.seed,
        max_tokens=args.max_tokens,
        top_p=args.top_p,
        top_k=args.top_k,
        quiet=args.quiet,
    )
    lines = store.read_samples(args.out)
    missed = sum(sum(line.get("ungradeable", ())) for line in lines)
    if missed:
        print(f"erpo evaluate: {missed} samples could not be judged, and count neither as right nor as wrong", file=sys.stderr)
    built = report.build(lines, settings, plan.left_out, repeated)
    paths = report.write(args.out, built, lines, plan)
    if not args.quiet:
        print(report.markdown(built))
        print("\n".join(map(str, paths)))


def _plan(
    args: argparse.Namespace, problems: list[Problem], parts: ModelParts, settings: dict[str, Any]
) -> sampling.Plan:
    """The plan; where the chat template prints the date, ``settings`` get the one of the prompts: the day when it was begun."""
    from erpo_verl.models.parts import check_tokens

    begun = store.read_settings(args.out) if (args.out / store.SETTINGS).is_file() else {}
    prompter = Prompter(parts.tokenizer, args.template, begun.get("template_date"))
    # Where the model's context decides, a longer --max-prompt-tokens would be refused.
    room = {} if args.max_prompt_tokens else {"more_room": f"lower --max-tokens {args.max_tokens}: that is what it leaves of the model's {parts.context}"}
    plan = sampling.build_plan(
        problems,
        sampling.conditions(args.temperature, args.rewordings),
        prompter,
        k=args.k,
        batch=settings["batch"],
        max_prompt_tokens=settings["max_prompt_tokens"],
        **room,
    )
    check_tokens(parts, ((prompt.tokens, prompt.text) for prompt in plan.prompts.values()))
    if prompter.dated:
        settings["template_date"] = prompter.date
        parts.notes.append(f"the chat template prints the date: {prompter.date} in all prompts, also when this goes on")
    return plan


def _settings(args: argparse.Namespace, parts: ModelParts, problems: list[Problem]) -> dict[str, Any]:
    """All that decides the samples; recorded in ``settings.json``."""
    config = RewardConfig()
    device = models.choose_device(args.device)
    longest = models.longest_prompt(parts, args.max_tokens, args.max_prompt_tokens)
    return {
        "model": str(args.model),
        "model_fingerprint": models.fingerprint(parts),
        "data": [str(path) for path in args.data],
        "data_sha256": [hashlib.sha256(path.read_bytes()).hexdigest() for path in args.data],
        "limit": args.limit,
        "k": args.k,
        "temperatures": args.temperature,
        "rewordings": args.rewordings,
        "top_p": args.top_p,
        "top_k": args.top_k,
        "max_tokens": args.max_tokens,
        "max_prompt_tokens": longest,
        "template": args.template,
        "engine": args.engine,
        "device": device,
        "dtype": args.dtype if args.dtype != "auto" else "bfloat16" if device.startswith("cuda") else "float32",
        "batch": args.batch or BATCH[args.engine],
        "seed": args.seed,
        "judge": {**dataclasses.asdict(config), "answer_forms": ", ".join(sorted({p.answer_forms(args.answer_forms) for p in problems}))},
        "judge_versions": {"policy": POLICY_VERSION, **{name: version(name) for name in JUDGE}},
        "versions": versions(args.engine),
    }


def _engine(args: argparse.Namespace, parts: ModelParts, settings: dict[str, Any]) -> RolloutEngine:
    make: Callable[..., RolloutEngine] = models.vllm_engine if args.engine == "vllm" else models.hf_engine
    return make(parts, settings)


def _compare(args: argparse.Namespace) -> None:
    found = comparison.compare(args.compare, args.out, primary=args.primary, secondary=args.secondary)
    paths = comparison.write(args.out, found)
    if not args.quiet:
        print(comparison.markdown(found))
        print("\n".join(map(str, paths)))
