"""`Parameter`, `all_finite`, `lift`; what every `Dynamics` owes; the toy's exact law; and the stochastic helpers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import geometric, moments_of, ornstein_uhlenbeck
from scipy import stats
from stochastic import assert_law, assert_mean

import dysonjax as dj
from dysonjax.core.dynamics import Parameter, all_finite, lift, no_data

KEY = jax.random.key(7)
OU, OU_BLOCK = ornstein_uhlenbeck(), ornstein_uhlenbeck(block=True)
SMALL = dj.models.TanhNetwork(hidden=(4, 3))
DYNAMICS = {
    "toy": (OU, {"learning_rate": 0.3, "init_width": 1.0, "temperature": 2.0, "batch_size": 3}),
    "toy by block": (OU_BLOCK, {"learning_rate": 0.3, "init_width": 1.0, "temperature": 2.0, "batch_size": 3}),
    "geometric": (geometric(), {"learning_rate": 0.9}),
    "sgd": (dj.sgd(SMALL, batches=5, tests=8), {"learning_rate": 0.1, "init_width": 1.0, "batch_size": 2}),
}


@pytest.mark.parametrize(("value", "number"), [(0.5, 0.5), (3, 3.0), (1e-30, 1e-30), (np.float32(0.5), 0.5)])
def test_parameter_accepts_finite_numbers_above_its_minimum(value, number):
    assert Parameter().validate("a", value) == number
    assert type(Parameter().validate("a", value)) is float


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf, -np.inf])
def test_parameter_refuses_what_is_outside(value):
    with pytest.raises(dj.InputError, match=r"^rate = .*: expected a finite number above 0$"):
        Parameter().validate("rate", value)


def test_parameter_minimum_is_its_own():
    assert Parameter(minimum=-1).validate("seed", 0) == 0
    with pytest.raises(dj.InputError, match="above 2"):
        Parameter(minimum=2).validate("a", 2.0)


def test_whole_numbers():
    whole = Parameter(integer=True)
    assert whole.validate("size", 4.0) == 4
    assert type(whole.validate("size", 4.0)) is int
    for bad in (0, -1, 1.5, np.nan, np.inf):
        with pytest.raises(dj.InputError, match=r"^size = .*: expected a whole number of at least 1$"):
            whole.validate("size", bad)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_all_finite_looks_at_every_float_and_at_floats_only(bad):
    state = {"a": jnp.ones((2, 3)), "n": jnp.arange(3), "key": jax.random.key(0), "z": jnp.ones(2, complex)}
    assert all_finite(state)
    assert not all_finite({**state, "a": state["a"].at[1, 2].set(bad)})
    assert not all_finite({**state, "z": state["z"].at[0].set(1j * bad)})
    assert all_finite({"n": jnp.arange(3)})
    assert all_finite(())


def test_lift_puts_replicas_last():
    w, x = jax.random.normal(KEY, (3, 2, 5)), jax.random.normal(KEY, (2, 5))
    product = lift(lambda w, x: w @ x)(w, x)
    assert product.shape == (3, 5)
    np.testing.assert_allclose(product, np.einsum("mnr,nr->mr", w, x), rtol=1e-5)
    assert no_data(KEY, {}) == ()


def started(dynamics, hyper, key=KEY):
    hyper = {**hyper, "data": dynamics.data(key, hyper), "step": 0}
    return dynamics.init(key, hyper), hyper


def numbers(tree):
    return [np.asarray(x) for x in jax.tree.leaves(tree)]


@pytest.mark.parametrize("name", DYNAMICS)
def test_one_step_compiled_and_uncompiled(name):
    dynamics, hyper = DYNAMICS[name]
    state, hyper = started(dynamics, hyper)
    static = {n: hyper.pop(n) for n in dynamics.static}
    eager = dynamics.step(KEY, state, {**hyper, **static})
    compiled = jax.jit(lambda key, state, hyper: dynamics.step(key, state, {**hyper, **static}))(KEY, state, hyper)
    assert any(np.any(a != b) for a, b in zip(numbers(eager), numbers(state), strict=True))
    for a, b, before in zip(numbers(eager), numbers(compiled), numbers(state), strict=True):
        assert a.dtype == b.dtype == before.dtype
        assert a.shape == b.shape == before.shape
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", DYNAMICS)
def test_contract(name):
    """Deterministic in the key, different for another key; finite levels, largest first."""
    dynamics, hyper = DYNAMICS[name]
    state, hyper = started(dynamics, hyper)
    same, _ = started(dynamics, DYNAMICS[name][1])
    for a, b in zip(numbers(state), numbers(same), strict=True):
        np.testing.assert_array_equal(a, b)
    other_key = jax.random.key(8)
    # fixed batches depend on the data's key, fresh noise on the step's key
    other, other_hyper = started(dynamics, DYNAMICS[name][1], other_key)
    one, two = dynamics.step(KEY, state, hyper), dynamics.step(other_key, other, other_hyper)
    assert any(np.any(a != b) for a, b in zip(numbers(one), numbers(two), strict=True))
    for levels in dynamics.spectra(one).values():
        assert levels.ndim == 1
        assert np.all(np.isfinite(levels))
        assert np.all(np.diff(levels) <= 0)
    assert dynamics.healthy(one)


@pytest.mark.parametrize("name", ["toy by block", "sgd"])
def test_block_step_is_the_step_of_every_replica(name):
    dynamics, hyper = DYNAMICS[name]
    replicas = 5
    keys = jax.random.split(KEY, replicas)
    rates = hyper["learning_rate"] * (1 + jnp.arange(replicas))
    singles = []
    states = []
    for key, rate in zip(keys, rates, strict=True):
        state, own = started(dynamics, {**hyper, "learning_rate": rate}, key)
        states.append((state, {k: jnp.asarray(v) if np.isscalar(v) else v for k, v in own.items()}))
        singles.append(dynamics.step(key, state, own))
    last = lambda *leaves: jnp.stack(leaves, axis=-1)  # noqa: E731
    state, block_hyper = jax.tree.map(last, *states)
    static = {n: hyper[n] for n in dynamics.static} | {"step": 0}
    block = dynamics.block_step(keys, state, {**block_hyper, **static})
    for a, b in zip(numbers(jax.tree.map(last, *singles)), numbers(block), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def crowd():
    """2,048 replicas of the toy; x is [replica, snapshot, coordinate]."""
    grid = dj.Grid(learning_rate=[0.1], temperature=[2.0], init_width=[0.5], seed=range(2048))
    return dj.scan(OU, grid, steps=16, snapshots=[1, 5], key=jax.random.key(3)).squeeze()


def test_the_toy_has_its_exact_mean_and_variance_at_every_snapshot(crowd):
    mean, variance = moments_of(crowd.step.values, 0.1, init_width=0.5, temperature=2.0)
    assert crowd.step.values.tolist() == [0, 1, 5, 16]
    # 5 standard errors are 0.155 at the most; the start is exact
    assert_mean(crowd.x.values, mean, bias=1e-6, resolution=0.16)
    assert_mean((crowd.x.values - mean) ** 2, variance[:, None], bias=1e-6, resolution=0.35)


def test_the_toy_is_gaussian_and_its_coordinates_are_independent(crowd):
    mean, variance = moments_of(crowd.step.values, 0.1, init_width=0.5, temperature=2.0)
    last = (crowd.x.values[:, -1] - mean[-1]) / np.sqrt(variance[-1])
    for coordinate in last.T:
        assert_law(coordinate, stats.norm.cdf, resolution=0.06)
    assert_mean(last[:, 0] * last[:, 1], 0, resolution=0.12)
    assert_mean(last[:-1, 0] * last[1:, 0], 0, resolution=0.12)  # neighbours in the grid


def test_updates_are_independent_of_each_other(crowd):
    x, a = crowd.x.values[:, :, 0], np.exp(-0.1)
    first, later = x[:, 1] - a * x[:, 0], x[:, 2] - a**4 * x[:, 1]
    assert_mean(first * later / (first.std() * later.std()), 0, resolution=0.12)


class TestStochasticHelpers:
    samples = np.random.default_rng(0).normal(1.0, 2.0, (10_000, 3))  # standard error 0.02

    def test_mean_accepts_the_right_mean(self):
        assert_mean(self.samples, 1.0, resolution=0.11)
        assert_mean(self.samples, [1.0, 1.0, 1.0], resolution=0.11)

    @pytest.mark.parametrize("expected", [1.2, 0.8, [1.0, 1.0, 1.2]])
    def test_mean_sees_an_error_in_any_entry(self, expected):
        with pytest.raises(AssertionError, match="mean off by"):
            assert_mean(self.samples, expected, resolution=0.11)

    def test_mean_allows_a_known_bias_and_no_more(self):
        assert_mean(self.samples + 0.2, 1.0, bias=0.2, resolution=0.35)
        with pytest.raises(AssertionError, match="mean off by"):
            assert_mean(self.samples + 0.5, 1.0, bias=0.2, resolution=0.35)

    @pytest.mark.parametrize("change", [{"resolution": 0.05}, {"bias": 0.1, "resolution": 0.15}])
    def test_mean_refuses_a_test_without_power(self, change):
        with pytest.raises(AssertionError, match="no power"):
            assert_mean(self.samples, 1.0, **change)

    def test_mean_refuses_nan_and_few_samples(self):
        broken = self.samples.copy()
        broken[5, 1] = np.nan
        with pytest.raises(AssertionError, match="no power"):
            assert_mean(broken, 1.0, resolution=0.11)
        with pytest.raises(AssertionError, match="too few"):
            assert_mean(self.samples[:5], 1.0, resolution=100)

    law = staticmethod(stats.norm(1.0, 2.0).cdf)

    def test_law_accepts_the_right_law(self):
        assert_law(self.samples[:, 0], self.law, resolution=0.03)

    @pytest.mark.parametrize("wrong", [stats.norm(1.2, 2.0).cdf, stats.norm(1.0, 2.3).cdf, stats.uniform(-5, 12).cdf])
    def test_law_sees_another_law(self, wrong):
        with pytest.raises(AssertionError, match="from the law"):
            assert_law(self.samples[:, 0], wrong, resolution=0.03)

    def test_law_sees_both_sides_of_a_jump(self):
        for constant in (-50.0, 50.0):
            with pytest.raises(AssertionError, match="from the law"):
                assert_law(np.full(10_000, constant), self.law, resolution=0.03)

    def test_law_refuses_a_test_without_power_and_nan(self):
        with pytest.raises(AssertionError, match="no power"):
            assert_law(self.samples[:, 0], self.law, resolution=0.02)
        with pytest.raises(AssertionError, match="not finite"):
            assert_law([*self.samples[:, 0], np.nan], self.law, resolution=0.03)
        with pytest.raises(AssertionError, match="not a distribution function"):
            assert_law(self.samples[:, 0], lambda x: 2 * self.law(x), resolution=0.03)
