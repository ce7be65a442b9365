"""Runs of dysonjax 0.1, which said in several ways what they were, read as the records of today."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dysonjax.core.errors import StoreError, shown
from dysonjax.storage import store
from dysonjax.storage.records import OWN, RECORD, Record, tuples

FILES = {"gpt.json": "gpt", "gpt-scaling.json": "gpt-grid", RECORD: "scaling"}
"""Files of settings alone, and what they were settings of."""


def record_of(place: Path) -> Record | None:
    """Kind and settings of a run without a record of today, None where there is no run; raises `StoreError`."""
    for name, kind in FILES.items():
        if (place / name).is_file():
            try:
                return Record(kind, dict(tuples(json.loads((place / name).read_text()))))
            except (OSError, ValueError, TypeError) as error:
                raise StoreError(f"{place / name}: cannot be read ({shown(str(error), 160)})") from error
    if not store.exists(place):
        return None
    return _of_store(store.load(place).header.experiment)


def _of_store(stored: Mapping[str, Any]) -> Record:
    """What a single store says of its experiment."""
    for kind in ("gas", "bbp"):
        if kind in stored:
            return Record(kind, tuples(stored[kind]))
    observed = [name for o in stored.get("observables", ()) for name in o.get("snapshots", ())]
    if "memory" not in observed:
        return Record(OWN, {})
    grid, batches = stored["grid"], stored["batches"]
    settings = {
        "learning_rate": grid["learning_rate"], "init_width": grid["init_width"], "batch_size": grid["batch_size"],
        "seeds": len(grid["seed"]), "epochs": stored["steps"] // batches, "batches": batches,
        "snapshots": len(stored["snapshots"]), "hidden": stored["widths"][1:-1], "activation": stored["activation"],
        "key": stored["key"][-1],
    }  # fmt: skip
    return Record("phase-diagram", tuples(settings))
