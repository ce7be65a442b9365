"""Table and figures of a Dyson gas: level flow, density, spacings, ratios, Σ² and Δ₃, each beside its law."""

from pathlib import Path

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import stdtr

from dysonjax import laws, spectra
from dysonjax.core.tables import Table
from dysonjax.experiments import plotting as plots
from dysonjax.experiments.gas.experiment import GasRun
from dysonjax.experiments.gas.statistics import BULK, RATIOS, Statistics

NOISE = 0.0027
"""Probability with which the advice takes noise for an error of the step: three standard errors if there is one row."""
POISSON_RATIO = 2 * np.log(2) - 1
_DATA = {"color": "black", "marker": "o", "markersize": 3, "linestyle": "none", "elinewidth": 0.7, "capsize": 1.5}
_LAW = {"color": "#b3543f", "linewidth": 1.6}
_OTHER = {"color": "0.55", "linewidth": 1.2, "linestyle": (0, (4, 2))}
_LOOKS = (("#1f3b73", "o"), ("#3f7fbf", "s"), ("#d9a441", "^"))


def gas_table(run: GasRun, found: list[Statistics]) -> Table:
    """One row a temperature: the last snapshot's statistics with standard errors, and the run's health."""
    title = (
        f"{run.levels} levels, β = {run.beta:g}, after t = {run.steps * run.dt:g} ({run.steps} steps of {run.dt:g}), "
        f"{run.seeds} seeds; ⟨r⟩ and β: the middle {BULK:.0%} of the levels, β calibrated with exact matrices"
    )
    table = Table(title=title, title_justify="left")
    for column in (
        "T",
        "⟨Σx²⟩",
        "KS to the law",
        "⟨r⟩",
        "β fitted",
        "smallest gap",
        "balance",
        "out of order",
        "diverged",
    ):
        table.add_column(column, justify="right")
    for s in found:
        law = run.density_law(s.temperature)
        distance = "–" if law is None else f"{spectra.ks_distance(s.levels, law.cdf):.4f}"
        table.add_row(
            f"{s.temperature:g}", str(spectra.curve(np.sum(s.levels**2, axis=1))), distance, str(s.ratio),
            "–" if s.beta is None else str(s.beta), f"{s.smallest_gap:.1e}", str(s.balance), str(s.violations),
            str(s.diverged),
        )  # fmt: skip
    return table


def gas_advice(run: GasRun, found: list[Statistics]) -> str:
    """One line on whether the step was small enough, from the balance, and whether the levels stayed in order.

    An error of the step is seen where noise alone would make a balance so large, in any of the rows, with a probability
    below `NOISE`.
    """
    lost = sum(s.diverged for s in found)
    tiny = np.finfo(float).tiny
    chances = [2 * stdtr(s.balance.count - 1, -abs(s.balance.value) / max(s.balance.error, tiny)) for s in found]
    worst = found[int(np.argmin(chances))]
    size = f"{worst.balance} at T = {worst.temperature:g}"
    if run.exact_step:
        step = "The step is exact in law in this potential, for any --dt."
    elif min(chances) * len(found) < NOISE:
        step = f"The step is too coarse: balance {size}, 0 for an exact step; try --dt {run.dt / 3:.2g}."
    else:
        step = f"No error of the step is seen: balance {size} in the worst row, 0 for an exact step."
    order = sum(s.violations for s in found)
    order_words = "levels never met" if not order else f"levels met or crossed in {order} steps"
    return f"{step} {order_words.capitalize()}; {f'{lost} replicas diverged' if lost else 'no replica diverged'}."


def draw(run: GasRun, ds: xr.Dataset, found: list[Statistics], directory: Path) -> list[Path]:
    """Write every figure as PNG into `directory`; returns their paths."""
    made = {
        "level_flow": level_flow(run, ds),
        "density": density(run, found),
        "spacings": spacings(run, found),
        "rigidity": rigidity(run, found),
    }
    return [plots.save(figure, directory / f"{name}.png") for name, figure in made.items()]


@plots.style()
def level_flow(run: GasRun, ds: xr.Dataset) -> Figure:
    """Levels of the first seed against time, at up to three temperatures, with the ends of the law's support."""
    chosen = _some(list(ds.temperature.values))
    figure, axes = plots.new_figure(1, len(chosen), (3.3 * len(chosen) + 0.6, 3.6))
    time = ds.step.values * run.dt
    for ax, temperature in zip(axes[0], chosen, strict=True):
        x = ds.levels.sel(temperature=temperature).isel(dt=0, seed=0).values
        colours = matplotlib.colormaps[plots.SEQUENTIAL](np.linspace(0, 0.8, x.shape[1]))
        for level, colour in zip(x.T, colours, strict=True):
            ax.plot(time[1:], level[1:], color=colour, linewidth=0.8)
        law = run.density_law(float(temperature))
        if law is not None:
            for end in law.support:
                ax.axhline(float(end), **_OTHER)
        ax.set(xscale="log", xlabel="time $t$", title=f"$T$ = {temperature:.3g}")
    axes[0, 0].set_ylabel("levels $x_i$")
    note = f"One seed, from the first recorded step on; {_what(run)}."
    plots.caption(figure, note + (" Dashed: ends of the law's support." if run.density_law(1.0) else ""))
    return figure


@plots.style()
def density(run: GasRun, found: list[Statistics]) -> Figure:
    """Density of the last snapshot with errors over seeds, at up to three temperatures, and the large-n law."""
    chosen = _some(found)
    figure, axes = plots.new_figure(1, len(chosen), (3.3 * len(chosen) + 0.6, 3.6))
    for ax, s in zip(axes[0], chosen, strict=True):
        law = run.density_law(s.temperature)
        low, high = s.levels.min(), s.levels.max()
        edges = np.linspace(low, high, int(np.clip(2 * run.levels, 24, 64)) + 1)
        measured = spectra.density(s.levels, edges)
        ax.errorbar((edges[1:] + edges[:-1]) / 2, measured.value, measured.error, **_DATA, label="simulated")
        if law is not None:
            ends = [float(e) for e in law.support]
            at = np.linspace(min(low, ends[0]), max(high, ends[1]), 800)
            name = "semicircle" if isinstance(law, laws.Semicircle) else "Marchenko–Pastur"
            ax.plot(at, law.pdf(at.astype(np.float32)), **_LAW, label=f"{name}, $n\\to\\infty$")
        ax.set(xlabel="level $x$", title=f"$T$ = {s.temperature:.3g}")
        ax.set_ylim(0, 1.15 * float(np.max(measured.value + measured.error)))
    axes[0, 0].set_ylabel(r"density $\rho(x)$")
    plots.figure_legend(figure, axes[0, 0].get_legend_handles_labels()[0])
    plots.caption(figure, f"Last snapshot, t = {run.steps * run.dt:g}; {_what(run)}. Bars: standard errors over seeds.")
    return figure


@plots.style()
def spacings(run: GasRun, found: list[Statistics]) -> Figure:
    """Unfolded spacings with the surmise, and the mean ratio at every temperature with its large-n value."""
    figure, axes = plots.new_figure(1, 2, (8.6, 3.8))
    left, right = axes[0]
    edges = np.linspace(0, 3.5, 36)
    for s, (colour, marker) in zip(_some(found), _LOOKS, strict=False):
        if s.spacings.shape[1] < 1:
            continue
        measured = spectra.density(s.spacings / s.spacings.mean(), edges)
        look = {**_DATA, "color": colour, "marker": marker}
        left.errorbar(
            (edges[1:] + edges[:-1]) / 2, measured.value, measured.error, **look, label=f"$T$ = {s.temperature:.3g}"
        )
    at = np.linspace(0, 3.5, 400, dtype=np.float32)
    left.plot(at, laws.WignerSurmise(beta=run.beta).pdf(at), **_LAW, label=rf"Wigner surmise, $\beta$ = {run.beta:g}")
    left.plot(at, np.exp(-at), **_OTHER, label="Poisson")
    left.set(xlabel="spacing $s$, unit mean", ylabel="density $P(s)$", xlim=(0, 3.5), ylim=(0, None))
    left.legend()
    temperatures = np.array([s.temperature for s in found])
    value, error = np.array([[s.ratio.value, s.ratio.error] for s in found]).T
    right.errorbar(temperatures, value, error, **_DATA, label="simulated")
    if run.beta in RATIOS:
        right.axhline(RATIOS[run.beta], **_LAW, label=rf"large $n$, $\beta$ = {run.beta:g}")
    right.axhline(POISSON_RATIO, **_OTHER, label="Poisson")
    right.set(xscale="log", xlabel="temperature $T$", ylabel=r"mean spacing ratio $\langle r\rangle$")
    right.set_ylim(0.36, max(0.72, float(np.nanmax([*value, 0.0])) + 0.03))
    plots.log_ticks(right, "x", temperatures)
    right.legend(loc="upper right")
    plots.caption(
        figure, f"The middle {BULK:.0%} of the levels, unfolded by the ensemble; {_what(run)}. Bars: standard errors."
    )
    return figure


@plots.style()
def rigidity(run: GasRun, found: list[Statistics]) -> Figure:
    """Number variance and rigidity against the length of the window, with the laws of large random matrices."""
    figure, axes = plots.new_figure(1, 2, (8.6, 3.8))
    names = (r"number variance $\Sigma^2(L)$", r"rigidity $\Delta_3(L)$")
    pairs = (
        (lambda s: s.number_variance, spectra.number_variance_law),
        (lambda s: s.rigidity, spectra.rigidity_law),
    )
    for ax, name, (measured, law) in zip(axes[0], names, pairs, strict=True):
        longest = found[0].lengths[-1]
        at = np.linspace(0.05, longest, 200)
        for s, (colour, marker) in zip(_some(found), _LOOKS, strict=False):
            e = measured(s)
            ax.errorbar(
                s.lengths,
                e.value,
                e.error,
                **{**_DATA, "color": colour, "marker": marker},
                label=f"$T$ = {s.temperature:.3g}",
            )
        if run.beta in (1, 2, 4):
            ax.plot(at, law(at, int(run.beta)), **_LAW, label=rf"random matrix, $\beta$ = {run.beta:g}")
        ax.plot(at, law(at, 0), **_OTHER, label="Poisson")
        _, highest = ax.get_ylim()
        ax.set(xlabel="window length $L$", ylabel=name, xlim=(0, None))
        ax.set_ylim(0, min(highest, 2.5 * float(np.max(measured(found[0]).value))))
    plots.figure_legend(figure, _handles(axes[0, 0]))
    plots.caption(
        figure, f"The middle {BULK:.0%} of the levels, unfolded by the ensemble; {_what(run)}. Bars: standard errors."
    )
    return figure


def _handles(ax: Axes) -> list:
    return ax.get_legend_handles_labels()[0]


def _some(values: list) -> list:
    """The first, middle and last of a list."""
    return [values[i] for i in sorted({0, len(values) // 2, len(values) - 1})]


def _what(run: GasRun) -> str:
    shape = "" if run.geometry == "symmetric" else f", {run.geometry}, {run.rows or run.levels} rows"
    return f"n = {run.levels}, β = {run.beta:g}, {run.potential} potential{shape}, {run.seeds} seeds"
