"""The tanh network of arXiv:2509.01349: a teacher and a student with shared frozen layers, of any widths.

x ∈ R³ ~ N(0, 1); s₀ = tanh(Mx), z = W s₀, φ = tanh(z) ("soft spins"), y = Zφ; loss ½|y_t − y|². In the paper only W is
trained. Every matrix of the teacher has N(0, 1/fan-in) entries; the student shares the frozen ones and its trained ones
start at N(0, σ_W²/fan-in), σ_W = `init_width`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from dysonjax.core.errors import require, whole
from dysonjax.core.values import ByValue
from dysonjax.kernels.products import matvec, matvec_transposed, sum_of_outer
from dysonjax.models.activations import ACTIVATIONS, Activation

Weights = dict[str, Array]


@dataclass(frozen=True, eq=False)
class TanhNetwork(ByValue):
    """Student and teacher network for `sgd`; the defaults are the paper's.

    There are len(hidden) + 1 matrices. Three are named M, W, Z, otherwise they are W1, W2, ….

    Args:
        inputs: number of inputs.
        hidden: widths of the hidden layers.
        outputs: number of outputs.
        activation: "tanh", "relu" or "identity".
        trained: which matrices are trained, counted from 0, or "all".

    Raises:
        InputError: a bad argument.

    >>> TanhNetwork(inputs=3, hidden=(32, 16), outputs=1).shapes
    {'M': (32, 3), 'W': (16, 32), 'Z': (1, 16)}
    """

    inputs: int = 3
    hidden: tuple[int, ...] = (32, 16)
    outputs: int = 1
    activation: Activation = "tanh"
    trained: tuple[int, ...] | Literal["all"] = (1,)

    examples = None  # an endless source: fresh inputs, labelled by the teacher

    def __post_init__(self):
        require(_whole_numbers(self.hidden), "hidden", self.hidden, "a list of whole numbers, at least one")
        for name, width in (("inputs", self.inputs), ("outputs", self.outputs), *(("hidden", h) for h in self.hidden)):
            whole(name, width)
        known = isinstance(self.activation, str) and self.activation in ACTIVATIONS
        require(known, "activation", self.activation, f"one of {', '.join(ACTIVATIONS)}")
        valid = self.trained == "all" or (
            _whole_numbers(self.trained)
            and len(set(self.trained)) == len(self.trained)
            and all(0 <= i <= len(self.hidden) for i in self.trained)
        )
        require(valid, "trained", self.trained, f"distinct matrix numbers in 0 … {len(self.hidden)}, or 'all'")
        for name in ("hidden", "trained"):
            if getattr(self, name) != "all":
                object.__setattr__(self, name, tuple(map(int, getattr(self, name))))

    @property
    def config(self) -> Mapping[str, Any]:
        widths = [self.inputs, *self.hidden, self.outputs]
        return {
            "model": "tanh network",
            "widths": widths,
            "activation": self.activation,
            "trained": list(self.trained_names),
        }

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Name and shape [fan-out, fan-in] of every matrix, first to last."""
        widths = (self.inputs, *self.hidden, self.outputs)
        names = ("M", "W", "Z") if len(widths) == 4 else tuple(f"W{i}" for i in range(1, len(widths)))
        return {name: (widths[i + 1], widths[i]) for i, name in enumerate(names)}

    @property
    def trained_names(self) -> tuple[str, ...]:
        """Names of the trained matrices, first to last."""
        names = tuple(self.shapes)
        return names if self.trained == "all" else tuple(names[i] for i in sorted(self.trained))

    def task(self, key: PRNGKeyArray) -> Weights:
        """The teacher's matrices, N(0, 1/fan-in); the student's frozen ones are the same."""
        return self._gaussian(key, tuple(self.shapes))

    def init(self, key: PRNGKeyArray, task: Weights, init_width: Float[Array, ""]) -> Weights:
        """The student's trained matrices, N(0, σ_W²/fan-in)."""
        return {name: init_width * w for name, w in self._gaussian(key, self.trained_names).items()}

    def _gaussian(self, key: PRNGKeyArray, names: Sequence[str]) -> Weights:
        keys = jax.random.split(key, len(names))
        shapes = self.shapes
        return {n: jax.random.normal(k, shapes[n]) / jnp.sqrt(shapes[n][1]) for n, k in zip(names, keys, strict=True)}

    def sample(
        self, key: PRNGKeyArray, num: int, task: Weights
    ) -> tuple[Float[Array, "num n"], Float[Array, "num outputs"]]:
        """Inputs of the first trained layer (x ~ N(0, 1) behind the frozen ones before it), the teacher's answers."""
        first = list(self.shapes).index(self.trained_names[0])
        x = jax.random.normal(key, (num, self.inputs))
        for w in list(task.values())[:first]:
            x = self.activate(x @ w.T)
        return x, jax.vmap(self._module(task))(x)

    def _from_first_trained(self) -> list[str]:
        """Names of the matrices from the first trained one on."""
        names = list(self.shapes)
        return names[names.index(self.trained_names[0]) :]

    def _module(self, weights: Weights) -> Any:
        """The network from its first trained layer on; missing matrices are an error."""
        from dysonjax.models.feed_forward import FeedForward

        return FeedForward([weights[n] for n in self._from_first_trained()], self.activation)

    def loss(self, params: Weights, example: tuple[Array, Array], task: Weights) -> Float[Array, ""]:
        """½|y_t − y|² for one example."""
        h, target = example
        return 0.5 * jnp.sum(jnp.square(target - self._module(task | params)(h)))

    def last_hidden(self, weights: Weights, inputs: Float[Array, "num n R"]) -> Float[Array, "num K R"]:
        """z = W s₀, what the last activation acts on, for replicas on the last axis; `inputs` as in `sample`."""
        *before, w, _ = self._from_first_trained()
        for name in before:
            inputs = self.activate(matvec(weights[name], inputs))
        return matvec(weights[w], inputs)

    def matrices(self, params: Weights) -> Weights:
        """All trained matrices."""
        return params

    def activate(self, z: Array) -> Array:
        """The activation function."""
        return ACTIVATIONS[self.activation][0](z)

    def slope(self, activated: Array) -> Array:
        """The activation's derivative, in terms of its own value."""
        return ACTIVATIONS[self.activation][1](activated)

    def block_loss_and_gradient(
        self, params: Weights, examples: tuple[Array, Array], task: Weights
    ) -> tuple[Float[Array, " R"], Weights]:
        """Mean loss over a batch and its gradient by hand, for replicas on the last axis.

        The same as `jax.value_and_grad` of the mean of `loss`, several times faster on a CPU: barriers keep the
        compiler from computing tanh again in every place that uses it.
        """
        barrier = jax.lax.optimization_barrier
        names = self._from_first_trained()
        weights = task | params
        x, target = examples
        inputs = [x]
        for name in names[:-1]:
            inputs.append(barrier(self.activate(barrier(matvec(weights[name], inputs[-1])))))
        error = barrier(matvec(weights[names[-1]], inputs[-1]) - target)
        loss = 0.5 * jnp.mean(jnp.sum(jnp.square(error), axis=1), axis=0)

        gradient = {}
        delta = error / target.shape[0]
        for depth in reversed(range(len(names))):
            if names[depth] in params:
                gradient[names[depth]] = sum_of_outer(delta, inputs[depth])
            if depth:
                delta = barrier(matvec_transposed(weights[names[depth]], delta) * self.slope(inputs[depth]))
        return loss, gradient


def _whole_numbers(value: Any) -> bool:
    """True for a list or tuple of at least one whole number."""
    listed = isinstance(value, Sequence) and not isinstance(value, str) and len(value) >= 1
    return listed and all(isinstance(v, Integral) and not isinstance(v, bool) for v in value)
