"""What kind of processor this is: compiled programs and the last bits of numbers depend on it."""

import hashlib
import os
import platform
from pathlib import Path

KINDS = ("vendor_id", "model name", "cpu family", "model", "stepping", "flags", "Features", "CPU part")


def processor() -> str:
    """What tells kinds of processors apart: a digest of its model, its features and how many cores there are."""
    described = [platform.machine(), platform.processor(), str(os.cpu_count())]
    lines = _lines() or [platform.platform()]
    described += sorted({line for line in lines if _name(line) in KINDS or len(lines) == 1})
    return hashlib.sha256("\n".join(described).encode()).hexdigest()[:12]


def model() -> str:
    """Its name, for people."""
    names = [line.partition(":")[2].strip() for line in _lines() if _name(line) == "model name"]
    return next(iter(names), platform.processor() or platform.machine())


def _name(line: str) -> str:
    return line.partition(":")[0].strip()


def _lines() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return []
