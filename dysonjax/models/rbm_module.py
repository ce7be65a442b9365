"""The flax module that defines the Gaussian restricted Boltzmann machine."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray


class RBM(nnx.Module):
    """The machine as a module: calling it is one Gibbs sweep φ → h → φ' of one chain."""

    def __init__(self, w: Float[Array, "Nh Nv"], mass2: Float[Array, " Nv"], hidden_std: float = 1.0):
        self.w, self.mass2, self.hidden_std = nnx.Param(w), nnx.Param(mass2), hidden_std

    def __call__(self, key: PRNGKeyArray, phi: Float[Array, " Nv"]) -> Float[Array, " Nv"]:
        to_hidden, to_visible = jax.random.split(key)
        w, mass2, s = self.w[...], self.mass2[...], self.hidden_std
        h = s * s * w @ phi + s * jax.random.normal(to_hidden, w.shape[:1])
        return w.T @ h / mass2 + jax.random.normal(to_visible, phi.shape) / jnp.sqrt(mass2)

    def kernel(self) -> Float[Array, "Nv Nv"]:
        """K = diag(μ²) − σ_h² WᵀW, the inverse covariance of φ."""
        return jnp.diag(self.mass2[...]) - self.hidden_std**2 * self.w[...].T @ self.w[...]
