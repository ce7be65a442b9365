"""A user's network, optimiser and axes from words, and one line for everything that is wrong with them."""

import sys

import numpy as np
import optax
import pytest

import dysonjax as dj
from dysonjax.experiments.learning.networks import axes_of, fingerprint, network_of, optimizer_of

GOOD = """
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
import dysonjax as dj
from beside_it import WIDTH
with Path("times.txt").open("a") as times:
    times.write("x")
inputs = np.load("inputs.npy")

def make(width=WIDTH):
    return dj.models.FunctionModel(
        init_function=lambda key: {"w": jax.random.normal(key, (3, width))},
        loss_function=lambda params, example: jnp.sum((example @ params["w"]) ** 2),
        data=np.load("inputs.npy"),
    )

def clipped(learning_rate, clip=1.0):
    import optax
    return optax.chain(optax.clip_by_global_norm(clip), optax.adam(learning_rate))

def needs(width):
    return make(width)

def bare():
    from flax import nnx
    return nnx.Linear(2, 2, rngs=nnx.Rngs(0))

def nothing():
    pass

def fails():
    raise KeyError("no weights")

def bad_loss():
    return dj.models.FunctionModel(lambda key: {"w": jnp.ones((2, 2))}, lambda p, x: x, data=inputs)

ready = make()
number = 3
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A file in a folder of its own, with a module and data beside it; commands are given elsewhere."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "mynet.py").write_text(GOOD)
    (folder / "beside_it.py").write_text("WIDTH = 4\n")
    np.save(folder / "inputs.npy", np.ones((6, 3), np.float32))
    monkeypatch.chdir(tmp_path)
    yield folder / "mynet.py"
    sys.modules.pop("beside_it", None)


def test_a_file_runs_in_its_folder_once(file, tmp_path):
    search = sys.path[:]
    made = network_of("theirs/mynet.py:make")
    assert made.config["parameters"] == {"w": [3, 4]}
    assert network_of("theirs/mynet.py:make") is made
    assert network_of(f"{file}:ready").config == made.config
    assert (file.parent / "times.txt").read_text() == "x"
    assert sys.path == search
    assert (tmp_path / "theirs").is_dir()  # we are back where we were


def test_a_file_that_changed_runs_again(file):
    before, print_before = network_of(f"{file}:make"), fingerprint(f"{file}:make")
    assert len(print_before) == 64
    file.write_text(GOOD.replace("width=WIDTH", "width=5"))
    assert fingerprint(f"{file}:make") != print_before
    assert network_of(f"{file}:make").config["parameters"] == {"w": [3, 5]}
    assert before.config["parameters"] == {"w": [3, 4]}


def test_a_module_is_found_from_where_the_command_is_given(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    package = file.parent / "a_package_of_theirs"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "nets.py").write_text(GOOD)
    made = network_of("a_package_of_theirs.nets:make")
    assert made.config["parameters"] == {"w": [3, 4]}
    assert len(fingerprint("a_package_of_theirs.nets:make")) == 64
    for name in ("a_package_of_theirs", "a_package_of_theirs.nets"):
        del sys.modules[name]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("theirs/mynet.py", "expected FILE.py:FUNCTION"),
        ("make", "expected FILE.py:FUNCTION"),
        ("theirs/mynet.py:", "expected FILE.py:FUNCTION"),
        ("theirs/other.py:make", "there is no file theirs/other.py"),
        ("no.such_package:make", "there is no module no.such_package"),
        ("theirs/mynet.py:mak", "which has make, clipped, needs"),
        ("theirs/mynet.py:number", "not int"),
        ("theirs/mynet.py:needs", "this one needs width"),
        ("theirs/mynet.py:bare", "not Linear"),
        ("theirs/mynet.py:nothing", "not None"),
        ("theirs/mynet.py:fails", r"KeyError: 'no weights', line \d+ of mynet.py"),
        ("theirs/mynet.py:bad_loss", "loss_function = "),
    ],
)
def test_one_line_for_what_is_no_network(file, text, said):
    with pytest.raises(dj.InputError, match=said) as raised:
        network_of(text)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("source", "said", "kind"),
    [
        ("def make(:", "SyntaxError", SyntaxError),
        ("import sys\nsys.exit(3)", "SystemExit: 3", SystemExit),
        ("import no_such_thing", "No module named 'no_such_thing'", ModuleNotFoundError),
        ("\n\nraise ValueError('a\\nb')", "ValueError: a b, line 3 of broken.py", ValueError),
    ],
)
def test_a_file_that_raises_is_one_line_with_its_cause(tmp_path, source, said, kind):
    (tmp_path / "broken.py").write_text(source)
    with pytest.raises(dj.InputError, match=said) as raised:
        network_of(f"{tmp_path / 'broken.py'}:make")
    assert "\n" not in str(raised.value)
    assert isinstance(raised.value.__cause__, kind)
    assert not [name for name in sys.modules if name.startswith("broken_")]


def test_optimizers_by_name(file):
    assert optimizer_of(None) is None
    assert optimizer_of("adamw") is optax.adamw
    assert optimizer_of("contrib.muon") is optax.contrib.muon
    own = optimizer_of("theirs/mynet.py:clipped")
    assert own is not None
    assert set(dj.train(network_of("theirs/mynet.py:make"), own).parameters) >= {"learning_rate", "clip"}


@pytest.mark.parametrize(
    "text", ["adma", "contrib", "contrib.", "_src", "GradientTransformation", "theirs/mynet.py:number"]
)
def test_one_line_for_what_is_no_optimizer(file, text):
    with pytest.raises(dj.InputError, match="expected the name of an optimiser of optax") as raised:
        optimizer_of(text)
    assert "\n" not in str(raised.value)


def test_axes_from_words():
    assert axes_of([]) == {}
    assert axes_of(["weight_decay=0,1e-4", "b1=0.1:10:3"]) == {"weight_decay": (0, 1e-4), "b1": (0.1, 1, 10)}
    assert axes_of(["weight_decay=0", "1e-4", "momentum=0.9"]) == {"weight_decay": (0, 1e-4), "momentum": (0.9,)}


@pytest.mark.parametrize("texts", [["0.1"], ["=1"], ["a b=1"], ["x="], ["x=1,y"], ["x=nan"], ["x=1:2"], ["x=0:1:2"]])
def test_one_line_for_what_is_no_axis(texts):
    with pytest.raises(dj.InputError, match="axis = "):
        axes_of(texts)
    with pytest.raises(dj.InputError, match="x once"):
        axes_of(["x=1", "x=2"])
