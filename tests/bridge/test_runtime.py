import json
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORES = len(os.sched_getaffinity(0))
VARIABLES = (
    "XLA_PYTHON_CLIENT_PREALLOCATE",
    "XLA_CLIENT_MEM_FRACTION",
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
    "PJRT_NPROC",
    "NPROC",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "GOMP_SPINCOUNT",
    "KMP_BLOCKTIME",
    "TF_CPP_MIN_LOG_LEVEL",
    "TOKENIZERS_PARALLELISM",
    "HF_HUB_DISABLE_TELEMETRY",
    "JAX_COMPILATION_CACHE_DIR",
)


def run(code: str, **variables: str):
    """What `code` prints, as JSON, in a fresh process with these variables of ours alone."""
    clean = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import json, os, sys\n" + code],
        cwd=ROOT,
        env=clean | variables,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_defaults_are_set_and_told():
    """Each variable has its value and its line, and no framework is loaded."""
    environment, lines, loaded = run(
        "from bridge.runtime import settle\n"
        "lines = settle(compilation_cache='some/cache').lines()\n"
        "print(json.dumps([dict(os.environ), lines, [n for n in ('jax', 'jaxlib', 'torch',"
        " 'huggingface_hub') if n in sys.modules]]))"
    )
    expected = {
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "PJRT_NPROC": str(CORES),
        "OMP_NUM_THREADS": str(CORES),
        "MKL_NUM_THREADS": str(CORES),
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "20000",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / "some/cache"),
    }
    assert {name: environment[name] for name in VARIABLES if name in environment} == expected
    told = ["freed memory stays with the process"] if platform.libc_ver()[0] == "glibc" else []
    assert lines == [f"{name}={value}" for name, value in expected.items()] + told
    assert loaded == []
    assert not (ROOT / "some").exists()


def test_what_the_user_set_stays():
    """A variable that the user has set, or a related one for the same matter, is kept."""
    given = {
        "XLA_CLIENT_MEM_FRACTION": "0.3",
        "NPROC": "5",
        "OMP_NUM_THREADS": "7",
        "GOMP_SPINCOUNT": "1000",
        "TF_CPP_MIN_LOG_LEVEL": "0",
        "TOKENIZERS_PARALLELISM": "true",
        "HF_HUB_DISABLE_TELEMETRY": "0",
        "JAX_COMPILATION_CACHE_DIR": "mine",
    }
    environment, chosen, kept, lines = run(
        "from bridge.runtime import settle\n"
        "settings = settle(3, 'ours')\n"
        "print(json.dumps([dict(os.environ), settings.chosen, settings.kept, settings.lines()]))",
        **given,
    )
    assert {name: environment[name] for name in VARIABLES if name in environment} == given
    assert chosen == {}
    assert kept == given
    assert "OMP_NUM_THREADS=7 (already set)" in lines


def test_threads_are_the_cores_of_this_process():
    """A process bound to one core gets one thread, on a machine of any size."""
    chosen = run(
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from bridge.runtime import settle\n"
        "print(json.dumps(settle().chosen))"
    )
    assert chosen["OMP_NUM_THREADS"] == chosen["PJRT_NPROC"] == "1"


@pytest.mark.parametrize("threads", [0, -2])
def test_impossible_threads_are_refused(threads):
    """OpenMP would take zero threads for all of them."""
    assert run(
        "from bridge.runtime import settle\n"
        "from prmkd_jax.common.errors import UserError\n"
        f"try: settle({threads})\n"
        "except UserError as error: print(json.dumps(str(error)))"
    ) == (f"--threads: found {threads}, expected at least 1")


@pytest.mark.parametrize(
    ("module", "unheard", "deaf_to"),
    [
        (
            "jax",
            "XLA_PYTHON_CLIENT_PREALLOCATE, PJRT_NPROC, TF_CPP_MIN_LOG_LEVEL",
            {"XLA_PYTHON_CLIENT_PREALLOCATE": "1", "PJRT_NPROC": "1", "TF_CPP_MIN_LOG_LEVEL": "1"},
        ),
        (
            "torch",
            "OMP_NUM_THREADS, MKL_NUM_THREADS, OMP_WAIT_POLICY, GOMP_SPINCOUNT",
            {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "KMP_BLOCKTIME": "0"},
        ),
    ],
)
def test_too_late_is_an_error_unless_nothing_is_needed(module, unheard, deaf_to):
    """The error names the variables that come too late; where all are set, none is raised."""
    code = (
        "import types\n"
        "from bridge.runtime import settle\n"
        f"sys.modules['{module}'] = types.ModuleType('{module}')\n"
        "before = dict(os.environ)\n"
        "try: answer = settle(1).chosen\n"
        "except RuntimeError as error: answer = str(error)\n"
        "print(json.dumps([answer, before == dict(os.environ)]))"
    )
    message = f"settle() must come before the import of {module}: too late for {unheard}"
    assert run(code) == [message, True]
    chosen, _ = run(code, **deaf_to)
    assert "HF_HUB_DISABLE_TELEMETRY" in chosen
    assert not chosen.keys() & deaf_to.keys()


def test_frameworks_obey_in_either_order(tmp_path):
    """JAX and torch both follow the variables, whichever is imported first."""
    answers = {}
    for threads, order in ((1, "jax, torch"), (3, "torch, jax")):
        answers[threads] = run(
            "from bridge.runtime import settle\n"
            f"first = settle({threads}, {str(tmp_path)!r})\n"
            f"import {order}\n"
            "from bridge.dlpack import to_jax, to_torch\n"
            "tasks = lambda: len(os.listdir('/proc/self/task'))\n"
            "before = tasks()\n"
            "array = jax.jit(lambda x: x @ x)(to_jax(torch.eye(300) * 2).array)\n"
            "total = to_torch(array).array.sum().item()\n"
            "again = settle(9, 'elsewhere')\n"
            "print(json.dumps([total, torch.get_num_threads(), tasks() - before,"
            " jax.config.jax_compilation_cache_dir, again.chosen == {},"
            " again.kept == first.chosen]))",
            JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
        )
    for total, _, _, cache, *settled in answers.values():
        assert total == 1200.0
        assert cache == str(tmp_path)
        assert settled == [True, True]
    # More than the cores there are, torch would not take; XLA does, so its pools show both numbers.
    assert answers[1][1] == 1
    # XLA starts its pools with its first computation: their size is seen in the difference.
    assert answers[3][2] - answers[1][2] >= 2
    assert any(tmp_path.iterdir())


TOUCH_TWICE = (
    "import resource, threading\n"
    "from bridge.runtime import settle\n"
    "settle()\n"
    "def touch(): b'x' * 2**27\n"
    "def elsewhere():\n"
    "    thread = threading.Thread(target=touch); thread.start(); thread.join()\n"
    "touch()\n"
    "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
    "touch(); elsewhere()\n"
    "print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before))"
)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc is settled")
def test_freed_memory_serves_again():
    """128 MiB that were freed are used again without new page faults, in any thread."""
    pages = 2**27 // resource.getpagesize()
    assert run(TOUCH_TWICE) < pages / 10
    # What the user decided stays: here every block of this size is a mapping of its own.
    assert run(TOUCH_TWICE, MALLOC_MMAP_THRESHOLD_="100000") > pages
