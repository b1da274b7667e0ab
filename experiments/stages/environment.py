"""On what a result was made: versions, processor, commit, and variables that change numbers."""

import os
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "torch",
    "transformers",
    "sentence-transformers",
    "numpy",
    "scipy",
)
PREFIXES = (
    *("PRMKD_MESH", "PRMKD_PROCESSES"),
    *("JAX_", "XLA_", "TF_XLA_", "LIBTPU_", "PJRT_", "PYTORCH_", "TORCH_", "ATEN_"),
    *("CUDA_", "CUBLAS_", "CUDNN_", "NVIDIA_TF32", "ROCR_", "HIP_"),
    *("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "VECLIB_", "NUMEXPR_", "DNNL_", "ONEDNN_"),
)
"""What the variables begin with that change numbers, or how fast they come."""
_CHANGE_NOTHING = (
    # Where compiled programs and downloads lie.
    *("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_", "TORCH_HOME", "CUDA_CACHE_PATH"),
    # Libraries set these when they are loaded, so a run that tunes teachers has them and one that
    # finds them in the cache doesn't.
    *("KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK"),
)


def describe_environment() -> dict[str, str | int]:
    """Versions of what computes, the processor, its cores, the git commit, such variables."""
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "platform": _platform(),
        "processor": _processor(),
        **_accelerators(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1,
        "git_commit": _commit(),
        **settings_of(os.environ),
    }


def _platform() -> str:
    """System, architecture and C library; a kernel's name would say whose machine it is."""
    parts = (platform.system(), platform.machine(), *platform.libc_ver())
    return " ".join(part for part in parts if part)


def settings_of(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of the environment that change numbers, sorted.

    >>> settings_of({"JAX_ENABLE_X64": "1", "HOME": "/root", "TORCH_HOME": "/torch"})
    {'JAX_ENABLE_X64': '1'}
    """
    return {
        name: value
        for name, value in sorted(environ.items())
        if name.startswith(PREFIXES) and not name.startswith(_CHANGE_NOTHING)
    }


def _accelerators() -> dict[str, str]:
    """What JAX computes on, such as "1 x NVIDIA H100 80GB HBM3"; nothing for a CPU."""
    # Whoever has not asked JAX for anything yet shall not begin with it here.
    if "jax" not in sys.modules:
        return {}
    kinds = Counter(each.device_kind for each in sys.modules["jax"].devices())
    if sys.modules["jax"].default_backend() == "cpu":
        return {}
    return {"accelerators": ", ".join(f"{count} x {kind}" for kind, count in kinds.items())}


def _version(package: str) -> str:
    """The version; "" where the package is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    """The commit, with "+" if the tree has changed since; "" outside a checkout."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return ""
