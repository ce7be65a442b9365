"""The Gaussian restricted Boltzmann machine of arXiv:2407.16427, 2411.13512 and 2412.20496.

Visible φ ∈ R^{N_v}, hidden h ∈ R^{N_h}, energy ½ Σ μ_a² φ_a² + |h|²/2σ_h² − hᵀWφ, so that with K = diag(μ²) − σ_h² WᵀW

    h | φ ~ N(σ_h² W φ, σ_h²),    φ | h ~ N(Wᵀh/μ², 1/μ²),    φ ~ N(0, K⁻¹).

Learning (`dynamics/contrastive_divergence.py`) descends the negative log-likelihood of data with second moment C_φ:
W ← W + α σ_h² W (C_φ − Ĉ), Ĉ = (1/|B|) Σ_b φ_b φ_bᵀ, and μ_a² ← μ_a² + ½ α (Ĉ − C_φ)_aa where the mass is learnt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from dysonjax.core.errors import require, whole
from dysonjax.core.potentials import LevelTheory, RBMPotential
from dysonjax.core.values import ByValue
from dysonjax.kernels.products import cholesky, matmul, matvec, matvec_transposed, solve_upper, sum_of_outer
from dysonjax.kernels.random_numbers import normals

Params = dict[str, Array]
Chains = Literal["persistent", "data", "exact"]


def scalar_field_kernel(sites: int, mass: float = 2.0) -> Float[np.ndarray, "N N"]:
    """K_φ of a free scalar field on a periodic chain: eigenvalues κ_k = m² + 2 − 2 cos(2πk/N).

    Args:
        sites: N.
        mass: m, in lattice units.

    Returns:
        K_φ [N, N].

    Raises:
        InputError: `sites` is no whole number of at least 1.
    """
    shift = np.roll(np.eye(whole("sites", sites, 1)), 1, axis=0)
    return (mass**2 + 2) * np.eye(sites) - shift - shift.T


@dataclass(frozen=True, eq=False)
class GaussianRBM(ByValue):
    """Gaussian RBM, which `sgd` trains by contrastive divergence; the defaults are those of arXiv:2407.16427.

    Args:
        visible: N_v.
        hidden: N_h, default N_v; fewer are an ultraviolet regulator: only the N_h smallest κ are learnt.
        target: the kernel K_φ [N_v, N_v] to learn; default the scalar field of mass 2.
        data: in place of a target, data [examples, N_v], whose second moment is learnt.
        mass2: μ², one number, or one per site [N_v].
        mass: μ² is "fixed", or learnt as one "global" number or "per-site".
        hidden_std: σ_h, standard deviation of the hidden units.
        sweeps: Gibbs sweeps per update.
        chains: "persistent" ones (they start at 1), or |B| new ones per update: "data" starts them at draws of a
            Gaussian with the second moment to learn (CD-k), "exact" draws φ without any sweep.
        init_width: default σ of W₀'s entries.

    Raises:
        InputError: a bad argument.

    >>> [round(k, 3) for k in GaussianRBM(visible=4).kappa]
    [4.0, 6.0, 6.0, 8.0]
    """

    visible: int = 10
    hidden: int | None = None
    target: ArrayLike | None = None
    data: ArrayLike | None = None
    mass2: float | Sequence[float] = 9.0
    mass: Literal["fixed", "global", "per-site"] = "fixed"
    hidden_std: float = 1.0
    sweeps: int = 3
    chains: Chains = "persistent"
    init_width: float = 0.1

    def __post_init__(self):
        whole("visible", self.visible)
        whole("sweeps", self.sweeps)
        if self.hidden is not None:
            whole("hidden", self.hidden)
        require(self.mass in ("fixed", "global", "per-site"), "mass", self.mass, "fixed, global or per-site")
        require(self.chains in ("persistent", "data", "exact"), "chains", self.chains, "persistent, data or exact")
        mass2 = np.asarray(self.mass2, float)
        require(mass2.shape in ((), (self.visible,)), "mass2", self.mass2, f"one number, or {self.visible} of them")
        require(self.mass != "global" or mass2.ndim == 0, "mass2", self.mass2, "one number for a global mass")
        require(np.all(np.isfinite(mass2) & (mass2 > 0)), "mass2", self.mass2, "positive numbers")
        require(
            np.isfinite(self.hidden_std) and self.hidden_std > 0, "hidden_std", self.hidden_std, "a positive number"
        )
        require(self.target is None or self.data is None, "data", "given", "a target or data, not both")
        kappa = np.linalg.eigvalsh(self.kernel) if np.all(np.isfinite(self.kernel)) else np.array([-1.0])
        require(kappa[0] > 0, "target" if self.data is None else "data", kappa[0], "a positive-definite second moment")

    @cached_property
    def kernel(self) -> Float[np.ndarray, "Nv Nv"]:
        """K_φ, the target's inverse second moment."""
        n = self.visible
        if self.data is not None:
            x = np.asarray(self.data, float)
            require(x.ndim == 2 and x.shape[1] == n and len(x) > n, "data", x.shape, f"more than {n} examples [, {n}]")
            return np.linalg.inv(x.T @ x / len(x))
        if self.target is None:
            return scalar_field_kernel(n)
        k = np.asarray(self.target, float)
        require(k.shape == (n, n) and np.allclose(k, k.T), "target", k.shape, f"a symmetric matrix {(n, n)}")
        return k

    @property
    def kappa(self) -> tuple[float, ...]:
        """Eigenvalues of K_φ, smallest first, as their levels x = (μ² − κ)/σ_h² are recorded."""
        return tuple(np.linalg.eigvalsh(self.kernel).tolist())

    @property
    def shape(self) -> tuple[int, int]:
        """[N_h, N_v]."""
        return (self.visible if self.hidden is None else self.hidden), self.visible

    @property
    def gaussians(self) -> int:
        """N_v: φ = U⁻¹ z with UᵀU = K."""
        return self.visible

    @property
    def config(self) -> Mapping[str, Any]:
        """JSON of every field; the kernel stands for target and data."""
        return {
            "model": "gaussian rbm", "shape": list(self.shape), "kernel": np.round(self.kernel, 9).tolist(),
            "mass2": np.asarray(self.mass2, float).tolist(), "mass": self.mass, "hidden_std": self.hidden_std,
        }  # fmt: skip

    def task(self, key: PRNGKeyArray) -> tuple[()]:
        """Nothing is drawn."""
        return ()

    def init(self, key: PRNGKeyArray, task: Any, init_width: Float[Array, ""]) -> Params:
        """W₀ ~ N(0, σ_W²), and μ² where it is learnt."""
        w = init_width * jax.random.normal(key, self.shape)
        if self.mass == "fixed":
            return {"W": w}
        shape = () if self.mass == "global" else (self.visible,)
        return {"W": w, "mass2": jnp.broadcast_to(jnp.asarray(self.mass2, float), shape)}

    def matrices(self, params: Params) -> Params:
        """W; its levels are the eigenvalues x of WᵀW (of WWᵀ for N_h < N_v)."""
        return {"W": params["W"]}

    def module(self, params: Params) -> Any:
        """The flax module with these parameters."""
        mass2 = jnp.broadcast_to(params.get("mass2", jnp.asarray(self.mass2, float)), self.visible)
        from dysonjax.models.rbm_module import RBM

        return RBM(params["W"], mass2, self.hidden_std)

    def factor(self, params: Params) -> Float[Array, "Nv Nv R"]:
        """Upper triangular U with UᵀU = K, NaN outside the positive-definite region."""
        w = params["W"]
        diagonal = jnp.eye(self.visible)[..., None] * jnp.broadcast_to(self._mass2(params), w.shape[1:])[:, None]
        return cholesky(diagonal - self.hidden_std**2 * sum_of_outer(w, w))

    def moment_gradient(self, params: Params, moment: Float[Array, "Nv Nv R"], task: Any) -> Params:
        """Gradient of the negative log-likelihood for Ĉ = U⁻¹ S U⁻ᵀ: |B| independent draws from the model."""
        u = self.factor(params)
        half = solve_upper(u, moment)
        return self.second_moment_gradient(params, solve_upper(u, jnp.swapaxes(half, 0, 1)))

    def gradient_noise(self, keys: PRNGKeyArray) -> None:
        """There is none besides the sampling."""
        return

    def second_moment_gradient(self, params: Params, c: Float[Array, "Nv Nv R"]) -> Params:
        """Gradient of the negative log-likelihood for the measured second moment Ĉ of φ."""
        excess = jax.lax.optimization_barrier(c - jnp.asarray(np.linalg.inv(self.kernel))[..., None])
        gradient = {"W": self.hidden_std**2 * matmul(params["W"], excess)}
        if self.mass != "fixed":
            sites = -0.5 * jnp.stack([excess[i, i] for i in range(self.visible)])
            gradient["mass2"] = jnp.sum(sites, 0) if self.mass == "global" else sites
        return gradient

    def _mass2(self, params: Params) -> Array:
        """μ² as [1 or N_v, R or 1]."""
        mass2 = params.get("mass2", jnp.asarray(self.mass2, float)[..., None])
        return mass2[None] if mass2.ndim == 1 else mass2

    def example_gradients(self, key: PRNGKeyArray, params: Params, num: int, task: Any) -> Params:
        """Gradients [num, …] of `num` independent draws of φ, for one replica."""
        u = self.factor(jax.tree.map(lambda x: x[..., None], params))[..., 0]
        phi = jax.scipy.linalg.solve_triangular(u, jax.random.normal(key, (self.visible, num)))
        block = jax.tree.map(lambda x: x[..., None], params)
        one = lambda p: self.second_moment_gradient(block, jnp.outer(p, p)[..., None])  # noqa: E731
        return jax.tree.map(lambda x: x[..., 0], jax.vmap(one, in_axes=1)(phi))

    def exact_draws(self, keys: PRNGKeyArray, factor: Float[Array, "Nv Nv R"], num: int) -> Float[Array, "num Nv R"]:
        """Independent φ = U⁻¹ z of the model's own law."""
        return jnp.swapaxes(solve_upper(factor, normals(keys, (self.visible, num))), 0, 1)

    def data_draws(self, keys: PRNGKeyArray, num: int) -> Float[Array, "num Nv R"]:
        """Independent φ of the law to learn; from other streams of `keys` than `gibbs` draws from."""
        n, root = self.visible, np.linalg.cholesky(np.linalg.inv(self.kernel))
        z = normals(keys, (num, n), stream=1)
        return matvec(jnp.broadcast_to(jnp.asarray(root)[..., None], (n, n, z.shape[-1])), z)

    def gibbs(
        self, keys: PRNGKeyArray, params: Params, phi: Float[Array, "num Nv R"], sweeps: int
    ) -> Float[Array, "num Nv R"]:
        """φ of every chain after so many sweeps over the hidden units and back, in one draw where that is cheaper."""
        (nh, nv), batch = self.shape, len(phi)
        w, mass2, s = params["W"], self._mass2(params), self.hidden_std
        if self._at_once(batch, sweeps):
            return _sweeps_at_once(keys, s * w * jax.lax.rsqrt(mass2), phi * jnp.sqrt(mass2), sweeps) * (
                jax.lax.rsqrt(mass2)
            )
        e = normals(keys, (sweeps, batch, nh + nv))
        for sweep in e:
            h = jax.lax.optimization_barrier(s * s * matvec(w, phi) + s * sweep[:, :nh])
            phi = matvec_transposed(w, h) / mass2 + sweep[:, nh:] * jax.lax.rsqrt(mass2)
            phi = jax.lax.optimization_barrier(phi)
        return phi

    def _at_once(self, batch: int, sweeps: int) -> bool:
        """Whether matrix products are cheaper than sweeps; a normal number costs about as much as 30 products."""
        (nh, nv), k = self.shape, sweeps
        products = nh * nv * nv + (k + 1) * nv**3 + 2 * batch * nv * nv + 30 * batch * nv
        return products < k * batch * (2 * nh * nv + 30 * (nh + nv))

    def level_theory(self) -> LevelTheory:
        """K_i = 2x_i (1/κ_i − 1/(μ² − x_i)), entries' coupling √((x_i + x_j)/(λ_i λ_j)), σ_i = √(2T x_i) as T → 0.

        For one fixed mass, σ_h = 1 and N_h ≥ N_v (arXiv:2407.16427); raises `InputError` otherwise. The coupling is one
        of independent entries of W; the machine's noise W E has a symmetric E instead, which moves levels by O(T).
        """
        nh, nv = self.shape
        simple = self.mass == "fixed" and np.ndim(self.mass2) == 0 and self.hidden_std == 1
        require(simple, "mass", self.mass, "one fixed mass and hidden_std = 1 for a theory of the levels")
        require(nh >= nv, "hidden", nh, f"at least visible = {nv} for a theory of the levels")
        mass2, kappa = float(np.asarray(self.mass2)), np.asarray(self.kappa)
        require(kappa[-1] < mass2, "mass2", mass2, f"above the target's largest eigenvalue {kappa[-1]:g}")

        def coupling(x: Float[Array, " n"]) -> Float[Array, "n n"]:
            gap = jnp.maximum(mass2 - x, 1e-3 * mass2)
            return jnp.sqrt((x[:, None] + x) / (gap[:, None] * gap))

        points = mass2 - kappa
        return LevelTheory(
            RBMPotential(self.kappa, mass2), coupling, tuple(points), tuple(np.sqrt(2 * points)), "gram", "W"
        )


def _sweeps_at_once(
    keys: PRNGKeyArray, v: Float[Array, "Nh Nv R"], psi: Float[Array, "B Nv R"], sweeps: int
) -> Float[Array, "B Nv R"]:
    """k Gibbs sweeps of ψ = μφ in one draw, exactly: every sweep is linear and Gaussian.

    With V = σ_h W/μ and A = VᵀV a sweep is ψ' = A ψ + Vᵀe + e', whose noise has covariance 1 + A, so that
    ψ_k ~ N(A^k ψ, (1 + A)(1 + A² + … + A^{2(k−1)})).
    """
    barrier = jax.lax.optimization_barrier
    one = jnp.eye(v.shape[1])[..., None]
    a = barrier(sum_of_outer(v, v))
    square = barrier(matmul(a, a)) if sweeps > 1 else a
    total, power = one, a
    for k in range(2, sweeps + 1):
        total = one + (barrier(matmul(square, total)) if k > 2 else square)
        power = barrier(matmul(power, a)) if k > 2 else square
    u = cholesky(total + (a if sweeps == 1 else barrier(matmul(a, total))))
    noise = matvec_transposed(u, normals(keys, (psi.shape[0], v.shape[1])))
    return barrier(matvec(power, psi) + noise)
