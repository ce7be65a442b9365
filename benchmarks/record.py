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


def spread(samples: Sequence[float]) -> dict[str, float]:
    """Median, minimum and maximum of repeated timings."""
    return {"median": float(np.median(samples)), "min": float(min(samples)), "max": float(max(samples))}


def append(name: str, result: Mapping[str, Any]) -> None:
    """Add one JSON line with versions and device to results/<name>.jsonl."""
    packages = ("jax", "jaxlib", "numpy", "torch")
    machine = {
        "versions": {p: v for p in packages if (v := _version(p))} | {"python": platform.python_version()},
        "device": f"{jax.local_device_count()} × {jax.devices()[0].device_kind}",
        "cores": os.cpu_count(),
        "date": np.datetime64("now").item().isoformat() + "Z",
    }
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"{name}.jsonl").open("a") as file:
        file.write(json.dumps({**machine, **result}) + "\n")


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
