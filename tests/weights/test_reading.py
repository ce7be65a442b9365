"""Reading weights: every format gives the same matrices, and what is not what its name says is refused in one line."""

import sys
import zipfile

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx

import dysonjax as dj
from dysonjax.weights.reading import layout_of, read_weights

RNG = np.random.default_rng(3)
ARRAYS = {
    "h.10.attn.weight": RNG.normal(size=(4, 6)).astype(np.float32),
    "h.2.attn.weight": RNG.normal(size=(6, 3)).astype(np.float32),
    "h.2.attn.bias": np.zeros(6, np.float32),
    "half": RNG.normal(size=(5, 5)).astype(np.float16),
    "one_row": np.ones((1, 7), np.float32),
    "mask": np.zeros((4, 4), bool),
}
MATRICES = ["h.2.attn.weight", "h.10.attn.weight", "half"]


def same(found, names=MATRICES, arrays=ARRAYS):
    assert list(found) == list(names)
    for name, matrix in found.items():
        assert matrix.dtype in (np.float32, np.float64)
        np.testing.assert_array_equal(matrix, arrays[name])


def refusal(call):
    with pytest.raises(dj.InputError) as refused:
        call()
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_npz(tmp_path):
    np.savez(tmp_path / "w.npz", **ARRAYS)
    same(read_weights(tmp_path / "w.npz"))
    same(read_weights(str(tmp_path / "w.npz"), "*attn*"), MATRICES[:2])
    np.savez_compressed(tmp_path / "c.npz", **ARRAYS)
    same(read_weights(tmp_path / "c.npz"))


def test_safetensors(tmp_path):
    save = pytest.importorskip("safetensors.numpy").save_file
    brain = RNG.normal(size=(3, 4)).astype(ml_dtypes.bfloat16)
    save({**ARRAYS, "z.brain": brain}, tmp_path / "w.safetensors")
    same(read_weights(tmp_path / "w.safetensors"), [*MATRICES, "z.brain"], {**ARRAYS, "z.brain": brain})
    (tmp_path / "x.safetensors").write_bytes(b"PK\x03\x04 no such header")
    assert "expected a sound .safetensors file" in refusal(lambda: read_weights(tmp_path / "x.safetensors"))
    (tmp_path / "t.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:-20])
    assert "expected a sound .safetensors file" in refusal(lambda: read_weights(tmp_path / "t.safetensors"))


def test_without_safetensors(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    (tmp_path / "w.safetensors").write_bytes(b"")
    assert "pip install 'dysonjax[weights]'" in refusal(lambda: read_weights(tmp_path / "w.safetensors"))


def test_without_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "w.pt").write_bytes(b"")
    assert refusal(lambda: read_weights(tmp_path / "w.pt")) == "torch is not installed: pip install torch"


def test_orbax(tmp_path):
    checkpoint = pytest.importorskip("orbax.checkpoint")
    arrays = {"layer": {"kernel": jnp.asarray(ARRAYS["h.2.attn.weight"]), "bias": jnp.ones(3)}, "b": jnp.ones((3, 3))}
    with checkpoint.StandardCheckpointer() as saver:
        saver.save(tmp_path / "one", arrays)
    found = read_weights(tmp_path / "one")
    same(found, ["b", "layer/kernel"], {"b": np.ones((3, 3)), "layer/kernel": ARRAYS["h.2.attn.weight"]})
    with checkpoint.CheckpointManager(tmp_path / "steps") as manager:
        for step in (9, 10):
            manager.save(step, args=checkpoint.args.StandardSave({"w": jnp.full((2, 2), float(step))}))
    same(read_weights(tmp_path / "steps", "w"), ["w"], {"w": np.full((2, 2), 10.0)})
    (tmp_path / "one" / "_METADATA").write_text("no")
    assert "expected an orbax checkpoint" in refusal(lambda: read_weights(tmp_path / "one"))


def test_in_memory():
    same(read_weights(ARRAYS))
    nested = {"a": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}, "b": [np.eye(2)]}
    assert list(read_weights(nested)) == ["a/kernel", "b/0"]
    model = nnx.Sequential(nnx.Linear(5, 7, rngs=nnx.Rngs(0)), nnx.Linear(7, 2, rngs=nnx.Rngs(1)))
    found = read_weights(nnx.state(model, nnx.Param), "*kernel")
    assert [m.shape for m in found.values()] == [(5, 7), (7, 2)]
    assert all(name.endswith("kernel") for name in found)


@pytest.mark.parametrize("kind", [np.int8, np.uint16, np.int32, np.int64, ml_dtypes.int4])
def test_whole_numbers_are_numbers(kind):
    w = np.arange(12).reshape(3, 4) % 7
    same(read_weights({"w": w.astype(kind), "mask": w > 3}), ["w"], {"w": w})
    assert read_weights({"w": np.full((2, 2), 2**31 - 1)})["w"].max() == 2**31 - 1


def test_more_axes():
    w = RNG.normal(size=(2, 3, 4))
    np.testing.assert_array_equal(read_weights({"w": w})["w"], w.reshape(6, 4))
    np.testing.assert_array_equal(read_weights({"w": w}, kernels="torch")["w"], w.reshape(2, 12))
    stack = read_weights({"w": w, "plain": w[0]}, stack=1)
    assert list(stack) == ["plain", "w[0]", "w[1]"]
    np.testing.assert_array_equal(stack["w[1]"], w[1])


def test_kernels_are_those_of_the_files_origin(tmp_path):
    """(out, in, 3) of PyTorch, and (3, in, out) of flax, whatever kind of file holds them if `kernels` says so."""
    theirs = {"conv1.weight": RNG.normal(size=(6, 4, 3)).astype("f4")}
    flax = {"conv1": {"kernel": theirs["conv1.weight"].T}}
    np.savez(tmp_path / "theirs.npz", allow_pickle=False, **theirs)
    np.savez(tmp_path / "flax.npz", allow_pickle=False, **{"conv1/kernel": flax["conv1"]["kernel"]})
    folded = theirs["conv1.weight"].reshape(6, 12)
    same(read_weights(tmp_path / "theirs.npz", kernels="torch"), ["conv1.weight"], {"conv1.weight": folded})
    for source in (tmp_path / "flax.npz", flax):
        assert layout_of(source) == "flax"
        same(read_weights(source), ["conv1/kernel"], {"conv1/kernel": flax["conv1"]["kernel"].reshape(12, 6)})
    save = pytest.importorskip("safetensors.numpy").save_file
    save(theirs, tmp_path / "w.safetensors")
    same(read_weights(tmp_path / "w.safetensors"), ["conv1.weight"], {"conv1.weight": folded})
    flat = read_weights(tmp_path / "w.safetensors", kernels="flax")["conv1.weight"]
    np.testing.assert_array_equal(flat, theirs["conv1.weight"].reshape(24, 3))


def test_pytorch_files(tmp_path):
    torch = pytest.importorskip("torch")
    net = torch.nn.ModuleDict({
        "conv": torch.nn.Conv2d(4, 6, 3), "up": torch.nn.ConvTranspose1d(5, 7, 3),
        "attention": torch.nn.MultiheadAttention(8, 2), "short": torch.nn.Linear(3, 4).bfloat16(),
    })  # fmt: skip
    state = net.state_dict()
    shapes = {
        "attention.in_proj_weight": (24, 8), "attention.out_proj.weight": (8, 8), "conv.weight": (6, 36),
        "short.weight": (4, 3), "up.weight": (5, 21),
    }  # fmt: skip
    expected = {name: state[name].float().numpy().reshape(shape) for name, shape in shapes.items()}
    torch.save(state, tmp_path / "plain.pt")
    torch.save(state, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    torch.save({"state_dict": state, "epoch": 3, "optimizer": {"state": {0: torch.ones(6, 6)}}}, tmp_path / "a.pth")
    torch.save({"model": {"state_dict": state}, "config": {"width": 8}}, tmp_path / "b.pth")
    for source in (*(tmp_path / name for name in ("plain.pt", "old.bin", "a.pth", "b.pth")), state):
        same(read_weights(source), list(shapes), expected)
    assert list(read_weights(tmp_path / "plain.pt", "*conv*")) == ["conv.weight"]
    torch.save({"encoder": net["conv"].state_dict(), "decoder": net["up"].state_dict()}, tmp_path / "two.pt")
    assert list(read_weights(tmp_path / "two.pt")) == ["decoder/weight", "encoder/weight"]


def test_what_is_no_state_dict_of_pytorch(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save(torch.nn.Linear(2, 3), tmp_path / "module.pt")
    torch.save([torch.ones(3, 3)], tmp_path / "list.pt")
    torch.save({"epoch": 3}, tmp_path / "numbers.pt")
    torch.save({"w": torch.ones(30, 30)}, tmp_path / "whole.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:-300])
    (tmp_path / "junk.pt").write_bytes(b"x" * 99)
    (tmp_path / "empty.pt").write_bytes(b"")
    for name in ("module", "list", "numbers", "junk"):
        said = refusal(lambda name=name: read_weights(tmp_path / f"{name}.pt", argument="initial"))
        assert said.startswith("initial = ") and "expected a PyTorch state dict" in said, name
    for name in ("cut", "empty"):
        assert "expected a sound .pt file" in refusal(lambda name=name: read_weights(tmp_path / f"{name}.pt")), name


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"w": np.full((3, 4), np.nan)}, "w has 12 entries that are NaN or infinite"),
        ({"w": np.zeros((0, 4))}, "w has shape (0, 4): expected a matrix with entries"),
        ({"w": np.zeros((3, 4), complex)}, "w has entries of type complex128"),
        ({"w": np.zeros(4)}, "pattern = '*': expected to match the name of a matrix; weights has 'w'"),
        ({}, "pattern = '*': expected to match the name of a matrix; weights has no arrays"),
        (np.eye(3), "weights = array("),
        (None, "weights = None: expected an .npz"),
        ({"w": np.array([None])}, "w = "),
        ("no/such/file.npz", "weights = 'no/such/file.npz': expected a file or directory that exists"),
    ],
)
def test_bad_arrays(source, words):
    assert refusal(lambda: read_weights(source)).startswith(words)


def test_nothing_matches(tmp_path):
    np.savez(tmp_path / "w.npz", **ARRAYS)
    said = refusal(lambda: read_weights(tmp_path / "w.npz", "*mlp*"))
    assert said.startswith("pattern = '*mlp*': expected to match the name of a matrix")
    assert "'h.10.attn.weight'" in said
    assert said.endswith("…")
    assert refusal(lambda: read_weights(ARRAYS, "*bias")).startswith("pattern = '*bias'")
    assert refusal(lambda: read_weights(ARRAYS, "*", "rows")).startswith("kernels = 'rows'")  # type: ignore[arg-type]  # wrong on purpose
    assert refusal(lambda: read_weights(ARRAYS, stack=-1)).startswith("stack = -1")
    # only what matches has to be sound
    same(read_weights({**ARRAYS, "x": np.full((2, 2), np.inf)}, "h*"), MATRICES[:2] + MATRICES[2:])


def test_files_that_are_not_what_they_say(tmp_path):
    np.savez(tmp_path / "good.npz", **ARRAYS)
    good = (tmp_path / "good.npz").read_bytes()
    np.save(tmp_path / "one.npy", np.eye(3))
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
        archive.writestr("w.npy", "no array")
    np.savez(tmp_path / "objects.npz", w=np.array([[{}, 1]], object))
    for name, content in {
        "empty.npz": b"", "cut.npz": good[:600], "array.npz": (tmp_path / "one.npy").read_bytes(),
        "flipped.npz": good[:80] + b"\xff" * 40 + good[120:],
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(content)
    for name in ("empty", "cut", "array", "flipped", "text", "objects"):
        said = refusal(lambda name=name: read_weights(tmp_path / f"{name}.npz"))
        assert "expected a sound .npz file, as its name says" in said, name
    (tmp_path / "model.h5").write_bytes(b"x")
    assert "expected an .npz, .safetensors, .pt" in refusal(lambda: read_weights(tmp_path / "model.h5"))
    assert "it has no _METADATA" in refusal(lambda: read_weights(tmp_path))
