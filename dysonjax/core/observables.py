"""Streaming accumulators: what is measured while replicas run, in memory that does not grow with the number of updates.

Every observable reports once per snapshot; an accumulated one covers the updates since the snapshot before. Functions
are those of one replica, with `(spectra, state, hyper)` as their view of it, which the engine runs for whole blocks;
or, where that is faster, of a block.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PyTree

from dysonjax.core.dynamics import Hyper, Spectra
from dysonjax.core.errors import InputError, require, shown, whole
from dysonjax.core.values import ByValue

Measure = Callable[[Spectra, PyTree, Hyper], Array]


class Variable(NamedTuple):
    """How a recorded array is labelled.

    Args:
        dims: names of its axes behind `snapshot`.
        description: what it is.
        unit: its unit, "1" for a pure number.
    """

    dims: tuple[str, ...] = ()
    description: str = ""
    unit: str = "1"


@dataclass(frozen=True, eq=False)
class Observable(ByValue):
    """A streaming accumulator; equal to another by what it was made of, as `Dynamics` is.

    Args:
        init: `(spectra, state, hyper) -> accumulator`, before the first update.
        result: `(accumulator, spectra, state, hyper) -> (values by name, accumulator for the next window)`, at each
            snapshot.
        variables: the label of each value.
        update: `(accumulator, spectra, state, hyper) -> accumulator`, after every `every`-th update.
        every: updates from one `update` to the next; 0: never.
        of_block: the functions take and return blocks, replicas on the last axis of every array, instead of one
            replica; must equal `jax.vmap(…, in_axes=-1, out_axes=-1)` of those of one replica.
        config: JSON that tells observables apart when a stored run is continued.
    """

    init: Callable[[Spectra, PyTree, Hyper], PyTree]
    result: Callable[[PyTree, Spectra, PyTree, Hyper], tuple[dict[str, Array], PyTree]]
    variables: Mapping[str, Variable]
    update: Callable[[PyTree, Spectra, PyTree, Hyper], PyTree] | None = None
    every: int = 0
    of_block: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)


def snapshot(name: str, measure: Measure, variable: Variable = Variable(), of_block: bool = False) -> Observable:
    """One value from a function at each snapshot.

    Args:
        name: what the value is called.
        measure: `(spectra, state, hyper) -> value`, of one replica.
        variable: its label.
        of_block: `measure` is that of a block, as in `Observable`.

    Returns:
        The observable.
    """
    return snapshots(lambda *view: {name: measure(*view)}, {name: variable}, of_block)


def snapshots(
    measure: Callable[..., dict[str, Array]], variables: Mapping[str, Variable], of_block: bool = False
) -> Observable:
    """Several values from one function at each snapshot.

    Args:
        measure: `(spectra, state, hyper) -> {name: value}`, of one replica.
        variables: the label of each value.
        of_block: `measure` is that of a block, as in `Observable`.

    Returns:
        The observable.
    """
    return Observable(
        init=lambda *view: (),
        result=lambda accumulator, *view: (measure(*view), ()),
        variables=variables,
        of_block=of_block,
        config={"snapshots": sorted(variables)},
    )


class _Sum(NamedTuple):
    total: Array
    lost: Array  # Kahan's running compensation: float32 sums of 10⁸ terms stay exact to rounding
    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]


def mean(name: str, measure: Measure, variable: Variable = Variable(), every: int = 1) -> Observable:
    """Mean of a function over the window since the last snapshot (the value itself at the start).

    Args:
        name: what the mean is called.
        measure: `(spectra, state, hyper) -> value`, of one replica.
        variable: its label.
        every: updates from one value to the next.

    Returns:
        The observable.

    Raises:
        InputError: `every` is no whole number of at least 1.
    """
    whole("every", every)
    measure = _real(measure)

    def init(*view):
        zero = jnp.zeros_like(measure(*view))
        return _Sum(zero, zero, jnp.int32(0))

    def update(sums, *view):
        term = measure(*view) - sums.lost
        total = sums.total + term
        return _Sum(total, (total - sums.total) - term, sums.count + 1)

    def result(sums, *view):
        value = jnp.where(sums.count > 0, sums.total / jnp.maximum(sums.count, 1), measure(*view))
        return {name: value}, init(*view)

    return Observable(init, result, {name: variable}, update, every, config={"mean": name, "every": every})


class _Moments(NamedTuple):
    mean: Array
    scatter: Array
    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]


def moments(name: str, measure: Measure, variable: Variable = Variable(), every: int = 1) -> Observable:
    """Mean and variance (over n − 1) of a function over the window since the last snapshot, by Welford's recursion.

    They are called `<name>_mean` and `<name>_variance`. At the start the mean is the value itself, the variance NaN.

    Args:
        name: what their names begin with.
        measure: `(spectra, state, hyper) -> value`, of one replica.
        variable: label of the mean; the variance has its unit squared.
        every: updates from one value to the next.

    Returns:
        The observable.

    Raises:
        InputError: `every` is no whole number of at least 1.
    """
    whole("every", every)
    measure = _real(measure)

    def init(*view):
        zero = jnp.zeros_like(measure(*view))
        return _Moments(zero, zero, jnp.int32(0))

    def update(acc, *view):
        count = acc.count + 1
        deviation = measure(*view) - acc.mean
        centre = acc.mean + deviation / count
        return _Moments(centre, acc.scatter + deviation * (measure(*view) - centre), count)

    def result(acc, *view):
        variance = acc.scatter / jnp.maximum(acc.count - 1, 1)
        values = {
            f"{name}_mean": jnp.where(acc.count > 0, acc.mean, measure(*view)),
            f"{name}_variance": jnp.where(acc.count > 1, variance, jnp.nan),
        }
        return values, init(*view)

    labels = {f"{name}_mean": variable, f"{name}_variance": variable._replace(unit=f"{variable.unit}^2")}
    return Observable(init, result, labels, update, every, config={"moments": name, "every": every})


def histogram(
    name: str,
    measure: Measure,
    edges: Float[ArrayLike, " b+1"] | Sequence[float],
    variable: Variable = Variable(),
    every: int = 1,
) -> Observable:
    """Counts of all entries of a function over the window since the last snapshot, [b + 2]: below, b bins, above.

    Args:
        name: what the counts are called.
        measure: `(spectra, state, hyper) -> value`, of one replica.
        edges: increasing edges of the bins, [b + 1].
        variable: label of the counts, whose axis is called `<name>_bin`.
        every: updates from one value to the next.

    Returns:
        The observable.

    Raises:
        InputError: a bad argument.
    """
    whole("every", every)
    try:
        bins = np.asarray(edges, np.float32)
    except (TypeError, ValueError):
        raise InputError(f"edges = {shown(edges)}: expected an increasing list of numbers") from None
    increasing = bins.ndim == 1 and bins.size >= 2 and bool(np.all(np.diff(bins) > 0)) and bool(np.isfinite(bins).all())
    require(increasing, "edges", edges, "an increasing list of at least two finite numbers")
    edges = jnp.asarray(bins)

    def init(*view):
        return jnp.zeros(edges.size + 1, jnp.int32)

    def update(counts, *view):
        # sort + searchsorted counts, because scattered additions are slow on accelerators
        below = jnp.searchsorted(jnp.sort(jnp.ravel(measure(*view))), edges)
        size = jnp.size(measure(*view))
        return counts + jnp.diff(below, prepend=0, append=size).astype(jnp.int32)

    def result(counts, *view):
        return {name: counts}, init(*view)

    labels = {name: variable._replace(dims=(f"{name}_bin",))}
    config = {"histogram": name, "every": every, "edges": [float(e) for e in edges]}
    return Observable(init, result, labels, update, every, config=config)


def _real(measure: Measure) -> Measure:
    """The measure as a floating-point number: counts and truth values have means too."""
    return lambda *view: jnp.asarray(measure(*view)) * 1.0
