"""Pieces that the papers' figures are made of: one style, maps on logarithmic grids, level flows, saving. No pyplot.

Figures need no screen and may be drawn in threads; nothing here keeps a figure alive or leaves a setting behind.
"""

import textwrap
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Colormap, LogNorm, Normalize, SymLogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator, ScalarFormatter
from numpy.typing import ArrayLike, NDArray

STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9.5,
    "axes.linewidth": 0.7,
    "xtick.direction": "out",
    "ytick.direction": "out",
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": 1.0,
    "hatch.linewidth": 0.6,
    "savefig.dpi": 160,
    "figure.dpi": 100,
}
HALO: Mapping[str, Any] = {"path_effects": (withStroke(linewidth=3.0, foreground="white"),)}
"""A white rim that keeps a dark line or letter readable on any colour, as a keyword argument of either."""
SEQUENTIAL = "viridis"
"""Colour map for magnitudes: its lightness rises steadily, so that grey prints read the same."""

_style_in_use = threading.RLock()


@contextmanager
def style() -> Iterator[None]:
    """The figures' settings, as a context or a decorator, one thread at a time; afterwards matplotlib's own again."""
    with _style_in_use, matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        yield


def new_figure(
    rows: int, columns: int, size: tuple[float, float], sharey: bool = False
) -> tuple[Figure, NDArray[np.object_]]:
    """A figure of `size` inches that lays itself out, and its axes [rows, columns]."""
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06, wspace=0.03, hspace=0.03)  # type: ignore[union-attr]
    return figure, figure.subplots(rows, columns, squeeze=False, sharey=sharey)


def caption(figure: Figure, text: str) -> None:
    """Write a small caption under the figure, broken into lines that fit its width."""
    lines = textwrap.wrap(text, int(figure.get_figwidth() * 16.5))
    figure.supxlabel("\n".join(lines), fontsize=7.5, color="0.25", x=0.01, ha="left", linespacing=1.35)


def save(figure: Figure, path: Path) -> Path:
    """Write the figure to `path` as PNG, making its directory; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with style():
        figure.savefig(path, format="png")
    return path


def log_edges(values: ArrayLike) -> NDArray[np.float64]:
    """Edges [n + 1] of cells around positive, increasing values [n]: geometric means; outer cells are symmetric."""
    logs = np.log(np.asarray(values, float))
    steps = np.diff(logs) if len(logs) > 1 else np.array([np.log(2.0)])
    middle = logs[:-1] + np.diff(logs) / 2
    return np.exp(np.concatenate([[logs[0] - steps[0] / 2], middle, [logs[-1] + steps[-1] / 2]]))


def grid_map(
    ax: Axes, x: ArrayLike, y: ArrayLike, values: ArrayLike, *, norm: Normalize, cmap: str | Colormap = SEQUENTIAL
) -> QuadMesh:
    """Draw values [y, x] as cells centred on x and y, in any order, on logarithmic axes.

    What is not finite stays hatched (see `hatching`); below the range of a logarithmic norm, zero included, the lowest
    colour stands.
    """
    x, y, values = _in_order(x, y, values)
    shown = np.maximum(values, norm.vmin) if isinstance(norm, LogNorm) else values  # type: ignore[type-var]
    ax.patch.set(facecolor="white", edgecolor="0.45", hatch="/////", linewidth=0)
    ax.set(xscale="log", yscale="log")
    mesh = ax.pcolormesh(log_edges(x), log_edges(y), np.ma.masked_invalid(shown), norm=norm, cmap=cmap)  # type: ignore[arg-type]
    log_ticks(ax, "x", x)
    log_ticks(ax, "y", y)
    return mesh


def hatching(meshes: Sequence[QuadMesh], label: str) -> list[Patch]:
    """The legend's entry for hatched cells, if any of the maps has some."""
    if not any(np.ma.is_masked(mesh.get_array()) for mesh in meshes):
        return []
    return [Patch(facecolor="white", edgecolor="0.45", hatch="/////", linewidth=0.6, label=label)]


def log_norm(values: ArrayLike) -> LogNorm:
    """Logarithmic colours over the positive finite values; a single value gets a range around it."""
    v = np.asarray(values, float)
    good = v[np.isfinite(v) & (v > 0)]
    low, high = (good.min(), good.max()) if good.size else (0.1, 1.0)
    return LogNorm(low, high) if high > 1.01 * low else LogNorm(low / 2, high * 2)


def linear_norm(values: ArrayLike) -> Normalize:
    """Linear colours over the finite values; a single value gets a range around it."""
    v = np.asarray(values, float)
    good = v[np.isfinite(v)]
    low, high = (good.min(), good.max()) if good.size else (0.0, 1.0)
    margin = 0.0 if high - low > 1e-6 * max(abs(low), abs(high)) else max(0.1 * abs(low), 1e-3)
    return Normalize(low - margin, high + margin)


def centred_norm(values: ArrayLike) -> SymLogNorm:
    """Colours centred at 0: linear up to a hundredth of the largest magnitude, logarithmic beyond."""
    v = np.abs(np.asarray(values, float))
    largest = max(v[np.isfinite(v)], default=0.0) or 1.0
    decade = 10.0 ** np.floor(np.log10(largest / 100) + 1e-9)
    return SymLogNorm(linthresh=decade, vmin=-largest, vmax=largest)


def colour_bar(mesh: QuadMesh, label: str) -> Colorbar:
    """A labelled colour bar above the map, where no neighbour can be taken to be meant."""
    ax: Axes = mesh.axes  # type: ignore[assignment]
    bar = ax.figure.colorbar(mesh, ax=ax, location="top", pad=0.02, aspect=28, label=label)
    if type(mesh.norm) is Normalize:
        bar.formatter = ScalarFormatter(useMathText=True)
        bar.formatter.set_powerlimits((-2, 4))
    return bar


def log_ticks(ax: Axes, which: str, values: ArrayLike) -> None:
    """Plain labels on a logarithmic axis: decades, or at most six of the values where these span under two decades."""
    axis = ax.xaxis if which == "x" else ax.yaxis
    centres = np.sort(np.asarray(values, float))
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.4g}"))
    axis.set_minor_formatter(NullFormatter())
    if centres[-1] >= 100 * centres[0]:
        axis.set_major_locator(LogLocator(numticks=8))
        axis.set_minor_locator(LogLocator(subs=range(2, 10), numticks=100))  # type: ignore[arg-type]
    else:
        axis.set_major_locator(FixedLocator(centres[:: -(-len(centres) // 6)]))  # type: ignore[arg-type]
        axis.set_minor_locator(NullLocator())


def outline_regions(ax: Axes, x: ArrayLike, y: ArrayLike, labels: ArrayLike) -> LineCollection:
    """Thin lines between neighbouring cells of a map whose labels [y, x] differ; NaN equals NaN."""
    x, y, labels = _in_order(x, y, labels)
    xs, ys = log_edges(x), log_edges(y)
    labels = np.nan_to_num(labels, nan=-1.0)
    upright = [((xs[j + 1], ys[i]), (xs[j + 1], ys[i + 1])) for i, j in np.argwhere(np.diff(labels, axis=1))]
    level = [((xs[j], ys[i + 1]), (xs[j + 1], ys[i + 1])) for i, j in np.argwhere(np.diff(labels, axis=0))]
    for colour, width in (("white", 2.8), ("black", 1.1)):
        lines = LineCollection(upright + level, colors=colour, linewidths=width, capstyle="projecting")
        ax.add_collection(lines, autolim=False)
    return lines


def log_contour(ax: Axes, x: ArrayLike, y: ArrayLike, values: ArrayLike, level: float, line: Mapping[str, Any]) -> bool:
    """Draw the contour of values [y, x] at one level, interpolated in log x and log y; whether there is one.

    It goes on to the border of the map, where the values of the outer cells hold. `line`: its look, as for a `Line2D`.
    """
    x, y, values = _in_order(x, y, values)
    if not values.min() < level <= values.max():
        return False
    (fine_x, across), (fine_y, along) = _refined(x), _refined(y)
    look = {"linestyles": [line.get("linestyle", "solid")], "linewidths": line["linewidth"]}
    contour = ax.contour(fine_x, fine_y, along @ values @ across.T, [level], colors=line["color"], **look)
    contour.set_path_effects(line.get("path_effects", ()))
    return True


def deepest_cell(region: NDArray[np.bool_]) -> tuple[int, int]:
    """The cell of a region [y, x] farthest from its border (the map's own included); of several, the most central."""
    from scipy.ndimage import distance_transform_edt

    depth: NDArray = distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]  # type: ignore[index]
    cells = np.argwhere(region)
    eccentricity = np.linalg.norm(cells - cells.mean(axis=0), axis=1)
    i, j = cells[np.lexsort((eccentricity, -np.round(depth[region], 6)))[0]]
    return int(i), int(j)


def level_flow(ax: Axes, steps: ArrayLike, levels: ArrayLike, held_from: int | None = None) -> list[Line2D]:
    """Draw levels [T, n] against update numbers [T], both logarithmic: one line a level, largest first, returned.

    Update 0 stands left of a break in the axis. Levels that are not finite and positive are left out. A dotted line
    marks the update `held_from` at which a diverged replica was halted.
    """
    steps, levels = np.asarray(steps, float), np.sort(np.asarray(levels, float), axis=1)[:, ::-1]
    shown = np.where(np.isfinite(levels) & (levels > 0), levels, np.nan)
    first, last = steps[steps > 0].min(), steps.max()
    stretch = max(last / first, 10.0) ** 0.14
    colours = matplotlib.colormaps[SEQUENTIAL](np.linspace(0, 0.75, shown.shape[1]))
    ax.set(xscale="log", yscale="log", xlim=(first / stretch**1.3, last * stretch**0.3), xlabel="updates")
    at = np.where(steps > 0, steps, first / stretch)
    lines = [ax.plot(at, v, color=c, marker=".", markersize=3)[0] for v, c in zip(shown.T, colours, strict=True)]
    if held_from is not None:
        ax.axvline(max(held_from, first / stretch**0.5), color="black", linestyle="dotted")
    if (steps == 0).any():
        _break_axis(ax, first, stretch)
    return lines


def lines_with_bars(
    ax: Axes, x: ArrayLike, values: ArrayLike, looks: Sequence[Mapping[str, Any]], spread: float = 0.0
) -> bool:
    """Draw lines against x [n] on log–log axes from values [line, 3, n]: lower end of the bar, middle, upper end.

    Lines stand side by side within a factor e^`spread`. Zeros are drawn at a third of the smallest positive value, bars
    to infinity up to thrice the largest; a cross at the top stands for a middle that is not finite. Returns whether
    there is such a cross.
    """
    x, values = np.asarray(x, float), np.asarray(values, float)
    good = values[np.isfinite(values) & (values > 0)]
    low, high = (good.min() / 3, good.max() * 3) if good.size else (0.1, 1.0)
    lost = ~np.isfinite(values[:, 1])
    ax.set(xscale="log", yscale="log")
    if high < 100 * low:
        ax.set_ylim(low, high)
    for index, look in enumerate(looks):
        at = x * np.exp(spread * ((index + 0.5) / len(looks) - 0.5))
        below, middle, above = np.where(lost[index], np.nan, np.clip(values[index], low, high))
        bars = (middle - below, above - middle)
        thin = {
            "elinewidth": 0.6,
            "linewidth": 0.8,
            "markersize": 4,
            "markeredgecolor": "black",
            "markeredgewidth": 0.3,
        }
        ax.errorbar(at, middle, bars, **thin | dict(look))  # type: ignore[arg-type]
        cross = {"color": look.get("color"), "marker": "x", "linestyle": "none", "transform": ax.get_xaxis_transform()}
        ax.plot(at[lost[index]], np.full(lost[index].sum(), 0.985), **cross)  # type: ignore[arg-type]
    return bool(lost.any())


def figure_legend(figure: Figure, handles: Sequence[Artist]) -> None:
    """A legend above the panels; none when there is nothing to explain."""
    if handles:
        columns = max(1, int(figure.get_figwidth() / 2.6))
        figure.legend(handles=list(handles), loc="outside upper center", ncols=columns, handlelength=2.6)


def _break_axis(ax: Axes, first: float, stretch: float) -> None:
    end = ax.get_xlim()[1]
    decades = [d for d in 10.0 ** np.arange(-1, 16) if first <= d <= end] or [first]
    minor = [m * d for d in 10.0 ** np.arange(-1, 16) for m in range(2, 10) if first <= m * d <= end]
    ax.xaxis.set_major_locator(FixedLocator([first / stretch, *decades]))
    ax.xaxis.set_minor_locator(FixedLocator(minor))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: "0" if v < first else _power(v)))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.text(first / stretch**0.5, 0, "//", transform=ax.get_xaxis_transform(), ha="center", va="center")


def _power(value: float) -> str:
    exponent = int(np.floor(np.log10(value) + 1e-9))
    return f"$10^{{{exponent}}}$" if np.isclose(value, 10.0**exponent) and exponent > 1 else f"{value:g}"


def _in_order(x: ArrayLike, y: ArrayLike, values: ArrayLike) -> tuple[NDArray, NDArray, NDArray]:
    """x, y increasing, and values [y, x] with them."""
    x, y, values = (np.asarray(a, float) for a in (x, y, values))
    return np.sort(x), np.sort(y), values[np.argsort(y)][:, np.argsort(x)]


def _refined(values: NDArray, times: int = 8) -> tuple[NDArray, NDArray]:
    """A finer axis over the cells of values [n], and the matrix [fine, n] that interpolates onto it in logarithms."""
    edges, count = log_edges(values), len(values)
    ends = np.log(np.concatenate([edges[:1], values, edges[-1:]]))
    fine = np.interp(np.linspace(0, count + 1, (count + 1) * times + 1), np.arange(count + 2), ends)
    return np.exp(fine), np.stack([np.interp(fine, ends[1:-1], unit) for unit in np.eye(count)], axis=1)
