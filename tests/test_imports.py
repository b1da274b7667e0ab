import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
JAX = ("jax", "jaxlib", "flax", "optax", "orbax")
TORCH = ("torch", "transformers", "sentence_transformers")

# Imports every module of the packages and of the modules named, and prints what got loaded.
IMPORT = """
import importlib, json, pkgutil, sys
names = []
for name in sys.argv[1:]:
    module = importlib.import_module(name)
    names.append(name)
    for info in pkgutil.walk_packages(getattr(module, "__path__", []), name + "."):
        importlib.import_module(info.name)
        names.append(info.name)
print(json.dumps([names, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def loaded(*names: str) -> tuple[list[str], set[str]]:
    """The modules imported in a fresh process, and all top-level names it then holds."""
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", IMPORT, *names],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    imported, held = json.loads(done.stdout.splitlines()[-1])
    return imported, set(held)


def test_the_teachers_load_no_jax():
    """Neither JAX, the bridge nor the experiments are in a teacher's process."""
    imported, held = loaded("teachers_torch")
    assert "torch" in held
    assert len(imported) > 8
    assert not held & {*JAX, "bridge", "experiments"}


def test_the_students_load_no_torch():
    """Serving needs neither PyTorch nor the teachers' package."""
    imported, held = loaded("prmkd_jax")
    assert {"jax", "flax", "optax", "orbax"} <= held
    assert {"prmkd_jax.train.loop", "prmkd_jax.students.sasrec"} <= set(imported)
    assert not held & {*TORCH, "teachers_torch", "bridge", "experiments"}


@pytest.mark.parametrize(
    "names",
    [
        ("prmkd_jax.data", "prmkd_jax.evaluate.metrics", "prmkd_jax.evaluate.significance"),
        (
            "prmkd_jax.data.config",
            "prmkd_jax.distill.config",
            "prmkd_jax.students.config",
            "prmkd_jax.train.config",
            "teachers_torch.config",
            "bridge.runtime",
        ),
    ],
    ids=["data", "configs"],
)
def test_data_and_configs_load_neither_framework(names):
    """After them, threads and memory can still be set, as experiments/commands does."""
    imported, held = loaded(*names)
    assert set(names) <= set(imported)
    assert not held & {*JAX, *TORCH}


def test_the_contracts_hold():
    """No import goes against the layers of the architecture."""
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", command, "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout
