"""What a budget buys: a time becomes a number of networks, once, by training a few of them."""

import re
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dysonjax.core.errors import InputError, require, shown
from dysonjax.engine.loop import simulate
from dysonjax.engine.planning import prepare
from dysonjax.engine.scanning import ScanJob

SECONDS = 1.0
"""How long the updates that are measured should take."""
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
EXPECTED = "a time such as 90s, 5m or 1h, or a number of updates such as '2e6 updates'"


class Bought(NamedTuple):
    """A budget in networks of the cheapest line, and the price of a network of each line in these."""

    networks: int
    prices: tuple[float, ...]


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
        return Bought(int(updates // steps), (1.0,) * len(scans))
    began = time.perf_counter()
    sizes = [int(np.ravel(scan.grid.axes["batch_size"])[0]) for scan in scans]
    known = {size: _measured(scans[sizes.index(size)], block) for size in sorted({min(sizes), max(sizes)})}
    own = [float(np.interp(size, [*known], [cost for cost, _ in known.values()])) for size in sizes]
    others = len({*sizes}) - len(known)  # programs not compiled yet
    compiling = others * float(np.mean([compiling for _, compiling in known.values()]))
    left = seconds - (time.perf_counter() - began) - compiling
    cheapest = min(own)
    return Bought(max(int(left / cheapest), 0), tuple(float(f"{cost / cheapest:.4g}") for cost in own))


def _measured(scan: ScanJob, block: int) -> tuple[float, float]:
    """Seconds of one network in a full block, and of compiling."""
    planned = prepare(scan, None, 1, block)
    keys, hyper = planned.replicas.keys(0, slice(0, 1)), planned.replicas.hyper(0, slice(0, 1))
    keys = keys[np.zeros(block, int)]
    hyper = {
        name: value if np.ndim(value) == 0 else np.repeat(np.asarray(value), block) for name, value in hyper.items()
    }

    def took(updates: int) -> float:
        began = time.perf_counter()
        marks = [mark for mark in planned.marks if mark < updates]
        simulate(
            scan.dynamics, keys, hyper, updates, snapshots=[*marks, updates], observables=planned.observables,
            devices=planned.devices, tile=planned.tile, block_size=block,
        )  # fmt: skip
        return time.perf_counter() - began

    first = took(1)
    start = took(1)
    updates, last = 1, start
    while updates < scan.steps and last - start < SECONDS:
        updates = min(scan.steps, int(np.ceil(updates * min(50.0, max(2.0, 1.2 * SECONDS / max(last - start, 1e-3))))))
        last = took(updates)
    whole = start + max(last - start, 0.0) * (scan.steps - 1) / max(updates - 1, 1)
    return whole / block, max(first - start, 0.0)
