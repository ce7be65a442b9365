"""Dyson's equation against exact laws in time and in equilibrium, through the engine."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from stochastic import assert_law, assert_mean

import dysonjax as dj
from dysonjax import schemes
from dysonjax.core.dynamics import lift

SEEDS = range(4096)


def run(gas, dt, steps, temperature=1.0, seeds=SEEDS, **options):
    """Dataset of one point, without the grid's axes of length 1."""
    grid = dj.Grid(temperature=[temperature], seed=seeds)
    return dj.scan(gas, grid, steps, dt=dt, progress=False, **options).isel(temperature=0)


@pytest.mark.parametrize("beta", [1, 2, 4])
@pytest.mark.parametrize("dt", [0.3, 0.1])
def test_quadratic_gas_is_exact_in_time(beta, dt):
    """Σx is normal; Σx² = tr M² of the matrix Ornstein–Uhlenbeck process; both exact at any step."""
    start, kappa, temperature = np.array([1.5, 1.0, -1.5]), 1.5, 0.7
    gas = dj.dyson(3, dj.Quadratic(stiffness=kappa), coupling=1.2, beta=beta, start=start)
    marks = [1, 3, 6]
    x = run(gas, dt, 6, temperature, snapshots=marks).levels.values[:, 1:].astype(float)
    for i, mark in enumerate(marks):
        decay = np.exp(-kappa * dt * mark)
        v = temperature * 1.2**2 * (1 - decay**2) / (2 * kappa)
        a = start * decay
        assert_law((x[:, i].sum(1) - a.sum()) / np.sqrt(6 * v), scipy.stats.norm.cdf, resolution=0.045)
        square = (x[:, i] ** 2).sum(1)
        assert_mean(square, (a**2).sum() + v * (6 + 6 * beta), resolution=0.05 * square.mean())
        variance = (8 * v * a**2 + 8 * v**2).sum() + 3 * 8 * beta * v**2
        assert_mean((square - square.mean()) ** 2, variance, resolution=0.25 * variance)


@pytest.mark.parametrize("geometry", ["singular", "gram"])
@pytest.mark.parametrize("rows", [3, 6])
def test_rectangular_gas_is_exact_in_time(geometry, rows):
    """Moments of W(t) = e^{−κt} W₀ + noise, real; a Gram matrix decays twice as fast."""
    xi, kappa, dt = np.array([1.5, 1.0, 0.2]), 1.0, 0.3
    gas = dj.dyson(
        3, dj.Quadratic(stiffness=kappa * (2 if geometry == "gram" else 1)), geometry=geometry, rows=rows, start=xi
    )
    marks = [1, 2, 5]
    levels = run(gas, dt, 5, 0.8, snapshots=marks).levels.values[:, 1:].astype(float)
    x = levels if geometry == "gram" else levels**2
    assert np.all(levels >= 0)
    for i, mark in enumerate(marks):
        decay = np.exp(-kappa * dt * mark)
        v, a = 0.8 * (1 - decay**2) / (2 * kappa), (xi * decay) ** 2
        assert_mean(x[:, i].sum(1), a.sum() + v * 3 * rows, resolution=0.08 * x[:, i].sum(1).mean())
        square = a @ a + v * (2 * (3 + rows) + 2) * a.sum() + v * v * 3 * rows * (4 + rows)
        assert_mean((x[:, i] ** 2).sum(1), square, resolution=0.2 * square)


def goe(n, count, seed=0):
    """Exact levels of the stationary gas at κ = T = g = 1, β = 1."""
    m = np.random.default_rng(seed).normal(size=(count, n, n))
    return np.linalg.eigvalsh((m + m.swapaxes(1, 2)) / 2)[:, ::-1]


@pytest.mark.parametrize("n", [6, pytest.param(16, marks=pytest.mark.slow)])
def test_default_scheme_in_equilibrium(n):
    """⟨Σx²⟩ within 1 %, ⟨r⟩ within 0.005 at dt = 0.03; 2 % at dt = 0.3. P(gap < 0.2) is `dysonjax check`'s."""
    exact = goe(n, 20000)
    ratio = lambda x: np.asarray(dj.spectra.spacing_ratios(jnp.asarray(x))).mean(1)  # noqa: E731
    for dt, resolution in ((0.03, 0.02), (0.3, 0.02)):
        x = run(dj.dyson(n), dt, round(6 / dt)).levels.values[:, -1]
        assert_mean((x**2).sum(1), n * (n + 1) / 2, resolution=resolution * n * (n + 1) / 2 * 2)
        assert_mean(ratio(x), ratio(exact).mean(), bias=0.002, resolution=0.02)


def test_centres_of_their_own_follow_the_log_gas():
    """Two levels keep their order, so S has the branch S e^{−(S−d)²/4σ²} of the log-gas, not Rice's law."""
    d = 1.0
    gas = dj.dyson(2, dj.Quadratic(centre=(d / 2, -d / 2)))
    x = run(gas, 0.02, 250, 0.5).levels.values[:, -1].astype(float)
    s = x[:, 0] - x[:, 1]
    grid = np.linspace(0, 12, 4001)
    cdf = lambda pdf: np.append(0, scipy.integrate.cumulative_trapezoid(pdf, grid)) / np.trapezoid(pdf, grid)  # noqa: E731
    gas_law = cdf(grid * np.exp(-((grid - d) ** 2) / 2))  # σ² = T g²/κ = ½
    assert_law(s, lambda y: np.interp(y, grid, gas_law), bias=0.005, resolution=0.05)
    rice = cdf(grid * np.exp(-(grid**2 + d**2) / 2) * scipy.special.i0(grid * d))
    distance = np.max(np.abs(gas_law - rice))
    assert distance > 0.1  # the two laws are far enough apart for the test to tell


@pytest.mark.parametrize("scheme", [None, "pairwise_kick"])
def test_levels_with_couplings_of_their_own(scheme):
    """Two levels with g_1 ≠ g_2 far apart: each has variance T g_i²/κ around its centre, whatever the scheme."""
    gas = dj.dyson(2, dj.Quadratic(centre=(50.0, -50.0)), coupling=(2.0, 0.5), scheme=scheme)
    x = run(gas, 0.05, 120).levels.values[:, -1].astype(float)
    assert_mean((x - [50.02, -50.02]) ** 2, [4, 0.25], bias=0.01, resolution=[0.5, 0.05])


def test_any_potential():
    """n = 2 in V = x⁴/4: second moment against a two-dimensional integral."""
    gas = dj.dyson(2, lambda x: -(x**3))
    x = run(gas, 0.05, 100).levels.values[:, -1].astype(float)
    weight = lambda a, b: abs(a - b) * np.exp(-(a**4 + b**4) / 4)  # noqa: E731
    integral = lambda f: scipy.integrate.dblquad(f, -4, 4, lambda a: -4, lambda a: a)[0]  # noqa: E731
    exact = integral(lambda b, a: (a * a + b * b) * weight(a, b)) / integral(lambda b, a: weight(a, b))
    assert_mean((x**2).sum(1), exact, bias=0.01, resolution=0.12)


def test_rbm_levels_settle_where_the_target_is():
    kappa = np.array([4.0, 5.0, 6.5])
    gas = dj.dyson(3, dj.RBMPotential(tuple(kappa)), coupling=1.0, geometry="gram", start=(0.6, 0.5, 0.4))
    x = run(gas, 0.05, 2000, 1e-7, seeds=range(8)).levels.values[:, -1]
    np.testing.assert_allclose(x, np.broadcast_to(9 - kappa, x.shape), atol=0.02)


def test_function_coupling_equals_its_constant():
    start = (1.0, -0.4)
    one = run(dj.dyson(2, coupling=0.7, start=start), 0.1, 5, seeds=range(8)).levels
    other = run(dj.dyson(2, coupling=lambda x: jnp.full((2, 2), 0.7), start=start), 0.1, 5, seeds=range(8)).levels
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_sgd_units():
    """T = learning rate / batch size, dt = learning rate."""
    gas = dj.dyson(2, sgd_units=True)
    grid = dj.Grid(learning_rate=[0.1], batch_size=[4, 8], seed=range(2048))
    x = dj.scan(gas, grid, 60, progress=False).levels.values[0, :, :, -1].astype(float)
    for size, levels in zip((4, 8), x, strict=True):
        assert_mean((levels**2).sum(1), 3 * 0.1 / size, resolution=0.1 * 3 * 0.1 / size)


@pytest.mark.parametrize("name", [n for n, s in schemes.ALL.items() if s.ordered])
def test_health_of_a_good_run(name):
    ds = run(dj.dyson(3, scheme=name), 0.05, 40, seeds=range(1024), snapshots=[20, 40])
    assert not ds.order_violations.any()
    assert not ds.unconverged.any()
    assert np.all(ds.smallest_gap > 0)
    bias = 0 if name == "matrix_kick" else 0.08
    assert_mean(ds.balance.values[:, 1:], 0, bias=bias, resolution=0.1 + bias)


def test_health_sees_a_coarse_step():
    """`balance` is the relative error of ⟨Σx²⟩ in equilibrium: −10 % and more for backward Euler at dt = 0.3."""
    ds = run(dj.dyson(3, scheme="backward_euler"), 0.3, 60, seeds=range(1024), snapshots=[20, 60])
    balance = ds.balance.values[:, -1].mean()
    assert balance < -0.1
    assert (ds.levels.values[:, -1] ** 2).sum(1).mean() / 6 - 1 == pytest.approx(balance, abs=0.06)


def test_euler_maruyama_warns_and_crosses():
    with pytest.warns(UserWarning, match="euler_maruyama: its second moments diverge"):
        gas = dj.dyson(6, scheme="euler_maruyama")
    ds = run(gas, 0.03, 100, seeds=range(256))
    assert ds.order_violations.values[:, -1].mean() > 1
    assert np.all(np.diff(ds.levels.values, axis=-1) <= 0)  # shown in order all the same


def test_a_potential_without_a_bound_is_reported():
    with warnings.catch_warnings():
        ds = run(dj.dyson(2, lambda x: x**3), 0.1, 100, seeds=range(8))
    assert np.all(ds.diverged_step >= 0)
    assert np.all(np.isfinite(ds.levels))
    slow = run(dj.dyson(2, lambda x: 2 * x), 0.2, 200, seeds=range(8))
    assert np.all(slow.diverged_step >= 0)


def test_step_equals_block_step():
    gas = dj.dyson(3, coupling=(1.0, 0.9, 0.8))
    keys = jax.random.split(jax.random.key(0), 7)
    hyper = {"temperature": jnp.linspace(0.5, 1, 7), "dt": jnp.full(7, 0.1), "init_width": jnp.ones(7)}
    state = lift(gas.init)(keys, hyper)
    one = jax.jit(lift(gas.step))(keys, state, hyper)
    assert gas.block_step is not None
    block = jax.jit(gas.block_step)(keys, state, hyper)
    np.testing.assert_allclose(one.x, block.x, rtol=1e-5, atol=1e-6)


def test_double_precision():
    with jax.enable_x64(True):
        ds = run(dj.dyson(2), 0.1, 3, seeds=range(4))
        assert ds.levels.dtype == np.float64


def test_many_levels_run():
    """Beyond the written-out loops, with one replica a tile."""
    ds = run(dj.dyson(300), 0.001, 3, 1 / 300, seeds=range(2))
    assert np.all(np.diff(ds.levels.values, axis=-1) < 0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"levels": 0}, "levels = 0"),
        ({"levels": 2.5}, "levels = 2.5"),
        ({"beta": 0.5}, "beta = 0.5: expected a finite number of at least 1: below, levels meet"),
        ({"beta": float("nan")}, "beta = nan"),
        ({"beta": "goe"}, "beta = 'goe'"),
        ({"coupling": -1.0}, "coupling = -1.0: expected positive numbers"),
        ({"coupling": (1.0, 2.0)}, "coupling = (1.0, 2.0): expected one number, or 3 of them"),
        ({"coupling": lambda x: x}, "coupling = (3,)"),
        ({"start": (1.0, 2.0, 3.0)}, "start = (1.0, 2.0, 3.0): expected different levels, largest first"),
        ({"start": (1.0, 1.0, 0.0)}, "start = "),
        ({"start": (1.0, float("nan"), 0.0)}, "start = "),
        ({"start": (1.0, 0.0)}, "start = (1.0, 0.0): expected 3 levels"),
        ({"start": (1.0, 0.5, -0.1), "geometry": "singular"}, "start = (1.0, 0.5, -0.1): expected positive levels"),
        ({"geometry": "round"}, "geometry = 'round'"),
        ({"rows": 4}, "rows = 4: expected None"),
        ({"rows": 2, "geometry": "gram"}, "rows = 2: expected a whole number of at least 3"),
        ({"scheme": "leapfrog"}, "scheme = 'leapfrog'"),
        ({"scheme": "matrix_kick", "beta": 3}, "scheme = 'matrix_kick': expected one for beta = 3"),
        ({"scheme": "backward_euler", "geometry": "gram"}, "scheme = 'backward_euler'"),
        ({"potential": 3}, "potential = 3"),
        ({"potential": dj.Quadratic(centre=(1.0, 2.0))}, "potential = 'Quadratic': expected a force on 3 levels"),
        ({"potential": lambda x: x.sum()}, "potential = 'Force'"),
    ],
)
def test_bad_gases_are_refused(options, words):
    with pytest.raises(dj.InputError) as refusal:
        dj.dyson(**{"levels": 3, **options})
    assert str(refusal.value).startswith(words)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (lambda: dj.Quadratic(stiffness=-1.0), "stiffness = -1.0: expected numbers of at least 0"),
        (lambda: dj.Quadratic(centre=float("nan")), "centre = nan"),
        (lambda: dj.Quadratic(centre="x"), "centre = 'x'"),  # type: ignore[arg-type]  # wrong on purpose
        (lambda: dj.RBMPotential(kappa=(4.0, 10.0)), "kappa = (4.0, 10.0): expected numbers below mass2"),
        (lambda: dj.RBMPotential(kappa=(-1.0,)), "kappa = (-1.0,)"),
    ],
)
def test_bad_potentials_are_refused(record, words):
    with pytest.raises(dj.InputError) as refusal:
        record()
    assert str(refusal.value).startswith(words)


def test_negative_temperatures_are_refused():
    for bad in (-1.0, 0.0, float("nan")):
        with pytest.raises(dj.InputError, match=r"^temperature = "):
            run(dj.dyson(3), 0.1, 2, bad, seeds=range(2))
    with pytest.raises(dj.InputError, match=r"^dt = -0.1"):
        run(dj.dyson(3), -0.1, 2, seeds=range(2))
