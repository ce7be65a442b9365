"""The processes of one JAX distributed runtime, from the point of view of one of them.

Blocks are independent, so that processes need no collectives: a counter in the runtime's key-value store deals the
blocks, a barrier ends a scan, and the runtime's own health checks tell who is lost.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import jax

from dysonjax.core.errors import ClusterError
from dysonjax.runtime.progress import Bar

PERIOD = 0.5
"""Seconds between two looks at the other processes."""
PATIENCE = 20
"""Seconds that the first process waits for the others to leave."""
DAY = 24 * 3600 * 1000
"""Milliseconds that a process waits for others that are well."""


class Processes:
    """All processes of a JAX distributed runtime, and what it knows of them; raises `ClusterError` when one is lost."""

    def __init__(self, client: Any, index: int, count: int):
        self._client = client
        self.index, self.count, self.first = index, count, index == 0
        self._lost, self._ended, self.well = "", threading.Event(), False
        self._meeting = 0
        self._done, self._bar, self._told = 0, None, 0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    @contextmanager
    def working(self) -> Iterator[None]:
        try:
            yield
        except ClusterError:
            raise
        except BaseException as error:
            self._tell(f"failed/{self.index}", f"process {self.index} ended ({first_line(error)})")
            raise

    def agree(self, make: Callable[[], Any]) -> Any:
        key = self._next("agreed")
        if self.first:
            self._client.key_value_set(key, json.dumps(make()))
        return json.loads(self._get(key))

    def one_first(self, make: Callable[[], Any]) -> Any:
        key = self._next("made")
        if self.first:
            made = make()
            self._client.key_value_set(key, "yes")
            return made
        self._get(key)
        return make()

    def deal(self, numbers: Sequence[int]) -> Iterator[int]:
        key = self._next("dealt")
        while (place := self._client.key_value_increment(key, 1) - 1) < len(numbers):
            self.check()
            yield numbers[place]

    def share_bar(self, bar: Bar) -> Bar:
        self._bar, self._done, self._told = bar, 0, 0
        self._key = self._next("done")
        advance = self._advance

        class Own:
            def advance(self, updates: int) -> None:
                advance(updates)

        return Own()

    def meet(self) -> None:
        self._publish()
        barrier = threading.Thread(target=self._barrier, args=(self._next("met"),), daemon=True)
        barrier.start()
        while barrier.is_alive():
            barrier.join(0.05)
            self.check()
        self._show()

    def check(self) -> None:
        """Raise `ClusterError` when another process is lost or has failed."""
        if self._lost:
            raise ClusterError(f"{self._lost}; finished blocks are kept, the same command continues")

    def leave(self, well: bool) -> None:
        self.well = well  # a runtime that is lost after that is no loss
        self._tell(f"left/{self.index}", "yes")
        patience = time.monotonic() + PATIENCE
        # the watch goes on meanwhile: the others' look at who is alive waits for ours
        while self.first and time.monotonic() < patience:
            left = {int(key.rsplit("/", 1)[1]) for key, _ in self._client.key_value_dir_get("dysonjax/left/")}
            if left >= set(self._live):
                break
            time.sleep(0.05)
        self.stop()

    def stop(self) -> None:
        """Look no longer after the others."""
        self._ended.set()

    def _advance(self, updates: int) -> None:
        self._done += updates
        self.check()

    def _next(self, what: str) -> str:
        """Every process meets the same steps in the same order, so that a number tells them apart."""
        self._meeting += 1
        return f"dysonjax/{self._meeting}/{what}"

    def _tell(self, what: str, text: str) -> None:
        with suppress(jax.errors.JaxRuntimeError):  # the runtime may be lost, or somebody was faster
            self._client.key_value_set(f"dysonjax/{what}", text)

    def _get(self, key: str) -> str:
        while True:
            self.check()
            try:
                return self._client.blocking_key_value_get(key, 200)
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise ClusterError(f"process 0 cannot be reached ({first_line(error)})") from error

    def _barrier(self, name: str) -> None:
        try:
            self._client.wait_at_barrier(name, DAY)
        except jax.errors.JaxRuntimeError as error:
            self._lost = self._lost or f"the processes did not meet ({first_line(error)})"

    def _watch(self) -> None:
        """In a thread: who is alive, who failed, how far all are."""
        everybody = list(range(self.count))
        self._live = everybody
        while not self._ended.wait(PERIOD):
            try:
                self._publish()
                self._show()
                failed = dict(self._client.key_value_dir_get("dysonjax/failed/"))
                alive = self._client.get_live_nodes(everybody)
            except jax.errors.JaxRuntimeError as error:
                self._lost = self._lost or f"process 0 cannot be reached ({first_line(error)})"
                return
            self._live = sorted(alive)
            missing = [str(i) for i in everybody if i not in alive]
            if missing and not self._ended.is_set():
                self._lost = f"process {', '.join(missing)} of {self.count} cannot be reached any more"
            if failed:
                self._lost = next(iter(failed.values()))

    def _publish(self) -> None:
        if self._bar is not None and not self.first:
            self._client.key_value_set(f"{self._key}/{self.index}", str(self._done), allow_overwrite=True)

    def _show(self) -> None:
        if self._bar is not None and self.first:
            others = sum(int(v) for _, v in self._client.key_value_dir_get(f"{self._key}/"))
            total = self._done + others
            self._bar.advance(total - self._told)
            self._told = total


def first_line(error: BaseException) -> str:
    """What an error says, on one line."""
    text = (str(error) or type(error).__name__).splitlines()[0]
    return text if len(text) <= 200 else f"{text[:199]}…"
