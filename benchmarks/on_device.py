"""Everything to be known of a device that is lent for minutes: is it right, how fast is it, what limits it?

    python -m benchmarks.on_device --minutes 6                  # JSON into benchmarks/results/, a table on the terminal
    python -m benchmarks.on_device --minutes 6 --out found.json
    python -m benchmarks.on_device --minutes 1 --only ceilings --only 'Dyson, default scheme'
    python -m benchmarks.on_device --show found.json            # the table of a file again

The rows are those of `benchmarks.device_rows`, most important first: correctness, rates, as much of a phase
diagram as fits. This process keeps the clock and the file and never touches the device; another one computes row after
row. Every row is in the file from the beginning, and its figures as soon as it is measured, so that whoever stops it at
any moment has the rows so far. A row that takes far more than its budget, or whose process dies, has failed, and the
next one begins in a new process. On a CPU the same rows run with fewer replicas.
"""

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tyro

from benchmarks import record
from benchmarks.device_rows import ROWS, Row

ROOT = Path(__file__).parents[1]
PACKAGES = ("jax", "jaxlib", "jax-cuda13-plugin", "flax", "optax", "numpy", "scipy", "xarray", "zarr", "dysonjax")
LEFT_OUT = "left out for time"
LEAST_SECONDS = 2.0
"""With less time than this a row is not begun."""
PATIENCE = 3.0
"""A row is stopped when it has taken so many times its budget …"""
LEAST_PATIENCE = 60.0
"""… but not before so many seconds: compilation does not get shorter."""


class WorkerDied(Exception):
    """The process that holds the device has ended; the message is its last line."""


class Worker:
    """The process that holds the device."""

    def __init__(self) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115, closed with the process
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        env = {**os.environ, "PYTHONPATH": path}
        if (platforms := env.get("JAX_PLATFORMS")) and "cpu" not in platforms.split(","):
            env["JAX_PLATFORMS"] = f"{platforms},cpu"  # the checks compare with it
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.device_worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._errors, text=True, env=env,
        )  # fmt: skip
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def ask(self, request: Mapping[str, Any]) -> None:
        """Send a request; that the process is gone is found when its answer is waited for."""
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()

    def hear(self, until: float) -> dict[str, Any]:
        """The next message; raises `TimeoutError` at the monotonic time `until`, `WorkerDied` when there is none."""
        try:
            line = self._lines.get(timeout=max(until - time.monotonic(), 0.001))
        except queue.Empty:
            raise TimeoutError from None
        if not line:
            raise WorkerDied(f"the process ended with {self._process.wait()}: {self._last_words()}")
        return json.loads(line)

    def _last_words(self) -> str:
        self._errors.seek(0)
        said = [line.strip() for line in self._errors.read().splitlines() if line.strip()]
        return said[-1][:200] if said else "nothing said"

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            with contextlib.suppress(BrokenPipeError):
                stream.close()  # type: ignore[union-attr]


class Session:
    """The rows, what is known of them, and the clock."""

    def __init__(self, rows: Sequence[Row], minutes: float, out: Path | None, commit: str | None) -> None:
        self.began = time.monotonic()
        self.seconds, self.out, self.rows = 60 * minutes, out, rows
        self.worker: Worker | None = None
        self.profile = True
        self.result: dict[str, Any] = {
            "device": None, "versions": record.versions(PACKAGES), "date": record.now(), "minutes": minutes,
            "load_before": os.getloadavg()[0],
            "commit": commit or current_commit(),
            # the directories of a machine tell nobody anything
            "command": " ".join(["python -m benchmarks.on_device", *(Path(word).name for word in sys.argv[1:])]),
            "rows": [{"name": row.name, "status": "waiting"} for row in rows],
        }  # fmt: skip
        self.save()

    @property
    def deadline(self) -> float:
        return self.began + self.seconds

    def save(self) -> None:
        """Write what is known; without `--out` the file's name needs the device's."""
        if self.out is None and self.result["device"]:
            device = re.sub(r"[^A-Za-z0-9]+", "-", self.result["device"]).strip("-").lower()
            self.out = record.RESULTS / f"on_device-{device}-{self.result['date'][:10]}.json"
        if self.out is not None:
            record.save(self.out, self.result | {"seconds": round(time.monotonic() - self.began, 1)})

    def run(self) -> None:
        """Row after row until the time is up; whatever happens, every row has a status at the end."""
        try:
            for number, row in enumerate(self.rows):
                left = self.deadline - time.monotonic()
                if left < LEAST_SECONDS:
                    break
                self.note(number, status="running")
                self.note(number, **self.measure(number, row))
        finally:
            for number, kept in enumerate(self.result["rows"]):
                if kept["status"] in ("waiting", "running"):
                    self.result["rows"][number]["status"] = "measured" if "value" in kept else LEFT_OUT
            self.save()
            if self.worker:
                self.worker.end()

    def note(self, number: int, **figures: Any) -> None:
        self.result["rows"][number].update(figures)
        self.save()

    def measure(self, number: int, row: Row) -> dict[str, Any]:
        """Status and figures of a row."""
        limit, budget, patience = self.deadline, 0.0, 0.0
        try:
            worker = self.ready()
            left = self.deadline - time.monotonic()
            budget = left * row.weight / sum(r.weight for r in self.rows[number:])
            patience = max(PATIENCE * budget, LEAST_PATIENCE)
            limit = min(self.deadline, time.monotonic() + patience)
            ceilings = self.result.get("ceilings", {})
            worker.ask({"row": asdict(row), "budget": budget, "ceilings": ceilings, "profile": self.profile})
            while "so_far" in (answer := worker.hear(limit)):
                self.note(number, **answer["so_far"])
        except TimeoutError:
            if limit == self.deadline:
                return {"status": "measured" if "value" in self.result["rows"][number] else LEFT_OUT}
            return self.lost(number, f"stopped after {patience:.0f} s, its budget was {budget:.0f} s")
        except WorkerDied as death:
            return self.lost(number, str(death))
        return self.judged(answer)

    def ready(self) -> Worker:
        """The worker, started if there is none, once it has said what the device is."""
        if self.worker is None:
            self.worker = Worker()
            self.result |= self.worker.hear(self.deadline)
            self.save()
        return self.worker

    def lost(self, number: int, reason: str) -> dict[str, Any]:
        """Status of a row in which the worker was lost, perhaps after it had told its figures; ends the worker."""
        if self.worker:
            self.worker.end()
        self.worker = None
        if "value" not in self.result["rows"][number]:
            return {"status": f"failed: {reason}"}
        self.profile = False  # which is all that was left to do
        return {"status": "measured", "note": reason}

    def judged(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        """An answer as status and figures; a check that does not pass has failed, and keeps its figures."""
        if "failed" in answer:
            return {"status": f"failed: {answer['failed']}"}
        figures = dict(answer["figures"])
        self.result |= {"ceilings": figures.pop("ceilings")} if "ceilings" in figures else {}
        if figures.get("passed", True):
            return {"status": "measured", **figures}
        return {"status": f"failed: {figures['value']:.3g} {figures['unit']}", **figures}


def current_commit() -> str | None:
    """The commit of this tree, with a + if it has been changed; None where there is no git or no repository."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    try:
        return git("rev-parse", "HEAD").strip() + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def table(result: Mapping[str, Any]) -> str:
    """The rows in Markdown."""
    percent = lambda row, key: f"{row[key]:.1%}" if row.get(key) is not None else ""  # noqa: E731
    number = lambda row, key: f"{row[key]:.3g}" if row.get(key) is not None else ""  # noqa: E731
    rows = []
    for row in result["rows"]:
        spread = row.get("spread")
        between = " ({min:.3g} – {max:.3g})".format(**spread) if spread else ""
        part = f", {row['share_of_diagram']:.1%} of it" if "share_of_diagram" in row else ""
        sizes = ", ".join(f"{k} {v}" for k, v in row.get("sizes", {}).items())
        rows.append([
            row["name"], f"{row['value']:.4g}{between} {row['unit']}{part}" if "value" in row else "",
            number(row, "compile_s"), number(row, "seconds"), percent(row, "share_of_flops"),
            percent(row, "share_of_bandwidth"), number(row, "kernels_per_update"), sizes, row["status"],
        ])  # fmt: skip
    head = ["row", "figure", "compile, s", "timed call, s", "of flops", "of bandwidth", "kernels", "sizes", "status"]
    return record.markdown(head, rows)


def main(
    minutes: float = 6.0, out: Path | None = None, only: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    show: Path | None = None, commit: str | None = None,
) -> None:  # fmt: skip
    """Measure for so many minutes; see the module. `commit`: of a copy of the tree that has no history."""
    if show:
        print(table(json.loads(show.read_text())))
        return
    names = [row.name for row in ROWS]
    if strange := set(only) - set(names):
        sys.exit(f"only = {sorted(strange)}: expected rows among {names}")
    if not minutes > 0:
        sys.exit(f"minutes = {minutes}: expected a positive number")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a stopped run, too, says what it has not done
    session = Session([row for row in ROWS if not only or row.name in only], minutes, out, commit)
    try:
        session.run()
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        print(table(session.result))
        print(f"{session.result['device']}, {minutes:g} minutes: {session.out}", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
