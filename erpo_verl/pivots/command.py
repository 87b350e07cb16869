"""``erpo pivots --model DIR --data FILE... --out DIR``: are the tokens of high entropy those that decide?

Samples responses, replaces single tokens (pivots, surprising ones, tokens of the same place, tokens of low entropy) by another draw and by
the second choice, lets the model go on, and reports how much the chance of a right answer, the answer and the length change. It can be
stopped at any time; the same command goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erpo_verl.evaluation import models, store
from erpo_verl.evaluation.problems import EvaluationError, build_prompts, read_problems
from erpo_verl.evaluation.rewording import ORIGINAL
from erpo_verl.models.errors import ModelError
from erpo_verl.prompts import Prompter
from erpo_verl.runs.versions import versions

if TYPE_CHECKING:
    from erpo_verl.models.parts import ModelParts

INTERRUPTED = 130  # exit code after Ctrl-C
BATCH = {"hf": 256, "vllm": 4096}  # responses at a time


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``erpo pivots``."""
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="model folder in Hugging Face's form")
    parser.add_argument("--tokenizer", type=Path, metavar="DIR", help="the tokenizer, where it is not the model's")
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that comes with the model")
    parser.add_argument("--data", type=Path, nargs="+", required=True, metavar="FILE", help="parquet files in verl's schema (erpo prepare)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of branches, figures and page; the same command goes on there")
    measured = parser.add_argument_group("what is measured")
    measured.add_argument("--limit", type=int, help="only the first so many rows of each file")
    measured.add_argument("--responses", type=int, default=8, help="responses to each problem, the group of the gate (8)")
    measured.add_argument("--sites", type=int, default=4, help="tokens of each kind a problem (4)")
    measured.add_argument("--n", type=int, default=8, help="continuations of each branch, at least 2 (8)")
    measured.add_argument("--shown", type=int, default=4, help="problems of which a right and a wrong response are measured token by token, for the page (4)")
    measured.add_argument("--shown-tokens", type=int, default=96, help="at most so many tokens of each, evenly spread (96)")
    measured.add_argument("--temperature", type=float, default=1.0, help="(1.0)")
    measured.add_argument("--top-p", type=float, default=1.0, help="(1.0)")
    measured.add_argument("--top-k", type=int, default=-1, help="-1 for the whole vocabulary (-1)")
    measured.add_argument("--max-tokens", type=int, default=2048, help="longest response, in tokens (2048)")
    measured.add_argument("--max-prompt-tokens", type=int, help="longer prompts are left out and counted (what the model's context leaves)")
    measured.add_argument("--seed", type=int, default=0, help="(0)")
    measured.add_argument("--template", type=json.loads, default={}, metavar="JSON", help='arguments of the chat template, as {"enable_thinking": false}')
    measured.add_argument("--reward", metavar="FILE.py", help="file, or pkg://module, of a reward function (the maths reward)")
    measured.add_argument("--reward-name", default="compute_score", help="its name (compute_score)")
    engine = parser.add_argument_group("engine")
    engine.add_argument("--engine", choices=("vllm", "hf"), default="vllm", help="(vllm)")
    engine.add_argument("--device", default="auto", help="auto, cuda or cpu; auto is cuda where there is one")
    engine.add_argument("--dtype", choices=("auto", "bfloat16", "float16", "float32"), default="auto", help="auto: bfloat16 on cuda, float32 on the CPU")
    engine.add_argument("--batch", type=int, help=f"responses at a time ({BATCH['hf']} with hf, {BATCH['vllm']} with vllm)")
    engine.add_argument("--problems-at-once", type=int, default=4, help="problems measured together (4)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar and no report")


def run(args: argparse.Namespace) -> int:
    """Measure and report; returns the exit code: 0, 1 on an error, 130 after Ctrl-C."""
    from erpo_verl.pivots.measure import PivotsError
    from erpo_verl.trainer.reward import RewardError

    try:
        _check(args)
        with store.locked(args.out):
            _measure(args)
    except (EvaluationError, ModelError, PivotsError, RewardError) as error:
        print(f"erpo pivots: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nerpo pivots: stopped; what was measured is in {args.out}. The same command goes on from there.", file=sys.stderr)
        return INTERRUPTED
    return 0


def _check(args: argparse.Namespace) -> None:
    """All that can be wrong with the arguments themselves."""
    least = {"limit": 1, "responses": 2, "sites": 1, "n": 2, "shown": 0, "shown_tokens": 1, "max_tokens": 2, "max_prompt_tokens": 1,
             "batch": 1, "problems_at_once": 1}  # fmt: skip
    for name, low in least.items():
        value = getattr(args, name)
        if value is not None and value < low:
            raise EvaluationError(f"--{name.replace('_', '-')} {value}: must be >= {low}")
    if not 0 < args.temperature < float("inf"):
        raise EvaluationError(f"--temperature {args.temperature}: must be > 0 (the model has to draw)")
    if not 0 < args.top_p <= 1:
        raise EvaluationError(f"--top-p {args.top_p}: must be in (0, 1]")
    if args.top_k != -1 and args.top_k < 1:
        raise EvaluationError(f"--top-k {args.top_k}: must be >= 1, or -1 for the whole vocabulary")
    if args.engine == "vllm" and args.device != "auto":
        raise EvaluationError(f"--device {args.device}: only for --engine hf; vLLM runs on what it was built for")
    if not isinstance(args.template, dict):
        raise EvaluationError(f"--template {json.dumps(args.template)}: expected an object")
    if args.out.is_file() or (args.out.is_dir() and not (args.out / store.SETTINGS).exists() and any(p.name != ".lock" for p in args.out.iterdir())):
        raise EvaluationError(f"--out {args.out}: holds other things; choose a new folder")
    if not args.model.is_dir():
        raise EvaluationError(f"--model {args.model}: no such folder")
    missing = [name for name in ("transformers", "pyarrow", "tqdm", *(["vllm"] if args.engine == "vllm" else [])) if importlib.util.find_spec(name) is None]
    if missing:
        raise EvaluationError(
            f"{', '.join(missing)} not installed: pip install 'erpo-verl[evaluation]'" + (", or choose --engine hf" if "vllm" in missing else "")
        )


def _measure(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from erpo_verl.models.parts import check_tokens
    from erpo_verl.pivots import measure, report

    problems, _ = read_problems(args.data, args.limit)
    parts = models.read(args.model, args.tokenizer, trust_remote_code=args.trust_remote_code)
    settings = _settings(args, parts)
    begun = store.read_settings(args.out) if (args.out / store.SETTINGS).is_file() else {}
    prompter = Prompter(parts.tokenizer, args.template, begun.get("template_date"))
    prompts, left_out = build_prompts(problems, prompter, ORIGINAL, settings["max_prompt_tokens"])
    check_tokens(parts, ((prompt.tokens, prompt.text) for prompt in prompts))
    if prompter.dated:
        settings["template_date"] = prompter.date
    if not prompts:
        raise EvaluationError(f"all {len(problems)} prompts are longer than {settings['max_prompt_tokens']} tokens; raise --max-prompt-tokens")
    judge = _judge(args)
    for warning in (*parts.notes, *store.check_settings(args.out, settings)):
        print(f"erpo pivots: {warning}", file=sys.stderr)
    done = measure.resume(args.out, prompts, args.problems_at_once)
    if too_long := len(left_out["too_long"]):
        print(f"left out: {too_long} prompts over {settings['max_prompt_tokens']} tokens", file=sys.stderr)
    if done < len(prompts):
        measurer, engine = _measurer(args, settings, parts, judge, len(prompts))
        try:
            with tqdm(total=len(prompts), initial=done, unit="problem", disable=args.quiet or None, smoothing=0.1) as bar:
                for first in range(done, len(prompts), args.problems_at_once):
                    some = prompts[first : first + args.problems_at_once]
                    measure.append(args.out, measurer.chunk(some, first, lambda count: bar.set_postfix(branches=count, refresh=True)))
                    bar.update(len(some))
        finally:
            engine.close()
    paths, told = report.write(args.out, measure.read_lines(args.out), settings)
    if not args.quiet:
        print(told)
        print("\n".join(map(str, paths)))


def _settings(args: argparse.Namespace, parts: ModelParts) -> dict[str, Any]:
    """All that decides what is measured; recorded in ``settings.json``."""
    device = models.choose_device(args.device)
    longest = models.longest_prompt(parts, args.max_tokens, args.max_prompt_tokens)
    reward = args.reward or "pkg://erpo_verl.reward"
    return {
        "model": str(args.model),
        "model_fingerprint": models.fingerprint(parts),
        "data": [str(path) for path in args.data],
        "data_sha256": [hashlib.sha256(path.read_bytes()).hexdigest() for path in args.data],
        **{name: getattr(args, name) for name in ("limit", "responses", "sites", "n", "shown", "shown_tokens", "temperature", "top_p", "top_k",
                                                  "max_tokens", "seed", "template", "engine", "problems_at_once")},
        "max_prompt_tokens": longest,
        "reward": f"{reward}:{args.reward_name}",
        "reward_sha256": hashlib.sha256(Path(reward).read_bytes()).hexdigest() if Path(reward).is_file() else None,
        "device": device,
        "dtype": args.dtype if args.dtype != "auto" else "bfloat16" if device.startswith("cuda") else "float32",
        "batch": args.batch or BATCH[args.engine],
        "versions": versions(args.engine),
    }  # fmt: skip


def _judge(args: argparse.Namespace) -> Any:
    from erpo_verl.trainer.reward import Judge, load_reward

    judge = Judge(load_reward(args.reward, args.reward_name))

    def all_of(asked: Sequence[Any], texts: Sequence[str], lengths: Sequence[int], finished: Sequence[bool]) -> tuple[list[float], list[str]]:
        scores, info = judge(asked, texts, lengths, finished)
        right = [float(a > 0.5) for a in info.get("acc", scores.tolist())]
        return right, [str(p) for p in info.get("pred", right)]

    return all_of


def _measurer(args: argparse.Namespace, settings: dict[str, Any], parts: ModelParts, judge: Any, problems: int) -> tuple[Any, Any]:
    """The measurer and its engine, which has to be closed."""
    import torch

    from erpo_verl.pivots.annotate import ModelAnnotator
    from erpo_verl.pivots.measure import Measurer, Plan

    shown = frozenset(int((i + 0.5) * problems / args.shown) for i in range(args.shown))  # spread over short and long prompts
    plan = Plan(
        responses=args.responses, sites=args.sites, n=args.n, max_tokens=args.max_tokens, temperature=args.temperature, top_p=args.top_p,
        top_k=args.top_k, seed=args.seed, shown=shown, shown_tokens=args.shown_tokens, at_once=args.problems_at_once,
    )  # fmt: skip
    if args.engine == "hf":
        engine = models.hf_engine(parts, settings)
        model = engine.model
    else:
        from erpo_verl.models.load import load_model

        # vLLM samples, transformers annotates: they share the device.
        model = load_model(parts, dtype=getattr(torch, settings["dtype"])).to(settings["device"]).eval()
        engine = models.vllm_engine(parts, settings, gpu_memory_utilization=0.5)
    measurer = Measurer(
        plan, engine, ModelAnnotator(model), judge, ends=parts.end_token_ids, decode=parts.decoder,
        pieces=lambda tokens: [piece or "" for piece in parts.tokenizer.convert_ids_to_tokens(list(tokens))],
    )  # fmt: skip
    return measurer, engine
