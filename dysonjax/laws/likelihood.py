"""Maximum likelihood with standard errors that need nothing but independent replicas."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float

from dysonjax.core.errors import require
from dysonjax.laws.base import Fit, check, real

ITERATIONS = 60
"""Newton steps at most; five are typical."""


def observations(name: str, values: Float[ArrayLike, "R ..."], positive: bool = False) -> Float[Array, "R k"]:
    """Data as one row for each replica: [R, ...] → [R, k]; raises `InputError` when they are no finite numbers."""
    rows = real(values)
    require(rows.ndim >= 1 and rows.shape[0] >= 2 and rows.size, name, rows.shape, "at least two on the first axis")
    expected = "finite positive numbers" if positive else "finite numbers"
    if not isinstance(rows, Tracer):
        check(name, rows, (lambda v: v > 0) if positive else np.isfinite, expected)
    return rows.reshape(rows.shape[0], -1)


@partial(jax.jit, static_argnames=("build", "names"))
def maximum_likelihood(
    build: Callable[..., Any],
    start: Float[Array, " k"],
    rows: Float[Array, "R n"],
    names: tuple[str, ...],
    scale: Any = (),
) -> Fit:
    """The law `build(θ, *scale)` whose likelihood is largest, all rows pooled, with errors of its parameters `names`.

    θ [k] is any real vector, `scale` numbers of the data that make it of order one. The errors are those of the
    infinitesimal jackknife over rows (the sandwich estimator of Huber and White), H⁻¹ (Σ_r g_r g_rᵀ) H⁻¹ R/(R − 1) with
    the score g_r of row r and the Hessian H: **rows are independent; the numbers of one row need not be**, as levels of
    one matrix never are.
    """
    law = lambda theta: build(theta, *scale)  # noqa: E731
    theta = _minimise(lambda theta: -jnp.mean(law(theta).log_pdf(rows)), start)
    scores = jax.jacfwd(lambda theta: law(theta).log_pdf(rows).sum(-1))(theta)
    hessian = rows.size * jax.hessian(lambda theta: jnp.mean(law(theta).log_pdf(rows)))(theta)
    influence = jnp.linalg.solve(hessian, scores.T)
    parameters = lambda theta: jnp.stack([getattr(law(theta), name) for name in names])  # noqa: E731
    moved = jax.jacfwd(parameters)(theta) @ influence
    errors = jnp.sqrt(jnp.sum(moved**2, axis=-1) * len(rows) / (len(rows) - 1))
    return Fit(law(theta), dict(zip(names, errors, strict=True)))


def moments_fit(law: Any, estimates: Callable[..., Any], rows: Float[Array, "R n"], names: tuple[str, ...]) -> Fit:
    """Errors by the jackknife over rows of `estimates`(row means of x and x²), a function of the moments."""
    sums = jnp.stack([rows.mean(-1), jnp.mean(rows**2, -1)])
    count = rows.shape[0]
    without = (sums.sum(-1, keepdims=True) - sums) / (count - 1)
    values = jnp.stack(estimates(*without))
    spread = jnp.sum((values - values.mean(-1, keepdims=True)) ** 2, -1) * (count - 1) / count
    return Fit(law, dict(zip(names, jnp.sqrt(spread), strict=True)))


def _minimise(loss, start):
    """Newton's method on a convex model, steps of at most one, the best of five lengths."""
    tolerance = jnp.sqrt(jnp.finfo(start.dtype).eps)
    lengths = jnp.array([1, 0.5, 0.25, 0.0625, 0], start.dtype)

    def advance(state):
        theta, _, i = state
        curvature, axes = jnp.linalg.eigh(jax.hessian(loss)(theta))
        # a saddle is left downhill; a flat direction is not followed to infinity
        curvature = jnp.maximum(jnp.abs(curvature), 1e-3 * jnp.max(jnp.abs(curvature)))
        step = -axes @ ((axes.T @ jax.grad(loss)(theta)) / curvature)
        step = step / jnp.maximum(1, jnp.linalg.norm(step))
        tries = theta + lengths[:, None] * step
        values = jax.vmap(loss)(tries)
        best = tries[jnp.argmin(jnp.where(jnp.isfinite(values), values, jnp.inf))]
        return best, jnp.linalg.norm(best - theta), i + 1

    unfinished = lambda state: (state[1] > tolerance) & (state[2] < ITERATIONS)  # noqa: E731
    return lax.while_loop(unfinished, advance, (start, jnp.asarray(jnp.inf, start.dtype), 0))[0]
