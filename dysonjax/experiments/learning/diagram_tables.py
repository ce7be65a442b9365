"""What a network's phase diagram says in words: a sentence, a table by phase, and one for each batch size."""

import itertools
from typing import Any

import numpy as np
import xarray as xr

from dysonjax.core.tables import Table
from dysonjax.experiments.learning.boundaries import SAFE
from dysonjax.experiments.learning.diagram_summary import Summary, told, trained_by
from dysonjax.experiments.learning.phases import DIVERGED, LEARNS, PHASES, level_variables

FORMS = {"published": "published", "exact": "in the eigenbasis"}
"""The two readings of the Langevin criterion, and how they are called."""
MOST_ROWS = 60
"""Rows of a table; the other points are in the dataset."""
NO_CRITERION = (
    "The Langevin criterion is left out: it needs the loss of one example, plain gradient descent (no optimizer, no "
    "schedule) and a watched matrix of 3 to 128 levels."
)


def said(found: Summary) -> list[Any]:
    """All sentences and tables."""
    parts: list[Any] = [sentence(found), *matrices(found), phase_table(found)]
    parts += [batch_table(found, index) for index in range(found.points.sizes["batch_size"])]
    return parts


def sentence(found: Summary) -> str:
    """Which learning rates learn, at the batch size and other values of the best point, and what happens beyond."""
    ds, points = found.ds, found.points
    run, metric = told(ds), found.metric.replace("_", " ")
    what = f"{run.get('model', 'The network')}, {trained_by(run)}, {run['steps']} updates"
    initial, best = float(found.replicas.initial), float(found.replicas.best)
    if not np.isfinite(found.target):
        return (
            f"{what}: nothing learns. The {metric} starts at {initial:.3g}, and its best median at the end is "
            f"{best:.3g}; of {int(points.replicas.sum())} networks {_counts(found)}."
        )
    at = found.best()
    column = points.isel({name: place for name, place in at.items() if name != "learning_rate"})
    middle, rate = float(points.end.isel(at).sel(quantile=0.5)), float(points.learning_rate[at["learning_rate"]])
    return (
        f"{what}: {_of_rates(found, column.sortby('learning_rate'))}. {'Highest' if found.larger else 'Lowest'} median "
        f"{metric}: {middle:.3g}, at learning rate {rate:g}; it starts at {initial:.3g}, and to learn is to reach "
        f"{found.target:.3g}."
    )


def _of_rates(found: Summary, column: xr.Dataset) -> str:
    """Which rates of a column learn, the largest safe one, and what happens beyond."""
    rates, probability = column.learning_rate.values, column.learns.values
    rest = _named(column, [name for name in found.varied if name != "learning_rate"])
    where = f"at {rest}, " if rest else ""
    good = probability >= 0.5
    if not good.any():
        return f"{where}no learning rate lets half of the networks learn"
    few, verb = ("", "learns") if good.sum() == 1 else ("s", "learn")
    text = f"{where}learning rate{few} {_runs(rates, good)} {verb} in at least half of the networks"
    if (safe := np.flatnonzero(probability >= SAFE)).size:
        top = column.isel(learning_rate=int(safe[-1]))
        interval = f"{float(top.low):.2f} – {float(top.high):.2f}"
        text += (
            f"; {rates[safe[-1]]:g} is the largest at which {_all(top)} learn (95 % interval of P(learns): {interval})"
        )
    return text + "".join(_beyond(column, rates, rates[good]))


def _all(point: xr.Dataset) -> str:
    total = int(point.replicas)
    count = round(float(point.learns) * total)
    return f"all {total}" if count == total else f"{count} of {total}"


def _runs(rates: np.ndarray, good: np.ndarray) -> str:
    """The good rates in words: neighbours as ranges."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], good.astype(int), [0]])))
    pairs = zip(rates[edges[::2]], rates[edges[1::2] - 1], strict=True)
    return " and ".join(f"{first:g}" if first == last else f"{first:g} to {last:g}" for first, last in pairs)


def matrices(found: Summary) -> list[str]:
    """Whether the Langevin criterion is there; what it says stands in the tables and a figure."""
    if any(str(name).startswith("criterion_") for name in found.points):
        return []
    return [NO_CRITERION] if level_variables(found.ds) else ["No matrix is watched, so nothing is said of levels."]


def phase_table(found: Summary) -> Table:
    """One row a phase: how many networks, points where it is the most frequent, and medians over its networks."""
    phase = found.replicas.phase.values
    title = f"What became of {int(found.points.replicas.sum())} networks; medians over those of a phase"
    table = _table(title, ("phase", "networks", "points", f"{found.metric.replace('_', ' ')}", "16 – 84 %", "levels ×"))
    for index, name in enumerate(PHASES):
        own = phase == index
        points = int((found.points.common.values == index).sum())
        end, growth = found.replicas.end.values[own], found.replicas.growth.values[own]
        table.add_row(name, str(int(own.sum())), str(points), _middle(end), _range(end), _middle(growth))
    names = "levels ×: largest level at the end over that of networks that learn (or its start, if larger)"
    table.caption = names if level_variables(found.ds) else None
    return table


def batch_table(found: Summary, index: int) -> Table:
    """One row a point of a batch size: P(learns) with Wilson's interval at 95 %, phases, the metric at the end."""
    points = found.points.isel(batch_size=index)
    others = [name for name in found.varied if name not in ("learning_rate", "batch_size")]
    axes = [name for name in found.axes if name != "batch_size"]
    memories = [str(n) for n in points if str(n).startswith("memory")]
    criteria = [str(n) for n in points if str(n).startswith("criterion_")]
    columns = ["learning rate", *(name.replace("_", " ") for name in others), "P(learns)", "95 % interval", "others"]
    columns += [f"median {found.metric.replace('_', ' ')}", "16 – 84 %", *(["levels ×"] if memories else [])]
    columns += ["memory"] if memories else []
    columns += ["Langevin"] if criteria else []
    table = _table(f"Batch size {int(points.batch_size)}: {found.ds.sizes['seed']} networks a point", columns)
    order = [*others, "learning_rate", *(a for a in axes if a not in others and a != "learning_rate")]
    places = [*itertools.product(*(range(points.sizes[name]) for name in order))]
    for place in places[:MOST_ROWS]:
        at = points.isel(dict(zip(order, place, strict=True)))
        row = [f"{float(at.learning_rate):g}", *(f"{float(at[name]):g}" for name in others)]
        row += [f"{float(at.learns):.2f}", f"{float(at.low):.2f} – {float(at.high):.2f}", _others(at)]
        low, middle, high = (float(at.end.sel(quantile=q)) for q in (0.16, 0.5, 0.84))
        row += ["–", "–"] if np.isnan(middle) else [f"{middle:.3g}", f"{low:.3g} – {high:.3g}"]
        row += [_number(float(at.growth)), _number(_lowest(at, memories))] if memories else []
        row += ["/".join(f"{_lowest(at, [c for c in criteria if f in c]):.2f}" for f in FORMS)] if criteria else []
        table.add_row(*row)
    notes = ["memory: overlap with the initial weights, of the matrix that moved most"] if memories else []
    notes += ["Langevin: share of networks learnable by the criterion, published/eigenbasis, worst matrix"] * bool(
        criteria
    )
    notes += [f"the first {MOST_ROWS} of {len(places)} points"] * (len(places) > MOST_ROWS)
    table.caption = "; ".join(notes) or None
    return table


def _beyond(column: xr.Dataset, rates: np.ndarray, good: np.ndarray) -> list[str]:
    """What the networks are below and above the rates that learn."""
    common, found = column.common.values, []
    for word, outside in (("below", rates < good[0]), ("above", rates > good[-1])):
        phases = {int(phase): None for phase in common[outside] if phase != LEARNS}
        if phases:
            found.append(f"; {word}, they are {' or '.join(_verb(p) for p in phases)}")
        elif not outside.any():
            found.append(f"; none {word} was tried")
    return found


def _verb(phase: int) -> str:
    return "diverging" if phase == DIVERGED else PHASES[phase]


def _others(at: xr.Dataset) -> str:
    """Phases besides learning, by the number of networks."""
    counts = np.rint(at.share.values * int(at.replicas)).astype(int)
    return ", ".join(f"{n} {PHASES[i]}" for i, n in enumerate(counts) if n and i != LEARNS) or "–"


def _counts(found: Summary) -> str:
    phase = found.replicas.phase.values
    return ", ".join(f"{n} {PHASES[i]}" for i in range(len(PHASES)) if (n := int((phase == i).sum())))


def _lowest(at: xr.Dataset, names: list[str]) -> float:
    values = [float(at[name]) for name in names]
    good = [v for v in values if np.isfinite(v)]
    return min(good) if good else np.nan


def _named(at: xr.Dataset, names: list[str]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {float(at[name]):g}" for name in names)


def _middle(values: np.ndarray) -> str:
    good = values[~np.isnan(values)]
    return f"{np.median(good):.3g}" if good.size else "–"


def _range(values: np.ndarray) -> str:
    good = values[~np.isnan(values)]
    return " – ".join(f"{v:.3g}" for v in np.quantile(good, (0.16, 0.84), method="nearest")) if good.size else "–"


def _number(value: float) -> str:
    return f"{value:.3g}" if np.isfinite(value) else "–"


def _table(title: str, columns: Any) -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left")
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index else "left")
    return table
