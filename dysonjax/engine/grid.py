"""`Grid`: a product of hyper-parameters and seeds; every point of it is a replica with a random key of its own."""

import functools
import hashlib
import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from dysonjax.core.dynamics import Dynamics, Parameter, in_float32
from dysonjax.core.errors import InputError, require, whole

_SEED = Parameter(0)


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
    if name == "seed" and isinstance(values, range) and len(values):  # millions of them, perhaps
        for end in (values[0], values[-1]):
            whole(name, end, 0, 2**32 - 1)
        return tuple(values)
    given = np.asarray(values).tolist() if isinstance(values, np.ndarray | np.generic | jax.Array) else values
    listed = isinstance(given, Iterable) and not isinstance(given, str | bytes)
    given = list(given) if listed else [given]
    require(len(given) > 0, name, given, "at least one value")
    numbers = tuple(_number(name, value) for value in given)
    if name == "seed":
        numbers = tuple(whole(name, value, 0, 2**32 - 1) for value in numbers)
    single = {in_float32(v) for v in numbers} if name != "seed" else set(numbers)
    require(len(single) == len(numbers), name, numbers, "values that differ from each other, in float32 too")
    return numbers


def _number(name: str, value: Any) -> float | int:
    plain: Any = value.item() if isinstance(value, np.generic | np.ndarray | jax.Array) and value.ndim == 0 else value
    real = isinstance(plain, int | float) and not isinstance(plain, bool)
    require(real and np.isfinite(in_float32(plain)), name, value, "a finite number in the range of float32")
    return plain


class Replicas:
    """A grid laid out for a dynamics: `hyper` values and `keys` of all replicas, in buckets that share static values.

    The order is that of the dynamics' parameters, whatever the grid's: `static` hyper-parameters first (each of their
    combinations is a bucket, compiled on its own), then the `traced` ones, then the seed. Parameters that the grid
    leaves out are at their defaults.

    `paired`: a seed has the same key at every point.
    """

    def __init__(self, dynamics: Dynamics, grid: Grid, key: PRNGKeyArray, paired: bool = False):
        parameters = {**dynamics.parameters, "seed": _SEED}
        for name in grid.axes:
            require(name in parameters, "grid", name, f"hyper-parameters among {', '.join(parameters)}")
        axes = {}
        for name, parameter in parameters.items():
            if name not in grid.axes and parameter.default is None:
                raise InputError(f"grid = {list(grid.axes)}: expected values for {name}, which has no default")
            values = grid.axes.get(name, (parameter.default,))
            axes[name] = [v if name == "seed" else parameter.validate(name, v) for v in values]  # type: ignore[arg-type]
        self.static = {n: axes.pop(n) for n in dynamics.static}
        self.traced = axes
        self.buckets = list(itertools.product(*self.static.values()))
        self.count = math.prod(map(len, self.traced.values()))
        """Replicas of a bucket."""
        self._columns = {name: np.asarray(values, float) for name, values in self.traced.items()}
        self._parameters, self._key, self._paired = parameters, key, paired

    def hyper(self, bucket: int, rows: slice) -> dict[str, Any]:
        """Traced hyper-parameters as arrays over `rows`, static ones as ints; without the seed, which is in the key."""
        at = self._positions(rows)
        traced = {n: jax.numpy.asarray(c[at[n]]) for n, c in self._columns.items() if n != "seed"}
        return traced | dict(zip(self.static, self.buckets[bucket], strict=True))

    def keys(self, bucket: int, rows: slice) -> PRNGKeyArray:
        """Keys [n]: the base key folded with a hash of the point's hyper-parameters, then with its seed.

        So a point's random numbers never depend on the grid around it. Values count as float32, and those at their
        default do not enter the hash, so that a new hyper-parameter changes no old result. Paired replicas leave the
        hash out: zeros stand for it.
        """
        static = dict(zip(self.static, self.buckets[bucket], strict=True))
        at = self._positions(rows)
        seeds = self._columns["seed"][at.pop("seed")].astype(np.uint32)
        # seeds of a point share its hash, so that it is taken once a point
        points, back = np.unique(np.stack([np.zeros_like(seeds, int), *at.values()]), axis=1, return_inverse=True)
        hashes = [self._hash(static | {n: self.traced[n][i] for n, i in zip(at, p[1:], strict=True)}) for p in points.T]
        words = np.array(hashes, np.uint32)[back.ravel()]

        def fold(high: Any, low: Any, seed: Any) -> PRNGKeyArray:
            return functools.reduce(jax.random.fold_in, (high, low, seed), self._key)

        return jax.vmap(fold)(words[:, 0], words[:, 1], seeds)

    def points(self, rows: slice) -> list[dict[str, float]]:
        """Traced hyper-parameters and seed of each replica."""
        at = self._positions(rows)
        return [{n: self.traced[n][i] for n, i in zip(at, row, strict=True)} for row in np.stack([*at.values()]).T]

    def _positions(self, rows: slice) -> dict[str, np.ndarray]:
        """Where on each traced axis the replicas stand, the last axis (seed) running fastest."""
        replicas = np.arange(*rows.indices(self.count))
        return dict(zip(self.traced, np.unravel_index(replicas, [*map(len, self.traced.values())]), strict=True))

    def _hash(self, point: Mapping[str, float]) -> tuple[int, int]:
        """64 bits, so that even millions of points have keys of their own."""
        if self._paired:
            return 0, 0
        told = []
        for name, value in sorted(point.items()):
            default, single = self._parameters[name].default, in_float32(value)
            if name != "seed" and (default is None or single != in_float32(default)):
                told.append(f"{name}={single.hex()}")
        digest = hashlib.blake2b(",".join(told).encode(), digest_size=8).digest()
        return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")
