"""The phase diagram of a user's network, from Python and from the command line, and how its runs are continued."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dysonjax as dj
from dysonjax.cli.app import main
from dysonjax.dynamics.stochastic_gradient import SGDData, SGDState
from dysonjax.dynamics.training import TrainingState
from dysonjax.experiments import running
from dysonjax.experiments.learning import diagram_figures
from dysonjax.experiments.learning.boundaries import wilson
from dysonjax.experiments.learning.diagram import NetworkDiagram
from dysonjax.experiments.learning.diagram_summary import summary
from dysonjax.experiments.learning.diagram_tables import NO_CRITERION, said, sentence
from dysonjax.experiments.learning.measures import langevin_terms, memory, watched
from dysonjax.experiments.learning.phases import PHASES, Thresholds
from dysonjax.experiments.phase_diagram.experiment import PhaseDiagram
from dysonjax.experiments.phase_diagram.order_parameters import order_parameters
from tests.drawing import drawn_once

FILE = """
import jax, jax.numpy as jnp, numpy as np
import dysonjax as dj

x = np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32)
y = np.tanh(x @ np.ones((4, 3), np.float32)) + x[:, :3]

def make(y=y, **more):
    return dj.models.FunctionModel(
        init_function=lambda key: {"w": jax.random.normal(key, (4, 3)) / 2},
        loss_function=lambda params, example: jnp.mean((example[0] @ params["w"] - example[1]) ** 2),
        data=(x[:48], y[:48]), test_data=(x[48:], y[48:]), **more,
    )

def never():
    return make(np.random.default_rng(1).standard_normal((64, 3)).astype(np.float32))

def cooled(update, steps):
    return 1 - update / steps

def broken(update, steps):
    raise OSError("no such time")

def three(update, steps):
    return jnp.zeros(3)

def fails():
    raise OSError("the disk is empty")
"""
RATES, SIZES = (1e-5, 0.1, 0.3, 30.0), (4, 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("theirs")
    (place / "mynet.py").write_text(FILE)
    return place


@pytest.fixture(scope="module")
def model(folder):
    return dj.experiments.NetworkDiagram(model=f"{folder}/mynet.py:make").objects()[0]


@pytest.fixture(scope="module")
def found(model):
    return dj.phase_diagram(model, learning_rate=RATES, batch_size=SIZES, seed=3, steps=60, snapshots=8, block_size=12)


def options(folder, name="make"):
    return [
        "phase-diagram", "--model", f"{folder}/mynet.py:{name}", "--learning-rate", ",".join(map(str, RATES)),
        "--batch-size", "4", "--seeds", "3", "--steps", "60", "--snapshots", "8",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    """One of the batch sizes, in two blocks, and figures as users have them."""
    place = tmp_path_factory.mktemp("runs") / "run"
    assert main([*options(folder), "--out", str(place), "--block-size", "6"]) == 0
    return place


def test_a_diagram_in_python(found):
    assert found.replicas.phase.dims == ("learning_rate", "batch_size", "init_width", "seed")
    common = [[PHASES[i] for i in row] for row in found.points.common.squeeze("init_width").values]
    assert common == [["frozen"] * 2, ["learns"] * 2, ["learns"] * 2, ["diverged"] * 2]
    np.testing.assert_array_equal(found.points.learns[:, 0, 0], [0, 1, 1, 0])
    low, high = wilson(3, 3)
    assert float(found.points.low[1, 0, 0]) == pytest.approx(float(low)) == pytest.approx(3 / (3 + 1.96**2), rel=1e-4)
    assert float(high) == 1
    memories = found.points.memory.squeeze("init_width").values
    np.testing.assert_allclose(memories[0], 1, atol=1e-3)  # frozen
    assert (memories[1] < 0.9).all()
    text = " ".join(str(found).split())
    assert "learning rates 0.1 to 0.3 learn in at least half of the networks" in text
    assert "0.3 is the largest at which all 3 learn (95 % interval of P(learns): 0.44 – 1.00)" in text
    assert "below, they are frozen; above, they are diverging" in text
    assert "<table>" in found._repr_mimebundle_()["text/html"]


def test_the_command_and_python_give_the_same_numbers(run, found):
    ds = dj.open(run)
    for name in ("levels", "test_loss", "memory", "drift"):
        np.testing.assert_array_equal(ds[name], found.results[name].sel(batch_size=[4]))
    record = json.loads((run / "run.json").read_text())
    assert (record["kind"], len(record["settings"]["fingerprint"])) == ("phase-diagram", 64)
    assert {p.name for p in (run / "figures").iterdir()} == {
        "phase_map.png", "probability.png", "final_metric.png", "level_flow.png", "criterion.png",
    }  # fmt: skip


def test_a_report_needs_no_file(run, folder, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "kept")
    moved = folder / "moved.py"
    (folder / "mynet.py").rename(moved)
    try:
        assert main(["report", str(tmp_path / "kept"), "--format", "csv"]) == 0
        assert main(["verify", str(tmp_path / "kept")]) == 0
        assert main(["phase-diagram", "--resume", str(tmp_path / "kept")]) == 2
        assert "there is no file" in capsys.readouterr().err
    finally:
        moved.rename(folder / "mynet.py")


def test_a_file_that_changed_is_noticed(run, folder, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "kept")
    (folder / "mynet.py").write_text(FILE + "# another one\n")
    try:
        assert main(["phase-diagram", "--resume", str(tmp_path / "kept")]) == 1
        assert "the file is another one than when the run was begun" in capsys.readouterr().err
        assert main(["phase-diagram", "--extend", str(tmp_path / "kept"), "--seeds", "4"]) == 1
        assert "holds another run (network = " in capsys.readouterr().err
    finally:
        (folder / "mynet.py").write_text(FILE)


class Impatient:
    """A progress bar whose user stops after so many replica-updates."""

    def __init__(self, left):
        self.left = left

    def advance(self, updates):
        self.left -= updates
        if self.left < 0:
            raise KeyboardInterrupt


@pytest.fixture
def undrawn(monkeypatch):
    """No figures: what else a command does is looked at."""
    monkeypatch.setattr(diagram_figures, "draw", lambda found, directory: [])


def test_a_run_is_resumed(run, tmp_path, capsys, undrawn):
    place = tmp_path / "kept"
    with pytest.raises(KeyboardInterrupt):
        running.run(running.experiment_of(run), place, progress=Impatient(6 * 60), block_size=6)
    assert main(["report", str(place)]) == 1
    assert f"continue with dysonjax phase-diagram --resume {place}" in capsys.readouterr().err
    assert main(["phase-diagram", "--resume", str(place)]) == 0
    np.testing.assert_array_equal(dj.open(place).levels, dj.open(run).levels)


def test_a_run_is_extended(run, tmp_path, undrawn):
    place, whole = tmp_path / "kept", tmp_path / "whole"
    shutil.copytree(run, place)
    assert main(["phase-diagram", "--extend", str(place), "--seeds", "4"]) == 0
    experiment = NetworkDiagram.of({**running.settings(running.experiment_of(run)), "seeds": 4})
    np.testing.assert_array_equal(dj.open(place).levels, running.run(experiment, whole, progress=False).only.levels)
    assert main(["verify", str(place), "--recompute", "2"]) == 0


def test_shares_are_merged(run, folder, tmp_path, undrawn):
    for i in range(2):
        out = ["--shard", f"{i}/2", "--block-size", "2", "--out", str(tmp_path / f"part{i}")]
        assert main([*options(folder), *out]) == 0
    assert main(["merge", str(tmp_path / "part0"), str(tmp_path / "part1"), "--out", str(tmp_path / "whole")]) == 0
    np.testing.assert_array_equal(dj.open(tmp_path / "whole").levels, dj.open(run).levels)


def test_a_run_of_python_is_reported_and_continued_there(model, found, tmp_path, capsys, undrawn):
    place = tmp_path / "run"
    given = {"learning_rate": RATES, "batch_size": 4, "seed": range(3), "steps": 60, "snapshots": 8, "out": place}
    with pytest.raises(KeyboardInterrupt):
        dj.phase_diagram(model, block_size=6, progress=Impatient(6 * 60), **given)
    assert main(["report", str(place)]) == 1
    assert "continue with the same call of dysonjax.phase_diagram" in capsys.readouterr().err
    assert main(["phase-diagram", "--resume", str(place)]) == 1
    assert "the network is not stored" in capsys.readouterr().err
    again = dj.phase_diagram(model, **given)
    np.testing.assert_array_equal(again.results.levels, found.results.levels.sel(batch_size=[4]))
    assert main(["report", str(place)]) == 0
    with pytest.raises(dj.StoreError, match="steps"):
        dj.phase_diagram(model, **{**given, "steps": 61})


def test_the_papers_command_is_as_before():
    assert PhaseDiagram.options()[""] is PhaseDiagram
    made = PhaseDiagram.of(running.settings(PhaseDiagram(seeds=2)))
    assert made == PhaseDiagram(seeds=2)
    assert set(running.settings(made)) == {
        "learning_rate", "init_width", "batch_size", "seeds", "epochs", "batches", "snapshots", "hidden", "activation",
        "key",
    }  # fmt: skip


def test_help_says_that_the_file_is_run(capsys):
    for words in (["--model", "x.py:make", "--help"], ["--help"]):
        with pytest.raises(SystemExit):
            main(["phase-diagram", *words])
        said = " ".join(capsys.readouterr().out.split())
        assert "is run" in said
        assert ("--steps" in said) == (len(words) == 3)
        assert ("--epochs" in said) == (len(words) == 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "{}/mynet.py:fails"], "OSError: the disk is empty"),
        (["--model", "{}/mynet.py:absent"], "which has make, never, cooled, broken, three, fails"),
        (["--model", "{}/other.py:make"], "there is no file"),
        (["--optimizer", "adma"], "optimizer = 'adma'"),
        (["--schedule", "{}/mynet.py:broken"], "OSError: no such time, line"),
        (["--schedule", "{}/mynet.py:three"], "expected one number, not an array (3,)"),
        (["--axis", "weight_decay=0.1"], "grid = 'weight_decay'"),
        (["--axis", "seed=1"], "axis = "),
        (["--batch-size", "49"], "batch_size = 49"),
        (["--metric", "accuracy"], "metric = 'accuracy': expected one of"),
        (["--share", "1.5"], "share = 1.5"),
    ],
)
def test_one_line_for_what_is_wrong(folder, tmp_path, capsys, words, said):
    given = [word.format(folder) for word in words]
    command = ["phase-diagram", "--model", f"{folder}/mynet.py:make"] if "--model" not in given else ["phase-diagram"]
    few = ["--learning-rate", "0.1", "--steps", "4", "--seeds", "1", "--out", str(tmp_path / "run")]
    sizes = [] if "--batch-size" in given else ["--batch-size", "4"]
    assert main([*command, *given, *few, *sizes]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_bad_arguments_in_python(model):
    for bad, words in (
        ({"seed": [1, 2]}, "seed = "),
        ({"seed": 0}, "seed = 0"),
        ({"learning_rate": "big"}, "learning_rate = 'big'"),
        ({"batch_size": 2.5}, "batch_size = 2.5"),
        ({"momentum": 0.9}, "momentum"),
        ({"schedule": 3}, "schedule = 3"),
        ({"batches": 0}, "batches = '0'"),
        ({"optimizer": "adma"}, "optimizer = 'adma'"),
    ):
        with pytest.raises(dj.InputError, match=words):
            dj.phase_diagram(model, **{"learning_rate": 0.1, "batch_size": 4, "steps": 4, **bad})
    with pytest.raises(dj.InputError, match="model = 3"):
        dj.phase_diagram(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("optimizer", ["adamw", optax.adamw])
def test_other_optimisers_and_axes(model, optimizer):
    axes = {"learning_rate": [0.01, 0.1], "batch_size": 4, "weight_decay": [0, 0.1]}
    found = dj.phase_diagram(model, optimizer=optimizer, seed=2, steps=30, snapshots=6, **axes)
    assert found.points.learns.sizes["weight_decay"] == 2
    assert "drift" not in found.results
    assert NO_CRITERION in found.report.said
    assert json.loads(found.results.attrs["experiment"])["optimizer"] == "adamw"


def test_schedule_and_batches_are_those_of_train(folder, model):
    asked = {"learning_rate": [0.1], "batch_size": [4]}
    file = f"{folder}/mynet.py"
    found = dj.phase_diagram(
        f"{file}:make", schedule=f"{file}:cooled", batches=6, seed=2, steps=12, snapshots=3, **asked
    )
    by_hand = dj.train(model, schedule=lambda update, steps: 1 - update / steps, batches=6, tests=512)
    marks = found.results.step.values.tolist()
    ds = dj.scan(by_hand, dj.Grid(**asked, seed=range(2)), 12, snapshots=marks)
    np.testing.assert_array_equal(found.results.levels.squeeze("init_width"), ds.levels)
    assert "drift" not in found.results
    assert "SGD with cooled, 12 updates" in sentence(found.summary)


def test_a_network_that_never_learns(folder, tmp_path):
    never = NetworkDiagram(
        model=f"{folder}/mynet.py:never", learning_rate=(1e-4, 1e-3), batch_size=(4,), seeds=2, steps=20, snapshots=5
    )
    seen = never.analyse(running.run(never))
    assert np.isnan(seen.target)
    assert "nothing learns" in sentence(seen)
    with drawn_once():
        assert len(diagram_figures.draw(seen, tmp_path)) == 5


def test_a_network_that_always_learns(folder, tmp_path):
    always = NetworkDiagram(model=f"{folder}/mynet.py:make", learning_rate=(0.1,), batch_size=(4,), seeds=1, steps=40)
    seen = always.analyse(running.run(always))
    assert "learning rate 0.1 learns" in sentence(seen)
    assert "none below was tried; none above was tried" in sentence(seen)
    assert len(said(seen)) == 3
    with drawn_once():
        assert len(diagram_figures.draw(seen, tmp_path)) == 5


def test_the_commonest_phase_is_learning_from_a_half_on(found):
    ds = found.results.isel(learning_rate=[0, 1], batch_size=[0])
    one_of_three = ds.copy(deep=True)
    one_of_three.test_loss[1, ..., 1:, -1] = 4.0
    one_of_three.levels[1, ..., 1, -1, :] = 1e3
    given = Thresholds(target=1.0)
    points = summary(one_of_three, None, given).points.isel(learning_rate=1).squeeze()
    assert float(points.learns) == pytest.approx(1 / 3)
    assert PHASES[int(points.common)] != "learns"
    assert PHASES[int(summary(ds, None, given).points.common[1].squeeze())] == "learns"


def test_figures_mark_points_of_their_phases(found):
    marks = diagram_figures.marked(found.summary)
    assert [PHASES[mark.phase] for mark in marks] == ["frozen", "learns", "diverged"]
    for mark in marks:
        assert int(found.replicas.phase.isel({**mark.at, "seed": mark.seed})) == mark.phase
    (ax,) = diagram_figures.phase_map(found.summary).axes
    assert {"a", "b", "c"} <= {text.get_text() for text in ax.texts}
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["4", "8"]


def test_memory_is_the_overlap_with_the_start(model):
    observable = memory(model)
    assert observable is not None
    params = {"w": jnp.arange(12.0).reshape(4, 3)}
    turned = {"w": -2 * params["w"]}
    state = lambda p: TrainingState(p, {}, (), jnp.float32(0), {})  # noqa: E731
    start = observable.init({}, state(params), {})
    for now, wanted in ((params, 1), (turned, -1), ({"w": params["w"].at[:].set(jnp.eye(4, 3))}, None)):
        value = float(observable.result(start, {}, state(now), {})[0]["memory"])
        own = np.sum(np.asarray(params["w"]) * np.asarray(now["w"]))
        scale = np.linalg.norm(params["w"]) * np.linalg.norm(now["w"])
        assert value == pytest.approx(own / scale if wanted is None else wanted, rel=1e-5)


@pytest.mark.parametrize("tall", [False, True])
def test_langevin_terms_are_those_of_the_tanh_network(tall):
    """The general terms, from gradients of examples, against those of the papers' network, for W and for Wᵀ."""
    net = dj.models.TanhNetwork(hidden=(7, 5))
    keys = jax.random.split(jax.random.key(5), 3)
    task = net.task(keys[0])
    params = net.init(keys[1], task, jnp.float32(1.3))
    examples = net.sample(keys[2], 40, task)
    turn = (lambda w: w.T) if tall else (lambda w: w)
    own = dj.models.FunctionModel(
        init_function=lambda key: {"w": turn(params["W"])},
        loss_function=lambda p, example: net.loss({"W": turn(p["w"])}, example, task),
        data=jax.tree.map(np.asarray, examples),
    )
    observable = langevin_terms(own, 40)
    assert observable is not None
    state = TrainingState({"w": turn(params["W"])}, {}, (), jnp.float32(0), {})
    values = jax.jit(lambda now: observable.result((), {}, now, {})[0])(state)
    block = jax.tree.map(lambda x: x[..., None], (task, params, examples))
    of_net = order_parameters(net)
    given = {"data": SGDData(block[0], None, block[2])}
    block_state = SGDState(block[1], (), jnp.zeros(1))
    measure = jax.jit(lambda now, given: of_net.result(of_net.init({}, now, given), {}, now, given)[0])
    wanted = measure(block_state, given)
    for name in ("drift", "repulsion"):
        np.testing.assert_allclose(values[name], wanted[name][0], rtol=2e-4)
    # the sign of the published form follows the eigenvectors' signs, which nothing fixes
    assert np.isfinite(float(values["repulsion_published"]))


def test_where_the_criterion_is_left_out(folder):
    build = lambda **more: dj.models.FunctionModel(  # noqa: E731
        init_function=lambda key: {"w": jnp.ones((4, 2)), "v": jnp.ones((3, 3))},
        loss_function=lambda p, x: jnp.sum(x @ p["w"]) + jnp.sum(p["v"]), data=np.ones((8, 4), np.float32), **more,
    )  # fmt: skip
    both = langevin_terms(build(), 8)
    assert both is not None
    assert set(both.variables) == {"drift_v", "repulsion_v", "repulsion_published_v"}  # w has two levels
    assert watched(build()) == {"w": (4, 2), "v": (3, 3)}
    assert langevin_terms(build(of_batch=True), 8) is None
    assert langevin_terms(build(watch="w"), 8) is None
    assert langevin_terms(build(watch=None), 8) is None
    assert memory(build(watch=None)) is None
