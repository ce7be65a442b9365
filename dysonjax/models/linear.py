"""Linear students of a linear teacher: arXiv:2407.16427 (one matrix) and arXiv:2412.20496 (one hidden layer).

x ~ N(0, 1), y_t = W_t x; the student is y = W x or y = W₂W₁x, its loss ½|y_t − y|². On top of it each example may
have a Gaussian gradient noise a of its own, which keeps the levels moving at W_t, where the data's noise dies out.

W_t is a diagonal matrix. For inputs and initial weights that know no directions this is any W_t, in the bases of its
singular vectors; noise that is symmetric ties the two bases together, so that with it this is any symmetric W_t ≥ 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from dysonjax.core.errors import require, whole
from dysonjax.core.potentials import LevelTheory, Quadratic, numbers_of
from dysonjax.core.values import ByValue
from dysonjax.kernels.products import dot, matmul, matvec, matvec_transposed, sum_of_outer
from dysonjax.kernels.random_numbers import normals

Weights = dict[str, Array]
Example = tuple[Array, Array, Weights]


@dataclass(frozen=True, eq=False)
class LinearNetwork(ByValue):
    """Linear student and teacher, for `sgd` and `matrix_langevin`; the default is arXiv:2407.16427's.

    One singular value, `fan_in` and `init_width=1` make the rank-one teacher of arXiv:2606.28486.

    Args:
        teacher: singular values of W_t [outputs, inputs], kept largest first.
        inputs: by default as many as singular values; more add zeros.
        outputs: likewise.
        hidden: None for y = W x; h for y = W₂W₁x.
        trained: "first": the first matrix alone, so that W₂ is frozen; "both": W₁ and W₂.
        frozen_scale: the frozen W₂ is this number times the identity [outputs, h].
        noise: √A of the noise that each example adds to the gradient of each trained matrix; entries are N(0, A), of a
            square matrix symmetric with 2A on the diagonal (GOE).
        fan_in: the initial entries are divided by √(that matrix' inputs).
        init_width: default σ of the initial entries.

    Raises:
        InputError: a bad argument.

    >>> LinearNetwork(teacher=(1, 3), outputs=4, hidden=5).shapes
    {'W1': (5, 2), 'W2': (4, 5)}
    """

    teacher: Sequence[float] = (2.0, 2.0)
    inputs: int | None = None
    outputs: int | None = None
    hidden: int | None = None
    trained: Literal["first", "both"] = "first"
    frozen_scale: float = 1.0
    noise: float = 0.0
    fan_in: bool = False
    init_width: float = 0.1

    examples = None  # an endless source: fresh inputs, labelled by the teacher

    def __post_init__(self):
        teacher = np.atleast_1d(numbers_of("teacher", self.teacher))
        require(np.all(teacher >= 0), "teacher", self.teacher, "singular values of at least 0")
        object.__setattr__(self, "teacher", tuple(sorted(teacher.tolist(), reverse=True)))
        for name, width in (("inputs", self.inputs), ("outputs", self.outputs)):
            if width is not None:
                whole(name, width)
                require(width >= teacher.size, name, width, f"at least {teacher.size}, the teacher's singular values")
        if self.hidden is not None:
            whole("hidden", self.hidden)
        require(self.trained in ("first", "both"), "trained", self.trained, "first or both")
        require(self.trained == "first" or self.hidden, "trained", self.trained, "first, for there is no hidden layer")
        for name in ("frozen_scale", "noise", "init_width"):
            number = numbers_of(name, getattr(self, name))
            positive = number.ndim == 0 and number >= 0 and (number > 0 or name == "noise")
            require(
                positive, name, getattr(self, name), f"a {'non-negative' if name == 'noise' else 'positive'} number"
            )
            object.__setattr__(self, name, float(number))
        require(isinstance(self.fan_in, bool), "fan_in", self.fan_in, "True or False")

    @property
    def config(self) -> Mapping[str, Any]:
        """JSON of every field."""
        own = {
            **vars(self),
            "teacher": list(self.teacher),
            "inputs": self.gaussians,
            "outputs": self.teacher_matrix.shape[0],
        }
        return {"model": "linear network", **own}

    @property
    def gaussians(self) -> int:
        """Number of inputs; a batch is known by their second moment."""
        return len(self.teacher) if self.inputs is None else self.inputs

    @property
    def teacher_matrix(self) -> Float[np.ndarray, "outputs inputs"]:
        """W_t."""
        n = len(self.teacher)
        w = np.zeros((n if self.outputs is None else self.outputs, self.gaussians))
        w[range(n), range(n)] = self.teacher
        return w

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Name and shape [fan-out, fan-in] of every matrix, first to last."""
        outputs, inputs = self.teacher_matrix.shape
        if self.hidden is None:
            return {"W": (outputs, inputs)}
        return {"W1": (self.hidden, inputs), "W2": (outputs, self.hidden)}

    @property
    def trained_names(self) -> tuple[str, ...]:
        """Names of the trained matrices, first to last."""
        names = tuple(self.shapes)
        return names if self.trained == "both" else names[:1]

    def task(self, key: PRNGKeyArray) -> tuple[()]:
        """Nothing is drawn."""
        return ()

    def init(self, key: PRNGKeyArray, task: Any, init_width: Float[Array, ""]) -> Weights:
        """The trained matrices, N(0, σ_W²), or N(0, σ_W²/fan-in)."""
        keys = jax.random.split(key, len(self.trained_names))
        drawn = {
            name: jax.random.normal(k, self.shapes[name]) for name, k in zip(self.trained_names, keys, strict=True)
        }
        return {name: init_width / (w.shape[1] ** 0.5 if self.fan_in else 1) * w for name, w in drawn.items()}

    def sample(self, key: PRNGKeyArray, num: int, task: Any) -> Example:
        """x [num, inputs], W_t x [num, outputs], and noise a [num, m, n] of every trained matrix, if there is any."""
        of_inputs, of_noise = jax.random.split(key)
        x = jax.random.normal(of_inputs, (num, self.gaussians))
        n, outputs = len(self.teacher), self.teacher_matrix.shape[0]
        y = jnp.pad(jnp.asarray(self.teacher) * x[:, :n], ((0, 0), (0, outputs - n)))
        if not self.noise:
            return x, y, {}
        keys = jax.random.split(of_noise, len(self.trained_names))
        drawn = zip(self.trained_names, keys, strict=True)
        return x, y, {name: self._noise(jax.random.normal(k, (num, *self.shapes[name])), 1) for name, k in drawn}

    def _noise(self, g: Array, rows: int) -> Array:
        """a from standard normal numbers whose matrix axes are `rows` and the next."""
        if g.shape[rows] != g.shape[rows + 1]:
            return self.noise * g
        return self.noise / 2**0.5 * (g + jnp.swapaxes(g, rows, rows + 1))

    def loss(self, params: Weights, example: Example, task: Any) -> Float[Array, ""]:
        """½|y_t − y|² for one example; its gradient, but not its value, has the example's noise."""
        x, target, noise = example
        from dysonjax.models.feed_forward import FeedForward

        error = target - FeedForward(self._weights(params), "identity")(x)
        tilt = [jnp.sum(a * (params[name] - jax.lax.stop_gradient(params[name]))) for name, a in noise.items()]
        return 0.5 * jnp.sum(jnp.square(error)) + sum(tilt)

    def matrices(self, params: Weights) -> Weights:
        """All trained matrices, and their product P = W₂W₁ if both are."""
        if self.trained == "first":
            return params
        # in full precision everywhere: an accelerator's default would blur close levels
        return params | {"P": jnp.matmul(params["W2"], params["W1"], precision="highest")}

    def _weights(self, params: Weights) -> list[Array]:
        """All matrices, first to last, of one replica or of a block."""
        weights = [params[name] for name in self.trained_names]
        if len(weights) < len(self.shapes):
            frozen = self.frozen_scale * jnp.eye(*self.shapes["W2"])
            weights.append(frozen.reshape(*frozen.shape, *(1 for _ in weights[0].shape[2:])))
        return weights

    def block_loss_and_gradient(
        self, params: Weights, examples: Example, task: Any
    ) -> tuple[Float[Array, " R"], Weights]:
        """Mean loss over a batch and its gradient by hand, for replicas on the last axis."""
        x, target, noise = examples
        *first, last = self._weights(params)
        inputs = [x, *(matvec(w, x) for w in first)]
        error = jax.lax.optimization_barrier(matvec(last, inputs[-1]) - target)
        loss = 0.5 * jnp.mean(jnp.sum(jnp.square(error), axis=1), axis=0)
        delta = error / target.shape[0]
        deltas = [*(matvec_transposed(last, delta) for _ in first), delta]
        gradient = {
            name: sum_of_outer(jax.lax.optimization_barrier(d), h)
            for name, d, h in zip(self.trained_names, deltas, inputs, strict=False)
        }
        share = jnp.full((target.shape[0], 1, 1, 1), 1 / target.shape[0])
        return loss, gradient | {name: gradient[name] + dot(a, share) for name, a in noise.items()}

    def moment_gradient(self, params: Weights, moment: Float[Array, "n n R"], task: Any) -> Weights:
        """(W − W_t) S; of two matrices, W₂ᵀ(W₂W₁ − W_t)S and (W₂W₁ − W_t)S W₁ᵀ."""
        barrier = jax.lax.optimization_barrier
        weights = self._weights(params)
        product = weights[0] if self.hidden is None else barrier(matmul(weights[1], weights[0]))
        slope = matmul(product - jnp.asarray(self.teacher_matrix, product.dtype)[..., None], moment)
        if self.hidden is None:
            return {"W": slope}
        slope = barrier(slope)
        gradient = {"W1": sum_of_outer(weights[1], slope)}
        return gradient if self.trained == "first" else gradient | {"W2": matmul(slope, jnp.swapaxes(weights[0], 0, 1))}

    def gradient_noise(self, keys: PRNGKeyArray) -> Weights | None:
        """One example's noise a [m, n, R] for every trained matrix, None without noise."""
        if not self.noise:
            return None
        names = enumerate(self.trained_names)
        return {name: self._noise(normals(keys, self.shapes[name], stream=i), 0) for i, name in names}

    def stationary_error(self, learning_rate: ArrayLike, batch_size: ArrayLike) -> Float[np.ndarray, "..."]:
        """E‖W − W_t‖² of one matrix in its stationary state, exact for any α and |B| with fresh batches.

        Δ = W − W_t moves by Δ' = Δ(1 − αS) − αā, and ⟨S⟩ = 1, ⟨S²⟩ = 1 + (n + 1)/|B| for n inputs, so that

            E‖Δ'‖² = [(1 − α)² + α²(n + 1)/|B|] E‖Δ‖² + α² E‖a‖²/|B|,   E‖Δ‖² = T E‖a‖²/(2 − α − T(n + 1)),

        T = α/|B|, with E‖a‖² = A n(n + 1) for a square matrix and A m n otherwise; infinite where it does not converge.
        Arguments broadcast. Raises `InputError` for a network with a hidden layer.
        """
        require(self.hidden is None, "hidden", self.hidden, "None, for an exact stationary state")
        rate, size = np.asarray(learning_rate, float), np.asarray(batch_size, float)
        m, n = self.shapes["W"]
        squares = self.noise**2 * (n * (n + 1) if m == n else m * n)
        restoring = 2 - rate - rate / size * (n + 1)
        return np.where(restoring > 0, rate / size * squares / np.where(restoring > 0, restoring, 1), np.inf)

    def level_theory(self) -> LevelTheory:
        """Dyson's equation near the teacher, for a square W_t of full rank: quadratic wells, one coupling a level.

        One matrix: dW = −(W − W_t) dt + √T a, so stiffness 1, g² = A, σ_i² = T g²/stiffness = T A; levels of W itself.
        W₂ = s frozen, h = n: dW₁ = −s²(W₁ − W_t/s) dt + √T a, so centres t_i/s, stiffness s², σ_i² = T A/s².

        Both trained, levels of P = W₂W₁: a small start ends balanced, W₁ = O√t, W₂ = √t Oᵀ with a random orthogonal O.
        There dP = −[(P − W_t)t + t(P − W_t)] dt + √T (a₂O√t + √t Oᵀa₁): stiffness 2t_i, and the noise of P_ii has
        variance 2A t_i (1 + O_ii²). Symmetric a do not forget O; its average ⟨O_ii²⟩ = 1/n gives g_i² = A t_i(1 + 1/n)
        and σ_i² = T A (1 + 1/n)/2. (A start with O = 1, such as W₁ = W₂ = √t, has σ_i² = T A. For h > n the a are not
        symmetric and σ_i² = T A/2 for any W₁ and W₂ with W₂W₁ = W_t.) Noise moves W₁ and W₂ along W₂W₁ = W_t too, where
        no gradient holds them: W₂ᵀW₂ − W₁W₁ᵀ walks at random without bound, as √(T A t · time). P's widths were seen to
        stay while it grew to 3t; but the stiffness grows with it, until the learning rate is too large.

        All as T → 0, averaged over replicas, when the start is forgotten. Raises `InputError` where there is no such
        theory; without `noise` nothing fluctuates at the teacher.
        """
        n, h, teacher = len(self.teacher), self.hidden, np.asarray(self.teacher)
        require(self.noise > 0, "noise", self.noise, "a positive number: without, nothing fluctuates at the teacher")
        square = self.teacher_matrix.shape == (n, n)
        require(square, "teacher", self.teacher, "as many singular values as inputs and outputs for a theory")
        require(teacher[-1] > 0, "teacher", self.teacher, "positive singular values for a theory of the levels")
        if self.trained == "both":
            require(h and h >= n, "hidden", h, f"at least {n}, so that the student can be the teacher")
            part = (1 + 1 / n) / 2 if h == n else 0.5
            centres, stiffness, g, name = teacher, 2 * teacher, self.noise * np.sqrt(2 * part * teacher), "P"
        else:
            require(h in (None, n), "hidden", h, f"None or {n} for a theory of the levels")
            scale, name = (1.0, "W") if h is None else (self.frozen_scale, "W1")
            centres, stiffness, g = teacher / scale, np.full(n, scale**2), np.full(n, self.noise)
        widths = g / np.sqrt(stiffness)
        potential = Quadratic(centres.tolist(), stiffness.tolist())
        return LevelTheory(
            potential, tuple(g.tolist()), tuple(centres.tolist()), tuple(widths.tolist()), "symmetric", name
        )
