"""Laws that have no closed form: a spline through exact values on an even grid, evaluated in JAX."""

from math import factorial
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

DEGREE = 7
"""Of the spline: the error falls with the eighth power of the grid's step."""


class Table(NamedTuple):
    """A piecewise polynomial from `start` with `step`; coefficients [power, interval], highest first.

    Each is the Taylor expansion at the left end of its interval in units of the step.
    """

    start: float
    step: float
    coefficients: np.ndarray

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Value at x; beyond the grid that of its end."""
        count = self.coefficients.shape[1]
        place = jnp.clip((x - self.start) / self.step, 0, count)
        cell = jnp.clip(jnp.floor(place).astype(jnp.int32), 0, count - 1)
        terms = jnp.asarray(self.coefficients, x.dtype)[:, cell]
        value = terms[0]
        for term in terms[1:]:
            value = value * (place - cell) + term
        return value

    def derivative(self) -> "Table":
        """The table of the derivative."""
        powers = np.arange(len(self.coefficients) - 1, 0, -1)
        return Table(self.start, self.step, self.coefficients[:-1] * powers[:, None] / self.step)


def table(grid: Float[np.ndarray, " n"], values: Float[np.ndarray, " n"], integrated: bool = False) -> Table:
    """The spline through `values` at an even `grid`, or its integral from the start of the grid."""
    from scipy.interpolate import make_interp_spline

    spline = make_interp_spline(grid, values, k=DEGREE)
    if integrated:
        spline = spline.antiderivative()
    step = grid[1] - grid[0]
    # Taylor coefficients at the left end of every interval, with the step as the unit of length
    rows = [spline(grid[:-1])]
    for power in range(1, spline.k + 1):
        rows.append(spline.derivative(power)(grid[:-1]) * step**power / factorial(power))
    return Table(float(grid[0]), float(step), np.array(rows[::-1]))
