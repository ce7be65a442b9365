"""The process that holds the device for `benchmarks.on_device`: a row asked for on stdin, its figures on stdout.

Messages are JSON, a line each. The first one says what the device is. After each request {row, budget, ceilings,
profile} come any number of {"so_far": figures} and one {"figures": …} or {"failed": reason}. It ends when stdin does,
in the middle of a row too, so that no process outlives the one that keeps the clock.
"""

import importlib
import json
import math
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

import jax
import numpy as np
from jax.extend.backend import get_backend

import dysonjax as dj
from benchmarks.device_timing import Context

SECONDS_BETWEEN_TELLING = 0.5


def main() -> None:
    """Serve requests until there are no more, or the device has run out of memory."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints must not come between the lines
    requests = lines(sys.stdin)
    dj.use_all_cores()
    say(answers, device())
    for request in requests:
        answer = answered(request, answers)
        say(answers, answer)
        if "RESOURCE_EXHAUSTED" in answer.get("failed", ""):
            break  # a new process begins with all of the memory


def lines(source: TextIO) -> Iterator[Mapping[str, Any]]:
    """Requests, read by a thread that ends the process when there will be no more."""
    waiting: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in source:
            waiting.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield json.loads(waiting.get())


def say(answers: TextIO, message: Mapping[str, Any]) -> None:
    answers.write(json.dumps(as_json(message), allow_nan=False) + "\n")


def device() -> dict[str, Any]:
    """What the rows will run on."""
    first = jax.devices()[0]
    memory = (first.memory_stats() or {}).get("bytes_limit") if first.platform != "cpu" else None
    return {
        "device": first.device_kind, "platform": first.platform, "devices": jax.local_device_count(),
        "cpu_devices": len(jax.devices("cpu")), "memory_bytes": memory,
        "runtime": " ".join(str(get_backend().platform_version).split()),
        "compile_cache": bool(jax.config.jax_compilation_cache_dir),
    }  # fmt: skip


def answered(request: Mapping[str, Any], answers: TextIO) -> dict[str, Any]:
    """Compute a row; an error becomes its last line, so that the next row can be asked for."""
    row = request["row"]
    told = 0.0

    def tell(figures: Mapping[str, Any]) -> None:
        nonlocal told
        if time.monotonic() - told > SECONDS_BETWEEN_TELLING:
            told = time.monotonic()
            say(answers, {"so_far": figures})

    on_cpu = jax.default_backend() == "cpu"
    context = Context(request["budget"], request["ceilings"], on_cpu, request["profile"], tell)
    try:
        function = getattr(importlib.import_module(row["module"]), row["function"])
        return {"figures": function(context, **row["arguments"])}
    except Exception as error:  # the other rows must still be measured
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return {"failed": reason[:300]}


def as_json(value: Any) -> Any:
    """Numbers of NumPy as Python's, those that JSON does not have as null."""
    if isinstance(value, Mapping):
        return {str(k): as_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(v) for v in value]
    if isinstance(value, np.generic | np.ndarray | jax.Array):
        return as_json(np.asarray(value).tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    main()
