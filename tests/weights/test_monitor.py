"""The monitor of a training loop: right levels at the right steps, under any name, in any loop, at no cost between."""

from functools import partial, reduce
from operator import getitem

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

from dysonjax import spectra
from dysonjax.core.errors import InputError
from dysonjax.core.folding import Layout
from dysonjax.weights import monitor as module
from dysonjax.weights.bulk import bulk_spacings, fit_bulk
from dysonjax.weights.monitor import BULK, SpectralMonitor
from dysonjax.weights.spectral_report import COLUMNS, analyze

STEPS = 6


def params(scale=1.0):
    """Two matrices of one shape but for a transposition, a square one, a vector, and whole numbers."""

    def normal(*shape):
        return np.random.default_rng(shape).normal(scale=scale, size=shape).astype("f4")

    return {
        "layer2": {"key": {"kernel": normal(12, 8), "bias": np.ones(8, "f4")}},
        "layer10": {"key": {"kernel": normal(8, 12)}},
        "head": {"kernel": normal(12, 12)},
        "count": np.zeros((3, 3), int),
    }


def moved(tree, step):
    """Weights after `step` updates of a training in which everything moves."""
    return jax.tree.map(lambda w: w * (1 + 0.125 * step) if w.dtype == np.float32 else w, tree)


def levels_of(w):
    return np.linalg.svd(np.asarray(w, float), compute_uv=False) ** 2


def run(every=2, steps=STEPS, update=SpectralMonitor.update, **options):
    tree = params()
    watched = SpectralMonitor(tree, steps, every=every, **options)
    for step in range(1, steps + 1):
        watched = update(watched, moved(tree, step), step)
    return watched


def same(one, other):
    """Bit for bit, structure included."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def refusal(what):
    with pytest.raises(InputError) as caught:
        what()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_levels_are_those_of_the_weights_at_the_recorded_steps():
    ds = run(every=4).dataset(bulk=False)
    assert list(ds.step.values) == [0, 4, 6]
    assert ds.reached.values.all()
    for step in ds.step.values:
        tree = moved(params(), int(step))
        for name in ("layer2/key/kernel", "layer10/key/kernel", "head/kernel"):
            w = reduce(getitem, name.split("/"), tree)
            x = levels_of(w)
            got = ds.levels.sel(step=step, matrix=name).values
            np.testing.assert_allclose(got[: len(x)], x, atol=3e-6 * x[0])
            assert np.isnan(got[len(x) :]).all()
            assert ds.norm.sel(step=step, matrix=name) == pytest.approx(np.linalg.norm(w), rel=1e-5)
            assert ds.largest.sel(step=step, matrix=name) == pytest.approx(x[0], rel=1e-5)
            assert ds.stable_rank.sel(step=step, matrix=name) == pytest.approx(x.sum() / x[0], rel=1e-5)


def test_small_levels_keep_their_digits():
    """A Gram matrix in float32 would lose every level below 10⁻⁷ of the largest."""
    rng = np.random.default_rng(1)
    u, v = (np.linalg.qr(rng.normal(size=(40, 40)))[0] for _ in range(2))
    w = jnp.asarray((u * np.logspace(0, -4, 40)) @ v.T, jnp.float32)
    x = SpectralMonitor({"w": w}, 1).dataset(bulk=False).levels.values[0, 0]
    np.testing.assert_allclose(np.sqrt(x), np.sqrt(levels_of(w)), atol=1e-6)


def test_the_order_is_that_of_the_numbers_in_names_and_equal_shapes_are_solved_together():
    watched = run()
    names = ["head/kernel", "layer2/key/kernel", "layer10/key/kernel"]
    assert list(watched.dataset(bulk=False).matrix.values) == names
    assert {group: x.shape for group, x in watched.levels.items()} == {"8x12": (4, 2, 8), "12x12": (4, 1, 12)}
    assert list(run(pattern="layer*").dataset(bulk=False).matrix.values) == names[1:]


@pytest.mark.parametrize(
    ("every", "steps", "times"),
    [(3, 6, (0, 3, 6)), (4, 6, (0, 4, 6)), (9, 6, (0, 6)), (1, 2, (0, 1, 2)), ("log", 9, tuple(range(10)))],
)
def test_times(every, steps, times):
    watched = run(every, steps, pattern="head*")
    assert watched.times == times
    assert watched.reached.all()
    np.testing.assert_array_equal(watched.dataset(bulk=False).step, times)


def test_log_times_are_few_and_spread():
    times = np.array(SpectralMonitor(params(), 10_000, every="log").times)
    assert (times[0], times[-1], len(times)) == (0, 10_000, 21)
    assert np.all(np.diff(times, 2) >= 0)


def test_steps_off_the_times_and_beyond_the_last_leave_it_as_it_is():
    tree = params()
    start = SpectralMonitor(tree, STEPS, every=2)
    for step in (0, 1, 3, STEPS + 2):
        for kind in (int, np.int64, jnp.int32):
            same(start.update(moved(tree, 5), kind(step)), start)
    assert list(start.update(tree, 4).reached) == [True, False, True, False]
    ds = start.dataset(bulk=False)
    assert np.isnan(ds.levels.values[1:]).all() and np.isnan(ds.norm.values[1:]).all()
    assert np.isfinite(ds.levels.sel(matrix="head/kernel").values[0]).all()


def test_eager_jit_and_scan_are_one():
    eager = run()
    same(run(update=jax.jit(SpectralMonitor.update)), eager)
    tree = params()

    @jax.jit
    def scanned(watched):
        body = lambda watched, step: (watched.update(moved(tree, step), step), None)  # noqa: E731
        return jax.lax.scan(body, watched, jnp.arange(1, STEPS + 1))[0]

    same(scanned(SpectralMonitor(tree, STEPS, every=2)), eager)


def test_vmap_over_networks_gives_each_its_own():
    trees = [params(1.0), params(2.0)]
    stacked = jax.tree.map(lambda *w: jnp.stack(w), *trees)
    both = jax.vmap(lambda tree: SpectralMonitor(tree, 2, every=1))(stacked)
    both = jax.jit(jax.vmap(SpectralMonitor.update, in_axes=(0, 0, None)))(both, stacked, jnp.int32(2))
    for i, tree in enumerate(trees):
        own = SpectralMonitor(tree, 2, every=1).update(tree, 2)
        picked = jax.tree.map(lambda x, i=i: x[i], both)
        np.testing.assert_array_equal(picked.reached, own.reached)
        for group in own.levels:
            np.testing.assert_allclose(picked.levels[group], own.levels[group], rtol=1e-5)
    assert "x[i]" in refusal(both.dataset)


def primitives(jaxpr, inside_cond=False):
    """Names of all primitives, and whether each stands in a branch."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name, inside_cond
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else [value]:
                if hasattr(inner, "jaxpr"):
                    yield from primitives(inner.jaxpr, inside_cond or equation.primitive.name == "cond")


@pytest.mark.parametrize("batched", [False, True])
def test_off_the_times_no_matrix_is_solved(batched):
    """Every decomposition stands in the branch that a step off the times does not take, for stacked networks too."""
    tree = params()
    watched, update = SpectralMonitor(tree, STEPS, every=2), SpectralMonitor.update
    if batched:
        watched, tree = jax.tree.map(lambda x: jnp.stack([x, x]), (watched, tree))
        update = jax.vmap(update, in_axes=(0, 0, None))
    found = list(primitives(jax.make_jaxpr(update)(watched, tree, jnp.int32(1)).jaxpr))
    branches = [branch for name, branch in found if name in ("svd", "while")]
    assert len(branches) >= 2 and all(branches)  # two shapes, by the library or by sweeps


def test_an_int_off_the_times_does_not_even_look_at_the_weights():
    watched = SpectralMonitor(params(), STEPS, every=2)
    assert watched.update(None, 3) is watched


def test_other_steps_trace_nothing_again(monkeypatch):
    traces = []
    solve = module._spectra
    monkeypatch.setattr(module, "_spectra", lambda *args: traces.append(1) or solve(*args))
    tree = {"w": jnp.ones((5, 7))}
    watched = SpectralMonitor(tree, 100, every=10)
    for step in (10, np.int64(20), jnp.int32(30), 31, jnp.int32(32)):
        watched = watched.update(tree, step)
    again = SpectralMonitor(tree, 100, every=10).update(tree, 40)  # equal monitors share the program
    assert traces == [1, 1]  # at the start, and in the update
    assert list(watched.reached[:5]) == [True] * 4 + [False] and again.reached[4]


def test_training_is_the_same_with_and_without():
    tree = {"a": params()["head"]["kernel"], "b": np.ones(3, "f4")}
    optimizer = optax.adam(0.01)
    gradient = jax.jit(jax.grad(lambda p: sum(jnp.sum(jnp.sin(w)) for w in jax.tree.leaves(p))))

    def train(watch):
        weights, state = tree, optimizer.init(tree)
        watched = SpectralMonitor(tree, STEPS, every=1)
        for step in range(1, STEPS + 1):
            updates, state = optimizer.update(gradient(weights), state)
            weights = optax.apply_updates(weights, updates)
            watched = watched.update(weights, step) if watch else watched
        return weights

    same(train(True), train(False))


def test_heads_by_pattern_are_blocks_of_columns_beside_the_whole():
    watched = run(pattern="layer*", heads={"*2/key*": 4})
    ds = watched.dataset(bulk=False)
    parts = [f"layer2/key/kernel/head{i}" for i in range(4)]
    assert list(ds.matrix.values) == ["layer2/key/kernel", *parts, "layer10/key/kernel"]
    w = moved(params(), STEPS)["layer2"]["key"]["kernel"]
    for i, name in enumerate(parts):
        x = levels_of(w[:, 2 * i : 2 * i + 2])
        np.testing.assert_allclose(ds.levels.sel(matrix=name).values[-1, :2], x, rtol=1e-4)
        assert (int(ds.rows.sel(matrix=name)), int(ds.columns.sel(matrix=name))) == (12, 2)


def test_heads_by_a_function_see_the_parameter_as_it_is():
    """The layout of flax's attention, [channels, heads, width]."""
    w = jnp.asarray(np.random.default_rng(2).normal(size=(10, 3, 4)), jnp.float32)
    tree = {"query": {"kernel": w}, "out": {"kernel": jnp.ones((4, 5))}}
    split = lambda name, w: {f"head{i}": w[:, i] for i in range(3)} if "query" in name else {}  # noqa: E731
    ds = SpectralMonitor(tree, 1, heads=split).dataset(bulk=False)
    assert list(ds.matrix.values) == ["out/kernel", "query/kernel", *(f"query/kernel/head{i}" for i in range(3))]
    for i in range(3):
        found = ds.levels.sel(matrix=f"query/kernel/head{i}").values[0, :4]
        np.testing.assert_allclose(found, levels_of(w[:, i]), rtol=1e-4)
    flat = levels_of(np.asarray(w).reshape(10, 12))
    np.testing.assert_allclose(ds.levels.sel(matrix="query/kernel").values[0], flat, rtol=1e-4)


def drawn(key, shape, dtype=jnp.float32):
    """Initial weights without a program of JAX's for every shape."""
    return jnp.asarray(np.random.default_rng(shape).normal(size=shape), dtype)


class Net(nnx.Module):
    """A convolution, a list of layers, and statistics that are no weights."""

    def __init__(self, rngs):
        linear = partial(nnx.Linear, use_bias=False, kernel_init=drawn, rngs=rngs)
        self.conv = nnx.Conv(2, 5, (3, 3), kernel_init=drawn, rngs=rngs)
        self.layers = nnx.List([linear(4, 6), linear(6, 4)])
        self.running = nnx.BatchStat(jnp.ones((3, 3)))


def test_nnx_modules_their_states_and_linen_parameters():
    net = Net(nnx.Rngs(0))
    names = ["conv/kernel", "layers/0/kernel", "layers/1/kernel"]
    watched = SpectralMonitor(net, 1)
    ds = watched.dataset(bulk=False)
    assert list(ds.matrix.values) == names
    kernel = np.asarray(net.conv.kernel[...])
    np.testing.assert_allclose(ds.levels.values[0, 0, :5], levels_of(kernel.reshape(18, 5)), rtol=1e-4)
    state = nnx.state(net, nnx.Param)
    for tree in (state, nnx.to_pure_dict(state)):
        same(SpectralMonitor(tree, 1), watched)
    inside = nnx.jit(lambda net, watched: watched.update(net, jnp.int32(1)))(net, watched)
    same(inside, watched.update(net, 1))
    dense = linen.Dense(3, kernel_init=drawn).init(jax.random.key(0), jnp.ones((1, 2)))
    assert list(SpectralMonitor(dense, 1).dataset(bulk=False).matrix.values) == ["params/kernel"]


def test_heads_of_flax_attention():
    net = nnx.MultiHeadAttention(2, 6, 8, decode=False, rngs=nnx.Rngs(1))
    ds = SpectralMonitor(net, 1, pattern="query/kernel", heads={"*": 2}).dataset(bulk=False)
    kernel = np.asarray(net.query.kernel[...])  # [in, heads, head_dim]
    for i, part in enumerate((kernel.reshape(6, 8), kernel[:, 0], kernel[:, 1])):
        np.testing.assert_allclose(ds.levels.values[0, i, : min(part.shape)], levels_of(part), rtol=1e-3, atol=1e-6)


def test_folds_are_those_of_analyze():
    tree = {"blocks": {"kernel": jnp.asarray(np.random.default_rng(3).normal(size=(2, 9, 8)), jnp.float32)}}
    cases: list[tuple[Layout, int]] = [("flax", 0), ("torch", 0), ("flax", 1)]
    for kernels, stack in cases:
        ds = SpectralMonitor(tree, 1, kernels=kernels, stack=stack).dataset()
        report = analyze(tree, kernels=kernels, stack=stack, curves=True)
        assert (ds.attrs["kernels"], report.attrs["stack"]) == (kernels, stack)
        assert list(ds.matrix.values) == list(report.matrix.values)
        np.testing.assert_allclose(ds.levels.values[0], report.levels.values, rtol=1e-3)
        for variable in ("norm", "stable_rank", "largest", "rows", "columns", *BULK):
            found = ds[variable].values[0] if "step" in ds[variable].dims else ds[variable].values
            np.testing.assert_allclose(found, report[variable].values, rtol=1e-3, atol=1e-5, err_msg=variable)
            assert ds[variable].attrs["long_name"] == COLUMNS[variable]


def test_the_bulk_of_noise_and_a_spike():
    rng = np.random.default_rng(4)
    noise = rng.normal(size=(60, 120)).astype("f4")
    tree = {"w": jnp.asarray(noise)}
    spiked = {"w": jnp.asarray(noise + 3 * rng.normal(size=(60, 1)) @ rng.normal(size=(1, 120)), jnp.float32)}
    ds = SpectralMonitor(tree, 2, every=1).update(spiked, 2).dataset()
    assert list(ds.outliers.values[[0, 2], 0]) == [0, 1]
    np.testing.assert_allclose(ds.variance.values[[0, 2], 0], 120, rtol=0.1)
    assert np.isnan(ds.variance.values[1, 0])
    x = levels_of(spiked["w"])
    assert ds.variance.values[2, 0] == pytest.approx(fit_bulk(x, (60, 120)).variance.value, rel=1e-4)
    assert ds.mean_ratio.values[2, 0] == pytest.approx(bulk_spacings(x[1:]).mean_ratio.value, abs=1e-3)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float8_e4m3fn])
def test_short_weights_are_solved_in_float32(dtype):
    w = jnp.asarray(np.random.default_rng(5).normal(size=(6, 9)), jnp.float32).astype(dtype)
    watched = SpectralMonitor({"w": w}, 1).update({"w": (2 * w.astype(jnp.float32)).astype(dtype)}, 1)
    assert watched.levels["6x9"].dtype == jnp.float32
    x = levels_of(w.astype(jnp.float32))
    np.testing.assert_allclose(watched.levels["6x9"][:, 0], [x, 4 * x], atol=3e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38])
def test_weights_that_are_not_finite_become_nan_and_nothing_else(bad):
    """3·10³⁸ is finite, its square is not. There is nothing for `jax_debug_nans` to find either."""
    tree, broken = params(), params()
    broken["layer2"]["key"]["kernel"][1, 2] = bad
    with jax.debug_nans(True):
        ds = SpectralMonitor(tree, 2, every=1).update(broken, 1).update(tree, 2).dataset()
    assert ds.reached.values.all()
    lost = ds.sel(matrix="layer2/key/kernel", step=1)
    assert all(np.isnan(lost[v].values).all() for v in ("levels", "norm", "stable_rank", "largest", *BULK))
    np.testing.assert_array_equal(ds.levels.values[2], ds.levels.values[0])
    beside = ds.levels.sel(matrix="layer10/key/kernel").values
    np.testing.assert_array_equal(beside[1], beside[0])


def test_the_solver_never_sees_what_is_not_finite(monkeypatch):
    """Some versions of LAPACK would search for its levels for ever."""
    seen, solve = [], spectra.levels
    monkeypatch.setattr(spectra, "levels", lambda w: seen.append(np.asarray(w)) or solve(w))
    with jax.disable_jit():
        SpectralMonitor({"w": np.full((3, 4), np.nan, "f4")}, 1).update({"w": np.full((3, 4), np.inf, "f4")}, 1)
    assert len(seen) == 2
    assert np.all(np.isfinite(seen))


def test_zero_weights():
    ds = SpectralMonitor({"w": jnp.zeros((9, 9))}, 1).dataset()
    assert np.all(ds.levels.values[0] == 0) and ds.norm.values[0, 0] == 0
    assert np.isnan(ds.stable_rank.values[0, 0])


def test_a_run_that_is_restored_goes_on_as_if_uninterrupted(tmp_path):
    checkpoint = pytest.importorskip("orbax.checkpoint")
    tree = params()
    half = SpectralMonitor(tree, STEPS, every=2).update(moved(tree, 2), 2)
    with checkpoint.StandardCheckpointer() as saver:
        saver.save(tmp_path / "half", {"params": tree, "monitor": half})
        saver.wait_until_finished()
        fresh = {"params": tree, "monitor": SpectralMonitor(moved(tree, 2), STEPS, every=2)}
        restored = saver.restore(tmp_path / "half", fresh)["monitor"]
    assert isinstance(restored, SpectralMonitor)
    for step in (4, 6):
        restored = restored.update(moved(tree, step), step)
    same(restored, run())


def test_what_is_refused():
    tree = params()
    make = partial(SpectralMonitor, tree, STEPS)
    none = refusal(lambda: make(pattern="*query*"))
    assert "pattern = '*query*'" in none and "'layer10/key/kernel'" in none and "bias" not in none
    vectors = refusal(lambda: SpectralMonitor({"bias": jnp.ones(3)}, STEPS))
    assert "no matrix, only 'bias'" in vectors
    assert "no arrays" in refusal(lambda: SpectralMonitor({}, STEPS))
    assert "pattern = 3" in refusal(lambda: make(pattern=3))  # type: ignore[arg-type]  # wrong on purpose
    for every in (0, 1.5, True, "often"):
        assert refusal(lambda every=every: make(every=every)).startswith(f"every = {every!r}")  # type: ignore[arg-type]  # wrong on purpose
    for steps in (0, 2.0, 2**31):
        assert refusal(lambda steps=steps: SpectralMonitor(tree, steps)).startswith("steps = ")  # type: ignore[arg-type]  # wrong on purpose
    assert "kernels = 'middle'" in refusal(lambda: make(kernels="middle"))  # type: ignore[arg-type]  # wrong on purpose
    assert "stack = -1" in refusal(lambda: make(stack=-1))
    assert "a divisor of the 8 columns of layer2/key/kernel" in refusal(lambda: make(heads={"layer2*": 3}))
    assert "heads = '*query*'" in refusal(lambda: make(heads={"*query*": 2}))
    assert "heads['layer2*'] = 0" in refusal(lambda: make(heads={"layer2*": 0}))
    assert "heads = 4" in refusal(lambda: make(heads=4))  # type: ignore[arg-type]  # wrong on purpose
    assert "head/kernel/row" in refusal(lambda: make(heads=lambda name, w: {"row": w[0]}))
    assert "head/kernel = (0, 3)" in refusal(lambda: SpectralMonitor({"head": {"kernel": jnp.ones((0, 3))}}, 1))


def test_updates_that_are_refused():
    tree = params()
    watched = SpectralMonitor(tree, STEPS, every=2)
    for step in (2.0, -1, True, jnp.float32(2), jnp.arange(2), "2"):
        assert refusal(lambda step=step: watched.update(tree, step)).startswith("step = ")  # type: ignore[arg-type]  # wrong on purpose
    assert "head/kernel" in refusal(lambda: watched.update({"head": tree["head"]}, 2))
    smaller = {**tree, "head": {"kernel": jnp.ones((4, 4))}}
    assert "(4, 4)" in refusal(lambda: watched.update(smaller, 2))
