"""The command line: `dysonjax phase-diagram`, `simulate`, `scaling`, `gpt`, `analyze`, `report` and the others."""

import contextlib
import dataclasses
import functools
import io
import itertools
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from dysonjax.cli.console import grid_values, show, whole_number
from dysonjax.cli.gpt import gpt, is_gpt_run, is_gpt_scaling_run, report_gpt, report_gpt_scaling
from dysonjax.cli.scaling import is_scaling_run, report_bbp, report_scaling, reproduce, scaling, scan, validity
from dysonjax.cli.sharing import HERE, Place, Where, compute, merge
from dysonjax.cli.weights import analyze
from dysonjax.core.errors import ClusterError, InputError, StoreError, require
from dysonjax.experiments import scheme_accuracy as schemes_check
from dysonjax.experiments.bbp.experiment import BBPRun, bbp_run_of
from dysonjax.experiments.gas import figures as gas_figures
from dysonjax.experiments.gas.experiment import GasRun, gas_run_of, statistics
from dysonjax.experiments.phase_diagram import figures as phase_figures
from dysonjax.experiments.phase_diagram.experiment import PhaseDiagram, experiment_of
from dysonjax.experiments.phase_diagram.summary import summary
from dysonjax.experiments.phase_diagram.tables import advice, phase_table, width_table
from dysonjax.runtime.devices import use_all_cores
from dysonjax.runtime.progress import progress_bar
from dysonjax.storage import store
from dysonjax.storage.merging import listed

DEFAULT_OUT = Path("runs/phase-diagram")
_RUN = PhaseDiagram()
_GAS = GasRun()


def phase_diagram(
    learning_rate: str = "0.125:256:12",
    init_width: str = "0.125:256:12",
    batch_size: str = "4",
    seeds: int = _RUN.seeds,
    epochs: int = _RUN.epochs,
    batches: int = _RUN.batches,
    snapshots: int = _RUN.snapshots,
    hidden: str = "32,16",
    activation: str = _RUN.activation,
    key: int = _RUN.key,
    out: Place = DEFAULT_OUT,
    overwrite: bool = False,
    resume: Place | None = None,
    machines: Where = HERE,
) -> None:
    """Scan SGD of the tanh network over learning rate and initial width: which pairs learn, freeze or blow up.

    Grids are log-spaced first:last:count, or lists 0.1,0.2,0.4. An interrupted run is continued by --resume, or by
    the same command again.

    Args:
        learning_rate: learning rates α.
        init_width: widths σ_W of the initial weights, N(0, σ_W²/fan-in).
        batch_size: batch sizes |B|.
        seeds: independent networks at every point of the grid.
        epochs: passes over the fixed batches.
        batches: fixed batches in an epoch.
        snapshots: how often the spectra are recorded, log-spaced in time.
        hidden: widths of the hidden layers; the last one's matrix is trained.
        activation: tanh, relu or identity.
        key: base of all random numbers.
        out: the run's directory: results, configuration and figures.
        overwrite: replace an earlier run in that directory.
        resume: continue the run in this directory, with its own settings.
        machines: on which machines.
    """
    asked = PhaseDiagram(
        grid_values("learning-rate", learning_rate), grid_values("init-width", init_width),
        tuple(whole_number("batch-size", v) for v in grid_values("batch-size", batch_size)),
        seeds, epochs, batches, snapshots,
        tuple(whole_number("hidden", v) for v in grid_values("hidden", hidden)), activation, key,
    )  # fmt: skip
    if resume is not None:
        settings = "no other option, a run is continued with its own settings"
        require(asked == _RUN and out == DEFAULT_OUT and not overwrite, "resume", str(resume), settings)
        out, asked = resume, experiment_of(store.load(resume).header.experiment)
    compute(asked, out, overwrite, machines, f"dysonjax phase-diagram --resume {out}", lambda: report(out))


def simulate(
    levels: int = _GAS.levels,
    temperature: str = "0.01:1:8",
    potential: str = _GAS.potential,
    centre: float = _GAS.centre,
    stiffness: float = _GAS.stiffness,
    coupling: float = _GAS.coupling,
    beta: float = _GAS.beta,
    geometry: str = _GAS.geometry,
    rows: int | None = None,
    scheme: str | None = None,
    seeds: int = _GAS.seeds,
    steps: int = _GAS.steps,
    dt: float = _GAS.dt,
    snapshots: int = _GAS.snapshots,
    key: int = _GAS.key,
    out: Place = Path("runs/gas"),
    overwrite: bool = False,
    resume: Place | None = None,
    machines: Where = HERE,
) -> None:
    """Dyson's equation for a gas of levels, over temperatures and seeds, beside its exact laws.

    Temperatures are log-spaced first:last:count, or a list. An interrupted run is continued by --resume, or by the
    same command again.

    Args:
        levels: number of levels n.
        temperature: temperatures T.
        potential: quadratic, quartic or double-well.
        centre: centre of the quadratic potential.
        stiffness: stiffness κ of the quadratic potential.
        coupling: coupling g.
        beta: Dyson index β, at least 1.
        geometry: symmetric matrices, singular values, or gram (eigenvalues of WᵀW).
        rows: rows M ≥ n of a rectangular matrix (default n).
        scheme: matrix_kick, pairwise_kick, neighbour_implicit, backward_euler or euler_maruyama.
        seeds: independent gases at every temperature.
        steps: time steps.
        dt: time step.
        snapshots: how often the spectra are recorded, log-spaced in time.
        key: base of all random numbers.
        out: the run's directory: results, configuration and figures.
        overwrite: replace an earlier run in that directory.
        resume: continue the run in this directory, with its own settings.
        machines: on which machines.
    """
    asked = GasRun(
        levels, grid_values("temperature", temperature), potential, centre, stiffness, coupling, beta, geometry, rows,
        scheme, seeds, steps, dt, snapshots, key,
    )  # fmt: skip
    if resume is not None:
        settings = "no other option, a run is continued with its own settings"
        untouched = asked == dataclasses.replace(_GAS, temperature=asked.temperature) and temperature == "0.01:1:8"
        require(untouched and out == Path("runs/gas") and not overwrite, "resume", str(resume), settings)
        out, asked = resume, gas_run_of(store.load(resume).header.experiment)
    compute(asked, out, overwrite, machines, f"dysonjax simulate --resume {out}", lambda: report(out))


def report(run: Annotated[Place, tyro.conf.Positional]) -> None:
    """Show a run's table and figures again from its store, without computing.

    Args:
        run: the run's directory.
    """
    if is_scaling_run(run):
        report_scaling(run)
        return
    if is_gpt_run(run):
        report_gpt(run)
        return
    if is_gpt_scaling_run(run):
        report_gpt_scaling(run)
        return
    results = store.load(run)
    kinds = {"gas": ("simulate", gas_run_of), "bbp": ("reproduce p5", bbp_run_of)}
    kind = next((k for k in kinds if k in results.header.experiment), "")
    command, describe = kinds.get(kind, ("phase-diagram", experiment_of))
    experiment = describe(results.header.experiment)
    missing = [str(number) for number in results.unfinished()]
    if missing:
        again = f"{command} --out {run.parent}" if kind == "bbp" else f"{command} --resume {run}"
        raise StoreError(
            f"{run}: {len(missing)} blocks are not finished of {len(results.blocks())}: {listed(missing)}; "
            f"continue with: dysonjax {again}"
        )
    ds = results.dataset()
    if isinstance(experiment, BBPRun):
        report_bbp(run, ds, experiment)
        return
    if isinstance(experiment, GasRun):
        found = statistics(ds)
        said: list[Any] = [gas_figures.gas_table(experiment, found), gas_figures.gas_advice(experiment, found)]
        draw = lambda directory: gas_figures.draw(experiment, ds, found, directory)  # noqa: E731
    else:
        points = summary(ds)
        said = [phase_table(ds, points)]
        for size in ds.batch_size.values:
            said += [width_table(points, size), advice(points, size)]
        draw = lambda directory: phase_figures.draw(ds, directory)  # noqa: E731
    show(run, said, draw)


def check(replicas: int = 4096) -> None:
    """Every scheme of Dyson's equation against exact laws: bias, order, cost; exit code 1 if a default fails.

    Args:
        replicas: independent runs behind each number; errors fall with its root.
    """
    require(replicas >= 256, "replicas", replicas, "at least 256, for errors to mean something")
    with progress_bar("check", schemes_check.TASKS, rate=False) as done:
        lines, costs = schemes_check.check(replicas, lambda what: done.advance(1))
    screen = Console() if sys.stdout.isatty() else Console(width=130)
    for table in schemes_check.tables(lines, costs):
        screen.print(table)
    bad = [line for line in lines if not line.good]
    for line in bad:
        screen.print(f"{line.setting}, {line.scheme}, dt = {line.dt:g}: {line.quantity} is off by {line.bias:+.4f} "
                     f"± {line.error:.4f}, allowed {line.tolerance:g}", highlight=False)  # fmt: skip
    if bad:
        raise schemes_check.CheckFailed(f"{len(bad)} of {len(lines)} numbers are out of tolerance")
    screen.print(f"All {sum(line.tolerance is not None for line in lines)} promised numbers hold.", highlight=False)


def main(args: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 1 for directories and processes, 2 for bad input, 130 for Ctrl-C."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    use_all_cores()
    try:
        _parse(args)()
    except InputError as error:
        return _refuse(str(error), 2)
    except (StoreError, ClusterError, schemes_check.CheckFailed) as error:
        return _refuse(str(error), 1)
    except KeyboardInterrupt as stop:
        return _refuse(f"interrupted; {stop}" if str(stop) else "interrupted", 130)
    return 0


def _deferred(command: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    """The command with its arguments read but not yet run, so that only reading them is under tyro's eye."""

    @functools.wraps(command)
    def read(*args: Any, **options: Any) -> Callable[[], None]:
        return functools.partial(command, *args, **options)

    return read


def _parse(args: list[str] | None) -> Callable[[], None]:
    """The command asked for; tyro's boxed messages become one line."""
    app = tyro.extras.SubcommandApp()
    app.command(name="phase-diagram")(_deferred(phase_diagram))
    app.command(name="simulate")(_deferred(simulate))
    app.command(name="scaling")(_deferred(scaling))
    app.command(name="scan")(_deferred(scan))
    app.command(name="reproduce")(_deferred(reproduce))
    app.command(name="validity")(_deferred(validity))
    app.command(name="gpt")(_deferred(gpt))
    app.command(name="analyze")(_deferred(analyze))
    app.command(name="report")(_deferred(report))
    app.command(name="merge")(_deferred(merge))
    app.command(name="check")(_deferred(check))
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return app.cli(prog="dysonjax", args=args, config=(tyro.conf.FlagCreatePairsOff,))
    except SystemExit as stop:
        if not stop.code:
            raise
        raise InputError(f"{_first_words(said.getvalue())}; see dysonjax --help") from None


def _first_words(box: str) -> str:
    """What stands in a box, drawn with lines or in ASCII, between its title and its first rule."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)
    inside = (line.strip(" │|").strip("─-+╰╯") for line in plain.splitlines()[1:])
    return " ".join(itertools.takewhile(bool, itertools.dropwhile(lambda line: not line, inside)))


def _refuse(message: str, code: int) -> int:
    sys.stderr.write(f"dysonjax: {message}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
