"""The reader of compiled programs finds what is known to be there, and `benchmarks.compiled` runs with the CPU."""

import json
import sys
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # benchmarks/ is no part of the package

from benchmarks import compiled, hlo  # noqa: E402


def update_of(module: hlo.Module, depth: int = 1) -> hlo.Work:
    return hlo.work(module, hlo.nest(module, depth)[-1].called["body"][0])


def test_gpu_text_is_counted_as_by_hand():
    """Compiled for an H100: x ← x + dataᵀ[i], five rounds of a small loop, every seventh time the eigenvalues."""
    module = hlo.parse((ROOT / "tests/data/update_loop_h100.hlo").read_text())
    update = update_of(module)
    assert update.kernels == Counter(fusion=4)
    assert [(trips, work.kernels, work.copies) for trips, work in update.loops] == [(5, Counter(fusion=2), 1)]
    assert [work.kernels for work in update.branches] == [Counter(fusion=2, cusolver_syevd_ffi=1)]
    assert (update.all_kernels, update.all_copies, update.launched) == (4 + 5 * 2, 1 + 5, 4 + 1 + 5 * 3 + 3)
    assert hlo.unknown_trips(module) == ["jit(program)/while"]
    assert hlo.copies_of_data(module, [100 * 8 * 8]) == [hlo.Copy(100 * 8 * 8 * 4, loops_around=0)]
    assert hlo.copies_of_data(module, [101 * 8 * 8]) == []
    with pytest.raises(ValueError, match="expected 3 loops"):
        hlo.nest(module, 3)


TPU = """HloModule m

ENTRY %main (a: f32[8,128]) -> f32[8,128] {
  %a = f32[8,128]{1,0:T(8,128)} parameter(0)
  %both = (f32[8,128]{1,0:T(8,128)}, /*index=1*/s32[]{:T(128)}) fusion(%a), kind=kLoop, calls=%f
  %x = f32[8,128]{1,0:T(8,128)} get-tuple-element(%both), index=0
  %start = (f32[8,128]{1,0:T(8,128)S(1)}, f32[8,128]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%x)
  ROOT %done = f32[8,128]{1,0:T(8,128)S(1)} copy-done(%start)
}
"""


def test_several_results_and_tiled_layouts_are_read():
    module = hlo.parse(TPU)
    work = hlo.work(module, module.entry)
    assert (work.kernels, work.copies) == (Counter(fusion=1), 1)
    assert hlo.copies_of_data(module, [8 * 128]) == [hlo.Copy(4096, 0), hlo.Copy(4096, 0)]


def test_text_without_a_program_is_refused():
    with pytest.raises(ValueError, match="ENTRY"):
        hlo.parse("HloModule nothing")


def test_program_of_the_cpu_is_read():
    def advance(x, data, steps):
        def update(i, x):
            x = jax.lax.fori_loop(0, 11, lambda j, x: jnp.sin(x[::-1]) + j, x)
            return x + data[i]

        return jax.lax.fori_loop(0, steps, update, x)

    text = jax.jit(advance).lower(jnp.ones(32), jnp.ones((50, 32)), 3).compile().as_text()
    assert text is not None
    module = hlo.parse(text)
    update = update_of(module)
    assert [trips for trips, _ in update.loops] == [11]
    assert update.kernels.total() >= 1
    assert update.all_kernels == update.kernels.total() + 11 * update.loops[0][1].all_kernels
    assert hlo.unknown_trips(module) == ["jit(advance)/while"]


def test_callbacks_are_found():
    def watched(x):
        jax.debug.callback(lambda value: None, x[0])
        return 2 * x

    assert len(hlo.callbacks(jax.jit(watched).lower(jnp.ones(3)).as_text())) == 1
    assert hlo.callbacks(jax.jit(jnp.sin).lower(jnp.ones(3)).as_text()) == []


def test_the_whole_way_with_the_cpu(tmp_path, capsys):
    out, name = tmp_path / "found.json", "Dyson, Euler-Maruyama"
    assert compiled.main(("cpu",), (name,), out=out) == 0
    found = json.loads(out.read_text())["targets"]["cpu"][name]
    assert found["kernels"] > 0
    assert found["replicas"] == 8
    assert found["bytes"]["arguments"] > 0
    assert "jit(advance)/while/body/while/body/while" in found["unknown_loops"]
    assert f"| {name} | 8 | {found['kernels']}" in capsys.readouterr().out


def test_comparison_shows_what_changed_and_no_times():
    one = {"targets": {"h100": {"net": {"kernels": 11, "callbacks": [], "seconds": {"cpu": 1.0}}}}}
    other = {"targets": {"h100": {"net": {"kernels": 9, "callbacks": [], "seconds": {"cpu": 2.0}}}}}
    assert list(compiled.differences(one, other)) == ["targets/h100/net/kernels: 11 → 9"]
    assert list(compiled.differences(one, one)) == []


def test_missing_packages_are_named_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(compiled.TARGETS, "cpu", compiled.Target("a CPU", ("no-such-package",), 8))
    assert compiled.main(("cpu",), out=tmp_path / "never.json") == 2
    assert capsys.readouterr().err.splitlines() == [
        "missing packages: pip install no-such-package (see benchmarks/compiled.py)"
    ]


@pytest.mark.parametrize(("targets", "names"), [(("h200",), ()), (("cpu",), ("tanh",))])
def test_unknown_targets_and_programs_are_refused(targets, names, tmp_path, capsys):
    assert compiled.main(targets, names, out=tmp_path / "never.json") == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert (targets + names)[-1] in said
