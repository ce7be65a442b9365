"""The transition of Baik, Ben Arous and Péché: when a planted signal leaves the bulk of noise."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from dysonjax.laws.base import check, check_positive, real, record


@record
class OutlierBBP:
    """A rank-one signal in noise, W = √B u vᵀ + N(0, s²/M) for W [N, M], r = N/M (arXiv:2606.28486; physics of W Wᵀ).

    The formulas are those of large matrices.

    Args:
        signal: B ≥ 0, the squared singular value of the signal.
        noise: s > 0.
        ratio: r > 0.

    Raises:
        InputError: a bad argument.
    """

    signal: Any
    noise: Any
    ratio: Any

    def __post_init__(self):
        check("signal", self.signal, lambda v: v >= 0, "finite numbers that are not negative")
        check_positive(noise=self.noise, ratio=self.ratio)

    @property
    def critical_signal(self) -> Float[Array, "..."]:
        """The signal above which a level leaves the bulk, B_c = √r s²."""
        return jnp.sqrt(real(self.ratio)) * self.noise**2

    @property
    def bulk_edge(self) -> Float[Array, "..."]:
        """Upper edge of the noise's Marchenko–Pastur law, s²(1 + √r)²."""
        return self.noise**2 * (1 + jnp.sqrt(real(self.ratio))) ** 2

    @property
    def outlier(self) -> Float[Array, "..."]:
        """The largest level, (B + r s²)(B + s²)/B above the critical signal and the bulk's edge below it."""
        signal = jnp.maximum(self.signal, self.critical_signal)
        return (signal + self.ratio * self.noise**2) * (signal + self.noise**2) / signal

    @property
    def overlap(self) -> Float[Array, "..."]:
        """Squared overlap of its eigenvector with the signal's, (1 − r/c²)/(1 + r/c), c = B/s²; 0 below the edge."""
        c = jnp.maximum(self.signal, self.critical_signal) / self.noise**2
        return jnp.maximum((1 - self.ratio / c**2) / (1 + self.ratio / c), 0)


def critical_learning_rate(init_width: ArrayLike, ratio: ArrayLike, steps: ArrayLike) -> Float[Array, "..."]:
    """Learning rate above which t full-batch steps lift the teacher out of the bulk (arXiv:2606.28486).

    ε_c(t) = 1 − (1 + σ_W r^{1/4})^{−1/t} for the rank-one linear student. All arguments broadcast.

    Args:
        init_width: initial width σ_W > 0.
        ratio: r = N/M > 0, outputs over inputs.
        steps: t > 0.

    Returns:
        ε_c.

    Raises:
        InputError: a bad argument.

        critical_learning_rate(init_width=1.0, ratio=0.5, steps=1)  # 0.457
    """
    check_positive(init_width=init_width, ratio=ratio, steps=steps)
    return -jnp.expm1(-jnp.log1p(init_width * real(ratio) ** 0.25) / steps)
