"""What holds for all tests: XLA compiles briefly, and nothing twice; signatures are checked.

Compiling is most of what JAX's tests take. All is set in the environment before anything imports
jax or torch; subprocesses inherit it.
"""

import gc
import os
import shutil
import tempfile
from pathlib import Path

import hypothesis
import pytest

from tests.browser import browser
from tests.checking import check_signatures, with_shapes
from tests.xla import QUICK

# A million objects that imports make live as long as the process: going through them again and
# again takes a quarter of the collection's time. Off until all is imported, see below.
gc.disable()

# pytest-xdist's workers inherit the folder of the process that started them: what one has compiled
# none compiles again.
_cache = None
if "PYTEST_XDIST_WORKER" not in os.environ:
    _cache = tempfile.TemporaryDirectory(prefix="prmkd-jax-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache.name

# At the tests' sizes PyTorch's threads wait for each other longer than they work.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}"
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

# Complete or not at all, files are waited for until the disk has them, which is much of the
# suite's time; here they go into memory, where it has the room. PyTest empties it as tests pass.
MEMORY = Path("/dev/shm")
if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 4 * 2**30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

# The same examples every time, however busy the machine is.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")

# Types and shapes of their signatures are checked while the tests run. Here and not as an option,
# since pytest-xdist's workers don't read `addopts` before the packages are imported.
CHECKED = ("prmkd_jax", "teachers_torch", "bridge")
if not os.environ.get("PRMKD_TESTS_UNCHECKED"):
    # Of the commands those modules that have arrays: all of them would take an eighth of the time.
    check_signatures([*CHECKED, *with_shapes("experiments")])


# Files that take longest, first to last; a folder stands for all of its files. The others take
# seconds, so that no process is left alone with one of these.
LONGEST = (
    "experiments/test_main.py",
    "students/test_all.py",
    "experiments/test_own.py",
    "experiments/runs",
    "train",
    "serve/test_artifact.py",
    "experiments/benchmarks",
    "test_docs.py",
    "serve",
    "students",
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """The longest files first; the tests of one stay in their order."""
    root = Path(__file__).parent
    places = {root / name: place for place, name in enumerate(LONGEST)}

    def place(item: pytest.Item) -> int:
        return min(places.get(path, len(places)) for path in (item.path, *item.path.parents))

    items.sort(key=place)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish():
    """From now on garbage is collected, but not looked for among what was imported."""
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)
    gc.enable()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """A browser without a window; tests that ask for it are skipped where none is installed."""
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def pytest_unconfigure():
    """Removes the compiled programs, once no process reads them any more."""
    if _cache is not None:
        _cache.cleanup()
