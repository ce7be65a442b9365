"""The figures of arXiv:2509.01349: maps over 1/σ_W and temperature T = α/|B|, losses against T, and level flows.

Each figure is a function of the run's dataset, its `summary` and a batch size, for notebooks; `draw` writes them all.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import BoundaryNorm, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from dysonjax.experiments import plotting as plots
from dysonjax.experiments.phase_diagram.intervals import FEWEST_SEEDS
from dysonjax.experiments.phase_diagram.summary import CONTOURS, JAMMING_WIDTH, PHASES, experiment, summary

INVERSE_WIDTH = r"inverse initial width $1/\sigma_W$"
TEMPERATURE = r"temperature $T = \alpha/|B|$"
LOSS = r"training loss $\mathcal{L}$"
GRADIENT = r"gradient norm $\|\nabla\mathcal{L}\|$"
MEMORY = r"memory $q_\mathrm{time}$"
DIVERGED = "diverged: not finite"
MEDIANS = "Medians over the seeds."
SEEDS_FOR_HIGH_CONTOURS = 20
"""From this many seeds on a fraction of 95 % differs from all of them; with fewer, only the 68 % contour is drawn."""

_PHASE_COLOURS = ("#f3e9b8", "#8fb3d9", "#b3543f")  # light, middle and dark, also in grey
_MARKERS = "os^vDPX<>*hp"
_DASHES = ("solid", (0, (4, 1.6)), (0, (1, 1.3)))
_JAMMING: dict[str, Any] = {"color": "black", "linestyle": (0, (6, 1.5, 1, 1.5)), "linewidth": 1.5, **plots.HALO}
_PUBLISHED: dict[str, Any] = {"color": "black", "linewidth": 1.9, **plots.HALO}
_EIGENBASIS: dict[str, Any] = {"color": "#e8418f", "linestyle": (0, (5, 2)), "linewidth": 1.5, **plots.HALO}
_POINTS: dict[str, Any] = {"color": "black", "marker": "o", "mfc": "white", "markersize": 5, "linestyle": "none"}
_ABOVE: dict[str, Any] = {**_POINTS, "marker": "^"}
_BELOW: dict[str, Any] = {**_POINTS, "marker": "v"}
_MINUS: dict[str, Any] = {"color": "black", "marker": "_", "linestyle": "none", "markersize": 5}
_LETTER: dict[str, Any] = {"fontsize": 12, "fontweight": "bold", "ha": "center", "va": "center", **plots.HALO}
_START: dict[str, Any] = {"facecolor": "0.88", "edgecolor": "none", "zorder": 0}
_TEACHER: dict[str, Any] = {"facecolor": "none", "edgecolor": "0.6", "hatch": "\\\\\\\\", "linewidth": 0, "zorder": 0.5}
_DIVERGED = PHASES.index("diverged")


def draw(ds: xr.Dataset, directory: Path) -> list[Path]:
    """Write every figure for every batch size as PNG into `directory`; returns their paths."""
    points = summary(ds)
    sizes = [int(size) for size in ds.batch_size.values]
    return [
        plots.save(figure(ds, points, size), directory / f"{figure.__name__}{f'_b{size}' * (len(sizes) > 1)}.png")
        for size in sizes
        for figure in FIGURES
    ]


@plots.style()
def loss_map(ds: xr.Dataset, points: xr.Dataset, batch_size: int) -> Figure:
    """Median training loss and mean square test error at the end, over the plane of 1/σ_W and T."""
    at = _at(points, batch_size)
    figure, axes = plots.new_figure(1, 2, (9.2, 5.0), sharey=True)
    meshes = [
        _map(axes[0, 0], at, "train_loss", LOSS, plots.log_norm),
        _map(axes[0, 1], at, "test_error", r"mean square test error $\langle(y_t-y)^2\rangle$", plots.log_norm),
    ]
    for ax in axes[0]:
        plots.outline_regions(ax, *_plane(at), at.phase.values)
        _letters(ax, at)
    note = f"{MEDIANS} Lines: phases; O\u00a0ordered, J\u00a0jammed, P\u00a0paramagnetic."
    _finish(figure, ds, batch_size, plots.hatching(meshes, DIVERGED), note)
    return figure


@plots.style()
def loss_against_temperature(ds: xr.Dataset, points: xr.Dataset, batch_size: int) -> Figure:
    """Training loss and gradient norm at the end against T, one line an initial width, bars from 16 to 84 %."""
    at = _at(points, batch_size).transpose("init_width", "quantile", "learning_rate")
    figure, axes = plots.new_figure(1, 2, (10.2, 4.6))
    temperature, widths = _plane(at)[1], at.init_width.values
    edges = plots.log_edges(temperature)
    colours = matplotlib.colormaps[plots.SEQUENTIAL](np.linspace(0, 0.92, len(widths)))
    looks = [
        {"color": colour, "marker": _MARKERS[i % len(_MARKERS)], "label": f"{width:.4g}"}
        for i, (width, colour) in enumerate(zip(widths, colours, strict=True))
    ]
    lost, spread = False, 0.65 * np.log(edges[1] / edges[0])
    for ax, name, label in zip(axes[0], ("train_loss", "gradient_norm"), (LOSS, GRADIENT), strict=True):
        lost |= plots.lines_with_bars(ax, temperature, at[name].values, looks, spread)
        ax.set(xlim=edges[[0, -1]], xlabel=TEMPERATURE, ylabel=f"median {label}")
        plots.log_ticks(ax, "x", temperature)
        ax.grid(alpha=0.25, linewidth=0.5)
    cross = Line2D([], [], color="black", marker="x", linestyle="none", label="diverged")
    handles = [*axes[0, 0].get_legend_handles_labels()[0], *[cross] * lost]
    figure.legend(handles=handles, loc="outside right upper", title=r"initial width $\sigma_W$")
    note = "Bars: 16 to 84 % of the seeds; the widths of one T stand side by side. Gradient on training examples."
    _finish(figure, ds, batch_size, (), note)
    return figure


@plots.style()
def order_parameters(ds: xr.Dataset, points: xr.Dataset, batch_size: int) -> Figure:
    """Memory q_time and alignment hs at the end, with the jamming line 1/σ_W = √2."""
    at = _at(points, batch_size)
    figure, axes = plots.new_figure(1, 2, (9.2, 5.2), sharey=True)
    meshes = [
        _map(axes[0, 0], at, "memory", MEMORY, plots.linear_norm),
        _map(axes[0, 1], at, "alignment", "alignment $hs$", plots.linear_norm),
    ]
    handles = [*_jamming_line(axes[0]), *plots.hatching(meshes, DIVERGED)]
    note = f"{MEDIANS} Alignment includes its factor 1/n, n = {experiment(ds)['tests']}."
    _finish(figure, ds, batch_size, handles, note)
    return figure


@plots.style()
def level_flow(ds: xr.Dataset, points: xr.Dataset, batch_size: int) -> Figure:
    """Levels of W Wᵀ against updates for one network deep in each phase, with the edges of start and teacher."""
    at = _at(points, batch_size)
    present = [index for index in range(len(PHASES)) if (at.phase == index).any()]
    figure, axes = plots.new_figure(1, len(present), (max(3.3 * len(present), 5.4), 3.9))
    for ax, index in zip(axes[0], present, strict=True):
        i, j = plots.deepest_cell(at.phase.values == index)
        place = {"learning_rate": at.learning_rate[i], "init_width": at.init_width[j], "batch_size": batch_size}
        networks, width = ds.sel(place), float(at.init_width[j])
        typical = (networks.diverged_step.values >= 0) == (index == _DIVERGED)
        network = networks.isel(seed=int(np.argmax(typical)))
        levels, halted = network.levels.transpose("snapshot", "level").values, int(network.diverged_step)
        plots.level_flow(ax, ds.step.values, levels, halted if halted >= 0 else None)
        ax.axhspan(*_edges(ds, width), **_START)
        ax.axhspan(*_edges(ds, 1.0), **_TEACHER)
        ax.set_title(f"{PHASES[index]}: $T$ = {_plane(at)[1][i]:.4g}, $\\sigma_W$ = {width:.4g}")
    axes[0, 0].set_ylabel(r"levels: eigenvalues of $W\,W^\top$")
    bands = ((_START, "start"), (_TEACHER, "teacher"))
    handles: list[Artist] = [Patch(**look, label=f"Marchenko–Pastur, {name}") for look, name in bands]
    if _DIVERGED in present:
        handles.append(Line2D([], [], color="black", linestyle="dotted", label="diverged, held from here"))
    note = "One network a panel: the first seed at a point deep in its phase. Darkest line: largest level."
    _finish(figure, ds, batch_size, handles, note)
    return figure


@plots.style()
def separation_map(ds: xr.Dataset, points: xr.Dataset, batch_size: int) -> Figure:
    """Level separation Λ, its colours centred at 0; cells below 0 also carry a minus sign."""
    at = _at(points, batch_size)
    figure, axes = plots.new_figure(1, 1, (5.8, 5.6))
    values = at.separation.where(at.phase != _DIVERGED).values
    mesh = plots.grid_map(axes[0, 0], *_plane(at), values, norm=plots.centred_norm(values), cmap="RdBu_r")
    plots.colour_bar(mesh, r"level separation $\Lambda$")
    axes[0, 0].set(xlabel=INVERSE_WIDTH, ylabel=TEMPERATURE)
    plots.outline_regions(axes[0, 0], *_plane(at), at.phase.values)
    x, y = _plane(at)
    rows, columns = np.nonzero(values < 0)
    axes[0, 0].plot(x[columns], y[rows], **_MINUS)
    handles = [Line2D([], [], **_MINUS, label=r"$\Lambda < 0$: gaps shrink")] if len(rows) else []
    note = "Mean over the seeds; colours linear near 0, logarithmic beyond. Lines:\u00a0phases."
    _finish(figure, ds, batch_size, [*handles, *plots.hatching([mesh], DIVERGED)], note)
    return figure


@plots.style()
def boundary_maps(ds: xr.Dataset, points: xr.Dataset, batch_size: int) -> Figure:
    """Training loss, memory and phases with the Langevin boundary, the jamming line and where the levels blow up."""
    at = _at(points, batch_size)
    figure, axes = plots.new_figure(1, 3, (12.6, 5.2), sharey=True)
    meshes = [
        _map(axes[0, 0], at, "train_loss", LOSS, plots.log_norm),
        _map(axes[0, 1], at, "memory", MEMORY, plots.linear_norm),
        _phase_map(axes[0, 2], at),
    ]
    handles = [
        *_langevin_lines(axes[0], at, ds.sizes["seed"]),
        *_jamming_line(axes[0]),
        *_level_temperature(axes[0], at),
        *plots.hatching(meshes, DIVERGED),
    ]
    few = f" 95 and 99.7 % contours are drawn from {SEEDS_FOR_HIGH_CONTOURS} seeds on."
    note = f"{MEDIANS} Langevin boundary: fraction of learnable networks."
    note += " Bars: 95 % intervals over seeds." * (ds.sizes["seed"] >= FEWEST_SEEDS)
    note += few * (ds.sizes["seed"] < SEEDS_FOR_HIGH_CONTOURS)
    _finish(figure, ds, batch_size, handles, note)
    return figure


FIGURES = (loss_map, loss_against_temperature, order_parameters, level_flow, separation_map, boundary_maps)
"""All figures, in the order in which `draw` writes them."""


def _at(points: xr.Dataset, batch_size: int) -> xr.Dataset:
    """The summary at one batch size, both axes increasing, learning rate before initial width."""
    at = points.sel(batch_size=batch_size).sortby("learning_rate").sortby("init_width")
    return at.transpose("quantile", "learning_rate", "init_width")


def _plane(at: xr.Dataset) -> tuple[NDArray, NDArray]:
    """1/σ_W [widths] and T [learning rates] of the grid."""
    return 1 / at.init_width.values, at.learning_rate.values / float(at.batch_size)


def _map(ax: Axes, at: xr.Dataset, name: str, label: str, norm: Callable[[NDArray], Normalize]) -> QuadMesh:
    """The median over seeds of one order parameter."""
    values = at[name].sel(quantile=0.5).values
    mesh = plots.grid_map(ax, *_plane(at), values, norm=norm(values))
    plots.colour_bar(mesh, f"median {label}")
    ax.set_xlabel(INVERSE_WIDTH)
    if ax.get_subplotspec().is_first_col():  # type: ignore[union-attr]
        ax.set_ylabel(TEMPERATURE)
    return mesh


def _phase_map(ax: Axes, at: xr.Dataset) -> QuadMesh:
    count = len(_PHASE_COLOURS)
    shown = at.phase.where(at.phase < count).where(at.memory.sel(quantile=0.5).notnull()).values
    norm = BoundaryNorm(np.arange(count + 1) - 0.5, count)
    mesh = plots.grid_map(ax, *_plane(at), shown, norm=norm, cmap=ListedColormap(_PHASE_COLOURS))
    bar = plots.colour_bar(mesh, "phase")
    bar.set_ticks(list(range(count)), labels=PHASES[:count])
    bar.ax.tick_params(which="both", length=0, pad=4)
    bar.ax.xaxis.labelpad = 7
    ax.set_xlabel(INVERSE_WIDTH)
    return mesh


def _letters(ax: Axes, at: xr.Dataset) -> None:
    """The first letter of each phase, deep in it."""
    x, y = _plane(at)
    for index in range(len(_PHASE_COLOURS)):
        if (at.phase == index).any():
            i, j = plots.deepest_cell(at.phase.values == index)
            ax.text(x[j], y[i], PHASES[index][0].upper(), **_LETTER)


def _edges(ds: xr.Dataset, width: float) -> tuple[float, float]:
    """Marchenko–Pastur edges σ²(1 ∓ √q)² of W Wᵀ, W [K, L] with entries N(0, σ²/L), q = K/L; the lower one above 0."""
    columns, rows = experiment(ds)["widths"][-3:-1]
    root = np.sqrt(rows / columns)
    return width**2 * max((1 - root) ** 2, 1e-6), width**2 * (1 + root) ** 2


def _langevin_lines(axes: Sequence[Axes], at: xr.Dataset, seeds: int) -> list[Line2D]:
    """Contours of the learnable fractions; those above the first only with seeds enough to tell them from 100 %."""
    levels = CONTOURS if seeds >= SEEDS_FOR_HIGH_CONTOURS else CONTOURS[:1]
    looks: list[dict[str, Any]] = [
        {**_PUBLISHED, "linestyle": dashes, "label": f"Langevin as published, {100 * level:g} %"}
        for level, dashes in zip(levels, _DASHES, strict=False)
    ]
    looks.append({**_EIGENBASIS, "label": f"Langevin in the eigenbasis, {100 * CONTOURS[0]:g} %"})
    fractions = [at.learnable.values] * len(levels) + [at.learnable_exact.values]
    return [
        Line2D([], [], **look)
        for values, level, look in zip(fractions, (*levels, CONTOURS[0]), looks, strict=True)
        if all([plots.log_contour(ax, *_plane(at), values, level, look) for ax in axes])
    ]


def _jamming_line(axes: Sequence[Axes]) -> list[Line2D]:
    """The line 1/σ_W = √2 in every panel that reaches so far; returns the legend's entry."""
    left, right = axes[0].get_xlim()
    if not left < 1 / JAMMING_WIDTH < right:
        return []
    for ax in axes:
        ax.axvline(1 / JAMMING_WIDTH, **_JAMMING)
    return [Line2D([], [], label=r"jamming line $1/\sigma_W=\sqrt{2}$", **_JAMMING)]


def _level_temperature(axes: Sequence[Axes], at: xr.Dataset) -> list[Line2D]:
    """Where the levels blow up, with intervals; triangles at the border point to values beyond the grid.

    A bar that has no end in the grid reaches to its border.
    """
    x, value = _plane(at)[0], at.level_temperature.values
    inside = np.isfinite(value)
    ends = np.stack([at.level_temperature_low.values, at.level_temperature_high.values])[:, inside]
    ends = np.where(np.isnan(ends), value[inside], ends)
    for ax in axes:
        limits, border = ax.get_ylim(), ax.get_xaxis_transform()
        bars = np.abs(np.clip(ends, *limits) - value[inside])
        ax.errorbar(x[inside], value[inside], bars, elinewidth=1.0, capsize=2, zorder=5, **_POINTS)
        for where, look, height in ((value == np.inf, _ABOVE, 0.975), (np.isnan(value), _BELOW, 0.025)):
            ax.add_line(Line2D(x[where], np.full(where.sum(), height), transform=border, **look))
        ax.set_ylim(limits)
    handles = [Line2D([], [], label="levels blow up", **_POINTS)]
    return handles if inside.all() else [*handles, Line2D([], [], label="the same, beyond the grid", **_ABOVE)]


def _sizes(ds: xr.Dataset, batch_size: int) -> str:
    """How large the run was, in words."""
    run = experiment(ds)
    widths, seeds, epochs = run["widths"], ds.sizes["seed"], run["steps"] / run["batches"]
    return (
        f"{seeds} seed{'s' * (seeds > 1)} a point; {epochs:g} epoch{'s' * (epochs != 1)} of {run['batches']} fixed "
        f"mini-batches, |B|\u00a0=\u00a0{batch_size}; {run['activation']} network {'–'.join(map(str, widths))}, "
        f"W\u00a0({widths[-2]}\u00a0×\u00a0{widths[-3]}) trained."
    )


def _finish(figure: Figure, ds: xr.Dataset, batch_size: int, handles: Sequence[Artist], note: str) -> None:
    plots.figure_legend(figure, handles)
    plots.caption(figure, f"{_sizes(ds, batch_size)} {note}")
