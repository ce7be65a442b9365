"""`Grid` and `Replicas`: what is refused and how it is said, what is kept, and a key of its own for every point."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ornstein_uhlenbeck
from hypothesis import given, settings
from hypothesis import strategies as st

import dysonjax as dj
from dysonjax.core.snapshots import check_snapshots
from dysonjax.engine.grid import Replicas
from dysonjax.kernels.random_numbers import folded

OU = ornstein_uhlenbeck()
KEY = jax.random.key(0)
EVERYTHING = slice(None)
RATES = [0.1, 0.2]


def refused(call, *words):
    """`call` raises an `InputError` of one line that holds all `words`."""
    with pytest.raises(dj.InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


@pytest.mark.parametrize(
    "bad",
    [
        [], (), np.array([]), np.nan, np.inf, -np.inf, [0.1, np.nan], [0.1, 0.1], [1, 1.0], [0.0, -0.0], "0.1", ["0.1"],
        True, [True, False], np.array([True]), None, [None], [[0.1]], np.ones((2, 2)), np.arange(8.0).reshape(2, 2, 2),
        1j, b"\x01\x02", [10**400], {"a": 1},
    ],
    ids=lambda bad: repr(bad)[:20],
)  # fmt: skip
def test_grid_refuses(bad):
    message = refused(lambda: dj.Grid(learning_rate=bad), "learning_rate = ", ": expected ")
    assert "a finite number" in message or "at least one value" in message or "differ" in message


@pytest.mark.parametrize("seed", [-1, 1.5, 2**32, np.nan, "a", [0, 0], []])
def test_grid_refuses_seeds(seed):
    refused(lambda: dj.Grid(seed=seed), "seed = ", "expected")


@pytest.mark.parametrize("bad", [0.0, -0.1, 1e39, 1e-60])
def test_values_outside_a_parameters_domain_are_refused(bad):
    """1e39 is infinite and 1e-60 is zero in float32, in which the replicas run."""
    refused(lambda: dj.scan(OU, dj.Grid(learning_rate=[0.1, bad]), 2), "learning_rate = ", "expected")


@pytest.mark.parametrize("bad", [0, -3, 1.5, 0.5])
def test_batch_size_is_a_whole_number(bad):
    grid = dj.Grid(learning_rate=[0.1], batch_size=[bad])
    refused(lambda: dj.scan(OU, grid, 2), f"batch_size = {bad!r}: expected a whole number of at least 1")


def test_names_that_the_dynamics_does_not_know_are_refused():
    refused(lambda: dj.scan(OU, dj.Grid(learning_rate=0.1, lerning_rate=1), 2), "'lerning_rate'", "learning_rate,")


def test_a_parameter_without_default_must_be_given():
    refused(lambda: dj.scan(OU, dj.Grid(init_width=[1.0]), 2), "grid", "init_width", "expected", "learning_rate")


def test_values_that_only_float64_tells_apart_are_refused():
    """They would be one replica twice, passed off as two independent ones."""
    refused(lambda: dj.scan(OU, dj.Grid(learning_rate=[0.1, 0.1 + 1e-12]), 2), "learning_rate", "expected")


@pytest.mark.parametrize("steps", [0, -1, 1.0, "10", None, np.nan, 2**31, True])
def test_steps_are_a_whole_number(steps):
    refused(lambda: check_snapshots(steps, None), f"steps = {steps!r}: expected a whole number")


@pytest.mark.parametrize(
    "bad", [[], [1, 1], [2, 1], [-1], [11], [1.5], ["a"], [np.nan], [np.inf], 3, "12", [True]], ids=repr
)
def test_snapshots_are_increasing_update_numbers(bad):
    refused(lambda: check_snapshots(10, bad), "snapshots = ", "expected increasing update numbers within 0 … 10")


@pytest.mark.parametrize("good", [[3, 7], (3, 7), range(3, 8, 4), np.array([3, 7]), [0, 3, 7, 10]])
def test_snapshots_hold_the_start_and_the_end(good):
    marks = check_snapshots(np.int64(10), good)  # type: ignore[arg-type]  # numpy's integers are taken, too
    assert marks == (0, 3, 7, 10)
    assert all(type(m) is int for m in marks)


@pytest.mark.parametrize(
    ("name", "bad"),
    [("block_size", 0), ("block_size", -1), ("block_size", 1.5), ("block_size", True), ("key", "a"), ("key", 1.5)],
)
def test_other_arguments_of_scan(name, bad):
    refused(lambda: dj.scan(OU, dj.Grid(learning_rate=0.1), 2, **{name: bad}), f"{name} = {bad!r}: expected")


def test_numpy_integers_are_integers():
    """They come from every computation with numpy, so `steps`, `block_size` and `key` take them."""
    grid = dj.Grid(learning_rate=0.1)
    plain = dj.scan(OU, grid, 2, block_size=1, key=3)
    for arguments in (
        {"steps": np.int64(2)},
        {"block_size": np.int64(1)},
        {"key": np.int64(3)},
    ):
        other = dj.scan(OU, grid, **{"steps": 2, "key": 3, **arguments})
        np.testing.assert_array_equal(other.x, plain.x)


@settings(derandomize=True, deadline=None, max_examples=25)
@given(
    st.lists(st.floats(2.0**-100, 2.0**100, width=32), min_size=1, max_size=4, unique=True),
    st.sampled_from([list, tuple, np.array, iter, lambda values: np.array(values, np.float32), jnp.array]),
)
def test_any_distinct_positive_numbers_are_kept_as_they_are(values, container):
    grid = dj.Grid(learning_rate=container(values))
    assert grid.axes["learning_rate"] == tuple(values)
    assert grid.shape == {"learning_rate": len(values), "seed": 1}
    replicas = Replicas(OU, grid, KEY)
    traced = replicas.hyper(0, EVERYTHING)["learning_rate"]
    assert traced.dtype == jnp.float32
    assert np.asarray(traced).tolist() == values
    assert len(distinct(replicas)) == len(values)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(st.floats(width=32) | st.floats(), min_size=1, max_size=5))
def test_a_list_is_either_kept_or_refused_in_one_line(values):
    with np.errstate(over="ignore", under="ignore"):
        single = np.asarray(values, np.float32)
    good = np.isfinite(single).all() and len(set(single.tolist())) == len(values)
    if good:
        assert dj.Grid(learning_rate=values).axes["learning_rate"] == tuple(values)
    else:
        refused(lambda: dj.Grid(learning_rate=values), "learning_rate = ")


@pytest.mark.parametrize("one", [0.5, np.float32(0.5), np.array(0.5), jnp.float32(0.5)], ids=lambda x: type(x).__name__)
def test_one_number_is_a_list_of_one(one):
    assert dj.Grid(learning_rate=one).axes["learning_rate"] == (0.5,)


def test_shape_size_and_order():
    grid = dj.Grid(temperature=[1, 2], seed=range(3), learning_rate=RATES)
    assert list(grid.shape.items()) == [("temperature", 2), ("seed", 3), ("learning_rate", 2)]
    assert grid.size == 12
    assert grid.axes["seed"] == (0, 1, 2)
    assert all(type(s) is int for s in grid.axes["seed"])
    assert list(dj.Grid(learning_rate=RATES).axes) == ["learning_rate", "seed"]
    assert eval(repr(grid), {"Grid": dj.Grid}).axes == grid.axes


def test_hyper_parameters_of_every_replica():
    grid = dj.Grid(temperature=[1, 2], seed=range(3), batch_size=[4, 5.0], learning_rate=RATES)
    replicas = Replicas(OU, grid, KEY)
    assert replicas.buckets == [(4,), (5,)]
    hyper = replicas.hyper(1, slice(3, 8))
    assert hyper["batch_size"] == 5
    assert type(hyper["batch_size"]) is int
    assert set(hyper) == {"temperature", "learning_rate", "batch_size", "init_width"}
    np.testing.assert_array_equal(hyper["temperature"], [2, 2, 2, 1, 1])  # the order of the parameters, not of the grid
    np.testing.assert_array_equal(hyper["learning_rate"], np.array([0.1, 0.1, 0.1, 0.2, 0.2], np.float32))
    np.testing.assert_array_equal(hyper["init_width"], np.ones(5))


def data(keys):
    return [tuple(k) for k in np.asarray(jax.random.key_data(keys)).tolist()]


def distinct(replicas):
    return {k for bucket in range(len(replicas.buckets)) for k in data(replicas.keys(bucket, EVERYTHING))}


def test_keys_of_a_grid_are_pairwise_distinct():
    grid = dj.Grid(
        learning_rate=np.geomspace(0.1, 9, 30), init_width=[0.5, 1, 2], batch_size=[1, 2], temperature=[1, 2],
        seed=[0, 1, 7, 2**32 - 1],
    )  # fmt: skip
    assert len(distinct(Replicas(OU, grid, KEY))) == grid.size == 30 * 3 * 2 * 2 * 4


def test_the_hash_of_a_point_has_64_bits():
    """Each half tells 2000 points apart, and neither is a function of the other."""
    replicas = Replicas(OU, dj.Grid(learning_rate=RATES), KEY)
    high, low = np.array([replicas._hash({"learning_rate": rate}) for rate in np.linspace(1, 2, 2000)]).T
    assert len(set(high)) == len(set(low)) == 2000
    assert max(high | low) < 2**32
    for shift in range(16):  # how 16 bits of the one go with 16 of the other: all 2000 pairs differ, and few halves
        pairs = np.stack([high >> shift & 0xFFFF, low >> shift & 0xFFFF])
        assert len(np.unique(pairs, axis=1).T) >= 1998
        assert abs(np.corrcoef(pairs)[0, 1]) < 5 / np.sqrt(2000)


def test_keys_of_a_large_grid_are_pairwise_distinct():
    """Among 200,000 points a hash of 32 bits collides about five times: two replicas with the same random numbers."""
    grid = dj.Grid(learning_rate=np.linspace(1, 2, 200_000))
    assert len(distinct(Replicas(OU, grid, KEY))) == grid.size


@pytest.mark.parametrize("generator", ["threefry2x32", "rbg"])
def test_keys_are_folded_as_jax_folds_them(generator):
    """So that results of all versions so far go on."""
    base, words = jax.random.key(7, impl=generator), np.array([0, 1, 123456789, 2**32 - 1], np.uint32)
    keys = folded(base, words, words[::-1], words // 2)
    for key, *own in zip(keys, words, words[::-1], words // 2, strict=True):
        assert (jax.random.key_data(key) == jax.random.key_data(functools.reduce(jax.random.fold_in, own, base))).all()


def test_a_points_key_does_not_depend_on_the_grid_around_it():
    small = Replicas(OU, dj.Grid(learning_rate=[0.2], batch_size=[2], seed=[5]), KEY)
    large = Replicas(OU, dj.Grid(seed=range(9), batch_size=[1, 2], init_width=[2, 1], learning_rate=[0.1, 0.2]), KEY)
    (alone,) = data(small.keys(0, EVERYTHING))
    point = {"seed": 5, "init_width": 1.0, "learning_rate": 0.2, "temperature": 1.0}
    row = large.points(slice(None)).index(point)
    assert data(large.keys(1, EVERYTHING))[row] == alone
    assert data(large.keys(1, slice(row, row + 1))) == [alone]
    assert data(large.keys(0, EVERYTHING))[row] != alone  # another batch size


def test_a_points_key_does_not_depend_on_how_its_numbers_are_written():
    given = [0.1, np.float32(0.1), np.float64(0.1)]
    assert len({tuple(data(Replicas(OU, dj.Grid(learning_rate=v), KEY).keys(0, EVERYTHING))) for v in given}) == 1
    own = dj.Dynamics(OU.init, OU.step, OU.spectra, parameters={"learning_rate": dj.Parameter(0.1)})
    grids = [dj.Grid(), *(dj.Grid(learning_rate=v) for v in given)]
    # a value at its default, written out or not, in either precision
    assert len({tuple(data(Replicas(own, grid, KEY).keys(0, EVERYTHING))) for grid in grids}) == 1


def test_another_base_key_changes_every_key():
    grid = dj.Grid(learning_rate=RATES, seed=range(4))
    one, two = (distinct(Replicas(OU, grid, jax.random.key(k))) for k in (0, 1))
    assert not one & two
