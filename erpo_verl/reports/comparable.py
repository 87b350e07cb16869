"""May these runs be compared? Differences other than the algorithm's own, and what is missing, in words."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from erpo_verl.reports.runs import Run, by_arm, held_out
from erpo_verl.statistics import MIN_PAIRS

NOT_COMPARABLE, MISSING, NOTE = "not comparable", "missing", "note"

# Settings in which arms, or seeds of an arm, may differ: the algorithm, the seeds, names, places and what is only written down.
_ALGORITHM = re.compile(r"^(algorithm\..*|actor_rollout_ref\.actor\.policy_loss\.loss_mode)$")
_IGNORED = re.compile(
    r"^(.*seed|trainer\.(experiment_name|project_name|default_local_dir|logger|resume_mode|resume_from_path|save_freq|"
    r"max_actor_ckpt_to_keep|rollout_data_dir|validation_data_dir|val_before_train|log_val_generations|total_epochs)|"
    r"data\.(train_files|val_files)|actor_rollout_ref\.model\.(path|tokenizer_path)|ray_kwargs\..*)$"
)
# What changes time and memory, and results no further than by rounding.
_COMPUTING = re.compile(
    r".*(micro_batch_size|micro_batch_size_per_gpu|max_token_len_per_gpu|use_dynamic_bsz|num_workers|enforce_eager|attn_implementation|strategy|"
    r"gradient_checkpointing|use_remove_padding|use_torch_compile|free_cache_engine|enable_sleep_mode|gpu_memory_utilization|parallel_size|"
    r"max_num_seqs|max_num_batched_tokens|max_model_len|trainer\.(device|n_gpus_per_node|nnodes))$|transfer_queue\..*|trainer\.v1\..*"
)
_ABSENT = object()


@dataclass(frozen=True)
class Issue:
    """``level``: NOT_COMPARABLE, MISSING or NOTE; ``what``: a short name; ``text``: what it is and in which runs."""

    level: str
    what: str
    text: str


def issues(runs: Sequence[Run]) -> list[Issue]:
    """Everything that speaks against a comparison of these runs or is missing for it; the gravest first."""
    found = [*_records(runs), *_settings(runs), *_budget(runs), *_seeds(runs), *_metrics(runs), *_copies(runs)]
    order = (NOT_COMPARABLE, MISSING, NOTE)
    return sorted(found, key=lambda issue: order.index(issue.level))


def _names(runs: Sequence[Run]) -> str:
    return ", ".join(run.label for run in runs)


def _groups(runs: Sequence[Run], value: Callable[[Run], Any]) -> dict[str, list[Run]]:
    """Runs by what they have (as JSON); those of which it is not known (`_ABSENT`) are left out."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if (found := value(run)) is not _ABSENT:
            groups.setdefault(json.dumps(found, sort_keys=True), []).append(run)
    return groups


def _differs(groups: dict[str, list[Run]], show: Callable[[str], str] = str) -> str:
    return "; ".join(f"{show(value)} in {_names(runs)}" for value, runs in groups.items())


def _records(runs: Sequence[Run]) -> list[Issue]:
    found = []
    if renamed := [run for run in runs if run.recorded]:
        found.append(Issue(NOTE, "names", "runs with the same recorded name have their folders' names: " + ", ".join(f"{run.recorded} is {run.label}" for run in renamed)))
    without = [run for run in runs if "engine" not in run.record]
    if without:
        found.append(
            Issue(MISSING, "record", f"no run.json in {_names(without)}: whether data, start model and versions are the same was not checked")
        )
    for split in ("train", "val"):
        groups = _groups(runs, lambda run, split=split: _data(run, split))
        if len(groups) > 1:
            what = {"train": "training data", "val": "validation data"}[split]
            found.append(Issue(NOT_COMPARABLE, what, f"other {what}: {_differs(groups, _show_data)}"))
    groups = _groups(runs, _model)
    if len(groups) > 1:
        found.append(_start_models(runs, groups))
    groups = _groups(runs, lambda run: run.record.get("engine", _ABSENT))
    if len(groups) > 1:
        found.append(Issue(NOT_COMPARABLE, "engine", f"other engines: {_differs(groups, json.loads)}; a difference may be the engine's"))
    for name in sorted({name for run in runs for name in run.record.get("versions", {})}):
        groups = _groups(runs, lambda run, name=name: run.record.get("versions", {}).get(name, _ABSENT))
        if len(groups) > 1:
            found.append(Issue(NOT_COMPARABLE, "versions", f"other versions of {name}: {_differs(groups, _short)}"))
    groups = _groups(runs, lambda run: run.record["machine"] if isinstance(run.record.get("machine"), dict) else _ABSENT)
    if len(groups) > 1:
        found.append(Issue(NOTE, "machine", f"other machines, so times do not compare: {_differs(groups, _show_machine)}"))
    return found


def _start_models(runs: Sequence[Run], groups: dict[str, list[Run]]) -> Issue:
    """A start model for each seed, the same in every arm, keeps the pairs fair: the intervals then cover the start too."""
    by_seed = {seed: [run for run in runs if run.seed == seed] for seed in {run.seed for run in runs}}
    if None not in by_seed and all(len(_groups(members, _model)) == 1 for members in by_seed.values()):
        return Issue(NOTE, "start model", f"a start model for each seed, the same in all arms: {_differs(groups, _short)}")
    return Issue(NOT_COMPARABLE, "start model", f"other start models: {_differs(groups, _short)}")


def _data(run: Run, split: str) -> Any:
    if "data" not in run.record:
        return _ABSENT
    files = [entry for entry in run.record["data"] if entry.get("split") == split]
    if any(entry.get("sha256") is None for entry in files):
        return [entry.get("path") for entry in files]
    return [entry["sha256"] for entry in files]


def _model(run: Run) -> Any:
    model = run.record.get("model")
    if not isinstance(model, dict):
        return _ABSENT
    return model.get("sha256") or [model.get("path"), model.get("revision")]


def _short(value: str) -> str:
    value = json.loads(value)
    text = value if isinstance(value, str) else json.dumps(value)
    return text[:12] + "…" if re.fullmatch(r"[0-9a-f]{64}", text) else text


def _show_data(value: str) -> str:
    hashes = json.loads(value)
    return ", ".join(_short(json.dumps(entry)) for entry in hashes) or "none"


def _show_machine(value: str) -> str:
    machine = json.loads(value)
    gpus = machine.get("gpus") or []
    return f"{machine.get('cpu')}, {machine.get('cores')} cores" + (f", {len(gpus)} x {gpus[0]}" if gpus else "")


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings with dotted keys."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _settings(runs: Sequence[Run]) -> list[Issue]:
    configs = {run.label: flatten(run.record["config"]) for run in runs if isinstance(run.record.get("config"), dict)}
    known = [run for run in runs if run.label in configs]
    one_engine = len({run.record.get("engine") for run in known}) < 2
    found = []
    for key in sorted({key for config in configs.values() for key in config}):
        if _IGNORED.match(key):
            continue
        groups = _groups(known, lambda run, key=key: _setting(configs[run.label], key, one_engine))
        if len(groups) < 2:
            continue
        if _COMPUTING.fullmatch(key):
            found.append(Issue(NOTE, "computing", f"{key}: {_differs(groups, _show_setting)}; changes time and memory, results by rounding"))
            continue
        if not _ALGORITHM.match(key):
            found.append(Issue(NOT_COMPARABLE, "settings", f"{key}: {_differs(groups, _show_setting)}"))
            continue
        for arm, members in by_arm(known).items():
            inside = _groups(members, lambda run, key=key: _setting(configs[run.label], key, one_engine))
            if len(inside) > 1:
                found.append(Issue(NOT_COMPARABLE, "settings", f"runs of the one arm {arm} have other {key}: {_differs(inside, _show_setting)}"))
    return found


def _setting(config: dict[str, Any], key: str, one_engine: bool) -> Any:
    # Engines record other sets of keys, and null is each one's own default: of these nothing is known. 1 and 1.0 are the same.
    value = config.get(key, _ABSENT)
    if value is None and not one_engine:
        return _ABSENT
    if value is _ABSENT:
        return {"not given": True} if one_engine else _ABSENT
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _show_setting(value: str) -> str:
    found = json.loads(value)
    if found == {"not given": True}:
        return "not given"
    return format(found, "g") if isinstance(found, float) else value


def _budget(runs: Sequence[Run]) -> list[Issue]:
    found = []
    groups = _groups(runs, lambda run: run.last_step)
    if len(groups) > 1:
        found.append(Issue(NOT_COMPARABLE, "budget", f"other numbers of steps: {_differs(groups)}; numbers are taken at a step that all have"))
    names = [one.name for one in held_out(runs)]
    groups = _groups(runs, lambda run: sorted({step for name in names for step in run.series.get(name, ())}) or _ABSENT)
    if len(groups) > 1:
        found.append(Issue(NOTE, "validation", f"validated at other steps: {_differs(groups)}"))
    return found


def _seeds(runs: Sequence[Run]) -> list[Issue]:
    arms = by_arm(list(runs))
    base, *others = arms
    found = []
    for other in others:
        a, b = ({run.seed for run in arms[arm]} for arm in (base, other))
        if a != b:
            left = ", ".join("none" if seed is None else str(seed) for seed in sorted(a ^ b, key=lambda s: -1 if s is None else s))
            found.append(Issue(MISSING, "seeds", f"{other} and {base} do not have the same seeds; without a partner: {left}"))
    for other in others:
        pairs = len({run.seed for run in arms[base]} & {run.seed for run in arms[other]})
        if pairs < MIN_PAIRS:
            found.append(Issue(MISSING, "seeds", f"{pairs} pair{'' if pairs == 1 else 's'} of {other} and {base}: a verdict takes {MIN_PAIRS}"))
    if not others:
        found.append(Issue(NOTE, "arms", f"one arm only ({base}): there is nothing to compare it with"))
    return found


def _metrics(runs: Sequence[Run]) -> list[Issue]:
    found = []
    sources = [one.name for one in held_out(runs)]
    without = [run for run in runs if not any(name in run.series for name in sources)]
    if without:
        found.append(Issue(MISSING, "validation", f"no held-out accuracy (val-*/<source>/acc/mean@k) or reward in {_names(without)}"))
    for name in [*sources, "critic/score/mean", "response_length/mean", "actor/entropy"]:
        lacking = [run for run in runs if name not in run.series and not (name in sources and run in without)]
        if lacking:
            found.append(Issue(MISSING, "metrics", f"no {name} in {_names(lacking)}"))
    untold = [run for run in runs if not run.tokens]
    if untold:
        found.append(
            Issue(MISSING, "tokens", f"generated tokens cannot be counted in {_names(untold)}: they need perf/total_num_tokens, "
                  "response_length/mean and prompt_length/mean at each step")
        )  # fmt: skip
    for run in runs:
        for name, steps in run.broken.items():
            shown = ", ".join(map(str, steps[:8])) + (f" and {len(steps) - 8} more" if len(steps) > 8 else "")
            found.append(Issue(NOTE, "numbers", f"{name} of {run.label} has no number at step {shown} (an empty set, or not finite); left out"))
    return found


def _copies(runs: Sequence[Run]) -> list[Issue]:
    """Two runs with the same numbers everywhere but in their times are one run, counted twice."""
    found = []
    for i, run in enumerate(runs):
        for other in runs[i + 1 :]:
            same = [name for name in run.series if name in other.series and not name.startswith(("timing", "perf/", "training/"))]
            moved = [name for name in same if len(set(run.series[name].values())) > 1]
            if moved and all(run.series[name] == other.series[name] for name in moved):
                found.append(Issue(NOT_COMPARABLE, "copies", f"{run.label} and {other.label} have the same numbers at every step: one run twice?"))
    return found
