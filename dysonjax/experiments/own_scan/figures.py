"""What any scan shows: the last values at every point as a table, maps over two axes, the flow of levels."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dysonjax.core.tables import Table
from dysonjax.experiments import plotting as plots
from dysonjax.spectra import estimate

MOST_ROWS = 60
"""Points that the table shows; the others are in the dataset."""
FLOWS = 3
"""Points whose levels are shown over time: the first, a middle one and the last."""


def description(ds: xr.Dataset) -> str:
    """One sentence on what was run."""
    stored = json.loads(ds.attrs["experiment"])
    what = " of ".join(str(stored[key]) for key in ("dynamics", "model") if key in stored) or "a dynamics of its own"
    axes = ", ".join(f"{_words(name)} {_range(np.unique(ds[name].values))}" for name in _columns(ds) if name != "point")
    lost = int((ds.diverged_step >= 0).sum())
    left = f"; {lost} of {ds.diverged_step.size} replicas became non-finite" if lost else ""
    count = f"{ds.sizes['point']} replicas" if "point" in ds.dims else f"{ds.sizes['seed']} seeds"
    return f"{what}: {stored['steps']} updates, {count}, {axes}{left}."


def table(ds: xr.Dataset) -> Table:
    """Last values at every point, mean ± standard error over the seeds that stayed finite."""
    values, finite = last_values(ds), ds.diverged_step < 0
    errors = "" if "point" in ds.dims else ", mean ± standard error over seeds"
    shown = Table(title=f"After {int(ds.step[-1])} updates{errors}")
    for name in (*_columns(ds), *values, "non-finite"):
        shown.add_column(_words(name), justify="right")
    points = list(np.ndindex(*(ds.sizes[name] for name in _axes(ds))))
    for place in points[:MOST_ROWS]:
        at = dict(zip(_axes(ds), place, strict=True))
        alive = finite.isel(at).values
        cells = [f"{float(ds[name].isel({str(d): at[str(d)] for d in ds[name].dims})):g}" for name in _columns(ds)]
        for value in values.values():
            some = value.isel(at).values[alive].astype(float)
            cells.append(str(estimate(some)) if some.size > 1 else f"{some[0]:.4g}" if some.size else "–")
        shown.add_row(*cells, f"{int((~alive).sum())} of {alive.size}")
    if len(points) > MOST_ROWS:
        shown.caption = f"the first {MOST_ROWS} of {len(points)} points"
    return shown


def draw(ds: xr.Dataset, directory: Path) -> list[Path]:
    """Level flow at a few points, and everything in the table over the first two axes with several values."""
    with plots.style():
        figures = {f"flow_{name}": level_flow(ds, name) for name in _levels(ds)}
        if _varied(ds):
            figures |= {f"{name}_over_grid".replace(" ", "_"): over_grid(ds, name) for name in last_values(ds)}
        return [plots.save(figure, directory / f"{name}.png") for name, figure in figures.items()]


def last_values(ds: xr.Dataset) -> dict[str, xr.DataArray]:
    """Of each replica: what is recorded as one number, and the largest level of each matrix."""
    last, dims = ds.isel(snapshot=-1), {*_axes(ds), "seed"}
    found = {str(name): v for name, v in last.data_vars.items() if {*v.dims} == dims and name != "diverged_step"}
    for name in _levels(ds):
        found[f"largest of {name}"] = last[name].max([str(d) for d in last[name].dims if d not in dims])
    return {name: value.transpose(*_axes(ds), "seed") for name, value in found.items()}


def level_flow(ds: xr.Dataset, name: str) -> Figure:
    """Levels of the first seed that stayed finite, at the first, a middle and the last point."""
    sizes = [ds.sizes[axis] for axis in _axes(ds)]
    picked = sorted({0, int(np.prod(sizes)) // 2, int(np.prod(sizes)) - 1})[:FLOWS]
    figure, panels = plots.new_figure(1, len(picked), (3.4 * len(picked), 3.2), sharey=True)
    for ax, number in zip(panels[0], picked, strict=True):
        at = dict(zip(_axes(ds), np.unravel_index(number, sizes), strict=True))
        one = ds.isel({axis: int(i) for axis, i in at.items()})
        alive = one.diverged_step.values < 0
        seed = int(np.argmax(alive))
        held = None if alive.any() else int(one.diverged_step.values[seed])
        plots.level_flow(ax, ds.step.values, one[name].isel(seed=seed).transpose("snapshot", ...).values, held)
        ax.set_title(", ".join(f"{_words(axis)} {float(ds[axis][int(i)]):g}" for axis, i in at.items()), fontsize=7.5)
    panels[0, 0].set_ylabel(f"levels of {name.removeprefix('levels_')}" if name != "levels" else "levels")
    plots.caption(figure, "One replica a panel: the first seed that stayed finite, else a dotted line where it ended.")
    return figure


def over_grid(ds: xr.Dataset, name: str) -> Figure:
    """Mean over finite seeds against the first axis with several values, or a map over the first two."""
    value = last_values(ds)[name].where(ds.diverged_step < 0)
    axes = _varied(ds)[:2]
    rest = {axis: 0 for axis in _axes(ds) if axis not in axes}
    mean = value.isel(rest).mean("seed").transpose(*axes[::-1])
    figure, panels = plots.new_figure(1, 1, (4.2, 3.4))
    ax: Axes = panels[0, 0]
    if len(axes) == 1:
        x = ds[axes[0]].values
        error = value.isel(rest).std("seed", ddof=1) / np.sqrt(value.isel(rest).count("seed"))
        apart = axes[0] == "point"  # points follow one another in no order
        line = {"linestyle": "none" if apart else "-", "marker": "o", "markersize": 4, "capsize": 2, "color": "black"}
        ax.errorbar(x, mean.values, None if apart else error.values, **line)
        ax.set(xscale="log" if np.all(x > 0) and len(x) > 2 else "linear", xlabel=_words(axes[0]), ylabel=_words(name))
        if apart:
            ax.locator_params("x", integer=True)
    else:
        _map(ax, ds, axes, mean.values, _words(name))
    others = ", ".join(f"{_words(axis)} {float(ds[axis][0]):g}" for axis in rest if ds.sizes[axis] > 1)
    what = "One replica a point" if "point" in axes else "Mean over finite seeds"
    plots.caption(figure, f"{what} after {int(ds.step[-1])} updates" + (f", at {others}." if others else "."))
    return figure


def _map(ax: Axes, ds: xr.Dataset, axes: list[str], values: np.ndarray, label: str) -> None:
    """Cells in the order of the axes' values, whatever these are; hatched where no seed stayed finite."""
    good = values[np.isfinite(values)]
    wide = good.size > 0 and good.min() > 0 and good.max() > 20 * good.min()
    norm = plots.log_norm(values) if wide else plots.linear_norm(values)
    ax.patch.set(facecolor="white", edgecolor="0.45", hatch="/////", linewidth=0)
    mesh = ax.pcolormesh(np.ma.masked_invalid(values), norm=norm, cmap=plots.SEQUENTIAL)
    for which, name in zip("xy", axes, strict=True):
        numbers = ds[name].values
        step = -(-len(numbers) // 8)
        ticks: Mapping[str, Any] = {
            f"{which}ticks": np.arange(len(numbers))[::step] + 0.5,
            f"{which}ticklabels": [f"{v:g}" for v in numbers[::step]],
            f"{which}label": _words(name),
        }
        ax.set(**ticks)
    plots.colour_bar(mesh, label)


def _axes(ds: xr.Dataset) -> list[str]:
    """The grid's axes without the seed."""
    return [str(name) for name in ds.diverged_step.dims if name != "seed"]


def _columns(ds: xr.Dataset) -> list[str]:
    """What tells one point from another: the axes, and the hyper-parameters and the seed of points that are no grid."""
    return [*_axes(ds), *(str(n) for n, c in ds.coords.items() if c.dims == ("point",) and n != "point")]


def _varied(ds: xr.Dataset) -> list[str]:
    return [name for name in _axes(ds) if ds.sizes[name] > 1]


def _levels(ds: xr.Dataset) -> list[str]:
    return [str(name) for name in ds.data_vars if str(name) == "levels" or str(name).startswith("levels_")]


def _range(values: np.ndarray) -> str:
    return f"{values[0]:g}" if len(values) == 1 else f"{values.min():g} … {values.max():g} ({len(values)} values)"


def _words(name: str) -> str:
    return name.replace("_", " ")
