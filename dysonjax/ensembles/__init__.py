"""Exact samples: random matrices, levels of β-ensembles, the matrix Ornstein–Uhlenbeck jump, the log-gas.

One normalisation throughout: `variance` is σ², the variance that a single free level would have. The n levels x of the
Gaussian ensembles have the density

    P(x) ∝ Π_{i<j} |x_i − x_j|^β exp(−Σ_i x_i² / 2σ²),

the stationary law of dx_i = −κ x_i dt + β T g² Σ_{j≠i} dt/(x_i − x_j) + √(2T) g dB_i with σ² = T g²/κ. So diagonal
entries have variance σ², and each of the β components of an off-diagonal entry has σ²/2. Levels are sorted, largest
first. Every function takes a key first, and `shape` for as many independent samples as one wants.
"""

from dysonjax.ensembles.beta import hermite_levels, laguerre_levels
from dysonjax.ensembles.log_gas import LogGas, log_gas
from dysonjax.ensembles.matrices import circular, eigenphases, gaussian, matrix_ou_jump, rectangular_ou_jump, wishart

__all__ = [
    "LogGas",
    "circular",
    "eigenphases",
    "gaussian",
    "hermite_levels",
    "laguerre_levels",
    "log_gas",
    "matrix_ou_jump",
    "rectangular_ou_jump",
    "wishart",
]
