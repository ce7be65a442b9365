"""The loop: the same numbers whatever the chunks, tiles and devices; progress; compilation; memory; sick replicas."""

import gc
import importlib
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import POSITION, geometric, ornstein_uhlenbeck

import dysonjax as dj
from dysonjax import observables as ob
from dysonjax.core.snapshots import log_steps
from dysonjax.engine.loop import layout, simulate, tile_size
from dysonjax.engine.tile import NEVER

pytestmark = pytest.mark.optimised  # it is about bits

loop = importlib.import_module("dysonjax.engine.loop")  # `dysonjax.simulate` is the function

REPLICAS, STEPS, MARKS = 70, 24, (0, 3, 10, 24)
KEYS = jax.random.split(jax.random.key(11), REPLICAS)
HYPER = {
    "learning_rate": np.linspace(0.1, 1, REPLICAS),
    "temperature": np.linspace(2, 1, REPLICAS),
    "init_width": np.ones(REPLICAS),
    "batch_size": 2,
}
OU, OU_BLOCK = ornstein_uhlenbeck(), ornstein_uhlenbeck(block=True)
GEOMETRIC = geometric()
AVERAGE = ob.mean("average", lambda spectra, x, hyper: x, POSITION.variables["x"])
WATCHED = (POSITION, AVERAGE)


def run(dynamics=OU, rows=slice(None), **options):
    hyper = {k: v if np.isscalar(v) else v[rows] for k, v in HYPER.items()}
    return simulate(dynamics, KEYS[rows], hyper, STEPS, snapshots=MARKS, **{"observables": WATCHED, **options})


def assert_equal(one, other, rows: slice | list[int] = slice(None)):
    assert set(one) == set(other)
    for name in one:
        np.testing.assert_array_equal(one[name][rows], other[name], err_msg=name)


@pytest.fixture(scope="module")
def whole():
    return run()


@pytest.fixture(scope="module")
def whole_by_block():
    return run(OU_BLOCK)


def test_what_comes_back(whole):
    shapes = {name: (value.shape, value.dtype) for name, value in whole.items()}
    record = ((REPLICAS, len(MARKS), 2), np.float32)
    assert shapes == {"levels": record, "x": record, "average": record, "diverged_step": ((REPLICAS,), np.int32)}
    assert np.all(whole["diverged_step"] == NEVER)
    np.testing.assert_array_equal(whole["levels"], np.sort(whole["x"], axis=-1)[..., ::-1])


@pytest.mark.parametrize("replica", [0, 33, REPLICAS - 1])
def test_one_replica_in_a_plain_loop_gives_the_same(whole, replica):
    """The engine against the definition: data and state from the split key, update i with the key folded with i."""
    key = KEYS[replica]
    hyper = {k: v if k == "batch_size" else jnp.float32(v[replica]) for k, v in HYPER.items() if k != "batch_size"}
    hyper["batch_size"] = HYPER["batch_size"]
    data_key, init_key = jax.random.split(key)
    hyper["data"] = OU.data(data_key, hyper)
    x = OU.init(init_key, hyper)
    step = jax.jit(lambda x, i: OU.step(jax.random.fold_in(key, i), x, {**hyper, "step": i}))
    path = [x]
    for i in range(STEPS):
        path.append(step(path[-1], i))
    path = np.array(path)
    np.testing.assert_allclose(whole["x"][replica], path[list(MARKS)], rtol=2e-5, atol=2e-6)
    windows = [path[a + 1 : b + 1].mean(0) for a, b in itertools.pairwise(MARKS)]
    np.testing.assert_allclose(whole["average"][replica], [path[0], *windows], rtol=2e-5, atol=2e-6)
    levels = [OU.spectra(jnp.array(x))["W"] for x in path[list(MARKS)]]
    np.testing.assert_allclose(whole["levels"][replica], levels, rtol=2e-5, atol=2e-6)


def test_data_and_the_number_of_the_update_reach_every_function():
    """`data` is drawn once a replica and never changes; `step` counts from 0; `init` has a key of its own."""
    dynamics = dj.Dynamics(
        data=lambda key, hyper: jax.random.normal(key, (2,)),
        init=lambda key, hyper: (hyper["data"], hyper["data"] + jax.random.normal(key, (2,)), jnp.int32(0)),
        step=lambda key, s, hyper: (hyper["data"], s[1] + hyper["data"], s[2] + hyper["step"] * hyper["step"]),
        spectra=lambda s: {"W": s[1]},
        parameters={"learning_rate": dj.Parameter()},
    )
    seen = ob.snapshots(
        lambda spectra, s, hyper: {"data": hyper["data"], "state": s[0], "squares": s[2]},
        {"data": ob.Variable(("c",)), "state": ob.Variable(("c",)), "squares": ob.Variable()},
    )
    values = simulate(dynamics, KEYS[:3], {"learning_rate": np.ones(3)}, 5, snapshots=[2], observables=[seen])
    assert values["squares"].tolist() == [[0, 1, 30]] * 3  # updates 0 … 4, recorded after 0, 2 and 5
    roots = jax.vmap(lambda key: jax.random.split(key, 2))(KEYS[:3])
    drawn = jax.vmap(lambda key: jax.random.normal(key, (2,)))(roots[:, 0])
    start = drawn + jax.vmap(lambda key: jax.random.normal(key, (2,)))(roots[:, 1])
    for name in ("data", "state"):
        np.testing.assert_array_equal(values[name], np.repeat(drawn[:, None], 3, axis=1))
    np.testing.assert_allclose(values["levels"][:, 0], start, rtol=1e-6)
    np.testing.assert_allclose(values["levels"][:, 2], start + 5 * drawn, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dynamics", [OU, OU_BLOCK], ids=["step", "block_step"])
@pytest.mark.parametrize(
    "rows", [slice(0, 1), slice(69, 70), slice(5, 14), slice(None, None, -1), np.array([3, 3, 8])], ids=str
)
def test_company_does_not_matter(whole, whole_by_block, dynamics, rows):
    """A replica alone, in another order, with others or twice; tiles hold 32 or 8."""
    assert_equal(whole if dynamics is OU else whole_by_block, run(dynamics, rows), rows)


@pytest.mark.parametrize("dynamics", [OU, OU_BLOCK], ids=["step", "block_step"])
def test_devices_do_not_matter(whole, whole_by_block, dynamics):
    devices = jax.devices()
    assert len(devices) == 2
    assert_equal(whole if dynamics is OU else whole_by_block, run(dynamics, devices=devices[:1]))
    assert_equal(whole if dynamics is OU else whole_by_block, run(dynamics, devices=devices[::-1]))


@pytest.mark.parametrize("seconds", [0, 1e-4, 1e6])
def test_chunks_do_not_matter(whole, monkeypatch, seconds):
    """One update a chunk, a few, and as many as may be, across the snapshots; then at the pace of the run before."""
    monkeypatch.setattr(loop, "SECONDS_PER_CHUNK", seconds)
    loop._made.cache_clear()
    chunks, again = [], []
    assert_equal(whole, run(on_progress=chunks.append))
    assert_equal(whole, run(on_progress=again.append))
    assert sum(chunks) == sum(again) == STEPS * REPLICAS
    if seconds == 0:
        assert chunks == again == [REPLICAS] * STEPS
    if seconds == 1e6:  # a chunk grows at most eightfold
        assert chunks == [REPLICAS * n for n in (1, 8, STEPS - 9)]
        assert again == [REPLICAS * STEPS]


def test_tiles_in_turn(whole, monkeypatch):
    """A run of more than a second takes a few tiles at a time from the first update to the last."""
    assert loop._shares(7, 0.0) == loop._shares(7, 9.5) == [(0, 7)]
    assert loop._shares(7, 2.5) == [(0, 1), (1, 3), (3, 5), (5, 7)]
    assert loop._shares(2, 0.1) == [(0, 1), (1, 2)]
    monkeypatch.setattr(loop, "_shares", lambda tiles, most: [(0, 2), (2, 3), (3, tiles)])
    monkeypatch.setattr(loop, "SECONDS_PER_CHUNK", 1e6)
    chunks = []
    assert_equal(whole, run(tile=8, on_progress=chunks.append))  # five tiles on each device, the last nearly empty
    assert sum(chunks) == STEPS * REPLICAS
    assert chunks[-1] == STEPS * (2 * 8 + 6)


@pytest.mark.parametrize("together", [4, 7])
def test_updates_in_loops_of_known_length(whole, monkeypatch, together):
    """As on an accelerator: marks 3, 10, 24 leave loops that are never, just and not quite filled."""
    monkeypatch.setattr(loop, "updates_together", lambda device: together)
    loop._made.cache_clear()
    assert_equal(whole, run())
    loop._made.cache_clear()


def test_snapshots_do_not_matter(whole):
    """Recording more often changes no state, only the windows of the mean."""
    hyper = {k: v if np.isscalar(v) else v[:9] for k, v in HYPER.items()}
    often = simulate(OU, KEYS[:9], hyper, STEPS, snapshots=range(STEPS + 1), observables=WATCHED)
    np.testing.assert_array_equal(often["x"][:, MARKS], whole["x"][:9])


def test_block_step_and_step_agree_in_the_engine(whole, whole_by_block):
    for name in ("x", "average", "levels"):
        np.testing.assert_allclose(whole_by_block[name], whole[name], rtol=2e-5, atol=2e-6)


def test_block_step_is_what_runs_when_there_is_one():
    twice = dj.Dynamics(**{**OU.__dict__, "block_step": lambda keys, x, hyper: 2 * x})
    np.testing.assert_array_equal(run(twice, slice(0, 3))["x"][:, 1], np.tile([24.0, -8.0], (3, 1)))


def test_other_keys_and_hyper_parameters_give_other_numbers(whole):
    other = simulate(OU, KEYS[::-1], HYPER, STEPS, snapshots=MARKS, observables=WATCHED)
    assert np.all(other["x"][:, 1:] != whole["x"][:, 1:])
    for name in ("learning_rate", "temperature", "init_width"):
        changed = simulate(OU, KEYS, {**HYPER, name: 1.3 * HYPER[name]}, STEPS, snapshots=MARKS, observables=WATCHED)
        assert np.mean(changed["x"][:, 1] != whole["x"][:, 1]) > 0.99
    assert len(np.unique(whole["x"][:, 1:])) == whole["x"][:, 1:].size


def test_interrupted_in_the_middle_nothing_lingers(whole, monkeypatch):
    """A key press between two chunks leaves nothing behind that would change the next call."""
    monkeypatch.setattr(loop, "SECONDS_PER_CHUNK", 0)
    heard = []

    def stop(updates):
        heard.append(updates)
        if len(heard) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(on_progress=stop)
    assert len(heard) == 5
    assert_equal(whole, run())


def test_nothing_is_traced_again():
    """The step is traced for a shape and for a static value, never for a number, a length or a second call."""
    traces = []
    dynamics = ornstein_uhlenbeck(on_trace=lambda: traces.append(1))
    hyper = {name: HYPER[name][:9] for name in ("learning_rate", "temperature", "init_width")}
    first = simulate(dynamics, KEYS[:9], {**hyper, "batch_size": 2}, 10)
    once = len(traces)
    assert once >= 1
    changed = {**hyper, "learning_rate": 2 * hyper["learning_rate"]}
    second = simulate(dynamics, KEYS[20:29], {**changed, "batch_size": 2}, 33, snapshots=[5])
    assert len(traces) == once
    assert np.all(first["x"][:, -1] != second["x"][:, -1])
    grid = dj.Grid(learning_rate=[0.1, 0.7, 1.0], temperature=[3.0], batch_size=[2], seed=range(5))
    dj.scan(dynamics, grid, 8)
    dj.scan(dynamics, dj.Grid(learning_rate=[0.3, 0.5], batch_size=[2], seed=range(7)), 80, key=9)
    assert len(traces) == once
    simulate(dynamics, KEYS[:9], {**hyper, "batch_size": 3}, 10)
    assert len(traces) > once  # the count can see a trace


def held(steps, observables):
    """The most bytes that lie on the devices between chunks of a run."""
    gc.collect()
    before = sum(x.nbytes for x in jax.live_arrays())
    sizes = []
    watch = lambda updates: sizes.append(sum(x.nbytes for x in jax.live_arrays()) - before)  # noqa: E731
    simulate(OU, KEYS, HYPER, steps, snapshots=[steps], observables=observables, on_progress=watch)
    return max(sizes)


def test_memory_does_not_depend_on_the_number_of_updates():
    watched = (AVERAGE, ob.histogram("h", lambda spectra, x, hyper: x, np.arange(51.0)))
    held(30, watched)  # leaves the compiled code's constants behind
    carried = 4 * 64 * 2 * (52 + 2 + 2)  # four tiles of 32: at least counts, sum and x
    assert carried / 2 < held(30, watched) == held(600, watched) < 4 * loop.SNAPSHOTS_PER_CHUNK * carried


def test_layout_says_what_comes_back_and_what_a_replica_holds(whole):
    hyper = {**HYPER, **{k: HYPER[k][:1] for k in HYPER if k != "batch_size"}}
    shown = layout(OU, WATCHED, hyper)
    assert shown.arrays == {n: (v.shape[2:], v.dtype) for n, v in whole.items() if n != "diverged_step"}
    assert shown.variables["levels"].dims == ("level",)
    assert shown.variables["x"] == POSITION.variables["x"]
    # float32: three hyper-parameters, x, the sum and what it lost; int32: its count and the update of divergence
    assert shown.bytes_per_replica == 4 * (3 + 2 + 2 + 2 + 1 + 1)


def test_two_matrices_are_told_apart():
    two = dj.Dynamics(**{**OU.__dict__, "spectra": lambda x: {"A": x[:1], "B": jnp.sort(x)[::-1]}})
    values = run(two, slice(0, 3))
    assert values["levels_A"].shape == (3, 4, 1)
    assert values["levels_B"].shape == (3, 4, 2)
    assert "levels" not in values
    ds = dj.scan(two, dj.Grid(learning_rate=0.1), 2)
    assert ds.levels_B.dims == ("learning_rate", "seed", "snapshot", "level_B")


SICK = 2.0**15  # leaves float32 at update 9
RATES = np.array([0.5, SICK, 0.9, 2.0, 3 * 2.0**13], np.float32)


@pytest.fixture(scope="module")
def with_sick():
    return simulate(GEOMETRIC, KEYS[:5], {"learning_rate": RATES}, 20, snapshots=range(21), observables=WATCHED)


def test_a_replica_that_overflows_is_held_at_its_last_finite_state(with_sick):
    exact = []
    for i, rate in enumerate(RATES):
        x, path = jnp.array([2.0, 1.0]), []
        for step in range(20):
            path.append(x)
            x = GEOMETRIC.step(jax.random.fold_in(KEYS[i], step), x, {"learning_rate": rate})
        exact.append(next((n for n, x in enumerate(path) if not np.isfinite(x).all()), NEVER))
        last = exact[-1] - 1 if exact[-1] != NEVER else 19
        np.testing.assert_allclose(with_sick["x"][i, last], path[last], rtol=1e-4)
    assert exact[1] == 9
    assert exact[2] == exact[3] == NEVER
    np.testing.assert_array_equal(with_sick["diverged_step"], exact)
    for i in (1, 4):
        before = exact[i] - 1
        np.testing.assert_array_equal(
            with_sick["x"][i, before:], np.repeat(with_sick["x"][i, [before]], 21 - before, 0)
        )
        assert np.all(np.abs(with_sick["x"][i, before - 1]) < np.abs(with_sick["x"][i, before]))
    for name in ("x", "levels", "average"):
        assert np.isfinite(with_sick[name]).all()


def test_a_sick_replica_does_not_touch_its_neighbours(with_sick):
    for well in ([0, 2, 3], [3, 2, 0]):
        hyper = {"learning_rate": RATES[well]}
        alone = simulate(GEOMETRIC, KEYS[:5][np.array(well)], hyper, 20, snapshots=range(21), observables=WATCHED)
        assert_equal(with_sick, alone, well)


def test_divergence_is_found_whatever_the_snapshots_and_chunks(with_sick, monkeypatch):
    for seconds in (0, 1e6):
        monkeypatch.setattr(loop, "SECONDS_PER_CHUNK", seconds)
        few = simulate(GEOMETRIC, KEYS[:5], {"learning_rate": RATES}, 20, snapshots=[20], observables=[POSITION])
        np.testing.assert_array_equal(few["diverged_step"], with_sick["diverged_step"])
        np.testing.assert_array_equal(few["x"][:, -1], with_sick["x"][:, -1])


def test_a_tile_whose_replicas_have_all_failed_costs_nothing_more():
    """Looked at after each mark and each call; windows of what accumulates are what they were."""
    seen: list[int] = []

    def step(key, x, hyper):
        jax.debug.callback(lambda number: seen.append(int(number)), hyper["step"])
        return GEOMETRIC.step(key, x, hyper)

    for rates, observables, lifted, goes_on in (
        ([SICK, SICK], [POSITION], False, False),
        ([SICK, 1.0], [POSITION], False, True),
        ([SICK, SICK], WATCHED, False, True),
        ([SICK, SICK], WATCHED, True, False),
    ):
        counted = dj.Dynamics(**{**GEOMETRIC.__dict__, "step": step, "lifted": lifted})
        seen.clear()
        given = KEYS[:2], {"learning_rate": np.array(rates)}, 40
        values = simulate(counted, *given, snapshots=[16, 30], observables=observables)
        jax.effects_barrier()
        assert (max(seen) == 39) if goes_on else (8 <= max(seen) <= 15)
        assert_equal(values, simulate(GEOMETRIC, *given, snapshots=[16, 30], observables=observables))


def test_divergence_at_the_start():
    broken = dj.Dynamics(
        **{**GEOMETRIC.__dict__, "init": lambda key, hyper: jnp.log(hyper["learning_rate"]) * jnp.ones(2)}
    )
    values = simulate(broken, KEYS[:2], {"learning_rate": np.array([0.0, 1.0])}, 3)
    assert values["diverged_step"].tolist() == [0, NEVER]


def test_divergence_that_only_the_levels_show():
    """x² overflows at update 5 while x is finite: found at the first snapshot that sees it, and held from there."""
    squared = geometric(spectra=lambda x: {"W": x * x})
    hyper = {"learning_rate": np.array([0.5, SICK, 0.9])}
    values = simulate(squared, KEYS[:3], hyper, 20, snapshots=[4, 6, 7], observables=[POSITION])
    assert values["diverged_step"].tolist() == [NEVER, 6, NEVER]
    assert np.isfinite(values["levels"][1, :2]).all()
    assert not np.isfinite(values["levels"][1, 2:]).all(axis=-1).any()
    np.testing.assert_array_equal(values["x"][1, 3:], values["x"][1, [2, 2]])
    assert np.isfinite(values["x"]).all()
    alone = simulate(squared, KEYS[:1], {"learning_rate": hyper["learning_rate"][:1]}, 20, snapshots=[4, 6, 7])
    np.testing.assert_array_equal(values["x"][:1], alone["x"])


def test_a_dynamics_says_itself_what_is_healthy():
    bounded = dj.Dynamics(**{**GEOMETRIC.__dict__, "healthy": lambda x: jnp.abs(x[0]) < 100})
    values = simulate(bounded, KEYS[:2], {"learning_rate": np.array([2.0, 0.5])}, 20, snapshots=[20])
    assert values["diverged_step"].tolist() == [6, NEVER]  # 2 · 2⁶ = 128
    assert 60 < values["x"][0, -1, 0] < 70


def test_tile_size():
    assert tile_size(OU, 5, "cpu") == tile_size(OU, 10_000, "cpu") == 32
    assert tile_size(OU_BLOCK, 5, "cpu") == tile_size(OU_BLOCK, 10_000, "cpu") == 8
    assert tile_size(OU, 5, "gpu") == 8
    assert tile_size(OU, 10**9, "gpu") == 2**14
    assert tile_size(OU, 10**9, "gpu", most=10**9) == 2**14  # what fits into the cache
    assert tile_size(OU, 10**9, "gpu", most=1000) == 512  # what fits into memory, as a power of two
    assert tile_size(OU, 1, "gpu", most=0) == 1


@pytest.mark.parametrize(
    ("steps", "count", "unit"), [(1, 21, 1), (2, 21, 1), (1000, 21, 1), (10_000, 5, 1000), (7, 2, 3)]
)
def test_log_steps(steps, count, unit):
    marks = log_steps(steps, count, unit)
    assert marks[0] == 0
    assert marks[-1] == steps
    assert len(marks) <= count
    assert all(a < b for a, b in itertools.pairwise(marks))
    assert all(m % unit == 0 for m in marks[:-1])
    if steps == 1000:
        assert len(marks) > 15
        assert marks[1] == 1


def test_float64_when_the_user_enables_it():
    jax.config.update("jax_enable_x64", True)
    try:
        values = run(rows=slice(0, 2))
        assert values["levels"].dtype == values["average"].dtype == np.float64
        assert values["diverged_step"].dtype == np.int32
        a = np.exp(-HYPER["learning_rate"][:2])
        cold = {**HYPER, "temperature": np.full(REPLICAS, 1e-40)}
        cold = {k: v if np.isscalar(v) else v[:2] for k, v in cold.items()}
        x = simulate(OU, KEYS[:2], cold, STEPS, snapshots=MARKS)["x"]
        np.testing.assert_allclose(x[:, -1, 0], 3 * a**STEPS, rtol=1e-13)
    finally:
        jax.config.update("jax_enable_x64", False)
