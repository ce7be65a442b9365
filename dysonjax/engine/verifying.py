"""Whether a scan's stores hold what was written, and what the same replicas give when they are computed again."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from dysonjax.core.dynamics import Dynamics
from dysonjax.core.errors import InputError, StoreError
from dysonjax.core.observables import Observable
from dysonjax.engine.grid import Grid, Points, Replicas
from dysonjax.engine.jobs import Verified, same
from dysonjax.engine.loop import simulate
from dysonjax.engine.planning import Plan, Scan, prepare, replicas_of
from dysonjax.storage import extensions, store, table
from dysonjax.storage.damage import Damage, everything
from dysonjax.storage.metadata import difference, provenance
from dysonjax.storage.records import STORE
from dysonjax.storage.repairing import rebuild
from dysonjax.storage.store import OtherFormat, Store

NEAR = 1e-3
"""Relative difference that float32 may have after few updates on another processor or version."""
SIGMAS = 5.0
"""Means over seeds that differ by more, in units of their error, belong to different distributions."""
LEAST_SEEDS = 4


def read_through(place: Path, repair: bool = False, planned: Callable[[], Plan] | None = None) -> Verified:
    """Read every byte of a job's stores.

    `repair`: make damaged blocks unfinished, and damaged metadata anew, from what is `planned`.
    """
    found = _read(place, repair)
    if not repair or all(damage.block is not None for damage in found.damage):
        return found
    try:
        _rebuild(place, planned)
    except (InputError, StoreError) as error:
        return found._replace(not_remade=str(error))
    again = _read(place, repair)
    return again._replace(damage=[*found.damage, *again.damage])


def _rebuild(place: Path, planned: Callable[[], Plan] | None) -> None:
    """Make the metadata of a job's stores anew; raises `StoreError` where they would be others."""
    if planned is None:
        raise StoreError(
            f"{place}: the dynamics of your own scan is needed; use dysonjax.verify(run, dynamics, repair=True)"
        )
    plan = planned()
    try:
        stores = extensions.load_all(place, checked=False)
    except OtherFormat:
        raise
    except StoreError:  # the header is lost
        rebuild(place, STORE, plan.header, plan.arrays, {})
    else:
        for one in stores:
            if any(damage.block is None for damage in everything(one)):
                rebuild(place, one.name, one.header._replace(provenance=[]), plan.arrays, one.origin)


def _read(place: Path, repair: bool) -> Verified:
    try:
        stores = extensions.load_all(place, checked=False)
    except StoreError as error:
        return Verified([Damage(str(error))])
    found: list[Damage] = []
    count = 0
    for one in stores:
        own = list(everything(one))
        if all(damage.block is not None for damage in own):
            count += int(one.finished().sum())
        blocks = {damage.block for damage in own if damage.block is not None}
        if repair and blocks:
            store.load(place, True, one.name).set_back(blocks)
        found += own
    return Verified(found, count)


def scan_of(place: Path, dynamics: Dynamics, observables: Sequence[Observable] | None = None) -> Scan:
    """The scan that a store tells of, with the dynamics that its author has."""
    (first, *more) = extensions.load_all(place, checked=False)
    header = (more or [first])[-1].header
    told = header.experiment
    axes, points = header.asked
    key = jax.random.wrap_key_data(jax.numpy.asarray(told["key"], "uint32"))
    return Scan(
        dynamics, (Points if points else Grid)(**axes), told["steps"], key, None, [*header.snapshots], observables,
        told.get("paired", False),
    )  # fmt: skip


class _Block(NamedTuple):
    """Some replicas of one finished block."""

    store: Store
    replicas: Replicas
    bucket: int
    rows: slice
    chosen: np.ndarray
    """Rows within the block, in order."""

    @property
    def points(self) -> list[dict[str, float]]:
        """Hyper-parameters and seed of each."""
        told = self.replicas.points(self.rows, self.bucket)
        static = dict(zip(self.replicas.static, self.replicas.buckets[self.bucket], strict=True))
        return [{**static, **told[row]} for row in self.chosen]


def computed_again(job: Scan, place: Path, most: int, read: Verified) -> Verified:
    """Draw `most` of the finished replicas, compute them again and compare; `read`: what reading has found.

    Equal bit for bit where processor, JAX and kind of device are those of the session that computed them. Elsewhere all
    seeds of the points drawn: equal to `NEAR` at the start and the first update recorded before a tenth of the run, and
    equal in their means over seeds at its end.
    """
    stores = extensions.load_all(place)
    planned = prepare(job, None, 1, stores[0].block_size)
    if found := difference(
        extensions.without_axes(stores[0].header.experiment), extensions.without_axes(planned.header.experiment)
    ):
        raise StoreError(f"{place}: holds another run ({found}); expected the dynamics and observables of this one")
    chosen = _drawn(job, stores, most)
    here = _platform(provenance(planned.devices))
    different, compared, how = [], 0, set()
    alike = [_platform(one.store.session(one.bucket, one.rows)) == here for one in chosen]
    for one in itertools.compress(chosen, alike):
        again = _computed(planned, one)
        stored = one.store.read(one.bucket, one.rows)
        how.add("bit for bit")
        for i, (row, point) in enumerate(zip(one.chosen, one.points, strict=True)):
            wrong = [name for name, values in again.items() if not same(values[i], stored[name][row])]
            different += [f"{_told(point)}: {', '.join(wrong)}"] if wrong else []
        compared += len(one.chosen)
    others = [one for one, equal in zip(chosen, alike, strict=True) if not equal]
    if others:
        how.add("the first updates within rounding, the last in distribution")
        groups = _seeds_of(job, stores, others)
        compared += sum(len(block.chosen) for group in groups for block in group)
        different += [line for group in groups for line in _in_distribution(planned, group, len(groups))]
    replicas = sum(len(block.chosen) for block in _finished(job, stores))
    return read._replace(compared=compared, replicas=replicas, different=different, how=sorted(how))


def _told(point: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in point.items())


def _platform(session: Mapping[str, Any]) -> tuple:
    """What decides the last bits."""
    versions = session.get("versions", {})
    device = str(session.get("device", "")).partition("×")[2]
    return device, versions.get("jax"), versions.get("jaxlib"), tuple(session.get("processor", {}).values())


def _finished(job: Scan, stores: Sequence[Store]) -> Iterator[_Block]:
    for one in stores:
        replicas = replicas_of(job, (Points if one.header.rows else Grid)(**one.header.axes))
        there = table.present(one.header).reshape(one.header.bucket_shape)
        left = set(one.unfinished())
        for number, (bucket, rows) in enumerate(one.blocks()):
            if number not in left:
                yield _Block(one, replicas, bucket, rows, np.flatnonzero(there[bucket, rows]))


def _drawn(job: Scan, stores: Sequence[Store], most: int) -> list[_Block]:
    blocks = list(_finished(job, stores))
    first = np.cumsum([0, *(len(block.chosen) for block in blocks)])
    picked = np.sort(np.random.default_rng().choice(first[-1], min(most, first[-1]), replace=False))
    parts = zip(blocks, first, first[1:], strict=False)
    found = [(b, b.chosen[picked[(picked >= a) & (picked < z)] - a]) for b, a, z in parts]
    return [block._replace(chosen=rows) for block, rows in found if len(rows)]


def _computed(planned: Plan, one: _Block) -> dict[str, np.ndarray]:
    keys, hyper = one.replicas.keys(one.bucket, one.rows), one.replicas.hyper(one.bucket, one.rows)
    chosen = {name: value if np.ndim(value) == 0 else value[one.chosen] for name, value in hyper.items()}
    return simulate(
        planned.scan.dynamics, keys[one.chosen], chosen, planned.scan.steps, snapshots=planned.marks,
        observables=planned.observables, devices=planned.devices, tile=planned.tile,
        block_size=min(one.store.block_size, one.replicas.count),
    )  # fmt: skip


def _seeds_of(job: Scan, stores: Sequence[Store], drawn: Sequence[_Block]) -> list[list[_Block]]:
    """For each point among those drawn, all its finished replicas."""
    wanted = {tuple(_without_seed(point).items()) for block in drawn for point in block.points}
    found: dict[tuple, list[_Block]] = {point: [] for point in sorted(wanted)}
    for block in _finished(job, stores):
        own = [tuple(_without_seed(point).items()) for point in block.points]
        for point in wanted & {*own}:
            rows = block.chosen[[i for i, each in enumerate(own) if each == point]]
            found[point].append(block._replace(chosen=rows))
    return list(found.values())


def _without_seed(point: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in point.items() if name != "seed"}


def _in_distribution(planned: Plan, group: Sequence[_Block], groups: int) -> list[str]:
    """Where the stored replicas of one point differ from those that are computed now."""
    again = [_computed(planned, one) for one in group]
    read = [one.store.read(one.bucket, one.rows) for one in group]
    told = _told(_without_seed(group[0].points[0]))
    early = [i for i, mark in enumerate(planned.marks) if mark == 0 or mark * 10 <= planned.scan.steps][:2]
    different = []
    for name in again[0]:
        if name == "diverged_step":
            continue
        new = np.concatenate([values[name] for values in again])
        old = np.concatenate([values[name][one.chosen] for values, one in zip(read, group, strict=True)])
        if not np.allclose(new[:, early], old[:, early], rtol=NEAR, atol=NEAR * _scale(old[:, early]), equal_nan=True):
            different.append(f"{told}: {name} at its first updates")
        ends = [values[:, -1].reshape(len(values), -1).astype(float) for values in (new, old)]
        means = [end.mean(1)[np.isfinite(end).all(1)] for end in ends]
        if min(map(len, means)) < LEAST_SEEDS:
            continue
        error = np.sqrt(sum(m.var(ddof=1) / len(m) for m in means))
        gap = abs(means[0].mean() - means[1].mean())
        if gap > SIGMAS * error + NEAR * _scale(means[1]):
            different.append(f"{told}: the mean of {name} at its end, by {gap / max(error, 1e-30):.1f} σ")
    return different


def _scale(values: np.ndarray) -> float:
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max(initial=0.0))
