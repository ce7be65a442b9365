"""Who computes what: shares of a scan's blocks, and the processes of one JAX distributed runtime that deal them out.

Blocks are independent, so that processes need no collectives: a counter in the runtime's key-value store deals the
blocks, a barrier ends a scan, and the runtime's own health checks tell who is lost.
"""

import atexit
import functools
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, NamedTuple, Protocol

import jax

from dysonjax.errors import ClusterError, InputError, require, shown, whole
from dysonjax.progress import Bar

log = logging.getLogger(__name__)

PERIOD = 0.5
"""Seconds between two looks at the other processes."""
DAY = 24 * 3600 * 1000
"""Milliseconds that a process waits for others that are well."""


class Share(NamedTuple):
    """Share `index` of `count` of a scan's blocks: every `count`-th block, so that all shares see all settings."""

    index: int = 0
    count: int = 1

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def of(self, blocks: Iterable[int]) -> list[int]:
        """Those of the numbered `blocks` that belong to the share."""
        return [number for number in blocks if number % self.count == self.index]


def share_of(text: str) -> Share:
    """The share that "i/n" names, i from 0; raises `InputError`."""
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip())
    if not found or int(found[1]) >= int(found[2]):
        raise InputError(f"shard = {shown(text)}: expected i/n, with i from 0 to n − 1")
    return Share(int(found[1]), int(found[2]))


WHOLE = Share()


class Team(Protocol):
    """The processes that compute a scan together."""

    first: bool
    index: int
    count: int

    def working(self) -> AbstractContextManager[None]:
        """Tell the others if the body fails."""
        ...

    def agree(self, make: Callable[[], Any]) -> Any:
        """What the first process makes of it (JSON), on all."""
        ...

    def one_first(self, make: Callable[[], Any]) -> Any:
        """Every process makes it, the first one before the others."""
        ...

    def deal(self, numbers: Sequence[int]) -> Iterator[int]:
        """Numbers to work on; every one goes to one process."""
        ...

    def share_bar(self, bar: Bar) -> Bar:
        """A bar for this process' work; the first one's `bar` shows that of all."""
        ...

    def meet(self) -> None:
        """Wait until all processes are here."""
        ...

    def leave(self) -> None:
        """Part from the others; the first process, which carries the runtime, is the last to go."""
        ...


class Alone:
    """A team of one: nobody to wait for."""

    first, index, count = True, 0, 1

    def working(self) -> AbstractContextManager[None]:
        return nullcontext()

    def agree(self, make: Callable[[], Any]) -> Any:
        return make()

    def one_first(self, make: Callable[[], Any]) -> Any:
        return make()

    def deal(self, numbers: Sequence[int]) -> Iterator[int]:
        return iter(numbers)

    def share_bar(self, bar: Bar) -> Bar:
        return bar

    def meet(self) -> None:
        return

    def leave(self) -> None:
        return


class Processes:
    """All processes of a JAX distributed runtime, and what it knows of them; raises `ClusterError` when one is lost."""

    def __init__(self, client: Any, index: int, count: int):
        self._client = client
        self.index, self.count, self.first = index, count, index == 0
        self._lost, self._ended = "", threading.Event()
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
            self._tell("failed", f"process {self.index} ended ({shown(str(error) or type(error).__name__)})")
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

    def leave(self) -> None:
        self._ended.set()
        self._tell(f"left/{self.index}", "yes")
        patience = time.monotonic() + 20
        while self.first and time.monotonic() < patience:
            left = {int(key.rsplit("/", 1)[1]) for key, _ in self._client.key_value_dir_get("dysonjax/left/")}
            if left >= set(self._live):
                break
            time.sleep(0.05)

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
                    raise ClusterError(f"process 0 cannot be reached ({shown(str(error).splitlines()[0])})") from error

    def _barrier(self, name: str) -> None:
        try:
            self._client.wait_at_barrier(name, DAY)
        except jax.errors.JaxRuntimeError as error:
            self._lost = self._lost or f"the processes did not meet ({shown(str(error).splitlines()[0])})"

    def _watch(self) -> None:
        """In a thread: who is alive, who failed, how far all are."""
        everybody = list(range(self.count))
        self._live = everybody
        while not self._ended.wait(PERIOD):
            try:
                self._publish()
                self._show()
                failed = dict(self._client.key_value_dir_get("dysonjax/failed"))
                alive = self._client.get_live_nodes(everybody)
            except jax.errors.JaxRuntimeError as error:
                self._lost = self._lost or f"process 0 cannot be reached ({shown(str(error).splitlines()[0])})"
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


@functools.cache
def _processes() -> Processes:
    from jax._src import distributed  # the runtime's key-value store has no public name yet

    found = Processes(distributed.global_state.client, jax.process_index(), jax.process_count())
    atexit.register(found._ended.set)
    return found


def team() -> Team:
    """The processes that work together: those of `jax.distributed` when it was initialized, else this one alone."""
    if not jax.distributed.is_initialized() or jax.process_count() == 1:
        return Alone()
    return _processes()


@contextmanager
def joined(
    coordinator: str | None = None, processes: int | None = None, process_id: int | None = None
) -> Iterator[Team]:
    """Join the processes that run the same command, found by JAX's own detection or as given, and part at the end.

    Raises `InputError` for options that do not go together and `ClusterError` when the others do not come.
    """
    if jax.distributed.is_initialized():  # several runs of one command
        yield team()
        return
    given = [coordinator, processes, process_id]
    if processes == 1 and coordinator is None:
        yield Alone()
        return
    if any(g is not None for g in given) and None in given:
        raise InputError(
            f"coordinator, processes, process-id = {coordinator}, {processes}, {process_id}: expected all three or none"
        )
    if coordinator is not None:
        require(re.fullmatch(r"\S+:\d+", coordinator), "coordinator", coordinator, "HOST:PORT")
        count = whole("processes", processes)
        whole("process-id", process_id, 0, count - 1)
    jax.config.update("jax_enable_recoverability", True)  # so that we, not an abort of JAX's, tell of a lost process
    try:
        jax.distributed.initialize(coordinator, processes, process_id)
    except ValueError:  # no cluster was found
        yield Alone()
        return
    except RuntimeError as error:
        if coordinator is None and not isinstance(error, jax.errors.JaxRuntimeError):  # JAX is in use already
            yield Alone()
            return
        raise ClusterError(f"the other processes cannot be reached ({shown(str(error).splitlines()[0])})") from error
    together = team()
    try:
        yield together
    finally:
        together.leave()
