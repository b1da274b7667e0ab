"""Training where there is a GPU; skipped elsewhere."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from prmkd_jax.students.config import BUILT_IN
from tests.gpu import NEEDS_GPU

pytestmark = NEEDS_GPU

SMALL = (
    *("--flagfile=demo.cfg", "--teachers=popularity", "--seeds=0", "--synthetic_users=400"),
    *("--synthetic_items=300", "--hidden_size=32", "--batch_size=128", "--max_seq_len=20"),
    *("--dropout=0.2", "--mlp_sizes=32,32", "--max_epochs=2", "--patience=2"),
)


def trained(folder: Path, student: str, platform: str) -> dict[str, list[dict[str, Any]]]:
    """Model → the records of its epochs, of a run on a platform with float32 products."""
    output = folder / platform
    environ = {"JAX_PLATFORMS": platform, "JAX_DEFAULT_MATMUL_PRECISION": "highest"}
    command = [sys.executable, "-m", "experiments", "train", *SMALL, f"--student={student}"]
    folders = [f"--output_dir={output}", f"--cache_dir={folder / 'cache'}"]
    subprocess.run([*command, *folders], env={**os.environ, **environ}, check=True)
    variants = json.loads((output / "results.json").read_text())["variants"]
    assert len(variants) == 2
    return {each["name"]: each["seeds"][0]["history"] for each in variants}


@pytest.mark.parametrize("student", BUILT_IN)
def test_a_gpu_trains_as_a_cpu_does(tmp_path, student):
    """For every student the losses agree to 1e-4 and the validation metrics to 0.01."""
    cpu, gpu = (trained(tmp_path, student, platform) for platform in ("cpu", "cuda,cpu"))
    assert list(cpu) == list(gpu)
    for name, epochs in cpu.items():
        for one, other in zip(epochs, gpu[name], strict=True):
            assert other["loss"] == pytest.approx(one["loss"], rel=1e-4)
            for metric, value in one["validation"].items():
                assert other["validation"][metric] == pytest.approx(value, abs=0.01)
