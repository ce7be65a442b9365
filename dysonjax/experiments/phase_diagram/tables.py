"""What a phase diagram says in words: tables phase by phase and width by width, and one line of plain advice."""

import math

import numpy as np
import xarray as xr

from dysonjax.core.tables import Table
from dysonjax.experiments.phase_diagram.intervals import FEWEST_SEEDS
from dysonjax.experiments.phase_diagram.summary import LEARNT, PHASES, experiment

TEMPERATURES = {
    "levels": "level_temperature",
    "published": "critical_temperature",
    "eigenbasis": "critical_temperature_exact",
    "learning": "learning_temperature",
}
"""Columns of critical temperatures, and what the summary calls them."""


def phase_table(ds: xr.Dataset, points: xr.Dataset) -> Table:
    """One row a phase: number of grid points, and medians over its points with their 16–84 % range.

    The losses are half a mean square error on the training data; the error on tests is the whole one.
    """
    run = experiment(ds)
    networks = int(np.prod([len(values) for values in run["grid"].values()]))
    title = f"Phases after {run['steps'] // run['batches']} epochs of {run['batches']} batches, {networks} networks"
    title += "; a loss is half a mean square error"
    columns = (
        "phase",
        "points",
        "median loss",
        "16 – 84 %",
        "mean square test error",
        "q_time",
        "largest level",
        "diverged",
    )
    table = _table(title, columns)
    middle = points.sel(quantile=0.5)
    for index, phase in enumerate(PHASES):
        here = (points.phase == index).values
        if not here.any():
            table.add_row(phase, "0", *["–"] * (len(columns) - 3), "0")
            continue
        values = {n: middle[n].values[here] for n in ("train_loss", "test_error", "memory", "largest_level")}
        low, high = np.quantile(values["train_loss"], [0.16, 0.84], method="nearest")
        table.add_row(
            phase, str(here.sum()), f"{np.median(values['train_loss']):.1e}", f"{low:.0e} – {high:.0e}",
            f"{np.median(values['test_error']):.1e}", f"{np.median(values['memory']):.3f}",
            f"{np.median(values['largest_level']):.3g}", str(int(points.diverged.values[here].sum())),
        )  # fmt: skip
    return table


def width_table(points: xr.Dataset, batch_size: int) -> Table:
    """One row an initial width: learning rates that learn, the best one, critical temperatures with 95 % intervals."""
    title = (
        f"Initial widths at batch size {batch_size}; critical temperatures T = learning rate / batch size where the\n"
        "levels blow up, where the Langevin criterion falls below 68 % (as published; in the eigenbasis), and where\n"
        f"P(learns), a training loss below {100 * LEARNT:g} % of its start, falls through one half (fitted; – where\n"
        f"it is below everywhere). In brackets 95 % intervals over seeds; the first three need {FEWEST_SEEDS} seeds"
    )
    columns = ("σ_W", "learns at", "lowest loss", "at", *(f"T_c {name}" for name in TEMPERATURES))
    table = _table(title, columns)
    for width in points.init_width.values:
        at = points.sel(init_width=width, batch_size=batch_size)
        loss = at.train_loss.sel(quantile=0.5)
        best = int(loss.argmin("learning_rate"))
        table.add_row(
            f"{width:g}", span(at, learns(at)), f"{float(loss[best]):.1e}", f"{float(at.learning_rate[best]):g}",
            *(_temperature(at, name) for name in TEMPERATURES.values()),
        )  # fmt: skip
    return table


def learns(points: xr.Dataset) -> xr.DataArray:
    """Where the median training loss ends below `LEARNT` of its start."""
    return points.train_loss.sel(quantile=0.5) < LEARNT * points.initial_loss


def span(points: xr.Dataset, chosen: xr.DataArray) -> str:
    """The chosen learning rates in words: runs of neighbours as ranges."""
    rates = np.sort(points.learning_rate.values)
    good = chosen.sortby("learning_rate").values
    runs: list[list[float]] = []
    for i, rate in enumerate(rates):
        if good[i] and i and good[i - 1]:
            runs[-1].append(rate)
        elif good[i]:
            runs.append([rate])
    return ", ".join(f"{r[0]:g}" if len(r) == 1 else f"{r[0]:g} – {r[-1]:g}" for r in runs) or "none"


def advice(points: xr.Dataset, batch_size: int) -> str:
    """Which learning rates learn at this batch size and the best width, and what the nearest phase boundary costs."""
    at = points.sel(batch_size=batch_size).sortby("learning_rate").sortby("init_width")
    loss = at.train_loss.sel(quantile=0.5).transpose("learning_rate", "init_width").values
    phase = at.phase.transpose("learning_rate", "init_width").values
    rates, widths = at.learning_rate.values, at.init_width.values
    i, j = np.unravel_index(int(np.argmin(loss)), loss.shape)
    column = at.isel(init_width=int(j))
    if not bool(learns(column).any()):
        return f"At batch size {batch_size} nothing on this grid learns: the lowest median loss is {loss[i, j]:.1e}."
    good = span(column, learns(column))
    text = (
        f"At batch size {batch_size} and initial width {widths[j]:g}, learning rates {good} learn; "
        f"the lowest median loss is {loss[i, j]:.1e}, at {rates[i]:g}."
    )
    steps = [
        (abs(math.log(axis[k] / axis[start])), name, axis[k], line_phase[k], line_loss[k])
        for name, axis, start, line_phase, line_loss in (
            ("learning rate", rates, i, phase[:, j], loss[:, j]),
            ("initial width", widths, j, phase[i], loss[i]),
        )
        for k in range(len(axis))
        if line_phase[k] != phase[i, j]
    ]
    if not steps:
        return f"{text} No phase boundary lies on this grid along that learning rate and width."
    _, name, value, other, cost = min(steps)
    times = f"{cost / loss[i, j]:.3g} times the lowest" if np.isfinite(cost) else "no longer finite"
    return (
        f"{text} The nearest phase boundary: at {name} {value:g} the network is {PHASES[other]} and its loss {times}."
    )


def _table(title: str, columns: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left")
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index else "left")
    return table


def _temperature(at: xr.Dataset, name: str) -> str:
    """A temperature with its interval, "0.398 (0.35 – 0.44)"; beyond the grid the end of that."""
    value, low, high = (float(at[f"{name}{end}"]) for end in ("", "_low", "_high"))
    first, last = (float(x) / float(at.batch_size) for x in (at.learning_rate.min(), at.learning_rate.max()))
    if math.isnan(value):
        if name == "learning_temperature":
            return "–"
        return f"< {first:.3g}" + f" (< {high:.2g})" * (first < high < math.inf)
    if math.isinf(value):
        return f"> {last:.3g}" + f" (> {low:.2g})" * (0 < low < last)
    if math.isnan(low):
        return f"{value:.3g}"
    if low == 0 or math.isinf(high):
        inside = f"> {low:.2g}" if low > 0 else f"< {high:.2g}" if high < math.inf else "not bounded"
        return f"{value:.3g} ({inside})"
    return f"{value:.3g} ({low:.2g} – {high:.2g})"
