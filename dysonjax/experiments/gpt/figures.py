"""Figures of a trained GPT, as in arXiv:2411.13512: losses, spectra, spacings, and the flow of every layer's levels."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dysonjax import laws
from dysonjax.experiments import plotting as plots
from dysonjax.experiments.gpt.exchange import EXPONENTS, Exchange
from dysonjax.experiments.gpt.grid import GPTScalingRun
from dysonjax.experiments.gpt.summary import PUBLISHED_LOSS, Findings

_LAW: dict[str, Any] = {"color": "#b3543f", "linewidth": 1.5}
_TAIL: dict[str, Any] = {"color": "#1f5f9f", "linewidth": 1.5, "linestyle": (0, (5, 2))}
_POISSON: dict[str, Any] = {"color": "0.5", "linewidth": 1.0, "linestyle": (0, (1, 1.2))}
_POINTS: dict[str, Any] = {"color": "black", "marker": "o", "markersize": 3.5, "linestyle": "none"}
_BARS: dict[str, Any] = {**_POINTS, "elinewidth": 0.7}
BINS = 24


def draw(ds: xr.Dataset, found: Sequence[Findings], directory: Path, published: bool = False) -> list[Path]:
    """Write every figure as PNG into `directory`; returns their paths. `published`: with the loss of nanoGPT's README.

    `found`: the `analysis` of `ds`.
    """
    made = {"loss": loss(ds, published), "spectra": densities(found), "spacings": spacings(found)}
    for heads in (False, True):
        figure = level_flow(ds, heads)
        if figure is not None:
            made[f"level_flow_{'heads' if heads else 'layers'}"] = figure
    return [plots.save(figure, directory / f"{name}.png") for name, figure in made.items()]


@plots.style()
def loss(ds: xr.Dataset, published: bool = False) -> Figure:
    """Training loss of every update, its mean between validations, and validation losses."""
    figure, axes = plots.new_figure(1, 1, (6.4, 4.0))
    ax = axes[0, 0]
    train, steps = ds.train_loss.values, ds.validation_step.values
    ax.plot(ds["update"].values + 1, train, color="0.8", linewidth=0.6, label="training, each batch")
    means = [train[a:b].mean() for a, b in itertools.pairwise(steps)]
    ax.stairs(means, steps, color="black", linewidth=1.2, baseline=None, label="training, mean between validations")
    ax.plot(steps, ds.validation_loss.values, color="#b3543f", marker="o", mfc="white", label="validation")
    final, error = float(ds.final_loss), float(ds.final_loss_error)
    if published:
        ax.axhline(PUBLISHED_LOSS, **_TAIL, label=f"nanoGPT's README: {PUBLISHED_LOSS}")
    ax.set(xlabel="updates", ylabel="loss, nats a character", xlim=(0, steps[-1]))
    ax.legend()
    plots.caption(figure, f"At the end, on all of the validation text: {final:.3f} ± {error:.3f}.")
    return figure


@plots.style()
def densities(found: Sequence[Findings]) -> Figure:
    """Densities of the pooled levels over the mean level of their matrix, with Marchenko–Pastur's law and the tail."""
    rows = _rows(found)
    figure, axes = plots.new_figure(len(rows), len(rows[0]), (3.3 * len(rows[0]) + 0.6, 3.1 * len(rows) + 0.7))
    for line, own in zip(axes, rows, strict=True):
        all_levels = np.concatenate([f.pool.scaled.ravel() for f in own])
        low, high = max(all_levels.min(), 1e-4), all_levels.max()
        edges = np.geomspace(low * 0.95, high * 1.05, BINS + 1)
        for ax, one in zip(line, own, strict=True):
            x = one.pool.scaled.ravel()
            counts = np.histogram(x, edges)[0]
            width, at = np.diff(edges), np.sqrt(edges[1:] * edges[:-1])
            full = counts > 0
            density = counts / (len(x) * width)
            ax.errorbar(at[full], density[full], (np.sqrt(counts) / (len(x) * width))[full], **_BARS)
            fine = np.geomspace(edges[0], edges[-1], 800)
            law = np.asarray(laws.MarchenkoPastur(ratio=one.pool.ratio, variance=1.0).pdf(fine))
            ax.plot(fine, np.where(law > 0, law, np.nan), **_LAW)
            tail, share = one.tail, one.tail.exponent.count / len(x)
            if np.isfinite(tail.exponent.value):
                alpha = tail.exponent.value
                beyond = fine[fine >= tail.x_min]
                ax.plot(beyond, share * (alpha - 1) / tail.x_min * (beyond / tail.x_min) ** -alpha, **_TAIL)
                label = rf"tail $\alpha$ = {tail.exponent}" + "\n" + rf"$p$ = {tail.ks_p:.2f}"
                ax.text(0.04, 0.05, label, transform=ax.transAxes, fontsize=7.5)
            least = 0.3 / (len(x) * width.max())
            ax.set(xscale="log", yscale="log", ylim=(least, 3 * max(density.max(), np.nanmax(law))))
            ax.set_title(f"{len(one.pool.levels)} {one.pool.name}, update {one.pool.step}")
        line[0].set_ylabel(r"density $\rho(x/\sigma^2)$")
    for ax in axes[-1]:
        ax.set_xlabel(r"level over mean level, $x/\sigma^2$")
    handles = [Line2D([], [], **_POINTS), Line2D([], [], **_LAW), Line2D([], [], **_TAIL)]
    figure.legend(handles, ["measured", "Marchenko–Pastur", "fitted power law"], loc="outside upper center", ncols=3)
    plots.caption(
        figure, "Matrices of one shape together, each over its own mean level; errors √count, levels as independent."
    )
    return figure


@plots.style()
def spacings(found: Sequence[Findings]) -> Figure:
    """Unfolded spacings of the bulks with Wigner's surmise and, for comparison, those of independent levels."""
    rows = _rows(found)
    figure, axes = plots.new_figure(
        len(rows), len(rows[0]), (3.3 * len(rows[0]) + 0.6, 2.8 * len(rows) + 0.7), sharey=True
    )
    edges, at = np.linspace(0, 3.5, 22), np.linspace(0, 3.5, 300)
    for line, own in zip(axes, rows, strict=True):
        for ax, one in zip(line, own, strict=True):
            s = one.pool.spacings
            counts = np.histogram(s, edges)[0]
            scale = max(len(s), 1) * np.diff(edges)
            ax.errorbar((edges[1:] + edges[:-1]) / 2, counts / scale, np.sqrt(np.maximum(counts, 1)) / scale, **_BARS)
            ax.plot(at, laws.WignerSurmise(beta=1.0).pdf(at), **_LAW)
            ax.plot(at, np.exp(-at), **_POISSON)
            mean, high = one.spacing_reference
            text = f"KS {one.spacing_distance:.3f}\nrandom {mean:.3f} (95 % {high:.3f})\n$p$ = {one.spacing_p:.2f}"
            ax.text(0.97, 0.95, text, transform=ax.transAxes, fontsize=7.5, ha="right", va="top")
            ax.set_title(f"{len(one.pool.levels)} {one.pool.name}, update {one.pool.step}")
            ax.set(xlim=(0, 3.5), ylim=(0, None))
        line[0].set_ylabel("$P(s)$")
    for ax in axes[-1]:
        ax.set_xlabel(r"unfolded spacing $s$ of $\sqrt{x}$")
    handles = [Line2D([], [], **_POINTS), Line2D([], [], **_LAW), Line2D([], [], **_POISSON)]
    names = ["measured", "Wigner surmise", "independent levels"]
    figure.legend(handles, names, loc="outside upper center", ncols=3)
    plots.caption(figure, "Levels under the Tracy–Widom threshold, unfolded by a polynomial, 10 % left out at an end; "
                  "random: matrices of independent entries, as many and treated alike.")  # fmt: skip
    return figure


@plots.style()
def level_flow(ds: xr.Dataset, heads: bool) -> Figure | None:
    """Levels of every watched matrix, or of every head of them, against the number of updates; None without any."""
    names = [str(n) for n in ds.matrix.values if ("/head" in str(n)) == heads]
    if not names:
        return None
    columns = min(len(names), 4)
    rows = -(-len(names) // columns)
    figure, axes = plots.new_figure(rows, columns, (2.9 * columns + 0.6, 2.3 * rows + 0.5), sharey=True)
    steps = ds.step.values
    for ax, name in zip(axes.flat, names, strict=False):
        levels = ds.levels.sel(matrix=name).values
        plots.level_flow(ax, steps, levels[:, np.isfinite(levels[0])])
        ax.set_title(name.replace("/kernel", ""))
        ax.set_xlabel("")
    for ax in axes.flat[len(names) :]:
        ax.remove()
    for ax in axes.flat[max(len(names) - columns, 0) : len(names)]:
        ax.set_xlabel("updates")
    for ax in axes[:, 0]:
        ax.set_ylabel("levels")
    plots.caption(figure, "Eigenvalues of W Wᵀ of one network, largest dark.")
    return figure


@plots.style()
def exchange_maps(
    run: GPTScalingRun, found: Sequence[Exchange], smaller: Sequence[Exchange], statistic: str = "norm"
) -> Figure:
    """A statistic of every setting against T = α/|B| and against α/√|B|: one curve where that rule orders it.

    `smaller`: the same without the largest learning rate, whose points are open; its χ² stands above.
    """
    shown = [(one, low) for one, low in zip(found, smaller or found, strict=True) if one.statistic == statistic]
    figure, axes = plots.new_figure(2, len(shown), (2.9 * len(shown) + 0.9, 5.6))
    colours = matplotlib.colormaps[plots.SEQUENTIAL](np.linspace(0, 0.85, len(run.batch_sizes)))
    order = np.argsort(run.learning_rates)
    rates = np.array(run.learning_rates)[order]
    for column, (one, low) in enumerate(shown):
        for ax, label, name in zip(
            axes[:, column], ("p = 1", "p = ½"), (r"$\alpha/|B|$", r"$\alpha/\sqrt{|B|}$"), strict=True
        ):
            for j, size in enumerate(run.batch_sizes):
                y, error = one.values.value[order, j], one.values.error[order, j]
                x, look = rates / size ** EXPONENTS[label], {"color": colours[j], "marker": "os^vD<>p"[j % 8]}
                ax.errorbar(x, y, error, **look, markersize=4, elinewidth=0.8, label=f"{size}")
                if smaller:
                    ax.plot(x[-1:], y[-1:], **look, markersize=4.5, mfc="white", linestyle="none", zorder=4)
            ax.set(xscale="log", xlabel=name)
            ax.set_title(f"{one.kind}, $\\chi^2$/dof = {low.collapse[label][0]:.3g}")
    for ax in axes[:, 0]:
        ax.set_ylabel(r"$\ln\,\|W\|^2/\|W_0\|^2$" if statistic == "norm" else r"$\ln\,x_1/x_1(0)$")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", title=r"batch size $|B|$")
    optimizer = {"sgd": "SGD", "adamw": "AdamW"}[run.optimizer]
    opened = f" Open: α = {rates[-1]:g}, left out of χ²." if smaller else ""
    plots.caption(figure, f"{optimizer}, {run.seeds} networks a setting, {run.budget}; mean over layers ± standard "
                  f"error over networks.{opened}")  # fmt: skip
    return figure


def _rows(found: Sequence[Findings]) -> list[list[Findings]]:
    """One row for each kind of matrix, its times in order."""
    names = dict.fromkeys(one.pool.name for one in found)
    return [[one for one in found if one.pool.name == name] for name in names]
