"""What all commands that scan share: on which machines they run, what a share of a run says, and `dysonjax merge`."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from dysonjax.cli.console import clear
from dysonjax.core.errors import InputError
from dysonjax.engine.cost import forecast, table
from dysonjax.runtime.team import WHOLE, Share, Team, joined, share_of
from dysonjax.storage.locations import place
from dysonjax.storage.merging import listed, unfinished
from dysonjax.storage.merging import merge as merge_parts


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


WIDTH = 150
"""Columns of the table where there is no terminal to ask."""


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

    def clear(self, out: Path, team: Team) -> None:
        """Remove an earlier run, once for all processes."""
        if self.shard is not None:
            raise InputError("overwrite = True: expected no --overwrite with --shard, others may be at work there")
        team.one_first(lambda: clear(out) if team.first else None)


Where = Annotated[Machines, tyro.conf.OmitArgPrefixes]
HERE = Machines()


def compute(run: Any, out: Path, overwrite: bool, machines: Machines, again: str, report: Callable[[], None]) -> None:
    """Compute or continue a run in `out` on all processes; the first of them reports, if all blocks are there."""
    if machines.dry_run:
        _say_what_it_takes(run, out, machines)
        return
    with machines.team() as team:
        if overwrite:
            machines.clear(out, team)
        try:
            run.run(out, progress=True, share=machines.share, block_size=machines.block_size)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"finished blocks are kept; continue with {again}") from None
        if team.first and not (machines.shard and _told_missing(out, machines.share)):
            report()


def merge(out: Annotated[Place, tyro.conf.Positional], parts: Annotated[list[str], tyro.conf.Positional]) -> None:
    """Bring the parts of a run together, made by --shard 0/n, 1/n, … in directories of their own.

    Args:
        out: the directory of the whole run, a new one.
        parts: the directories of the parts.
    """
    blocks = merge_parts(out, parts)
    Console().print(f"{blocks} blocks in {out}; table and figures: dysonjax report {out}", highlight=False)


def _say_what_it_takes(run: Any, out: Path, machines: Machines) -> None:
    processes = (machines.processes or 1) * machines.share.count
    jobs = run.jobs(out, machines.block_size)
    names = [str(job.out) for job in jobs]
    screen = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    screen.print(table(forecast(jobs, names, shares=processes), processes))


def _told_missing(out: Path, share: Share) -> bool:
    missing, total = unfinished(out)
    if missing:
        Console().print(
            f"Shard {share} is finished. Of the run's {total} blocks, those of other shards are missing in {out}: "
            f"{listed(missing)}. When all are done: dysonjax report {out}, or dysonjax merge OUT PART… first.",
            highlight=False,
        )  # fmt: skip
    return bool(missing)
