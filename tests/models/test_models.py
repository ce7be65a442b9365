"""Models: the tanh network against its definition, anybody's flax module."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import nnx
from stochastic import assert_law, assert_mean

import dysonjax as dj
from dysonjax.core.dynamics import lift
from dysonjax.core.model import mean_loss

KEY = jax.random.key(7)


@pytest.mark.parametrize(
    ("activation", "hidden", "outputs", "trained"),
    [
        *((activation, *case) for activation in ("tanh", "relu", "identity") for case in (
            ((6, 5), 1, (1,)), ((6, 5), 2, "all"), ((6, 5), 1, (0, 2)), ((5, 4, 3), 2, (1, 2)), ((4,), 1, (0,)),
        )),
        ("tanh", (6, 5), 1, (0,)), ("tanh", (6, 5), 2, (2,)), ("relu", (5, 4, 3), 1, "all"),
    ],
)  # fmt: skip
def test_gradient_by_hand_equals_autodiff(activation, hidden, outputs, trained):
    net = dj.models.TanhNetwork(hidden=hidden, outputs=outputs, activation=activation, trained=trained)
    keys = jax.random.split(KEY, (3, 4))

    def draw(key, init_key, sample_key):
        task = net.task(key)
        return net.init(init_key, task, jnp.float32(1.5)), net.sample(sample_key, 3, task), task

    drawn = lift(draw)(*keys)
    autodiff = lift(lambda p, e, t: jax.value_and_grad(lambda q: mean_loss(net, q, e, t))(p))
    (loss, gradient), (exact_loss, exact) = jax.jit(lambda *a: (net.block_loss_and_gradient(*a), autodiff(*a)))(*drawn)
    np.testing.assert_allclose(loss, exact_loss, rtol=1e-5)
    assert set(gradient) == set(exact) == set(net.trained_names)
    for name, value in gradient.items():
        np.testing.assert_allclose(value, exact[name], rtol=1e-4, atol=1e-5, err_msg=name)


ACTIVATIONS = {"tanh": np.tanh, "relu": lambda z: np.maximum(z, 0), "identity": lambda z: z}


def forward(matrices, activation, x):
    """w_n a(… a(w_1 x)) for rows x, in float64."""
    *hidden, last = (np.float64(w) for w in matrices)
    for w in hidden:
        x = ACTIVATIONS[activation](x @ w.T)
    return x @ last.T


@pytest.mark.parametrize(
    ("activation", "hidden", "trained"),
    [("tanh", (6, 5), (1,)), ("relu", (6, 5), (2,)), ("identity", (6, 5), "all"), ("tanh", (5, 4, 3), (2, 1))],
)
def test_the_module_is_the_definition(activation, hidden, trained):
    """The module, and the loss ½|y_t − y|² that starts behind the frozen layers, through explicit matrices."""
    net = dj.models.TanhNetwork(hidden=hidden, outputs=2, activation=activation, trained=trained)
    keys = jax.random.split(KEY, 3)
    task = net.task(keys[0])
    params = net.init(keys[1], task, jnp.float32(1.5))
    x = np.float64(jax.random.normal(keys[2], (4, 3)))  # the inputs that sample draws
    student, teacher = (forward(w.values(), activation, x) for w in (task | params, task))
    module = dj.models.FeedForward(list((task | params).values()), activation)
    np.testing.assert_allclose(jax.vmap(module)(jnp.float32(x)), student, rtol=2e-5, atol=1e-6)

    examples = net.sample(keys[2], 4, task)
    np.testing.assert_allclose(examples[1], teacher, rtol=2e-5, atol=1e-6)
    losses = jax.vmap(lambda e: net.loss(params, e, task))(examples)
    np.testing.assert_allclose(losses, 0.5 * np.sum((teacher - student) ** 2, axis=1), rtol=1e-4)
    own = {name: task[name] for name in params}
    np.testing.assert_allclose(mean_loss(net, own, examples, task), 0.0, atol=1e-12)  # W = W* makes no error


@pytest.mark.parametrize(("hidden", "trained"), [((6, 5), (1,)), ((6, 5), "all"), ((5, 4, 3), (2, 1))])
def test_the_last_hidden_layer_is_the_one_before_the_output(hidden, trained):
    """z = W s₀ leaves the last but one matrix, whichever layer the examples enter at."""
    net = dj.models.TanhNetwork(hidden=hidden, trained=trained)
    keys = jax.random.split(KEY, 3)
    task = net.task(keys[0])
    params = net.init(keys[1], task, jnp.float32(1.5))
    *before, w, _ = (task | params).values()
    wanted = forward([*before, np.eye(hidden[-2])], "tanh", np.float64(jax.random.normal(keys[2], (4, 3))))
    block = jax.tree.map(lambda x: x[..., None], (task | params, net.sample(keys[2], 4, task)[0]))
    z = net.last_hidden(*block)[..., 0]
    np.testing.assert_allclose(z, wanted @ np.float64(w).T, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("hidden", "trained", "names", "watched"),
    [
        ((32, 16), (1,), "M W Z", "W"),
        ((32, 16), (2, 0), "M W Z", "M Z"),  # first to last, whatever the order asked for
        ((32, 16), "all", "M W Z", "M W Z"),
        ((7,), (0,), "W1 W2", "W1"),
        ((5, 4, 3), (3, 1), "W1 W2 W3 W4", "W2 W4"),
    ],
)
def test_names_and_shapes(hidden, trained, names, watched):
    net = dj.models.TanhNetwork(inputs=2, hidden=hidden, outputs=6, trained=trained)
    widths = (2, *hidden, 6)
    assert net.shapes == dict(zip(names.split(), zip(widths[1:], widths[:-1], strict=True), strict=True))
    assert net.trained_names == tuple(watched.split())
    assert net.config == {
        "model": "tanh network", "widths": list(widths), "activation": "tanh", "trained": watched.split()
    }  # fmt: skip
    task = net.task(KEY)
    params = net.init(KEY, task, jnp.float32(1.0))
    assert {name: w.shape for name, w in task.items()} == net.shapes
    assert {name: w.shape for name, w in net.matrices(params).items()} == {n: net.shapes[n] for n in net.trained_names}


def test_the_loss_is_that_of_the_paper():
    """½|y_t − y|² with y = Z tanh(W tanh(M x)), written out in float64."""
    net = dj.models.TanhNetwork()
    task = net.task(KEY)
    params = net.init(jax.random.fold_in(KEY, 1), task, jnp.float32(2.0))
    x = np.asarray(jax.random.normal(jax.random.fold_in(KEY, 2), (5, 3)), float)  # the inputs that sample draws
    m, teacher, z, w = (np.asarray(a, float) for a in (task["M"], task["W"], task["Z"], params["W"]))
    error = (np.tanh(np.tanh(x @ m.T) @ teacher.T) - np.tanh(np.tanh(x @ m.T) @ w.T)) @ z.T
    examples = net.sample(jax.random.fold_in(KEY, 2), 5, task)
    np.testing.assert_allclose(mean_loss(net, params, examples, task), 0.5 * np.mean(error**2), rtol=1e-5)
    assert float(mean_loss(net, {"W": task["W"]}, examples, task)) < 1e-12  # the teacher itself makes no error


def test_matrices_have_the_papers_variances():
    net = dj.models.TanhNetwork()
    keys = jax.random.split(KEY, 400)
    tasks = jax.vmap(net.task)(keys)
    for name, fan_in in (("M", 3), ("W", 32), ("Z", 16)):
        squares = np.square(tasks[name]).reshape(400, -1).mean(1)
        assert_mean(squares, 1 / fan_in, resolution=0.1 / fan_in)
    students = jax.vmap(lambda k, t: net.init(k, t, jnp.float32(3.0)))(jax.random.split(keys[0], 400), tasks)["W"]
    assert_mean(np.square(students).reshape(400, -1).mean(1), 9 / 32, resolution=0.3 / 32)
    # the student knows nothing of its teacher; a shared key would make this 3/32
    assert_mean((students * tasks["W"]).reshape(400, -1).mean(1), 0.0, resolution=0.1 / 32)


def test_entries_are_gaussian():
    """A variance would not tell a normal number from a uniform one."""
    w = dj.models.TanhNetwork(hidden=(40, 50)).task(KEY)["W"]
    assert_law(np.ravel(w) * np.sqrt(40), scipy.stats.norm.cdf, resolution=0.07)


@pytest.mark.parametrize(
    ("argument", "bad"),
    [
        ("inputs", 0), ("inputs", True), ("outputs", -1), ("hidden", (3, 0)), ("hidden", ()), ("hidden", (2.5,)),
        ("hidden", "32"), ("hidden", 5), ("activation", "gelu"), ("activation", ["tanh"]), ("trained", ()),
        ("trained", (0, 0)), ("trained", (3,)), ("trained", (-1,)), ("trained", (1.0,)), ("trained", (True,)),
        ("trained", "W"), ("trained", 1),
    ],
)  # fmt: skip
def test_bad_networks_are_refused_in_one_line(argument, bad):
    with pytest.raises(dj.InputError, match=rf"^{argument} = .*: expected .*") as refusal:
        dj.models.TanhNetwork(**{argument: bad})
    assert "\n" not in str(refusal.value)


class Net(nnx.Module):
    """Two layers and a variable that is not trained."""

    def __init__(self, rngs):
        self.first, self.second = nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 1, rngs=rngs)
        self.scale = nnx.BatchStat(jnp.float32(2.0))

    def __call__(self, x):
        return self.scale[...] * self.second(nnx.relu(self.first(x)))


def squared_error(net, example):
    return jnp.mean((net(example[0]) - example[1]) ** 2)


DATA = (np.arange(60, dtype=np.float32).reshape(20, 3), np.arange(20, dtype=np.float32)[:, None])


def flax_model(**options):
    return dj.models.FlaxModel(lambda rngs: Net(rngs), squared_error, **{"data": DATA, **options})


def test_a_flax_module_is_watched_and_widened():
    model = flax_model()
    task = model.task(KEY)
    one, wide = (model.init(KEY, task, jnp.float32(width)) for width in (1.0, 5.0))
    watched = model.matrices(one)
    assert {name: x.shape for name, x in watched.items()} == {"first.kernel": (3, 4), "second.kernel": (4, 1)}
    for name, x in watched.items():
        np.testing.assert_allclose(model.matrices(wide)[name], 5 * x, rtol=1e-6)
    assert set(flax_model(watch=lambda name: "second" in name).matrices(one)) == {"second.kernel"}
    direct = Net(nnx.Rngs(KEY))  # the same key builds the same network
    example = tuple(a[3] for a in DATA)
    np.testing.assert_allclose(model.loss(one, example, task), squared_error(direct, example), rtol=1e-6)


@pytest.mark.parametrize("num", [2, 5, 19, 20])
def test_examples_are_drawn_without_replacement(num):
    """Few by Floyd's algorithm, many by a permutation; every example equally often."""
    draw = jax.jit(jax.vmap(lambda key: flax_model().sample(key, num, ())[1][:, 0]))
    rows = np.asarray(draw(jax.random.split(KEY, 2000))).astype(int)
    assert all(len(set(row)) == num for row in rows)
    for row in range(20):
        assert_mean((rows == row).sum(1), num / 20, resolution=0.06) if num < 20 else None
    inputs, targets = flax_model().sample(KEY, num, ())
    np.testing.assert_array_equal(inputs[:, 0], 3 * targets[:, 0])  # inputs stay with their targets


def test_frozen_variables_stay_and_parameters_move():
    """Through the engine: the BatchStat is state, not among the trained parameters, and enters the output."""
    model = flax_model()
    dynamics = dj.sgd(model, batches=3, tests=4)
    hyper = {"learning_rate": jnp.float32(1e-4), "batch_size": 4, "init_width": jnp.float32(1.0)}
    hyper["data"] = dynamics.data(KEY, hyper)
    start = dynamics.init(KEY, hyper)
    end = dynamics.step(KEY, start, {**hyper, "step": 0})
    names = {jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(start.params)}
    assert len(names) == 4  # two kernels and two biases
    assert not any("scale" in name for name in names)
    moved = [bool((a != b).any()) for a, b in zip(*map(jax.tree.leaves, (start.params, end.params)), strict=True)]
    assert all(moved)
    assert jax.tree.leaves(start.state) == jax.tree.leaves(end.state) == [2.0]
    zero = (DATA[0][3], np.zeros(1, np.float32))  # with target 0 the loss is the square of scale × output
    once, twice = (
        model.loss(start.params, zero, state) for state in (start.state, jax.tree.map(lambda x: 2 * x, start.state))
    )
    np.testing.assert_allclose(twice, 4 * once, rtol=1e-5)


def test_the_example_of_the_docstring_runs():
    model = flax_model()
    ds = dj.scan(
        dj.sgd(model, batches=4, tests=2), dj.Grid(learning_rate=[1e-5, 1e-4], batch_size=[4], init_width=[1.0, 2.0]), 8
    )
    assert ds["levels_first.kernel"].dims[-1] == "level_first.kernel"
    assert ds["levels_first.kernel"].shape[-1] == 3
    assert ds["levels_second.kernel"].shape[-1] == 1
    assert json.loads(ds.attrs["experiment"])["parameters"]["first.kernel"] == [3, 4]
    assert np.isfinite(ds.test_loss).all()


def test_fresh_data_of_a_function():
    """`data(key, num)` is asked for every batch, with keys that differ, and for the tests."""
    model = flax_model(data=lambda key, num: (jax.random.normal(key, (num, 3)), jnp.ones((num, 1))))
    assert model.examples is None
    one, other = (model.sample(key, 6, ()) for key in jax.random.split(KEY))
    assert one[0].shape == (6, 3)
    assert not np.any(np.asarray(one[0]) == np.asarray(other[0]))


def test_bad_flax_models_are_refused():
    with pytest.raises(dj.InputError, match=r"^data = .*: expected arrays with one common leading axis$"):
        flax_model(data=(DATA[0], DATA[1][:5]))
    with pytest.raises(dj.InputError, match=r"^watch = .*: expected to accept the name of a matrix among first"):
        flax_model(watch=lambda name: False)


def test_lists_of_numbers_are_data():
    lists = DATA[0].tolist(), tuple(map(tuple, DATA[1].tolist()))
    for data in (lists, {"x": lists[0], "y": lists[1]}, (DATA[0], lists[1])):
        loss = squared_error if isinstance(data, tuple) else lambda net, one: squared_error(net, (one["x"], one["y"]))
        model = dj.models.FlaxModel(Net, loss, data)
        assert model.examples == 20
        for found, wanted in zip(jax.tree.leaves(model.data), DATA, strict=True):
            np.testing.assert_array_equal(found, wanted)


def broken(*arguments):
    raise KeyError("mine")


@pytest.mark.parametrize(
    ("options", "words", "cause"),
    [
        ({"module": lambda rngs: None}, "module = <function .*: expected .*, not None$", None),
        ({"module": broken}, r"module = <function broken .*module \(KeyError: 'mine'\)$", KeyError),
        ({"module": Net}, "", None),
        ({"module": Net(nnx.Rngs(0))}, r"module = .*\(TypeError: ", TypeError),
        ({"module": 3}, "module = 3: expected a function$", None),
        ({"data": (DATA[0][:, :2], DATA[1])}, r"loss_function = .* example of \(2,\), \(1,\) \(", Exception),
        ({"data": ([[1, 2], [3]], [1, 2])}, "data = .*: expected arrays, or lists of numbers of one", ValueError),
        ({"data": (["a", "b"], [1, 2])}, "data = .*: expected arrays", None),
        ({"data": (1.0, 2.0)}, "loss_function = ", Exception),
        ({"data": None}, "data = .*: expected arrays with one common leading axis$", None),
        ({"data": broken}, r"data = .*num examples \(KeyError: 'mine'\)$", KeyError),
        (
            {"data": lambda key, num: jnp.ones((3, 3))},
            r"data = .* for num = 2 not arrays of shapes \[\(3, 3\)\]$",
            None,
        ),
        ({"loss_function": broken}, r"loss_function = .*\(KeyError: 'mine'\)$", KeyError),
        ({"loss_function": lambda net, one: net(one[0])}, r"loss_function = .* scalar, not float32\[1\]$", None),
        ({"loss_function": lambda net, one: jnp.int32(1)}, r"loss_function = .* scalar, not int32\[\]$", None),
        ({"loss_function": lambda net, one: None}, "loss_function = .* scalar, not None$", None),
        ({"watch": "kernel"}, r"watch = 'kernel': expected a pattern of .*has first\.bias, first\.kernel, ", None),
        ({"watch": 3}, "watch = 3: expected patterns of names such as", None),
        ({"of_batch": 1}, "of_batch = 1: expected True or False$", None),
        ({"test_data": DATA[0]}, "test_data = .*: expected examples like those of data, ", None),
        ({"test_data": (DATA[0][:3], DATA[1][:2])}, r"test_data = \[2, 3\]: expected arrays with one common", None),
        ({"loss_function": lambda net, one: (jnp.sum(net(one[0])), 1.0)}, "loss_function = .* not a tuple of 2$", None),
        (
            {"loss_function": lambda net, one: (jnp.sum(net(one[0])), {"x": one[0]})},
            "loss_function = 'x': .*scalar",
            None,
        ),
    ],
)
def test_what_a_user_gets_wrong_is_one_line_with_its_cause(options, words, cause):
    given = {"module": Net, "loss_function": squared_error, "data": DATA, **options}
    if not words:
        dj.models.FlaxModel(**given)
        return
    with pytest.raises(dj.InputError, match=f"^{words}") as refusal:
        dj.models.FlaxModel(**given)
    assert "\n" not in str(refusal.value)
    assert type(refusal.value.__cause__) is type(None) if cause is None else isinstance(refusal.value.__cause__, cause)


@pytest.mark.parametrize("dynamics", [dj.matrix_langevin, lambda model: dj.svag(model, 2)])
def test_a_loss_of_a_batch_is_refused_where_examples_are_weighed_one_by_one(dynamics):
    model = dj.models.FunctionModel(
        lambda key: {"w": jax.random.normal(key, (3, 2))}, lambda params, x: jnp.mean((x @ params["w"]) ** 2),
        data=np.zeros((20, 3), np.float32), of_batch=True,
    )  # fmt: skip
    with pytest.raises(dj.InputError, match=r"^of_batch = True: expected False, the loss of one example"):
        dj.scan(dynamics(model), dj.Grid(learning_rate=[0.1], batch_size=[4]), 5, progress=False)
