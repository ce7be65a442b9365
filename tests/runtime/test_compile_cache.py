"""Compiled programs on disk: another process finds them, and its numbers are the same bit for bit."""

import os
import subprocess
import sys
from typing import Any

import jax
import pytest

import dysonjax as dj
from dysonjax.cli import app
from dysonjax.runtime import compile_cache
from dysonjax.runtime.compile_cache import use_compile_cache
from dysonjax.runtime.processor import processor

OWN = """
own = dj.Dynamics(
    init=lambda key, hyper: jax.random.normal(key, (3,)),
    step=lambda key, x, hyper: x * hyper["rate"] + jax.random.normal(key, (3,)),
    spectra=lambda x: {"W": x},
)
found = dj.simulate(own, jax.random.split(jax.random.key(0), 2), {"rate": 0.7}, 20, snapshots=[20])
"""
SCAN = f"""
import collections, sys
import jax
import jax.monitoring
import dysonjax as dj

events = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **more: events.update([event.rsplit("/", 1)[-1]]))
dj.simulate
assert jax.config.jax_compilation_cache_dir is None  # only who asks for it has it
assert dj.use_compile_cache() is not None
{OWN}
sys.stdout.write(f"{{found['levels'].tobytes().hex()}} {{events['cache_hits']}} {{events['cache_misses']}}")
"""


@pytest.mark.optimised
def test_another_process_finds_the_programs(tmp_path):
    """With an empty cache and with a full one; and without one, in this process."""
    unset = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    env = {k: v for k, v in os.environ.items() if k not in unset} | {"DYSONJAX_CACHE": str(tmp_path)}
    found = []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", SCAN], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert not done.stderr
        found.append(done.stdout.split())
    (cold, hits, misses), (warm, *again) = found
    here: dict[str, Any] = {"dj": dj, "jax": jax}
    exec(OWN, here)
    assert here["found"]["levels"].tobytes().hex() == cold == warm
    assert int(misses) > 0 == int(hits)
    assert again == [misses, "0"]
    (folder,) = tmp_path.iterdir()
    assert folder.name.endswith(processor())
    assert f"jax-{jax.__version__}-" in folder.name


@pytest.fixture
def settings():
    """JAX's settings are put back; no program is compiled meanwhile."""
    names = (
        "jax_compilation_cache_dir", "jax_compilation_cache_max_size", "jax_persistent_cache_min_compile_time_secs",
    )  # fmt: skip
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_where_programs_are_kept(settings, tmp_path, monkeypatch):
    place = use_compile_cache(tmp_path)
    assert place is not None
    assert place.parent == tmp_path
    assert place.is_dir()
    assert jax.config.jax_compilation_cache_dir == str(place)
    assert jax.config.jax_compilation_cache_max_size == compile_cache.LARGEST
    monkeypatch.setenv("DYSONJAX_CACHE", str(tmp_path / "elsewhere"))
    assert use_compile_cache() == place, "a directory that is set already is left alone"
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setattr(compile_cache, "processor", lambda: "another")
    other = use_compile_cache()
    assert other is not None
    assert other.parent == tmp_path / "elsewhere"
    assert other.name.endswith("another")


def test_without_a_place_to_write(settings, tmp_path):
    """Nothing is kept, and nothing is said."""
    (tmp_path / "file").touch()
    jax.config.update("jax_compilation_cache_dir", None)
    assert use_compile_cache(tmp_path / "file") is None
    assert jax.config.jax_compilation_cache_dir is None


def test_the_command_line_uses_it(monkeypatch):
    started = []
    monkeypatch.setattr(app, "_start_jax", started.append)
    for words in (["report"], ["report", "--no-compile-cache"], ["--no-compile-cache", "report"], ["report", "--help"]):
        with pytest.raises(SystemExit) if "--help" in words else pytest.MonkeyPatch.context():
            assert app.main(words) == 2
    assert started == [True, False, False]
