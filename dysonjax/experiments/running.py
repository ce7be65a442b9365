"""Running, continuing, reading and reporting any experiment."""

import dataclasses
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from dysonjax.core.errors import InputError, StoreError
from dysonjax.engine.cost import Forecast, Measured
from dysonjax.engine.jobs import Job, Results
from dysonjax.experiments import earlier
from dysonjax.experiments.base import Experiment, Report
from dysonjax.experiments.known import kinds
from dysonjax.runtime.progress import Bar, progress_bar
from dysonjax.runtime.team import WHOLE, Share, team
from dysonjax.storage import locations, records
from dysonjax.storage.merging import listed

Place = str | PathLike[str]
Made = TypeVar("Made", bound=Experiment)


def run(
    experiment: Experiment,
    out: Place | None = None,
    *,
    share: Share = WHOLE,
    progress: bool | Bar | None = None,
    block_size: int | None = None,
    extend: bool = False,
) -> Results:
    """Compute an experiment, or continue it in `out`.

    Args:
        experiment: its settings.
        out: the run's directory or URL; None keeps the results in memory.
        share: only this share of every job's blocks; jobs with blocks of other shares are then missing in the results.
        progress: a bar on the terminal, by default where there is one, or a bar whose `advance` receives completed
            replica-updates.
        block_size: replicas that are stored and resumed together.
        extend: let `out` hold a run of the same kind with fewer points or seeds; what is stored is kept.

    Returns:
        The datasets of its finished jobs, by the jobs' names.

    Raises:
        InputError: bad settings.
        StoreError: `out` cannot be used, or holds another run.

    >>> run(PhaseDiagram(seeds=2), "runs/demo").only.levels  # doctest: +SKIP
    """
    if extend and not experiment.extendable:
        raise InputError(f"extend = {out}: expected a run whose points are known beforehand, not of {experiment.kind}")
    place = None if out is None else locations.place(out)
    experiment, results = settled(experiment, out), Results(place)
    # an extension that was interrupted may not have come to all jobs
    added = extend or (place is not None and records.is_extended(place))

    def begin() -> None:
        if place is not None:
            _begin(place, experiment, extend)

    while jobs := fresh(experiment.jobs(results), results):
        cost = sum(job.cost for job in jobs)
        with progress_bar(experiment.kind, cost, progress if team().first else False) as bar:
            for job in jobs:
                where = results.where(job)
                dataset = job.run(where, share, bar, block_size, begin, added)
                if dataset is not None and (share == WHOLE or where is None or not job.missing(where)[0]):
                    results.add(job, dataset)
        if fresh(jobs, results):  # other shares or processes are at work on these
            break
    return results


def load(out: Place) -> tuple[Experiment, Results]:
    """The experiment of a finished run and its results.

    Args:
        out: the run's directory or URL.

    Returns:
        The experiment, and the datasets of its jobs.

    Raises:
        StoreError: there is no run, or an unfinished one; the message says how to finish it.
    """
    place = locations.place(out)
    experiment, results = experiment_of(place), Results(place)
    while jobs := fresh(experiment.jobs(results), results):
        missing, total = results.missing(jobs)
        if missing:
            raise StoreError(
                f"{place}: {len(missing)} blocks are not finished of {total}: {listed(missing)}; "
                f"continue with {experiment.again(place)}"
            )
        for job in jobs:
            results.add(job, job.open(results.where(job) or place))
    return experiment, results


def report(out: Place) -> Report:
    """What a finished run says.

    Args:
        out: the run's directory or URL.

    Returns:
        Its sentences, tables and figures.

    Raises:
        StoreError: there is no run, or an unfinished one.
    """
    experiment, results = load(out)
    return experiment.report(experiment.analyse(results))


def forecasts(
    experiment: Experiment,
    out: Place | None = None,
    *,
    shares: int = 1,
    block_size: int | None = None,
    extend: bool = False,
) -> list[Forecast]:
    """What the first round of jobs would take, from a few measured steps; nothing is written."""
    experiment, results = settled(experiment, out), Results(None if out is None else locations.place(out))
    known: dict[str, Measured] = {}
    jobs = experiment.jobs(results)
    made = (job.forecast(results.where(job), known, shares, block_size, extend) for job in jobs)
    return [found for found in made if found is not None]


def settled(experiment: Made, out: Place | None) -> Made:
    """The experiment with what is measured once: by the run in `out` if it is there, else now."""

    def found() -> Mapping[str, Any]:
        record = None if out is None else records.last(locations.place(out))
        there = record is not None and record.kind == experiment.kind
        return record.settings if record is not None and there else settings(experiment.settled(None))

    return experiment.settled(team().agree(found))


def unfinished(out: Place) -> tuple[list[str], int]:
    """Blocks that are not finished in any job of a run, by name, and the number of all its blocks."""
    place = locations.place(out)
    experiment, results = experiment_of(place), Results(place)
    return results.missing(experiment.jobs(results))


def experiment_of(out: Place) -> Experiment:
    """The experiment whose run a directory holds; raises `StoreError`."""
    place = locations.place(out)
    record = records.last(place) or earlier.record_of(place)
    if record is None:
        raise StoreError(f"{place}: expected the directory of a dysonjax run, but it holds no run.json")
    found = kinds()
    if record.kind not in found:
        raise StoreError(f"{place}: a run of kind {record.kind!r}; expected one of {', '.join(found)}")
    try:
        return found[record.kind].load().of(record.settings)
    except (TypeError, InputError) as error:
        raise StoreError(f"{place}: not a run of kind {record.kind!r} ({error})") from error


def settings(experiment: Experiment) -> Mapping[str, Any]:
    """The fields of an experiment by name."""
    return dataclasses.asdict(experiment)  # type: ignore[call-overload]


def fresh(jobs: Sequence[Job], results: Results) -> list[Job]:
    """The jobs without results; raises `InputError` when two have one name."""
    names = [job.name for job in jobs]
    if twice := {name for name in names if names.count(name) > 1}:
        raise InputError(f"jobs = {sorted(twice)}: expected a name for each, found one twice")
    return [job for job in jobs if job.name not in results]


def _begin(place: Path, experiment: Experiment, extend: bool) -> None:
    """Leave the record in a directory, or find the same one there, or add the one of an extension."""
    wanted = records.Record(experiment.kind, settings(experiment))
    there = _as_today(records.last(place))
    if there is None and (before := _as_today(earlier.record_of(place))) is not None:
        records.compare(place, before, wanted)
    elif extend and there is not None and there.kind == wanted.kind:
        before, now = ([job.name for job in e.jobs(Results(place))] for e in (experiment_of(place), experiment))
        if left_out := sorted({*before} - {*now}):
            raise StoreError(f"{place}: holds {', '.join(left_out)}, too; expected an extension that keeps all scans")
        if there != wanted:
            records.add(place, *wanted)
    elif there is None:
        records.remember(place, *wanted)
    else:
        records.compare(place, there, wanted)


def _as_today(record: records.Record | None) -> records.Record | None:
    """A record with the settings that its experiment has today; the record itself where it has none."""
    if record is None:
        return None
    try:
        return records.Record(record.kind, settings(kinds()[record.kind].load().of(record.settings)))
    except (KeyError, TypeError, InputError):
        return record
