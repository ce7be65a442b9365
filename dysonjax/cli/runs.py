"""The commands about runs: one for every experiment, and `report`, `merge` and `reproduce` for all of them."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import tyro

from dysonjax.cli.console import clear, say, show, tell
from dysonjax.cli.options import HERE, Format, Machines, Place, Where
from dysonjax.core.errors import InputError, StoreError, require
from dysonjax.experiments.base import Experiment, Report
from dysonjax.runtime.team import Team
from dysonjax.storage import locations


def command_of(kind: str, make: Callable[..., Experiment]) -> Callable[..., Callable[[], None]]:
    """The command of an experiment that `make` makes of its own options."""

    def command(
        settings: Annotated[Any, tyro.conf.arg(constructor=make), tyro.conf.OmitArgPrefixes],
        out: Place = Path("runs") / kind,
        overwrite: bool = False,
        resume: Place | None = None,
        extend: Place | None = None,
        machines: Where = HERE,
    ) -> Callable[[], None]:
        """An experiment.

        Args:
            settings: its options.
            out: the run's directory: results, settings and figures.
            overwrite: replace an earlier run in that directory.
            resume: continue the run in this directory, with its own settings.
            extend: add points or seeds to the run in this directory: options that are not given stay as they were.
            machines: on which machines.
        """
        assert resume is None and extend is None, "read by `resumption_of` and `extension_of`"
        return lambda: compute(settings, out, overwrite, machines, f"dysonjax {kind} --resume {out}")

    return command


def resumption_of(kind: str, made: Any) -> Callable[..., Callable[[], None]]:
    """The command of an experiment with --resume, which takes no settings."""

    def command(resume: Place, machines: Where = HERE) -> Callable[[], None]:
        """A run is continued with its own settings.

        Args:
            resume: the run's directory.
            machines: on which machines.
        """
        return lambda: _resume(kind, made, resume, machines)

    return command


def extension_of(kind: str, run: str, made: Any) -> Callable[..., Callable[[], None]]:
    """The command of an experiment with --extend: its options are the settings, by default those of that run."""

    found = _of_kind(kind, made, locations.place(run), "extend")
    given = {f.name: getattr(found, f.name) for f in dataclasses.fields(found) if f.init}  # type: ignore[arg-type]
    own = functools.partial(type(found), **given)

    def command(
        settings: Annotated[Any, tyro.conf.arg(constructor=own), tyro.conf.OmitArgPrefixes],
        extend: Place,
        machines: Where = HERE,
    ) -> Callable[[], None]:
        """A finished run gets more points.

        Args:
            settings: its options; those that are not given stay as they are.
            extend: the run's directory.
            machines: on which machines.
        """
        again = f"dysonjax {kind} --resume {extend}"
        return lambda: compute(settings, extend, False, machines, again, extend=True)

    return command


def report(run: Annotated[Place, tyro.conf.Positional], format: Format = "plain") -> None:
    """Show a run's table and figures again from its store, without computing.

    Args:
        run: the run's directory.
        format: in another one than plain the tables are printed, and nothing is written into the run's directory.
    """
    from dysonjax.experiments import running

    found = running.report(run)
    if format == "plain":
        show(run, found)
    else:
        tell(found, format)


def verify(run: Annotated[Place, tyro.conf.Positional], repair: bool = False, recompute: str = "0") -> None:
    """Read every byte of a run, and compute some of its replicas again.

    Args:
        run: the run's directory.
        repair: make damaged blocks unfinished, which --resume computes again, and damaged metadata anew.
        recompute: how many replicas of each scan are drawn, computed again and compared, or all.
    """
    from dysonjax.experiments import reading

    found = reading.verify(run, recompute=int(recompute) if recompute.isdigit() else recompute, repair=repair)
    for line in found.said:
        say(line)
    if found.damage or found.different:
        raise StoreError(f"{run}: {len(found.damage)} faults, {len(found.different)} differences")


def merge(parts: Annotated[list[str], tyro.conf.Positional], out: Place | None = None) -> None:
    """Bring the parts of a run together, made by --shard 0/n, 1/n, … in directories of their own.

    Args:
        parts: the directories of the parts; without --out, the directory of the whole run before them.
        out: the directory of the whole run, a new one.
    """
    from dysonjax.storage.merging import merge as merge_parts

    if out is None:
        require(len(parts) > 1, "parts", parts, "the whole run's directory and those of its parts, or --out")
        out, parts = locations.place(parts[0]), parts[1:]
    blocks = merge_parts(out, parts)
    say(f"{blocks} blocks in {out}; table and figures: dysonjax report {out}")


def reproduce(
    paper: Annotated[str, tyro.conf.Positional], full: bool = False, out: Place | None = None, overwrite: bool = False,
    machines: Where = HERE,
) -> None:  # fmt: skip
    """Every figure of a paper, with its numbers beside the published ones: p1, p2, p3, p4 or p5.

    An interrupted run is continued by the same command again.

    Args:
        paper: which one; see the README for what each is.
        full: the published sizes: hours on two cores.
        out: the directory of the paper's runs (default runs/PAPER).
        overwrite: replace earlier runs in that directory.
        machines: on which machines.
    """
    from dysonjax.experiments import recipes

    place = out or Path(f"runs/{paper}")
    with machines.team() as team:  # one for all runs
        for name, experiment in recipes.recipes(paper, full).items():
            if team.first:
                say(f"{recipes.PAPERS[paper]}: {name}")
            compute(experiment, place / name, overwrite, machines, "the same command")


def compute(
    experiment: Experiment, out: Path, overwrite: bool, machines: Machines, again: str, extend: bool = False
) -> None:
    """Compute, continue or extend a run on all processes; the first of them reports, if all blocks are there."""
    from dysonjax.experiments import running

    if machines.dry_run:
        _say_what_it_takes(experiment, out, machines, extend)
        return
    with machines.team() as team:
        if overwrite:
            _clear(out, team, machines)
        try:
            running.run(
                experiment, out, share=machines.share, progress=True, block_size=machines.block_size, extend=extend
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"what is finished is kept; continue with {again}") from None
        if team.first and not (machines.shard and _told_missing(out, machines)):
            report(out)


def _resume(kind: str, made: Any, place: Path, machines: Machines) -> None:
    compute(_of_kind(kind, made, place, "resume"), place, False, machines, f"dysonjax {kind} --resume {place}")


def _of_kind(kind: str, made: Any, place: Path, option: str) -> Experiment:
    from dysonjax.experiments import running

    found = running.experiment_of(place)
    require(found.kind == kind, option, str(place), f"a run of dysonjax {kind}, this is one of {found.kind}")
    if isinstance(made, type):
        require(isinstance(found, made), option, str(place), f"a run of {made.__name__}, not {type(found).__name__}")
    return found


def _clear(out: Path, team: Team, machines: Machines) -> None:
    """Remove an earlier run, once for all processes."""
    if machines.shard is not None:
        raise InputError("overwrite = True: expected no --overwrite with --shard, others may be at work there")
    team.one_first(lambda: clear(out) if team.first else None)


def _say_what_it_takes(experiment: Experiment, out: Path, machines: Machines, extend: bool) -> None:
    from dysonjax.engine.cost import table
    from dysonjax.experiments import running

    processes = (machines.processes or 1) * machines.share.count
    found = running.forecasts(experiment, out, shares=processes, block_size=machines.block_size, extend=extend)
    tell(Report([table(found, processes)]))


def _told_missing(out: Path, machines: Machines) -> bool:
    from dysonjax.experiments import running
    from dysonjax.storage.merging import listed

    missing, total = running.unfinished(out)
    if missing:
        say(
            f"Shard {machines.share} is finished. Of the run's {total} blocks, those of other shards are missing in "
            f"{out}: {listed(missing)}. When all are done: dysonjax report {out}, or dysonjax merge OUT PART… first."
        )  # fmt: skip
    return bool(missing)
