"""What a run is made of: jobs, each with a name, a cost, and results in a directory of its own."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from dysonjax.runtime.progress import Bar
from dysonjax.runtime.team import WHOLE, Share

if TYPE_CHECKING:
    import xarray as xr

    from dysonjax.engine.cost import Forecast, Measured
    from dysonjax.storage.damage import Damage


class Verified(NamedTuple):
    """What was found when a job's results were read, and computed again."""

    damage: "Sequence[Damage]" = ()
    blocks: int = 0
    """Finished blocks, all of which were read."""
    compared: int = 0
    """Replicas that were computed again, and how many finished ones there are."""
    replicas: int = 0
    different: Sequence[str] = ()
    """What is different of them."""
    how: Sequence[str] = ()
    """In what they were compared: "bit for bit", or what can be compared on another machine."""
    not_remade: str = ""
    """Why damaged metadata could not be made anew."""


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """Are two arrays equal bit for bit, whatever the bits of a NaN?"""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if not np.issubdtype(one.dtype, np.inexact):
        return bool(np.array_equal(one, other))
    return bool(np.array_equal(one, other, equal_nan=True) and np.array_equal(np.signbit(one), np.signbit(other)))


class Job(Protocol):
    """A part of a run that is computed on its own: a scan, or the training of one network."""

    @property
    def name(self) -> str:
        """Its place in the run's directory; "" is that directory itself, for a run of one job."""
        ...

    @property
    def cost(self) -> int:
        """Replica-updates."""
        ...

    def run(
        self, place: Path | None, share: Share = WHOLE, progress: bool | Bar | None = None,
        block_size: int | None = None, before: Callable[[], None] = lambda: None,
        extend: bool = False,
    ) -> "xr.Dataset | None":  # fmt: skip
        """Compute it, or continue what `place` holds of it; None keeps the results in memory alone.

        `before` is called when the arguments are found good and nothing is written yet. `extend`: `place` may hold the
        same job with fewer points. Returns None where another share or process computes all of it.
        """
        ...

    def open(self, *places: Path, lazy: bool | None = None) -> "xr.Dataset":
        """The results that `places` hold, parts of one run, finished or not; raises `StoreError`.

        `lazy`: leave them on disk until they are looked at; by default only where they are many.
        """
        ...

    def missing(self, place: Path) -> tuple[list[str], int]:
        """Names of the blocks that `place` lacks, and how many blocks there are."""
        ...

    def verify(self, place: Path, repair: bool = False, recompute: int = 0) -> "Verified":
        """Read every byte that `place` holds.

        `repair`: make damaged blocks unfinished, and damaged metadata anew. `recompute`: compute so many replicas
        again, and compare.
        """
        ...

    def forecast(
        self, place: Path | None, known: "dict[str, Measured]", shares: int = 1, block_size: int | None = None,
        extend: bool = False,
    ) -> "Forecast | None":  # fmt: skip
        """What it would cost; None where nothing tells before it runs. `known`: what was measured for other jobs."""
        ...


class Results(Mapping[str, "xr.Dataset"]):
    """Datasets of a run's finished jobs by the jobs' names, in the order of the jobs.

    Args:
        place: the run's directory; None for a run in memory.
    """

    def __init__(self, place: Path | None = None) -> None:
        self.place = place
        self._found: dict[str, xr.Dataset] = {}

    def __getitem__(self, name: str) -> "xr.Dataset":
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    @property
    def only(self) -> "xr.Dataset":
        """The dataset of a run of one job."""
        (dataset,) = self._found.values()
        return dataset

    def add(self, job: Job, dataset: "xr.Dataset") -> None:
        """Take up the results of a finished job."""
        self._found[job.name] = dataset

    def where(self, job: Job) -> Path | None:
        """The directory of a job."""
        return self.place / job.name if self.place is not None and job.name else self.place

    def missing(self, jobs: Sequence[Job]) -> tuple[list[str], int]:
        """Names of blocks not yet computed, `job:block` in a run of several jobs, and how many blocks there are.

        A job that was not begun counts as one block, `job:all`.
        """
        names, total = [], 0
        for job in jobs:
            if job.name in self:
                continue
            where = self.where(job)
            if where is None:
                continue
            blocks, count = job.missing(where) if where.exists() else (["all"], 1)
            names += [f"{job.name}:{block}" if job.name else block for block in blocks]
            total += count
        return names, total
