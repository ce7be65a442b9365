"""What every law shares: the protocol, frozen records that are pytrees, inversion of the distribution function."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, Protocol, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from dysonjax.core.errors import require

T = TypeVar("T")
ITERATIONS = 120
"""Steps of an inversion at most: bisection alone would need as many as there are bits; ten are typical."""


class Law(Protocol):
    """A probability law of a real number x: an immutable record whose parameters are the leaves of a pytree.

    Every method broadcasts `x` or `p` against the parameters, may be jitted, vmapped and differentiated, and keeps the
    precision it is given.
    """

    def pdf(self, x: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        """Probability density at x; of the continuous part where there is an atom; 0 outside the support."""
        return jnp.exp(self.log_pdf(x))

    def log_pdf(self, x: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        """Natural logarithm of the density at x; −∞ outside the support."""
        return jnp.log(self.pdf(x))

    def cdf(self, x: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        """Probability of a number not above x, atoms included."""
        ...

    def sf(self, x: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        """Probability of a number above x, the one-sided p-value."""
        return 1 - self.cdf(x)

    def ppf(self, p: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        """Quantile: the x with cdf(x) = p; NaN unless 0 ≤ p ≤ 1."""
        return invert(self, p)

    def sample(self, key: PRNGKeyArray, shape: tuple[int, ...] = ()) -> Float[Array, "*shape"]:
        """Independent numbers of this law; parameters that are arrays must broadcast against `shape`."""
        return self.ppf(uniform(key, shape))

    @property
    def mean(self) -> Float[Array, "..."]:
        """Mean, atoms included."""
        ...

    @property
    def variance(self) -> Float[Array, "..."]:
        """Variance, atoms included."""
        ...

    @property
    def support(self) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """Ends of the interval outside of which the density is zero; they may be infinite."""
        ...

    def bracket(self) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """Ends of a finite interval that holds all probability that floating-point numbers can tell from none."""
        return self.support


class Fit(NamedTuple):
    """A fitted law and its errors.

    Attributes:
        law: the law.
        errors: standard errors of its parameters, by name.
    """

    law: Any
    errors: dict[str, Float[Array, ""]]


def static(**options: Any) -> Any:
    """A field of a record that is part of its structure: never traced, it decides which program is compiled."""
    return field(metadata={"static": True}, **options)


@dataclass_transform(frozen_default=True, field_specifiers=(static, field))
def record(cls: type[T]) -> type[T]:
    """A frozen dataclass that is a pytree; JAX may put anything in its leaves, so only people's input is validated."""
    made: Any = dataclass(frozen=True)(cls)
    leaves = [f.name for f in fields(made) if not f.metadata.get("static")]
    frozen = [f.name for f in fields(made) if f.metadata.get("static")]

    def flatten(law):
        return [getattr(law, n) for n in leaves], tuple(getattr(law, n) for n in frozen)

    def flatten_with_keys(law):
        children, rest = flatten(law)
        return [(jax.tree_util.GetAttrKey(n), v) for n, v in zip(leaves, children, strict=True)], rest

    def unflatten(rest, children):
        law = object.__new__(made)
        for name, value in zip([*frozen, *leaves], [*rest, *children], strict=True):
            object.__setattr__(law, name, value)
        return law

    jax.tree_util.register_pytree_with_keys(made, flatten_with_keys, unflatten, flatten)
    return made


def check(name: str, value: Any, ok: Callable[[np.ndarray], Any], expected: str) -> None:
    """Raise `InputError` unless `value` is a number or array, finite and `ok`; a traced one is let through."""
    if isinstance(value, Tracer):
        return
    try:
        array = np.asarray(None if isinstance(value, list | tuple) else value, float)
    except (TypeError, ValueError):
        array = np.array(np.nan)
    with np.errstate(invalid="ignore"):
        require(array.size and np.all(np.isfinite(array) & ok(array)), name, value, expected)


def check_finite(**values: Any) -> None:
    """Raise `InputError` unless each value is finite."""
    for name, value in values.items():
        check(name, value, np.isfinite, "finite numbers")


def check_positive(**values: Any) -> None:
    """Raise `InputError` unless each value is positive and finite."""
    for name, value in values.items():
        check(name, value, lambda v: v > 0, "positive finite numbers")


def real(x: ArrayLike) -> Array:
    """x as a floating-point array of its own precision."""
    x = np.asarray(x) if isinstance(x, list | tuple) else x
    return jnp.asarray(x, jnp.result_type(x, float))


def uniform(key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "*shape"]:
    """Uniform numbers in the open interval (0, 1): never an end, where a quantile may be infinite."""
    u = jax.random.uniform(key, shape)
    return u + jnp.finfo(u.dtype).eps / 2


@jax.jit
def invert(law: Law, p: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
    """Quantiles of a law from its `cdf` and `pdf`: Newton's steps, and bisection where they would leave the bracket.

    The derivatives are those of the implicit function, dx = (dp − dF)/f, so that samples can be differentiated.
    """
    p = real(p)
    root = _root(lax.stop_gradient(law), lax.stop_gradient(p))
    density = lax.stop_gradient(law.pdf(root))
    off = p - law.cdf(root)  # a number that is not used, only its derivative
    x = root + (off - lax.stop_gradient(off)) / jnp.where(density > 0, density, 1)
    low, high = law.support
    x = jnp.where(p <= 0, low, jnp.where(p >= 1, high, x))
    return jnp.where((p >= 0) & (p <= 1), x, jnp.nan)


def _root(law, p):
    low, high, p = jnp.broadcast_arrays(*(jnp.asarray(v, p.dtype) for v in law.bracket()), p)
    eps = jnp.finfo(p.dtype).eps
    floor = eps * eps * (high - low)

    def unfinished(state):
        *_, done, i = state
        return (i < ITERATIONS) & ~jnp.all(done)

    def advance(state):
        low, high, x, last, done, i = state
        off, slope = law.cdf(x) - p, law.pdf(x)
        low, high = jnp.where(off < 0, x, low), jnp.where(off < 0, high, x)
        step = off / jnp.where(slope > 0, slope, 1)
        newton = x - step
        # a step that does not halve the one before is converging too slowly to be trusted
        good = (slope > 0) & (newton > low) & (newton < high) & (jnp.abs(step) < last / 2)
        new = jnp.where(off == 0, x, jnp.where(good, newton, low + (high - low) / 2))
        moved = jnp.abs(new - x)
        return low, high, jnp.where(done, x, new), moved, done | (moved <= eps * jnp.abs(x) + floor), i + 1

    start = (low, high, low + (high - low) / 2, high - low, ~((p > 0) & (p < 1)), 0)
    return lax.while_loop(unfinished, advance, start)[2]
