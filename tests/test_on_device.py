"""The script for a lent device runs on a CPU, keeps what it has measured whatever happens, and counts kernels."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import pytest

ROOT = Path(__file__).parents[1]


def test_rows_are_measured_until_it_is_stopped(tmp_path: Path) -> None:
    """The real rows; stopped from outside as soon as the first is there, it says which it has left out."""
    out = tmp_path / "found.json"
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.on_device", "--minutes", "1.5", "--out", str(out)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        while process.poll() is None and (not out.exists() or "value" not in json.loads(out.read_text())["rows"][0]):
            time.sleep(0.1)
        process.terminate()
        said, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode in (0, 143), errors  # 0 on a machine so busy that its time was up
    found = json.loads(out.read_text())
    assert found["device"] == "cpu" and found["versions"]["jax"] == jax.__version__
    assert found["ceilings"]["flops_per_second"] > 1e8 and found["ceilings"]["bytes_per_second"] > 1e8
    rows = found["rows"]
    assert len(rows) > 20 and len({row["name"] for row in rows}) == len(rows)
    assert rows[0]["status"] == "measured" and rows[0]["value"] > 0
    for row in rows:
        assert row["status"] == "left out for time" or (row["status"] == "measured" and row["value"] >= 0), row
        assert f"| {row['name']} |" in said


def gives(context: Any) -> dict[str, Any]:
    """A row that is measured."""
    return {"value": context.budget, "unit": "s", "sizes": {"n": 1}, "ceilings": {"flops_per_second": 1.0}}


def raises(context: Any) -> dict[str, Any]:
    """A row that goes wrong."""
    raise ValueError(f"no luck\nwith {context.ceilings['flops_per_second']}")


def tells_and_dies(context: Any) -> dict[str, Any]:
    """A row whose process ends after it has told its figures."""
    context.tell({"value": 2.0, "unit": "s"})
    os._exit(3)


def dies(context: Any) -> dict[str, Any]:
    """A row whose process ends."""
    print("out of everything", file=sys.stderr)
    os._exit(4)


def waits(context: Any) -> dict[str, Any]:
    """A row that never ends."""
    time.sleep(1000)
    return {}


PROGRAM = """
import sys; from pathlib import Path; from benchmarks.device_rows import Row; from benchmarks.on_device import Session
rows = [Row(name, "test_on_device", name) for name in ("gives", "raises", "tells_and_dies", "dies", "waits", "gives")]
Session(rows, 2.0, Path(sys.argv[1]), None).run()
"""


def test_a_row_that_never_ends_is_left_out_when_the_time_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.device_rows import Row
    from benchmarks.on_device import Session

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]))
    names = ("waits", "gives")
    began = time.monotonic()
    Session([Row(name, "test_on_device", name) for name in names], 0.05, tmp_path / "found.json", "none").run()
    assert 3 <= time.monotonic() - began < 30
    rows = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert [row["status"] for row in rows] == ["left out for time"] * 2


def test_rows_so_far_are_on_disk_when_it_is_killed(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    running = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(out)], cwd=ROOT, env={**os.environ, "PYTHONPATH": path}
    )
    try:
        rows: list[dict[str, Any]] = []
        while running.poll() is None and (len(rows) < 6 or rows[4]["status"] != "running"):
            time.sleep(0.2)
            rows = json.loads(out.read_text())["rows"] if out.exists() else []
    finally:
        running.kill()
        running.wait()
    rows = json.loads(out.read_text())["rows"]
    assert [row["status"] for row in rows] == [
        "measured", "failed: ValueError: no luck with 1.0", "measured",
        "failed: the process ended with 4: out of everything", "running", "waiting",
    ]  # fmt: skip
    assert rows[0]["value"] > 0 and rows[2]["value"] == 2.0


def test_kernels_are_those_on_the_streams_of_one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.device_timing import count_kernels

    def plane(name: str) -> str:
        events = "".join(f"events {{ metadata_id: {i} }} " for i in (1, 2, 3))
        streams = "".join(
            f'lines {{ name: "{line}" {events} }}' for line in ("Stream #7(Compute)", "Stream #8(Compute)", "XLA Ops")
        )
        names = "".join(
            f'event_metadata {{ key: {i} value {{ id: {i} name: "{n}" }} }}'
            for i, n in enumerate(("loop_add_fusion", "MemcpyD2H", "gemm"), 1)
        )
        return f'planes {{ name: "{name}" {streams} {names} }}'

    read = jax.profiler.ProfileData.from_text_proto
    assert count_kernels(read("".join(map(plane, ("/host:CPU", "/device:GPU:0", "/device:GPU:1"))))) == 4
    with pytest.raises(LookupError, match="no stream"):
        count_kernels(read(plane("/host:CPU")))
