"""What accelerators can do at most, as their makers publish it, and the seconds that follow.

Rates are of dense matrices: NVIDIA's tables give twice as much for matrices of which half is zero.
A TPU multiplies bfloat16; float32 at the precisions `high` and `highest` takes three and six such
products (docs.jax.dev, "Matmul precision"), so its rates there are a third and a sixth.
"""

import dataclasses
from collections.abc import Mapping

PRECISIONS = ("default", "high", "highest")
"""JAX's precisions of float32 products (`jax.default_matmul_precision`)."""
RATES = (*PRECISIONS, "bfloat16")
"""What products are made in: float32 at a precision, or bfloat16."""


@dataclasses.dataclass(frozen=True)
class Device:
    """One chip.

    Attributes:
        name: the device's name.
        platform: JAX's name of the device's platform.
        memory: bytes.
        bandwidth: bandwidth of the memory, bytes a second.
        rates: kind of product, as in `RATES` → operations a second.
        sources: addresses where the figures were read.
    """

    name: str
    platform: str
    memory: float
    bandwidth: float
    rates: Mapping[str, float]
    sources: tuple[str, ...]

    def seconds(self, products: float, moved: float, kind: str) -> float:
        """The least seconds for so much work: the larger of computing and moving.

        Args:
            products: operations of matrix products.
            moved: bytes read and written.
            kind: the kind of product, a key of `RATES`.
        """
        return max(products / self.rates[kind], moved / self.bandwidth)


def _gpu(name: str, gb: float, tb: float, rates: tuple[float, float, float], *sources: str):
    """A GPU; its rates are TFLOP/s of float32, TF32 (float32 but at `highest`) and bfloat16."""
    full, short, half = (1e12 * rate for rate in rates)
    kinds = {"default": short, "high": short, "highest": full, "bfloat16": half}
    return Device(name, "cuda", gb * 1e9, tb * 1e12, kinds, sources)


def _tpu(name: str, gb: float, gb_a_second: float, tflops: float, *sources: str):
    rate = tflops * 1e12
    kinds = {"default": rate, "high": rate / 3, "highest": rate / 6, "bfloat16": rate}
    return Device(name, "tpu", gb * 1e9, gb_a_second * 1e9, kinds, sources)


_NVIDIA = "https://www.nvidia.com/en-us/data-center/"
_GOOGLE = "https://docs.cloud.google.com/tpu/docs/"
_BLACKWELL = "https://glennklockwood.com/garden/processors/B200"

DEVICES = (
    _gpu(
        "H100 SXM",
        80,
        3.35,
        (66.9, 494.7, 989.4),
        f"{_NVIDIA}h100/",
        "https://hmc-tech.com/gpu/nvidia-gb200-vs-nvidia-h100-sxm",
    ),
    _gpu(
        "H200 SXM",
        141,
        4.8,
        (66.9, 494.7, 989.4),
        f"{_NVIDIA}h200/",
        "https://itkb.uw.cz/2026/06/nvidia-h200-vs-b300-precisions-cores.html",
    ),
    _gpu(
        "B200 HGX",
        180,
        7.7,
        (75, 1100, 2250),
        f"{_NVIDIA}hgx/",
        _BLACKWELL,
        "https://hmc-tech.com/gpus/nvidia-b200-vs-nvidia-gb200",
    ),
    _tpu("TPU v5e", 16, 819, 197, f"{_GOOGLE}v5e"),
    _tpu("TPU v5p", 95, 2765, 459, f"{_GOOGLE}v5p"),
    _tpu("TPU v6e", 32, 1638, 918, f"{_GOOGLE}v6e"),
)
"""One chip each; where two sources are given, the second was read, and quotes the first."""
