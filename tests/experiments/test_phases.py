"""The phases of a training run: each definition on curves that are made for it, on grids and on points."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import dysonjax as dj
from dysonjax.experiments.learning.phases import PHASES, Thresholds, default_metric, larger_is_better, outcomes

STEPS = np.array([0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024])
NOISE = np.random.default_rng(0)


def curve(kind):
    """Loss [snapshot], largest level at the start and the end, and where it diverged."""
    t, flat = STEPS / STEPS[-1], np.full(len(STEPS), 2.3)
    wobble = 0.003 * NOISE.standard_normal(len(STEPS))
    return {
        "learns": (2.3 * np.exp(-6 * t**0.5) + 0.01 + abs(wobble), 1.0, 4.0, -1),
        "slow": (2.3 - 1.0 * np.log1p(STEPS) / np.log(1025) + wobble, 1.0, 2.0, -1),
        "frozen": (flat + wobble, 1.0, 1.01, -1),
        "blown up": (flat + 0.5 * NOISE.standard_normal(len(STEPS)), 1.0, 41.0, -1),
        "diverged": (flat, 1.0, 1.0, 37),
        "stuck": (np.where(STEPS < 4, 2.3, 1.6) + wobble, 1.0, 2.0, -1),
        "nothing": (flat * np.nan, 1.0, 1.0, -2),
        "unknown": (flat * np.nan, 1.0, 1.0, -1),
    }[kind]


def dataset(kinds, seeds=3, points=False, metric="test_loss"):
    """One learning rate for each kind of curve, the same for all seeds up to the noise."""
    made = [[curve(kind) for _ in range(seeds)] for kind in kinds]
    loss = np.array([[one[0] for one in row] for row in made])[:, None]
    levels = np.array([[np.geomspace(one[1], one[2], len(STEPS)) for one in row] for row in made])[:, None]
    stop = np.array([[one[3] for one in row] for row in made])[:, None]
    dims = ["learning_rate", "batch_size", "seed"]
    ds = xr.Dataset(
        {
            metric: ([*dims, "snapshot"], loss),
            "levels_a": ([*dims, "snapshot", "level"], np.stack([levels, 0.1 * levels], axis=-1)),
            "levels_b": ([*dims, "snapshot", "level_b"], np.ones((*levels.shape, 1))),
            "diverged_step": (dims, stop),
        },
        coords={
            "learning_rate": 0.1 * 2.0 ** np.arange(len(kinds)),
            "batch_size": [8],
            "seed": range(seeds),
            "step": ("snapshot", STEPS),
        },
    )
    if not points:
        return ds
    flat = ds.stack(row=dims)
    coords = {name: ("point", flat[name].values) for name in dims}
    return flat.drop_vars(["row", *dims]).rename(row="point").assign_coords(coords).transpose("point", ...)


def named(found):
    return [[PHASES[i] if i >= 0 else None for i in row] for row in found.phase.squeeze("batch_size").values]


def test_every_phase_is_found():
    found = outcomes(dataset(PHASES))
    assert named(found) == [[kind] * 3 for kind in PHASES]
    np.testing.assert_array_equal(found.learned.values[:, 0, 0], [kind == "learns" for kind in PHASES])
    assert found.learned.dtype == bool
    assert float(found.initial) == pytest.approx(2.3, abs=0.02)
    assert float(found.best) < 0.05
    assert float(found.target) == pytest.approx(0.2 * float(found.initial) + 0.8 * float(found.best))
    assert found.attrs["metric"] == "test_loss"
    assert np.isnan(found.end.sel(learning_rate=1.6)).all()  # diverged
    np.testing.assert_allclose(found.growth.isel(learning_rate=3), 41 / 4)  # over the learning ones' level
    assert found.learning_rate.equals(dataset(PHASES).learning_rate)


def test_points_have_the_phases_of_the_grid():
    grid, points = (dataset(PHASES, points=p) for p in (False, True))
    # the noise differs between the two datasets, the phases do not
    assert outcomes(points).phase.dims == ("point",)
    np.testing.assert_array_equal(outcomes(points).phase, outcomes(grid).phase.values.ravel())


def test_what_is_not_computed_or_unknown():
    found = outcomes(dataset(["learns", "nothing", "unknown"]))
    assert named(found) == [["learns"] * 3, [None] * 3, ["stuck"] * 3]
    assert not found.learned[1:].any()


def test_nothing_learns():
    found = outcomes(dataset(["frozen", "stuck", "diverged"]), thresholds=Thresholds(least=0.5))
    assert np.isnan(found.target)
    assert not found.learned.any()
    assert named(found) == [["frozen"] * 3, ["stuck"] * 3, ["diverged"] * 3]
    found = outcomes(dataset(["nothing", "unknown"]))
    assert np.isnan(found.target)
    found = outcomes(dataset(["diverged", "diverged"]))
    assert named(found) == [["diverged"] * 3] * 2


def test_noise_and_lucky_starts_are_no_learning():
    """Accuracies of guessing, of which some point has the best; and losses that differ from the start on."""
    random = np.random.default_rng(1)
    ds = dataset(["stuck"] * 6)
    guessed = 0.1 + 0.015 * random.standard_normal(ds.test_loss.shape)
    found = outcomes(ds.assign(test_accuracy=ds.test_loss.copy(data=guessed)), "test_accuracy")
    assert np.isnan(found.target)
    lucky = ds.test_loss.copy(data=np.broadcast_to(1 + random.random((6, 1, 3, 1)), ds.test_loss.shape))
    assert np.isnan(outcomes(ds.assign(test_loss=lucky)).target)
    steep = dataset(["learns"])
    steep["test_loss"] = steep.test_loss.where(steep.snapshot < 11, 0.5).where(steep.snapshot != 9, 2.3)
    assert outcomes(steep).learned.all()  # a loss that fell so far has fallen, whatever its scatter


def test_everything_learns():
    assert outcomes(dataset(["learns", "learns"])).learned.all()


def test_an_accuracy_is_better_when_larger():
    ds = dataset(["learns", "frozen"])
    ds["test_accuracy"] = 1 - ds.test_loss / 2.3
    found = outcomes(ds, "test_accuracy")
    assert larger_is_better("test_accuracy")
    assert not larger_is_better("test_loss")
    np.testing.assert_array_equal(found.learned.all("seed").values.ravel(), [True, False])
    assert float(found.best) > 0.95
    assert 0.7 < float(found.target) < 0.85
    np.testing.assert_allclose(found.end, ds.test_accuracy.isel(snapshot=-1))


def test_a_target_in_its_own_units_and_one_that_is_kept():
    ds = dataset(["learns", "slow", "frozen"])
    found = outcomes(ds, thresholds=Thresholds(target=1.5))
    assert float(found.target) == 1.5
    np.testing.assert_array_equal(found.learned.all("seed").values.ravel(), [True, True, False])
    first = outcomes(ds)
    later = outcomes(ds.isel(learning_rate=[1, 2]), best=float(first.best), initial=float(first.initial))
    assert float(later.target) == float(first.target)
    assert not later.learned.any()
    assert outcomes(ds.isel(learning_rate=[1, 2])).learned.any()  # without: the best of two is the slow one


def test_wide_initial_weights_do_not_lower_the_target():
    """A loss that starts at 100 for wide weights leaves the target where the usual ones have it."""
    ds = dataset(["learns", "stuck"])
    wide = ds.assign(test_loss=ds.test_loss.where(ds.step > 0, 100.0))
    both = xr.concat([ds, wide], xr.DataArray([1.0, 64.0], dims="init_width", name="init_width"))
    both["diverged_step"] = both.diverged_step.astype(int)
    found = outcomes(both)
    assert float(found.target) == pytest.approx(float(outcomes(ds).target), rel=0.1)
    assert not found.learned.sel(learning_rate=0.2).any()


def test_without_levels_and_with_few_snapshots():
    ds = dataset(PHASES).drop_vars(["levels_a", "levels_b"])
    found = outcomes(ds)
    assert not {"learns", "blown up"} & {*named(found)[3]}
    assert [row[0] for row in named(found)[:3]] == ["learns", "slow", "frozen"]
    assert np.isnan(found.growth).all()
    short = outcomes(dataset(["learns", "frozen", "slow"]).isel(snapshot=[0, -1]))
    assert named(short) == [["learns"] * 3, ["frozen"] * 3, ["stuck"] * 3]  # two marks tell no slope


def test_bad_arguments():
    ds = dataset(["learns"])
    with pytest.raises(dj.InputError, match="metric = 'loss': expected one of test_loss"):
        outcomes(ds, "loss")
    with pytest.raises(dj.InputError, match="metric = 'levels_a'"):
        outcomes(ds, "levels_a")
    with pytest.raises(dj.InputError, match="metric = None"):
        default_metric(ds.drop_vars("test_loss"))
    for bad in ({"share": 1.0}, {"blown_up": 1.0}, {"least": -1.0}, {"target": float("nan")}):
        with pytest.raises(dj.InputError, match=f"{next(iter(bad))} = "):
            Thresholds(**bad)


@pytest.mark.parametrize("points", [False, True])
def test_a_scan_of_train(points):
    """A linear regression: too small a rate is frozen, too large a one diverges or blows up."""
    key = jax.random.key(0)
    x = jax.random.normal(key, (64, 4))
    model = dj.models.FunctionModel(
        init_function=lambda key: {"w": jax.random.normal(key, (4, 3)) / 2},
        loss_function=lambda params, example: jnp.mean((example[0] @ params["w"] - example[1]) ** 2),
        data=(x, x @ jax.random.normal(jax.random.key(1), (4, 3))),
    )
    rates = [1e-6, 0.1, 10.0]
    grid = dj.Points(learning_rate=rates, batch_size=8) if points else dj.Grid(learning_rate=rates, batch_size=[8])
    found = outcomes(dj.scan(dj.train(model), grid, 100, progress=False))
    assert [PHASES[i] for i in found.phase.values.ravel()] == ["frozen", "learns", "diverged"]
    assert found.attrs["metric"] == "train_loss"
