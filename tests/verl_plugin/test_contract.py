"""What is relied on in verl, against the installed verl: a new release that changes it fails here, with the reason."""

from __future__ import annotations

import pytest

pytest.importorskip("verl")

from erpo_verl import doctor
from erpo_verl.verl_plugin import contract


@pytest.mark.parametrize("clause", contract.CONTRACT, ids=lambda c: f"{c.module}.{c.symbol}")
def test_clause(clause):
    assert clause.problem() is None


@pytest.mark.parametrize(
    ("clause", "expected"),
    [
        (contract.Clause("verl.no_such_module", "x", "reason A"), ("verl.no_such_module", "reason A")),
        (contract.Clause(contract.CORE, "no_such_function", "reason B"), ("no_such_function", "reason B")),
        (contract.Clause(contract.CORE, "agg_loss", "reason C", ("no_such_parameter",)), ("no_such_parameter", "reason C")),
        (contract.Clause(contract.CORE, "agg_loss", "reason D", (), ("no such text",)), ("no such text", "reason D")),
    ],
)
def test_a_broken_clause_names_the_symbol_and_the_reason(clause, expected):
    message = clause.problem()
    assert message is not None and all(part in message for part in expected) and "\n" not in message


def test_doctor_is_green_here(capsys):
    assert doctor.run(None) == 0
    text = capsys.readouterr().out
    assert "All is as expected." in text and "WRONG" not in text and "MISSING" not in text


def test_doctor_fails_where_the_contract_is_broken(capsys, monkeypatch):
    broken = contract.Clause(contract.CORE, "no_such_function", "does something")
    monkeypatch.setattr(contract, "CONTRACT", (*contract.CONTRACT, broken))
    assert doctor.run(None) == 1
    text = capsys.readouterr().out
    assert "no_such_function" in text and "1 thing wrong" in text


def test_doctor_fails_where_the_plugin_is_not_registered(capsys, monkeypatch):
    monkeypatch.setenv("VERL_USE_EXTERNAL_PLUGINS", "none")
    assert doctor.run(None) == 1
    assert "does not have `erpo`" in capsys.readouterr().out
