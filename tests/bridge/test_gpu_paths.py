"""The hand-over on a GPU, without one: stand-ins that fail where values would pass the host."""

import contextlib
from types import SimpleNamespace
from typing import NamedTuple

import jax
import numpy as np
import pytest
import torch

from bridge import dlpack
from tests.checking import uncheck, unchecked

# Of stand-ins, which no type of PyTorch's or JAX's fits.
to_jax, to_torch = unchecked(dlpack.to_jax), unchecked(dlpack.to_torch)

GPU = torch.device("cuda", 1)


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch):
    uncheck(dlpack, monkeypatch)


def through_the_host(*_, **__):
    raise AssertionError("the values pass through the host")


class Gpu(NamedTuple):
    """A device as JAX describes it."""

    platform: str = "gpu"
    local_hardware_id: int = 1


class Refused:
    """What would bring values to the host, or make them Python's."""

    cpu = numpy = tolist = item = __array__ = __iter__ = __len__ = __float__ = through_the_host
    __bool__ = __getitem__ = addressable_data = copy_to_host_async = through_the_host


class GpuTensor(Refused):
    """A tensor on `cuda:1` whose values nobody may read.

    Args:
        events: what happened, in its order.
        dtype: as torch's.
        contiguous: whether it is.
        address: where it lies.
    """

    device, is_cuda, shape = GPU, True, (2, 3)

    def __init__(self, events, dtype=torch.float32, contiguous=True, address=640):
        self.events, self.dtype, self.contiguous, self.address = events, dtype, contiguous, address

    def detach(self):
        """Without its gradient."""
        return self

    def is_contiguous(self):
        """Whether rows follow each other."""
        return self.contiguous

    def is_pinned(self):
        """Memory on a GPU never is."""
        return False

    def is_neg(self):
        """It is read as it lies."""
        return False

    def data_ptr(self):
        """Where it lies."""
        return self.address

    def stride(self):
        """Of a transposed matrix."""
        return (1, 2)

    def view(self, dtype):
        """The same memory as another dtype."""
        self.events.append(f"seen as {dtype}")
        return GpuTensor(self.events, dtype, self.contiguous, self.address)

    def to(self, *where, **options):
        """A copy; one that names a device would leave the GPU."""
        assert where == (self.dtype,)
        assert options == {"copy": True, "memory_format": torch.contiguous_format}
        self.events.append("copied on the GPU")
        return GpuTensor(self.events, self.dtype)


class GpuArray(Refused):
    """An array of JAX's on its second GPU.

    Args:
        events: what happened, in its order.
        dtype: its dtype's name.
    """

    def __init__(self, events, dtype="float32"):
        self.events, self.dtype = events, SimpleNamespace(name=dtype)

    def devices(self):
        """The one that it is on."""
        return {Gpu()}

    def block_until_ready(self):
        """Waits for what computes it."""
        self.events.append("waited")
        return self

    def astype(self, dtype):
        """Converted where it is."""
        self.events.append(f"made {np.dtype(dtype).name}")
        return GpuArray(self.events, np.dtype(dtype).name)


@pytest.fixture
def events(monkeypatch):
    """Two frameworks with two GPUs each; says in which order they are asked for what."""
    found = []
    gpus = [Gpu(local_hardware_id=index) for index in (0, 1)]
    monkeypatch.setattr(jax, "local_devices", lambda backend=None: gpus)
    monkeypatch.setattr(jax, "device_put", through_the_host)
    monkeypatch.setattr(jax, "device_get", through_the_host)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    def stream(device):
        return SimpleNamespace(synchronize=lambda: found.append(f"stream of {device} waited for"))

    @contextlib.contextmanager
    def device_of(tensor):
        found.append(f"on {tensor.device}")
        yield
        found.append("left")

    def into_jax(tensor, *, copy):
        assert copy is False
        assert isinstance(tensor, GpuTensor)
        found.append("into JAX")
        return GpuArray(found, str(tensor.dtype).removeprefix("torch."))

    def into_torch(array):
        assert isinstance(array, GpuArray)
        found.append("into PyTorch")
        return GpuTensor(found, getattr(torch, array.dtype.name))

    monkeypatch.setattr(torch.cuda, "current_stream", stream)
    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    monkeypatch.setattr(jax.dlpack, "from_dlpack", into_jax)
    monkeypatch.setattr(dlpack.torch, "from_dlpack", into_torch)
    return found


def test_a_gpu_tensor_crosses_where_it_is_after_its_stream(events):
    """A tensor on cuda:1 is exported from cuda:1, without a copy and not through the host."""
    handover = to_jax(GpuTensor(events))
    assert not handover.copied
    assert events == ["stream of cuda:1 waited for", "on cuda:1", "into JAX", "left"]


@pytest.mark.parametrize("tensor", [{"contiguous": False}, {"address": 644}])
def test_what_must_be_laid_out_anew_is_copied_on_the_gpu_before_the_stream_is_waited_for(
    events, tensor
):
    """The host makes no copy, and nothing is handed over before the copy is made."""
    handover = to_jax(GpuTensor(events, **tensor))
    assert handover.copied
    assert events[:2] == ["copied on the GPU", "stream of cuda:1 waited for"]


def test_a_gpu_mask_crosses_as_bytes(events):
    """A mask becomes bool in JAX, without going through the host."""
    handover = to_jax(GpuTensor(events, torch.bool))
    assert handover.array.dtype.name == "bool"
    assert events == [
        "stream of cuda:1 waited for",
        "on cuda:1",
        "seen as torch.uint8",
        "into JAX",
        "made bool",
        "waited",
        "left",
    ]


def test_a_gpu_array_crosses_once_it_is_computed(events):
    """JAX has finished writing when the buffer is handed over, and the host isn't involved."""
    handover = to_torch(GpuArray(events))
    assert not handover.copied
    assert events == ["waited", "into PyTorch"]


def test_a_gpu_mask_of_jax_crosses_as_bytes(events):
    """A bool array crosses as uint8, and PyTorch views it as bool."""
    handover = to_torch(GpuArray(events, "bool"))
    assert handover.array.dtype == torch.bool
    assert events == ["made uint8", "waited", "into PyTorch", "seen as torch.bool"]


def test_the_stand_ins_catch_a_hop(events):
    """Each way through the host raises an AssertionError, so the tests above can fail."""
    for hop in (
        lambda: GpuTensor(events).cpu(),
        lambda: np.asarray(GpuArray(events)),
        lambda: jax.device_put(GpuArray(events), None),
        lambda: float(GpuTensor(events)),
    ):
        with pytest.raises(AssertionError, match="through the host"):
            hop()
    with pytest.raises(AssertionError):
        GpuTensor(events).to("cpu")
