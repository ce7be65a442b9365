"""JAX issue 39103: with 0.10.2 a compiled vmapped matrix–vector product followed by a sum has wrong rows on a CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytestmark = pytest.mark.optimised  # it is about the compiler


def test_compiled_sum_of_many_products_equals_the_uncompiled_one():
    """With 0.10.2 the rows behind 32,768 are wrong in float32 (behind 16,384 in float64)."""
    rows = 40_000
    matrix = jax.random.normal(jax.random.key(0), (3, 3))
    x = jax.random.normal(jax.random.key(1), (rows, 3))

    def energies(x):
        return jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2))(x)

    exact = ((np.asarray(x, float) @ np.asarray(matrix, float).T) ** 2).sum(1)
    for values in (jax.jit(energies)(x), energies(x)):
        np.testing.assert_allclose(values, exact, rtol=1e-4)


def test_the_release_with_that_error_is_not_installed():
    assert jax.__version__ != "0.10.2"
