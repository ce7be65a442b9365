"""What a store says of itself: the experiment, its layout, labels, and the sessions that computed it."""

import math
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dysonjax.core.errors import shown
from dysonjax.runtime.processor import model, processor

if TYPE_CHECKING:
    from dysonjax.core.observables import Variable

LONG = 1000
"""Axes longer than this are written as a range where they are one."""
NUMERICS = "numerics"
"""Entry of an experiment with the version of its dynamics' numbers, 1 where it is missing; see `Dynamics.config`."""


class Header(NamedTuple):
    """All that is needed to read a store: what was run, how it is laid out, and on what it ran."""

    experiment: Mapping[str, Any]
    """JSON that identifies the run; it is continued only by the same experiment."""
    axes: Mapping[str, Sequence[float]]
    """The grid's axes in the order asked for."""
    static: Mapping[str, Sequence[float]]
    """Hyper-parameters whose product is the axis of buckets, in the order of storage."""
    traced: Mapping[str, Sequence[float]]
    """Those whose product is the axis of replicas, in the order of storage."""
    snapshots: Sequence[int]
    variables: Mapping[str, Any]
    """Label of each array: [axes behind snapshot, description, unit]."""
    provenance: Sequence[Mapping[str, Any]]
    """Versions, device and dates of every session that computed a part, the oldest first."""
    rows: Sequence[Sequence[int]] = ()
    """Of points that are no grid: which of them stands at [bucket, replica], −1 where none does.

    `static` and `traced` then have a value for each of them, or one for all.
    """
    whole: Mapping[str, Any] = {}
    """Of an extension: `axes` of all that the run has with it, whether these are `points`, and the extensions `after`
    which it was made."""

    @property
    def asked(self) -> tuple[Mapping[str, Sequence[float]], bool]:
        """The axes of the dataset, and whether they are points that are no grid."""
        return (self.whole["axes"], self.whole["points"]) if self.whole else (self.axes, bool(self.rows))

    @property
    def bucket_shape(self) -> tuple[int, int]:
        """Number of buckets and of replicas in each."""
        if self.rows:
            return len(self.rows), len(self.rows[0])
        buckets, replicas = (math.prod(map(len, axes.values())) for axes in (self.static, self.traced))
        return buckets, replicas


def provenance(devices: Sequence[Any], processes: int = 1, share: str = "0/1") -> dict[str, Any]:
    """Versions and device of this session; `processes` with such devices work together on one share of the blocks."""
    return {
        "versions": versions(),
        "processor": {"model": model(), "kind": processor()},
        "device": f"{len(devices)} × {devices[0].device_kind} ({devices[0].platform})",
        **({"processes": processes} if processes > 1 else {}),
        **({"share": share} if share != "0/1" else {}),
        "date": np.datetime64("now").item().isoformat() + "Z",
    }


def origin(session: Mapping[str, Any]) -> dict[str, Any]:
    """What a store tells other programs and people of the session that began it."""
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return {"title": "Spectra of weight matrices while they are trained", "command": command, **session}


def label(variables: "Mapping[str, Variable]") -> dict[str, Any]:
    """Labels of the recorded arrays as they are stored."""
    own = {"diverged_step": ((), "update after which the replica was no longer finite, −1 if it stayed so", "update")}
    return {name: tuple(v) for name, v in variables.items()} | own


def versions() -> dict[str, str]:
    """Of this package and those that numbers depend on."""
    packages = ("dysonjax", "jax", "jaxlib", "flax", "optax", "numpy", "xarray", "zarr")
    return {package: _version(package) for package in packages} | {"python": platform.python_version()}


def _version(package: str) -> str:
    try:
        return version(package)
    except ModuleNotFoundError:  # run from a source tree that was never installed
        return "unknown"


def difference(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The first entry in which two experiments differ, in words; empty when they are equal."""
    for name in [*stored, *wanted]:
        a, b = (given.get(name, 1 if name == NUMERICS else None) for given in (stored, wanted))
        if name == NUMERICS and a != b:
            return f"{name} = {shown(a)} there, {shown(b)} asked for: another version computes other numbers"
        if isinstance(a, dict) and isinstance(b, dict) and a != b:
            return f"{name}.{difference(a, b)}"
        if a != b:
            return f"{name} = {shown(a)} there, {shown(b)} asked for"
    return ""


def packed(value: Any) -> Any:
    """JSON whose long lists of equally spaced numbers (a million seeds) are {"whole_numbers": [start, stop, step]}."""
    if isinstance(value, Mapping):
        return {name: packed(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        if len(value) > LONG and all(type(v) is int for v in value) and value[1] != value[0]:
            spaced = range(value[0], value[-1] + (1 if value[1] > value[0] else -1), value[1] - value[0])
            if len(spaced) == len(value) and all(map(int.__eq__, spaced, value)):
                return {"whole_numbers": [spaced.start, spaced.stop, spaced.step]}
        return [packed(v) for v in value] if len(value) <= LONG else list(value)
    return value


def unpacked(value: Any) -> Any:
    """The JSON that was `packed`."""
    if isinstance(value, dict):
        return (
            list(range(*value["whole_numbers"]))
            if [*value] == ["whole_numbers"]
            else {n: unpacked(v) for n, v in value.items()}
        )
    return [unpacked(v) for v in value] if isinstance(value, list) and len(value) <= LONG else value
