"""Arrays between PyTorch and JAX over DLPack: one policy for both directions.

| matter    | rule                                                                              |
|-----------|-----------------------------------------------------------------------------------|
| dtype     | float32, float16, bfloat16 and int32 cross as they are; bool crosses as uint8     |
|           | and is bool again on the other side, which costs a copy made by JAX; int64 and    |
|           | float64 are refused, or narrowed to 32 bits when the caller says `narrow=True`;   |
|           | anything else is refused                                                          |
| layout    | row-major, 64-byte aligned tensors in pageable memory cross without a copy; of    |
|           | others PyTorch makes one that is, and the hand-over says why                      |
| device    | CPU to CPU, CUDA to CUDA of the same index; never through the host                |
| ownership | after a hand-over without a copy both sides read one buffer and neither may write |
|           | to it: pass `copy=True` for a buffer that will be used again                      |
| streams   | what produced the values is waited for before the other side can read them        |

JAX by itself narrows int64 and copies unaligned buffers without a word; here both are said.
"""

import dataclasses
from typing import Generic, TypeVar

import jax
import jax.numpy as jnp
import torch
from jaxtyping import Shaped

from prmkd_jax.common.errors import UserError

# XLA:CPU takes a foreign buffer as it is only from this alignment on. XLA:GPU wants less, but
# checks nothing and compiles vector loads; torch's own allocators always give at least this.
ALIGNMENT = 64

_AS_IT_IS = ("float32", "float16", "bfloat16", "int32", "bool")
_NARROWED = {"int64": "int32", "float64": "float32"}
_SHARED = "contiguous and aligned: one buffer, shared"
_BOOL = "bool crosses as uint8, and JAX copies to convert"

ArrayT = TypeVar("ArrayT", jax.Array, torch.Tensor)


@dataclasses.dataclass(frozen=True)
class Handover(Generic[ArrayT]):
    """An array on the other side, and what it cost to get it there.

    Attributes:
        array: the values, in the receiving framework.
        copied: False if both frameworks now read the same memory, which neither may write.
        reason: why it was copied or shared, in words for a log.
    """

    array: ArrayT
    copied: bool
    reason: str


def to_jax(
    tensor: Shaped[torch.Tensor, "..."], *, copy: bool = False, narrow: bool = False
) -> Handover[jax.Array]:
    """Hands a tensor to JAX, on the device where it lies.

    The tensor is detached. The array keeps its memory alive, so the tensor itself may go out
    of scope; on CUDA, keep it until the result of the consumer is ready, for torch's allocator
    knows nothing of JAX's streams.

    Args:
        tensor: any shape, any strides, of an accepted dtype (see the module).
        copy: copy in any case; needed if torch will write to this memory again.
        narrow: make int64 into int32 and float64 into float32.

    Raises:
        TypeError: the dtype does not cross.
        ValueError: a value does not fit the narrower dtype.
        UserError: JAX has no such device.
    """
    dtype = _crossing_dtype(str(tensor.dtype).removeprefix("torch."), narrow)
    _require_in_jax(tensor.device)
    tensor, reason = _laid_out(tensor.detach(), dtype, copy)
    if tensor.is_cuda:
        torch.cuda.current_stream(tensor.device).synchronize()
    with torch.cuda.device_of(tensor):  # torch exports from the current CUDA device only
        if dtype is not torch.bool:
            array = jax.dlpack.from_dlpack(tensor, copy=False)
        else:
            array = jax.dlpack.from_dlpack(tensor.view(torch.uint8), copy=False).astype(bool)
            # JAX converts in the background, and a caller with a copy may write at once.
            array, reason = array.block_until_ready(), reason or _BOOL
    return Handover(array, bool(reason), reason or _SHARED)


def to_torch(
    array: Shaped[jax.Array, "..."], *, copy: bool = False, narrow: bool = False
) -> Handover[torch.Tensor]:
    """Hands an array to PyTorch, on the device where it lies, once it has been computed.

    Args:
        array: any shape, of an accepted dtype (see the module), on one device.
        copy: copy in any case; needed if torch will write to the tensor, for JAX takes its
            arrays to be immutable.
        narrow: make int64 into int32 and float64 into float32 (they exist under JAX's x64).

    Raises:
        TypeError: the dtype does not cross.
        ValueError: the array is spread over several devices, or a value does not fit the
            narrower dtype.
        UserError: PyTorch has no such device.
    """
    dtype = _crossing_dtype(array.dtype.name, narrow)
    _require_in_torch(array.devices())
    if dtype is not torch.bool:
        tensor, extra = torch.from_dlpack(array.block_until_ready()), ""
    else:
        crossing = array.astype(jnp.uint8).block_until_ready()
        tensor, extra = torch.from_dlpack(crossing).view(torch.bool), _BOOL
    tensor, reason = _laid_out(tensor, dtype, copy)
    reason = reason or extra
    return Handover(tensor, bool(reason), reason or _SHARED)


def _crossing_dtype(name: str, narrow: bool) -> torch.dtype:
    """The dtype in which values of dtype `name` arrive, or a TypeError."""
    if name in _AS_IT_IS:
        return getattr(torch, name)
    expected = f"found dtype {name}, expected one of {', '.join(_AS_IT_IS)}"
    if name not in _NARROWED:
        raise TypeError(expected)
    if not narrow:
        raise TypeError(f"{expected}; pass narrow=True to make it {_NARROWED[name]}")
    return getattr(torch, _NARROWED[name])


def _laid_out(tensor: torch.Tensor, dtype: torch.dtype, copy: bool) -> tuple[torch.Tensor, str]:
    """The tensor as it can be shared, and why it had to be copied ("" if it was not).

    PyTorch makes the copy, on the stream where the values are made, so that a later write to
    the old buffer comes after the read by the rules of that stream alone.
    """
    if tensor.dtype != dtype:
        _check_fits(tensor, dtype)
        reason = f"narrowed from {tensor.dtype} to {dtype}"
    elif copy:
        reason = "asked for"
    elif not tensor.is_contiguous():
        reason = f"not contiguous: strides {tensor.stride()} for shape {tuple(tensor.shape)}"
    elif tensor.data_ptr() % ALIGNMENT:
        reason = f"starts {tensor.data_ptr() % ALIGNMENT} bytes past {ALIGNMENT}-byte alignment"
    elif tensor.is_neg():
        reason = "torch negates its memory as it is read"
    elif tensor.is_pinned():
        # DLPack calls pinned memory CUDA's, and JAX would take it for an array on the GPU.
        reason = "pinned memory"
    else:
        return tensor, ""
    return tensor.to(dtype, copy=True, memory_format=torch.contiguous_format), reason


def _check_fits(tensor: torch.Tensor, dtype: torch.dtype) -> None:
    """Raises a ValueError if a finite value lies outside the range of `dtype`."""
    info = torch.finfo(dtype) if dtype.is_floating_point else torch.iinfo(dtype)
    outside = tensor.isfinite() & ((tensor < info.min) | (tensor > info.max))
    if outside.any():
        raise ValueError(
            f"found {tensor[outside][0].item()} in a {tensor.dtype} array, expected values from "
            f"{info.min} to {info.max} to narrow it to {dtype}"
        )


def _require_in_jax(device: torch.device) -> None:
    """Raises a UserError unless JAX can reach `device` itself."""
    index = device.index or 0
    try:
        found = jax.local_devices(backend=device.type) if device.type in ("cpu", "cuda") else []
    except RuntimeError:  # that is how JAX says that it has no such backend
        found = []
    if not any(device.type == "cpu" or each.local_hardware_id == index for each in found):
        names = ", ".join(map(str, jax.local_devices()))
        raise UserError(
            f"device of a tensor for JAX: found {device}, expected one that this JAX has "
            f"({names}); install JAX with CUDA, or move the tensor before handing it over"
        )


def _require_in_torch(devices: set[jax.Device]) -> None:
    """Raises unless `devices` is a single one that PyTorch can reach itself."""
    if len(devices) != 1:
        raise ValueError(f"found an array spread over {len(devices)} devices, expected one")
    (device,) = devices
    if device.platform == "gpu":
        reachable = torch.cuda.is_available()
        reachable = reachable and (device.local_hardware_id or 0) < torch.cuda.device_count()
    else:
        reachable = device.platform == "cpu"
    if not reachable:
        raise UserError(
            f"device of an array for PyTorch: found {device}, expected one that this PyTorch "
            "has; install PyTorch with CUDA, or move the array before handing it over"
        )
