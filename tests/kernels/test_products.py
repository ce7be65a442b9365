"""The three small products of a block against float64 einsum, in both forms, on both sides of the longest sum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dysonjax.kernels import products as blocks

REPLICAS = 3


def operands(m, n, b):
    """W [m, n, R], x [b, n, R], y [b, m, R] in float64."""
    rng = np.random.default_rng([m, n, b])
    return rng.normal(size=(m, n, REPLICAS)), rng.normal(size=(b, n, REPLICAS)), rng.normal(size=(b, m, REPLICAS))


def products(w, x, y):
    """All three in one compiled program, which is faster than their many operations one by one."""
    three = lambda w, x, y: (blocks.matvec(w, x), blocks.matvec_transposed(w, y), blocks.sum_of_outer(y, x))  # noqa: E731
    return jax.jit(three)(w, x, y)


def exact(w, x, y):
    return (
        np.einsum("mnr,bnr->bmr", w, x),
        np.einsum("mnr,bmr->bnr", w, y),
        np.einsum("bmr,bnr->mnr", y, x),
    )


def assert_products(w, x, y, digits, length):
    """Each product has its einsum's shape and, to the rounding of a sum of that length, its numbers."""
    for name, value, wanted in zip(("W x", "Wᵀ y", "Σ y xᵀ"), products(w, x, y), exact(w, x, y), strict=True):
        assert value.shape == wanted.shape, name
        np.testing.assert_allclose(value, wanted, rtol=digits, atol=digits * length, err_msg=name)


@pytest.mark.parametrize("form", ["unrolled", "reduce"])
@pytest.mark.parametrize(
    ("m", "n", "b"),
    [
        (1, 1, 1), (1, 5, 3), (4, 1, 1), (3, 7, 5),  # fewer terms than partial sums, and odd sizes
        (2, 64, 1), (3, 65, 2), (130, 7, 2), (2, 3, 130),  # each product's sum in one piece, in two and in three
    ],
)  # fmt: skip
def test_products_equal_einsum(monkeypatch, form, m, n, b):
    monkeypatch.setattr(blocks, "FORM", form)
    operand = operands(m, n, b)
    assert_products(*(jnp.asarray(a, jnp.float32) for a in operand), digits=1e-6, length=4 * max(m, n, b))


@pytest.mark.parametrize("form", ["unrolled", "reduce"])
def test_double_precision_is_kept(monkeypatch, form):
    """A float32 constant or accumulator anywhere would cost nine digits."""
    monkeypatch.setattr(blocks, "FORM", form)
    with jax.enable_x64(True):
        operand = tuple(jnp.asarray(a) for a in operands(3, 65, 2))
        assert [p.dtype for p in products(*operand)] == [np.float64] * 3
        assert_products(*operand, digits=1e-14, length=100)


def test_a_pieced_sum_misses_no_term_and_repeats_none(monkeypatch):
    """Powers of two in float32 are exact, so that the sum tells which terms are in it."""
    monkeypatch.setattr(blocks, "FORM", "unrolled")
    monkeypatch.setattr(blocks, "LONGEST_UNROLLED", 3)  # pieces of 3, 3, 3, 1 for ten terms
    w = 2.0 ** jnp.arange(10)[None, :, None]
    assert float(blocks.matvec(w, jnp.ones((1, 10, 1)))[0, 0, 0]) == 2**10 - 1


def test_replicas_do_not_mix():
    """A replica of NaN stays alone: the engine lets diverged replicas lie beside healthy ones."""
    w, x, y = operands(3, 5, 2)
    w[..., 1] = np.nan
    for value, touched in zip(products(w, x, y), (True, True, False), strict=True):
        assert np.isnan(value[..., 1]).all() == touched
        assert np.isfinite(value[..., [0, 2]]).all()


@pytest.mark.parametrize("n", [1, 2, 7, blocks.LARGEST_FACTORED + 1])
def test_factors_and_solutions(n):
    rng = np.random.default_rng(n)
    g, b = rng.normal(size=(n, n + 3, REPLICAS)), rng.normal(size=(n, 4, REPLICAS))
    a = np.einsum("ikr,jkr->ijr", g, g)
    u = jax.jit(blocks.cholesky)(a)
    assert not np.any(np.asarray(u)[np.tril_indices(n, -1)])
    np.testing.assert_allclose(np.einsum("kir,kjr->ijr", u, u), a, atol=2e-6 * np.max(a))
    x = jax.jit(blocks.solve_upper)(u, b)
    np.testing.assert_allclose(np.einsum("ijr,jkr->ikr", u, x), b, atol=1e-4)
    np.testing.assert_allclose(jax.jit(blocks.matmul)(a, b), np.einsum("ijr,jkr->ikr", a, b), rtol=1e-5, atol=1e-4)


def test_what_is_not_positive_definite_has_no_factor():
    a = np.stack([np.diag([4.0, 1.0, 2.0]), np.diag([1.0, -1e-3, 2.0])], axis=-1)
    u = blocks.cholesky(jnp.asarray(a))
    assert np.isnan(u[-1, -1, 1]) and np.isfinite(u[..., 0]).all()


@pytest.mark.parametrize("n", [1, 7, 8, 12])
def test_examples_in_chunks_are_the_same_examples(n):
    """Counts that the chunk divides, has a common factor with, and has none with."""
    _, x, y = operands(3, 2, n)
    kept, doubled = blocks.map_examples(lambda x, y: (x, 2 * y), jnp.asarray(x), jnp.asarray(y))
    np.testing.assert_allclose(kept, x, rtol=1e-6)
    np.testing.assert_allclose(doubled, 2 * y, rtol=1e-6)
    parts = blocks.chunks((jnp.asarray(x), jnp.asarray(y)))
    assert parts[0].shape == (n // np.gcd(n, 8), np.gcd(n, 8), 2, REPLICAS)
    total = blocks.sum_of_chunks(lambda x, y: {"xy": blocks.sum_of_outer(y, x)}, *parts)
    np.testing.assert_allclose(total["xy"], np.einsum("bmr,bnr->mnr", y, x), rtol=1e-5, atol=1e-5)
