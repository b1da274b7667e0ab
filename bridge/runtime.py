"""Memory and threads of JAX and PyTorch, settled before either is imported.

Both read the environment, most of it once, when they start. So `settle` must be the first
thing a command does; it imports neither, and refuses to speak when it would not be heard.
What the user has set stays as it is.
"""

import ctypes
import dataclasses
import os
import sys
from pathlib import Path

from prmkd_jax.common.errors import UserError


@dataclasses.dataclass(frozen=True)
class RuntimeSettings:
    """What stands in the environment after `settle`.

    Attributes:
        chosen: variable → value that `settle` set.
        kept: variable → value that was there before and was left alone.
        keeps_memory: whether freed memory stays with the process.
    """

    chosen: dict[str, str]
    kept: dict[str, str]
    keeps_memory: bool

    def lines(self) -> list[str]:
        """One short line per setting, for the log."""
        chosen = [f"{name}={value}" for name, value in self.chosen.items()]
        kept = [f"{name}={value} (already set)" for name, value in self.kept.items()]
        return [*chosen, *kept, *["freed memory stays with the process"] * self.keeps_memory]


@dataclasses.dataclass(frozen=True)
class _Setting:
    variable: str
    value: str
    # The module that reads it once, at its import; "" if it is read later as well.
    reader: str
    # Other variables by which the user may have decided the same matter.
    unless: tuple[str, ...] = ()


def settle(
    threads: int | None = None, compilation_cache: str | os.PathLike[str] | None = None
) -> RuntimeSettings:
    """Sets what JAX and PyTorch read when they start: variables, and the C library's memory.

    - JAX takes GPU memory as it needs it, not three quarters of it at the start: PyTorch
      needs some too.
    - Each framework gets `threads` threads: they work in turns, so the cores need no dividing.
    - A thread of PyTorch's that waits for the others spins for a moment and then sleeps. Spinning
      on, as it would, takes the core that they wait for wherever something else runs; going to
      sleep at once costs a waking for each small operation (docs/scale.md has both).
    - Tokenizers stay single-threaded (theirs would come on top), the hub gets no telemetry, and
      XLA logs errors only.
    - Freed memory is kept (`keep_freed_memory`).

    Args:
        threads: threads of each framework; None for as many as this process has cores.
        compilation_cache: folder in which JAX keeps compiled programs between runs; None for
            no such folder.

    Returns:
        What was set and what was found set.

    Raises:
        UserError: `threads` is below one.
        RuntimeError: a module has been imported that would not see its variable.
    """
    if threads is None:
        threads = available_cores()
    if threads < 1:
        raise UserError(f"--threads: found {threads}, expected at least 1")
    chosen, kept = {}, {}
    for setting in _settings(threads, compilation_cache):
        name = setting.variable
        decided = next((v for v in (name, *setting.unless) if v in os.environ), None)
        if decided is not None:
            kept[decided] = os.environ[decided]
        else:
            chosen[name] = setting
    imported = {name for name, module in sys.modules.items() if module is not None}
    late = {s.reader for s in chosen.values()} & imported
    if late:
        unheard = ", ".join(name for name, setting in chosen.items() if setting.reader in late)
        raise RuntimeError(
            f"settle() must come before the import of {', '.join(sorted(late))}: too late for "
            f"{unheard}"
        )
    chosen = {name: setting.value for name, setting in chosen.items()}
    os.environ.update(chosen)
    return RuntimeSettings(chosen, kept, keep_freed_memory())


def keep_freed_memory() -> bool:
    """Has the C library keep freed memory for the next allocation instead of returning it.

    The temporaries of a step, tens of megabytes, would otherwise be mapped, faulted in page by
    page, zeroed and unmapped again in every step, a good part of its time on a CPU.
    All threads share one heap, so that what one has freed serves the others. The process stays
    as large as it ever was.

    Returns:
        Whether it does so from now on: only glibc takes the setting, and only where the user hasn't
        decided the matter by `MALLOC_…` or `GLIBC_TUNABLES`.
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    try:
        libc = ctypes.CDLL(None)
        _ = libc.gnu_get_libc_version  # musl has a mallopt too, of no effect
    except (AttributeError, OSError, TypeError):
        return False
    # Numbers from malloc.h; 1 is success. Two of the values mean "never": no block gets a mapping
    # of its own, and the heap's end is never given back.
    trim_threshold, mmap_max, arena_max = -1, -4, -8
    never = ((mmap_max, 0), (trim_threshold, -1))
    return all(libc.mallopt(*each) == 1 for each in (*never, (arena_max, 1)))


def available_cores() -> int:
    """Cores on which this process may run, at least 1: often fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS binds no process to cores


def _settings(threads: int, compilation_cache: str | os.PathLike[str] | None) -> list[_Setting]:
    # A user who gives JAX a share of the memory wants that share taken at the start.
    memory_share = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
    # Of several processes the end of another one is told in a line, not by JAX too.
    logged = "3" if os.environ.get("PRMKD_PROCESSES", "1") not in ("", "1") else "2"
    settings = [
        _Setting("XLA_PYTHON_CLIENT_PREALLOCATE", "false", "jax", unless=memory_share),
        # XLA's CPU client sizes its thread pool by the first of these two that is set.
        _Setting("PJRT_NPROC", str(threads), "jax", unless=("NPROC",)),
        _Setting("OMP_NUM_THREADS", str(threads), "torch"),
        # Without its own variable MKL takes OpenMP's.
        _Setting("MKL_NUM_THREADS", str(threads), "torch", unless=("OMP_NUM_THREADS",)),
        # GNU's OpenMP obeys the second of these two, others only know the first.
        _Setting("OMP_WAIT_POLICY", "PASSIVE", "torch", unless=("GOMP_SPINCOUNT", "KMP_BLOCKTIME")),
        _Setting("GOMP_SPINCOUNT", "20000", "torch", unless=("OMP_WAIT_POLICY", "KMP_BLOCKTIME")),
        _Setting("TF_CPP_MIN_LOG_LEVEL", logged, "jax"),
        _Setting("TOKENIZERS_PARALLELISM", "false", ""),
        _Setting("HF_HUB_DISABLE_TELEMETRY", "1", "huggingface_hub"),
    ]
    if compilation_cache is not None:
        folder = str(Path(compilation_cache).absolute())
        settings.append(_Setting("JAX_COMPILATION_CACHE_DIR", folder, "jax"))
    return settings
