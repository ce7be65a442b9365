"""An abort of JAX's distributed runtime as one line: when process 0 is lost, the runtime kills all others at once.

Its C++ code does so by a fatal log message with a stack dump and SIGABRT, which Python can neither catch nor turn off:
a handler set by `signal` only leaves word for Python, which does not run again. JAX's guide to fault tolerance
(github.com/jax-ml/jax/pull/39095) says that a lost process 0 ends all others, and offers no callback; hence the handler
in C here, which goes when there is one.
"""

import ctypes
import logging
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOST = "JAX distributed service detected fatal errors"
NOISE = re.compile(r"coordination|preemption|Source Location Trace|^external/xla|GRPC error|^:UN|^\s*$|\. This is only")


@contextmanager
def one_line(message: Callable[[], str], over: Callable[[], bool]) -> Iterator[None]:
    """While it lasts, what C++ code writes to stderr is held back, Python's own messages are not.

    An abort for a lost runtime becomes `message()` and exit code 1, or a silent exit code 0 if `over()`; before any
    other abort, and at the end, what was held back is shown, without the runtime's chatter.
    """
    if os.name != "posix" or sys.stderr is not sys.__stderr__:  # somebody else holds stderr, a test runner perhaps
        yield
        return
    held = tempfile.TemporaryFile()  # noqa: SIM115 - the handler needs it to the very end
    outside, python = os.dup(2), sys.stderr
    os.dup2(held.fileno(), 2)
    sys.stderr = os.fdopen(os.dup(outside), "w", buffering=1, errors="replace")
    _redirect_logs(python, sys.stderr)

    def text() -> str:
        held.seek(0)
        return held.read().decode(errors="replace")

    def on_abort(number: int) -> None:
        told = text()
        if LOST in told and not over():
            os.write(outside, f"{message()}\n".encode())
        elif LOST not in told:
            os.write(outside, told.encode())
            os._exit(128 + signal.SIGABRT)
        os._exit(0 if over() else 1)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(on_abort)
    system = ctypes.CDLL(None)
    system.signal.restype = ctypes.c_void_p
    system.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
    before = system.signal(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))
    try:
        yield
    finally:
        system.signal(signal.SIGABRT, before)
        os.dup2(outside, 2)
        _redirect_logs(sys.stderr, python)
        sys.stderr.close()
        sys.stderr = python
        told = [line for line in text().splitlines() if not NOISE.search(line)]
        os.write(outside, "".join(f"{line}\n" for line in told).encode())


def _redirect_logs(old: object, new: object) -> None:
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is old:
            handler.setStream(new)
