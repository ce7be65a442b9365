"""A model about which everything is known: a quadratic loss and independent gradient noise on every entry of W."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import ArrayLike


@dataclass(frozen=True, eq=False)
class QuadraticModel:
    """L = ½ Σ_ij h_ij (W_ij − C_ij)² + Σ_ij a_ij W_ij with C = diag(centres), a ~ N(0, variance), or a Laplace law.

    SGD is W' = W − αh(W − C) − αā: stationary variance of an entry α c/(|B| h (2 − αh)), the levels' near C.
    """

    centres: tuple[float, ...] = (4.0, 3.0, 2.0)
    curvature: ArrayLike = 1.0
    variance: float = 0.01
    heavy: bool = False
    init_width: float = 0.02

    examples = None
    config = {"model": "quadratic"}  # noqa: RUF012

    @property
    def centre(self):
        return jnp.diag(jnp.asarray(self.centres))

    def task(self, key):
        return ()

    def init(self, key, task, init_width):
        return {"W": self.centre + init_width * jax.random.normal(key, self.centre.shape)}

    def sample(self, key, num, task):
        shape = (num, *self.centre.shape)
        noise = jax.random.laplace(key, shape) / 2**0.5 if self.heavy else jax.random.normal(key, shape)
        return self.variance**0.5 * noise

    def loss(self, params, example, task):
        error = params["W"] - self.centre
        return 0.5 * jnp.sum(jnp.asarray(self.curvature) * error**2) + jnp.sum(example * params["W"])

    def matrices(self, params):
        return params
