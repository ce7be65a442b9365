"""Stored arrays with the axes of their grid, read block by block when they are looked at."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import zarr
from xarray.backends import BackendArray

# the only module with these names, and the one that xarray tells authors of backends to use:
# https://docs.xarray.dev/en/stable/internals/how-to-add-new-backend.html
from xarray.core import indexing

from dysonjax.storage.locations import reading


def nothing(dtype: np.dtype) -> Any:
    """What stands for a value that is not computed: NaN, −2 for signed integers, 0 for others."""
    kinds = ((np.complexfloating, np.nan), (np.floating, np.nan), (np.signedinteger, -2))
    return next((fill for kind, fill in kinds if np.issubdtype(dtype, kind)), 0)


class StoredArray(BackendArray):
    """Arrays [bucket, replica, …] in blocks as one array [axis, …, …].

    What is read depends on `where` alone, so that a block which another process is writing is never seen in part.
    """

    def __init__(self, arrays: Sequence[zarr.Array], where: np.ndarray):
        """`where` [axes]: the replica of each point, counted through all buckets of all arrays; −1: not computed."""
        self._arrays, self._where = arrays, where
        counts = [array.shape[0] * array.shape[1] for array in arrays]
        self._first = np.cumsum([0, *counts])
        self.shape = (*where.shape, *arrays[0].shape[2:])
        self.dtype = arrays[0].dtype

    def load(self) -> np.ndarray:
        """All of it."""
        (array, *more) = self._arrays
        if more or (self._where < 0).any():
            return self._outer((slice(None),) * len(self.shape))
        with reading(array.store_path):
            values = np.asarray(array[:]).reshape(-1, *array.shape[2:])
        if np.array_equal(self._where.ravel(), np.arange(len(values))):
            return values.reshape(self.shape)
        return values[self._where]

    def __getitem__(self, key: Any) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._outer)

    def _outer(self, key: tuple[Any, ...]) -> np.ndarray:
        """Independent indices, slices or numbers along each axis; memory for the result and one block."""
        axes, inner = key[: self._where.ndim], key[self._where.ndim :]
        chosen = [np.atleast_1d(np.arange(n)[k]) for n, k in zip(self._where.shape, axes, strict=True)]
        flat = self._where[np.ix_(*chosen)].ravel()
        kept = [np.arange(n)[k] for n, k in zip(self.shape[self._where.ndim :], inner, strict=True)]
        inside = tuple(len(k) for k in kept if k.ndim)
        found = np.full((len(flat), *inside), nothing(self.dtype), self.dtype)
        for array, first, past in zip(self._arrays, self._first, self._first[1:], strict=False):
            mine = np.flatnonzero((flat >= first) & (flat < past))
            bucket, row = np.divmod(flat[mine] - first, array.shape[1])
            size = array.chunks[1]
            number = bucket * -(-array.shape[1] // size) + row // size
            for one in np.unique(number):
                at = number == one
                b, i = int(bucket[at][0]), int(row[at][0]) // size
                with reading(array.store_path):
                    values = np.asarray(array[b, i * size : (i + 1) * size])[row[at] - i * size]
                for axis in reversed(range(len(kept))):
                    values = np.take(values, kept[axis], axis=axis + 1)
                found[mine[at]] = values
        outside = tuple(len(c) for c, k in zip(chosen, axes, strict=True) if not isinstance(k, int | np.integer))
        return found.reshape((*outside, *inside))
