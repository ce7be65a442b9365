"""`dysonjax.open` and `dysonjax.verify`: the results of any run, and whether they are what was computed."""

import contextlib
import json
import logging
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import xarray as xr

from dysonjax.core.dynamics import Dynamics
from dysonjax.core.errors import InputError, StoreError, require, shown, whole
from dysonjax.core.observables import Observable
from dysonjax.engine.jobs import Job, Results, Verified
from dysonjax.engine.scanning import ScanJob
from dysonjax.engine.verifying import scan_of
from dysonjax.experiments.base import Experiment
from dysonjax.experiments.running import experiment_of, fresh, settings
from dysonjax.storage import locations
from dysonjax.storage.damage import Damage
from dysonjax.storage.records import OWN

log = logging.getLogger(__name__)

Place = str | PathLike[str]
ALL = "all"


def open_run(run: Place | Sequence[Place], chunks: Mapping[str, int] | None = None) -> xr.Dataset | xr.DataTree:
    """The results of a run, finished or not; values are read from disk when they are looked at.

    Args:
        run: its directory or URL, or those of its parts (`--shard`).
        chunks: None reads with NumPy. {} makes dask arrays whose chunks are near those that are stored, or give their
            lengths by dimension; both need dask.

    Returns:
        A dataset [grid axes, snapshot, …], as `dysonjax.scan` returns it; of a run of several jobs a `DataTree` with a
        dataset for each job that was begun. What is not computed is NaN, its `diverged_step` −2. `attrs` hold the
        `kind` of the run and its `settings` as JSON.

    Raises:
        StoreError: there is no run, the parts are not of one run, or a file is missing or damaged. Values are checked
            when they are read.

    >>> dj.open("runs/demo").levels.isel(snapshot=-1).mean("seed")  # doctest: +SKIP
    """
    parts = [run] if isinstance(run, str | PathLike) else [*run]
    require(parts, "run", run, "a directory, a URL, or several")
    places = [locations.place(part) for part in parts]
    experiment = experiment_of(places[0])
    for place in places[1:]:
        if (other := experiment_of(place)) != experiment:
            raise StoreError(f"{place}: another run than {places[0]} ({shown(other)})")
    found = {job.name: _opened(job, where) for job, where in _jobs(experiment, places)}
    told = {"kind": experiment.kind, "settings": json.dumps(settings(experiment))}
    if [*found] == [""]:
        return _chunked(found[""], chunks).assign_attrs(told)
    tree = xr.DataTree.from_dict({name: _chunked(ds, chunks) for name, ds in found.items()})
    tree.attrs.update(told)
    return tree


class Verification(NamedTuple):
    """What `verify` found: `found` [job]; nothing is wrong when both `damage` and `different` are empty."""

    found: Mapping[str, Verified]
    repaired: bool

    @property
    def damage(self) -> list[Damage]:
        """All faults of all jobs."""
        return [one for job in self.found.values() for one in job.damage]

    @property
    def different(self) -> list[str]:
        """What another computation does not give."""
        return [line for job in self.found.values() for line in job.different]

    @property
    def said(self) -> list[str]:
        """All of it in sentences."""
        blocks, compared = (sum(getattr(job, name) for job in self.found.values()) for name in ("blocks", "compared"))
        lines = [damage.message for damage in self.damage] + [f"Computed again, {line}" for line in self.different]
        lines.append(f"{blocks} finished blocks read: {_counted(len(self.damage), 'fault')}.")
        if self.repaired and any(damage.block for damage in self.damage):
            lines.append("Damaged blocks are set back: continue the run to compute them again.")
        damaged = [job for job in self.found.values() if any(damage.block is None for damage in job.damage)]
        for why in dict.fromkeys(job.not_remade for job in damaged) if self.repaired else ():
            cannot = f"Damaged metadata cannot be made anew ({why})."
            lines.append(cannot if why else "Damaged metadata were made anew.")
        if compared:
            how = "; ".join(dict.fromkeys(way for job in self.found.values() for way in job.how))
            total = sum(job.replicas for job in self.found.values())
            verdict = _counted(len(self.different), "difference")
            lines.append(f"{compared} of {total} replicas computed again, compared {how}: {verdict}.")
            if compared < total:
                shares = ", ".join(f"{f:g} % with probability {1 - (1 - f / 100) ** compared:.2f}" for f in (1, 5, 20))
                lines.append(f"So many draws find wrong values in {shares} of all replicas.")
        return lines


def verify(
    run: Place,
    dynamics: Dynamics | None = None,
    *,
    recompute: int | str = 0,
    repair: bool = False,
    observables: Sequence[Observable] | None = None,
) -> Verification:
    """Read every byte of a run, and compute some of its replicas again.

    Args:
        run: its directory or URL.
        dynamics: that of a user's own scan; the replicas of all other runs are computed from their settings.
        recompute: how many replicas of each job are drawn and computed again, or "all"; with `dynamics` 16 if it is
            not given. On the same kind of processor with the same JAX they must be equal bit for bit; elsewhere, all
            seeds of the points drawn must agree at the first updates within rounding and at the end in distribution.
        repair: make damaged blocks unfinished, so that continuing the run computes them again, and damaged metadata
            anew from the run's settings, or from `dynamics`.
        observables: those of the user's scan, if it was given any.

    Returns:
        What was found; the run is sound where `damage` and `different` are empty.

    Raises:
        InputError: `recompute` is neither a number nor "all", or `dynamics` is given for a run of an experiment.
        StoreError: there is no run, or `dynamics` is another one than the run's.
    """
    number = 2**62 if recompute == ALL else whole("recompute", recompute, 0)
    place = locations.place(run)
    experiment = experiment_of(place)
    found: dict[str, Verified] = {}
    if dynamics is not None:
        require(experiment.kind == OWN, "dynamics", dynamics, f"None: {place} is a run of dysonjax {experiment.kind}")
        job = ScanJob(**vars(scan_of(place, dynamics, observables)))
        return Verification({"": job.verify(place, repair, number or 16)}, repair)
    for job, (where, *_) in _jobs(experiment, [place]):
        found[job.name] = job.verify(where, repair, number)
    return Verification(found, repair)


def _counted(count: int, what: str) -> str:
    return f"no {what}" if count == 0 else f"{count} {what}{'s' if count > 1 else ''}"


def _jobs(experiment: Experiment, places: Sequence[Path]) -> "list[tuple[Job, list[Path]]]":
    """The jobs that were begun, each with the directories that hold parts of it."""
    results, begun = Results(places[0]), []
    while jobs := fresh(experiment.jobs(results), results):
        for job in jobs:
            where = [w for place in places if (w := place / job.name if job.name else place).is_dir()]
            if not where:
                log.warning("%s: %s was not begun", places[0], job.name)
                continue
            begun.append((job, where))
            with contextlib.suppress(StoreError):  # damage is told of when the values are read
                if not any(job.missing(each)[0] for each in where):
                    results.add(job, job.open(*where))
        if fresh(jobs, results):
            break
    return begun


def _opened(job: Job, places: Sequence[Path]) -> xr.Dataset:
    return job.open(*places, lazy=True)


def _chunked(ds: xr.Dataset, chunks: Mapping[str, int] | None) -> xr.Dataset:
    if chunks is None:
        return ds
    stored = next((v.encoding["preferred_chunks"] for v in ds.variables.values() if v.encoding), {})
    try:
        return ds.chunk({**stored, **chunks})
    except ImportError as error:
        raise InputError(f"chunks = {shown(chunks)}: expected None, or pip install dask") from error
