"""`Grid`: a product of hyper-parameters and seeds; every point of it is a replica with a random key of its own."""

import hashlib
import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from dysonjax.dynamics import Dynamics, Parameter
from dysonjax.errors import InputError, require

_SEED = Parameter(0, minimum=-1)


class Grid:
    """The product of the values given for each hyper-parameter; `seed` lists independent repetitions of every point.

    >>> Grid(learning_rate=[0.1, 0.2], batch_size=[4], seed=range(3)).shape
    {'learning_rate': 2, 'batch_size': 1, 'seed': 3}

    Raises `InputError` when an axis is empty, repeats a value or holds anything but finite numbers.
    """

    axes: Mapping[str, tuple[float | int, ...]]

    def __init__(self, **axes: Iterable[float] | float):
        axes.setdefault("seed", (0,))
        self.axes = {name: _axis(name, values) for name, values in axes.items()}

    def __repr__(self) -> str:
        return f"Grid({', '.join(f'{name}={list(values)}' for name, values in self.axes.items())})"

    @property
    def shape(self) -> dict[str, int]:
        """The length of each axis, in the order given."""
        return {name: len(values) for name, values in self.axes.items()}

    @property
    def size(self) -> int:
        """The number of replicas."""
        return math.prod(self.shape.values())


def _axis(name: str, values: Any) -> tuple[float | int, ...]:
    given = list(values) if isinstance(values, Iterable) and not isinstance(values, str) else [values]
    require(len(given) > 0, name, given, "at least one value")
    numbers: list[float | int] = []
    for value in given:
        number: Any = (
            value.item() if isinstance(value, np.number | np.ndarray | jax.Array) and value.ndim == 0 else value
        )
        real = isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number)
        require(real, name, value, "a finite number")
        if name == "seed":
            require(number == int(number) and 0 <= number < 2**32, name, value, "a whole number in 0 … 2³² − 1")
        numbers.append(int(number) if name == "seed" else number)
    require(len(set(numbers)) == len(numbers), name, numbers, "values that differ from each other")
    return tuple(numbers)


class Replicas:
    """A grid laid out for a dynamics: `hyper` values and `keys` of all replicas, in buckets that share static values.

    Axes are `static` hyper-parameters first (each combination is a bucket, compiled on its own), then all others.
    """

    def __init__(self, dynamics: Dynamics, grid: Grid, key: PRNGKeyArray):
        parameters = dynamics.parameters
        for name in grid.axes:
            known = ", ".join([*parameters, "seed"])
            require(name in parameters or name == "seed", "grid", name, f"hyper-parameters among {known}")
        axes = {n: [parameters.get(n, _SEED).validate(n, v) for v in values] for n, values in grid.axes.items()}
        for name, parameter in parameters.items():
            if name not in axes:
                if parameter.default is None:
                    raise InputError(f"grid = {list(grid.axes)}: expected values for {name}, which has no default")
                axes[name] = [parameter.validate(name, parameter.default)]
        self.static = {n: axes[n] for n in dynamics.static}
        self.traced = {n: v for n, v in axes.items() if n not in dynamics.static}
        self.buckets = list(itertools.product(*self.static.values()))
        self.rows = list(itertools.product(*self.traced.values()))
        self._parameters, self._key = parameters, key

    def hyper(self, bucket: int, rows: slice) -> dict[str, Any]:
        """Traced hyper-parameters as arrays over `rows`, static ones as ints; without the seed, which is in the key."""
        columns = np.array([*self.rows[rows]], dtype=float).reshape(-1, len(self.traced)).T
        traced = {n: jax.numpy.asarray(c) for n, c in zip(self.traced, columns, strict=True) if n != "seed"}
        return traced | dict(zip(self.static, self.buckets[bucket], strict=True))

    def keys(self, bucket: int, rows: slice) -> PRNGKeyArray:
        """Keys [n]: the base key folded with a hash of the point's hyper-parameters, then with its seed.

        So a point's random numbers never depend on the grid around it. Values at their default do not enter the hash.
        """
        static = dict(zip(self.static, self.buckets[bucket], strict=True))
        points = [static | dict(zip(self.traced, row, strict=True)) for row in self.rows[rows]]
        hashes = np.array([self._hash(point) for point in points], np.uint32)
        seeds = np.array([point["seed"] for point in points], np.uint32)
        fold = jax.vmap(lambda h, s: jax.random.fold_in(jax.random.fold_in(self._key, h), s))
        return fold(hashes, seeds)

    def _hash(self, point: Mapping[str, float]) -> int:
        given = {n: np.float32(v) for n, v in point.items() if n != "seed" and v != self._parameters[n].default}
        text = ",".join(f"{name}={float(value).hex()}" for name, value in sorted(given.items()))
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little")
