"""Which learning rates learn: an experiment in rounds that ends with an advice.

The experiment and its settings, which are read without JAX. `rounds` decides what is trained next, `answer` what the
networks say, `words` and `figures` show it.
"""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from dysonjax.core.errors import InputError, require, whole
from dysonjax.engine.jobs import Results
from dysonjax.experiments.base import Report
from dysonjax.experiments.learning.of_network import OfNetwork

if TYPE_CHECKING:
    from dysonjax.engine.scanning import ScanJob
    from dysonjax.experiments.advice.answer import Answer
    from dysonjax.experiments.advice.rounds import Network, Plan
    from dysonjax.experiments.advice.tried import Line, Tried
    from dysonjax.experiments.learning.job import NetworkJob

RATES: tuple[float, ...] = tuple(float(f"{10 ** (k / 2):.3g}") for k in range(-8, 3))
"""Learning rates of the first round, where none are given: two a decade."""
BLOCK = 256
"""Replicas that are computed together in every round, so that all rounds share one program."""


@dataclass(frozen=True)
class Advice(OfNetwork):
    """Say which learning rates your own network learns with, and which one to use, with errors.

    dysonjax advise mynet.py:make --budget 5m

    FILE.py is run, in its own folder: give it only a file that you trust. FUNCTION takes no arguments and returns a
    model (dj.models.FlaxModel or FunctionModel) with its data.
    """

    kind = "advise"
    first = "model"
    call = "dysonjax.advise"
    extendable = False  # what it has found decides what it tries
    apart = (*OfNetwork.apart, "networks", "prices", "together")

    budget: str = "2m"
    """what the networks may cost: a time (90s, 5m, 1h), compiling included, or '2e6 updates'"""
    learning_rate: tuple[float, ...] = ()
    """learning rates of the first round (default 0.0001 … 10, two a decade, and above if all of them learn)"""
    batch_size: tuple[int, ...] = (8, 32, 128)
    """batch sizes |B|"""
    steps: int = 1000
    """updates of every network"""
    init_width: float = 1.0
    """what multiplies the watched matrices at the start"""
    precision: float = 1.25
    """a safe rate is known well enough when the ends of its interval differ by less than this factor"""
    rounds: int = 5
    """rounds at most, the one with fresh seeds apart"""
    snapshots: int = 11
    """how often spectra and losses are recorded, log-spaced in time"""
    networks: int = field(init=False, default=-1)
    """what the budget buys, measured once: networks of the line that costs least"""
    prices: tuple[float, ...] = field(init=False, default=())
    """price of a network of each line, in networks of the cheapest"""
    together: int = field(init=False, default=1)
    """networks of one batch size that are computed side by side, so that fewer cost as much"""

    def __post_init__(self):
        for name in ("steps", "rounds"):
            whole(name, getattr(self, name))
        whole("snapshots", self.snapshots, 3)
        require(len(self.batch_size) > 0, "batch_size", self.batch_size, "at least one value")
        rates = self.learning_rate
        require(all(rate > 0 for rate in rates), "learning_rate", rates, "positive numbers")
        require(len({*rates}) == len(rates) != 1, "learning_rate", rates, "at least two values that differ")
        require(1.01 <= self.precision < float("inf"), "precision", self.precision, "a factor of at least 1.01")
        self.check()

    def settled(self, there: Mapping[str, Any] | None) -> Self:
        """With what the budget buys: as the run says that is there, else measured on this machine."""
        from dysonjax.experiments.advice.budget import bought, seconds_or_updates

        if self.networks >= 0:
            return self
        seconds_or_updates(self.budget)
        if there is None:
            from dysonjax.experiments.advice.rounds import Network

            scans = [self.scan([Network(i, self.rates[0], 0)]) for i in range(len(self.lines))]
            found = bought(self.budget, scans, BLOCK, self.steps)
            there = found._asdict()
        made = copy.copy(self)
        object.__setattr__(made, "networks", there["networks"])
        object.__setattr__(made, "prices", tuple(there["prices"]))
        object.__setattr__(made, "together", there.get("together", 1))  # not known to earlier versions
        return made

    @property
    def rates(self) -> tuple[float, ...]:
        """Learning rates of the first round, rising."""
        return tuple(sorted(self.learning_rate)) or RATES

    @property
    def lines(self) -> list[Line]:
        """Every batch size with all values of the further numbers."""
        from dysonjax.experiments.advice.tried import Line

        several = itertools.product(self.batch_size, *self.axes.values())
        return [Line(int(size), tuple(zip(self.axes, values, strict=True))) for size, *values in several]

    @property
    def plan(self) -> Plan:
        """What the rounds need to know of the settings."""
        from dysonjax.experiments.advice.rounds import Plan

        return Plan(self.lines, self.prices, self.precision, self.rounds, not self.learning_rate, self.together)

    def scan(self, networks: Sequence[Network], name: str = "") -> ScanJob:
        """The scan of some networks; raises as `objects` does."""
        from dysonjax.engine.grid import Points
        from dysonjax.experiments.learning.gradient_noise import gradient_noise
        from dysonjax.experiments.learning.job import scan_of

        lines = [self.lines[one.line].values for one in networks]
        points = Points(
            learning_rate=[one.rate for one in networks], init_width=self.init_width,
            **{own: [line[own] for line in lines] for own in lines[0]}, seed=[one.seed for one in networks],
        )  # fmt: skip
        return scan_of(
            self, points, self.steps, self.key, self.snapshots, self.tests, lambda model: [gradient_noise(model)],
            paired=True, name=name, whole_blocks=True,
        )  # fmt: skip

    def jobs(self, results: Results) -> Sequence[NetworkJob]:
        """The rounds so far, and the next one as soon as they are finished."""
        jobs: list[NetworkJob] = []
        while not jobs or (jobs[-1].name in results and jobs[-1].name != "fresh"):
            name, networks = self._next(results, len(jobs) + 1)
            if not networks:
                break
            jobs.append(self._job(name, networks))
        return jobs

    def _next(self, results: Results, number: int) -> tuple[str, Sequence[Network]]:
        """Name and networks of round `number`, or of the last one: those that it has trained, else those it shall."""
        from dysonjax.experiments.advice import rounds

        name, plan = f"round-{number}", self.plan
        if name in results:
            return name, rounds.networks_of(results[name], self.lines)
        if number == 1:
            first = rounds.first_round(plan, self.rates, self.networks)
            if not first:
                raise InputError(f"budget = {self.budget!r}: {self._too_small()}")
            return name, first
        before = {earlier: results[earlier] for earlier in (f"round-{k}" for k in range(1, number))}
        tried = self.tried(before)
        left = self.networks - sum(plan.cost(rounds.networks_of(ds, self.lines)) for ds in before.values())
        if networks := rounds.next_round(plan, tried, number, left):
            return name, networks
        return "fresh", rounds.last_round(plan, tried, left)

    def _job(self, name: str, networks: Sequence[Network]) -> NetworkJob:
        from dysonjax.experiments.learning.job import NetworkJob

        scan = functools.partial(self.scan, networks, name)
        return NetworkJob(scan, len(networks), self.steps, name, lambda: BLOCK)

    def tried(self, results: Mapping[str, Any]) -> Tried:
        """What the networks of finished rounds did."""
        from dysonjax.experiments.advice.tried import tried_of

        return tried_of(results, self.lines, self.metric, self.thresholds)

    def analyse(self, results: Results) -> Answer:
        """The answer for each line, and across batch sizes."""
        from dysonjax.experiments.advice.answer import answer

        return answer(self, results)

    def report(self, analysis: Answer) -> Report:
        """One sentence, tables, reasons, figures."""
        from dysonjax.experiments.advice import figures, words

        return Report(words.said(analysis), lambda directory: figures.draw(analysis, directory), width=130)

    def _too_small(self) -> str:
        from dysonjax.experiments.advice.rounds import LEAST_SEEDS

        least = self.plan.networks(dict.fromkeys(range(len(self.lines)), self.rates), LEAST_SEEDS)
        cost = self.plan.cost(least) / 0.6
        times = f"{cost / self.networks:.2g} times as much" if self.networks else "more"
        return (
            f"expected {times}, or fewer --steps: the first round trains {len(least)} networks of {self.steps} "
            f"updates, and the budget buys {self.networks} of those that cost least"
        )
