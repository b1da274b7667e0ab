import gc
from types import SimpleNamespace

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from bridge import dlpack
from bridge.dlpack import ALIGNMENT, to_jax, to_torch
from prmkd_jax.common.errors import UserError
from tests.checking import uncheck, unchecked


def _has_cuda() -> bool:
    try:
        return bool(jax.local_devices(backend="cuda")) and torch.cuda.is_available()
    except RuntimeError:
        return False


DTYPES = ["float32", "float16", "bfloat16", "int32", "bool"]
DEVICES = ["cpu", "cuda"] if _has_cuda() else ["cpu"]
LAYOUTS = ["contiguous", "transposed", "sliced", "offset", "expanded"]
# derandomize: the same examples in every run.
examples = hypothesis.settings(derandomize=True, deadline=None, max_examples=120)
shapes = st.lists(st.sampled_from([0, 1, 2, 3, 5, 16, 17]), max_size=3).map(tuple)


def laid_out(shape, layout, offset, dtype, device):
    """A tensor of `shape` in a layout, and its values by numpy, which never sees the tensor."""
    pad = {"sliced": tuple(2 * n + 1 for n in shape), "transposed": shape[::-1]}.get(layout, shape)
    flat = np.arange(offset + int(np.prod(pad)), dtype=np.int64) % (2 if dtype == "bool" else 251)
    base = torch.tensor(flat, dtype=getattr(torch, dtype), device=device)
    tensor, values = base[offset:].view(pad), flat[offset:].reshape(pad)
    if layout == "transposed":
        tensor, values = tensor.permute(tuple(range(len(shape)))[::-1]), values.transpose()
    elif layout == "sliced":
        index = tuple(slice(1, None, 2) for _ in shape)
        tensor, values = tensor[index], values[index]
    elif layout == "expanded":
        tensor, values = tensor.expand(3, *shape), np.broadcast_to(values, (3, *shape))
    return tensor, values


def as_numbers(array: jax.Array) -> np.ndarray:
    return np.asarray(array).astype(np.float64)


@pytest.mark.parametrize("device", DEVICES)
@hypothesis.given(
    dtype=st.sampled_from(DTYPES),
    shape=shapes,
    layout=st.sampled_from(LAYOUTS),
    offset=st.sampled_from([0, 0, 1, 3, 16, 32, 64]),
    copy=st.booleans(),
)
@examples
def test_to_jax_keeps_values_and_says_whether_it_copied(device, dtype, shape, layout, offset, copy):
    """Strides and offsets survive the hand-over, and a copy is always reported."""
    tensor, values = laid_out(shape, layout, offset, dtype, device)
    found = to_jax(tensor, copy=copy)
    array, copied, reason = found.array, found.copied, found.reason
    assert array.dtype == jnp.dtype(dtype)
    assert array.shape == tensor.shape
    np.testing.assert_array_equal(as_numbers(array), values)
    shareable = tensor.is_contiguous() and tensor.data_ptr() % ALIGNMENT == 0 and dtype != "bool"
    assert copied == (copy or not shareable)
    assert ("shared" in reason) == (not copied)
    if tensor.numel():
        assert copied == (array.unsafe_buffer_pointer() != tensor.data_ptr())


@pytest.mark.parametrize("device", DEVICES)
@hypothesis.given(dtype=st.sampled_from(DTYPES), shape=shapes, copy=st.booleans())
@examples
def test_to_torch_keeps_values_and_says_whether_it_copied(device, dtype, shape, copy):
    """The dtype and shape survive the way back, and a copy is always reported."""
    values = np.arange(int(np.prod(shape))).reshape(shape) % (2 if dtype == "bool" else 251)
    array = jax.device_put(
        np.asarray(values, jnp.dtype(dtype)), jax.local_devices(backend=device)[0]
    )
    found = to_torch(array, copy=copy)
    tensor, copied, reason = found.array, found.copied, found.reason
    assert tensor.dtype == getattr(torch, dtype)
    assert tensor.shape == array.shape
    assert tensor.is_contiguous()
    np.testing.assert_array_equal(tensor.cpu().double().numpy(), values)
    assert copied == (copy or dtype == "bool")
    assert ("shared" in reason) == (not copied)
    if tensor.numel():
        assert copied == (array.unsafe_buffer_pointer() != tensor.data_ptr())


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int32"])
@pytest.mark.parametrize("device", DEVICES)
def test_round_trip_shares_one_buffer(dtype, device):
    """Neither direction copies a contiguous, aligned array."""
    tensor = torch.arange(3 * 64, device=device).to(getattr(torch, dtype)).view(3, 64)
    there = to_jax(tensor)
    back = to_torch(there.array)
    assert not there.copied
    assert not back.copied
    assert tensor.data_ptr() == there.array.unsafe_buffer_pointer() == back.array.data_ptr()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: torch.zeros(65)[1:], "starts 4 bytes past 64-byte alignment"),
        (lambda: torch.zeros(4, 3).t(), "not contiguous: strides (1, 3) for shape (3, 4)"),
        (lambda: torch.zeros(3, dtype=torch.bool), "uint8"),
    ],
)
def test_reason_names_the_obstacle(make, said):
    """A copy names its reason: misalignment, strides, or a bool that crosses as uint8."""
    handover = to_jax(make())
    assert handover.copied
    assert said in handover.reason


def test_column_major_array_arrives_row_major():
    """torch gets contiguous rows, whatever strides JAX's array has."""
    columns = jax.dlpack.from_dlpack(torch.arange(12.0).view(3, 4).t())
    found = to_torch(columns)
    tensor, copied, reason = found.array, found.copied, found.reason
    assert tensor.is_contiguous()
    assert (
        copied == ("not contiguous" in reason) == (not torch.from_dlpack(columns).is_contiguous())
    )
    np.testing.assert_array_equal(tensor, np.arange(12.0).reshape(3, 4).T)


def test_pinned_memory_is_copied(monkeypatch):
    """JAX would take pinned memory for an array on the GPU."""
    tensor = torch.arange(16.0)
    pinned = tensor.data_ptr()
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda self: self.data_ptr() == pinned)
    found = to_jax(tensor)
    array, copied, reason = found.array, found.copied, found.reason
    assert (copied, reason) == (True, "pinned memory")
    np.testing.assert_array_equal(array, np.arange(16.0))


def test_what_torch_negates_as_it_is_read_keeps_its_sign():
    """The imaginary part of conjugates of one row, which lies as a plain array does."""
    halves = torch.view_as_complex(torch.arange(2.0).view(1, 2)).conj().imag
    assert halves.is_neg()
    assert halves.is_contiguous()
    for tensor, expected in (
        (halves, [-1.0]),
        (torch._neg_view(torch.arange(16.0)), -np.arange(16.0)),
    ):
        np.testing.assert_array_equal(to_jax(tensor).array, expected)


@pytest.mark.parametrize("byte", [1, 2, 255])
def test_any_nonzero_byte_of_a_mask_is_true(byte):
    """A mask viewed from uint8 crosses by its truth values, not by its bits."""
    mask = torch.tensor([0, byte, 0], dtype=torch.uint8).view(torch.bool)
    np.testing.assert_array_equal(to_jax(mask).array, [False, True, False])


def test_gradients_do_not_cross():
    """A tensor that requires gradients crosses, but its copy in JAX is detached."""
    weight = torch.nn.Parameter(torch.arange(4.0))
    np.testing.assert_array_equal(to_jax(weight * 2).array, [0, 2, 4, 6])
    assert not to_torch(to_jax(weight).array).array.requires_grad
    assert weight.requires_grad


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", ["float32", "bool"])
def test_copy_survives_in_place_writes(dtype, device):
    """After a reported copy, JAX no longer reads torch's buffer."""
    slow = jax.jit(lambda x, a: a.sum() + 0 * (x @ x @ x).sum())
    work = jax.device_put(np.zeros((300, 300), np.float32), jax.local_devices(backend=device)[0])
    buffer = torch.empty(1 << 14, dtype=getattr(torch, dtype), device=device)
    sums = []
    for step in range(10):
        buffer.fill_(step % 2)
        found = to_jax(buffer, copy=dtype != "bool")
        array, copied, _ = found.array, found.copied, found.reason
        assert copied
        sums.append(slow(work, array))  # still running when the buffer is written again
    buffer.fill_(1)
    assert [float(each) for each in sums] == [(step % 2) * 2**14 for step in range(10)]


def test_memory_outlives_its_maker():
    """The receiver holds a reference, so no later tensor takes the memory."""
    arrays = [to_jax(torch.full((1 << 12,), float(i))).array for i in range(20)]
    tensors = [to_torch(jnp.full((1 << 12,), float(i))).array for i in range(20)]
    gc.collect()
    others = [torch.full((1 << 12,), -1.0) for _ in range(40)]
    assert [float(array.min()) for array in arrays] == list(range(20))
    assert [float(tensor.min()) for tensor in tensors] == list(range(20))
    assert len(others) == 40


@pytest.mark.filterwarnings("ignore:Some donated buffers were not usable")
def test_donation_does_not_write_into_a_shared_buffer():
    """A train step that donates a shared array doesn't change what torch reads."""
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    tensor = torch.arange(64.0)
    assert float(step(to_jax(tensor).array)[0]) == 1
    array = jnp.arange(64.0)
    shared = to_torch(array)
    assert not shared.copied
    assert float(step(array)[0]) == 1
    assert torch.equal(tensor, torch.arange(64.0))
    assert torch.equal(shared.array, torch.arange(64.0))


def test_to_torch_waits_for_the_result():
    """torch never reads a buffer that JAX hasn't filled yet."""
    values = np.full((256, 256), 1 / 256, np.float32)
    compute = jax.jit(lambda x: jax.lax.fori_loop(0, 20, lambda _, y: y @ x, x))
    compute(values).block_until_ready()
    for _ in range(5):
        result = to_torch(compute(values))
        assert not result.copied
        torch.testing.assert_close(result.array.sum().item(), 256.0, rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", ["int8", "uint8", "int16", "complex64", "float8_e4m3fn"])
def test_other_dtypes_are_refused(name):
    """A dtype outside the policy raises a TypeError, with `narrow` or without it."""
    for narrow in (False, True):
        with pytest.raises(TypeError, match=f"found dtype {name}, expected one of float32, "):
            to_jax(torch.zeros(3, dtype=getattr(torch, name)), narrow=narrow)
        with pytest.raises(TypeError, match=f"found dtype {name}, expected one of float32, "):
            to_torch(jnp.zeros(3, name), narrow=narrow)


@pytest.mark.parametrize(("wide", "narrow"), [("int64", "int32"), ("float64", "float32")])
def test_wide_dtypes_are_narrowed_only_when_asked(wide, narrow):
    """Without `narrow` an error tells how to narrow; with it the values are kept."""
    tensor = torch.tensor([[0, 1], [2, -3]], dtype=getattr(torch, wide)).t()
    with pytest.raises(TypeError, match=f"{wide}.*pass narrow=True to make it {narrow}"):
        to_jax(tensor)
    found = to_jax(tensor, narrow=True)
    array, copied, reason = found.array, found.copied, found.reason
    assert (array.dtype, copied) == (jnp.dtype(narrow), True)
    assert reason == f"narrowed from torch.{wide} to torch.{narrow}"
    np.testing.assert_array_equal(array, [[0, 2], [1, -3]])
    with jax.enable_x64(True):
        array = jnp.asarray([[0, 2], [1, -3]], wide)
        with pytest.raises(TypeError, match=f"{wide}.*pass narrow=True to make it {narrow}"):
            to_torch(array)
        back = to_torch(array, narrow=True)
    assert (back.array.dtype, back.copied) == (getattr(torch, narrow), True)
    assert back.array.tolist() == [[0, 2], [1, -3]]


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1, 2**63 - 1, -(2**63)])
def test_integers_beyond_int32_are_an_error(value):
    """An id beyond int32 is refused and never wraps round to another id."""
    with pytest.raises(ValueError, match=f"found {value} .*from -2147483648 to 2147483647"):
        to_jax(torch.tensor([0, value]), narrow=True)
    with jax.enable_x64(True):
        array = jnp.asarray([0, value])
        with pytest.raises(ValueError, match=f"found {value} "):
            to_torch(array, narrow=True)


@pytest.mark.parametrize("value", [1e39, -1e39])
def test_floats_beyond_float32_are_an_error(value):
    """A finite float64 never becomes infinite."""
    with pytest.raises(ValueError, match=r"found -?1e\+39 "):
        to_jax(torch.tensor([0.0, value], dtype=torch.float64), narrow=True)


def test_narrowing_keeps_the_edges():
    """The ends of int32, infinities, nan and empty arrays pass as they are."""
    edges = [-(2**31), 2**31 - 1]
    assert to_jax(torch.tensor(edges), narrow=True).array.tolist() == edges
    special = torch.tensor([np.inf, -np.inf, np.nan, 1 / 3], dtype=torch.float64)
    expected = np.array([np.inf, -np.inf, np.nan, 1 / 3], np.float32)
    np.testing.assert_array_equal(to_jax(special, narrow=True).array, expected)
    assert to_jax(torch.zeros((0, 3), dtype=torch.int64), narrow=True).array.shape == (0, 3)


def test_device_unknown_to_jax_is_refused(monkeypatch):
    """A CUDA tensor isn't moved through the host to a JAX without CUDA."""
    devices = jax.local_devices

    def without_cuda(backend="cpu"):
        if backend == "cuda":
            raise RuntimeError("Unknown backend cuda")
        return devices(backend=backend)

    monkeypatch.setattr(jax, "local_devices", without_cuda)
    tensor = SimpleNamespace(dtype=torch.float32, device=torch.device("cuda", 0))
    with pytest.raises(UserError, match="found cuda:0, expected one that this JAX has") as caught:
        unchecked(to_jax)(tensor)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="found meta"):
        to_jax(torch.zeros(3, device="meta"))


def test_second_gpu_must_exist_in_jax(monkeypatch):
    """A tensor on cuda:1 is refused where JAX sees only the first GPU."""
    monkeypatch.setattr(
        jax, "local_devices", lambda backend=None: [SimpleNamespace(local_hardware_id=0)]
    )
    tensor = SimpleNamespace(dtype=torch.float32, device=torch.device("cuda", 1))
    with pytest.raises(UserError, match="found cuda:1"):
        unchecked(to_jax)(tensor)


@pytest.fixture
def stand_ins(monkeypatch):
    uncheck(dlpack, monkeypatch)


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_device_unknown_to_torch_is_refused(monkeypatch, stand_ins, platform):
    """An array on an accelerator isn't moved through the host to a torch without it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    device = SimpleNamespace(platform=platform, local_hardware_id=0)
    array = SimpleNamespace(dtype=np.dtype("float32"), devices=lambda: [device])
    with pytest.raises(UserError, match=r"found .*expected one that this PyTorch has"):
        unchecked(to_torch)(array)


def test_spread_array_is_refused(stand_ins):
    """An array over two devices raises an error; its first shard isn't handed over alone."""
    array = SimpleNamespace(dtype=np.dtype("float32"), devices=lambda: ["first", "second"])
    with pytest.raises(ValueError, match="spread over 2 devices, expected one"):
        unchecked(to_torch)(array)
