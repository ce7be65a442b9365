"""The three-matrix tanh network of the phase-diagram paper (Aarts et al.), trained without dysonjax.

With h = tanh(M x) fixed, only W learns: phi = tanh(W h), y = Z phi, loss L = mean_b (target - y)^2 / 2, and one update is

    W <- W - alpha sum_b d_b h_b^T,    d_b = -(target - y)_b Z (1 - phi_b^2) / B.

Update t uses mini-batch t mod batches. Replicas are R, outputs of W are K, its inputs L, samples of a mini-batch B.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import DTypeLike


class Problem(NamedTuple):
    """Float32 start and data of R independent networks."""

    w: np.ndarray  # student's start [R, K, L]
    z: np.ndarray  # read-out shared by teacher and student [R, K]
    h: np.ndarray  # tanh(M x) [R, batches, B, L]
    y: np.ndarray  # teacher's outputs [R, batches, B]


def problem(
    replicas: int,
    batches: int,
    batch_size: int = 4,
    hidden: int = 32,
    outputs: int = 16,
    init_width: float = 0.125,
    seed: int = 0,
) -> Problem:
    """Draws M [R, L, 3] ~ N(0, 1/3), teacher W* ~ N(0, 1/L), Z ~ N(0, 1/K), W ~ N(0, init_width^2/L), x ~ N(0, 1)."""
    rng = np.random.default_rng(seed)

    def normal(width: float, *shape: int) -> np.ndarray:
        return np.float32(width) * rng.standard_normal((replicas, *shape), dtype=np.float32)

    m = normal(3**-0.5, hidden, 3)
    teacher = normal(hidden**-0.5, outputs, hidden)
    z = normal(outputs**-0.5, outputs)
    w = normal(init_width * hidden**-0.5, outputs, hidden)
    x = normal(1.0, batches * batch_size, 3)
    h = np.tanh(x @ m.mT)
    y = (np.tanh(h @ teacher.mT) @ z[:, :, None])[..., 0]
    return Problem(w, z, h.reshape(replicas, batches, batch_size, hidden), y.reshape(replicas, batches, batch_size))


def numpy_one_at_a_time(problem: Problem, learning_rate: float, steps: int) -> np.ndarray:
    """W [R, K, L] after `steps` updates, by a Python loop over networks and updates in float32 NumPy."""
    return _numpy(problem, learning_rate, steps, np.float32)


def numpy_float64(problem: Problem, learning_rate: float, steps: int) -> np.ndarray:
    """W [R, K, L] of the same loop in float64: the reference that every float32 result is held against."""
    return _numpy(problem, learning_rate, steps, np.float64)


def torch_one_at_a_time(problem: Problem, learning_rate: float, steps: int) -> np.ndarray:
    """W [R, K, L] by PyTorch's usual loop, `backward` and `torch.optim.SGD`, one network at a time.

    One thread: products this small gain nothing from a second.
    """
    import torch

    batches = problem.y.shape[1]
    result = np.empty_like(problem.w)
    with _torch_threads(1):
        for replica, (start, z, h, y) in enumerate(zip(*map(torch.from_numpy, problem), strict=True)):
            w = torch.nn.Parameter(start.clone())
            optimiser = torch.optim.SGD([w], lr=learning_rate)
            for step in range(steps):
                optimiser.zero_grad()
                _torch_loss(w, z, h[step % batches], y[step % batches]).backward()
                optimiser.step()
            result[replica] = w.detach().numpy()
    return result


def torch_vmapped(problem: Problem, learning_rate: float, steps: int, threads: int = 2) -> np.ndarray:
    """W [R, K, L] by `torch.func.vmap(torch.func.grad(loss))` over all replicas at once, uncompiled."""
    return _torch_vmapped(problem, learning_rate, steps, threads, compiled=False)


def torch_compiled(problem: Problem, learning_rate: float, steps: int, threads: int = 2) -> np.ndarray:
    """W [R, K, L] by the update of `torch_vmapped` under `torch.compile`; the first call of a shape compiles."""
    return _torch_vmapped(problem, learning_rate, steps, threads, compiled=True)


def flops_per_update(outputs: int, hidden: int, batch_size: int) -> int:
    """4 B K L: the multiplications and additions of W h and of sum_b d_b h_b^T, two each per weight and sample.

    The tanh, the error and d_b cost O(B K), and adding the gradient to W costs 2 K L; neither is counted.
    """
    return 4 * batch_size * outputs * hidden


def peak_gflops(backend: str | None = None, size: int | None = None, repeats: int = 5) -> float:
    """Best measured 2 n^3 / time of an [n, n] float32 product on every local device at once, in 10^9 flop/s.

    Full float32, no TF32; n is 3072 on a CPU and 8192 elsewhere unless given.
    """
    devices = jax.local_devices(backend=backend)
    n = size or (3072 if devices[0].platform == "cpu" else 8192)
    host = np.random.default_rng(0).standard_normal((n, n), dtype=np.float32)
    matrices = [jax.device_put(host, device) for device in devices]
    product = jax.jit(lambda a: jnp.matmul(a, a, precision="highest"))

    def seconds() -> float:
        start = time.perf_counter()
        jax.block_until_ready([product(a) for a in matrices])
        return time.perf_counter() - start

    seconds()  # compiles
    return 2e-9 * n**3 * len(devices) / min(seconds() for _ in range(repeats))


def _numpy(problem: Problem, learning_rate: float, steps: int, dtype: DTypeLike) -> np.ndarray:
    batches, batch_size = problem.y.shape[1:]
    result = problem.w.astype(dtype)
    _, zs, hs, ys = (array.astype(dtype, copy=False) for array in problem)
    for w, z, h, y in zip(result, zs, hs, ys, strict=True):
        for step in range(steps):
            inputs, target = h[step % batches], y[step % batches]
            phi = np.tanh(inputs @ w.T)
            error = (target - phi @ z) / batch_size
            w += learning_rate * ((error[:, None] * z * (1 - phi * phi)).T @ inputs)
    return result


def _torch_loss(w: Any, z: Any, h: Any, y: Any) -> Any:
    return 0.5 * ((y - (h @ w.T).tanh() @ z) ** 2).mean()


def _torch_vmapped(problem: Problem, learning_rate: float, steps: int, threads: int, compiled: bool) -> np.ndarray:
    import torch

    w, z, h, y = map(torch.from_numpy, problem)
    h, y = h.transpose(0, 1).contiguous(), y.transpose(0, 1).contiguous()  # a mini-batch is one piece of memory
    rate = torch.tensor(learning_rate, dtype=w.dtype)  # a tensor, so that a new value does not recompile
    update = _torch_update(compiled)
    with torch.no_grad(), _torch_threads(threads):
        for step in range(steps):
            w = update(w, z, h[step % len(h)], y[step % len(y)], rate)
    return w.numpy().copy()


@cache
def _torch_update(compiled: bool) -> Callable[..., Any]:
    import torch

    gradient = torch.func.vmap(torch.func.grad(_torch_loss))

    def update(w: Any, z: Any, h: Any, y: Any, rate: Any) -> Any:
        return w - rate * gradient(w, z, h, y)

    return torch.compile(update, dynamic=False) if compiled else update


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
