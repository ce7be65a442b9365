"""`replicas_last.lift` equals `jax.vmap` with replicas on the last axis, for each operation and for any composition."""

import functools
from typing import Any

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from jax import lax

from dysonjax.core.errors import InputError
from dysonjax.kernels.replicas_last import lift, multiplying

R = 8
KEY = jax.random.key(0)
KEYS = jax.random.split(KEY, R)


def normal(number, *shape):
    return jax.random.normal(jax.random.fold_in(KEY, number), (*shape, R))


def whole(number, below, *shape):
    return jax.random.randint(jax.random.fold_in(KEY, number), (*shape, R), 0, below)


def as_numbers(tree):
    key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    return [np.asarray(jax.random.key_data(x) if key(x) else x) for x in jax.tree.leaves(tree)]


def assert_equal(f, *args, in_axes: Any = -1, tolerance=1e-5):
    """The tile's function against `vmap`: structure, shapes, dtypes and values."""
    ours = jax.jit(lift(f, in_axes))(*args)
    theirs = jax.jit(jax.vmap(f, in_axes=in_axes, out_axes=-1))(*args)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
    for a, b in zip(as_numbers(ours), as_numbers(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


X, M, A = normal(0, 5), normal(1, 5, 3), jnp.abs(normal(2, 5)) / 4 + 0.1
IMAGES = normal(3, 2, 6, 6, 2)
INDEX = whole(4, 5, 4)
WINDOWS = (1, 2, 2, 1), (1, 2, 2, 1)


@jax.custom_vjp
def tripled(x):
    return x * x


tripled.defvjp(lambda x: (x * x, x), lambda x, slope: (3 * slope * x,))


@jax.custom_jvp
def doubled(x):
    return jnp.sin(x)


doubled.defjvp(lambda primals, tangents: (doubled(*primals), 2 * tangents[0] * jnp.cos(primals[0])))


@jax.custom_batching.custom_vmap
def batched_in_its_own_way(x):
    return x + 1


@batched_in_its_own_way.def_vmap
def _(size, batched, x):
    return 2 * x, batched[0]


def conv(strides=(1, 1), padding: Any = "SAME", groups=1, **options):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lambda x, w: lax.conv_general_dilated(
        x, w, strides, padding, dimension_numbers=numbers, feature_group_count=groups, **options
    )


def slope(f):
    """Value and gradients of a sum of squares of f."""
    return lambda *xs: jax.value_and_grad(lambda xs: sum(jnp.sum(jnp.square(y)) for y in jax.tree.leaves(f(*xs))))(xs)


def counted(x, n):
    """A loop whose length each replica has to itself, with a scan and a branch inside."""

    def body(held):
        i, x = held
        x = lax.scan(lambda c, y: (c + jnp.sin(y), c * y), x[0], x)[1]
        return i + 1, lax.cond(x[0] > 0, lambda x: x / 2, lambda x: jnp.cos(x) + i, x)

    return lax.while_loop(lambda held: held[0] < n, body, (0, x))


RULES = {
    "elementwise": (lambda x: (jnp.exp(x) + 2, x > 0, jnp.where(x > 0, x, 1.0), jnp.clip(x, -1, x[0])), X),
    "costly": (lambda x: (jnp.tanh(x), lax.erf_inv(x / 9), lax.logistic(x), x**2, jnp.sqrt(x * x)), X),
    "bits as another type": (
        lambda x: (lax.bitcast_convert_type(x, jnp.int32), lax.bitcast_convert_type(x, jnp.uint8)),
        X,
    ),
    "special functions": (lambda x: (jax.scipy.special.gammainc(x, 1.0), jax.scipy.special.digamma(x)), A),
    "axes": (lambda x: (x.T, x.reshape(15), x[None], x[:, None, 1:], jnp.flip(x, 1), jnp.expand_dims(x, (0, 2))), M),
    "slices": (lambda x: (x[1:4:2], x[..., -1], jnp.pad(x, 1), jnp.concatenate([x, 2 * x], 1), jnp.split(x, 3, 1)), M),
    "padding with a replica's own number": (lambda x: lax.pad(x, x[0, 0], ((1, 0, 1), (0, 2, 0))), M),
    "reductions": (lambda x: (x.sum(), x.max(0), x.min(1), x.prod(0), (x > 0).any(1), (x > 0).all(), x.argmax(0)), M),
    "a reduction of one's own": (lambda x: lax.reduce(x, 0.0, lambda a, b: a + jnp.abs(b), (0,)), X),
    "cumulative": (lambda x: (jnp.cumsum(x, 1), jnp.cumprod(x, 0), lax.cummax(x), lax.cumlogsumexp(x)), M),
    "windows": (
        lambda x: (
            lax.reduce_window(x, -jnp.inf, lax.max, *WINDOWS, "SAME"),
            lax.reduce_window(x, 0.0, lax.add, *WINDOWS, "VALID"),
        ),
        IMAGES,
    ),
    "gradients of windows": (
        slope(
            lambda x: (
                lax.reduce_window(x, -jnp.inf, lax.max, *WINDOWS, "SAME"),
                lax.reduce_window(x, 0.0, lax.add, *WINDOWS, "VALID"),
            )
        ),
        IMAGES,
    ),
    "sort": (lambda x: (jnp.sort(x), jnp.argsort(x), lax.top_k(x, 2), jnp.median(x), jnp.unique(x, size=3)), X),
    "sort of several": (lambda x: lax.sort((x, x * 2, jnp.arange(5)), num_keys=1), X),
    "gather": (lambda x, i: (x[i], x[i, 1], x[i][:, 2], jnp.take(x, i, axis=0, mode="fill"), x[:, None][i]), M, INDEX),
    "gradients of gather": (slope(lambda x, i=2: (x[jnp.array([0, 3, 3])], x[i])), M),
    "scatter": (
        lambda x, i: (x.at[i].add(2.0), x.at[i, 0].max(0.0), x.at[i].multiply(x[0, 0]), x.at[0].set(i[0])),
        M,
        INDEX,
    ),
    "scatter at common places": (
        lambda x: (x.at[jnp.array([0, 2])].set(x[1]), x.at[1, 1:].add(x[0, :2]), jnp.zeros(5).at[2].set(x[0, 0])),
        M,
    ),
    "dynamic slices": (
        lambda x, i: (
            lax.dynamic_slice(x, (i[0], 0), (2, 3)),
            lax.dynamic_update_slice(x, 2 * x[:2], (i[0], i[1])),
            x[i[0]],
        ),
        M,
        whole(5, 9, 2),
    ),
    "dynamic slices at common places": (
        lambda x: (
            lax.dynamic_slice_in_dim(x, jnp.int32(9), 2),
            lax.dynamic_update_slice(jnp.zeros((5, 3)), x[:1], (jnp.int32(3), jnp.int32(0))),
        ),
        M,
    ),
    "products": (
        slope(
            lambda x, w: (
                x @ w,
                jnp.einsum("ij,jk->ki", x, w),
                jnp.einsum("ij,jk->jik", x, w),
                x.sum(0) @ w.sum(1),
                jnp.outer(x[0], w[0]),
            )
        ),
        M,
        normal(6, 3, 4),
    ),
    "convolution": (slope(conv()), IMAGES, normal(7, 3, 3, 2, 3)),
    "strides and padding": (slope(conv((2, 1), ((1, 0), (2, 1)))), IMAGES, normal(7, 3, 2, 2, 3)),
    "dilated convolution": (
        slope(conv(padding=((1, 0), (0, 2)), lhs_dilation=(2, 1), rhs_dilation=(1, 2))),
        IMAGES,
        normal(7, 3, 2, 2, 3),
    ),
    "grouped convolution": (slope(conv(groups=2)), IMAGES, normal(7, 3, 3, 1, 4)),
    "scan": (
        lambda x: lax.scan(lambda c, y: ((0.5 * c[0] + y, c[1] + 1), (c[0], c[1])), (jnp.zeros(3), 0), x, reverse=True),
        M,
    ),
    "scan in which a carry meets a replica late": (
        lambda x: lax.scan(lambda c, y: ((x.sum(), c[0], c[1] + 1), c[2]), (0.0, 1.0, 2.0), jnp.arange(4)),
        X,
    ),
    "gradient of scan": (
        slope(lambda x, w: lax.scan(lambda c, y: (jnp.tanh(c @ w + y), c), jnp.zeros(3), x)),
        M,
        normal(6, 3, 3),
    ),
    "while": (
        lambda x: lax.while_loop(lambda c: c[0] < 10, lambda c: (c[0] + jnp.abs(c[1]).sum(), c[1] * 1.1), (0.0, x)),
        X,
    ),
    "while of common length": (
        lambda x: lax.while_loop(lambda c: c[0] < 4, lambda c: (c[0] + 1, c[1] * 1.1), (0, x)),
        X,
    ),
    "cond": (lambda x: lax.cond(x[0] > 0, jnp.sin, lambda x: 2 * x, x), X),
    "cond for all alike": (
        lambda x: lax.cond(jnp.arange(3).sum() > 2, lambda x: (x, 1.0), lambda x: (2 * x, 2.0), x),
        X,
    ),
    "switch": (lambda x, i: lax.switch(i[0], [jnp.sin, jnp.cos, lambda x: 2 * x], x), X, INDEX),
    "keys in a loop": (
        lambda k, n: lax.while_loop(lambda c: c[0] < n, lambda c: (c[0] + 1, jax.random.fold_in(c[1], 3)), (0, k)),
        KEYS,
        whole(5, 4),
    ),
    "nested loops and branches": (counted, X, whole(5, 4)),
    "gradient of nested branches": (
        slope(lambda x: lax.fori_loop(0, 3, lambda i, x: lax.cond(x[0] > i, jnp.sin, jnp.tanh, 1.5 * x), x)),
        X,
    ),
    "jit, remat, named calls": (slope(lambda x: jax.checkpoint(jax.jit(lambda x: jnp.sin(x) @ x))(x)), X),
    "custom_jvp": (lambda x: (doubled(x), jax.grad(lambda x: doubled(x).sum())(x), jax.nn.relu(x), jax.nn.silu(x)), X),
    "custom_vjp": (lambda x: (tripled(x), jax.grad(lambda x: tripled(x).sum())(x)), X),
    "custom_vmap": (batched_in_its_own_way, X),
    "linear algebra": (
        lambda x: (jnp.linalg.svd(x, compute_uv=False), jnp.linalg.det(x.T @ x), jnp.linalg.solve(x.T @ x, x[0])),
        M,
    ),
    "FFT": (lambda x: jnp.abs(jnp.fft.rfft(x)), X),
    "optimization_barrier": (lambda x: lax.optimization_barrier((x, jnp.ones(3))), X),
    "half precision": (lambda x: (x.astype(jnp.bfloat16) @ x.astype(jnp.bfloat16)).astype(jnp.float32), X),
    "whole numbers": (lambda i: (i @ i, i // 2, i % 3, i << 1, jnp.bincount(i, length=5)), INDEX),
    "complex numbers": (lambda x: jnp.real(jnp.vdot(x + 1j, x * 2j)), X),
    "nothing of a replica's own": (lambda x: (jnp.arange(3.0), 2), X),
    "empty arrays": (lambda x: (x[:0] @ x[:0], x[:0]), X),
}


@pytest.mark.parametrize("name", RULES)
def test_each_operation_is_that_of_vmap(name):
    f, *args = RULES[name]
    assert_equal(f, *args, tolerance={"linear algebra": 2e-4, "half precision": 2e-2}.get(name, 2e-5))


RANDOM = {
    "words": lambda k: [jax.random.bits(k, (3, 2), dtype) for dtype in ("uint8", "uint16", "uint32")],
    "keys": lambda k: (jax.random.split(k, (2, 3)), jax.random.fold_in(k, 7), jax.random.clone(k)),
    "keys as words": lambda k: jax.random.wrap_key_data(jax.random.key_data(k) ^ jnp.uint32(5)),
    "numbers": lambda k: (jax.random.normal(k, (3, 2)), jax.random.uniform(k), jax.random.randint(k, (4,), 0, 9)),
    "draws": lambda k: (jax.random.permutation(k, 10), jax.random.choice(k, 7, (3,), replace=False)),
    "loops": lambda k: (jax.random.gamma(k, 2.0, (3,)), jax.random.poisson(k, 3.0), jax.random.binomial(k, 9, 0.3)),
    "keys of keys": lambda k: jax.vmap(lambda k: jax.random.bits(jax.random.fold_in(k, 1), (2,)))(jax.random.split(k)),
    "the generator": lambda k: jax.random.bits(jax.random.key(jax.random.key_data(k)[0]), (2,)),
}  # fmt: skip


@pytest.mark.parametrize("name", RANDOM)
def test_random_numbers_are_each_replicas_own_bit_for_bit(name):
    f = RANDOM[name]
    ours = jax.jit(lift(f))(KEYS)
    for r in (0, R - 1):
        alone = jax.jit(f)(KEYS[r])
        for a, b in zip(as_numbers(jax.tree.map(lambda x, r=r: x[..., r], ours)), as_numbers(alone), strict=True):
            if a.dtype.kind == "f":  # the words are the same; what is made of them is rounded by each program
                np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-6)
            else:
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("form", ["words", "normal", "split"])
def test_other_generators_are_left_to_vmap(form):
    f = {
        "words": lambda k: jax.random.bits(k, (3,)),
        "normal": lambda k: jax.random.normal(k, (3,)),
        "split": lambda k: jax.random.normal(jax.random.split(k)[1]),
    }[form]
    keys = jax.random.split(jax.random.key(1, impl="rbg"), R)
    assert_equal(f, keys, tolerance=1e-6)
    with jax.threefry_partitionable(False):
        assert_equal(f, KEYS, tolerance=1e-6)


def test_what_is_shared_stays_shared():
    """A data set that f has captured is worked on once, and only what the replicas pick has their axis."""
    data = jnp.arange(60.0).reshape(20, 3)
    f = lambda w, i: ((data @ data.T).sum() + w @ data[i], jax.nn.relu(data)[i])  # noqa: E731
    assert_equal(f, normal(0, 4), whole(1, 20, 4))
    made: Any = jax.make_jaxpr(lift(f))(normal(0, 4), whole(1, 20, 4)).jaxpr
    sizes = {v.aval.shape for e in made.eqns for v in e.outvars if v.aval.size > 200}
    assert sizes == {(20, 20)}


def test_arguments_without_replicas():
    f = lambda tree, x, c: {"a": tree["w"] @ x + c, "b": tree["s"]}  # noqa: E731
    tree = {"w": jnp.arange(20.0).reshape(4, 5), "s": normal(2, 2)}
    assert_equal(f, tree, X, 2.0, in_axes=({"w": None, "s": -1}, -1, None))
    shared = jnp.arange(15.0).reshape(5, 3)
    assert_equal(slope(lambda w, x: (w.T @ x, x @ w, w @ w.T)), shared, X, in_axes=(None, -1))
    assert_equal(lambda x, i: (x[i], x.at[i].add(1.0), x[i[0]]), shared, INDEX, in_axes=(None, -1))
    assert_equal(lambda k, n: jax.random.fold_in(k, n), KEY, whole(0, 9), in_axes=(None, -1))
    assert_equal(conv(), IMAGES, normal(0, 3, 3, 2, 3)[..., 0], in_axes=(-1, None))
    assert_equal(conv(), IMAGES[..., 0], normal(0, 3, 3, 2, 3), in_axes=(None, -1))


@pytest.mark.parametrize(
    ("in_axes", "args", "words"),
    [
        (0, (X,), "in_axes = 0: expected -1 or None"),
        ((-1,), (X, X), "one for each of 2 arguments"),
        (None, (X,), "replicas = []: expected one number"),
        (-1, (X, jnp.ones((5, 3))), "replicas = [3, 8]"),
        (-1, (1.0,), "an array with replicas"),
    ],
)
def test_bad_axes_are_refused_in_one_line(in_axes, args, words):
    with pytest.raises(InputError) as error:
        lift(lambda *xs: xs, in_axes)(*args)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("f", [doubled, tripled, jax.nn.relu, jax.nn.silu, jax.nn.gelu, jnp.linalg.det])
def test_derivatives_of_a_lifted_function_use_the_custom_rules(f):
    x = normal(0, 3, 3)
    across = jax.vmap(f, in_axes=-1, out_axes=-1)
    gradients = [jax.jit(jax.grad(lambda x, g=g: jnp.sum(g(x) ** 2)))(x) for g in (lift(f), across)]
    np.testing.assert_allclose(*gradients, rtol=2e-4, atol=2e-5)
    if f is not tripled:  # a custom_vjp has no forward derivative
        moved = [jax.jit(lambda x, g=g: jax.jvp(g, (x,), (jnp.cos(x),))[1])(x) for g in (lift(f), across)]
        np.testing.assert_allclose(*moved, rtol=2e-4, atol=2e-5)


def test_custom_rules_of_several_arguments():
    @jax.custom_vjp
    def scaled(x, n, w):
        return x * n + w.sum()

    scaled.defvjp(lambda x, n, w: (scaled(x, n, w), (n, w)), lambda kept, g: (5 * g * kept[0], None, g.sum() * kept[1]))
    args = X, whole(0, 5, 5), jnp.arange(3.0)
    total = lambda lifted: lambda x, w: jnp.sum(lifted(x, args[1], w) ** 2)  # noqa: E731
    ways = [lift(scaled, (-1, -1, None)), jax.vmap(scaled, (-1, -1, None), -1)]
    for ours, theirs in zip(*[jax.jit(jax.grad(total(f), (0, 1)))(args[0], args[2]) for f in ways], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_callbacks_are_those_of_vmap():
    square = lambda x: jax.pure_callback(np.square, x, x, vmap_method="expand_dims")  # noqa: E731
    assert_equal(lambda x: square(x) + 1, X)


def test_an_operation_without_a_batch_is_refused():
    one_by_one = lambda x: jax.pure_callback(np.square, x, x)  # noqa: E731 - no `vmap_method`
    with pytest.raises(InputError, match="pure_callback: expected operations that"):
        lift(one_by_one)(X)


FORMS = {"written out": (1 << 20, 1 << 20), "batched and joined": (0, 0)}


@pytest.fixture(params=FORMS)
def form(request, monkeypatch):
    for name, most in zip(("WRITTEN_OUT", "SHARED_WRITTEN_OUT"), FORMS[request.param], strict=True):
        monkeypatch.setattr(multiplying, name, most)
    return request.param


@pytest.mark.parametrize(
    "spec", ["ij,jk->ik", "ji,kj->ki", "bij,bjk->bik", "ij,ij->", "i,j->ij", "bij,jb->ib", "abij,bakj->jabik"]
)
def test_products_in_each_form(form, spec):
    a, b = spec.split("->")[0].split(",")
    sizes = dict(zip("abijk", (2, 3, 4, 90, 6), strict=True))
    left, right = (normal(i, *(sizes[c] for c in letters)) for i, letters in enumerate((a, b)))
    f = functools.partial(jnp.einsum, spec)
    all_three = lambda a, b, one_a, one_b: (f(a, b), f(one_a, b), f(a, one_b))  # noqa: E731 - one program
    assert_equal(all_three, left, right, left[..., 0], right[..., 0], in_axes=(-1, -1, None, None), tolerance=1e-4)


@pytest.mark.optimised
@pytest.mark.parametrize("tile", [8, 32])
def test_a_replicas_bits_do_not_depend_on_its_company(form, tile):
    """Permuted lanes give permuted bits, and other neighbours, infinite ones among them, change nothing."""
    key = jax.random.key(3)
    draw = lambda number, *shape: jax.random.normal(jax.random.fold_in(key, number), (*shape, tile))  # noqa: E731
    args = draw(0, 6, 5), draw(1, 5, 7), draw(2, 1, 6, 6, 2), draw(3, 3, 3, 2, 3)
    shared = jnp.linspace(-1, 1, 35).reshape(7, 5)

    def f(x, w, image, kernel):
        h = jnp.tanh(x @ w) @ shared
        h = lax.scan(lambda c, y: (jnp.tanh(c + y), lax.cond(c[0] > 0, jnp.sin, jnp.cos, c)), h[0], h)
        long = lax.while_loop(lambda c: jnp.abs(c).sum() > 1, lambda c: c * 0.7, h[0])
        return h, long, conv()(image, kernel), jnp.logaddexp(x, 1.0).sum(), jax.nn.softmax(x)

    run = jax.jit(lift(f))
    first = run(*args)
    order = np.roll(np.arange(tile)[::-1], 3)
    for a, b in zip(as_numbers(first), as_numbers(run(*(x[..., order] for x in args))), strict=True):
        assert a[..., order].tobytes() == b.tobytes()
    other = [x.at[..., 1:].set(jnp.where(x[..., 1:] > 0, jnp.inf, 1e30)) for x in args]
    for a, b in zip(as_numbers(first), as_numbers(run(*other)), strict=True):
        assert a[..., 0].tobytes() == b[..., 0].tobytes()


UNARY = (
    jnp.sin, jnp.tanh, jax.nn.relu, jax.nn.softplus, jnp.square, doubled, tripled, lambda x: x.T, lambda x: x[::-1],
    lambda x: x - x.mean(0), lambda x: jax.nn.softmax(x, -1), lambda x: jnp.cumsum(x, 0), lambda x: jnp.sort(x, 1),
    lambda x: x / (1 + jnp.linalg.norm(x)), lambda x: jnp.roll(x, 1, 1), lambda x: x[jnp.array([2, 0, 2])],
    lambda x: x.at[1].multiply(x[0]), lambda x: x.at[jnp.argmax(x[0])].add(1.0), lambda x: x[:, jnp.argsort(x[1])],
    lambda x: lax.dynamic_update_slice(x, x[:1] * 2, (jnp.argmin(x[:, 0]), 0)),
    lambda x: lax.scan(lambda c, y: (jnp.tanh(c + y), c * y), x[0], x)[1],
    lambda x: lax.fori_loop(0, 2, lambda i, x: jnp.sin(x) @ x / 3, x),
    lambda x: lax.cond(x[0, 0] > 0, lambda x: x @ x.T, lambda x: x / 2, x),
    lambda x: jax.checkpoint(lambda x: jnp.tanh(x @ x))(x), lambda x: jax.jit(jnp.cos)(x),
    lambda x: jnp.where(x > 0, x, jnp.exp(-x * x)), lambda x: jnp.pad(x, ((0, 1), (0, 0)))[1:],
    lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (2, 1), (1, 1), "SAME"), lambda x: jnp.outer(x[0], x[:, 0]),
    lambda x: lax.conv(x[None, None], x[None, None, :2, :2], (1, 1), "SAME")[0, 0],
)  # fmt: skip
BINARY = (jnp.add, jnp.multiply, jnp.matmul, jnp.maximum, lambda x, y: x @ y.T, lambda x, y: jnp.where(x > y, x, y))


@st.composite
def programs(draw):
    """A program of some of the operations: each acts on values made before it, 3 × 3 matrices."""
    steps = []
    for length in range(2, 2 + draw(st.integers(1, 6))):
        pick = st.integers(0, length - 1)
        if draw(st.booleans()):
            steps.append((draw(st.sampled_from(UNARY)), (draw(pick),)))
        else:
            steps.append((draw(st.sampled_from(BINARY)), (draw(pick), draw(pick))))
    return steps


@pytest.mark.parametrize("examples", [10, 60])
def test_any_composition_has_the_values_and_gradients_of_vmap(examples):
    settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large),
    )(given(programs(), st.booleans(), st.booleans())(a_composition))()


def a_composition(steps, double, first_is_shared):
    """The values and gradients of one program."""

    def f(x, y):
        values = [x, y]
        for function, operands in steps:
            values.append(function(*(values[i] for i in operands)))
        return jnp.sum(jnp.tanh(values[-1])), values[-1]

    axes = (None if first_is_shared else -1, -1)
    with jax.enable_x64(double):
        dtype = jnp.float64 if double else jnp.float32
        key = jax.random.key(7)
        shapes = (3, 3) if first_is_shared else (3, 3, R), (3, 3, R)
        args = [jax.random.uniform(jax.random.fold_in(key, i), s, dtype, -1, 1) for i, s in enumerate(shapes)]
        slopes = jax.value_and_grad(f, argnums=(0, 1), has_aux=True)
        assert_equal(slopes, *args, in_axes=axes, tolerance=1e-10 if double else 2e-3)
