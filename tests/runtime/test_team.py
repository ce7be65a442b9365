"""Several processes of one JAX runtime on this machine: the same store as one, also when some of them are killed."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import assert_same

from dysonjax.cli import runs
from dysonjax.cli.app import main
from dysonjax.experiments import running
from dysonjax.experiments.gas.experiment import GasRun
from dysonjax.runtime.team import Share
from dysonjax.storage import store

RUN = GasRun(levels=2, temperature=(0.1, 1.0), seeds=64, steps=300, snapshots=3, scheme="pairwise_kick")
OPTIONS = (
    "gas --levels 2 --temperature 0.1,1 --seeds 64 --steps 300 --snapshots 3 --scheme pairwise_kick --block-size 4"
)
BLOCKS = 32
PROGRAM = """
import sys, time
from dysonjax import cli
from dysonjax.cli import runs
from dysonjax.runtime import team
from dysonjax.storage import store
team.HEARTBEAT, team.STARTING = 4, 15
runs.report = lambda run: print("reported", run)  # figures have their own tests
write = store.Store.write
def slowly(self, *block):
    time.sleep({pause})
    write(self, *block)
store.Store.write = slowly
{before}
sys.exit(cli.main(sys.argv[1:]))
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def launch(out, processes, devices=1, pause=0.0, options=(), before=""):
    """The same command on several processes, which talk over the loopback interface only."""
    port = free_port()
    env = {
        **os.environ, "JAX_COORDINATOR_BIND_ADDRESS": f"127.0.0.1:{port}",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "JAX_PLATFORMS": "cpu",
    }  # fmt: skip
    command = [
        sys.executable,
        "-c",
        PROGRAM.format(pause=pause, before=before),
        *OPTIONS.split(),
        "--out",
        str(out),
        *options,
    ]
    where = ["--coordinator", f"127.0.0.1:{port}", "--processes", str(processes), "--process-id"]
    return [
        subprocess.Popen([*command, *where, str(i)], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for i in range(processes)
    ]


def ended(processes):
    """Exit code, output and messages of each; the progress bar does not count."""
    found = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=120)
            lines = [line for line in re.split(r"[\r\n]+", err) if line.strip(" \x1b[?25hl")]
            found.append((process.returncode, out, lines))
    finally:
        for process in processes:
            process.kill()
    return found


def blocks_done(out):
    return BLOCKS - len(store.load(out).unfinished()) if (out / "store.zarr").is_dir() else 0


def wait_for(blocks, out, processes):
    while blocks_done(out) < blocks:
        assert all(p.poll() is None for p in processes), ended(processes)
        time.sleep(0.1)


@pytest.fixture(scope="module")
def whole():
    return running.run(RUN, progress=False).only


def bar_less(lines):
    return [line for line in lines if "%" not in line]


@pytest.mark.parametrize(
    ("count", "lost", "later"),
    [
        (2, 1, 1),
        pytest.param(4, 2, 2, marks=pytest.mark.slow),  # several hear of the loss, several go on
    ],
)
def test_one_process_is_lost_and_others_continue(whole, tmp_path, monkeypatch, capsys, count, lost, later):
    processes = launch(tmp_path / "run", count, pause=0.3)
    wait_for(5, tmp_path / "run", processes)
    processes[lost].send_signal(signal.SIGKILL)
    for i, (code, out, said) in enumerate(ended(processes)):
        assert out == ""
        if i == lost:
            assert code == -signal.SIGKILL
            continue
        assert code == 1
        (line,) = bar_less(said)
        start = f"dysonjax: process {lost} of {count} cannot be reached any more; finished blocks are kept"
        assert line.startswith(start)
    done = blocks_done(tmp_path / "run")
    assert 5 <= done < BLOCKS
    part = store.load(tmp_path / "run").dataset()
    there = part.diverged_step != -2
    assert_same(whole.where(there), part.where(there), ["levels", "balance"])
    if later == 1:  # in this process
        monkeypatch.setattr(runs, "report", lambda run: print("reported", run))
        assert main([*OPTIONS.split(), "--out", str(tmp_path / "run")]) == 0
        told, bar = capsys.readouterr()
    else:
        (code, told, bar), *rest = ended(launch(tmp_path / "run", later, devices=2))
        assert code == 0
        assert rest == [(0, "", [])] * (later - 1)
    assert told == f"reported {tmp_path / 'run'}\n"
    assert "100 %" in "".join(bar)
    assert_same(whole, store.load(tmp_path / "run").dataset())
    sessions = store.load(tmp_path / "run").header.provenance
    assert [s.get("processes", 1) for s in sessions] == [count, later]


def test_when_the_first_process_is_lost_the_others_say_so_in_one_line(whole, tmp_path):
    processes = launch(tmp_path / "run", 2, pause=0.3)
    wait_for(3, tmp_path / "run", processes)
    processes[0].send_signal(signal.SIGKILL)
    _, (code, out, said) = ended(processes)
    assert (code, out) == (1, "")
    (line,) = said
    assert line.startswith("dysonjax: process 0 cannot be reached")
    assert 3 <= blocks_done(tmp_path / "run") < BLOCKS
    assert_same(whole, running.run(RUN, tmp_path / "run", progress=False, share=Share(0, 1)).only)


FILL_THE_DISK = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
done = []
def limited(self, *block):
    done.append(block)
    if sys.argv[-1] == "1" and len(done) == {block}:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))
    slowly(self, *block)
store.Store.write = limited
"""


def test_a_full_disk_of_one_process_ends_both_and_loses_nothing(whole, tmp_path):
    """A real refusal of the operating system, which lets one process write no file beyond 64 bytes."""
    block = int(np.random.default_rng(3).integers(2, 8))
    processes = launch(tmp_path / "run", 2, pause=0.2, before=FILL_THE_DISK.format(block=block))
    (first, _, told), (second, _, own) = ended(processes)
    assert first == second == 1
    (line,) = bar_less(told)
    assert line.startswith("dysonjax: process 1 ended (") and "cannot be written" in line
    (line,) = own
    assert line.startswith(f"dysonjax: {tmp_path / 'run'}: cannot be written")
    assert block - 1 <= blocks_done(tmp_path / "run") < BLOCKS
    assert not list((tmp_path / "run").rglob("*.partial"))
    assert_same(whole, running.run(RUN, tmp_path / "run", progress=False).only)


@pytest.mark.slow
def test_a_directory_that_cannot_be_used_ends_all(tmp_path):
    (tmp_path / "thesis.tex").write_text("all of it")
    for code, out, said in ended(launch(tmp_path, 2)):
        assert (code, out) == (1, "")
        (line,) = bar_less(said)
        assert "'thesis.tex'" in line
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.slow
def test_bad_input_on_several_processes(tmp_path):
    for code, out, said in ended(launch(tmp_path / "run", 2, options=["--beta", "0.5"])):
        assert (code, out) == (2, "")
        (line,) = said
        assert "beta = 0.5" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_many_processes_give_the_same_store(whole, tmp_path, count):
    for code, _, said in ended(launch(tmp_path / "run", count)):
        assert code == 0, said
    assert_same(whole, store.load(tmp_path / "run").dataset())


@pytest.mark.slow
def test_twenty_kills(whole, tmp_path):
    """SIGKILL at random moments on random processes of runs of one to three; always readable, equal at last."""
    rng, out = np.random.default_rng(1), tmp_path / "run"
    for _ in range(20):
        count = int(rng.integers(1, 4))
        processes = launch(out, count, devices=int(rng.integers(1, 3)), pause=0.4)
        target = min(blocks_done(out) + int(rng.integers(0, 3)), BLOCKS - 1)
        began = time.monotonic()
        while blocks_done(out) < target and time.monotonic() < began + 60:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 6 if target == 0 else 0.4))
        processes[int(rng.integers(count))].send_signal(signal.SIGKILL)
        ended(processes)
        if (out / "store.zarr").is_dir():
            part = store.load(out).dataset()
            there = part.diverged_step != -2
            assert_same(whole.where(there), part.where(there), ["levels", "balance"])
    assert_same(whole, running.run(RUN, out, progress=False).only)
