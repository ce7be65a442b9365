"""What a budget buys: a time becomes a number of networks, once, by training a few of them."""

import math
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from dysonjax.core.errors import InputError, require, shown
from dysonjax.engine.loop import simulate
from dysonjax.engine.planning import prepare
from dysonjax.engine.scanning import ScanJob
from dysonjax.runtime.devices import cores

SECONDS = 1.0
"""How long the updates that are measured should take."""
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
EXPECTED = "a time such as 90s, 5m or 1h, or a number of updates such as '2e6 updates'"


class Bought(NamedTuple):
    """A budget in networks of the cheapest line, and the price of a network of each line in these.

    `together`: networks that are computed side by side, so that fewer cost as much.
    """

    networks: int
    prices: tuple[float, ...]
    together: int


def seconds_or_updates(budget: str) -> tuple[float | None, float | None]:
    """The time, or the number of updates of single networks, that a text says; raises `InputError`.

    >>> seconds_or_updates("5m"), seconds_or_updates("2e6 updates")
    ((300.0, None), (None, 2000000.0))
    """
    found = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*(s|m|h|updates)\s*", budget) if isinstance(budget, str) else None
    try:
        assert found is not None
        value = float(found[1])
    except (AssertionError, ValueError):
        raise InputError(f"budget = {shown(budget)}: expected {EXPECTED}") from None
    require(value > 0, "budget", budget, EXPECTED)
    return (None, value) if found[2] == "updates" else (value * UNITS[found[2]], None)


def bought(budget: str, scans: Sequence[ScanJob], block: int, steps: int) -> Bought:
    """What a budget buys.

    Compiling is paid from a time, too: the programs that are measured here are used again by the rounds.

    Args:
        budget: see `seconds_or_updates`; by updates all lines cost the same.
        scans: one network of each line.
        block: replicas that are computed together.
        steps: updates of a network.

    Raises:
        InputError: a bad budget, or whatever is wrong with the network.
    """
    seconds, updates = seconds_or_updates(budget)
    if seconds is None:
        assert updates is not None
        return Bought(int(updates // steps), (1.0,) * len(scans), 1)
    began = time.perf_counter()
    sizes = [int(np.ravel(scan.grid.axes["batch_size"])[0]) for scan in scans]
    trials = {size: _Trial(scans[sizes.index(size)], block) for size in sorted({*sizes})}
    with ThreadPoolExecutor(min(cores(), len(trials))) as pool:
        list(pool.map(lambda trial: trial.took(1), trials.values()))  # compiles
    known = {size: trials[size].seconds_a_network() for size in sorted({min(sizes), max(sizes)})}
    own = [float(np.interp(size, [*known], [*known.values()])) for size in sizes]
    spent, cheapest = time.perf_counter() - began, min(own)
    if spent + cheapest > seconds:
        raise InputError(f"budget = {budget!r}: expected more than {spent:.0f}s, which compiling and measuring took")
    prices = tuple(float(f"{cost / cheapest:.4g}") for cost in own)
    return Bought(int((seconds - spent) / cheapest), prices, max(trial.together for trial in trials.values()))


class _Trial:
    """One network, again and again, as often as are computed side by side, by the program of a block."""

    def __init__(self, scan: ScanJob, block: int) -> None:
        self.scan, self.block, self.planned = scan, block, prepare(scan, None, 1, block)
        self.together = count = self.planned.tile * len(self.planned.devices)
        one = slice(0, 1)
        self.keys, hyper = self.planned.replicas.keys(0, one)[np.zeros(count, int)], self.planned.replicas.hyper(0, one)
        self.hyper = {name: np.repeat(np.asarray(x), count) if np.ndim(x) else x for name, x in hyper.items()}

    def took(self, updates: int) -> float:
        """Seconds of so many updates, the records of the first ones among them."""
        began, planned = time.perf_counter(), self.planned
        marks = [mark for mark in planned.marks if mark < updates]
        simulate(
            self.scan.dynamics, self.keys, self.hyper, updates, snapshots=[*marks, updates],
            observables=planned.observables, devices=planned.devices, tile=planned.tile, block_size=self.block,
        )  # fmt: skip
        return time.perf_counter() - began

    def seconds_a_network(self) -> float:
        """From as many updates as take a second."""
        start = self.took(1)
        updates, last, all_of_them = 1, start, self.scan.steps
        while updates < all_of_them and last - start < SECONDS:
            factor = min(50.0, max(2.0, 1.2 * SECONDS / max(last - start, 1e-3)))
            updates = min(all_of_them, math.ceil(updates * factor))
            last = self.took(updates)
        return (start + max(last - start, 0.0) * (all_of_them - 1) / max(updates - 1, 1)) / self.together
