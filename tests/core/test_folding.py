"""Folded kernels are the matrices that their layers multiply with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dysonjax.core.folding import fold, matrices_of

RNG = np.random.default_rng(5)


@pytest.mark.parametrize(
    ("layout", "numbers", "shape"),
    [("flax", ("NHWC", "HWIO", "NHWC"), (2, 3, 4, 5)), ("torch", ("NCHW", "OIHW", "NCHW"), (5, 4, 2, 3))],
)
def test_a_convolution_is_its_matrix_times_patches(layout, numbers, shape):
    kernel = RNG.normal(size=shape).astype("f4")
    image = RNG.normal(size=(1, 2, 3, 4) if layout == "flax" else (1, 4, 2, 3)).astype("f4")
    found = jax.lax.conv_general_dilated(
        jnp.asarray(image), jnp.asarray(kernel), (1, 1), "VALID", dimension_numbers=numbers, precision="highest"
    )
    matrix = fold(kernel, layout)
    assert matrix.shape == ((24, 5) if layout == "flax" else (5, 24))
    product = image.ravel() @ matrix if layout == "flax" else matrix @ image.ravel()
    np.testing.assert_allclose(np.ravel(found), product, rtol=1e-4, atol=1e-5)


def test_one_layer_has_the_same_levels_in_both_layouts():
    torch = RNG.normal(size=(5, 4, 2, 3))
    flax = torch.transpose(2, 3, 1, 0)
    values = [np.linalg.svd(w, compute_uv=False) for w in (fold(torch, "torch"), fold(flax, "flax"))]
    np.testing.assert_allclose(*values, rtol=1e-12)


def test_attention_is_its_matrix_times_the_input():
    net, x = nnx.MultiHeadAttention(2, 6, 8, decode=False, rngs=nnx.Rngs(0)), jnp.asarray(RNG.normal(size=(3, 6)))
    layers = {"a/query/kernel": net.query, "a.key.kernel": net.key, "value/kernel": net.value}
    for name, layer in layers.items():
        ((own, matrix),) = matrices_of(name, layer.kernel[...], "flax")
        assert own == name and matrix.shape == (6, 8)
        np.testing.assert_allclose(layer(x).reshape(3, 8), x @ matrix, rtol=1e-4, atol=1e-5)
    ((_, matrix),) = matrices_of("a/out/kernel", net.out.kernel[...], "flax")  # [heads, head_dim, out]
    heads = jnp.asarray(RNG.normal(size=(3, 2, 4)))
    np.testing.assert_allclose(net.out(heads), heads.reshape(3, 8) @ matrix, rtol=1e-4, atol=1e-5)


def test_stacked_layers_are_folded_one_by_one():
    w = RNG.normal(size=(2, 6, 4, 3))
    found = dict(matrices_of("blocks/query/kernel", w, "flax", 1))
    assert {name: matrix.shape for name, matrix in found.items()} == {
        "blocks/query/kernel[0]": (6, 12), "blocks/query/kernel[1]": (6, 12)
    }  # fmt: skip
    np.testing.assert_array_equal(found["blocks/query/kernel[1]"], w[1].reshape(6, 12))
    assert [name for name, _ in matrices_of("w", w, "torch", 5)][:2] == ["w[0,0]", "w[0,1]"]
    assert [m.shape for _, m in matrices_of("w", w, "torch", 1)] == [(6, 12)] * 2
    assert [m.shape for _, m in matrices_of("w", w[0, 0], "torch", 1)] == [(4, 3)]


@pytest.mark.parametrize("layout", ["flax", "torch"])
def test_vectors_are_no_matrices(layout):
    for shape in ((4,), (1, 4), (4, 1), (1, 1, 4), ()):
        assert list(matrices_of("w", np.ones(shape), layout)) == []
