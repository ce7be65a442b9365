"""Gradients of single examples and of batches, and what their noise and the curvature look like to the levels."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from dysonjax.core.model import HasChains, HasExampleGradients, HasLoss, HasMoments, mean_loss

CHUNK, BATCHES_AT_ONCE, KRYLOV, DRIFT_EXAMPLES = 64, 16, 24, 8
"""Examples and batches whose gradients are held at once; steps of Arnoldi's iteration; examples behind the drift for
each one behind the noise, so that the drift is known better than the noise."""


def by_examples(model: Any) -> bool:
    """Whether gradients come from the model's own `example_gradients` and not from its loss."""
    return isinstance(model, HasExampleGradients) and (isinstance(model, HasChains) or not isinstance(model, HasLoss))


def example_gradients(model: Any, key: PRNGKeyArray, params: PyTree, num: int, task: PyTree) -> PyTree:
    """Gradients ∂L_b/∂θ [num, …] of `num` fresh examples: the model's own `example_gradients`, else its loss's."""
    if isinstance(model, HasExampleGradients):
        return model.example_gradients(key, params, num, task)
    slope = jax.grad(model.loss)
    return jax.vmap(lambda example: slope(params, example, task))(model.sample(key, num, task))


def loss_and_gradient(
    model: Any, key: PRNGKeyArray, params: PyTree, batch_size: int, task: PyTree
) -> tuple[Float[Array, ""], PyTree]:
    """Loss (NaN where the model has none) and gradient (1/|B|) Σ_{b∈B} ∂L_b/∂θ of one fresh batch."""
    if by_examples(model):
        gradients = example_gradients(model, key, params, batch_size, task)
        return jnp.asarray(jnp.nan), jax.tree.map(lambda g: jnp.mean(g, axis=0), gradients)
    examples = model.sample(key, batch_size, task)
    return jax.value_and_grad(lambda p: mean_loss(model, p, examples, task))(params)


def batch_gradient(model: Any, key: PRNGKeyArray, params: PyTree, batch_size: int, task: PyTree) -> PyTree:
    """(1/|B|) Σ_{b∈B} ∂L_b/∂θ of one fresh batch."""
    return loss_and_gradient(model, key, params, batch_size, task)[1]


class GradientNoise(NamedTuple):
    """Of one replica, in the basis of the singular vectors of a watched matrix W [m, n] = Σ ξ_i u_i v_iᵀ, k levels.

    `entries` [m, n]: variances of u_iᵀ G v_j over S examples; `spectrum` [min(S, m n)]: eigenvalues of the covariance
    of G, largest first; `effective_rank`: (tr C)²/tr C², unbiased; `projections` [S, k]: u_iᵀ Ḡ v_i of batches;
    `total`: tr Σ of all parameters' gradients; `squared_drift`: |∇L|²; `rates` [k]: curvature of L along the levels,
    a_iᵀ H a_i/|a_i|² with a_i = ∂ξ_i/∂θ; `top_curvature`: λ_max of H.
    """

    entries: Array
    spectrum: Array
    effective_rank: Array
    projections: Array
    total: Array
    squared_drift: Array
    rates: Array
    top_curvature: Array


def gradient_noise(
    key: PRNGKeyArray, model: Any, matrix: str, params: PyTree, task: PyTree, batch_size: int, samples: int
) -> GradientNoise:
    """Measured on `samples` examples (rounded up to whole chunks) and as many batches; one replica, under `jit`.

    The drift is exact for a model with `moment_gradient`, else the mean over `DRIFT_EXAMPLES` times as many examples.
    """
    theta, unravel = ravel_pytree(params)
    watched = lambda theta: model.matrices(unravel(theta))[matrix]  # noqa: E731
    u, _, vt = jnp.linalg.svd(watched(theta))
    of_noise, of_batches, of_drift, of_start = jax.random.split(key, 4)

    def in_basis(w: Array) -> Array:
        return jnp.matmul(jnp.matmul(u.T, w, precision="highest"), vt.T, precision="highest")

    def rotated(gradient: PyTree) -> Array:
        return in_basis(jax.jvp(watched, (theta,), (ravel_pytree(gradient)[0],))[1])

    def chunk(key: PRNGKeyArray) -> tuple[Array, Array]:
        gradients = example_gradients(model, key, params, min(CHUNK, samples), task)
        return jax.vmap(rotated)(gradients), jax.vmap(lambda g: jnp.sum(jnp.square(ravel_pytree(g)[0])))(gradients)

    g, squares = jax.lax.map(chunk, jax.random.split(of_noise, -(-samples // min(CHUNK, samples))))
    g = g.reshape(-1, *g.shape[2:])
    count, centred = len(g), (g - jnp.mean(g, axis=0)).reshape(len(g), -1)
    small = centred.T if centred.size < count**2 else centred  # tr Ĉ² and the eigenvalues are those of the smaller
    gram = jnp.matmul(small, small.T, precision="highest")
    own = jnp.sum(centred**2, axis=1)
    # unbiased, unlike tr Ĉ²: products of different examples alone, which centring has shrunk
    square_trace = (jnp.sum(gram**2) - jnp.sum(own**2)) * (count / (count - 1.0) ** 3)

    def projected(key: PRNGKeyArray) -> Array:
        return jnp.diag(rotated(batch_gradient(model, key, params, batch_size, task)))

    keys = jax.random.split(of_batches, count)
    drift, draws = _population_gradient(model, of_drift, DRIFT_EXAMPLES * count, task)
    slope, curve = jax.linearize(lambda theta: ravel_pytree(drift(unravel(theta)))[0], theta)
    along = jax.jacrev(lambda theta: jnp.diag(in_basis(watched(theta))))(theta)
    bent = jax.lax.map(curve, along)
    mean_square, squared_drift = jnp.mean(squares), jnp.sum(slope**2)
    if draws:
        squared_drift = (squared_drift - mean_square / draws) / (1 - 1 / draws)
    return GradientNoise(
        entries=jnp.var(g, axis=0, ddof=1),
        spectrum=jnp.linalg.eigvalsh(gram)[::-1] / (count - 1),
        effective_rank=(jnp.sum(own) / (count - 1)) ** 2 / square_trace,
        projections=jax.lax.map(projected, keys, batch_size=BATCHES_AT_ONCE),
        total=mean_square - squared_drift,
        squared_drift=squared_drift,
        rates=jnp.sum(along * bent, axis=1) / jnp.sum(along**2, axis=1),
        top_curvature=_top_eigenvalue(of_start, curve, theta),
    )


def _population_gradient(model: Any, key: PRNGKeyArray, num: int, task: PyTree) -> tuple[Any, int]:
    """∇L as a function of the parameters, and how many random examples it is a mean of (0: exact)."""
    if isinstance(model, HasMoments):
        add = lambda tree: jax.tree.map(lambda x: jnp.asarray(x)[..., None], tree)  # noqa: E731
        one = jnp.eye(model.gaussians)[..., None]
        exact = lambda p: jax.tree.map(lambda x: x[..., 0], model.moment_gradient(add(p), one, add(task)))  # noqa: E731
        return exact, 0
    if by_examples(model):
        own = lambda p: jax.tree.map(lambda g: jnp.mean(g, axis=0), example_gradients(model, key, p, num, task))  # noqa: E731
        return own, num
    draws = num if model.examples is None else min(num, model.examples)
    examples = model.sample(key, draws, task)
    return jax.grad(lambda p: mean_loss(model, p, examples, task)), 0 if draws == model.examples else draws


def _top_eigenvalue(key: PRNGKeyArray, apply: Any, like: Array) -> Array:
    """Largest eigenvalue of a nearly symmetric linear map by Arnoldi's iteration with full orthogonalisation."""
    steps = min(KRYLOV, like.size)
    start = jax.random.normal(key, like.shape, like.dtype)
    basis = jnp.zeros((steps + 1, like.size), like.dtype).at[0].set(start / jnp.linalg.norm(start))

    def extend(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        basis, small = carry
        new = apply(basis[i])
        size = jnp.linalg.norm(new)
        first = jnp.matmul(basis, new, precision="highest")
        new = new - jnp.matmul(first, basis, precision="highest")
        second = jnp.matmul(basis, new, precision="highest")
        new = new - jnp.matmul(second, basis, precision="highest")
        left = jnp.linalg.norm(new)
        left = jnp.where(left > 1e-5 * size, left, 0)  # else the space is exhausted
        new = jnp.where(left > 0, new / jnp.where(left > 0, left, 1), 0)
        return basis.at[i + 1].set(new), small.at[:, i].set(first + second).at[i + 1, i].set(left)

    small = jax.lax.fori_loop(0, steps, extend, (basis, jnp.zeros((steps + 1, steps), like.dtype)))[1][:steps]
    return jnp.linalg.eigvalsh((small + small.T) / 2)[-1]
