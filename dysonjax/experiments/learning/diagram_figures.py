"""The figures of a network's phase diagram: phases, P(learns), the metric at the end, levels at three marked points.

The learning rate stands against a second axis: the first with several values among batch size, initial width and the
optimiser's numbers. Other axes are held where the best median is.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator

from dysonjax.experiments import plotting as plots
from dysonjax.experiments.learning.boundaries import SAFE
from dysonjax.experiments.learning.diagram_summary import SEED, Summary, told, trained_by
from dysonjax.experiments.learning.diagram_tables import FORMS
from dysonjax.experiments.learning.phases import (
    BLOWN_UP,
    DIVERGED,
    FROZEN,
    LEARNS,
    PHASES,
    SLOW,
    STUCK,
    level_variables,
)

COLOURS = {LEARNS: "#f6eec3", SLOW: "#d3d98c", FROZEN: "#9cc0e6", STUCK: "#b48ead", BLOWN_UP: "#a63d2f"}
"""Lightness falls from one to the next, also in grey; what diverged is hatched."""
LETTERS = {LEARNS: "L", SLOW: "Sl", FROZEN: "F", STUCK: "St", BLOWN_UP: "B", DIVERGED: "D"}
MOST_LINES, MOST_MATRICES, MOST_PANELS = 8, 3, 4
MARKERS, DASHES = "os^vDPX*", ("-", "--", "-.", ":")
LINE = {"linewidth": 1.1, "markersize": 4.5, "capsize": 2, "elinewidth": 0.7, "markeredgecolor": "black"}


class Marked(NamedTuple):
    """A point whose levels are shown: its letter, its phase, its place along the axes, and one of its seeds."""

    letter: str
    phase: int
    at: dict[str, int]
    seed: int


def draw(found: Summary, directory: Path) -> list[Path]:
    """Write every figure as PNG; returns their paths."""
    figures = {"phase_map": phase_map, "probability": probability, "final_metric": final_metric}
    if level_variables(found.ds):
        figures["level_flow"] = level_flow
    if any(str(name).startswith("criterion_") for name in found.points):
        figures["criterion"] = criterion
    return [plots.save(figure(found), directory / f"{name}.png") for name, figure in figures.items()]


@plots.style()
def phase_map(found: Summary) -> Figure:
    """The commonest phase at every learning rate and value of the second axis, with its share where it is not 1."""
    points, second = _plane(found)
    rows, columns = points.common.shape
    figure, panels = plots.new_figure(1, 1, (max(4.6, 1.6 + 0.52 * columns), 2.1 + 0.5 * rows))
    ax: Axes = panels[0, 0]
    common = points.common.values
    for (i, j), phase in np.ndenumerate(common):
        look: dict[str, Any] = {"facecolor": COLOURS.get(int(phase), "white"), "edgecolor": "white", "linewidth": 0.5}
        if phase == DIVERGED:
            look |= {"hatch": "/////", "edgecolor": "0.6"}
        ax.add_patch(Rectangle((j, i), 1, 1, **look))
        share = float(points.share.isel(phase=int(phase)).values[i, j])
        text = LETTERS[int(phase)] + (f"\n{100 * share:.0f} %" if share < 1 else "")
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.2} if phase == DIVERGED else None
        ink = {"color": "white" if phase == BLOWN_UP else "black", "bbox": box}
        ax.text(j + 0.5, i + 0.48, text, ha="center", va="center", fontsize=7.5, linespacing=1.05, **ink)
    for mark in marked(found):
        i, j = (mark.at[name] for name in (second or "", "learning_rate")) if second else (0, mark.at["learning_rate"])
        ax.text(j + 0.16, i + 0.8, mark.letter, fontsize=8, fontweight="bold", ha="center", va="center", **plots.HALO)
    ax.set(xlim=(0, columns), ylim=(0, rows), xlabel="learning rate")
    _category(ax, "x", points.learning_rate.values)
    _category(ax, "y", points[second].values if second else np.array([0.0]))
    ax.set_ylabel(_words(second)) if second else ax.set_yticks([])
    present = sorted({*map(int, common.ravel())})
    handles = [
        Patch(
            facecolor=COLOURS.get(p, "white"), edgecolor="0.45", hatch="/////" if p == DIVERGED else None,
            linewidth=0.6, label=f"{LETTERS[p]}: {PHASES[p]}",
        )
        for p in present
    ]  # fmt: skip
    plots.figure_legend(figure, handles)
    marks = " Bold a, b, c: the points of level_flow." if marked(found) and level_variables(found.ds) else ""
    plots.caption(
        figure,
        f"{_run(found)} Learns: at least half of the seeds; else the commonest other phase. Its share, if "
        f"not all.{marks}",
    )
    return figure


@plots.style()
def probability(found: Summary) -> Figure:
    """The share of networks that learn against the learning rate, with Wilson's intervals."""
    points, second = _plane(found)
    figure, panels = plots.new_figure(1, 1, (6.4, 3.8))
    ax: Axes = panels[0, 0]
    for look, at, x in _lines(points, second):
        bars = np.maximum([at.learns.values - at.low.values, at.high.values - at.learns.values], 0)
        ax.errorbar(x, at.learns.values, bars, **LINE, **look)
    ax.axhline(SAFE, color="0.4", linestyle=(0, (1, 2)), linewidth=1)
    ax.text(1.01, SAFE, f"{SAFE:g}", transform=ax.get_yaxis_transform(), va="center", fontsize=7.5, color="0.25")
    ax.set(ylim=(-0.05, 1.05), ylabel="probability of learning")
    _rates(ax, points)
    _legend(figure, ax, second)
    note = "Bars: 95 % intervals of Wilson; lines stand side by side."
    plots.caption(figure, f"{_run(found)} To learn: {_words(found.metric)} reaches {found.target:.3g}. {note}")
    return figure


@plots.style()
def final_metric(found: Summary) -> Figure:
    """The metric at the end against the learning rate: medians and 16 to 84 % of the seeds that stayed finite."""
    points, second = _plane(found)
    figure, panels = plots.new_figure(1, 1, (6.4, 3.8))
    ax: Axes = panels[0, 0]
    values = points.end.values[np.isfinite(points.end.values)]
    wide = values.size > 0 and values.min() > 0 and values.max() > 5 * values.min() and not found.larger
    ax.set_yscale("log" if wide else "linear")
    if wide:
        ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        ax.yaxis.set_minor_formatter(
            FuncFormatter(_two_and_five if values.max() < 300 * values.min() else lambda *_: "")
        )
    lost = False
    for look, at, x in _lines(points, second):
        low, middle, high = (at.end.sel(quantile=q).values for q in (0.16, 0.5, 0.84))
        gone = at.share.sel(phase="diverged").values > 0.5
        ax.errorbar(x, np.where(gone, np.nan, middle), np.maximum([middle - low, high - middle], 0), **LINE, **look)
        top = {"transform": ax.get_xaxis_transform(), "linestyle": "none", "marker": "x", "color": look["color"]}
        ax.plot(x[gone], np.full(gone.sum(), 0.97), **top)
        lost |= bool(gone.any())
    target = [Line2D([], [], color="0.4", linestyle=(0, (1, 2)), linewidth=1, label="target")]
    if np.isfinite(found.target):
        ax.axhline(found.target, color="0.4", linestyle=(0, (1, 2)), linewidth=1)
    ax.set_ylabel(f"median {_words(found.metric)} at the end")
    _rates(ax, points)
    cross = [Line2D([], [], color="black", marker="x", linestyle="none", label="most diverged")] * lost
    _legend(figure, ax, second, [*target * bool(np.isfinite(found.target)), *cross])
    plots.caption(figure, f"{_run(found)} Bars: 16 to 84 % of the seeds that stayed finite; lines stand side by side.")
    return figure


@plots.style()
def level_flow(found: Summary) -> Figure:
    """Levels of the watched matrices that moved most, of one network at each marked point."""
    marks, names = marked(found), _moved(found)
    figure, panels = plots.new_figure(len(names), len(marks), (1 + 2.9 * len(marks), 0.9 + 2.3 * len(names)))
    ds, steps = found.ds, found.ds.step.values
    for column, mark in enumerate(marks):
        one = ds.isel({**mark.at, SEED: mark.seed})
        halted = int(one.diverged_step)
        for ax, name in zip(panels[:, column], names, strict=True):
            levels = one[name].transpose("snapshot", ...).values
            plots.level_flow(ax, steps, levels, halted if halted >= 0 else None)
            if ax is not panels[-1, column]:
                ax.set_xlabel("")
        title = ", ".join(
            f"{_words(n)} {float(ds[n][mark.at[n]]):g}" for n in dict.fromkeys(["learning_rate", *found.varied][:3])
        )
        panels[0, column].set_title(f"{mark.letter}: {PHASES[mark.phase]}\n{title}", fontsize=8.5)
    for ax, name in zip(panels[:, 0], names, strict=True):
        tail = name.removeprefix("levels").removeprefix("_")
        ax.set_ylabel("levels" + (f" of\n{tail}" if tail else r": eigenvalues of $W\,W^\top$"))
    handles = [Line2D([], [], color="black", linestyle="dotted", label="diverged, held from here")]
    plots.figure_legend(figure, handles if any(mark.phase == DIVERGED for mark in marks) else [])
    more = len(level_variables(ds)) - len(names)
    left = f" The {len(names)} matrices whose levels moved most, of {len(names) + more}." if more else ""
    plots.caption(figure, f"{_run(found)} One network a panel; darkest line: largest level.{left}")
    return figure


@plots.style()
def criterion(found: Summary) -> Figure:
    """What learns, beside what the Langevin criterion calls learnable for every matrix, at each second value."""
    points, second = _plane(found)
    count = points.sizes[second] if second else 1
    picked = np.unique(np.linspace(0, count - 1, min(count, MOST_PANELS)).round().astype(int))
    figure, panels = plots.new_figure(1, len(picked), (1.2 + 2.7 * len(picked), 3.9), sharey=True)
    names = [str(name) for name in points if str(name).startswith("criterion_")]
    tails = list(dict.fromkeys(name.split("_", 2)[2] if name.count("_") > 1 else "" for name in names))
    greys = matplotlib.colormaps[plots.SEQUENTIAL](np.linspace(0.1, 0.85, len(tails)))
    for ax, place in zip(panels[0], picked, strict=True):
        at = points.isel({second: place}) if second else points.isel({_ROW: 0})
        x = at.learning_rate.values
        ax.plot(x, at.learns.values, color="black", linewidth=2.4, label="networks that learn")
        for tail, colour, marker in zip(tails, greys, MARKERS * len(tails), strict=False):
            for form, dash in zip(FORMS, ("--", ":"), strict=True):
                name = f"criterion_{form}" + (f"_{tail}" if tail else "")
                label = FORMS[form] + (f", {tail}" if tail else "")
                ax.plot(x, at[name].values, color=colour, linestyle=dash, marker=marker, markersize=3.5, label=label)
        ax.set(ylim=(-0.05, 1.05))
        _rates(ax, points)
        ax.xaxis.set_major_locator(LogLocator(numticks=4))
        ax.set_title(f"{_words(second)} {float(at[second]):g}" if second else "")
    panels[0, 0].set_ylabel("share of networks")
    figure.legend(handles=panels[0, 0].get_legend_handles_labels()[0], loc="outside right upper")
    form = "Kₜ Δ₀ ≥ T Vₜ with the mean gap Δ₀ of the initial levels and T = α/|B|"
    plots.caption(figure, f"{_run(found)} Langevin criterion at the end, for each matrix: {form}.")
    return figure


def marked(found: Summary) -> list[Marked]:
    """A frozen (else slow or stuck) point, one that learns, and a blown-up (else diverged) one, by learning rate."""
    points, second = _plane(found)
    held, chosen = found.best(), []
    for phases in ((FROZEN, SLOW, STUCK), (LEARNS,), (BLOWN_UP, DIVERGED)):
        for phase in phases:
            share = points.share.isel(phase=phase).values
            places = np.argwhere((share == share.max()) & (points.common.values == phase))
            if len(places):
                row, column = places[len(places) // 2] if phase != LEARNS else _nearest(places, points, found)
                at = {**held, "learning_rate": int(column), **({second: int(row)} if second else {})}
                chosen.append((at, phase))
                break
    chosen.sort(key=lambda one: float(found.points.learning_rate[one[0]["learning_rate"]]))
    result = []
    for letter, (at, phase) in zip("abc", chosen, strict=False):
        seeds = np.flatnonzero(found.replicas.phase.isel(at).values == phase)
        result.append(Marked(letter, phase, at, int(seeds[0])))
    return result


_ROW = "row"


def _nearest(places: np.ndarray, points: xr.Dataset, found: Summary) -> np.ndarray:
    """Of the places, the one with the best median."""
    middle = points.end.sel(quantile=0.5).values[tuple(places.T)]
    return places[int(np.argmax(middle) if found.larger else np.argmin(middle))]


def _plane(found: Summary) -> tuple[xr.Dataset, str | None]:
    """The points [second axis, learning rate] in the order of the grid, other axes at the best point."""
    others = [name for name in found.varied if name != "learning_rate"]
    second, best = (others[0] if others else None), found.best()
    points = found.points.isel({n: place for n, place in best.items() if n not in ("learning_rate", second)})
    if second is None:
        points = points.expand_dims(_ROW)
    return points.transpose(second or _ROW, "learning_rate", ...), second


def _lines(points: xr.Dataset, second: str | None) -> Sequence[tuple[dict[str, Any], xr.Dataset, np.ndarray]]:
    """Look, points by rising learning rate and places on the axis of each line."""
    axis = second or _ROW
    count = points.sizes[axis]
    picked = np.unique(np.linspace(0, count - 1, min(count, MOST_LINES)).round().astype(int))
    colours = matplotlib.colormaps[plots.SEQUENTIAL](np.linspace(0, 0.85, len(picked)))
    found = []
    for index, place in enumerate(picked):
        at = points.isel({axis: place}).sortby("learning_rate")
        look = {"color": colours[index], "marker": MARKERS[index], "linestyle": DASHES[index % len(DASHES)]}
        look["label"] = f"{float(at[second]):g}" if second else None
        rates = at.learning_rate.values
        step = np.log(rates[-1] / rates[0]) / max(len(rates) - 1, 1) if len(rates) > 1 else 0.0
        shift = 0.35 * step * ((index + 0.5) / len(picked) - 0.5)
        found.append((look, at, rates * np.exp(shift)))
    return found


def _moved(found: Summary) -> list[str]:
    """The matrices whose largest level moved most, as a factor, in the order in which they are recorded."""
    alive = found.ds.diverged_step == -1
    factors = {}
    for name in level_variables(found.ds):
        ends = found.ds[name].isel(snapshot=[0, -1])
        largest = ends.max([d for d in ends.dims if d not in (*alive.dims, "snapshot")]).where(alive)
        first, last = np.asarray(largest.transpose("snapshot", ...).values, float)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.abs(np.log(last / first))
        factors[name] = float(np.mean(ratio[np.isfinite(ratio)])) if np.isfinite(ratio).any() else 0.0
    most = sorted(factors, key=lambda name: -factors[name])[:MOST_MATRICES]
    return [name for name in factors if name in most]


def _rates(ax: Axes, points: xr.Dataset) -> None:
    ax.set(xscale="log", xlabel="learning rate")
    plots.log_ticks(ax, "x", points.learning_rate.values)
    ax.grid(alpha=0.25, linewidth=0.5)


def _two_and_five(value: float, _: Any) -> str:
    """Labels of 2 and 5 times a power of ten, where few powers are in sight."""
    return f"{value:g}" if round(value / 10 ** np.floor(np.log10(value) + 1e-9)) in (2, 5) else ""


def _category(ax: Axes, which: str, values: np.ndarray) -> None:
    """Cells in the order of the grid, whatever its values are."""
    step = -(-len(values) // 16)
    ticks = {f"{which}ticks": np.arange(len(values))[::step] + 0.5}
    ax.set(**ticks, **{f"{which}ticklabels": [f"{v:.3g}" for v in values[::step]]})
    ax.tick_params(length=2)


def _legend(figure: Figure, ax: Axes, second: str | None, more: Sequence[Any] = ()) -> None:
    handles = [*(ax.get_legend_handles_labels()[0] if second else []), *more]
    if handles:
        figure.legend(handles=handles, loc="outside right upper", title=_words(second) if second else None)


def _run(found: Summary) -> str:
    """What was run, in one sentence, with the values of the axes that are held."""
    run, best = told(found.ds), found.best()
    shown = ("learning_rate", *[name for name in found.varied if name != "learning_rate"][:1])
    usual = ["init_width"] if found.points.init_width.values.tolist() == [1.0] else []
    held = [name for name in found.axes if name not in (*shown, *usual)]
    rest = "".join(f", {_words(name)} {float(found.points[name][best[name]]):g}" for name in held)
    seeds = found.ds.sizes[SEED]
    return (
        f"{run.get('model', 'Network')}, {trained_by(run)}, {run['steps']} updates, "
        f"{seeds} seed{'s' * (seeds > 1)} a point{rest}."
    )


def _words(name: str) -> str:
    return name.replace("_", " ")
