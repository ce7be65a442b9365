"""Table and figures of the BBP transition: overlaps, largest level, spectra and diagram, each beside its law."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from dysonjax import laws, spectra
from dysonjax.core.tables import Table
from dysonjax.experiments import plotting as plots
from dysonjax.experiments.bbp.analysis import CLEAR, OUTSIDE, Curve, Transition, critical, curves, deviations
from dysonjax.experiments.bbp.experiment import BBPRun

MARKERS = ("o", "s", "^", "D")
SHOWN = 4
"""Numbers of steps in one figure at most."""
RATE_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)
"""Learning rates that a logarithmic axis names."""
_BARS = {"linestyle": "none", "markersize": 3.4, "elinewidth": 0.8, "capsize": 1.5}
_EDGE = {"color": "0.5", "linewidth": 1.2, "linestyle": (0, (4, 2))}
_CRITICAL = {"color": "black", "linewidth": 0.9, "linestyle": "dotted"}
_LAW = {"color": "#b3543f", "linewidth": 1.6}
_DATA = {"color": "black", "marker": "o", **_BARS}


def bbp_table(run: BBPRun, ds: xr.Dataset) -> Table:
    """One row a width and t: ε_c measured and predicted, and the worst deviations from the laws."""
    title = (
        f"W [{run.rows}, {run.columns}], r = {run.ratio:g}, {run.seeds} seeds; deviations from the laws of n → ∞ where "
        f"c ≥ {CLEAR:g} √r, the worst in standard errors"
    )
    table = Table(title=title, title_justify="left")
    for column in ("σ_W", "t", "ε_c measured", "between", "ε_c law", "outlier in ½", "level", "left q²", "right q²"):
        table.add_column(column, justify="right")
    for found, curve in zip(critical(ds), curves(ds), strict=True):
        off = deviations(run, curve)
        low, high = found.bracket
        table.add_row(
            f"{found.init_width:g}", str(found.steps), str(found.measured), f"{low:.3f} … {high:.3f}",
            f"{found.law:.4f}", str(found.visible), *(_worst(off[name]) for name in ("top", "left", "right")),
        )  # fmt: skip
    return table


def draw(run: BBPRun, ds: xr.Dataset, directory: Path) -> list[Path]:
    """Write every figure as PNG into `directory`; returns their paths."""
    found, transitions = curves(ds), critical(ds)
    made = {
        "overlap": overlap(run, found),
        "largest_level": largest_level(run, found),
        "spectra": spectra_at_transition(run, ds),
        "diagram": diagram(run, found, transitions),
    }
    return [plots.save(figure, directory / f"{name}.png") for name, figure in made.items()]


@plots.style()
def overlap(run: BBPRun, found: list[Curve]) -> Figure:
    """Squared overlaps of the first singular vectors with the teacher's against ε, their laws, and ε_c."""
    figure, axes = plots.new_figure(1, 2, (9.2, 4.2), sharey=True)
    shown = _shown(run, found)
    fine = _fine(run)
    for c, (colour, marker) in zip(shown, _looks(len(shown)), strict=True):
        left = np.asarray(run.law(c.init_width, c.steps, fine).overlap)
        lines = (left, run.right_overlap(c.init_width, c.steps, fine))
        for ax, measured, law in zip(axes[0], (c.left, c.right), lines, strict=True):
            look = {**_BARS, "color": colour, "marker": marker, "label": f"$t$ = {c.steps}"}
            ax.errorbar(c.learning_rate, measured.value, measured.error, **look)
            ax.plot(fine, law, color=colour)
            ax.axvline(float(run.critical_learning_rate(c.init_width, c.steps)), **{**_CRITICAL, "color": colour})
    titles = (r"left (outputs): $(1-r/c^2)/(1+r/c)$", r"right (inputs): $(1-r/c^2)/(1+1/c)$")
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set(xlabel=r"learning rate $\varepsilon$", xlim=(0, 1), ylim=(-0.03, 1.05), title=title)
    axes[0, 0].set_ylabel("squared overlap with the teacher")
    handles = [
        *axes[0, 0].get_legend_handles_labels()[0],
        Line2D([], [], color="0.3", label=r"law, $n\to\infty$"),
        Line2D([], [], **_CRITICAL, label=r"$\varepsilon_c(t)$"),
    ]
    _legend(figure, handles)
    _note(figure, run, f"$\\sigma_W$ = {shown[0].init_width:g}. Bars: standard errors over seeds.")
    return figure


@plots.style()
def largest_level(run: BBPRun, found: list[Curve]) -> Figure:
    """Largest level of W Wᵀ against ε with the outlier's law and the bulk's edge, one panel a number of steps."""
    shown = _some(_shown(run, found))
    figure, axes = plots.new_figure(1, len(shown), (3.2 * len(shown) + 0.6, 3.9), sharey=True)
    fine = _fine(run)
    for ax, c in zip(axes[0], shown, strict=True):
        law = run.law(c.init_width, c.steps, fine)
        ax.errorbar(c.learning_rate, c.top.value, c.top.error, **_DATA, label="largest level, mean over seeds")
        at = float(run.critical_learning_rate(c.init_width, c.steps))
        above = np.where(fine >= at, np.asarray(law.outlier), np.nan)
        ax.plot(fine, np.asarray(law.bulk_edge), **_EDGE, label=r"edge of the bulk, $s^2(1+\sqrt{r})^2$")
        ax.plot(fine, above, **_LAW, label=r"outlier, $(B+rs^2)(B+s^2)/B$")
        ax.axvline(at, **_CRITICAL, label=r"$\varepsilon_c(t)$")
        ax.set(xlabel=r"learning rate $\varepsilon$", xlim=(0, 1), ylim=(0, None))
        ax.set_title(rf"$t$ = {c.steps}, $\varepsilon_c$ = {at:.3f}")
    axes[0, 0].set_ylabel(r"largest level of $WW^{\mathsf{T}}$")
    _legend(figure, axes[0, 0].get_legend_handles_labels()[0])
    _note(figure, run, f"$\\sigma_W$ = {shown[0].init_width:g}. Bars (mostly within the symbols): standard errors.")
    return figure


@plots.style()
def spectra_at_transition(run: BBPRun, ds: xr.Dataset) -> Figure:
    """Density of the levels below and above ε_c after the first number of steps, with the noise's law and outliers."""
    width, t = run.init_width[0], run.steps[0]
    at = ds.sel(init_width=width).isel(snapshot=1).transpose("learning_rate", "seed", ...)
    rates = at.learning_rate.values
    middle = float(run.critical_learning_rate(width, t))
    figure, axes = plots.new_figure(1, 2, (9.2, 3.9))
    for ax, wanted in zip(axes[0], (0.7 * middle, middle + 0.4 * (1 - middle)), strict=True):
        i = int(np.argmin(np.abs(rates - wanted)))
        _spectrum(ax, run, at.levels.values[i].astype(float), width, t, float(rates[i]))
    axes[0, 0].set_ylabel(r"density of levels $\rho(x)$")
    handles = {h.get_label(): h for ax in axes[0] for h in ax.get_legend_handles_labels()[0]}
    _legend(figure, list(handles.values()))
    _note(figure, run, f"$\\sigma_W$ = {width:g}, t = {t}. Bars (mostly within the symbols): standard errors.")
    return figure


def _spectrum(ax: Axes, run: BBPRun, x: np.ndarray, width: float, t: int, rate: float) -> None:
    law = run.law(width, t, rate)
    noise = laws.MarchenkoPastur(ratio=run.ratio, variance=float(run.noise(width, t, rate)) ** 2)
    edge, beyond = float(law.bulk_edge), float(law.outlier)
    end = 1.06 * max(x.max(), edge)
    edges = np.linspace(0, edge, 25)
    edges = np.arange(0, end + edges[1], edges[1])
    measured = spectra.density(x, edges)
    centres = (edges[1:] + edges[:-1]) / 2
    seen = measured.value > 0
    ax.errorbar(centres[seen], measured.value[seen], measured.error[seen], **_DATA, label="simulated")
    fine = np.linspace(0, edge, 801)[1:-1]
    density = np.asarray(noise.pdf(fine)) / (1 - float(noise.atom))
    ax.plot(fine, density, **_LAW, label=r"Marchenko–Pastur, variance $s_t^2$")
    top = 1.25 * float(np.max(measured.value + measured.error))
    ticks = {"linestyle": "none", "marker": "|", "markersize": 9, "markeredgewidth": 0.5, "color": "#1f3b73"}
    ax.plot(x[:, 0], np.full(len(x), 0.05 * top), **ticks, label="largest level of each seed")
    if beyond > edge * (1 + 1e-6):
        ax.axvline(beyond, **_CRITICAL, label="outlier's law")
    side = "below" if rate < float(run.critical_learning_rate(width, t)) else "above"
    ax.set(xlabel=r"level $x$ of $WW^{\mathsf{T}}$", xlim=(0, end), ylim=(0, top))
    ax.set_title(rf"$\varepsilon$ = {rate:.3f}, {side} $\varepsilon_c$")


@plots.style()
def diagram(run: BBPRun, found: list[Curve], transitions: list[Transition]) -> Figure:
    """Share of the seeds with an outlier over ε and t, or ε and σ_W if there are several, with ε_c."""
    over_widths = len(run.init_width) > 1
    chosen = [c.steps == run.steps[0] if over_widths else c.init_width == run.init_width[0] for c in found]
    rows = [c for c, yes in zip(found, chosen, strict=True) if yes]
    marks = [m for m, yes in zip(transitions, chosen, strict=True) if yes and np.isfinite(m.measured.value)]
    y = np.array([c.init_width if over_widths else c.steps for c in rows], float)
    values = np.array([c.outside.value for c in rows])
    figure, axes = plots.new_figure(1, 1, (6.6, 4.8))
    ax = axes[0, 0]
    mesh = plots.grid_map(ax, rows[0].learning_rate, y, values, norm=Normalize(0, 1))
    plots.colour_bar(mesh, f"share of seeds with a level that noise exceeds in < {OUTSIDE:.0%} of cases")
    ends = plots.log_edges(np.sort(y))
    line = np.geomspace(ends[0], ends[-1], 200)
    at = (
        [run.critical_learning_rate(w, run.steps[0]) for w in line]
        if over_widths
        else run.critical_learning_rate(run.init_width[0], line)
    )
    limits = ax.get_xlim()
    plain = [v for v in RATE_TICKS if limits[0] <= v <= limits[1]]
    if len(plain) > 1:
        ax.xaxis.set_major_locator(FixedLocator(plain))
    law = ax.plot(at, line, color="black", linewidth=1.5, **plots.HALO)
    ax.set_xlim(limits)
    where = [m.init_width if over_widths else m.steps for m in marks]
    bars = ax.errorbar(
        [m.measured.value for m in marks], where, xerr=[m.measured.error for m in marks], color="black", marker="o",
        markerfacecolor="white", markersize=5, linestyle="none", capsize=2,
    )  # fmt: skip
    ax.set(xlabel=r"learning rate $\varepsilon$", ylabel=r"initial width $\sigma_W$" if over_widths else "steps $t$")
    ax.yaxis.set_major_locator(FixedLocator(y.tolist()))
    ax.yaxis.set_minor_locator(NullLocator())
    law[0].set_label(r"$\varepsilon_c=1-(1+\sigma_W r^{1/4})^{-1/t}$")
    bars.set_label(r"$\varepsilon_c$ measured")
    _legend(figure, [law[0], bars])
    fixed = f"t = {run.steps[0]}" if over_widths else f"$\\sigma_W$ = {run.init_width[0]:g}"
    _note(figure, run, f"{fixed}. An outlier is significant only some way above the transition: O(n^(−1/3)).")
    return figure


def _worst(values: np.ndarray) -> str:
    known = values[np.isfinite(values)]
    return f"{known[np.argmax(np.abs(known))]:+.1f}" if known.size else "–"


def _fine(run: BBPRun) -> np.ndarray:
    return np.linspace(min(run.learning_rate), max(run.learning_rate), 600)


def _shown(run: BBPRun, found: list[Curve]) -> list[Curve]:
    """Curves of the first initial width, at most `SHOWN` of them, the first and last among these."""
    own = [c for c in found if c.init_width == run.init_width[0]]
    return [own[i] for i in sorted({round(k) for k in np.linspace(0, len(own) - 1, SHOWN)})]


def _some(values: list[Curve]) -> list[Curve]:
    """The first, middle and last."""
    return [values[i] for i in sorted({0, len(values) // 2, len(values) - 1})]


def _looks(count: int) -> list[tuple]:
    colours = matplotlib.colormaps[plots.SEQUENTIAL](np.linspace(0, 0.8, count))
    return [(tuple(colour), MARKERS[i % len(MARKERS)]) for i, colour in enumerate(colours)]


def _legend(figure: Figure, handles: Sequence[Artist]) -> None:
    columns = len(handles) if figure.get_figwidth() > 6 else 2
    figure.legend(handles=list(handles), loc="outside upper center", ncols=columns)


def _note(figure: Figure, run: BBPRun, text: str) -> None:
    plots.caption(figure, f"W [{run.rows}, {run.columns}], r = {run.ratio:g}, {run.seeds} seeds, {text}")
