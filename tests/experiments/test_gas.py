"""`dysonjax simulate`: a gas from the command line to table and figures."""

import types
from typing import Any

import jax
import numpy as np
import pytest

from dysonjax import ensembles, spectra
from dysonjax.cli.app import main
from dysonjax.experiments import running
from dysonjax.experiments.gas import figures as gas_figures
from dysonjax.experiments.gas import statistics as gas
from dysonjax.experiments.gas.experiment import GasRun
from dysonjax.experiments.gas.statistics import statistics
from dysonjax.spectra import Estimate
from dysonjax.storage import store
from tests.drawing import composed, drawn_once

SMALL = ["--levels", "8", "--temperature", "0.1,1", "--seeds", "64", "--steps", "60", "--dt", "0.1"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small run made by the command."""
    out = tmp_path_factory.mktemp("gas") / "run"
    assert main(["gas", *SMALL, "--out", str(out)]) == 0
    return out


def test_the_command_leaves_store_table_and_figures(finished):
    assert (finished / "report.txt").read_text().startswith("8 levels, β = 1, after t = 6")
    assert {p.name for p in (finished / "figures").iterdir()} == {
        "density.png", "level_flow.png", "rigidity.png", "spacings.png",
    }  # fmt: skip


def test_a_stored_run_knows_its_settings(finished):
    run = running.experiment_of(finished)
    assert run == GasRun(levels=8, temperature=(0.1, 1.0), seeds=64, steps=60, dt=0.1)


def test_report_and_resume_compute_nothing(finished, capsys):
    before = (finished / "report.txt").read_text()
    with composed():
        assert main(["report", str(finished)]) == 0
        assert main(["gas", "--resume", str(finished)]) == 0
    assert (finished / "report.txt").read_text() == before


def test_statistics_are_those_of_the_law(finished):
    run = running.experiment_of(finished)
    assert isinstance(run, GasRun)
    for s in statistics(run, store.load(finished).dataset()):
        square = spectra.curve((s.levels**2).sum(1))
        assert abs(square.value - s.temperature * 36) < 5 * square.error
        assert s.diverged == s.violations == s.unconverged == 0
        assert abs(s.balance.value) < 5 * s.balance.error
        assert s.spacings.mean() == pytest.approx(1, abs=0.1)


def test_laws_of_the_density():
    symmetric = GasRun(levels=8, stiffness=2.0, coupling=3.0, beta=2.0).density_law(0.5)
    assert symmetric is not None
    assert float(symmetric.support[1]) == pytest.approx(np.sqrt(2 * 2 * 8 * 0.5 * 9 / 2))
    gram = GasRun(levels=8, geometry="gram", rows=16).density_law(0.5)
    assert gram is not None
    assert float(gram.mean) == pytest.approx(16 * 0.5)
    assert GasRun(potential="quartic").density_law(1.0) is None
    assert GasRun(geometry="singular").density_law(1.0) is None


def test_ensemble_unfolding_has_unit_spacing():
    x = np.random.default_rng(0).normal(size=(500, 7))
    u = gas.unfold(np.sort(x)[:, ::-1])
    assert u.mean() == pytest.approx(3.5, abs=0.01)
    assert np.all(np.diff(u, axis=1) < 0)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "options",
    [
        "--levels 2",
        pytest.param("--geometry gram --rows 12", marks=SLOW),  # the runs in tests/data have a gram and a singular one
        pytest.param("--potential double-well --beta 2.5", marks=SLOW),
    ],
)
def test_other_gases_have_figures_too(options, tmp_path):
    arguments = [*SMALL, "--seeds", "40", "--steps", "5", *options.split()]
    with drawn_once():
        assert main(["gas", *arguments, "--out", str(tmp_path / "run")]) == 0
    assert len(list((tmp_path / "run" / "figures").iterdir())) == 4


def exact(n: int, beta: int, key: int, shape: tuple[int, int]) -> np.ndarray:
    """Levels of independent Gaussian matrices, largest first, [*shape, n]."""
    matrices = np.asarray(ensembles.gaussian(jax.random.key(key), n, beta, shape))
    return np.linalg.eigvalsh(matrices)[..., :: 2 if beta == 4 else 1][..., ::-1].astype(float)


@pytest.mark.parametrize("beta", [1, 2, 4])
@pytest.mark.parametrize("levels", [8, 32])
def test_an_exact_gas_has_its_beta(levels, beta):
    """Eight gases of 256 replicas: each within 3.5 of its errors, all together within 3, which are fair."""
    run = GasRun(levels=levels, beta=float(beta))
    spacings = [gas.bulk_spacings(gas.unfold(x)) for x in exact(levels, beta, 10 * levels + beta, (8, 256))]
    found = np.array([gas.calibrated_beta(run, s)[:2] for s in spacings])
    off = (found[:, 0] - beta) / found[:, 1]
    assert np.all(np.abs(off) < 3.5)
    reference = gas._reference(levels, None, float(beta), 256)
    error = np.hypot(found[:, 1].mean() / np.sqrt(8), beta * reference.error / reference.value)
    assert abs(found[:, 0].mean() - beta) < 3 * error < 0.06 * beta * np.sqrt(32 / levels)
    assert 0.4 < off.std(ddof=1) < 1.7
    if (levels, beta) == (32, 1):  # what is fitted is no β
        assert spectra.fit_beta(np.concatenate(spacings)).value < 0.96
    assert gas.calibrated_beta(run, spacings[0]) == gas.calibrated_beta(run, spacings[0])


def test_rectangular_matrices_have_their_own_reference():
    """Singular values near a hard edge; Gram matrices have the same, and large gases that of fewer levels."""
    w = np.random.default_rng(5).normal(size=(1024, 12, 8))
    x = np.linalg.svd(w, compute_uv=False)
    for geometry, levels in (("singular", x), ("gram", x**2)):
        run = GasRun(levels=8, geometry=geometry, rows=12)
        found = gas.calibrated_beta(run, gas.bulk_spacings(gas.unfold(levels)))
        assert abs(found.value - 1) < 3 * found.error < 0.2


def row(balance, error, temperature=1.0, count=512) -> Any:
    """Of the statistics what the advice looks at."""
    return types.SimpleNamespace(
        temperature=temperature, balance=Estimate(balance, error, count), diverged=0, violations=0
    )


def test_advice_tells_a_coarse_step_from_a_fine_one():
    run = GasRun(levels=4, temperature=(1.0,), seeds=256, steps=30, dt=0.3, scheme="backward_euler")
    assert "too coarse" in gas_figures.gas_advice(run, statistics(run, running.run(run).only))
    run = GasRun(levels=4, temperature=(1.0,), seeds=256, steps=30, dt=0.3, scheme="pairwise_kick")
    assert "No error of the step is seen" in gas_figures.gas_advice(run, [row(0.01, 0.005)])


@pytest.mark.parametrize(
    ("options", "exact"),
    [
        ({}, True),
        ({"centre": 2.0, "beta": 4.0}, True),
        ({"geometry": "singular"}, True),
        ({"geometry": "gram", "rows": 9}, True),
        ({"geometry": "singular", "centre": 2.0}, False),
        ({"geometry": "gram", "centre": 2.0}, False),
        ({"potential": "double-well"}, False),
        ({"beta": 2.5}, False),
        ({"levels": 65}, False),
        ({"scheme": "backward_euler"}, False),
    ],
)
def test_advice_is_silent_where_the_step_is_exact(options, exact):
    run = GasRun(**{"levels": 8, **options})
    said = gas_figures.gas_advice(run, [row(0.0, 0.01), row(0.05, 0.01)])
    assert ("too coarse" in said) == (not exact)
    assert ("exact in law" in said) == exact


def test_advice_allows_for_the_number_of_rows():
    """One of eight rows at 3.2 errors is noise, at 4.2 it is not; alone it is not either way; five seeds say less."""
    run = GasRun(levels=8, potential="quartic", dt=0.01)
    rows = [row(0.001, 0.01, t) for t in run.temperature[:7]]
    assert "No error" in gas_figures.gas_advice(run, [*rows, row(0.032, 0.01)])
    assert "--dt 0.0033" in gas_figures.gas_advice(run, [*rows, row(-0.042, 0.01)])
    assert "too coarse" in gas_figures.gas_advice(run, [row(0.032, 0.01)])
    assert "No error" in gas_figures.gas_advice(run, [row(0.032, 0.01, count=5)])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--levels 0", "levels = 0"),
        ("--temperature -1", "temperature = -1.0: expected a finite number above 0"),
        ("--temperature ,", "--temperature: values = ','"),
        ("--potential cubic", "potential = 'cubic': expected one of quadratic, quartic, double-well"),
        ("--beta 0.5", "beta = 0.5"),
        ("--geometry round", "geometry = 'round'"),
        ("--rows 3", "rows = 3: expected None"),
        ("--scheme leapfrog", "scheme = 'leapfrog'"),
        ("--stiffness -1", "stiffness = -1.0"),
        ("--coupling 0", "coupling = 0.0"),
        ("--dt 0", "dt = 0.0"),
        ("--steps 0", "steps = 0"),
        ("--seeds 0", "seeds = 0"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, words, capsys, tmp_path):
    assert main(["gas", *arguments.split(), "--out", str(tmp_path / "run")]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dysonjax: ")]
    assert len(said) == 1
    assert words in said[0]
    assert not (tmp_path / "run").exists()


def test_a_phase_diagram_is_not_a_gas(finished, capsys):
    assert main(["phase-diagram", "--resume", str(finished)]) == 2
    assert "expected a run of dysonjax phase-diagram, this is one of gas" in capsys.readouterr().err
