"""Figures of a scaling run, as in arXiv:2407.16427 and 2412.20496; `draw` writes all that apply."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dysonjax import laws, spectra
from dysonjax.experiments import plotting as plots
from dysonjax.experiments.linear_scaling.analysis import (
    LEAST,
    PUBLISHED,
    Analysis,
    predictor,
    small_noise_slope,
    spacings,
)
from dysonjax.experiments.linear_scaling.ensembles import Ensemble
from dysonjax.experiments.linear_scaling.experiment import TITLES, LinearScaling, RBMScaling, ScalingRun
from dysonjax.models import GaussianRBM

_LAW: dict[str, Any] = {"color": "#b3543f", "linewidth": 1.5}
_TARGET: dict[str, Any] = {"color": "0.55", "linewidth": 0.9, "linestyle": (0, (4, 2))}
_BARS: dict[str, Any] = {"linestyle": "none", "elinewidth": 0.7, "capsize": 1.5, "markersize": 4}
_MARKERS = "osD^v<>ph*"
_LOOKS: dict[str, dict[str, Any]] = {
    "sgd": {"color": "black", "marker": "o", "mfc": "white"},
    "matrix": {"color": "#1f5f9f", "marker": "s", "mfc": "#1f5f9f"},
    "dyson": {"color": "#c8872d", "marker": "^", "mfc": "#c8872d"},
    "log-gas": {"color": "0.55", "marker": "x", "mfc": "0.55"},
}


def draw(run: ScalingRun, found: Sequence[Analysis], directory: Path) -> list[Path]:
    """Write every figure that applies to the run as PNG into `directory`; returns their paths."""
    usable = [one for one in found if one.centres]
    if not usable:
        return []
    made = {"level_flow": level_flow(run, usable), "stacked_spectra": stacked_spectra(run, usable)}
    made["multiplet_densities"] = multiplet_densities(run, usable)
    made["centres"] = centres(run, usable)
    if run.pairs:
        made["spacings"] = spacing_laws(run, usable)
        if any(one.spacing for one in usable):
            made["scaling"] = scaling(run, usable)
            made["spacing_against_width"] = spacing_against_width(run, usable)
    return [plots.save(figure, directory / f"{name}.png") for name, figure in made.items()]


@plots.style()
def level_flow(run: ScalingRun, found: Sequence[Analysis]) -> Figure:
    """Levels of one replica against time α × updates, at the lowest and the highest T, with their fixed points."""
    ends = [_by_temperature(one)[i] for i in (0, -1) for one in found]
    columns = len(found)
    rows = 1 if len(_by_temperature(found[0])) == 1 else 2
    figure, axes = plots.new_figure(rows, columns, (3.1 * columns + 0.8, 2.8 * rows + 0.5), sharey=True)
    for ax, e in zip(axes.flat, ends, strict=False):
        time = e.learning_rate * e.steps[1:]
        colours = matplotlib.colormaps[plots.SEQUENTIAL](np.linspace(0, 0.8, e.flow.shape[1]))
        for level, colour in zip(e.flow[1:].T, colours, strict=True):
            ax.plot(time, level, color=colour, linewidth=0.9)
        for target in np.unique(run.fixed_points):
            ax.axhline(target, **_TARGET)
        ax.set(xscale="log", title=f"{TITLES[e.description]}, {_setting(e)}")
    for ax in axes[-1]:
        ax.set_xlabel(r"time $\alpha\,\times$ updates")
    for ax in axes[:, 0]:
        ax.set_ylabel(_level(run))
    plots.caption(figure, f"One replica, from the first recorded update on; dashed: fixed points. {_what(run)}")
    return figure


@plots.style()
def stacked_spectra(run: ScalingRun, found: Sequence[Analysis]) -> Figure:
    """Densities of all levels at up to three T, one above the other, with the small-noise law of all multiplets."""
    figure, axes = plots.new_figure(1, len(found), (3.6 * len(found) + 0.8, 4.6), sharey=True)
    for ax, one in zip(axes[0], found, strict=True):
        chosen = _spread(_by_temperature(one), 3)
        top = 0.0
        for e in chosen:
            x = _shown(run, e.levels)
            low, high = np.quantile(x, [0.002, 0.998])
            margin = 0.1 * (high - low)
            edges = np.linspace(low - margin, high + margin, 91)
            measured = spectra.density(x, edges)
            middle = (edges[1:] + edges[:-1]) / 2
            at = np.linspace(edges[0], edges[-1], 1500)
            law = sum(
                (m.stop - m.start) * _multiplet(at, _shown(run, run.fixed_points[m.start]), e, run, m)
                for m in run.multiplets
            ) / len(run.fixed_points)
            height = max(float(np.max(measured.value)), 1e-12)  # each spectrum has a unit height of its own
            ax.errorbar(
                middle, top + measured.value / height, measured.error / height, color="black", marker=".", **{
                    **_BARS, "markersize": 2.5
                },
            )  # fmt: skip
            ax.plot(at, top + np.minimum(law / height, 1.45), **_LAW)
            ax.text(0.02, top + 1.2, _setting(e), transform=ax.get_yaxis_transform(), fontsize=7.5, **plots.HALO)
            top += 1.75
        for target in np.unique(run.fixed_points):
            ax.axvline(float(_shown(run, target)), **_TARGET)
        ax.set(title=TITLES[one.description], xlabel=_level(run, shown=True), yticks=[], ylim=(-0.05, top + 0.1))
    axes[0, 0].set_ylabel("density, each in units of its maximum")
    lines = [Line2D([], [], color="black", marker=".", linestyle="none"), Line2D([], [], **_LAW)]
    figure.legend(lines, ["measured", r"small-noise law of the multiplets"], loc="outside upper center", ncols=2)
    plots.caption(figure, f"Errors over replicas; dashed: targets; laws are cut where they rise above. {_what(run)}")
    return figure


@plots.style()
def spacing_laws(run: ScalingRun, found: Sequence[Analysis]) -> Figure:
    """Spacings of the first pair at up to three T, and of all pairs and settings over their means, with the surmise."""
    figure, axes = plots.new_figure(1, 2, (9.2, 3.9))
    left, right = axes[0]
    one = found[0]
    for e, marker, grey in zip(_spread(_by_temperature(one), 3), _MARKERS, ("0.0", "0.35", "0.6"), strict=False):
        s = spacings(run, e.levels)[:, :1]
        edges = np.linspace(0, np.quantile(s, 0.998), 26)
        measured, at = spectra.density(s, edges), np.linspace(0, edges[-1], 300)
        left.errorbar((edges[1:] + edges[:-1]) / 2, measured.value, measured.error, color=grey, marker=marker,
                      label=_setting(e), **_BARS)  # fmt: skip
        sigma = run.width(e.temperature)[run.pairs[0].start]
        left.plot(at, laws.PairSpacing(float(sigma)).pdf(at), color=grey, linewidth=1.1)
    left.set(xlabel=f"spacing $S$ at {_level(run)} = {run.fixed_points[run.pairs[0].start]:.3g}", ylabel="$P(S)$")
    left.set_title(f"{TITLES[one.description]}; lines: small-noise law")
    left.legend()
    edges = np.linspace(0, 3.6, 37)
    at = np.linspace(0, 3.6, 300)
    right.plot(at, laws.WignerSurmise(beta=1.0).pdf(at), **_LAW, label="Wigner surmise")
    for one in found:
        scaled = [spacings(run, e.levels) / spacings(run, e.levels).mean(axis=0) for e in _by_temperature(one)]
        measured = spectra.density(np.concatenate(scaled), edges)
        right.errorbar((edges[1:] + edges[:-1]) / 2, measured.value, measured.error, label=TITLES[one.description],
                       **_LOOKS[one.description], **_BARS)  # fmt: skip
    right.set(xlabel=r"$s = S/\langle S\rangle$", ylabel="$P(s)$", title="all pairs and settings")
    right.legend()
    plots.caption(figure, f"Errors over replicas. {_what(run)}")
    return figure


@plots.style()
def scaling(run: ScalingRun, found: Sequence[Analysis]) -> Figure:
    """⟨S⟩ against √(Tκ²Ω) or σ for all settings and pairs with the fitted slope, and over the small-noise law."""
    shown = [one for one in found if one.spacing is not None]
    figure, axes = plots.new_figure(2, len(shown), (3.9 * len(shown) + 0.8, 6.2), sharey="row")  # type: ignore[arg-type]
    limit = small_noise_slope(run)
    name = r"$\sqrt{T\kappa^2\Omega}$" if run.model == "rbm" else r"$\sigma = \sqrt{T}\,w$"
    for column, one in enumerate(shown):
        fit: Any = one.spacing
        usable = _usable(one)
        x = np.array([predictor(run, e.temperature) for e in usable])
        upper, lower = axes[:, column]
        line = np.linspace(0, 1.05 * x.max(), 50)
        upper.plot(line, fit.slope.value * line, **_LAW, label=f"fit, slope {fit.slope}")
        upper.plot(line, limit * line, color="black", linewidth=1.1, linestyle=(0, (5, 2)),
                   label=f"$T\\to 0$, slope {limit:.3f}")  # fmt: skip
        published = PUBLISHED.get(run.model, {}).get("spacing")
        if published and one.description == "sgd":
            upper.plot(line, published[0] * line, color="0.5", linewidth=1.0, linestyle=(0, (1, 1.2)),
                       label=f"published, slope {published[0]:.3f}({1e3 * published[1]:.0f})")  # fmt: skip
        for k, pair in enumerate(run.pairs):
            for scan in (True, False):
                rows = [i for i, e in enumerate(usable) if _is_rate_scan(usable, e) == scan]
                look = {"color": "black", "marker": _MARKERS[k % len(_MARKERS)], "mfc": "white" if scan else "black"}
                label = f"{_level(run)} = {run.fixed_points[pair.start]:.3g}" if not scan else None
                y, error = fit.points.value[rows, k], fit.points.error[rows, k]
                upper.errorbar(x[rows, k], y, error, label=label, **look, **_BARS)
                lower.errorbar(x[rows, k], y / (limit * x[rows, k]), error / (limit * x[rows, k]), **look, **_BARS)
        lower.axhline(1, color="black", linewidth=1.1, linestyle=(0, (5, 2)))
        lower.axhline(fit.slope.value / limit, **_LAW)
        upper.set(title=TITLES[one.description], xlim=(0, None), ylim=(0, None))
        lower.set(xlabel=name, xlim=(0, None))
        upper.legend(fontsize=7.5)
    axes[0, 0].set_ylabel(r"$\langle S\rangle$")
    axes[1, 0].set_ylabel(r"$\langle S\rangle$ over its law for $T\to 0$")
    plots.caption(figure, f"Open: scan of the learning rate at one batch size; filled: other settings. {_what(run)}")
    return figure


@plots.style()
def spacing_against_width(run: ScalingRun, found: Sequence[Analysis]) -> Figure:
    """⟨S⟩ of every pair and setting against √π σ fitted to its density: equal for the pair law of any width."""
    figure, axes = plots.new_figure(1, 1, (4.6, 4.3))
    ax: Axes = axes[0, 0]
    largest = 0.0
    for one in found:
        if one.spacing is None or one.width is None:
            continue
        s, w = one.spacing.points, one.width.points
        largest = max(largest, float(np.max(s.value)), float(np.max(w.value)))
        look = _LOOKS[one.description]
        ax.errorbar(w.value.ravel(), s.value.ravel(), s.error.ravel(), w.error.ravel(), label=TITLES[one.description],
                    **look, **_BARS)  # fmt: skip
    ax.plot([0, 1.05 * largest], [0, 1.05 * largest], **_LAW, label="equal")
    ax.set(xlabel=r"fitted $\sqrt{\pi}\,\sigma$", ylabel=r"$\langle S\rangle$", xlim=(0, None), ylim=(0, None))
    ax.legend()
    plots.caption(figure, _what(run))
    return figure


@plots.style()
def centres(run: ScalingRun, found: Sequence[Analysis]) -> Figure:
    """Mean level of each multiplet over its target against T."""
    figure, axes = plots.new_figure(1, len(found), (3.8 * len(found) + 1.0, 3.9), sharey=True)
    colours = matplotlib.colormaps[plots.SEQUENTIAL](np.linspace(0, 0.85, len(run.multiplets)))
    for ax, one in zip(axes[0], found, strict=True):
        usable = _usable(one)
        temperature = np.array([e.temperature for e in usable])
        order = np.argsort(temperature)
        for k, m in enumerate(run.multiplets):
            value = np.array([c.value[k] for c in one.centres])
            error = np.array([c.error[k] for c in one.centres])
            look = {"color": colours[k], "marker": _MARKERS[k % len(_MARKERS)]}
            ax.plot(temperature[order], value[order], color=colours[k], linewidth=0.5)
            for scan in (True, False):
                rows = [i for i, e in enumerate(usable) if _is_rate_scan(usable, e) == scan]
                label = None if scan else f"{float(_shown(run, run.fixed_points[m.start])):.3g} (× {m.stop - m.start})"
                ax.errorbar(temperature[rows], value[rows], error[rows], label=label,
                            mfc="white" if scan else colours[k], **look, **_BARS)  # fmt: skip
        ax.axhline(1, color="black", linewidth=0.8)
        ax.set(title=TITLES[one.description], xlabel=r"temperature $T = \alpha/|B|$", xlim=(0, None))
    name = r"mean $\lambda/\kappa$" if run.model == "rbm" else "mean level / target"
    axes[0, 0].set_ylabel(name)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside right upper", title=r"target $\kappa$" if run.model == "rbm" else "target"
    )
    plots.caption(figure, f"Open: scan of the learning rate at one batch size; filled: other settings. {_what(run)}")
    return figure


@plots.style()
def multiplet_densities(run: ScalingRun, found: Sequence[Analysis]) -> Figure:
    """Levels of each multiplet about its mean at the lowest T, in units of σ, with the exact law and the semicircle."""
    count = len(run.multiplets)
    columns = min(count, 3)
    rows = -(-count // columns)
    figure, axes = plots.new_figure(rows, columns, (3.3 * columns + 0.6, 3.0 * rows + 0.6))
    for k, (ax, m) in enumerate(zip(axes.flat, run.multiplets, strict=False)):
        size = m.stop - m.start
        reach = 3.2 if size == 1 else 1.25 * np.sqrt(2 * size) + 1.2
        at, edges = np.linspace(-reach, reach, 400), np.linspace(-reach, reach, 41)
        ax.plot(at, _density(at, size), **_LAW, label=f"exact law, {size}-fold")
        if size > 1:
            semicircle = laws.Semicircle(centre=0.0, radius=float(np.sqrt(2 * size)))
            ax.plot(at, semicircle.pdf(at), **{**_TARGET, "color": "0.35"}, label="semicircle")
        told = []
        for one in found:
            e = _by_temperature(one)[0]
            u = (e.levels[:, m] - e.levels[:, m].mean()) / run.width(e.temperature)[m.start]
            measured = spectra.density(u, edges)
            ax.errorbar((edges[1:] + edges[:-1]) / 2, measured.value, measured.error, label=TITLES[one.description],
                        **_LOOKS[one.description], **{**_BARS, "markersize": 3})  # fmt: skip
            test = one.multiplets[next(i for i, own in enumerate(_usable(one)) if own is e)][k]
            told.append(f"{test.p_value:.2f}")
        value = f"{float(_shown(run, run.fixed_points[m.start])):.3g}"
        ax.set(title=f"target {value}, p = {', '.join(told)}", xlabel=r"$(x - \langle x\rangle)/\sigma$")
    for ax in axes[:, 0]:
        ax.set_ylabel("density")
    for ax in list(axes.flat)[count:]:
        ax.set_visible(False)
    largest: Any = axes.flat[int(np.argmax([m.stop - m.start for m in run.multiplets]))]
    plots.figure_legend(figure, largest.get_legend_handles_labels()[0])
    lowest = _by_temperature(found[0])[0]
    plots.caption(
        figure,
        f"{_setting(lowest)}; σ of the small-noise theory; p: Kolmogorov–Smirnov with one level a replica, centre and "
        f"width fitted, in the order of the legend. {_what(run)}",
    )
    return figure


def _usable(one: Analysis) -> list[Ensemble]:
    """Settings with enough replicas left to be analysed, as in `analyse`."""
    return [e for e in one.ensembles if len(e.levels) >= LEAST]


def _by_temperature(one: Analysis) -> list[Ensemble]:
    return sorted(_usable(one), key=lambda e: e.temperature)


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of the items, first and last among them."""
    chosen = dict.fromkeys(np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int))
    return [items[i] for i in chosen]


def _is_rate_scan(usable: Sequence[Ensemble], e: Ensemble) -> bool:
    """Does the setting belong to the scan of the learning rate: the batch size that most settings have?"""
    sizes = [other.batch_size for other in usable]
    return e.batch_size == max(set(sizes), key=sizes.count)


def _density(u: np.ndarray, size: int) -> np.ndarray:
    """Exact one-level density of a k-fold multiplet with σ = 1."""
    return np.asarray(laws.GeneralisedSemicircle(centres=np.zeros(1), sizes=(size,), sigma=1.0).pdf(u))


def _multiplet(at: np.ndarray, centre: Any, e: Ensemble, run: ScalingRun, part: slice) -> np.ndarray:
    sigma = float(run.width(e.temperature)[part.start])
    return _density((at - float(centre)) / sigma, part.stop - part.start) / sigma


def _shown(run: ScalingRun, x: Any) -> np.ndarray:
    """λ = μ² − x for the RBM, as its paper plots it; x otherwise."""
    mass2 = float(np.asarray(run.network.mass2)) if isinstance(run.network, GaussianRBM) else 0.0
    return mass2 - np.asarray(x) if mass2 else np.asarray(x)


def _level(run: ScalingRun, shown: bool = False) -> str:
    if run.model == "rbm":
        return r"eigenvalue $\lambda = \mu^2 - x$" if shown else "$x$"
    return r"singular value $\xi$" if shown else r"$\xi$"


def _setting(e: Ensemble) -> str:
    return rf"$\alpha$ = {e.learning_rate:.3g}, $|B|$ = {e.batch_size}"


def _what(run: ScalingRun) -> str:
    told = "Linear teacher–student"
    if isinstance(run, RBMScaling):
        told = f"Gaussian RBM, {run.visible} visible units"
    elif isinstance(run, LinearScaling):
        told = f"Linear network with one hidden layer, {run.train} trained"
    return f"{told}, {run.seeds} seeds a setting."
