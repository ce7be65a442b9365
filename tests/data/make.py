"""Makes the kept runs of today's format: `python -m tests.data.make`, by hand and once for each format.

It writes into `tests/data/format-N` for the N of the storage format, and refuses where runs are kept already: those of
an old format are never made again, for no later version can make them. `tests/data/README.md` says what each of them
is. `python -m tests.data.make --reports N` only prints the reports of the kept runs of format N anew, for a version
whose report says the same in other words; its difference is to be read line by line.
"""

import contextlib
import io
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

import dysonjax as dj
from dysonjax.cli.app import main
from dysonjax.experiments import BBPRun, GPTScalingRun
from dysonjax.experiments import run as run_experiment
from dysonjax.experiments.gpt import job
from dysonjax.runtime.devices import use_all_cores
from dysonjax.storage import store
from dysonjax.storage.merging import stores_in
from dysonjax.storage.metadata import provenance
from tests.test_old_runs import KEPT, TEXT, report, unpack, users_scan

TEXT_OF_POEM = (
    "The rain in Spain stays mainly in the plain. In Hertford, Hereford and Hampshire hurricanes hardly happen.\n"
)
MADE_HERE = ("report.txt", "figures")
"""Of a run's directory these are not kept: they are made of the rest."""
PHASE = "phase-diagram --learning-rate 0.125,256 --init-width 0.125,2 --seeds 2 --epochs 2 --batches 5 --hidden 4,3"
GAS = "gas --levels 4 --temperature 0.1,1 --seeds 8 --steps 20 --dt 0.02 --snapshots 4"
STUDENT = (
    "scaling teacher-student --learning-rate 0.1,0.2 --batch-size 4,8 --level sgd,matrix,dyson --seeds 32 --time 2 "
    "--noise 0.5 --block-size 16"
)
GPT = (
    f"gpt --text {TEXT} --layers 1 --heads 2 --channels 24 --context 8 --batch-size 4 --steps 20 --validation-every 5 "
    "--watch */query/kernel"
)
COMMANDS = {
    "phase": f"{PHASE} --snapshots 3 --block-size 4",
    "phase-buckets": f"{PHASE} --batch-size 2,4 --snapshots 3 --block-size 4",
    "gas": f"{GAS} --block-size 4",
    "gas-singular": f"{GAS} --geometry singular --rows 6",
    "gas-gram": f"{GAS} --geometry gram --potential double-well --beta 2",
    "rbm": "scaling rbm --learning-rate 0.02,0.04 --batch-size 4,8 --visible 4 --seeds 32 --time 0.4",
    "teacher-student": STUDENT,
    "linear": (
        "scaling linear --learning-rate 0.02,0.04 --batch-size 4,8 --level sgd,log-gas --teacher 2,2 --seeds 32 "
        "--time 0.4"
    ),
    "scan-rbm": "scaling rbm --learning-rate 0.02,0.04 --batch-size 4,8 --visible 4 --seeds 32 --steps 10",
    "gpt": GPT,
}
"""Runs that a command makes; `scaling` and `gpt` go on when they are given again."""
BBP = BBPRun(rows=6, columns=12, learning_rate=(0.2, 0.5, 0.8), steps=(1, 2), seeds=8)
GRID = GPTScalingRun("sgd", (0.1, 0.2, 0.4), (2, 4, 8), windows=16, seeds=2, text=TEXT, layers=1, channels=4, context=4)
FIRST_BUCKET = dj.Share(1, 12), dj.Share(3, 12), dj.Share(5, 12)
"""With 0/2 all of the user's first batch size, so that only one program is compiled to finish the run."""


def command(name: str, *more: str) -> Callable[[Path], object]:
    """What makes a run by the command of that name."""

    def run(out: Path) -> None:
        if code := main([*COMMANDS[name].split(), *more, "--out", str(out)]):
            raise SystemExit(f"{name}: exit code {code}")

    return run


def interrupted_gpt(run: Path) -> None:
    """Stop the training by Ctrl-C in the middle, after a checkpoint, which otherwise comes every half a minute."""
    save, every = job.save_checkpoint, job.SECONDS_PER_CHECKPOINT

    def save_and_stop(out: Path, step: int, state: dict[str, Any]) -> None:
        save(out, step, state)
        if step >= 10:
            raise KeyboardInterrupt

    job.save_checkpoint, job.SECONDS_PER_CHECKPOINT = save_and_stop, 0.0
    try:
        main([*COMMANDS["gpt"].split(), "--out", str(run)])
    finally:
        job.save_checkpoint, job.SECONDS_PER_CHECKPOINT = save, every


RUNS: dict[str, Callable[[Path], object]] = {
    **{name: command(name) for name in COMMANDS},
    "phase-unfinished": command("phase", "--shard", "0/2"),
    "gas-unfinished": command("gas", "--shard", "0/2"),
    "gas-part-0": command("gas", "--shard", "0/2"),
    "gas-part-1": command("gas", "--shard", "1/2"),
    "teacher-student-unfinished": command("teacher-student", "--shard", "0/2"),
    "gpt-unfinished": interrupted_gpt,
    "bbp": lambda run: run_experiment(BBP, run, block_size=8),
    "bbp-unfinished": lambda run: run_experiment(BBP, run, block_size=8, share=dj.Share(0, 2)),
    "gpt-grid": lambda run: run_experiment(GRID, run),
    "gpt-grid-unfinished": lambda run: run_experiment(GRID, run, block_size=2, share=dj.Share(0, 2)),
    "user": users_scan,
    "user-unfinished": lambda run: [users_scan(run, share) for share in (dj.Share(0, 2), *FIRST_BUCKET)],
}


def make(kept: Path) -> None:
    """Every run, what `report` prints of it, and its values."""
    kept.mkdir(parents=True)
    (kept / TEXT).write_text(TEXT_OF_POEM * 12)
    last = ["git", "log", "-1", "--format=%H", "--", "dysonjax"]
    commit = subprocess.run(last, cwd=KEPT.parents[2], capture_output=True, text=True, check=True).stdout.strip()
    versions = provenance(jax.devices())["versions"] | {p: version(p) for p in ("zarr", "orbax-checkpoint")}
    record = {"commit": commit, "versions": versions, "commands": COMMANDS}
    (kept / "made.json").write_text(json.dumps(record, indent=1) + "\n")
    for name, run in RUNS.items():
        print(name, flush=True)
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            Path(TEXT).write_text(TEXT_OF_POEM * 12)
            with contextlib.redirect_stdout(io.StringIO()):
                run(Path("RUN"))
            pack(Path("RUN"), kept / f"{name}.zip")
            (kept / f"{name}.txt").write_text(report())
            if arrays := values(Path("RUN")):
                np.savez_compressed(kept / f"{name}.npz", **arrays)  # type: ignore[arg-type]


def pack(run: Path, archive: Path) -> None:
    """The files of a run, sorted and without their dates."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as out:
        for path in sorted(run.rglob("*"), key=str):
            place = path.relative_to(run)
            if path.is_file() and place.parts[0] not in MADE_HERE:
                content = path.read_bytes()
                if path.suffix == ".txt":  # orbax notes where the checkpoint was
                    content = content.replace(str(Path.cwd()).encode(), b"/somewhere")
                out.writestr(zipfile.ZipInfo(str(place)), content, zipfile.ZIP_DEFLATED, 9)


def values(run: Path) -> dict[str, np.ndarray]:
    """What today's reader gives of every scan of a run, with the axes of its grid; unfinished blocks are NaN and −2."""
    found = {}
    for place in stores_in(run):
        folder = "" if place == run else f"{place.relative_to(run)}/"
        ds = store.load(place).dataset()
        found |= {f"{folder}{name}": ds[name].values for name in [*ds.coords, *ds.data_vars]}
    return found


def reports(kept: Path) -> None:
    """Print the reports of kept runs anew."""
    for archive in sorted(kept.glob("*.zip")):
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            unpack(archive.stem, "RUN", kept)
            archive.with_suffix(".txt").write_text(report())


if __name__ == "__main__":
    use_all_cores()
    if len(sys.argv) == 3 and sys.argv[1] == "--reports":
        reports(KEPT.parent / f"format-{sys.argv[2]}")
    else:
        make(KEPT.parent / f"format-{store.FORMAT.split()[-1]}")
