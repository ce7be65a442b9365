"""Are the numbers that a run records the same in two versions of the program?

    tools/compare-versions OLD NEW                 # two commits; `.` is the working tree
    tools/compare-versions HEAD~1 . --only 'rbm*'  # some of the runs
    tools/compare-versions OLD NEW --all           # a line for every array, the equal ones too

Both run `tests.small_runs` on this machine, in one environment, each with its own copy of the script, and every array
is compared bit for bit. Stored numbers would not do: JAX compiles other code for other processors. The arrays of a
commit stay in `.compare/`, so that the next comparison on the same machine computes one version only. The exit code is
1 when an array differs and `EXPECTED` does not say why, or when it has no counterpart.
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from importlib.metadata import distributions
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
KEPT = ROOT / ".compare"
SCRIPT = Path("tests/small_runs.py")

RENAMED: Mapping[str, str | None] = {}
"""What OLD calls "run array", with wildcards in neither, and what NEW calls it; None: it is gone on purpose."""
ADDED: Mapping[str, str] = {}
"""What NEW records beside what OLD does: a pattern of "run array", and why."""
EXPECTED: Mapping[str, str] = {
    "* bulk_ks": "one Kolmogorov-Smirnov distance in place of four, rounded otherwise (10⁻¹⁶)",
    "* bulk_p": "of that distance",
    "ensembles hermite_levels": "one generator of gamma numbers in place of two: another stream, equal in law",
    "ensembles laguerre_levels": "as hermite_levels",
    "* *finished": "marks of format 1; in format 2 a block's list says that it is finished",
    "gas printed": "β is calibrated with exact matrices; the advice says more and less",
    "own-network* *": "a user's network draws reshuffled batches, and its sums have another order (`numerics` 2)",
    "phase-diagram printed": "intervals that cover in place of jackknife errors, and the temperature where half learn",
    "gpt printed": "p-values by random matrices of the one generator of gamma numbers",
}
"""What may differ between OLD and NEW: a pattern of "run array", and why."""


class Row(NamedTuple):
    """One array of one run on so many devices, in both versions."""

    devices: str
    run: str
    array: str
    found: str
    """"equal", or how they differ."""
    reason: str = ""
    """Why they may differ."""

    @property
    def fails(self) -> bool:
        return self.found != "equal" and not self.reason


def main(words: list[str] | None = None) -> int:
    """Compute what is not kept, compare, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", help="a commit")
    parser.add_argument("new", help="a commit, or . for the working tree")
    parser.add_argument("--only", default="*", help="names of runs, with wildcards")
    parser.add_argument("--all", action="store_true", help="a line for every array")
    given = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as place:
        sources = [source(ref, Path(place) / name) for name, ref in (("old", given.old), ("new", given.new))]
        if not (sources[0] / SCRIPT).exists():
            shutil.copy(sources[1] / SCRIPT, sources[0] / SCRIPT)
        found = [recorded(tree, given.only) for tree in sources]
        rows = list(compare(*found))
    return told(rows, given.all)


def source(ref: str, place: Path) -> Path:
    """The files of a commit, or of the working tree."""
    if ref == ".":
        return ROOT
    place.mkdir()
    archive = subprocess.run(["git", "archive", ref], cwd=ROOT, check=True, stdout=subprocess.PIPE)
    subprocess.run(["tar", "-x", "-C", str(place)], input=archive.stdout, check=True)
    return place


def recorded(tree: Path, only: str) -> Path:
    """The directory of a version's arrays; computed unless the same files have been run here already."""
    place = KEPT / digest(tree, only)
    if place.exists():
        return place
    unfinished = place.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(KEPT / "compiled"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
    }  # fmt: skip
    words = [sys.executable, "-m", "tests.small_runs", "--out", str(unfinished), "--only", only]
    subprocess.run(words, cwd=tree, check=True, env={**os.environ, **cache, "PYTHONPATH": str(tree)})
    return unfinished.rename(place)


def digest(tree: Path, only: str) -> str:
    """A name for what decides the numbers: the version's code, the packages, the processor."""
    code = [tree / SCRIPT, *sorted((tree / "dysonjax").rglob("*.py"))]
    packages = sorted(f"{d.name} {d.version}" for d in distributions())
    seen = hashlib.blake2b(digest_size=12)
    for part in (only, sys.version, platform.machine(), processor(), json.dumps(packages)):
        seen.update(part.encode())
    for file in code:
        seen.update(file.relative_to(tree).as_posix().encode() + file.read_bytes())
    return seen.hexdigest()


def processor() -> str:
    """The processor's model and features, where the system tells."""
    place = Path("/proc/cpuinfo")
    lines = place.read_text().splitlines() if place.exists() else [platform.processor()]
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def compare(old: Path, new: Path) -> Iterator[Row]:
    """A row for every array of either version."""
    files = sorted({p.relative_to(place) for place in (old, new) for p in place.rglob("*.npz")})
    for file in files:
        devices, run = file.parent.as_posix(), file.stem
        before, after = (dict(np.load(p / file)) if (p / file).exists() else {} for p in (old, new))
        for name in before:
            target = RENAMED.get(f"{run} {name}", f"{run} {name}")
            if target is None:
                yield Row(devices, run, name, "only in OLD", "gone on purpose")
                continue
            other = target.removeprefix(f"{run} ")
            found = difference(before[name], after.pop(other)) if other in after else "only in OLD"
            yield Row(devices, run, name, found, why(EXPECTED, run, name) if found != "equal" else "")
        for name in after:
            yield Row(devices, run, name, "only in NEW", why(ADDED, run, name))


def why(reasons: Mapping[str, str], run: str, array: str) -> str:
    """The reason of the first pattern that matches."""
    return next((reason for pattern, reason in reasons.items() if fnmatch(f"{run} {array}", pattern)), "")


def difference(a: np.ndarray, b: np.ndarray) -> str:
    """ "equal" when every bit is, NaN included; else the largest difference."""
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return f"{a.dtype} {list(a.shape)} became {b.dtype} {list(b.shape)}"
    if a.tobytes() == b.tobytes():
        return "equal"
    if not np.issubdtype(a.dtype, np.number):
        return f"{int(np.sum(a != b))} of {a.size} differ"
    wide = np.complex128 if np.iscomplexobj(a) else np.float64
    x, y = a.astype(wide).ravel(), b.astype(wide).ravel()
    finite = np.isfinite(x) & np.isfinite(y)
    off = np.abs(x[finite] - y[finite])
    scale = np.max(np.abs(x[finite]), initial=0.0)
    bits = np.frombuffer(a.tobytes(), np.uint8) != np.frombuffer(b.tobytes(), np.uint8)
    told = f"{int(bits.reshape(a.size, -1).any(1).sum())} of {a.size} differ, by {np.max(off, initial=0.0):.3g} at most"
    if scale > 0:
        told += f", {np.max(off, initial=0.0) / scale:.1e} of the largest"
    lost = int(np.sum(~finite & ~((x == y) | (np.isnan(x) & np.isnan(y)))))
    return told + (f"; {lost} finite in one only" if lost else "")


def told(rows: list[Row], everything: bool) -> int:
    """Print a line for each run and for each array that is not equal, and say whether all is well."""
    table = Table("devices", "run", "array", "NEW against OLD", "why")
    for devices, run in dict.fromkeys((row.devices, row.run) for row in rows):
        own = [row for row in rows if (row.devices, row.run) == (devices, run)]
        same = [row.array for row in own if row.found == "equal"]
        if same:
            for name in same if everything else [f"{len(same)} arrays: {', '.join(same)}"]:
                table.add_row(devices, run, name, "equal")
        for row in own:
            if row.found != "equal":
                table.add_row(devices, run, row.array, row.found, row.reason or "NOT EXPECTED")
    Console(width=None if sys.stdout.isatty() else 150).print(table)
    bad = sum(row.fails for row in rows)
    expected = sum(row.found != "equal" for row in rows) - bad
    print(
        f"{len(rows)} arrays: {len(rows) - bad - expected} equal, {expected} differ as expected, {bad} without reason"
    )
    return int(bad > 0 or not rows)


if __name__ == "__main__":
    sys.exit(main())
