"""Exact one-level law of an n × n Gaussian orthogonal matrix, n = 1, 2, 3, …"""

from functools import lru_cache
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dysonjax.laws.tables import Table, table


class Multiplet(NamedTuple):
    """Law of one level, unit variance on the matrix's diagonal, tabulated for |u| ≤ `end`; beyond is < 10⁻²⁰."""

    density: Table
    probability: Table
    end: float

    def pdf(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """Density at u."""
        return jnp.where(jnp.abs(u) < self.end, jnp.maximum(self.density(u), 0), 0)

    def cdf(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """Probability below u."""
        return jnp.clip(self.probability(u), 0, 1)


@lru_cache(maxsize=64)
def multiplet(n: int) -> Multiplet:
    """The law of one of n levels with P(u) ∝ Π_{i<j} |u_i − u_j| exp(−Σ u_i²/2)."""
    end = float(np.sqrt(2 * n) + 9)
    # the density oscillates n times between ±√(2n): forty points to an oscillation at least
    step = min(0.05, np.pi / np.sqrt(2 * n) / 40)
    grid = np.linspace(-end, end, int(np.ceil(2 * end / step)) + 1)
    values = orthogonal_density(grid, n)
    return Multiplet(table(grid, values), table(grid, values, integrated=True), end)


def orthogonal_density(u: Float[np.ndarray, " m"], n: int) -> Float[np.ndarray, " m"]:
    """Density of the levels of an n × n Gaussian orthogonal matrix at u (Mehta, Random Matrices, ch. 7).

    n ρ(u) = Σ_{j<n} φ_j² + √(n/2) φ_{n−1} ∫₀ᵘ φ_n + [n odd] φ_{n−1}/∫φ_{n−1}, with the integral of an odd φ_n starting
    at −∞ instead of 0, and φ_j(u) the wave functions of the harmonic oscillator, from their three-term recurrences.
    """
    from scipy.special import erf

    phi = [np.exp(-(u**2) / 2) / np.pi**0.25]
    phi.append(np.sqrt(2) * u * phi[0])
    # primitives E_j with E_j' = φ_j, odd or even about 0; and the integrals of the even φ_j over the whole line
    primitive = [np.pi**0.25 / np.sqrt(2) * erf(u / np.sqrt(2)), -np.sqrt(2) * phi[0]]
    whole = [np.sqrt(2) * np.pi**0.25, 0.0]
    for j in range(1, n):
        phi.append(np.sqrt(2 / (j + 1)) * u * phi[j] - np.sqrt(j / (j + 1)) * phi[j - 1])
        primitive.append(np.sqrt(j / (j + 1)) * primitive[j - 1] - np.sqrt(2 / (j + 1)) * phi[j])
        whole.append(np.sqrt(j / (j + 1)) * whole[j - 1])
    density = sum(p**2 for p in phi[:n]) + np.sqrt(n / 2) * phi[n - 1] * primitive[n]
    if n % 2:
        density = density + phi[n - 1] / whole[n - 1]
    return density / n
