"""Matrix Langevin equation of any model, dW = −∇L dt + √T C(W)^{1/2} dB, and Dyson's equation of its levels.

T = α/|B| and dt = α; C is the covariance of one example's gradient. One update covers the time of one SGD update.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

from dysonjax import laws, spectra
from dysonjax.core.dynamics import Dynamics, Hyper, Parameter, lift
from dysonjax.core.errors import InputError, require, whole
from dysonjax.core.model import HasLevelTheory, HasLoss, HasMoments, Model, MomentModel, default_init_width, mean_loss
from dysonjax.core.potentials import LevelTheory
from dysonjax.dynamics.dyson_equation import dyson
from dysonjax.dynamics.wishart_sgd import MomentState, batch_gradient, gaussian_moment, measured_moment, moment_dynamics
from dysonjax.dynamics.wishart_sgd import population_gradient as at_population
from dysonjax.spectra.multiplets import multiplets

Noise = Literal["exact", "measured", "isotropic"]


def matrix_langevin(
    model: Model | MomentModel, *, noise: Noise | None = None, samples: int = 256, substeps: int = 1
) -> Dynamics:
    """Drift of the loss plus Gaussian noise with the covariance of SGD's, as a `Dynamics`.

    Hyper-parameters: `learning_rate` α, `batch_size` |B| (both traced), `init_width`. Records the levels.

    Args:
        model: whose loss gives the drift.
        noise: "exact" has C(W) in closed form (models with `moment_gradient`; the default for them). "measured" has the
            empirical covariance of per-example gradients, drawn anew at every step for a model with `moment_gradient`,
            else those of a set of examples fixed for each replica, whose mean loss is the drift. "isotropic" spreads
            the same total variance tr C evenly over the entries of each parameter.
        samples: gradients from which a covariance is measured.
        substeps: Euler steps per update; one is SGD with Gaussian noise, many are the equation in continuous time.

    Returns:
        The dynamics, for `scan` or `simulate`.

    Raises:
        InputError: a bad argument, or noise that the model does not know.

    >>> dynamics = matrix_langevin(GaussianRBM(), noise="exact")  # doctest: +SKIP
    """
    closed = isinstance(model, HasMoments)
    noise = noise or ("exact" if closed else "measured")
    kinds = ("exact", "measured", "isotropic") if closed else ("measured", "isotropic")
    require(noise in kinds, "noise", noise, f"one of {', '.join(kinds)} for this model")
    samples, substeps = whole("samples", samples, 2), whole("substeps", substeps)
    config = {"dynamics": "matrix langevin", "noise": noise, "samples": samples}
    if closed:
        return moment_dynamics(model, _of_moments(model, noise, samples), config, substeps=substeps)  # type: ignore[arg-type]
    require(isinstance(model, HasLoss), "model", type(model).__name__, "a model with a loss or with `moment_gradient`")
    return _of_examples(model, noise, samples, substeps, config)  # type: ignore[arg-type]


def _of_moments(model: MomentModel, noise: Noise, samples: int) -> Any:
    def gradient(keys: PRNGKeyArray, params: PyTree, hyper: Hyper) -> PyTree:
        size = jnp.asarray(hyper["batch_size"], float)
        if noise == "measured":
            moment = measured_moment(keys, model.gaussians, size, samples)
        else:
            moment = gaussian_moment(keys, model.gaussians, size)
        slope = batch_gradient(model, keys, params, moment, hyper)
        if noise != "isotropic":
            return slope
        mean = at_population(model, params, hyper)
        own = lift(lambda key: jax.random.fold_in(key, 1))(keys)
        return lift(_spread)(own, mean, slope)

    return gradient


def _of_examples(model: Model, noise: Noise, samples: int, substeps: int, config: dict[str, Any]) -> Dynamics:
    def data(key: PRNGKeyArray, hyper: Hyper) -> tuple[PyTree, PyTree]:
        of_task, of_examples = jax.random.split(key)
        task = model.task(of_task)
        return task, model.sample(of_examples, min(samples, model.examples or samples), task)

    def slope(key: PRNGKeyArray, params: PyTree, hyper: Hyper) -> PyTree:
        """∇ Σ_b w_b L_b with w_b = 1/m + (ξ_b − ξ̄)/√(m |B|): mean and empirical covariance over |B| in one pass."""
        task, examples = hyper["data"]
        m = len(jax.tree.leaves(examples)[0])
        xi = jax.random.normal(key, (m,))
        weights = (xi - jnp.mean(xi)) * jax.lax.rsqrt(jnp.asarray(m * hyper["batch_size"], float))

        def total(params: PyTree, weights: Array) -> Array:
            return jnp.sum(weights * jax.vmap(lambda example: model.loss(params, example, task))(examples))

        if noise == "measured":
            return jax.grad(total)(params, weights + 1 / m)
        mean = jax.grad(lambda p: mean_loss(model, p, examples, task))(params)
        return _spread(jax.random.fold_in(key, 1), mean, jax.grad(total)(params, weights + 1 / m))

    def init(key: PRNGKeyArray, hyper: Hyper) -> MomentState:
        return MomentState(model.init(key, hyper["data"][0], hyper["init_width"]))

    def step(key: PRNGKeyArray, state: MomentState, hyper: Hyper) -> MomentState:
        share = {**hyper, "batch_size": hyper["batch_size"] / substeps}

        def substep(i: Array, params: PyTree) -> PyTree:
            gradient = slope(jax.random.fold_in(key, i), params, share)
            return jax.tree.map(lambda w, g: w - hyper["learning_rate"] / substeps * g, params, gradient)

        return MomentState(jax.lax.fori_loop(0, substeps, substep, state.params))

    return Dynamics(
        init=init,
        step=step,
        lifted=False,
        spectra=lambda state: {name: spectra.levels(w) for name, w in model.matrices(state.params).items()},
        data=data,
        parameters={
            "learning_rate": Parameter(),
            "batch_size": Parameter(integer=True),
            "init_width": Parameter(default_init_width(model)),
        },
        config={**config, "substeps": substeps, **model.config},
    )


def _spread(key: PRNGKeyArray, mean: PyTree, noisy: PyTree) -> PyTree:
    """The mean plus, for each array, an isotropic vector as long as the noise: covariance tr C/P."""
    keys = jax.random.split(key, len(jax.tree.leaves(mean)))
    keys = jax.tree.unflatten(jax.tree.structure(mean), list(keys))

    def one(key: PRNGKeyArray, mean: Array, noisy: Array) -> Array:
        direction = jax.random.normal(key, mean.shape)
        return mean + direction * jnp.linalg.norm((noisy - mean).ravel()) / jnp.linalg.norm(direction.ravel())

    return jax.tree.map(one, keys, mean, noisy)


def dyson_of(
    model: Any, *, eigenvectors: bool = True, scheme: str | None = None, start: Sequence[float] | None = None
) -> Dynamics:
    """Dyson's equation with the model's own drift K_i(x), coupling g_ij(x) and geometry, in SGD's units.

    In a matrix M, levels of different fixed points c_i repel each other half as much as the equation says, because the
    eigenvectors move too. From x_i = c_i + M_ii + Σ_j M_ij²/(c_i − c_j) − Σ_j M_ij² (M_ii − M_jj)/(c_i − c_j)² + …,
    with v = σ²/2 the variance of M_ij, a level is shifted by Σ_j v/(c_i − c_j) and its variance σ² changes by −σ² Σ_j
    v/(c_i − c_j)²: to first order in T just what half the repulsion does.

    Hyper-parameters: `learning_rate` α, `batch_size` |B| (T = α/|B|, dt = α), `init_width`. Records in the theory's
    coordinate: eigenvalues of WᵀW for the RBM, levels of W for linear networks.

    Args:
        model: one with a `level_theory` (`models.GaussianRBM`, `models.LinearNetwork`).
        eigenvectors: True takes g_ij²/2 between different multiplets; False is the equation as it stands.
        scheme: a name in `schemes.ALL`; by default as in `dyson`.
        start: levels of W itself (singular values), largest first, times `init_width`; by default the typical ones of a
            Gaussian matrix of unit width.

    Returns:
        The dynamics, for `scan` or `simulate`.

    Raises:
        InputError: a bad argument, or a model that has no theory of its levels.

    >>> gas = dyson_of(GaussianRBM())  # doctest: +SKIP
    """
    if not isinstance(model, HasLevelTheory):
        raise InputError(f"model = {type(model).__name__}: expected a model with a `level_theory`")
    theory: Any = model.level_theory()
    n = len(theory.fixed_points)
    if start is None:
        quantiles = laws.MarchenkoPastur(ratio=1.0, variance=float(n)).ppf((np.arange(n) + 0.5) / n)
        start = np.sqrt(np.asarray(quantiles, float))[::-1].tolist()
    coupling = _halved_across(theory) if eigenvectors else theory.coupling
    gas = dyson(
        n, theory.potential, coupling=coupling, geometry=theory.geometry, scheme=scheme, start=start, sgd_units=True
    )  # type: ignore[arg-type]
    parameters = {**gas.parameters, "init_width": Parameter(default_init_width(model))}
    config = {**gas.config, "eigenvectors": eigenvectors, "of": dict(model.config)}
    return Dynamics(**{**vars(gas), "parameters": parameters, "config": config})


def _halved_across(theory: LevelTheory) -> Callable[[Array], Array]:
    """The coupling with g_ij² halved between levels of different fixed points."""
    n = len(theory.fixed_points)
    share: Any = np.full((n, n), np.sqrt(0.5))
    for same in multiplets(np.asarray(theory.fixed_points)):
        share[same, same] = 1
    if callable(theory.coupling):
        of_levels: Any = theory.coupling
        return lambda x: jnp.asarray(share) * of_levels(x)
    g = np.broadcast_to(np.asarray(theory.coupling, float), n)
    return lambda x: jnp.asarray(share * np.sqrt(np.outer(g, g)))
