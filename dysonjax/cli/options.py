"""How the command line reads what all commands share: directories and URLs, lists of numbers, on which machines."""

import types
import typing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from dysonjax.core.errors import InputError, require
from dysonjax.runtime.team import WHOLE, Share, Team, joined, share_of
from dysonjax.storage.locations import place

REGISTRY = tyro.constructors.ConstructorRegistry()
"""Tuples of numbers or words as one word of the command line."""


Format = Literal["plain", "csv", "json", "markdown"]
"""How a report is printed."""


def _path(words: Sequence[str]) -> Path:
    return place(words[0])


Place = Annotated[
    Path,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1, metavar="DIRECTORY|URL", instance_from_str=_path, is_instance=lambda value: hasattr(value, "iterdir"),
        str_from_instance=lambda path: [str(path)],
    ),
]  # fmt: skip
"""A directory or a URL of fsspec on the command line."""


@REGISTRY.primitive_rule
def _tuples(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec | None:
    """`0.1,0.2` or, log-spaced, `first:last:count` for tuples of numbers; `sgd,dyson` for tuples of words."""
    wanted: Any = info.type
    options = [one for one in typing.get_args(wanted) if one is not types.NoneType]
    if isinstance(wanted, types.UnionType) and len(options) == 1:  # None stands for a default that depends
        wanted = options[0]
    if typing.get_origin(wanted) is not tuple:
        return None
    kind, *rest = typing.get_args(wanted)
    if rest != [...] or kind not in (float, int, str):
        return None

    def read(words: list[str]) -> tuple[Any, ...]:
        if kind is str:
            return tuple(words[0].split(","))
        try:
            values = grid_values(words[0])
            return tuple(whole_number(v) for v in values) if kind is int else values
        except InputError as error:
            raise ValueError(str(error)) from None

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1, metavar="WORDS" if kind is str else "VALUES", instance_from_str=read,
        is_instance=lambda values: values is None or (type(values) is tuple and all(type(v) is kind for v in values)),
        str_from_instance=lambda values: ["None" if values is None else _shortest(values)],
    )  # fmt: skip


def grid_values(text: str) -> tuple[float, ...]:
    """Values of `first:last:count` (log-spaced) or of a comma list; raises `InputError`."""
    expected = "first:last:count, log-spaced and positive, or numbers between commas"
    try:
        if ":" not in text:
            return tuple(float(v) for v in text.split(","))
        first, last, count = text.split(":")
        ends, number = (float(first), float(last)), int(count)
    except ValueError:
        raise InputError(f"values = {text!r}: expected {expected}") from None
    good = all(np.isfinite(v) and v > 0 for v in ends) and number >= 1
    require(good, "values", text, f"{expected}, count at least 1")
    require(number == 1 or ends[0] != ends[1], "values", text, "two different ends, or a count of 1")
    return tuple(float(f"{v:.12g}") for v in np.geomspace(*ends, number))


def whole_number(value: float) -> int:
    """A value of `grid_values` as an int of at least 1; raises `InputError`."""
    require(np.isfinite(value) and value == int(value) and value >= 1, "values", value, "whole numbers of at least 1")
    return int(value)


def _shortest(values: tuple[Any, ...]) -> str:
    """Values as they would be typed: as a range where that gives the same."""
    if len(values) > 4 and all(isinstance(v, float) and v > 0 for v in values) and values[0] != values[-1]:
        ranged = f"{values[0]:g}:{values[-1]:g}:{len(values)}"
        if grid_values(ranged) == values:
            return ranged
    return ",".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values)


@dataclass(frozen=True)
class Machines:
    """Where a command runs: options of every command that scans."""

    shard: str | None = None
    """Compute only share i/n of the blocks, i from 0, e.g. in a job array; see `dysonjax merge`."""
    coordinator: str | None = None
    """HOST:PORT of process 0, where the same command runs on several; found by itself on SLURM, Open MPI, TPU and
    Kubernetes."""
    processes: int | None = None
    """How many processes run this command together; 1: not even where a cluster is found."""
    process_id: int | None = None
    """Which of them this is, from 0."""
    block_size: int | None = None
    """Replicas a block, the unit of memory, storage and resumption (default: by memory and length)."""
    dry_run: bool = False
    """Only say what it would take: replicas, blocks, compilations, bytes, memory, time, from a few measured steps."""

    @property
    def share(self) -> Share:
        """The share of the blocks that is computed; raises `InputError`."""
        return WHOLE if self.shard is None else share_of(self.shard)

    @contextmanager
    def team(self) -> Iterator[Team]:
        """Join the other processes, and part from them at the end."""
        self.share  # noqa: B018 - a bad one is refused first
        with joined(self.coordinator, self.processes, self.process_id) as team:
            yield team


Where = Annotated[Machines, tyro.conf.OmitArgPrefixes]
HERE = Machines()
