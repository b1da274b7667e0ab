"""What a record says of the machine and its environment."""

from types import SimpleNamespace

import jax
import pytest

from experiments.stages.environment import describe_environment


@pytest.mark.parametrize(
    "name",
    [
        *("JAX_ENABLE_X64", "JAX_DEFAULT_MATMUL_PRECISION", "XLA_FLAGS", "JAX_PLATFORMS"),
        *("JAX_DEBUG_NANS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG"),
        *("NVIDIA_TF32_OVERRIDE", "PYTORCH_CUDA_ALLOC_CONF", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"),
    ],
)
def test_variables_that_change_numbers_stand_in_the_record(name, monkeypatch):
    """A variable that can change results is recorded if it is set."""
    monkeypatch.delenv(name, raising=False)
    assert name not in describe_environment()
    monkeypatch.setenv(name, "as set")
    assert describe_environment()[name] == "as set"


@pytest.mark.parametrize("name", ["HOME", "JAX_COMPILATION_CACHE_DIR", "TORCH_HOME", "HF_TOKEN"])
def test_other_variables_do_not(name, monkeypatch):
    """Folders and secrets stay out of a file that is passed around."""
    monkeypatch.setenv(name, "as set")
    assert name not in describe_environment()


@pytest.mark.parametrize(
    ("backend", "kinds", "expected"),
    [
        ("gpu", ["NVIDIA H100"] * 8, "8 x NVIDIA H100"),
        ("tpu", ["TPU v5e"], "1 x TPU v5e"),
        ("cpu", ["cpu"], None),
    ],
)
def test_the_accelerators_are_told_and_a_cpu_is_none(monkeypatch, backend, kinds, expected):
    """The record has number and kind of GPUs or TPUs."""
    devices = [SimpleNamespace(device_kind=kind) for kind in kinds]
    monkeypatch.setattr(jax, "devices", lambda: devices)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert describe_environment().get("accelerators") == expected
