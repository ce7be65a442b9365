"""A stored array with the axes of its grid, read block by block when it is looked at, unfinished blocks masked."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import zarr
from xarray.backends import BackendArray
from xarray.core import indexing


def nothing(dtype: np.dtype) -> Any:
    """What stands for a value that is not computed: NaN, −2 for signed integers, 0 for others."""
    kinds = ((np.complexfloating, np.nan), (np.floating, np.nan), (np.signedinteger, -2))
    return next((fill for kind, fill in kinds if np.issubdtype(dtype, kind)), 0)


class StoredArray(BackendArray):
    """An array [bucket, replica, …] in blocks as [grid axis, …, …]; `finished` [bucket, block] says what is there.

    What is read depends on `finished` alone, so that a block which another process is writing is never seen in part.
    """

    def __init__(self, array: zarr.Array, stored: Mapping[str, int], order: Sequence[str], finished: np.ndarray):
        """`stored`: lengths of the axes of the grid as they are stored; `order`: those wanted (others have length 1).

        The order is made here because xarray's own transposition of what is not loaded needs an index for every value.
        """
        self._array, self._finished = array, finished
        self._stored, self._order = stored, order
        self.shape = (*(stored[name] for name in order), *array.shape[2:])
        self.dtype = array.dtype

    def load(self) -> np.ndarray:
        """All of it."""
        if not self._finished.all():
            return self._outer((slice(None),) * len(self.shape))
        values = np.asarray(self._array[:]).reshape(*self._stored.values(), *self._array.shape[2:])
        names = [*self._stored]
        wanted = [names.index(n) for n in self._order]
        single = [i for i in range(len(names)) if i not in wanted]
        return values.transpose(*wanted, *range(len(names), values.ndim), *single).reshape(self.shape)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._outer)

    def _outer(self, key: tuple[Any, ...]) -> np.ndarray:
        """Independent indices, slices or numbers along each axis; memory for the result and one block."""
        axes, inner = key[: len(self._order)], key[len(self._order) :]
        chosen = [np.atleast_1d(np.arange(self._stored[n])[k]) for n, k in zip(self._order, axes, strict=True)]
        point = dict(zip(self._order, np.ix_(*chosen), strict=True))
        index = [point.get(name, np.intp(0)) for name in self._stored]
        flat = np.ravel_multi_index(np.broadcast_arrays(*index), [*self._stored.values()]).ravel()
        bucket, row = np.divmod(flat, self._array.shape[1])
        size = self._array.chunks[1]
        block = row // size
        kept = [np.arange(n)[k] for n, k in zip(self._array.shape[2:], inner, strict=True)]
        inside = tuple(len(k) for k in kept if k.ndim)
        found = np.full((len(flat), *inside), nothing(self.dtype), self.dtype)
        there = np.flatnonzero(self._finished[bucket, block])
        number = bucket[there] * self._finished.shape[1] + block[there]
        for one in np.unique(number):
            at = there[number == one]
            b, i = divmod(int(one), self._finished.shape[1])
            values = np.asarray(self._array[b, i * size : (i + 1) * size])[row[at] - i * size]
            for axis in reversed(range(len(kept))):
                values = np.take(values, kept[axis], axis=axis + 1)
            found[at] = values
        outside = tuple(len(c) for c, k in zip(chosen, axes, strict=True) if not isinstance(k, int | np.integer))
        return found.reshape((*outside, *inside))
