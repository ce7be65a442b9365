"""What every benchmark shares: where results go, what they ran on, and how a Markdown table is made of them."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import numpy as np

RESULTS = Path(__file__).parent / "results"


def spread(samples: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Median, minimum and maximum of repeated timings."""
    return {"median": float(np.median(samples)), "min": float(min(samples)), "max": float(max(samples))}


def ratio(ours: Sequence[float], theirs: Sequence[float], confidence: float = 0.95) -> dict[str, float]:
    """Geometric mean of the ratios of neighbouring timings, and its interval by Student's t of their logarithms."""
    from scipy import stats

    logs = np.log(np.divide(ours, theirs))
    half = stats.t.ppf((1 + confidence) / 2, len(logs) - 1) * np.std(logs, ddof=1) / np.sqrt(len(logs))
    mean, low, high = np.exp(np.mean(logs) + np.array([0, -half, half]))
    return {"mean": float(mean), "low": float(low), "high": float(high)}


def append(name: str, result: Mapping[str, Any]) -> None:
    """Add one JSON line with versions and device to results/<name>.jsonl."""
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"{name}.jsonl").open("a") as file:
        file.write(json.dumps({**machine(), **result}) + "\n")


def machine() -> dict[str, Any]:
    """What a result was measured on, and when."""
    return {
        "versions": versions(),
        "device": f"{jax.local_device_count()} × {jax.devices()[0].device_kind}",
        "cores": os.cpu_count(),
        "date": now(),
    }


def versions(packages: Sequence[str] = ("jax", "jaxlib", "numpy", "torch")) -> dict[str, str]:
    """Versions of the packages that are installed, and of Python; starts no device."""
    return {p: v for p in packages if (v := _version(p))} | {"python": platform.python_version()}


def now() -> str:
    """Date and time, UTC."""
    return np.datetime64("now").item().isoformat() + "Z"


def save(path: Path, result: Mapping[str, Any]) -> None:
    """Write JSON in one step: whoever reads the file, or is left with it, finds it whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    part.replace(path)


def last(name: str) -> list[dict[str, Any]]:
    """The newest result of each (device, JAX version)."""
    lines = [json.loads(line) for line in (RESULTS / f"{name}.jsonl").read_text().splitlines()]
    return list({(line["device"], line["versions"]["jax"]): line for line in lines}.values())


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
