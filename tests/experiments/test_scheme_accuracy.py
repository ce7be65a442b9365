"""`dysonjax check`: what it measures, what it accepts, and its exit code."""

import io

import numpy as np
import pytest
from rich.console import Console

from dysonjax.cli.app import main
from dysonjax.experiments import scheme_accuracy as check


def line(bias, error=0.001, tolerance: float | None = 0.01, **fields):
    given = {"setting": "6 levels", "scheme": "matrix_kick", "dt": 0.03, "quantity": "⟨Σx²⟩", **fields}
    return check.Line(bias=bias, error=error, tolerance=tolerance, **given)


def test_good_and_bad_lines():
    assert line(0.005).good
    assert line(0.012).good  # within three standard errors of its tolerance
    assert not line(0.02).good
    assert not line(0.0, error=0.02).good  # no power: it could not have seen an error
    assert line(5.0, tolerance=None).good  # nothing is promised


@pytest.mark.parametrize("power", [0.5, 1, 2])
def test_order_is_the_power_of_the_bias(power):
    lines = [line(0.3 * dt**power, error=1e-5, dt=dt) for dt in (0.3, 0.1, 0.03)]
    found, error = check.order(lines, "matrix_kick")
    assert found == pytest.approx(power, rel=1e-6)
    assert error < 0.1


def test_a_bias_that_changes_sign_has_no_order():
    lines = [line(bias, error=1e-5, dt=dt) for bias, dt in ((0.1, 0.3), (-0.01, 0.1))]
    assert np.isnan(check.order(lines, "matrix_kick")[0])


def test_the_default_passes_and_euler_does_not():
    """Both measured, 4 levels, β = 1; Euler–Maruyama judged by the default's standards."""
    default = list(check.in_equilibrium(4, 1, "matrix_kick", 0.3, 8192, True))
    promised = [found for found in default if found.tolerance is not None]
    assert promised
    assert all(found.good for found in promised)
    euler = list(check.in_equilibrium(4, 1, "euler_maruyama", 0.3, 8192, True))
    assert not all(found.good for found in euler)


def test_in_time():
    found = list(check.in_time(3, 1, 6, 0.3, 16384))
    assert len(found) == 6
    assert all(line.good for line in found)


def test_tables_show_every_number():
    lines = [
        line(0.001),
        line(0.05),
        line(0.002, quantity="⟨r⟩"),
        line(0.001, setting="6 levels, t = 0.3", tolerance=0.02),
    ]
    console = Console(width=140, record=True, file=io.StringIO())
    for table in check.tables(
        lines, [check.Cost("matrix_kick", 2e7, 1.9, 0.1), check.Cost("other", 1e6, np.nan, np.nan)]
    ):
        console.print(table)
    text = console.export_text()
    assert "+5.00 ± 0.10 %*" in text
    assert "FAILS" in text
    assert "1.90 ± 0.10" in text
    assert "20.0" in text


@pytest.mark.parametrize(("bias", "code"), [(0.001, 0), (0.5, 1)])
def test_exit_code(bias, code, monkeypatch, capsys):
    monkeypatch.setattr(check, "check", lambda replicas, advance: ([line(bias)], []))
    assert main(["check"]) == code
    said = capsys.readouterr()
    assert ("1 of 1 numbers are out of tolerance" in said.err) == (code == 1)
    assert ("All 1 promised numbers hold." in said.out) == (code == 0)


def test_too_few_replicas_are_refused(capsys):
    assert main(["check", "--replicas", "3"]) == 2
    assert "replicas = 3: expected at least 256" in capsys.readouterr().err
