"""The progress bar of a run, counted in replica-updates."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol


class Bar(Protocol):
    """Receives completed replica-updates."""

    def advance(self, updates: int) -> None: ...


class _Silent:
    def advance(self, updates: int) -> None:
        return


@contextmanager
def progress_bar(what: str, total: int, wanted: bool | Bar | None = None, rate: bool = True) -> Iterator[Bar]:
    """A bar on the terminal with the time spent and left.

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

    class Rate(ProgressColumn):
        def render(self, task: Any) -> Text:
            speed = task.finished_speed or task.speed
            return Text("–" if speed is None else f"{speed / 1e6:.2f} M updates/s")

    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"), *[Rate()] * rate,
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    bars = Progress(*columns, console=Console(stderr=True), speed_estimate_period=60)
    task = bars.add_task(what, total=total)

    class Live:
        def advance(self, updates: int) -> None:
            bars.start()  # not before: bad input must not leave an empty bar
            bars.advance(task, updates)

    try:
        yield Live()
    finally:
        if bars.live.is_started:
            bars.stop()
