"""Second moments of a batch drawn whole: S = (1/|B|) Σ_b z_b z_bᵀ for independent standard normal z_b ∈ R^d.

For a model whose batch gradient knows its batch only through S (`models.MomentModel`) an update then costs the same for
any batch size, which is a traced number. Replicas R stand on the last axis of every array.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from dysonjax import spectra
from dysonjax.core.dynamics import Dynamics, Hyper, Parameter, one_replica
from dysonjax.core.errors import require
from dysonjax.core.model import HasMoments, MomentModel, default_init_width
from dysonjax.kernels.products import sum_of_outer
from dysonjax.kernels.random_numbers import chi_squared, normals

INJECTED = 0x1A7E
"""Folded into a step's key for the injected noise."""
TILE = 128
"""Replicas side by side on a CPU, by `benchmarks/rbm.py`."""


def wishart_moment(keys: PRNGKeyArray, d: int, batch_size: Float[Array, " R"]) -> Float[Array, "d d R"]:
    """S by Bartlett's decomposition (1933), also for |B| < d, where it is singular.

    |B| S = A Aᵀ, A lower triangular with χ numbers of |B| − j degrees of freedom on its diagonal, standard normal ones
    below it, and zeros from column |B| on: the R factor of the [|B|, d] matrix of all z_b, transposed.
    """
    left = jnp.maximum(batch_size - jnp.arange(d)[:, None], 0)
    diagonal = jnp.sqrt(chi_squared(keys, left, (d,), stream=1))
    z, columns, used = normals(keys, (d * (d - 1) // 2,)), [], 0
    for j in range(d):
        below = jnp.where(left[j] > 0, z[used : used + d - 1 - j], 0)
        columns.append(jnp.concatenate([jnp.zeros_like(diagonal[:j]), diagonal[j : j + 1], below]))
        used += d - 1 - j
    a = jax.lax.optimization_barrier(jnp.stack(columns))
    return sum_of_outer(a, a) / batch_size


def gaussian_moment(keys: PRNGKeyArray, d: int, batch_size: Float[Array, " R"]) -> Float[Array, "d d R"]:
    """1 + G/√|B|, G symmetric with variance 1 off the diagonal and 2 on it: the mean and covariance of S."""
    g = normals(keys, (d, d))
    return jnp.eye(d)[..., None] + (g + jnp.swapaxes(g, 0, 1)) * jax.lax.rsqrt(2 * batch_size)


def measured_moment(keys: PRNGKeyArray, d: int, batch_size: Float[Array, " R"], samples: int) -> Float[Array, "d d R"]:
    """1 + Σ_b (ξ_b − ξ̄) z_b z_bᵀ/√(m |B|) over m samples: Gaussian with their empirical covariance, ξ_b ~ N(0, 1)."""
    z, xi = normals(keys, (samples, d)), normals(keys, (samples, 1), stream=1)
    weighted = jax.lax.optimization_barrier((xi - jnp.mean(xi, axis=0)) * z)
    return jnp.eye(d)[..., None] + sum_of_outer(weighted, z) * jax.lax.rsqrt(samples * batch_size)


def batch_gradient(
    model: MomentModel, keys: PRNGKeyArray, params: PyTree, moment: Float[Array, "d d R"], hyper: Hyper
) -> PyTree:
    """The gradient of a batch with second moment S, injected noise included."""
    gradient = model.moment_gradient(params, moment, hyper["data"])
    noise = model.gradient_noise(jax.vmap(lambda key: jax.random.fold_in(key, INJECTED))(keys))
    if noise is None:
        return gradient
    scale = jax.lax.rsqrt(jnp.asarray(hyper["batch_size"], float))
    return jax.tree.map(lambda g, a: g + scale * a, gradient, noise)


class MomentState(NamedTuple):
    """Trained parameters."""

    params: PyTree


Gradient = Callable[[PRNGKeyArray, PyTree, Hyper], PyTree]
"""(keys [R], params, hyper) → one batch's gradient, replicas on the last axis."""


def moment_dynamics(
    model: MomentModel, gradient: Gradient, config: Mapping[str, Any], batch_size: bool = True, substeps: int = 1
) -> Dynamics:
    """W ← W − α `gradient`, |B| a traced number; an update may be m = `substeps` of α/m and |B|/m, at the same T."""

    def init(key: PRNGKeyArray, hyper: Hyper) -> MomentState:
        return MomentState(model.init(key, hyper["data"], hyper["init_width"]))

    def move(keys: PRNGKeyArray, state: MomentState, hyper: Hyper) -> MomentState:
        slope = gradient(keys, state.params, hyper)
        return MomentState(jax.tree.map(lambda w, g: w - hyper["learning_rate"] * g, state.params, slope))

    def block_step(keys: PRNGKeyArray, state: MomentState, hyper: Hyper) -> MomentState:
        if substeps == 1:
            return move(keys, state, hyper)
        shares = {n: hyper[n] / substeps for n in ("learning_rate", "batch_size") if n in hyper}

        def substep(i: Array, state: MomentState) -> MomentState:
            own = jax.vmap(lambda key: jax.random.fold_in(key, i))(keys)
            return move(own, state, {**hyper, **shares})

        return jax.lax.fori_loop(0, substeps, substep, state)

    parameters = {"learning_rate": Parameter(), "init_width": Parameter(default_init_width(model))}
    return Dynamics(
        init=init,
        step=one_replica(block_step),
        block_step=block_step,
        spectra=lambda state: {name: spectra.levels(w) for name, w in model.matrices(state.params).items()},
        data=lambda key, hyper: model.task(key),
        parameters=parameters | ({"batch_size": Parameter(integer=True)} if batch_size else {}),
        config={**config, "substeps": substeps, **model.config},
        tile=TILE,
    )


def sgd_of_moments(model: MomentModel, law: Literal["wishart", "population"]) -> Dynamics:
    """SGD with S drawn from its Wishart law, or gradient descent on the population's loss (S = 1)."""
    require(isinstance(model, HasMoments), "sampling", law, "a model with `moment_gradient`, or examples")

    def gradient(keys: PRNGKeyArray, params: PyTree, hyper: Hyper) -> PyTree:
        if law == "population":
            return population_gradient(model, params, hyper)
        moment = wishart_moment(keys, model.gaussians, jnp.asarray(hyper["batch_size"], float))
        return batch_gradient(model, keys, params, moment, hyper)

    return moment_dynamics(model, gradient, {"dynamics": "sgd", "sampling": law}, law == "wishart")


def population_gradient(model: MomentModel, params: PyTree, hyper: Hyper) -> PyTree:
    """The gradient at S = 1, that of an infinite batch."""
    replicas = jax.tree.leaves(params)[0].shape[-1]
    one = jnp.broadcast_to(jnp.eye(model.gaussians)[..., None], (model.gaussians, model.gaussians, replicas))
    return model.moment_gradient(params, one, hyper["data"])
