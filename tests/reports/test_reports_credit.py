"""`erpo inspect --methods`: each method's credit is what the core gives, and its figures are what they say."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
import torch
from runs_rows import row

from erpo_verl import cli, erpo_advantages
from erpo_verl.reports import credit
from erpo_verl.runs.rollouts import RolloutsError, write_rollouts


def rollouts() -> list[dict]:
    """Two prompts of four responses with unequal lengths, in one step; reproducible numbers."""
    rng = np.random.default_rng(0)
    rows = []
    for uid in ("p", "q"):
        for sample, (right, length) in enumerate([(True, 6), (False, 4), (True, 9), (False, 11)]):
            H = rng.gamma(1.0, 0.5, length)
            old = -rng.gamma(1.0, 0.7, length)
            z = (H - H.mean()) / H.std()
            rows.append(
                row(uid, sample, right, ["x"] * length, entropy=H.tolist(), z=z.tolist(), old_log_prob=old.tolist(),
                    ref_log_prob=(old + rng.normal(0, 0.1, length)).tolist())
            )  # fmt: skip
    return rows


@pytest.fixture
def file(tmp_path):
    return write_rollouts(tmp_path / "step_000003.parquet", rollouts())


def test_the_credit_is_what_the_core_gives(file):
    rows = credit.read_all(file)
    erpo, grpo = credit.credits(file, rows, credit.parse_specs(["erpo:gate.gamma=2,progress.eta=0.5", "grpo"]))
    longest = max(r["length"] for r in rows)

    def padded(column):
        return torch.tensor([[*r[column], *[0.0] * (longest - r["length"])] for r in rows])

    mask = torch.tensor([[True] * r["length"] + [False] * (longest - r["length"]) for r in rows])
    rewards = torch.zeros(len(rows), longest)
    for i, r in enumerate(rows):
        rewards[i, r["length"] - 1] = r["score"]
    expected = erpo_advantages(
        token_level_rewards=rewards, response_mask=mask, index=[r["uid"] for r in rows], entropy=padded("entropy"),
        old_log_probs=padded("old_log_prob"), ref_log_prob=padded("ref_log_prob"), config={"gate": {"gamma": 2.0}, "progress": {"eta": 0.5}}, step=3,
    ).advantages  # fmt: skip
    for i, r in enumerate(rows):
        np.testing.assert_allclose(erpo.advantages[i], expected[i, : r["length"]].numpy(), rtol=1e-6)
        # Two right and two wrong: (1 - 0.5) / (std of 0, 0, 1, 1 with correction 1).
        np.testing.assert_allclose(grpo.advantages[i], (1 if r["score"] else -1) * 0.5 / (math.sqrt(1 / 3) + 1e-6), rtol=1e-5)
        assert len(erpo.quantities["gate"][i]) == r["length"]


def test_figures_by_hand():
    rows = [
        row("p", 0, True, ["a"] * 10, z=[1.0] * 2 + [-1.0] * 8, old_log_prob=[-3.0] + [-1.0] * 9),
        row("p", 1, False, ["b"] * 10, z=[-1.0] * 10, old_log_prob=[-2.5] + [-1.0] * 9),
    ]
    outcome = credit.MethodCredit(credit.Spec("grpo", "grpo", {}), [np.ones(10), -np.ones(10)], {})
    A = [np.array([4.0, 2.0, *[1.0] * 8]), np.array([2.0, *[-1.0] * 9])]
    found = credit.figures(rows, credit.MethodCredit(credit.Spec("m", "m", {}), A, {}), outcome)
    total = 4 + 2 + 8 + 2 + 9
    assert found.size == pytest.approx(total / 20)
    assert found.on_pivots == pytest.approx(6 / total)  # the first two tokens of the first response
    assert found.on_surprising == pytest.approx((4 + 2) / total)  # two of twenty: -3 and -2.5
    assert found.by_window == pytest.approx([6 / total, 3 / total, *[2 / total] * 8])
    assert found.sign_differs == pytest.approx(1 / 20)
    log_probs, all_A = np.array([-3.0, *[-1.0] * 9, -2.5, *[-1.0] * 9]), np.concatenate(A)
    assert found.entropy_change == pytest.approx(-((log_probs * all_A).mean() - log_probs.mean() * all_A.mean()))
    assert found.entropy_change > 0  # unlikely tokens are pushed up: the policy gets broader


def test_correlations_are_pearsons():
    one, two, flat = np.array([1.0, 2.0, 4.0]), np.array([2.0, 0.0, 5.0]), np.zeros(3)
    found = credit.correlations([credit.MethodCredit(credit.Spec("", "", {}), [A[:2], A[2:]], {}) for A in (one, two, flat)])
    assert found[0, 1] == pytest.approx(np.corrcoef(one, two)[0, 1]) and found[0, 0] == pytest.approx(1)
    assert np.isnan(found[2, 2]) and np.isnan(found[0, 2])


def test_the_page_shows_each_response_once_a_method(file, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert cli.main(["inspect", str(file), "--out", str(out), "--methods", "erpo", "grpo", "erpo:gate.enable=false", "--groups", "1"]) == 0
    html = out.read_text()
    numbers = json.loads(re.search(r'id="numbers">(.*?)</script>', html, re.S)[1])
    assert len(numbers["responses"]) == 4 * 3 and html.count('class="tokens"') == 12
    gates = ["gate" in entry for entry in numbers["responses"]]
    assert gates == [True, False, False] * 4  # grpo has no gate, and it is off in the third
    said = capsys.readouterr().out
    assert "erpo:gate.enable=false" in said and "on pivots" in said and str(out) in said


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["erpa"], "there is no method 'erpa'; there are erpo"),
        (["erpo:gate.gama=3"], "the nearest known key is algorithm.erpo.gate.gamma"),
        (["erpo:gate.gamma=-3"], "must be a finite number >= 0"),
        (["erpo:gate.gamma"], "'gate.gamma' is not key=value"),
        (["grpo", "grpo"], "grpo is given twice"),
    ],
)
def test_a_wrong_method_is_one_line(file, capsys, given, message):
    assert cli.main(["inspect", str(file), "--methods", *given]) == 1
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said
    assert not file.with_suffix(".methods.html").exists()


def test_what_the_file_lacks_is_named(tmp_path, capsys):
    rows = [{**r, "ref_log_prob": None} for r in rollouts()]
    path = write_rollouts(tmp_path / "without_reference.parquet", rows)
    assert cli.main(["inspect", str(path), "--methods", "grpo", "erpo:progress.enable=false"]) == 0
    assert cli.main(["inspect", str(path), "--methods", "erpo"]) == 1
    assert "ref_log_prob is None, and the method uses it" in capsys.readouterr().err
    validation = write_rollouts(tmp_path / "validation.parquet", [{**r, "old_log_prob": None} for r in rows])
    with pytest.raises(RolloutsError, match="row 0: column 'old_log_prob' has no value"):
        credit.read_all(validation)
