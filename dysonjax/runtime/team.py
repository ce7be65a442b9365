"""Who computes what: shares of a scan's blocks, and the team of processes that compute one together."""

import atexit
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from dysonjax.core.errors import ClusterError, InputError, require, shown, whole
from dysonjax.runtime.lost_process import one_line
from dysonjax.runtime.progress import Bar

if TYPE_CHECKING:
    from dysonjax.runtime.processes import Processes

log = logging.getLogger(__name__)

KEPT = "finished blocks are kept, the same command continues"
STARTING = 300
"""Seconds that the processes wait for each other at the start."""
HEARTBEAT = 60
"""Seconds of silence after which a process is lost."""


class Share(NamedTuple):
    """Share `index` of `count` of a scan's blocks: every `count`-th block, so that all shares see all settings.

    Args:
        index: number of the share, from 0.
        count: how many shares there are.
    """

    index: int = 0  # pyright: ignore[reportIncompatibleMethodOverride]
    count: int = 1  # pyright: ignore[reportIncompatibleMethodOverride]

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

    def leave(self, well: bool) -> None:
        """Part from the others, `well` or not; the first process, which carries the runtime, is the last to go."""
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

    def leave(self, well: bool) -> None:
        return


_together: "list[Processes]" = []


def team() -> Team:
    """The processes that work together: those of `jax.distributed` when it was initialized, else this one alone."""
    import jax

    if not jax.distributed.is_initialized() or jax.process_count() == 1:
        return Alone()
    if not _together:
        # the key-value store of jax.distributed has no public name, in JAX 0.10 to 0.12
        from jax._src import distributed

        from dysonjax.runtime.processes import Processes

        _together.append(Processes(distributed.global_state.client, jax.process_index(), jax.process_count()))
        atexit.register(_together[0].stop)
    return _together[0]


@contextmanager
def joined(
    coordinator: str | None = None, processes: int | None = None, process_id: int | None = None
) -> Iterator[Team]:
    """Join the processes that run the same command, found by JAX's own detection or as given, and part at the end.

    Raises `InputError` for options that do not go together and `ClusterError` when the others do not come.
    """
    import jax

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
    with ExitStack() as stack:
        aborts = one_line(_lost, lambda: bool(_together and _together[0].well))
        if coordinator is not None:
            stack.enter_context(aborts)
        if not _initialize(coordinator, processes, process_id):
            yield Alone()
            return
        if coordinator is None:
            stack.enter_context(aborts)
        together, well = team(), False
        try:
            yield together
            well = True
        finally:
            together.leave(well)
            jax.distributed.shutdown()


def _lost() -> str:
    if _together:
        return f"dysonjax: process 0 cannot be reached any more; {KEPT}"
    return f"dysonjax: the other processes did not come within {STARTING} s; {KEPT}"


def _initialize(coordinator: str | None, processes: int | None, process_id: int | None) -> bool:
    """Start JAX's distributed runtime; False where no cluster is found."""
    import jax

    from dysonjax.runtime.processes import first_line

    # so that we, not an abort of JAX's, tell of a lost process
    jax.config.update("jax_enable_recoverability", True)
    try:
        jax.distributed.initialize(
            coordinator, processes, process_id, initialization_timeout=STARTING, heartbeat_timeout_seconds=HEARTBEAT
        )
    except ValueError:
        return False
    except RuntimeError as error:
        if coordinator is None and not isinstance(error, jax.errors.JaxRuntimeError):  # JAX is in use already
            return False
        raise ClusterError(f"the other processes cannot be reached ({first_line(error)})") from error
    return True
