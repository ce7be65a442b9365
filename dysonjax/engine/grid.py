"""`Grid` and `Points`: hyper-parameters and seeds of a scan; every one is a replica with a random key of its own."""

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
from dysonjax.kernels.random_numbers import folded

_SEED = Parameter(0)


class Grid:
    """The product of the values given for each hyper-parameter; `seed` lists independent repetitions of every point.

    Args:
        axes: the values of each hyper-parameter, by name; `seed` is 0 where none is given.

    Raises:
        InputError: an axis is empty, repeats a value or holds anything but finite numbers.

    >>> Grid(learning_rate=[0.1, 0.2], batch_size=[4], seed=range(3)).shape
    {'learning_rate': 2, 'batch_size': 1, 'seed': 3}
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


class Points:
    """Replicas one by one, as random search and refinement need them.

    Args:
        columns: the values of each hyper-parameter, by name, one for every replica; a number stands for all replicas.
            The seed is 0 where none is given.

    Raises:
        InputError: columns of several lengths, a replica that is given twice, and values that `Grid` refuses.

    >>> Points(learning_rate=[0.1, 0.2, 0.4], batch_size=4, seed=[0, 0, 1]).size
    3
    """

    axes: Mapping[str, tuple[float | int, ...]]
    """The values of each hyper-parameter, one a replica."""

    def __init__(self, **columns: Iterable[float] | float):
        columns.setdefault("seed", 0)
        given = {name: _values(name, values) for name, values in columns.items()}
        self.size = max(map(len, given.values()))
        for name, values in given.items():
            require(len(values) in (1, self.size), name, values, f"one value, or {self.size} as other columns have")
        self.axes = {name: values * (self.size if len(values) == 1 else 1) for name, values in given.items()}
        rows = [*zip(*([in_float32(v) for v in vs] if n != "seed" else vs for n, vs in self.axes.items()), strict=True)]
        if len({*rows}) < len(rows):
            twice = next(row for i, row in enumerate(rows) if row in rows[:i])
            named = ", ".join(f"{name}={value:g}" for name, value in zip(self.axes, twice, strict=True))
            raise InputError(f"points = {named}: expected replicas that differ from each other, found this one twice")

    def __repr__(self) -> str:
        return f"Points({', '.join(f'{name}={list(values)}' for name, values in self.axes.items())})"

    @property
    def shape(self) -> dict[str, int]:
        """One axis, of all replicas."""
        return {"point": self.size}


def with_value(points: Grid | Points, name: str, value: float) -> Grid | Points:
    """The same with one more hyper-parameter, whose value is the same for all."""
    return type(points)(**points.axes, **{name: [value]})


def _axis(name: str, values: Any) -> tuple[float | int, ...]:
    if name == "seed" and isinstance(values, range) and len(values):  # millions of them, perhaps
        for end in (values[0], values[-1]):
            whole(name, end, 0, 2**32 - 1)
        return tuple(values)
    numbers = _values(name, values)
    single = {in_float32(v) for v in numbers} if name != "seed" else set(numbers)
    require(len(single) == len(numbers), name, numbers, "values that differ from each other, in float32 too")
    return numbers


def _values(name: str, values: Any) -> tuple[float | int, ...]:
    given = np.asarray(values).tolist() if isinstance(values, np.ndarray | np.generic | jax.Array) else values
    listed = isinstance(given, Iterable) and not isinstance(given, str | bytes)
    given = list(given) if listed else [given]
    require(len(given) > 0, name, given, "at least one value")
    numbers = tuple(_number(name, value) for value in given)
    return tuple(whole(name, value, 0, 2**32 - 1) for value in numbers) if name == "seed" else numbers


def _number(name: str, value: Any) -> float | int:
    plain: Any = value.item() if isinstance(value, np.generic | np.ndarray | jax.Array) and value.ndim == 0 else value
    real = isinstance(plain, int | float) and not isinstance(plain, bool)
    require(real and np.isfinite(in_float32(plain)), name, value, "a finite number in the range of float32")
    return plain


class Replicas:
    """A grid or points laid out for a dynamics: `hyper` values and `keys` of all replicas, in buckets.

    A bucket has the replicas that share `static` hyper-parameters, and so a compiled program. The order is that of the
    dynamics' parameters, whatever the grid's: in a grid each combination of static values is a bucket, in which the
    `traced` hyper-parameters follow one another, the seed running fastest. Points keep their order within a bucket;
    short buckets are filled up with their last point. Parameters that are left out are at their defaults.

    `paired`: a seed has the same key at every point.
    """

    def __init__(self, dynamics: Dynamics, grid: Grid | Points, key: PRNGKeyArray, paired: bool = False):
        parameters = {**dynamics.parameters, "seed": _SEED}
        for name in grid.axes:
            require(name in parameters, "grid", name, f"hyper-parameters among {', '.join(parameters)}")
        axes: dict[str, list[float | int]] = {}
        for name, parameter in parameters.items():
            if name not in grid.axes and parameter.optional and parameter.default is None:
                continue
            if name not in grid.axes and parameter.default is None:
                raise InputError(f"grid = {list(grid.axes)}: expected values for {name}, which has no default")
            values = grid.axes.get(name, (parameter.default,))
            axes[name] = [v if name == "seed" else parameter.validate(name, v) for v in values]  # type: ignore[arg-type]
        self.static, self.traced = {n: axes.pop(n) for n in dynamics.static}, axes
        """Of a grid: the values of each axis."""
        self.buckets: list[tuple[Any, ...]] = [*itertools.product(*self.static.values())]
        self._columns = {name: np.asarray(values, float) for name, values in axes.items()}
        self._rows: np.ndarray | None = None
        self.count = math.prod(map(len, axes.values()))
        """Replicas of a bucket."""
        if isinstance(grid, Points):
            self._of_points(grid.size)
        self._parameters, self._key, self._paired = parameters, key, paired

    def _of_points(self, size: int) -> None:
        """Buckets in the order in which they are found; `_rows` [bucket, replica] says which point stands where."""
        static = [np.resize(np.asarray(v), size).tolist() for v in self.static.values()]
        found: dict[tuple[Any, ...], list[int]] = {}
        for row, values in enumerate(zip(*static, strict=True) if static else [()] * size):
            found.setdefault(values, []).append(row)
        self.buckets, self.count = [*found], max(map(len, found.values()))
        self._rows = np.full((len(found), self.count), -1)
        for own, rows in zip(self._rows, found.values(), strict=True):
            own[: len(rows)] = rows
        self._columns = {name: np.resize(column, size) for name, column in self._columns.items()}

    @property
    def rows(self) -> np.ndarray | None:
        """Of points: which of them stands at [bucket, replica], −1 where none does; None for a grid."""
        return self._rows

    def held(self, bucket: int, rows: slice) -> slice:
        """Those of `rows` at which there is a replica: short buckets of points are filled up at their ends."""
        count = self.count if self._rows is None else int((self._rows[bucket] >= 0).sum())
        return slice(rows.start, max(rows.start, min(rows.stop, count)))

    def _at(self, bucket: int, rows: slice) -> dict[str, np.ndarray]:
        """Traced hyper-parameters and the seed of replicas."""
        if self._rows is None:
            replicas = np.arange(*rows.indices(self.count))
            places = np.unravel_index(replicas, [*map(len, self.traced.values())])
            return {n: column[at] for (n, column), at in zip(self._columns.items(), places, strict=True)}
        own = self._rows[bucket]
        points = np.where(own < 0, own.max(), own)[rows]  # the last of the bucket fills it up
        return {name: column[points] for name, column in self._columns.items()}

    def hyper(self, bucket: int, rows: slice) -> dict[str, Any]:
        """Traced hyper-parameters as arrays over `rows`, static ones as ints; without the seed, which is in the key."""
        traced = {n: jax.numpy.asarray(column) for n, column in self._at(bucket, rows).items() if n != "seed"}
        return traced | dict(zip(self.static, self.buckets[bucket], strict=True))

    def keys(self, bucket: int, rows: slice) -> PRNGKeyArray:
        """Keys [n]: the base key folded with a hash of the point's hyper-parameters, then with its seed.

        So a point's random numbers never depend on the grid around it. Values count as float32, and those at their
        default do not enter the hash, so that a new hyper-parameter changes no old result. Paired replicas leave the
        hash out: zeros stand for it.
        """
        static = dict(zip(self.static, self.buckets[bucket], strict=True))
        at = self._at(bucket, rows)
        seeds = at.pop("seed").astype(np.uint32)
        # seeds of a point share its hash, so that it is taken once a point
        points, back = np.unique(np.stack([np.zeros(len(seeds)), *at.values()]), axis=1, return_inverse=True)
        hashes = [self._hash(static | dict(zip(at, point[1:].tolist(), strict=True))) for point in points.T]
        words = np.array(hashes, np.uint32)[back.ravel()]
        return folded(self._key, words[:, 0], words[:, 1], seeds)

    def points(self, rows: slice, bucket: int = 0) -> list[dict[str, float]]:
        """Traced hyper-parameters and seed of each replica."""
        at = self._at(bucket, rows)
        return [dict(zip(at, row, strict=True)) for row in np.stack([*at.values()]).T.tolist()]

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
