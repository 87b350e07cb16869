"""The study's runner: what it runs, when a run has spent its budget, what it keeps, and how it chooses a rate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("yaml")
pytest.importorskip("torch")

from benchmarks.study import __main__ as study
from benchmarks.study import one, tables
from benchmarks.study.protocol import Bed, Run, StudyError, arm_overrides, load, rate_text


def step(number: int, *, response: float = 20.0, prompt: float = 12.0, rows: int = 256, **more: float) -> dict:
    data = {"perf/total_num_tokens": rows * (response + prompt), "response_length/mean": response, "prompt_length/mean": prompt, **more}
    return {"step": number, "data": data}


def write(folder: Path, lines: list[dict], *, finished: bool = True) -> None:
    (folder / "model").mkdir(parents=True) if finished else folder.mkdir(parents=True)
    (folder / one.METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))


def kept(folder: Path, run: Run, accuracy: float, coverage: float = 0.5, *, entropy: float = 0.25, lengths: dict | None = None) -> None:
    """What `execute` leaves of a run, with known figures."""
    place = folder / run.bed / run.name
    place.mkdir(parents=True)
    (place / one.RECORD).write_text(json.dumps({"seed": run.seed, "study": {"bed": run.bed, "arm": run.arm, "rate": run.rate}}))
    (place / one.METRICS).write_text(json.dumps({"step": 9, "data": {"actor/entropy": entropy}}) + "\n")
    figures = {"accuracy": accuracy, "pass": coverage, "length": 20.0, "length_right": 18.0, "k": 8, "right": "0480"}
    figures["levels"] = {level: {"length_right": length} for level, length in (lengths or {"3": 10.0}).items()}
    (place / one.EVALUATION).write_text(json.dumps(dict.fromkeys(("test", "beyond", "cool", "warm"), figures)))


# --- protocol


def test_the_protocol_as_shipped() -> None:
    protocol = load()
    grid = list(protocol.grid())
    assert len(grid) == len(set(grid)) == 3 * 3 * len(protocol.pilot["grid_seeds"]) * sum(map(len, protocol.arms))
    assert len(protocol.rates) >= 5 and {*protocol.pilot["rates"]} < {*protocol.rates}
    wide = list(protocol.wide())
    assert len(wide) == len(set(wide)) and {run.rate for run in wide} == {*protocol.rates} and {run.arm for run in wide} == {"grpo", "erpo"}
    pilot = {*protocol.pilot["grid_seeds"], *protocol.pilot["more_seeds"]}
    assert pilot == {100, 101} and not pilot & {*protocol.confirm["seeds"], *protocol.small["seeds"]}
    for bed in protocol.beds.values():
        assert (study.ROOT / bed.config).is_file()
    for rate in protocol.rates[2:]:  # a third of it is in the grid, to a few per cent
        assert min(abs(rate / 3 / other - 1) for other in protocol.rates) < 0.05


def test_arms_are_lines_of_two_files() -> None:
    assert arm_overrides("gate_mean_one") == ["+algorithm.erpo.gate.normalize=mean_one"]
    assert "actor_rollout_ref.actor.entropy_coeff=0.003" in arm_overrides("entropy_bonus")
    assert arm_overrides("no such arm") is None


def test_every_arm_that_this_version_has_is_settings_that_the_trainer_takes() -> None:
    from erpo_verl.trainer.settings import compose

    protocol = load()
    for bed in protocol.beds.values():
        for arm in (arm for tier in protocol.arms for arm in tier):
            if (overrides := arm_overrides(arm)) is not None:
                settings = compose([bed.config, "algorithm.adv_estimator=erpo", *overrides, *bed.overrides])
                assert settings.actor_rollout_ref.actor.use_kl_loss and settings.actor_rollout_ref.actor.kl_loss_coef == 0


def test_the_confirmation_needs_rates_that_were_chosen(tmp_path) -> None:
    protocol = load()
    with pytest.raises(StudyError, match="chosen rate"):
        list(vars(type(protocol))["confirmation"](type(protocol)(**{**vars(protocol), "chosen": {}})))
    rates = {arm: 3e-4 for arm in [*protocol.confirm["arms"], "gate_mean_one"]}
    chosen = type(protocol)(**{**vars(protocol), "chosen": {"arithmetic": rates}})
    runs = list(chosen.confirmation())
    assert {run.arm for run in runs[:20]} == {"grpo", "erpo"} and len({run.seed for run in runs[:20]}) == 10  # the primary comparison first
    assert len(runs) == 10 * (len(protocol.confirm["arms"]) + 1)
    assert {run.arm for run in runs if run.seed == 0} == {*protocol.confirm["arms"], "gate_mean_one"}
    lacking = type(protocol)(**{**vars(protocol), "chosen": {"arithmetic": rates, "bad_habits": {"grpo": 3e-4}}})
    with pytest.raises(StudyError, match="bad_habits/erpo"):
        list(lacking.confirmation())


def test_a_bed_with_seeds_of_its_own_and_one_that_joined_late() -> None:
    protocol = load()
    runs = list(protocol.confirmation())
    assert sorted({run.seed for run in runs if run.bed == "countdown"}) == [0, 1, 2, 3, 4]
    assert {run.seed for run in runs if run.bed == "arithmetic"} == set(range(10))
    assert "countdown" not in protocol.confirm["claims"]


def test_names() -> None:
    assert [rate_text(rate) for rate in (1e-4, 1.7e-4, 3e-4, 1e-3)] == ["1e-4", "1.7e-4", "3e-4", "1e-3"]
    assert Run("arithmetic", "erpo", 1.7e-4, 100).name == "erpo-lr1.7e-4-s100"


# --- the budget


BED = Bed("bed", "task", "config.yaml", tokens=100_000, max_steps=50)


def test_a_run_goes_on_until_the_step_nearest_to_its_budget(tmp_path) -> None:
    folder = tmp_path / "run"
    assert one._next_stretch(folder, BED) == one.FIRST_STEPS
    write(folder, [step(n) for n in range(1, 11)])  # 5,120 tokens a step: the budget is 19.53 steps
    assert one._next_stretch(folder, BED) == 10 + int(0.9 * (100_000 - 51_200) / 5120)
    (folder / one.METRICS).write_text("".join(json.dumps(step(n)) + "\n" for n in range(1, 20)))
    assert one._next_stretch(folder, BED) == 20  # 19 steps are .53 steps short
    (folder / one.METRICS).write_text("".join(json.dumps(step(n)) + "\n" for n in range(1, 21)))
    assert one._next_stretch(folder, BED) is None
    (folder / one.METRICS).write_text("".join(json.dumps(step(n, response=1.0)) + "\n" for n in range(1, 51)))
    assert one._next_stretch(folder, BED) is None  # the limit of steps


def test_a_first_stretch_that_was_broken_off_is_gone_on_with(tmp_path) -> None:
    write(tmp_path / "run", [step(n) for n in range(1, 5)], finished=False)
    assert one._next_stretch(tmp_path / "run", BED) == one.FIRST_STEPS


def test_tokens_that_dynamic_sampling_threw_away_count() -> None:
    start = {"step": 0, "data": {"val-core/x/acc/mean@2": 0.5}}
    half = {"training/filter_groups/kept_share/mean": 0.5}
    assert one._generated([start, step(1), step(2, **half)]) == pytest.approx([0.0, 5120.0, 5120.0 + 10240.0])


# --- what is kept


def test_what_is_kept_is_small_and_its_tokens_add_up() -> None:
    lines = [{"step": 0, "data": {"val-core/x/acc/mean@2": 0.25, "val-aux/x/acc/std@2": 0.1}}]
    lines += [step(n, **{"actor/entropy": 0.123456789, "reward/latency_s/max": 1.0, "erpo/gate/mean": 0.3}) for n in range(1, 36)]
    thin = one.thinned(lines)
    assert [line["step"] for line in thin] == [0, 10, 20, 30, 35]
    assert one._generated(thin)[-1] == pytest.approx(35 * 256 * 20.0)
    assert thin[0]["data"] == {"val-core/x/acc/mean@2": 0.25}
    assert thin[1]["data"]["actor/entropy"] == 0.12346 and thin[1]["data"]["erpo/gate/mean"] == 0.3
    assert "reward/latency_s/max" not in thin[1]["data"]


def test_the_best_rate_needs_the_whole_grid(tmp_path) -> None:
    protocol = load()
    protocol = type(protocol)(**{**vars(protocol), "pilot": {**protocol.pilot, "grid_seeds": [100, 101], "more_seeds": [102]}})
    rates = protocol.pilot["rates"]
    for i, rate in enumerate(rates):
        for seed in protocol.pilot["grid_seeds"]:
            if (i, seed) != (2, 101):
                kept(tmp_path, Run("arithmetic", "erpo", rate, seed), accuracy=[0.5, 0.9, 0.3][i] + (seed - 100) * 0.01)
    assert tables.best_rates(protocol, tables.read(tmp_path)) == {}
    kept(tmp_path, Run("arithmetic", "erpo", rates[2], 101), accuracy=0.1)
    assert tables.best_rates(protocol, tables.read(tmp_path)) == {("arithmetic", "erpo"): rates[1]}
    kept(tmp_path, Run("arithmetic", "erpo", protocol.rates[0], 100), accuracy=1.0)  # of one seed alone: not whole
    assert tables.best_rates(protocol, tables.read(tmp_path)) == {("arithmetic", "erpo"): rates[1]}
    kept(tmp_path, Run("arithmetic", "erpo", protocol.rates[0], 101), accuracy=1.0)
    assert tables.best_rates(protocol, tables.read(tmp_path)) == {("arithmetic", "erpo"): protocol.rates[0]}
    edges = list(protocol.edges({("arithmetic", "erpo"): rates[0], ("arithmetic", "grpo"): rates[1], ("bad_habits", "erpo"): rates[2]}))
    assert {(run.bed, run.rate) for run in edges} == {("arithmetic", 1e-4), ("bad_habits", 9e-4)} and {run.arm for run in edges} == {"erpo"}
    more = list(protocol.more({("arithmetic", "erpo"): 3e-4, ("arithmetic", "fade_60"): 1.7e-4}))
    assert more == [Run("arithmetic", "fade_60", 1.7e-4, 102)]


def test_the_width_of_the_plateau_counts_neighbours_of_the_best() -> None:
    rates = load().rates
    assert tables.plateau(rates, dict(zip(rates, [0.80, 0.10, 0.75, 0.80, 0.73], strict=True))) == 1  # the first of equals, alone
    assert tables.plateau(rates, dict(zip(rates, [0.10, 0.78, 0.75, 0.81, 0.73], strict=True))) == 4
    assert tables.plateau(rates, dict(zip(rates, [0.1, 0.1, 0.9, 0.2, 0.1], strict=True))) == 1


def test_tables_of_known_runs(tmp_path) -> None:
    protocol = load()
    protocol = type(protocol)(**{**vars(protocol), "chosen": {"arithmetic": {"grpo": 3e-4, "erpo": 1.7e-4}}})
    for seed, grpo, erpo in ((0, 0.50, 0.60), (1, 0.40, 0.60), (2, 0.60, 0.90)):
        kept(tmp_path, Run("arithmetic", "grpo", 3e-4, seed), grpo)
        kept(tmp_path, Run("arithmetic", "erpo", 1.7e-4, seed), erpo)
        kept(tmp_path, Run("arithmetic", "erpo", 9e-4, seed), 0.0)  # another rate: of the plateau, not of the comparison
    kept(tmp_path, Run("bad_habits", "grpo", 3e-4, 100), 0.125)
    text = tables.markdown(protocol, tables.read(tmp_path))
    # differences .1, .2, .3: mean .2, standard deviation .1, t(2) = 4.303: half the interval is .248
    assert "| erpo, 1.7e-4 | 3 | 0.700 ± 0.173 |" in text and "+0.200 [-0.048, +0.448]" in text
    assert "| grpo | " in text and "0.125 / 0.500 (1)" in text
    assert "| erpo |  | 0.700 / 0.500 (3) |  |  | 0.000 / 0.500 (3) |  |" in text


def test_a_run_that_broke_down_counts_as_nothing_solved(tmp_path) -> None:
    run = Run("arithmetic", "grpo", 9e-4, 100)
    kept(tmp_path, run, 0.5)
    (tmp_path / run.bed / run.name / one.EVALUATION).write_text(json.dumps({"failure": "no gradient of the last steps was finite"}))
    found = tables.read(tmp_path)[0]
    assert found.value("accuracy") == 0.0 and found.value("length") != found.value("length")
    assert "broke down" in tables.one_line(tmp_path / run.bed / run.name)


def test_only_and_list(tmp_path, capsys) -> None:
    arguments = ["--pilot", "--list", "--keep", str(tmp_path), "--only", "bad_habits/erpo"]
    kept(tmp_path, Run("bad_habits", "erpo", 3e-4, 100), 0.5)
    assert study.main(arguments) == 0
    listed = [line for line in capsys.readouterr().out.splitlines() if "/" in line]
    assert len(listed) == 3 and all("bad_habits/erpo-lr" in line for line in listed)
    assert [line for line in listed if line.startswith("x ")] == ["x bad_habits/erpo-lr3e-4-s100"]
    assert study.main(["--run", "nowhere", "erpo", "3e-4", "0", "--keep", str(tmp_path)]) == 2
    assert "no bed 'nowhere'" in capsys.readouterr().err
    assert study.main(["--run", "arithmetic", "nothing", "3e-4", "0", "--keep", str(tmp_path), "--work", str(tmp_path)]) == 2


# --- a whole run


def test_a_run_from_the_start_policy_to_what_is_kept(tmp_path, monkeypatch) -> None:
    from erpo_verl.reports.runs import read_run
    from examples.arithmetic import prepare, warm_start

    tiny = warm_start.Settings(steps=2, layers=1, hidden=64, intermediate=64, levels=(3, 4))
    monkeypatch.setattr(warm_start, "main", lambda argv: warm_start.make(Path(argv[argv.index("--out") + 1]), tiny, eval_problems=2, quiet=True))
    monkeypatch.setattr(prepare, "SIZES", {"train": 16, "validation": 4, "test": 8, "beyond": 4})
    overrides = ("data.train_batch_size=4", "actor_rollout_ref.actor.ppo_mini_batch_size=4", "actor_rollout_ref.rollout.n=2",
                 "data.max_response_length=8", "reward.num_workers=1")  # fmt: skip
    bed = Bed("arithmetic", "examples.arithmetic", "examples/arithmetic/erpo.yaml", tokens=600, max_steps=12, overrides=overrides)
    asked = {"test": {"file": "test", "temperature": 1.0, "k": 2, "problems": 4}}
    protocol = load()
    protocol = type(protocol)(**{**vars(protocol), "beds": {"arithmetic": bed}, "evaluation": asked})
    run = Run("arithmetic", "erpo", 3e-4, 5)
    folder = one.execute(run, protocol, tmp_path / "work", tmp_path / "kept", tmp_path / "dump")
    assert [path.name for path in (tmp_path / "dump").iterdir()] == ["step_000010.parquet"]
    assert sorted(path.name for path in folder.iterdir()) == sorted([one.RECORD, one.METRICS, one.EVALUATION])
    assert [path.name for path in folder.parent.iterdir()] == [run.name]
    found = read_run(folder)
    assert (found.arm, found.seed) == ("erpo-lr3e-4", 5)
    assert str(tmp_path) not in (folder / one.RECORD).read_text() and '"outputs/study/arithmetic/start-5"' in (folder / one.RECORD).read_text()
    figures = json.loads((folder / one.EVALUATION).read_text())
    lines = [json.loads(line) for line in (tmp_path / "work/arithmetic/runs" / run.name / one.METRICS).read_text().splitlines()]
    assert figures["generated_tokens"] == pytest.approx(one._generated(lines)[-1])
    assert lines[-1]["step"] in (10, 11, 12) and found.tokens[found.last_step] == pytest.approx(figures["generated_tokens"], rel=1e-3)
    assert len(figures["test"]["right"]) == 4 and set(figures["test"]["levels"]) == {"3", "4", "5", "6"}
    assert figures["test"]["accuracy"] == sum(int(c, 16) for c in figures["test"]["right"]) / 8
    assert not list((tmp_path / "work/arithmetic/runs" / run.name).glob("global_step_*"))
    before = (folder / one.EVALUATION).stat().st_mtime_ns
    assert one.execute(run, protocol, tmp_path / "work", tmp_path / "kept") == folder  # a finished run is not made again
    assert (folder / one.EVALUATION).stat().st_mtime_ns == before
    with pytest.raises(StudyError, match="rollouts of its steps would be missing"):
        one.execute(run, protocol, tmp_path / "work", tmp_path / "kept", tmp_path / "another_dump")
