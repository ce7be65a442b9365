"""The commands about learning rate and batch size: `dysonjax scaling`, `scan`, `validity` and `reproduce`."""

import sys
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from dysonjax.cli.console import grid_values, show, whole_number
from dysonjax.cli.gpt import report_gpt_scaling, train
from dysonjax.cli.sharing import HERE, Machines, Place, Where, compute
from dysonjax.core.errors import InputError, require
from dysonjax.experiments.bbp import experiment as bbp
from dysonjax.experiments.bbp import figures as bbp_figures
from dysonjax.experiments.gpt.grid import GPTScalingRun
from dysonjax.experiments.gpt.training import GPTRun
from dysonjax.experiments.langevin_validity.assessment import table as verdicts
from dysonjax.experiments.langevin_validity.assessment import validity as report_of
from dysonjax.experiments.linear_scaling.analysis import analyse, tables
from dysonjax.experiments.linear_scaling.experiment import RECORD, ScalingRun, ensembles, scaling_run, scaling_run_of
from dysonjax.experiments.linear_scaling.figures import draw
from dysonjax.experiments.recipes import PAPERS, recipes
from dysonjax.runtime import team as cluster
from dysonjax.storage import store

WIDTH = 170
"""Columns of the tables where there is no terminal to ask."""
Model = Annotated[str, tyro.conf.Positional]


def scaling(
    model: Model,
    learning_rate: str | None = None,
    batch_size: str | None = None,
    level: str | None = None,
    seeds: int | None = None,
    time: float | None = None,
    sampling: str | None = None,
    batches: int | None = None,
    visible: int | None = None,
    hidden: int | None = None,
    teacher: str | None = None,
    train: str | None = None,
    noise: float | None = None,
    key: int = 0,
    out: Place | None = None,
    overwrite: bool = False,
    machines: Where = HERE,
) -> None:
    """The linear scaling rule: does a model's spectrum depend on learning rate and batch size through α/|B| alone?

    Without options, the scans of the paper at a size for two cores. An interrupted run is continued by the same
    command again.

    Args:
        model: rbm, teacher-student or linear.
        learning_rate: learning rates α, first:last:count log-spaced or a list; with every batch size.
        batch_size: batch sizes |B|.
        level: levels of description among sgd, matrix, dyson, log-gas.
        seeds: independent replicas at every setting.
        time: α × updates.
        sampling: how SGD gets its batches, examples (chains for the RBM) or wishart.
        batches: fixed batches, 0 for fresh ones (teacher-student and linear).
        visible: visible units of the RBM.
        hidden: hidden units of the RBM, or of the linear network.
        teacher: singular values of the teacher.
        train: first or both matrices of the linear network.
        noise: standard deviation of the noise that each example adds to the gradient.
        key: base of all random numbers.
        out: the run's directory: results, configuration and figures (default runs/scaling-MODEL).
        overwrite: replace an earlier run in that directory.
        machines: on which machines.
    """
    settings = _settings(learning_rate, batch_size)
    asked = scaling_run(model, **_given(
        settings=settings, descriptions=_list(level), seeds=seeds, time=time, sampling=sampling, batches=batches,
        visible=visible, hidden=hidden, teacher=_teacher(teacher), trained=train, noise=noise, key=key,
    ))  # fmt: skip
    _run(asked, out or Path(f"runs/scaling-{model}"), overwrite, machines)


def scan(
    model: Model,
    learning_rate: str = "0.01:0.1:10",
    batch_size: str = "4,8,16,32,64",
    level: str = "sgd",
    seeds: int = 64,
    steps: int = 20000,
    sampling: str = "examples",
    batches: int = 0,
    visible: int | None = None,
    hidden: int | None = None,
    teacher: str | None = None,
    train: str | None = None,
    noise: float | None = None,
    key: int = 0,
    out: Place | None = None,
    overwrite: bool = False,
    machines: Where = HERE,
) -> None:
    """A model over every pair of learning rates and batch sizes for a given number of updates.

    An interrupted run is continued by the same command again.

    Args:
        model: rbm, teacher-student or linear.
        learning_rate: learning rates α, first:last:count log-spaced or a list.
        batch_size: batch sizes |B|.
        level: levels of description among sgd, matrix, dyson, log-gas.
        seeds: independent replicas at every setting.
        steps: updates.
        sampling: how SGD gets its batches, examples (chains for the RBM) or wishart.
        batches: fixed batches, 0 for fresh ones (teacher-student and linear).
        visible: visible units of the RBM.
        hidden: hidden units of the RBM, or of the linear network.
        teacher: singular values of the teacher.
        train: first or both matrices of the linear network.
        noise: standard deviation of the noise that each example adds to the gradient.
        key: base of all random numbers.
        out: the run's directory: results, configuration and figures (default runs/scan-MODEL).
        overwrite: replace an earlier run in that directory.
        machines: on which machines.
    """
    require(steps >= 1, "steps", steps, "a whole number of at least 1")
    asked = scaling_run(model, **_given(
        settings=_settings(learning_rate, batch_size), descriptions=_list(level), seeds=seeds, steps=steps,
        sampling=sampling, batches=batches, visible=visible, hidden=hidden, teacher=_teacher(teacher), trained=train,
        noise=noise, key=key,
    ))  # fmt: skip
    _run(asked, out or Path(f"runs/scan-{model}"), overwrite, machines)


def reproduce(
    paper: Annotated[str, tyro.conf.Positional], full: bool = False, out: Place | None = None, overwrite: bool = False,
    machines: Where = HERE,
) -> None:  # fmt: skip
    """Every figure of a paper, with its numbers beside the published ones.

    p1: arXiv:2407.16427 (Gaussian RBM, teacher–student); p2: arXiv:2411.13512 (nano-GPT); p3: arXiv:2412.20496 (linear
    network with a hidden layer); p5: arXiv:2606.28486 (BBP transition). An interrupted run is continued by the same
    command again.

    Args:
        paper: p1, p2, p3 or p5.
        full: the published sizes: hours on two cores.
        out: the directory of the paper's runs (default runs/PAPER).
        overwrite: replace earlier runs in that directory.
        machines: on which machines.
    """
    place = out or Path(f"runs/{paper}")
    with machines.team() as team:  # one for all runs
        for name, run in recipes(paper, full).items():
            if team.first:
                Console().print(f"{PAPERS[paper]}: {name}", highlight=False)
            _run(run, place / name, overwrite, machines)


def validity(
    model: Model,
    learning_rate: float = 0.05,
    batch_size: int = 16,
    steps: int = 2000,
    seeds: int = 256,
    visible: int | None = None,
    hidden: int | None = None,
    teacher: str | None = None,
    train: str | None = None,
    noise: float | None = None,
    key: int = 0,
) -> None:
    """Does the Langevin picture hold for a model at one learning rate and batch size? A verdict for each assumption.

    Args:
        model: rbm, teacher-student or linear; `dysonjax.validity` in Python takes any model.
        learning_rate: learning rate α.
        batch_size: batch size |B|.
        steps: updates.
        seeds: independent replicas.
        visible: visible units of the RBM.
        hidden: hidden units of the RBM, or of the linear network.
        teacher: singular values of the teacher.
        train: first or both matrices of the linear network.
        noise: standard deviation of the noise that each example adds to the gradient.
        key: base of all random numbers.
    """
    fields = _given(visible=visible, hidden=hidden, teacher=_teacher(teacher), trained=train, noise=noise)
    network = scaling_run(model, **fields).network
    told = report_of(key, network, learning_rate, batch_size, steps=steps, replicas=seeds)
    (Console() if sys.stdout.isatty() else Console(width=WIDTH)).print(verdicts(told))


def report_bbp(directory: Path, ds: Any, run: bbp.BBPRun) -> None:
    """Table and figures of a finished run of a rank-one teacher."""
    show(directory, [bbp_figures.bbp_table(run, ds)], lambda place: bbp_figures.draw(run, ds, place))


def report_scaling(directory: Path) -> None:
    """Tables and figures of a finished run from its stores."""
    run = scaling_run_of(directory)
    found = analyse(run, ensembles(run, run.load(directory)))
    show(directory, tables(run, found), lambda place: draw(run, found, place), WIDTH)


def _run(run: ScalingRun | bbp.BBPRun | GPTRun | GPTScalingRun, out: Path, overwrite: bool, machines: Machines) -> None:
    def report() -> None:
        if isinstance(run, bbp.BBPRun):
            report_bbp(out, store.load(out).dataset(), run)
        elif isinstance(run, GPTScalingRun):
            report_gpt_scaling(out)
        else:
            report_scaling(out)

    if isinstance(run, GPTRun):  # one network, which one process trains
        if machines.share.index == 0 and cluster.team().first and not machines.dry_run:
            train(run, out, overwrite)
        return
    compute(run, out, overwrite, machines, "the same command", report)


def _settings(learning_rate: str | None, batch_size: str | None) -> Any:
    """Every pair of the two, None when neither is given."""
    if learning_rate is None and batch_size is None:
        return None
    if learning_rate is None or batch_size is None:
        raise InputError(f"learning-rate = {learning_rate}, batch-size = {batch_size}: expected both or neither")
    sizes = [whole_number("batch-size", v) for v in grid_values("batch-size", batch_size)]
    return tuple((rate, size) for rate in grid_values("learning-rate", learning_rate) for size in sizes)


def _teacher(text: str | None) -> tuple[float, ...] | None:
    return None if text is None else grid_values("teacher", text)


def _list(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(word.strip() for word in text.split(","))


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def is_scaling_run(directory: Path) -> bool:
    """Does the directory hold a scaling run?"""
    return (directory / RECORD).is_file()
