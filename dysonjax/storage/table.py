"""The replicas of stores as a table: the hyper-parameters and the seed of each, and where the one asked for stands."""

from collections.abc import Mapping, Sequence

import numpy as np

from dysonjax.storage.metadata import Header

Columns = Mapping[str, np.ndarray]
"""Values of each hyper-parameter and the seed, one a replica."""


def columns(header: Header) -> dict[str, np.ndarray]:
    """Of all replicas [bucket · replica] of a store; those that fill up a short bucket are like its last."""
    given = {name: np.asarray(values, float) for name, values in {**header.static, **header.traced}.items()}
    if header.rows:
        rows = np.asarray(header.rows)
        rows = np.where(rows < 0, rows.max(1, keepdims=True), rows).ravel()
        return {n: v[rows] if len(v) > 1 else np.full(len(rows), v[0]) for n, v in given.items()}
    return of_axes(given, points=False)


def present(header: Header) -> np.ndarray:
    """Which places [bucket · replica] hold a replica: all of a grid's."""
    if header.rows:
        return np.asarray(header.rows).ravel() >= 0
    buckets, replicas = header.bucket_shape
    return np.ones(buckets * replicas, bool)


def of_axes(axes: Mapping[str, Sequence[float] | np.ndarray], points: bool) -> dict[str, np.ndarray]:
    """The table of a grid, or of points."""
    given = {name: np.asarray(values, float) for name, values in axes.items()}
    if points:
        return given
    found = np.meshgrid(*given.values(), indexing="ij")
    return {name: column.ravel() for name, column in zip(given, found, strict=True)}


def stand_in_order(header: Header, axes: Mapping[str, Sequence[float]]) -> np.ndarray | None:
    """The places of the replicas of a grid [axes] in the store of that very grid, None where it holds another one."""
    stored = {**header.static, **header.traced}
    own = {name: tuple(axes.get(name, stored[name][:1])) for name in stored}
    if header.rows or any(own[n] != tuple(stored[n]) for n in stored) or {*axes} - {*stored}:
        return None
    places = np.arange(np.prod([len(v) for v in stored.values()])).reshape([len(v) for v in stored.values()])
    names = [*stored]
    wanted = [names.index(name) for name in axes]
    single = [i for i in range(len(names)) if i not in wanted]  # at their defaults
    return places.transpose(*wanted, *single).reshape([len(v) for v in axes.values()])


def find(wanted: Columns, stored: Sequence[Columns], usable: Sequence[np.ndarray]) -> np.ndarray:
    """Where each wanted replica stands, counted through all stored ones; −1 where no usable one is like it.

    A hyper-parameter that is not among the wanted ones is at its default, which is its value in the last table.
    Numbers count as float32, as they do for a replica's key.
    """
    names = [*stored[-1]]
    size = len(next(iter(wanted.values())))
    asked = {n: wanted[n] if n in wanted else np.full(size, stored[-1][n][0]) for n in names}
    tables = [np.stack([_counted(n, table[n]) for n in names], axis=1) for table in (*stored, asked)]
    alike = np.unique(np.concatenate(tables), axis=0, return_inverse=True)[1].ravel()
    there = np.flatnonzero(np.concatenate([*usable]))
    place = np.full(alike.max() + 1, -1)
    place[alike[there][::-1]] = there[::-1]  # the first, where several are alike
    return place[alike[-size:]]


def _counted(name: str, values: np.ndarray) -> np.ndarray:
    return values if name == "seed" else values.astype(np.float32).astype(float)


def finished_places(header: Header, finished: np.ndarray, block_size: int) -> np.ndarray:
    """Which places [bucket · replica] are in finished blocks [bucket, block], and hold a replica."""
    buckets, replicas = header.bucket_shape
    each = np.repeat(finished, block_size, axis=1)[:, :replicas]
    return each.reshape(buckets * replicas) & present(header)
