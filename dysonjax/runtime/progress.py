"""The progress bar of a run, counted in replica-updates."""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol


class Bar(Protocol):
    """Receives completed replica-updates."""

    def advance(self, updates: int) -> None: ...


class _Silent:
    def advance(self, updates: int) -> None:
        return


class Pace:
    """How many updates were made, in how much time that was no compilation: a window of the last minute.

    What is there at the start, the finished part of a run that is continued, took no time and does not count.
    """

    WINDOW = 60.0

    def __init__(self, now: Callable[[], float] = time.perf_counter, compiled: Callable[[], float] | None = None):
        from dysonjax.runtime.compilation import seconds_compiling

        self._now, self._compiled = now, compiled or seconds_compiling
        self._seen: deque[tuple[float, int]] = deque()
        self.updates = 0

    def advance(self, updates: int) -> None:
        """So many more are finished; the first call says how many were there before."""
        self.updates += updates if self._seen else 0
        self._seen.append((self._now() - self._compiled(), self.updates))
        while len(self._seen) > 2 and self._seen[1][0] < self._seen[-1][0] - self.WINDOW:
            self._seen.popleft()

    @property
    def rate(self) -> float:
        """Updates per second."""
        (began, before), (now, updates) = self._seen[0], self._seen[-1]
        return (updates - before) / max(now - began, 1e-9)


def in_notebook() -> bool:
    """Is this the process of a notebook, where Ctrl-C stops a cell and not the program?"""
    ipython = sys.modules.get("IPython")
    return ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None


@contextmanager
def progress_bar(what: str, total: int, wanted: bool | Bar | None = None, rate: bool = True) -> Iterator[Bar]:
    """A bar on the terminal with the time spent and left, and the rate of updating, in which no compilation counts.

    `wanted`: True or False; None shows it only where there is a terminal; an object with `advance` is used instead.
    """
    if not isinstance(wanted, bool | None):
        yield wanted
        return
    if not (sys.stderr.isatty() if wanted is None else wanted):
        yield _Silent()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.text import Text

    from dysonjax.runtime.compilation import compiling

    measured = Pace()

    class Rate(ProgressColumn):
        def render(self, task: Any) -> Text:
            if compiling() or not measured.updates:
                return Text("compiling …")
            return Text(f"{measured.rate / 1e6:.2f} M updates/s")

    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"), *[Rate()] * rate,
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    bars = Progress(*columns, console=Console(stderr=True), speed_estimate_period=60)
    task = bars.add_task(what, total=total)

    class Live:
        def advance(self, updates: int) -> None:
            bars.start()  # not before: bad input must not leave an empty bar
            measured.advance(updates)
            bars.advance(task, updates)

    try:
        yield Live()
    finally:
        if bars.live.is_started:
            bars.stop()
