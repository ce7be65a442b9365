"""What is said of a GPT's spectra: random matrices pass, planted ones are told; the batch size's exchange exponent."""

import dataclasses
import io

import numpy as np
import pytest
import xarray as xr
from rich.console import Console

from dysonjax.core.errors import InputError, StoreError
from dysonjax.engine.jobs import Results
from dysonjax.experiments import running
from dysonjax.experiments.gpt import figures as gpt_figures
from dysonjax.experiments.gpt import grid as gpt_scaling
from dysonjax.experiments.gpt import summary as nano_gpt
from dysonjax.experiments.gpt.exchange import EXPONENTS, exchange, exchange_table, exchanges, without_largest
from dysonjax.experiments.gpt.grid import GPTScalingRun
from dysonjax.experiments.gpt.summary import Pool, findings, pools, times
from dysonjax.models.gpt import KINDS


def screen(table):
    text = io.StringIO()
    Console(file=text, width=220).print(table)
    return text.getvalue()


RNG = np.random.default_rng(31)
SHAPE = (48, 24)


@pytest.fixture(autouse=True)
def few_references(monkeypatch):
    monkeypatch.setattr(nano_gpt, "REFERENCES", 60)
    nano_gpt._references.cache_clear()
    yield
    nano_gpt._references.cache_clear()


def pool(matrices, spike=0.0, scale=0.02, step=0):
    """Levels of random matrices with entries of standard deviation `scale`, and one outlier each."""
    w = scale * RNG.normal(size=(matrices, *SHAPE))
    w[:, 0, 0] += spike * scale * np.sqrt(max(SHAPE))
    levels = np.linalg.svd(w, compute_uv=False) ** 2
    return Pool("heads 48×24", step, levels, SHAPE)


def test_random_matrices_follow_every_law():
    found = findings(pool(12), 0.02)
    assert found.law_p > 0.01
    assert found.initial_p > 0.01
    assert found.spacing_p > 0.01
    assert found.outliers <= 2
    assert found.ranks == "none"
    assert abs(found.variance.value - 48 * 0.02**2) < 5 * found.variance.error
    assert abs(found.ratio.value - 0.5307) < 5 * found.ratio.error + 0.01
    assert found.spacing_reference[0] < found.spacing_reference[1] < 0.12


@pytest.mark.slow
def test_p_values_are_those_of_random_matrices():
    """Of 30 pools, uniform: neither the law's nor the surmise's."""
    p = np.array([[f.law_p, f.initial_p, f.spacing_p] for f in (findings(pool(4), 0.02) for _ in range(30))])
    for column in p.T:
        assert 0.3 < column.mean() < 0.7
        assert (column < 0.1).mean() < 0.3


def test_what_differs_is_told():
    spiked = findings(pool(12, spike=3.0))
    assert spiked.outliers >= 11
    assert spiked.law_p < 0.02
    assert spiked.ranks.startswith("1 high")
    assert np.isnan(spiked.initial_p)
    wider = findings(pool(12, scale=0.025), 0.02)
    assert wider.initial_p < 0.02
    assert wider.law_p > 0.01
    x = np.sort(RNG.uniform(0.1, 2.0, (12, 24)))[:, ::-1]
    independent = findings(Pool("heads", 0, x**2, SHAPE))
    assert independent.spacing_p < 0.1  # the least that so few references can give is 1/16
    assert independent.spacing_distance > 1.5 * independent.spacing_reference[0]


def monitored():
    """A dataset as the monitor makes them: two layers with two heads at three times."""
    names = [f"layer{i}/key/kernel{part}" for i in range(2) for part in ("", "/head0", "/head1")]
    shapes = [(48, 48) if "head" not in n else SHAPE for n in names]
    levels = np.full((4, 6, 48), np.nan)
    for t in range(3):
        for j, shape in enumerate(shapes):
            w = RNG.normal(size=shape)
            w[0, 0] += 8.0 * t
            levels[t, j, : min(shape)] = np.linalg.svd(w, compute_uv=False) ** 2
    train = np.linspace(4, 2, 50)
    return xr.Dataset(
        {
            "levels": (("step", "matrix", "level"), levels),
            "rows": ("matrix", np.array([s[0] for s in shapes])),
            "columns": ("matrix", np.array([s[1] for s in shapes])),
            "reached": ("step", np.array([True, True, True, False])),
            "train_loss": ("update", train),
            "validation_loss": ("validation_step", np.array([4.0, 3.0, 2.0])),
            "final_loss": ((), 2.0),
            "final_loss_error": ((), 0.1),
        },
        coords={
            "step": [0, 6, 50, 100], "matrix": names, "update": np.arange(50), "validation_step": [0, 25, 50],
        },
    )  # fmt: skip


def test_pools_tables_and_figures(tmp_path):
    ds = monitored()
    assert times(ds) == [0, 6, 50]
    found = nano_gpt.analysis(ds, 1.0)
    assert [(f.pool.name, f.pool.step, len(f.pool.levels)) for f in found] == [
        (name, step, count) for step in (0, 6, 50) for name, count in (("whole 48×48", 2), ("heads 48×24", 4))
    ]
    assert [f.pool.levels.shape for f in found[:2]] == [(2, 48), (4, 24)]
    assert pools(ds, 50)[1].levels.max() > 100
    shown = screen(nano_gpt.spectra_table(found)) + screen(nano_gpt.loss_table(ds))
    assert "4 heads 48×24" in shown
    assert "2.00(10)" in shown
    paths = gpt_figures.draw(ds, found, tmp_path, published=True)
    assert sorted(p.stem for p in paths) == ["level_flow_heads", "level_flow_layers", "loss", "spacings", "spectra"]
    assert all(p.stat().st_size > 10_000 for p in paths)


def surface(p, seeds=8, noise=0.02):
    """Levels whose growth depends on ln α − p ln |B| alone, of two layers."""
    a, b = np.array([0.1, 0.2, 0.4, 0.8]), np.array([4, 8, 16, 32])
    u = np.log(a)[:, None] - p * np.log(b)
    growth = 0.5 + 0.3 * u + 0.02 * u**2
    levels = np.ones((4, 4, seeds, 2, 3))
    levels[..., 1, :] = np.exp(growth[..., None] + noise * RNG.normal(size=(4, 4, seeds)))[..., None]
    dims = ("learning_rate", "batch_size", "seed", "snapshot", "level")
    return xr.Dataset(
        {f"levels_layer{i}.{kind}": (dims, levels) for i in range(2) for kind in KINDS},
        coords={"learning_rate": a, "batch_size": b, "seed": np.arange(seeds)},
    )


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_the_planted_exponent_is_found(p):
    found = [exchange(surface(p), "key", "norm") for _ in range(20)]
    z = [(one.exponent.value - p) / one.exponent.error for one in found]
    assert abs(np.mean(z)) < 5 / np.sqrt(20)
    assert 0.5 < np.std(z) < 2
    assert max(one.exponent.error for one in found) < 0.1
    chances = {label: np.median([one.collapse[label][1] for one in found]) for label in EXPONENTS}
    for label, q in EXPONENTS.items():
        assert (chances[label] > 0.05) == (q == p)


POEM = "She sells sea shells by the sea shore; the shells she sells are sea shells I am sure.\n" * 8


@pytest.fixture
def run(tmp_path):
    place = tmp_path / "poem.txt"
    place.write_text(POEM)
    return GPTScalingRun("sgd", (0.1, 0.2, 0.4), (1, 2, 4), windows=8, seeds=2, text=str(place), layers=1, heads=1,
                         channels=4, context=4)  # fmt: skip


@pytest.mark.slow  # mostly compilation: each batch size is a program
def test_a_grid_of_networks(run, tmp_path, monkeypatch):
    assert run.parts() == [(run.learning_rates, size, 8 // size) for size in (1, 2, 4)]
    monkeypatch.setattr(gpt_scaling, "LEAST", 2)  # every size is a program of its own, which takes long to compile
    run = dataclasses.replace(run, batch_sizes=(1, 2))
    ds = run.joined(running.run(run, tmp_path / "grid"))
    assert ds["levels_layer0.key"].shape == (3, 2, 2, 2, 4)
    assert ds.batch_size.values.tolist() == [1, 2]
    with pytest.raises(StoreError, match="another run"):
        running.run(dataclasses.replace(run, seeds=3), tmp_path / "grid")
    experiment, results = running.load(tmp_path / "grid")
    assert experiment == run
    xr.testing.assert_identical(run.joined(results), ds)
    assert without_largest(ds) is None


def test_parts_of_one_length_have_names_of_their_own(run):
    """The rates 0.8 and 1 take one update each for a time of 1."""
    names = [job.name for job in dataclasses.replace(run, learning_rates=(0.4, 0.8, 1.0), time=1.0).jobs(Results())]
    assert names[:3] == ["b1-2", "b1-1-0.8", "b1-1-1"]
    assert len(set(names)) == len(names) == 9


def test_a_table_of_exponents(run):
    found = exchanges(surface(0.5))
    assert len(found) == 8
    shown = screen(exchange_table(run, found, []))
    assert "8 windows" in shown
    assert shown.count("ln ‖W‖²/‖W₀‖²") == 4


def test_the_same_time_for_all(run):
    timed = dataclasses.replace(run, time=1.6)
    assert [(rates, steps) for rates, size, steps in timed.parts() if size == 2] == [
        ((0.1,), 16), ((0.2,), 8), ((0.4,), 4)
    ]  # fmt: skip
    assert timed.budget == "α × updates = 1.6"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "adam"}, "optimizer = 'adam'"),
        ({"windows": 6}, "batch_sizes = 4: expected divisors of 6"),
        ({"learning_rates": (0.1, 0.2)}, "at least 3 values"),
        ({"seeds": 1}, "seeds = 1"),
        ({"time": -1.0}, "time = -1.0"),
    ],
)
def test_grids_that_make_no_surface(run, change, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(run, **change)


def test_the_largest_rate_may_be_left_out():
    """A grid that leaves the rule at its largest rate follows it below."""
    ds = surface(1.0, seeds=40)
    for name in ds.data_vars:
        ds[name][-1, :, :, 1] *= 1.5
    rest = without_largest(ds)
    assert rest is not None
    assert rest.learning_rate.values.tolist() == [0.1, 0.2, 0.4]
    whole, small = exchange(ds, "key", "norm"), exchange(rest, "key", "norm")
    assert whole.collapse["p = 1"][1] < 1e-3
    assert small.collapse["p = 1"][1] > 1e-3
    assert abs(small.exponent.value - 1) < 5 * small.exponent.error


def test_diverged_networks_are_not_hidden():
    ds = surface(1.0)
    ds["levels_layer0.key"][-1, 0, 0, 1] = np.nan
    with pytest.raises(InputError, match="rates at which no network diverges"):
        exchange(ds, "key", "norm")
