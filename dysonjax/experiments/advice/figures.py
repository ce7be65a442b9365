"""The figures of an advice: who learns, the metric at the end, level flow at three points, rates over batch sizes."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from dysonjax.experiments import plotting as plots
from dysonjax.experiments.advice.answer import Answer, OfLine
from dysonjax.experiments.advice.tried import Tried, networks_at
from dysonjax.experiments.advice.words import number
from dysonjax.experiments.learning.boundaries import Power, wilson
from dysonjax.experiments.learning.phases import level_variables

MOST_PANELS = 6
"""Lines that are drawn; the table has all."""
MOST_MATRICES = 3


def draw(answer: Answer, directory: Path) -> list[Path]:
    """Write them all."""
    with plots.style():
        figures = {"who_learns": who_learns(answer), "metric": metric_over_rate(answer)}
        if (flow := level_flow(answer)) is not None:
            figures["level_flow"] = flow
        if any(one.safe or one.best for one in answer.across):
            figures["over_batch_size"] = over_batch_size(answer)
        return [plots.save(figure, directory / f"{name}.png") for name, figure in figures.items()]


def who_learns(answer: Answer) -> Figure:
    """Share of networks that learn over the learning rate, with the fit and the boundary."""

    def panel(ax: Axes, one: OfLine, own: Tried) -> None:
        rates = own.rates()
        learned = np.array([own.learned[own.rate == rate].sum() for rate in rates])
        count = np.array([(own.rate == rate).sum() for rate in rates])
        share = learned / count
        low, high = wilson(learned, count)
        bars = np.abs(np.stack([share - low, high - share]))
        ax.errorbar(rates, share, bars, fmt="o", color="black", markersize=3.5, capsize=1.5, linewidth=0.8)
        if math.isfinite(one.safe.rate):
            side = np.geomspace(max(one.safe.low, rates.min()), rates.max(), 300)
            curve, fitted = one.safe.curve(side), side <= one.safe.reach
            for edge in one.safe.band(side):
                ax.plot(side[fitted], edge[fitted], color="0.5", linewidth=0.7)
            ax.plot(side[fitted], curve[fitted], color="0.35", linewidth=1.3)
            ax.plot(side[~fitted], curve[~fitted], color="0.35", linewidth=1.3, linestyle=":")
            ax.axvline(one.safe.rate, color="black", linewidth=0.9)
            high_end = one.safe.high if math.isfinite(one.safe.high) else rates.max()
            ax.axvspan(max(one.safe.low, rates.min()), high_end, color="0.8", zorder=0)
        ax.set_ylim(-0.04, 1.04)

    handles = [
        Line2D([], [], marker="o", color="black", linestyle="none", markersize=3.5, label="share, Wilson 95 %"),
        Line2D([], [], color="0.35", linewidth=1.3, label="fit"),
        Line2D([], [], color="0.5", linewidth=0.7, label="95 % band of the fit"),
        Line2D([], [], color="0.35", linewidth=1.3, linestyle=":", label="best falling curve, beyond"),
        Line2D([], [], color="black", linewidth=0.9, label="largest safe rate"),
        Patch(color="0.8", label="95 % interval of that rate"),
        Line2D([], [], color="black", linestyle="--", linewidth=0.9, label="recommended"),
    ]
    return _panels(answer, panel, "share that learns", handles)


def metric_over_rate(answer: Answer) -> Figure:
    """The metric at the end over the learning rate: median and 16 – 84 % of the networks that did not diverge."""
    sign = -1.0 if answer.larger_is_better else 1.0
    ends = sign * answer.tried.end
    log = bool(np.all(ends[np.isfinite(ends)] > 0)) and not answer.larger_is_better

    def panel(ax: Axes, one: OfLine, own: Tried) -> None:
        found = []
        for rate in own.rates():
            values = sign * own.end[(own.rate == rate) & np.isfinite(own.end)]
            if len(values):
                found.append((rate, *np.quantile(values, [0.16, 0.5, 0.84])))
        if found:
            rate, low, middle, high = np.array(found).T
            ax.errorbar(
                rate, middle, np.stack([middle - low, high - middle]), fmt="o", color="black", markersize=3.5,
                capsize=1.5, linewidth=0.8,
            )  # fmt: skip
        if one.fresh and one.recommended:
            ax.plot(one.recommended, sign * one.fresh.mean, "D", markersize=6, color="white", markeredgecolor="black")
        if math.isfinite(answer.tried.target):
            ax.axhline(answer.tried.target, color="0.4", linestyle=":", linewidth=1.1)
        ax.set_yscale("log" if log else "linear")

    handles = [
        Line2D([], [], marker="o", color="black", linewidth=0.8, markersize=3.5, label="median, 16 – 84 %"),
        Line2D([], [], marker="D", color="white", markeredgecolor="black", linestyle="none", label="mean, fresh seeds"),
        Line2D([], [], color="0.4", linestyle=":", label="target"),
        Line2D([], [], color="black", linestyle="--", linewidth=0.9, label="recommended"),
    ]
    return _panels(answer, panel, answer.tried.metric.replace("_", " "), handles)


def level_flow(answer: Answer) -> Figure | None:
    """Levels of one network each below, at and above the recommended rate of a line; None where nothing is watched."""
    chosen = next((one for one in answer.lines if one.recommended is not None), None)
    names = level_variables(next(iter(answer.datasets.values())))[:MOST_MATRICES]
    if chosen is None or not names:
        return None
    rates = {
        "below": chosen.below.rate if chosen.below else None,
        "recommended": chosen.recommended,
        "above": chosen.above.rate if chosen.above else None,
    }
    points = {what: rate for what, rate in rates.items() if rate is not None}
    size = (3.0 * len(points), 2.3 * len(names) + 0.6)
    figure, panels = plots.new_figure(len(names), len(points), size)
    for column, (what, rate) in enumerate(points.items()):
        for row, name in enumerate(names):
            ds, place = _network(answer, chosen, rate)
            levels = ds[name].isel(point=place)
            values = levels.transpose("snapshot", ...).values
            stop = int(ds.diverged_step.values[place])
            plots.level_flow(panels[row, column], ds.step.values, values, stop if stop >= 0 else None)
            if not column:
                label = name.removeprefix("levels_")
                panels[row, 0].set_ylabel("levels" if label == "levels" else f"levels of\n{label}")
        panels[0, column].set_title(f"{what}: learning rate {number(rate)}", fontsize=8.5)
    for row in panels:
        ends = np.array([ax.get_ylim() for ax in row])
        for ax in row:
            ax.set_ylim(ends[:, 0].min(), ends[:, 1].max())
    plots.caption(figure, f"One network each, {chosen.line}. A dotted line: where it became non-finite.")
    return figure


def over_batch_size(answer: Answer) -> Figure:
    """Largest safe rate with its interval and recommended one with its range, over the batch size; fitted powers."""
    figure, panels = plots.new_figure(1, len(answer.across), (4.0 * len(answer.across), 3.4), sharey=True)
    for ax, across in zip(panels[0], answer.across, strict=True):
        own = [one for one in answer.lines if one.line.more == across.more]
        sizes = np.array([one.line.batch_size for one in own], float)
        safe = np.array([(one.safe.rate, one.safe.low, one.safe.high) for one in own])
        best = np.array([(one.recommended or np.nan, *one.best) for one in own])
        for values, power, marker, line, name, aside in (
            (safe, across.safe, "o", "-", "largest safe, 95 %", 1.0),
            (best, across.best, "s", "--", "recommended, best within", 1.05),  # beside the other's bars
        ):
            bars = np.abs(np.stack([values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]]))
            bars = np.where(np.isfinite(bars), bars, 0)
            filled = "black" if marker == "o" else "white"
            p = "" if power is None else f", p = {power.exponent:.2f} ({power.low:.2f} to {power.high:.2f})"
            ax.errorbar(
                sizes * aside, values[:, 0], bars, fmt=marker, color="black", markerfacecolor=filled, capsize=2,
                label=name + p.replace("-", "−"),
            )  # fmt: skip
            if power is not None:
                ax.plot(sizes, _powers(power, sizes), line, color="0.4", linewidth=1)
        ax.set(xscale="log", yscale="log", xlabel="batch size |B|", ylabel="learning rate α")
        plots.log_ticks(ax, "x", sizes)
        if across.more:
            ax.set_title(", ".join(f"{n.replace('_', ' ')} {v:g}" for n, v in across.more), fontsize=8.5)
        ax.legend(fontsize=7.5, loc="lower left", bbox_to_anchor=(0, 1.08 if across.more else 1.0))
    return figure


def _powers(power: Power, sizes: np.ndarray) -> np.ndarray:
    return power.prefactor * sizes**power.exponent


def _panels(
    answer: Answer, panel: Callable[[Axes, OfLine, Tried], None], label: str, handles: Sequence[Line2D | Patch]
) -> Figure:
    """One panel for each line, all over the learning rate."""
    lines = [*answer.lines[:MOST_PANELS]]
    columns = min(len(lines), 3)
    rows = -(-len(lines) // columns)
    figure, panels = plots.new_figure(rows, columns, (max(3.0 * columns, 4.2), 2.6 * rows + 0.9), sharey=True)
    for number_, ax in enumerate(panels.ravel()):
        if number_ >= len(lines):
            ax.set_axis_off()
            continue
        own = answer.tried.where((answer.tried.line == number_) & ~answer.tried.fresh)
        panel(ax, lines[number_], own)
        recommended = lines[number_].recommended
        if recommended is not None:
            ax.axvline(recommended, color="black", linestyle="--", linewidth=0.9)
        ax.set_xscale("log")
        ax.set_xlabel("learning rate")
        ax.set_title(str(lines[number_].line), fontsize=9)
        if number_ % columns == 0:
            ax.set_ylabel(label)
    plots.figure_legend(figure, handles)
    if len(answer.lines) > MOST_PANELS:
        plots.caption(figure, f"The first {MOST_PANELS} of {len(answer.lines)}.")
    return figure


def _network(answer: Answer, one: OfLine, rate: float):
    """A dataset and the place in it of a network at a rate of a line, finite if there is one."""
    found = []
    for ds in answer.datasets.values():
        at = networks_at(ds, learning_rate=rate, **one.line.values)
        found += [(int(ds.diverged_step.values[place] >= 0), ds, place) for place in np.flatnonzero(at)]
    _, ds, place = min(found, key=lambda entry: entry[0])
    return ds, int(place)
