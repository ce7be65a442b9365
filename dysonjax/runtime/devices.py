"""The devices of this process: a JAX device for every CPU core, and how many cores there are."""

import logging
import os
import time
from collections.abc import Sequence
from typing import Any

import jax
from threadpoolctl import threadpool_limits

# XLA's CPU client runs every device's share, and the pieces of work that it waits for, in one pool of NPROC threads
# (default: the cores). With a device on every core none is left for the pieces, and JAX 0.10 waits for itself forever;
# 0.12 does not, and more threads would only take each other's core: the loop after a snapshot ran 20–40 % slower.
# XLA reads the variable once, when its client starts, and has no other setting for it; goes with JAX 0.10 and 0.11.
if jax.__version_info__ < (0, 12):
    os.environ.setdefault("NPROC", str(2 * (os.cpu_count() or 1)))

log = logging.getLogger(__name__)

Devices = Sequence[Any]
"""Of `jax.Device`, which type checkers cannot see."""


def use_all_cores() -> None:
    """Make every CPU core a JAX device; call it before JAX is first used (the command line does).

    Later calls change nothing; a device count in XLA_FLAGS (`--xla_force_host_platform_device_count`) is left alone.
    Devices call LAPACK at the same time, so each call keeps to one thread: many would wait for each other's cores.
    """
    threadpool_limits(1, user_api="blas")
    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    try:
        jax.config.update("jax_num_cpu_devices", cores())
    except RuntimeError:  # JAX is running already
        log.info("JAX was in use before use_all_cores; it keeps its %d devices", jax.local_device_count())


LONG = 30.0
"""Seconds after which idle cores are worth a word."""
_told_of_idle: list[bool] = []


def warn_of_idle_cores(devices: Devices, began: tuple[float, float]) -> None:
    """Say once in a process that work on the only CPU device leaves cores idle, and what helps.

    `began`: `time.monotonic()` and `time.process_time()` at its start. What counts is the time that the cores worked: a
    program of large arrays may keep all of them busy on one device.
    """
    passed, worked = time.monotonic() - began[0], time.process_time() - began[1]
    alone = len(devices) == 1 and devices[0].platform == "cpu" and jax.local_device_count() == 1
    if _told_of_idle or not alone or passed < LONG or worked > 0.75 * cores() * passed:
        return
    _told_of_idle.append(True)
    log.warning(
        "%.1f of %d CPU cores are busy: dysonjax.use_all_cores(), called before JAX is first used, makes each a device",
        worked / passed, cores(),
    )  # fmt: skip


def cores() -> int:
    """CPU cores that this process may use: a job's share of a machine, where there is a scheduler."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
